//! What a fleet has seen: counters, latencies, and each offer and status with its time.

mod sample;

pub use sample::{Sample, Sampler};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use proto::opamp::RemoteConfigStatuses;
use proto::uid::Uid;
use serde::Serialize;
use tokio::time::Instant;

use crate::agent::Note;

/// Agents share this many latency histograms, so that they seldom wait for each other.
const SHARDS: usize = 16;
/// Latencies above this count as this.
const LATENCY_MAX_MICROS: u64 = 600_000_000;

/// A remote config that reached an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub agent: usize,
    /// The agent's uid when it came.
    pub uid: Uid,
    pub hash: Vec<u8>,
    /// Since the fleet's start.
    pub at: Duration,
}

/// A config status that an agent handed to its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub agent: usize,
    pub uid: Uid,
    pub hash: Vec<u8>,
    pub status: RemoteConfigStatuses,
    pub error: String,
    /// Since the fleet's start.
    pub at: Duration,
}

/// The numbers at one moment. All are totals since the start, except the gauges `connected`, `healthy` and `started`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    pub agents: usize,
    /// Whose process runs.
    pub started: u64,
    /// Whose last exchange succeeded.
    pub connected: u64,
    /// Answered messages.
    pub check_ins: u64,
    pub messages_sent: u64,
    pub bytes_sent: u64,
    pub offers: u64,
    pub statuses_applying: u64,
    pub statuses_applied: u64,
    pub statuses_failed: u64,
    pub full_state_requests: u64,
    pub components_requests: u64,
    pub restart_commands: u64,
    pub uids_adopted: u64,
    pub rollbacks: u64,
    pub collector_exits: u64,
    /// Connections refused or broken.
    pub network_errors: u64,
    /// 429 and 503; over WebSocket each refused upgrade.
    pub shed: u64,
    /// Messages lost to another status.
    pub discarded: u64,
    pub undecodable: u64,
    pub error_responses: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub $name: AtomicU64),* }

        impl Counters {
            fn fill(&self, snapshot: &mut Snapshot) { $(snapshot.$name = self.$name.load(Relaxed);)* }
        }
    };
}

counters!(
    check_ins,
    messages_sent,
    bytes_sent,
    offers,
    statuses_applying,
    statuses_applied,
    statuses_failed,
    full_state_requests,
    components_requests,
    restart_commands,
    uids_adopted,
    rollbacks,
    collector_exits,
    network_errors,
    shed,
    discarded,
    undecodable,
    error_responses,
);

/// Shared by all agents of a fleet.
#[derive(Debug)]
pub struct Record {
    epoch: Instant,
    pub(crate) counters: Counters,
    pub(crate) started: AtomicI64,
    pub(crate) connected: AtomicI64,
    shards: Vec<Mutex<Histogram<u64>>>,
    total: Mutex<Histogram<u64>>,
    offers: Mutex<Vec<Offer>>,
    reports: Mutex<Vec<Report>>,
}

// === impl Record ===

impl Record {
    pub(crate) fn new() -> Self {
        Record {
            epoch: Instant::now(),
            counters: Counters::default(),
            started: AtomicI64::new(0),
            connected: AtomicI64::new(0),
            shards: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(),
            total: Mutex::new(histogram()),
            offers: Mutex::default(),
            reports: Mutex::default(),
        }
    }

