//! An agent as it is, and as its record has it.

use std::collections::BTreeMap;

use fleet::digest::Digest;
use fleet::offer::{Failure, Offer, Reported, State};

use super::{Id, Owner};

/// Time between two polls.
pub const POLL_MS: u64 = 5_000;
/// Silent for so long: lost.
const LOST_MS: u64 = 15_000;
/// From the offer to APPLIED.
const APPLY_MS: u64 = 6_000;

/// How an agent takes a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reaction {
    #[default]
    Apply,
    /// FAILED at once.
    Reject,
    /// FAILED, since the process died.
    Crash,
    /// Applies it, and becomes unhealthy.
    Sicken,
    /// Says nothing about it.
    Ignore,
    /// FAILED, then APPLIED with what it had.
    FallBack,
    /// Applies it and restarts again and again.
    Loop,
    /// Applies it, and its telemetry leaves no more.
    Dry,
}

/// Last authorised offer.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub hash: Digest,
    pub rollout: String,
    /// Program that it was offered by.
    pub epoch: u64,
    pub state: State,
    pub grants: u32,
    pub offered_ms: u64,
    pub was_healthy: bool,
    pub error: String,
    pub restarts: u32,
    /// It needed room; true: of an urgent rollout.
    pub limited: Option<bool>,
}

#[derive(Clone, Debug, Default)]
pub struct Agent {
    // What is true of it.
    pub labels: BTreeMap<String, String>,
    pub asleep: bool,
    pub left: bool,
    pub deleted: bool,
    pub running: Option<Digest>,
    pub healthy: bool,
    status: Option<(Digest, Reported, String)>,
    work: Option<(Digest, Reaction, u64)>,
    told: Option<(Digest, Reported, String)>,
    // What is recorded of it.
    pub owner: Option<Owner>,
    /// Whom a person has resolved it to.
    pub granted: Option<Owner>,
    /// Program when a person last said whose it is.
    pub resolved: Option<u64>,
    pub owned_since: Option<u64>,
    pub delivery: Option<Delivery>,
    pub reported: Option<(Digest, Reported)>,
    pub told_healthy: bool,
    pub health_since_ms: u64,
    pub seen_ms: u64,
    pub refused: Vec<Digest>,
    /// By refused hash: program by which it failed, and how.
    pub refusals: BTreeMap<Digest, (u64, Failure)>,
    pub duplicate: bool,
    pub stopped: bool,
    pub flow_lost: bool,
}

impl Agent {
    pub fn new(labels: BTreeMap<String, String>, now_ms: u64) -> Self {
        Agent {
            labels,
            healthy: true,
            told_healthy: true,
            seen_ms: now_ms,
            ..Agent::default()
        }
    }

    /// Gets an offer.
    pub fn receive(&mut self, hash: Digest, reaction: Reaction, now_ms: u64) {
        let applying = |hash| Some((hash, Reported::Applying, String::new()));
        match reaction {
            Reaction::Ignore => return,
            Reaction::Reject => {
                let error = "unknown key: exporters.otlp.endpiont".to_owned();
                self.status = Some((hash, Reported::Failed, error));
                return;
            }
            _ => self.status = applying(hash),
        }
        self.work = Some((hash, reaction, now_ms));
    }

    /// Its supervisor works on what it got.
    pub fn work(&mut self, now_ms: u64) {
        let Some((hash, reaction, since)) = self.work else {
            return;
        };
        let applied = Some((hash, Reported::Applied, String::new()));
        let failed = |error: &str| Some((hash, Reported::Failed, error.to_owned()));
        match (reaction, now_ms - since) {
            (_, age) if age < APPLY_MS => return,
            (Reaction::Crash, _) => {
                self.status = failed("process exited unexpectedly, exit code=1");
                self.healthy = false;
            }
            (Reaction::FallBack, age) if age < 2 * APPLY_MS => {
                self.status = failed("unhealthy after apply");
                return;
            }
            (Reaction::FallBack, _) => {
                self.status = self
                    .running
                    .map(|old| (old, Reported::Applied, String::new()));
            }
            _ => {
                self.status = applied;
                self.running = Some(hash);
                self.healthy = reaction != Reaction::Sicken;
                self.flow_lost = reaction == Reaction::Dry;
                if let Some(delivery) = &mut self.delivery
                    && delivery.hash == hash
                    && reaction == Reaction::Loop
                {
                    delivery.restarts = 9;
                }
            }
        }
        self.work = None;
    }

    pub fn checks_in(&self, id: Id, now_ms: u64) -> bool {
        let there = !(self.asleep || self.left || self.deleted);
        there && (now_ms + u64::from(id) * 1_000).is_multiple_of(POLL_MS)
    }

    /// Says what is new: the last reported hash and status, if it changed.
    pub fn report(&mut self, now_ms: u64) -> Option<(Digest, Reported, String)> {
        self.seen_ms = now_ms;
        if self.told_healthy != self.healthy {
            self.told_healthy = self.healthy;
            self.health_since_ms = now_ms;
        }
        if self.told == self.status {
            return None;
        }
        self.told.clone_from(&self.status);
        let (hash, reported, error) = self.status.clone()?;
        self.reported = Some((hash, reported));
        Some((hash, reported, error))
    }

    pub fn is_lost(&self, now_ms: u64) -> bool {
        now_ms - self.seen_ms > LOST_MS
    }

    pub fn is_in_flight(&self) -> bool {
        let open = [State::Offered, State::Applying];
        self.delivery
            .as_ref()
            .is_some_and(|d| open.contains(&d.state))
    }
}

impl Delivery {
    pub fn offer(&self, now_ms: u64) -> Offer {
        Offer {
            hash: self.hash,
            state: self.state,
            grants: self.grants,
            age_ms: now_ms - self.offered_ms,
        }
    }
}
