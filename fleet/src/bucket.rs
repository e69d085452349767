//! Where a member of a rollout stands. Every member is in exactly one bucket, so that the figures add up.

use crate::digest::Digest;
use crate::membership::Exclusion;
use crate::offer::{Failure, Reported, State, failure_of};
use crate::program::Epoch;

/// An agent that was healthy before its offer has so long to become healthy again before it counts as failed.
pub const UNHEALTHY_AFTER_MS: u64 = 30_000;

/// Buckets in the order in which people read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bucket {
    /// Its wave has not begun.
    Waiting,
    /// To be offered, or offered and not answered.
    PendingPickup,
    /// In work at the agent.
    Applying,
    /// Applied; not yet converged by all signs.
    Soaking,
    /// Runs it, by all signs.
    Converged,
    /// Its delivery does not change.
    Unchanged,
    /// Failed, by kind.
    Failed(Failure),
    /// Not healthy, as before its offer.
    WasUnhealthy,
    /// Silent before its offer.
    NotReached,
    /// Cannot say what it runs.
    Unverifiable,
    /// Disconnected in order.
    Left,
    /// Its record is gone.
    Deleted,
    /// Failed with this config before this rollout, and before those that it replaces: see [`Sighting::since`].
    Refused,
    /// Cannot be configured now, or belongs here no more: see [`crate::membership::Exclusion`].
    Excluded,
    /// Rolled back, and proven to be.
    Returned,
    /// Held at another revision by a pin.
    Pinned,
}

/// Every bucket. Stored counts are in this order: new ones go to the end.
pub const ALL: [Bucket; 22] = [
    Bucket::Waiting,
    Bucket::PendingPickup,
    Bucket::Applying,
    Bucket::Soaking,
    Bucket::Converged,
    Bucket::Unchanged,
    Bucket::Failed(Failure::Rejected),
    Bucket::Failed(Failure::Crashed),
    Bucket::Failed(Failure::RolledBackByAgent),
    Bucket::Failed(Failure::Unhealthy),
    Bucket::Failed(Failure::NoAnswer),
    Bucket::Failed(Failure::Vanished),
    Bucket::WasUnhealthy,
    Bucket::NotReached,
    Bucket::Unverifiable,
    Bucket::Left,
    Bucket::Deleted,
    Bucket::Refused,
    Bucket::Excluded,
    Bucket::Returned,
    Bucket::Pinned,
    Bucket::Failed(Failure::FlowLost),
];

/// Is the agent there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Heard of within its time.
    Connected,
    /// Silent for longer.
    Lost,
    /// Said goodbye.
    Left,
    /// No record.
    Deleted,
}

/// A member as seen now.
#[derive(Clone, Debug)]
pub struct Sighting<'a> {
    /// Is it there?
    pub presence: Presence,
    /// Its delivery did not change when the list was made.
    pub unchanged: bool,
    /// Its wave is open, or a rollback has reached it.
    pub open: bool,
    /// It was offered this rollout's revision.
    pub touched: bool,
    /// A rollback covers it.
    pub covered: bool,
    /// The rollback has reached it: its goal is what it had before.
    pub taken_back: bool,
    /// It was heard within two intervals.
    pub fresh: bool,
    /// Why it cannot be configured now, or no longer belongs here.
    pub excluded: Option<Exclusion>,
    /// A pin holds it at another revision.
    pub pinned: bool,
    /// From this program on a failure counts: by it the rollout was opened, or the first of those that it replaces
    /// without a gap. What failed before is a refusal, which a person knows of.
    pub since: Epoch,
    /// It refuses the goal: which program was in force when it failed, and how it failed.
    pub refused: Option<(Epoch, Failure)>,
    /// It reports config statuses.
    pub reports_status: bool,
    /// What the rollout brings it.
    pub target: Option<Digest>,
    /// What it should run now. While its rollout stands still that is what it has, which is no way to converge.
    pub goal: Option<Digest>,
    /// Last authorised offer: hash, where it stands, the error.
    pub offer: Option<(Digest, State, &'a str)>,
    /// The program that it was made by.
    pub offered_by: Epoch,
    /// Last reported hash and status.
    pub reported: Option<(Digest, Reported)>,
    /// Healthy now; agents that do not report health count as healthy.
    pub healthy: bool,
    /// For how long it has been what `healthy` says.
    pub health_age_ms: u64,
    /// Healthy when the offer was made.
    pub was_healthy: bool,
    /// The effective config contradicts what was sent.
    pub contradicts: bool,
    /// The effective config proves what was sent.
    pub proves: bool,
    /// Its own telemetry left before the offer and leaves no more. False where nobody looks.
    pub flow_lost: bool,
}