    /// Since the fleet's start; the `now` of its agents.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn answered(&self, agent: usize, latency: Duration) {
        self.counters.check_ins.fetch_add(1, Relaxed);
        held(&self.shards[agent % SHARDS]).saturating_record(latency.as_micros() as u64);
    }

    pub(crate) fn note(&self, agent: usize, uid: Uid, note: &Note) {
        let at = self.now();
        let add = |counter: &AtomicU64| {
            counter.fetch_add(1, Relaxed);
        };
        match note {
            Note::Offered { hash } => {
                add(&self.counters.offers);
                held(&self.offers).push(Offer {
                    agent,
                    uid,
                    hash: hash.clone(),
                    at,
                });
            }
            Note::StatusSent {
                hash,
                status,
                error,
            } => {
                self.count_status(*status);
                let (hash, status, error) = (hash.clone(), *status, error.clone());
                held(&self.reports).push(Report {
                    agent,
                    uid,
                    hash,
                    status,
                    error,
                    at,
                });
            }
            Note::FullStateAsked => add(&self.counters.full_state_requests),
            Note::ComponentsAsked => add(&self.counters.components_requests),
            Note::ErrorResponse(_) => add(&self.counters.error_responses),
            Note::Discarded { .. } => add(&self.counters.discarded),
            Note::UidAdopted(_) => add(&self.counters.uids_adopted),
            Note::CollectorRestarted => add(&self.counters.restart_commands),
            Note::CollectorExited(_) => add(&self.counters.collector_exits),
            Note::RolledBack { .. } => add(&self.counters.rollbacks),
            Note::RetryIn(_)
            | Note::SettingsTaken { .. }
            | Note::HeartbeatChanged(_)
            | Note::Ignored(_) => {}
        }
    }

    fn count_status(&self, status: RemoteConfigStatuses) {
        let counter = match status {
            RemoteConfigStatuses::Applying => &self.counters.statuses_applying,
            RemoteConfigStatuses::Applied => &self.counters.statuses_applied,
            RemoteConfigStatuses::Failed => &self.counters.statuses_failed,
            RemoteConfigStatuses::Unset => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Each offer, in the order of arrival.
    pub fn offers(&self) -> Vec<Offer> {
        held(&self.offers).clone()
    }

    /// Each status, in the order of sending; a status repeated in a full report counts again.
    pub fn reports(&self) -> Vec<Report> {
        held(&self.reports).clone()
    }

    /// Offers per config hash, in hexadecimal.
    pub fn offers_per_hash(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for offer in held(&self.offers).iter() {
            *counts.entry(hex::encode(&offer.hash)).or_default() += 1;
        }
        counts
    }

    /// What was offered more than once to one agent, with the times.
    pub fn repeated_offers(&self) -> Vec<(Uid, Vec<u8>, Vec<Duration>)> {
        let mut times: BTreeMap<(Uid, Vec<u8>), Vec<Duration>> = BTreeMap::new();
        for offer in held(&self.offers).iter() {
            times
                .entry((offer.uid, offer.hash.clone()))
                .or_default()
                .push(offer.at);
        }
        times
            .into_iter()
            .filter(|(_, at)| at.len() > 1)
            .map(|((uid, hash), at)| (uid, hash, at))
            .collect()
    }

    /// Moves the latencies since the last call into the total, and returns them.
    pub(crate) fn drain_latencies(&self) -> Histogram<u64> {
        let mut interval = histogram();
        for shard in &self.shards {
            let mut shard = held(shard);
            if interval.add(&*shard).is_ok() {
                shard.reset();
            }
        }
        let _ = held(&self.total).add(&interval);
        interval
    }

    pub(crate) fn snapshot(&self, agents: usize) -> Snapshot {
        let mut snapshot = Snapshot {
            agents,
            ..Snapshot::default()
        };
        self.counters.fill(&mut snapshot);
        snapshot.started = self.started.load(Relaxed).max(0) as u64;
        snapshot.connected = self.connected.load(Relaxed).max(0) as u64;
        let mut total = held(&self.total).clone();
        for shard in &self.shards {
            let _ = total.add(&*held(shard));
        }
        snapshot.p50_us = total.value_at_quantile(0.5);
        snapshot.p99_us = total.value_at_quantile(0.99);
        snapshot.max_us = total.max();
        snapshot
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_MICROS, 3).expect("the bounds and digits are legal")
}

/// Nothing panics while holding these locks, and a count is right after each step.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
