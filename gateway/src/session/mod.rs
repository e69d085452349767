//! The sessions of a gateway: the cores, sharded by uid behind locks that are never held over an await.

pub mod exchange;
pub mod table;
pub mod turns;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use foldhash::fast::RandomState;
use proto::edge;
use proto::uid::Uid;
use tokio::sync::{mpsc, oneshot};

use table::{Millis, Noticed, Settled, Table};
use turns::Turns;

use crate::limits::Limits;
use crate::metrics::Metrics;

/// A power of two; 64 locks are enough for any number of cores that a gateway has.
const SHARDS: usize = 64;

/// What a WebSocket connection is told from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ask the leader what it has for this agent and write it.
    Pull(Uid),
    /// Close: the leader said so.
    Close,
}

/// The WebSocket connection over which an agent can be reached.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Of the gateway, unique.
    pub connection: u64,
    /// Its ear.
    pub orders: mpsc::Sender<Order>,
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    shards: Box<[Mutex<Shard>]>,
    started: Instant,
    limits: Arc<Limits>,
    /// Orders that a full connection did not take, since they were counted last.
    dropped: AtomicU64,
}

/// One shard. Its parts are changed together, under its lock.
#[derive(Debug)]
pub struct Shard {
    pub table: Table,
    pub turns: Turns<oneshot::Sender<TurnGuard>>,
    pub holders: HashMap<Uid, Holder, RandomState>,
}

/// A turn that ends when this is dropped.
#[derive(Debug)]
pub struct TurnGuard {
    sessions: Arc<Sessions>,
    uid: Uid,
}

// === impl Sessions ===

impl Sessions {
    /// Empty.
    pub fn new(limits: Arc<Limits>) -> Arc<Self> {
        let shard = || {
            Mutex::new(Shard {
                table: Table::new(limits.sessions / SHARDS),
                turns: Turns::new(limits.waiting_per_agent),
                holders: HashMap::default(),
            })
        };
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Arc::new(Sessions {
            shards,
            started: Instant::now(),
            limits,
            dropped: AtomicU64::new(0),
        })
    }

    /// Time for the cores.
    pub fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// The shard of an agent.
    pub fn shard(&self, uid: &Uid) -> MutexGuard<'_, Shard> {
        let index = usize::from(uid.as_bytes()[15]) % SHARDS;
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores what a leader answered, under the uid that it moved to, if any.
    pub fn settle(&self, uid: &Uid, moved: Option<Uid>, session: Option<Settled>) {
        let now = self.now();
        let mut shard = self.shard(uid);
        let noticed = shard.turns.take_noticed(uid);
        match (session, moved.filter(|new| new != uid)) {
            (None, _) => shard.table.forget(uid),
            (Some(settled), None) => shard
                .table
                .settle(*uid, Settled { noticed, ..settled }, now),
            (Some(settled), Some(new)) => {
                shard.table.forget(uid);
                let holder = shard.holders.get(uid).cloned();
                drop(shard);
                let mut shard = self.shard(&new);
                if let Some(holder) = holder {
                    shard.holders.insert(new, holder);
                }
                shard.table.settle(new, Settled { noticed, ..settled }, now);
            }
        }
    }

    /// Remembers over which connection an agent can be reached.
    pub fn hold(&self, uid: Uid, holder: Holder) {
        self.shard(&uid).holders.insert(uid, holder);
    }

    /// The connection is gone, unless another one has taken its place.
    pub fn release(&self, uid: &Uid, connection: u64) {
        let mut shard = self.shard(uid);
        if shard
            .holders
            .get(uid)
            .is_some_and(|holder| holder.connection == connection)
        {
            shard.holders.remove(uid);
        }
    }

    /// A leader's word on one agent. A connection that cannot hear now has the pending bit all the same. Answers what
    /// the leader wants to know in turn: where a conversation stood that another gateway has now.
    pub fn notice(&self, notice: &edge::Notice) -> Option<edge::Presence> {
        let uid = Uid::from_wire(&notice.instance_uid).ok()?;
        let mut shard = self.shard(&uid);
        let order = match notice.kind() {
            edge::notice::Kind::Pending => {
                shard.table.set_pending(&uid);
                shard.turns.notice(&uid, |noticed| noticed.pending = true);
                Order::Pull(uid)
            }
            edge::notice::Kind::Drop => {
                shard.table.forget(&uid);
                shard.turns.notice(&uid, |noticed| {
                    *noticed = Noticed {
                        dropped: true,
                        ..Noticed::default()
                    }
                });
                Order::Close
            }
            edge::notice::Kind::Recall => {
                shard.table.recall(&uid);
                shard.turns.notice(&uid, |noticed| noticed.recalled = true);
                return None;
            }
            edge::notice::Kind::Moved => {
                let now = self.now();
                let stood = shard.table.stood(&uid, now);
                shard.table.forget(&uid);
                return stood;
            }
            edge::notice::Kind::Unspecified => return None,
        };
        if let Some(holder) = shard.holders.get(&uid) {
            let sent = holder.orders.try_send(order);
            if matches!(sent, Err(mpsc::error::TrySendError::Full(_))) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        None
    }

    /// Who spoke since the last call; counts on the way.
    pub fn presence(&self, metrics: &Metrics) -> Vec<edge::Presence> {
        let now = self.now();
        let mut batch = Vec::new();
        let mut sessions = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let before = batch.len();
            shard.table.presence(now, &mut batch);
            for spoke in &mut batch[before..] {
                let uid = Uid::from_wire(&spoke.instance_uid);
                spoke.closed = !uid.is_ok_and(|uid| shard.holders.contains_key(&uid));
            }
            sessions += shard.table.len();
            metrics.evicted.inc_by(shard.table.take_evicted());
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        metrics.orders_dropped.inc_by(dropped);
        metrics
            .sessions
            .set(i64::try_from(sessions).unwrap_or(i64::MAX));
        batch
    }

    /// Where every conversation stands, whoever spoke last.
    pub fn all(&self) -> Vec<edge::Presence> {
        let now = self.now();
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let stand = shard.table.all(now).map(|(uid, stands)| edge::Presence {
                closed: !shard.holders.contains_key(uid),
                ..stands
            });
            all.extend(stand);
        }
        all
    }

    /// Is there no conversation?
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.table.is_empty()
        })
    }

    /// Drops sessions that were not used for the time that the limits say.
    pub fn sweep(&self) {
        let idle = u64::try_from(self.limits.session_idle.as_millis()).unwrap_or(Millis::MAX);
        let Some(before) = self.now().checked_sub(idle) else {
            return;
        };
        for shard in &self.shards {
            shard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .table
                .sweep(before);
        }
    }
}

// === impl TurnGuard ===

impl TurnGuard {
    /// For a turn that has just been taken.
    pub fn new(sessions: &Arc<Sessions>, uid: Uid) -> Self {
        TurnGuard {
            sessions: sessions.clone(),
            uid,
        }
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        let next = self.sessions.shard(&self.uid).turns.end(&self.uid);
        if let Some(next) = next {
            // A waiter that has gone away hands the guard back, and its drop passes the turn on.
            let _gone = next.send(TurnGuard::new(&self.sessions, self.uid));
        }
    }
}