/// The one bucket this member is in.
pub fn bucket(s: &Sighting<'_>) -> Bucket {
    if s.presence == Presence::Deleted {
        return Bucket::Deleted;
    }
    let at_goal = s.goal.is_some() && s.offer.map(|(hash, ..)| hash) == s.goal;
    if s.taken_back && s.touched {
        return match progress(s, at_goal) {
            Bucket::Converged if !s.pinned => Bucket::Returned,
            Bucket::PendingPickup if s.excluded.is_some() => Bucket::Excluded,
            Bucket::PendingPickup | Bucket::Converged if s.pinned => Bucket::Pinned,
            Bucket::PendingPickup if s.refused.is_some() => Bucket::Refused,
            other => other,
        };
    }
    if s.unchanged {
        return Bucket::Unchanged;
    }
    if !s.touched && s.covered {
        return Bucket::Waiting;
    }
    if s.pinned {
        return Bucket::Pinned;
    }
    if s.excluded.is_some() {
        return Bucket::Excluded;
    }
    if !s.open && !s.touched {
        return Bucket::Waiting;
    }
    if let Some((by, failure)) = s.refused.filter(|_| !at_goal) {
        return match by < s.since {
            true => Bucket::Refused,
            false => Bucket::Failed(failure),
        };
    }
    progress(s, at_goal && s.goal == s.target)
}

/// The bucket if it was heard lately, and the one if not, whatever `fresh` says: being there is evidence for nothing else
/// than having converged.
pub fn buckets(s: &Sighting<'_>) -> (Bucket, Bucket) {
    let heard = |fresh| bucket(&Sighting { fresh, ..s.clone() });
    let fresh = heard(true);
    let stale = match fresh {
        Bucket::Converged | Bucket::Returned | Bucket::Pinned => heard(false),
        same => same,
    };
    (fresh, stale)
}

fn progress(s: &Sighting<'_>, at_goal: bool) -> Bucket {
    let Some((_, state, error)) = s.offer.filter(|_| at_goal) else {
        return match s.presence {
            Presence::Connected => Bucket::PendingPickup,
            Presence::Left => Bucket::Left,
            Presence::Lost | Presence::Deleted => Bucket::NotReached,
        };
    };
    let failed = matches!(
        state,
        State::Failed | State::RolledBackByAgent | State::NoAnswer
    );
    let failed_by = s.refused.map_or(s.offered_by, |(by, _)| by);
    if failed && !s.touched && failed_by < s.since {
        return Bucket::Refused;
    }
    match (s.presence, state) {
        (_, State::Failed) => Bucket::Failed(failure_of(error)),
        (_, State::RolledBackByAgent) => Bucket::Failed(Failure::RolledBackByAgent),
        (Presence::Left, _) => Bucket::Left,
        // It was taken back unsent, or a person has had it tried again: nothing stands that could be why it is silent.
        (Presence::Lost, State::Withdrawn) => Bucket::NotReached,
        (Presence::Lost, _) => Bucket::Failed(Failure::Vanished),
        (_, State::NoAnswer | State::Offered) if !s.reports_status => unverified(s),
        (_, State::NoAnswer) => Bucket::Failed(Failure::NoAnswer),
        (_, State::Offered | State::Withdrawn) => Bucket::PendingPickup,
        (_, State::Applying) => Bucket::Applying,
        (_, State::Applied) => applied(s),
    }
}

/// APPLIED is a timer at the agent, not proof: health and the effective config have to agree.
fn applied(s: &Sighting<'_>) -> Bucket {
    if !s.healthy {
        return match (s.was_healthy, s.health_age_ms >= UNHEALTHY_AFTER_MS) {
            (_, false) => Bucket::Soaking,
            (true, true) => Bucket::Failed(Failure::Unhealthy),
            (false, true) => Bucket::WasUnhealthy,
        };
    }
    if s.flow_lost {
        return Bucket::Failed(Failure::FlowLost);
    }
    let names_it =
        s.reported.map(|(hash, status)| (Some(hash), status)) == Some((s.goal, Reported::Applied));
    if names_it && s.fresh && !s.contradicts {
        Bucket::Converged
    } else {
        Bucket::Soaking
    }
}

/// An agent without config statuses converges by its effective config, if it was heard lately as anybody, or is counted
/// apart.
fn unverified(s: &Sighting<'_>) -> Bucket {
    match (s.proves, s.healthy && s.fresh) {
        (true, true) => Bucket::Converged,
        (true, false) => applied(s),
        (false, _) => Bucket::Unverifiable,
    }
}

/// Members by bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; ALL.len()]);

// === impl Bucket ===

