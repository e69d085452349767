//! Complete, exactly: every member has converged, is unchanged, or is in a named exception.
//!
//! 99 % let a wave pass; they do not complete a rollout. What is left when the last wave has passed still has to
//! converge. Who has failed is no exception: a person retries it, accepts it (by resuming), or rolls back.

use super::{Observed, Rollout};
use crate::bucket::{Bucket, Counts};

/// Members that keep a rollout from being complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Waiting, not picked up, applying, soaking, or given back what they had.
    pub in_flight: u64,
    /// Failed, beyond those that a person has accepted.
    pub failed: u64,
}

impl Outstanding {
    /// Over all roles and waves. Says nothing about the evidence's age.
    pub fn of(rollout: &Rollout, observed: &Observed) -> Self {
        let mut all = Outstanding::default();
        for role in &rollout.roles {
            for (wave, counts) in observed.waves(&role.name).iter().enumerate() {
                let forgiven = role.forgiven(u32::try_from(wave).unwrap_or(u32::MAX));
                all.in_flight += in_flight(counts);
                all.failed += counts.failures().saturating_sub(forgiven);
            }
        }
        all
    }

    /// Nothing is left.
    pub fn is_none(&self) -> bool {
        *self == Outstanding::default()
    }
}

fn in_flight(counts: &Counts) -> u64 {
    let on_their_way = [
        Bucket::Waiting,
        Bucket::PendingPickup,
        Bucket::Applying,
        Bucket::Soaking,
        Bucket::Returned,
    ];
    on_their_way.iter().map(|bucket| counts.of(*bucket)).sum()
}
