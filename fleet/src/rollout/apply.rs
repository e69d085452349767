//! Performs what a plan says, and what a person orders. Here the domain's own form is moved; the
//! controller does the same to the stored one.

use super::plan::{Plan, Step};
use super::{Clock, Observed, Rollout, State};
use crate::bucket::Counts;
use crate::program::{RollBack, Scope};

/// Cause of what a restore does to a rollout.
pub const RESTORED: &str = "restored from a backup";

/// A change of state: one audited entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// From.
    pub from: State,
    /// To.
    pub to: State,
    /// Why, for people.
    pub cause: String,
}

impl Rollout {
    /// Keeps what the plan says is to be kept and performs its steps; the changes of state, in order.
    pub fn apply(&mut self, plan: &Plan) -> Vec<Transition> {
        for role in &mut self.roles {
            if let Some(soaked) = plan.soaked_ms.get(&role.name) {
                role.soaked_ms = *soaked;
            }
            if let Some(clock) = plan.clocks.get(&role.name) {
                role.clock = *clock;
            }
            if let Some(forgiven) = plan.forgiven.get(&role.name) {
                role.forgiven.clone_from(forgiven);
            }
        }
        self.inconclusive_ms = plan.inconclusive_ms;
        plan.steps
            .iter()
            .filter_map(|step| self.perform(step))
            .collect()
    }

    fn perform(&mut self, step: &Step) -> Option<Transition> {
        match step {
            Step::OpenWave { role, wave } => {
                let role = self.roles.iter_mut().find(|r| r.name == *role)?;
                role.open_waves = wave + 1;
                role.soaked_ms = 0;
                role.clock = Clock {
                    outcomes: role.clock.outcomes,
                    ..Clock::default()
                };
                None
            }
            Step::FinishRole { role } => {
                self.roles.iter_mut().find(|r| r.name == *role)?.done = true;
                None
            }
            Step::Complete => self.set(
                State::Completed,
                "every member has converged or is a named exception",
            ),
            Step::Stop {
                role,
                wave,
                cause,
                roll_back,
            } => {
                let cause = format!("{role} wave {}: {cause}", wave + 1);
                match roll_back {
                    None => self.set(State::Halted, &cause),
                    Some(scope) => self.roll_back(scope.clone(), &cause),
                }
            }
            Step::Pause { why } => self.set(State::Paused, why),
            Step::OpenRollBack { role } => {
                let back = self.roll_back.as_mut()?;
                back.open_roles.push(role.clone());
                None
            }
            Step::FinishRollBack => {
                let open: u32 = self.roles.iter().map(|role| role.open_waves).sum();
                let everything = self
                    .roll_back
                    .as_ref()
                    .is_none_or(|back| back.scope == Scope::All || open <= 1);
                let next = match everything {
                    true => State::RolledBack,
                    false => State::Halted,
                };
                self.set(next, "what the rollback covers has gone back")
            }
        }
    }

    /// Gives members back what they had.
    pub fn roll_back(&mut self, scope: Scope, cause: &str) -> Option<Transition> {
        let transition = self.set(State::RollingBack, cause)?;
        self.roll_back = Some(RollBack {
            scope,
            open_roles: vec![],
        });
        Some(transition)
    }

    /// Goes on after a pause or a halt. The failures seen so far are accepted: they count neither way from now on. Of one
    /// that has begun: see [`State::resumed`].
    pub fn resume(&mut self, observed: &Observed, cause: &str) -> Option<Transition> {
        let transition = self.set(State::Running, cause)?;
        for role in &mut self.roles {
            let waves = observed.waves(&role.name).iter();
            role.forgiven = waves.map(Counts::failures).collect();
            role.soaked_ms = 0;
            role.clock = Clock::default();
        }
        self.inconclusive_ms = 0;
        self.roll_back = None;
        Some(transition)
    }

    /// Comes back from a backup: it stands still until a person has looked, since the fleet has gone on without it.
    pub fn restore(&mut self) -> Option<Transition> {
        self.set(self.state.restored()?, RESTORED)
    }

    /// Moves it, if its life cycle has that move.
    pub fn set(&mut self, to: State, cause: &str) -> Option<Transition> {
        let from = self.state;
        if !from.can_move_to(to) {
            return None;
        }
        self.state = to;
        Some(Transition {
            from,
            to,
            cause: cause.to_owned(),
        })
    }
}
