//! A rollout: its life cycle, its plan, its gates, and `plan(rollout, observed, elapsed) → Plan`, which says what
//! follows.
//!
//! Pure: the controller observes, calls [`plan`], proposes what it says, and performs it with [`Rollout::apply`]. A step
//! that cannot go on says what it waits for. Nothing passes without fresh evidence.
//!
//! A *wave* passes when enough of its members have converged. The *rollout* is complete only when every member has
//! converged, is unchanged, or is in a named exception: see [`Outstanding`].

mod advance;
mod apply;
mod checks;
mod complete;
mod gate;
mod go_back;
mod in_step;
mod plan;
mod schedule;
mod spec;
mod state;
mod waiting;

use std::collections::BTreeMap;

use crate::bucket::{Bucket, Counts};
use crate::program::RollBack;

pub use apply::Transition;
pub use checks::{Answer, Check, CheckSpec, Finding, RESTART_LOOP, Signs, is_restart_loop};
pub use complete::Outstanding;
pub use gate::{Cause, Gate, Inconclusive, Verdict, WaveView};
pub use go_back::Return;
pub use in_step::OutOfStep;
pub use plan::{Plan, Step, plan};
pub use schedule::{Schedule, Turn, schedule};
pub use spec::{Error, OnStop, PlanSpec, WaveSpec, default_plan, rollback_plan, urgent_plan};
pub use state::State;
pub use waiting::Waiting;

/// After so long without a decision a gate pauses its rollout.
///
/// What counts: evidence that is missing, old or contradictory; a check without an answer, whoever is asked; a wave with
/// nobody to judge it by; too many unreachable members; failed members that keep a rollout from being complete. What does
/// not count: a soak, a freeze, a role that waits for another, and members on their way while outcomes keep coming, since
/// then work is going on. Members on their way begin to count when there was no new outcome for longer than an offer may
/// take, since by then every open offer has had its time. Unreachable members for whom the wave has a time of its own
/// ([`WaveSpec::unreachable_ms`]) begin to count when that is over.
pub const INCONCLUSIVE_MS_MAX: u64 = 15 * 60_000;

/// Evidence older than this decides nothing. The controller looks every half second, so that ten looks may fail.
pub const EVIDENCE_AGE_MS_MAX: u64 = 5_000;

/// What a rollout has become so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Where it is.
    pub state: State,
    /// Forward to a new revision, or back to an earlier one.
    pub direction: Direction,
    /// Waves and what follows a stop.
    pub plan: PlanSpec,
    /// In `after` order.
    pub roles: Vec<Role>,
    /// What goes back, once that was decided.
    pub roll_back: Option<RollBack>,
    /// Milliseconds for which the gate could not decide.
    pub inconclusive_ms: u64,
}

/// Which way a rollout's roles go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// To a newer revision: roles in `after` order.
    #[default]
    Forward,
    /// To an earlier revision: against that order, and allowed during a freeze.
    Back,
}

/// One role's way through the waves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Name.
    pub name: String,
    /// Roles that have to be done first.
    pub after: Vec<String>,
    /// Where each wave ends; empty when the role has no members.
    pub wave_ends: Vec<u64>,
    /// Which wave of the plan each of them is, since a small role skips some. Shorter than `wave_ends`: by position.
    pub wave_specs: Vec<u32>,
    /// Waves that are open; 0 = not begun.
    pub open_waves: u32,
    /// Waves that open at once when it begins, since a rollout that this one continues had reached their members. They
    /// are judged together; 0 = none.
    pub continue_at: u32,
    /// How long the newest open wave has met its gate.
    pub soaked_ms: u64,
    /// What else is counted while a wave is open.
    pub clock: Clock,
    /// Its last wave has passed.
    pub done: bool,
    /// By wave: failures that a person has seen and resumed in spite of. They count neither way. No more than there are:
    /// who fails after one of them has recovered was not seen.
    pub forgiven: Vec<u64>,
}

/// Elapsed time of a role's newest open wave, by the controller's monotonic clock. A restart may lose some of it, which
/// only makes deadlines later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Since the wave began.
    pub open_ms: u64,
    /// Since the number of outcomes last changed.
    pub quiet_ms: u64,
    /// Members of the role that have an outcome.
    pub outcomes: u64,
}

/// What was seen of the members: by role, by wave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Counts of each wave of each role.
    pub roles: BTreeMap<String, Vec<Counts>>,
    /// Signs of each wave of each role; what is missing was not looked at.
    pub signs: BTreeMap<String, Vec<Signs>>,
    /// What checks outside of the fleet's own state have found, by role and wave.
    pub findings: BTreeMap<(String, u32), Vec<Finding>>,
    /// Age of the oldest partition's evidence; none: a partition could not be read.
    pub evidence_age_ms: Option<u64>,
    /// After so long an unanswered offer is *no answer*.
    pub offer_timeout_ms: u64,
    /// A freeze that holds now: see [`crate::governance::freeze`]. Already judged: none for who may pass it.
    pub freeze: Option<String>,
}

