//! A partition leader: it keeps the agents of one inventory group, answers their reports, and knows who is there.
//!
//! The decisions are those of [`state::partition`]; this file performs them: turns, proposals, leases, notices.

mod changes;
mod components;
mod lead;
mod liveness;
mod members;
mod occupancy;
mod reports;
mod upkeep;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fleet::program::Program;
use proto::edge::{Notice, notice};
use proto::uid::Uid;
use state::partition::counting::{Counting, Waiting};
use state::partition::presence::{Core, Timing};
use state::partition::stand::verdicts::Verdicts;
use tokio::sync::broadcast;

pub use changes::Decided;
pub use liveness::Sign;
pub use members::{Candidate, MemberView};
pub use occupancy::{Count, Counted, Occupancy, Older, Room};
pub use state::inventory::state_word;
pub use state::partition::timing::{GRANT_LIFE, LEASE, LEASE_OVER};
pub use state::partition::{
    SERVER_CAPABILITIES, body, delivered_config, desired_config, desired_of, doubt_text,
    excluded_text, history_key, is_quiet, is_unchanged, merge, merged_config, millis, place_of,
    places_of, room, state_of,
};

use crate::control::Control;
use crate::inventory::{Index, IndexMirror};
use crate::ledger::{Ledger, ProposeError, now_ms};

/// Messages of one agent take turns; agents share so many queues.
const TURNS: usize = 1024;

/// Tries after a conflicting change. More than three writers of one agent at once do not exist.
const TRIES: usize = 5;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Expected time between two messages of an agent. Default 30 s: what supervisors use.
    pub agent_interval: Duration,
    /// Silent for so many intervals: lost. Default 3.
    pub lost_after_intervals: u32,
    /// An offer that is not answered for so long is *no answer*. Longer than poll, validate and apply. Default 3 min.
    pub offer_timeout: Duration,
    /// Transitions are kept for so long. Default 30 days.
    pub history: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            agent_interval: Duration::from_secs(30),
            lost_after_intervals: 3,
            offer_timeout: Duration::from_secs(180),
            history: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// Why a report was not handled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not 16 bytes.
    #[error(transparent)]
    Uid(#[from] proto::uid::UidError),
    /// Not stored: nothing was answered.
    #[error("agent {uid}: its record was not stored")]
    Store {
        /// Whose.
        uid: Uid,
        /// Why.
        #[source]
        source: ProposeError,
    },
    /// The database failed.
    #[error("agent {uid}: its record cannot be read")]
    Read {
        /// Whose.
        uid: Uid,
        /// Why.
        #[source]
        source: raft::Fatal,
    },
    /// This node does not lead the partition.
    #[error("agent {uid}: its partition is not led here")]
    NotLeader {
        /// Whose.
        uid: Uid,
    },
    /// Another token speaks for this uid.
    #[error(
        "agent {uid} enrolled with token `{enrolled}`, not with `{token}`: forget the agent first if it is to enrol anew"
    )]
    Token {
        /// Whose.
        uid: Uid,
        /// Of the record.
        enrolled: String,
        /// Of the connection.
        token: String,
    },
}

impl Error {
    /// Was there no leader here, so that nothing has happened and a moment later, or elsewhere, it may work?
    pub fn is_leaderless(&self) -> bool {
        match self {
            Error::NotLeader { .. } => true,
            Error::Store { source, .. } => source.is_leaderless(),
            _ => false,
        }
    }
}

/// One partition on this node.
pub struct Partition {
    /// The group below.
    pub ledger: Ledger<IndexMirror>,
    index: Index,
    control: Control,
    config: Config,
    core: Mutex<Core>,
    started: Instant,
    program: ArcSwap<Program>,
    /// Families that send once more what an agent has drifted from; as new as the program.
    re_offering: ArcSwap<BTreeSet<String>>,
    /// Held while a newer program is taken, so that it never goes backwards.
    taking: Mutex<()>,
    /// The term in which this node leads and is ready to; 0: it does not.
    leads_in: AtomicU64,
    /// When the program, and this node's lead, were last confirmed; in milliseconds since `started`, 0 = never.
    confirmed_ms: AtomicU64,
    last_grant_ms: AtomicU64,
    /// When silence and overdue offers were last looked for.
    looked_ms: AtomicU64,
    bodies: body::Remembered,
    rooms: room::Rooms,
    /// What the controller has found of members, by open rollout. Never taken while another lock is held.
    verdicts: Mutex<HashMap<String, Verdicts>>,
    /// Until when the quotas hold, in milliseconds since `started`.
    quotas_until_ms: AtomicU64,
    /// Who waited when rooms were counted last; none: they were not, since this node leads.
    waiting: Mutex<Option<Waiting>>,
    counting: Mutex<Counting>,
    /// Number of the next count that none has numbered. It begins with the wall clock, so that no process repeats those of
    /// one before it.
    counts: AtomicU64,
    /// The sum of the quotas that were given last, and how many agents had something due when they were counted.
    given: AtomicU64,
    wanted: AtomicU64,
    /// Conversations that other gateways were asked for, and those that none of them knew of in time.
    recalls: AtomicU64,
    recalls_unanswered: AtomicU64,
    notices: broadcast::Sender<Arc<Vec<Notice>>>,
    /// Are there other nodes that may have led it before?
    others: bool,
    turns: Box<[tokio::sync::Mutex<()>]>,
    /// Wakes whoever waits for a gateway's word.
    told: tokio::sync::Notify,
}

