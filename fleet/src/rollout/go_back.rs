//! The way back: exactly the members that were offered the revision, roles against their order.

use std::fmt;

use super::plan::{Plan, Step};
use super::{Observed, Role, Rollout, Waiting};
use crate::bucket::{Bucket, Counts};
use crate::program::Scope;

/// How far a rollback is: its own status, beside the rollout's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Return {
    /// Proven to run what they had.
    pub returned: u64,
    /// Not yet.
    pub on_their_way: u64,
    /// Failed with the new revision or on the way back: a person has to look.
    pub failed: u64,
    /// Named exceptions: not reached, left, deleted and the like.
    pub exceptions: u64,
    /// Never offered the revision: a rollback does not touch them.
    pub untouched: u64,
}

/// A role goes back when every role after it is back.
pub(super) fn go_back(rollout: &Rollout, observed: &Observed) -> Plan {
    let mut plan = Plan {
        inconclusive_ms: rollout.inconclusive_ms,
        ..Plan::default()
    };
    let Some(back) = &rollout.roll_back else {
        return plan;
    };
    if !observed.is_fresh() {
        plan.waiting.push(Waiting::Evidence {
            why: "a partition cannot be read".to_owned(),
        });
        return plan;
    }
    let left = |role: &Role| Return::of_role(role, &back.scope, observed).on_their_way;
    for role in rollout.in_order().into_iter().rev() {
        let members = left(role);
        if back.open_roles.contains(&role.name) {
            if members > 0 {
                plan.waiting.push(Waiting::Returning {
                    role: role.name.clone(),
                    members,
                });
            }
            continue;
        }
        let later = rollout.roles.iter().find(|other| {
            let after = rollout.before(other);
            after.iter().any(|before| before.name == role.name) && left(other) > 0
        });
        match later {
            Some(other) => plan.waiting.push(Waiting::Role {
                role: role.name.clone(),
                after: other.name.clone(),
            }),
            None => plan.steps.push(Step::OpenRollBack {
                role: role.name.clone(),
            }),
        }
    }
    if plan.steps.is_empty() && rollout.roles.iter().all(|role| left(role) == 0) {
        plan.steps.push(Step::FinishRollBack);
    }
    plan
}

// === impl Return ===

impl Return {
    /// Of everything that the rollback covers; zeros when there is none.
    pub fn of(rollout: &Rollout, observed: &Observed) -> Self {
        let mut all = Return::default();
        let Some(back) = &rollout.roll_back else {
            return all;
        };
        for role in &rollout.roles {
            all.add(Return::of_role(role, &back.scope, observed));
        }
        all
    }

    fn of_role(role: &Role, scope: &Scope, observed: &Observed) -> Self {
        let mut all = Return::default();
        let waves = observed.waves(&role.name).iter().enumerate();
        for (_, counts) in waves.filter(|(wave, _)| scope.has(&role.name, *wave)) {
            all.add(Return::of_wave(counts));
        }
        all
    }

    fn of_wave(counts: &Counts) -> Self {
        let on_their_way = [
            Bucket::PendingPickup,
            Bucket::Applying,
            Bucket::Soaking,
            Bucket::Converged,
        ];
        let on_their_way = on_their_way.iter().map(|bucket| counts.of(*bucket)).sum();
        let (returned, failed) = (counts.of(Bucket::Returned), counts.failures());
        let untouched = counts.of(Bucket::Waiting) + counts.of(Bucket::Unchanged);
        Return {
            returned,
            on_their_way,
            failed,
            exceptions: counts.members() - returned - on_their_way - failed - untouched,
            untouched,
        }
    }

    fn add(&mut self, other: Return) {
        self.returned += other.returned;
        self.on_their_way += other.on_their_way;
        self.failed += other.failed;
        self.exceptions += other.exceptions;
        self.untouched += other.untouched;
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} returned, {} on their way, {} failed, {} in named exceptions, {} never touched",
            self.returned, self.on_their_way, self.failed, self.exceptions, self.untouched
        )
    }
}

// === impl Scope ===

impl Scope {
    /// Is this wave of this role part of it?
    pub fn has(&self, role: &str, wave: usize) -> bool {
        match self {
            Scope::All => true,
            Scope::Wave { role: r, wave: w } => r == role && *w as usize == wave,
        }
    }
}