impl Bucket {
    /// What a member in it is called everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Waiting => "waiting",
            Bucket::PendingPickup => "pending pickup",
            Bucket::Applying => "applying",
            Bucket::Soaking => "soaking",
            Bucket::Converged => "converged",
            Bucket::Unchanged => "unchanged",
            Bucket::Failed(failure) => failure.name(),
            Bucket::WasUnhealthy => "was unhealthy",
            Bucket::NotReached => "not reached",
            Bucket::Unverifiable => "unverifiable",
            Bucket::Left => "left",
            Bucket::Deleted => "deleted",
            Bucket::Refused => "refused",
            Bucket::Excluded => "excluded",
            Bucket::Returned => "returned",
            Bucket::Pinned => "pinned",
        }
    }

    /// Does a rollout complete without such a member? *Was unhealthy* and *unverifiable* are counted apart like *not
    /// reached*: who was broken before, or cannot say what it runs, would otherwise keep every rollout open for ever.
    pub fn is_named_exception(self) -> bool {
        matches!(
            self,
            Bucket::WasUnhealthy
                | Bucket::NotReached
                | Bucket::Unverifiable
                | Bucket::Left
                | Bucket::Deleted
                | Bucket::Refused
                | Bucket::Excluded
                | Bucket::Pinned
        )
    }
}

// === impl Counts ===

impl Counts {
    /// From members by bucket, in the order of [`ALL`]; what is missing is 0.
    pub fn from_members(members: &[u64]) -> Self {
        let mut counts = Counts::default();
        for (mine, theirs) in counts.0.iter_mut().zip(members) {
            *mine = *theirs;
        }
        counts
    }

    /// Members by bucket, in the order of [`ALL`].
    pub fn by_bucket(&self) -> &[u64] {
        &self.0
    }

    /// One more member in this bucket.
    pub fn add(&mut self, bucket: Bucket) {
        self.0[index(bucket)] += 1;
    }

    /// Members in this bucket.
    pub fn of(&self, bucket: Bucket) -> u64 {
        self.0[index(bucket)]
    }

    /// All members.
    pub fn members(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another partition's counts.
    pub fn merge(&mut self, other: &Counts) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Members for whom there is nothing more to wait for. Not those that may still come to take the config, since they
    /// return, are let go by a pin, or may be configured again.
    pub fn outcomes(&self) -> u64 {
        let open = [
            Bucket::Waiting,
            Bucket::PendingPickup,
            Bucket::Applying,
            Bucket::Soaking,
            Bucket::NotReached,
            Bucket::Unverifiable,
            Bucket::Excluded,
            Bucket::Pinned,
        ];
        self.members() - open.iter().map(|bucket| self.of(*bucket)).sum::<u64>()
    }

    /// Failed members of any kind.
    pub fn failures(&self) -> u64 {
        ALL.iter()
            .filter(|bucket| matches!(bucket, Bucket::Failed(_)))
            .map(|bucket| self.of(*bucket))
            .sum()
    }

    /// The failure kind with most members; ties go to the one named first.
    pub fn main_failure(&self) -> Option<Failure> {
        let failed = ALL.iter().filter_map(|bucket| match bucket {
            Bucket::Failed(failure) if self.of(*bucket) > 0 => Some((self.of(*bucket), *failure)),
            _ => None,
        });
        failed
            .max_by_key(|(count, failure)| (*count, std::cmp::Reverse(*failure)))
            .map(|(_, failure)| failure)
    }

    /// Members whose outcome counts for the gate: not in a named exception.
    pub fn reachable(&self) -> u64 {
        let exceptions = [
            Bucket::Unchanged,
            Bucket::WasUnhealthy,
            Bucket::NotReached,
            Bucket::Unverifiable,
            Bucket::Left,
            Bucket::Deleted,
            Bucket::Refused,
            Bucket::Excluded,
            Bucket::Returned,
            Bucket::Pinned,
        ];
        self.members()
            - exceptions
                .iter()
                .map(|bucket| self.of(*bucket))
                .sum::<u64>()
    }
}

/// Its place in [`ALL`]. Written out: it is asked for a million members at a time.
fn index(bucket: Bucket) -> usize {
    match bucket {
        Bucket::Waiting => 0,
        Bucket::PendingPickup => 1,
        Bucket::Applying => 2,
        Bucket::Soaking => 3,
        Bucket::Converged => 4,
        Bucket::Unchanged => 5,
        Bucket::Failed(Failure::Rejected) => 6,
        Bucket::Failed(Failure::Crashed) => 7,
        Bucket::Failed(Failure::RolledBackByAgent) => 8,
        Bucket::Failed(Failure::Unhealthy) => 9,
        Bucket::Failed(Failure::NoAnswer) => 10,
        Bucket::Failed(Failure::Vanished) => 11,
        Bucket::WasUnhealthy => 12,
        Bucket::NotReached => 13,
        Bucket::Unverifiable => 14,
        Bucket::Left => 15,
        Bucket::Deleted => 16,
        Bucket::Refused => 17,
        Bucket::Excluded => 18,
        Bucket::Returned => 19,
        Bucket::Pinned => 20,
        Bucket::Failed(Failure::FlowLost) => 21,
    }
}

#[cfg(test)]
mod tests;