// === impl Partition ===

impl Partition {
    /// A leader over a started group.
    pub fn new(
        ledger: Ledger<IndexMirror>,
        index: Index,
        control: Control,
        config: Config,
        notices: broadcast::Sender<Arc<Vec<Notice>>>,
        others: bool,
    ) -> Self {
        let interval_ms = millis(config.agent_interval);
        let timing = Timing {
            interval_ms,
            lost_after_ms: interval_ms * u64::from(config.lost_after_intervals),
        };
        Partition {
            ledger,
            index,
            control,
            config,
            core: Mutex::new(Core::new(timing, 0)),
            started: Instant::now(),
            program: ArcSwap::from_pointee(Program::default()),
            re_offering: ArcSwap::default(),
            taking: Mutex::default(),
            leads_in: 0.into(),
            confirmed_ms: 0.into(),
            last_grant_ms: 0.into(),
            looked_ms: 0.into(),
            bodies: body::Remembered::default(),
            rooms: room::Rooms::default(),
            verdicts: Mutex::default(),
            quotas_until_ms: 0.into(),
            waiting: Mutex::default(),
            counting: Mutex::default(),
            counts: now_ms().max(1).into(),
            given: 0.into(),
            wanted: 0.into(),
            recalls: 0.into(),
            recalls_unanswered: 0.into(),
            notices,
            others,
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect(),
            told: tokio::sync::Notify::new(),
        }
    }

    /// The column index, for queries.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The program it decides by.
    pub fn program(&self) -> Arc<Program> {
        self.program.load_full()
    }

    /// How long ago each of these agents was heard.
    pub fn ages_ms(&self, uids: &[Uid]) -> Vec<u64> {
        let now = self.monotonic_ms();
        let core = self.core();
        uids.iter().map(|uid| core.age_ms(*uid, now)).collect()
    }

    /// Silent for so long, what is known of an agent proves nothing any more: two intervals.
    fn stale_after_ms(&self) -> u64 {
        2 * millis(self.config.agent_interval)
    }

    fn verdicts(&self) -> MutexGuard<'_, HashMap<String, Verdicts>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of these agents, which come in rising order, that were silent for two intervals: what is known of them proves
    /// nothing any more. In rising order.
    fn stale(&self, uids: &[Uid]) -> Vec<Uid> {
        let (now, limit_ms) = (self.monotonic_ms(), self.stale_after_ms());
        let heard = self.core().heard_at(uids);
        let columns = self.index.read();
        let is_quiet = |uid| columns.rows.get(uid).is_some_and(is_quiet);
        let stale = uids.iter().zip(heard).filter(|(uid, (at, open))| {
            now.saturating_sub(*at) >= limit_ms && !(*open && is_quiet(uid))
        });
        stale.map(|(uid, _)| *uid).collect()
    }

    // Locks: the core's, the control documents' and the index's are never held together. Each of them has a writer that
    // waits for its readers, so that two that nest in different orders stop all three.

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn monotonic_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn turn(&self, uid: Uid) -> &tokio::sync::Mutex<()> {
        let bytes = uid.as_bytes();
        &self.turns[usize::from(u16::from_be_bytes([bytes[12], bytes[13]])) % TURNS]
    }

    /// After so long an unanswered offer is *no answer*.
    pub fn offer_timeout_ms(&self) -> u64 {
        millis(self.config.offer_timeout)
    }

    /// One notice to the gateways.
    pub fn tell(&self, uid: Uid, kind: notice::Kind) {
        self.notify(vec![Notice {
            instance_uid: uid.as_bytes().to_vec().into(),
            kind: kind.into(),
            ..Notice::default()
        }]);
    }

    fn notify(&self, notices: Vec<Notice>) {
        if !notices.is_empty() {
            // No gateway listening is no error: sessions are opened with a report.
            let _ = self.notices.send(Arc::new(notices));
        }
    }
}

/// An error with everything below it, for logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