// === impl Rollout ===

impl Rollout {
    /// The spec of a wave; the implicit last one takes what the plan's last says.
    pub fn wave(&self, role: &Role, wave: u32) -> WaveSpec {
        let is_last = wave as usize + 1 >= role.wave_ends.len();
        let at = match role.wave_specs.get(wave as usize) {
            Some(at) => *at as usize,
            None if is_last => usize::MAX,
            None => wave as usize,
        };
        let spec = self.plan.waves.get(at).or(self.plan.waves.last());
        spec.cloned().unwrap_or_default()
    }

    /// The answer of a wave's gate, as [`plan`] takes it.
    pub fn judge(&self, role: &Role, wave: u32, observed: &Observed) -> Verdict {
        self.wave(role, wave).judge(&observed.view(role, wave))
    }

    /// Each check of a wave's gate with its answer, for people.
    pub fn answers(&self, role: &Role, wave: u32, observed: &Observed) -> Vec<(CheckSpec, Answer)> {
        let gate = self.wave(role, wave).gate;
        gate.answers(&observed.view(role, wave))
    }

    /// Its roles in the order in which they go.
    pub fn in_order(&self) -> Vec<&Role> {
        match self.direction {
            Direction::Forward => self.roles.iter().collect(),
            Direction::Back => self.roles.iter().rev().collect(),
        }
    }

    /// Roles that go before this one.
    pub fn before(&self, role: &Role) -> Vec<&Role> {
        let goes_before = |other: &&Role| match self.direction {
            Direction::Forward => role.after.contains(&other.name),
            Direction::Back => other.after.contains(&role.name),
        };
        self.roles.iter().filter(goes_before).collect()
    }

    /// By role, the failures that stay forgiven where some of them are failures no more.
    fn still_forgiven(&self, observed: &Observed) -> BTreeMap<String, Vec<u64>> {
        let fewer = self.roles.iter().map(|role| {
            let failures = observed.waves(&role.name).iter().map(Counts::failures);
            let failures = failures.chain(std::iter::repeat(0));
            let still = role.forgiven.iter().zip(failures);
            let still: Vec<u64> = still.map(|(seen, now)| now.min(*seen)).collect();
            (role, still)
        });
        let fewer = fewer.filter(|(role, still)| role.forgiven != *still);
        fewer
            .map(|(role, still)| (role.name.clone(), still))
            .collect()
    }

    /// Has the last wave of every role passed? From then on late joiners get the target.
    pub fn has_passed(&self) -> bool {
        self.roles.iter().all(|role| role.done)
    }
}

// === impl Role ===

impl Role {
    /// Failures of this wave that a person has forgiven.
    pub fn forgiven(&self, wave: u32) -> u64 {
        self.forgiven.get(wave as usize).copied().unwrap_or(0)
    }

    /// Waves whose gates decide now: the newest open one; all that are open while it continues another rollout.
    pub fn judged(&self) -> std::ops::Range<u32> {
        let end = if self.done { 0 } else { self.open_waves };
        match end == self.continue_at {
            true => 0..end,
            false => end.saturating_sub(1)..end,
        }
    }

    /// Agents of this wave.
    pub fn wave_size(&self, wave: u32) -> u64 {
        let end = |wave: u32| self.wave_ends.get(wave as usize).copied().unwrap_or(0);
        end(wave).saturating_sub(wave.checked_sub(1).map_or(0, end))
    }
}

// === impl Observed ===

impl Observed {
    /// Is what is known of the members young enough to decide by?
    pub fn is_fresh(&self) -> bool {
        self.evidence_age_ms
            .is_some_and(|age| age <= EVIDENCE_AGE_MS_MAX)
    }

    /// Counts of a role's waves; empty when there are none.
    pub fn waves(&self, role: &str) -> &[Counts] {
        self.roles.get(role).map_or(&[], Vec::as_slice)
    }

    fn view(&self, role: &Role, wave: u32) -> WaveView<'_> {
        let at = wave as usize;
        let mut before = self.waves(&role.name).iter().take(at);
        let converged_before = before.any(|counts| counts.of(Bucket::Converged) > 0);
        WaveView {
            counts: self.waves(&role.name).get(at).copied().unwrap_or_default(),
            signs: self
                .signs
                .get(&role.name)
                .and_then(|signs| signs.get(at))
                .copied(),
            findings: self
                .findings
                .get(&(role.name.clone(), wave))
                .map_or(&[], Vec::as_slice),
            first: wave == 0,
            proven: at + 1 == role.wave_ends.len() && converged_before,
            forgiven: role.forgiven(wave),
            evidence_age_ms: self.evidence_age_ms,
            open_ms: role.clock.open_ms,
        }
    }
}

#[cfg(test)]
mod tests;
