//! A replication group as its users see it.
//!
//! Not the consensus core, which it drives. Invariants: an answered proposal is committed and
//! applied here; what is answered `NotLeader` or `TooLarge` was appended nowhere.

mod counts;
mod digest;
mod gather;
mod incoming;
mod members;
mod start;
mod status;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use gather::Gathered;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal as Stopped, ForwardToLeader, LinearizableReadError, RaftError,
};
use openraft::{Raft, ReadPolicy};
use tokio::sync::{mpsc, oneshot, watch};

pub use counts::GroupCounts;
pub(crate) use counts::{Counters, UnderWay};
pub use digest::Digest;
pub use members::Progress;
pub use status::{GroupStatus, Leadership, Role};

use crate::log::Log;
use crate::store::Shared;
use crate::types::TypeConfig;
use crate::worker::{Milestone, Worker};
use crate::{
    ENTRY_BYTES_MAX, Fatal, GroupConfig, GroupId, NodeId, ProposeError, ReadError, SnapshotError,
    StartError, StateMachine, Store, View,
};

/// A handle to a running group. Cheap to clone. The group runs until [`Group::shutdown`], or
/// until the last handle is dropped.
pub struct Group<M: StateMachine> {
    shared: Arc<Running<M>>,
}

impl<M: StateMachine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

/// What the handles share.
struct Running<M: StateMachine> {
    raft: Raft<TypeConfig, Worker<M>>,
    store: Arc<Shared>,
    group: GroupId,
    node: NodeId,
    propose_timeout: Duration,
    read_timeout: Duration,
    snapshot_timeout: Duration,
    change_timeout: Duration,
    /// Entries that a voter may lack and still be handed leadership.
    transfer_behind_max: u64,
    /// Time without an answer after which a node counts as away.
    silence: Duration,
    /// Where replicas are compared.
    milestone: Arc<Milestone>,
    /// Held by who changes members or leader.
    changes: tokio::sync::Mutex<()>,
    leadership: watch::Receiver<Leadership>,
    counters: Arc<Counters>,
    proposals: mpsc::UnboundedSender<Gathered>,
    /// Tasks that follow the core; they end with it, or with the last handle.
    tasks: Vec<tokio::task::AbortHandle>,
}

impl<M: StateMachine> Group<M> {
    /// Starts a group: recovers it, or on its first start does what [`crate::Bootstrap`] says.
    ///
    /// Returns when everything this node knows to be committed is applied. A lone voter is the
    /// leader then; of several voters none waits for the others.
    ///
    /// # Errors
    /// The store belongs to another node, the group already runs or holds state of a newer
    /// machine, settings contradict each other, or recovery failed or took too long.
    pub async fn start(
        store: &Store,
        id: GroupId,
        node: NodeId,
        machine: M,
        config: GroupConfig,
    ) -> Result<Self, StartError> {
        start::start(Arc::clone(&store.shared), id, node, machine, config).await
    }

    /// Replicates one entry and returns the machine's answer, after commit and apply.
    ///
    /// What is proposed while others are under way goes together. Dropping the future may come too late to take it back.
    ///
    /// # Errors
    /// [`ProposeError`]: only `NotLeader` and `TooLarge` say that nothing happened.
    pub async fn propose(&self, entry: Bytes) -> Result<Vec<u8>, ProposeError> {
        check_size(&entry)?;
        let _under_way = UnderWay::new(&self.shared.counters.proposals, 1);
        let answer = tokio::time::timeout(self.shared.propose_timeout, self.gather(entry));
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Replicates entries in order. One answer each, same order.
    ///
    /// Not as one: whatever becomes of an entry, also that it is too large, the others go ahead.
    pub async fn propose_many(&self, entries: Vec<Bytes>) -> Vec<Result<Vec<u8>, ProposeError>> {
        let _under_way = UnderWay::new(&self.shared.counters.proposals, entries.len());
        let deadline = tokio::time::Instant::now() + self.shared.propose_timeout;
        let proposed: Vec<_> = entries
            .into_iter()
            .map(|entry| check_size(&entry).map(|()| self.gather(entry)))
            .collect();
        let mut answers = Vec::with_capacity(proposed.len());
        for one in proposed {
            answers.push(match one {
                Ok(answer) => {
                    let answer = tokio::time::timeout_at(deadline, answer).await;
                    answer.unwrap_or(Err(ProposeError::Unknown))
                }
                Err(too_large) => Err(too_large),
            });
        }
        answers
    }

    /// It is in the queue when this returns; its answer is waited for.
    fn gather(&self, entry: Bytes) -> impl Future<Output = gather::Answer> + use<M> {
        let (answer, answered) = oneshot::channel();
        // Where the queue has ended the answer's other end goes with it.
        let _ended = self.shared.proposals.send(Gathered { entry, answer });
        async {
            let ended = |_| ProposeError::Fatal("the group has stopped".into());
            answered.await.map_err(ended)?
        }
    }

    /// Waits until this node, being the leader, has applied everything that was answered before
    /// the call. A view made afterwards is linearizable. Returns the applied index.
    ///
    /// Calls made at the same time share one round of heartbeats; a lone voter needs none.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn linearize(&self) -> Result<u64, ReadError> {
        let Running {
            raft, read_timeout, ..
        } = &*self.shared;
        let read = async {
            let reader = raft.get_read_linearizer(ReadPolicy::ReadIndex).await?;
            reader.await_ready(raft).await.map_err(RaftError::Fatal)
        };
        let read: Result<Result<_, RaftError<_, LinearizableReadError<_>>>, _> =
            tokio::time::timeout(*read_timeout, read).await;
        match read {
            Err(_) => Err(ReadError::Timeout),
            Ok(Ok(state)) => Ok(state
                .applied()
                .map_or_else(|| state.read_log_id().index(), |id| id.index)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(ReadError::NotLeader {
                    leader: leader(&to),
                })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                Err(ReadError::NoQuorum)
            }
            Ok(Err(RaftError::Fatal(error))) => Err(ReadError::Fatal(stopped(&error))),
        }
    }

    /// Waits until this node has applied the entry at `index`. False: not within `timeout`, or
    /// the group stopped.
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> bool {
        let wait = self.shared.raft.wait(Some(timeout));
        let reached = wait.applied_index_at_least(Some(index), "catch up").await;
        reached.is_ok()
    }

    /// A consistent view of what is applied here. May be behind the leader. Blocks briefly.
    ///
    /// # Errors
    /// The database failed or stored bytes are damaged.
    pub fn view(&self) -> Result<View, Fatal> {
        View::new(Arc::clone(&self.shared.store.db), self.shared.group)
    }

    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.shared.group
    }

    /// Changes of leadership; the newest value only.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    /// Takes a snapshot of what is applied now and returns the index it covers. The log it makes
    /// dispensable is purged, but for `log_keep_entries`.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub async fn snapshot_now(&self) -> Result<u64, SnapshotError> {
        let status = self.status();
        let applied = status.applied.ok_or(SnapshotError::Empty)?;
        if let Some(covered) = status.snapshot.filter(|covered| *covered >= applied) {
            return Ok(covered);
        }
        let Running {
            raft,
            snapshot_timeout,
            ..
        } = &*self.shared;
        let deadline = tokio::time::Instant::now() + *snapshot_timeout;
        let step = Duration::from_millis(500).min(*snapshot_timeout);
        // Asked again, since the core ignores the trigger while it builds an older one.
        while tokio::time::Instant::now() < deadline {
            raft.trigger()
                .snapshot()
                .await
                .map_err(|error| SnapshotError::Fatal(stopped(&error)))?;
            let covers = |metrics: &openraft::RaftMetrics<TypeConfig>| {
                metrics
                    .snapshot
                    .as_ref()
                    .is_some_and(|id| id.index >= applied)
            };
            match raft.wait(Some(step)).metrics(covers, "snapshot").await {
                Ok(metrics) => return Ok(metrics.snapshot.map_or(applied, |id| id.index)),
                Err(openraft::metrics::WaitError::Timeout(..)) => {}
                Err(error) => return Err(SnapshotError::Fatal(error.to_string())),
            }
        }
        Err(SnapshotError::Timeout)
    }

    /// Stops the group on this node. Clones of the handle answer `Fatal` from then on.
    pub async fn shutdown(&self) {
        // The error is that the core panicked, which it has logged.
        let _ = self.shared.raft.shutdown().await;
        // Who follows the leadership is told of the end before the task that tells it goes.
        let mut leadership = self.leadership();
        let told = leadership.wait_for(|now| now.role == Role::Stopped);
        let _late = tokio::time::timeout(Duration::from_secs(1), told).await;
        self.shared.stop();
    }
}

impl<M: StateMachine> Running<M> {
    fn stop(&self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        self.store.leave(self.group);
    }
}

impl<M: StateMachine> Drop for Running<M> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn check_size(entry: &Bytes) -> Result<(), ProposeError> {
    match entry.len() {
        bytes if bytes > ENTRY_BYTES_MAX => Err(ProposeError::TooLarge { bytes }),
        _ => Ok(()),
    }
}

fn leader(to: &ForwardToLeader<TypeConfig>) -> Option<NodeId> {
    to.leader_id.map(NodeId)
}

fn propose_error(error: ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(to) => ProposeError::NotLeader {
            leader: leader(&to),
        },
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
        // Neither is asked for with an entry of a machine.
        error @ (ClientWriteError::ChangeMembershipError(_)
        | ClientWriteError::PreconditionFailed(_)) => ProposeError::Fatal(error.to_string()),
    }
}

/// Where the core stands, cloned at once: it waits while a watched value is borrowed.
fn current<M: StateMachine>(
    raft: &Raft<TypeConfig, Worker<M>>,
) -> openraft::RaftMetrics<TypeConfig> {
    raft.metrics().borrow_watched().clone()
}

fn stopped(error: &Stopped<TypeConfig>) -> String {
    crate::error::chain(error)
}

/// What a group that is being started hands over.
struct Parts {
    log: Arc<Log>,
    backlog: Arc<AtomicU64>,
    milestone: Arc<Milestone>,
}
