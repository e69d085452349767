//! The worker of one group: applies entries, builds and installs snapshots.
//!
//! Not the machine: that is the user's. Invariants: one chunk is one write of state and applied
//! position together; the machine publishes before anyone is answered; each proposer is answered,
//! also those of entries that are not the machine's; state never precedes its entry in the
//! write-ahead log.

mod apply;
mod install;
mod milestone;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};

pub(crate) use milestone::Milestone;

use crate::log::Log;
use crate::snapshot::{Contents, Shelf};
use crate::store::Shared;
use crate::stored::Applied;
use crate::types::{Answer, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::{Fatal, GroupId, SnapshotFile, StateMachine, View};

/// What a snapshot is to the consensus core.
pub(crate) type GroupSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// What a chunk may be at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub entries: usize,
    pub bytes: usize,
}

/// Applies entries to one machine.
pub(crate) struct Worker<M> {
    core: Arc<Mutex<Core<M>>>,
    limits: Limits,
    /// Bytes applied since the last snapshot, shared with who triggers the next.
    backlog: Arc<AtomicU64>,
    /// Shared with who compares replicas.
    milestone: Arc<Milestone>,
}

/// What is used by one blocking call at a time.
struct Core<M> {
    machine: M,
    group: GroupId,
    store: Arc<Shared>,
    log: Arc<Log>,
    shelf: Arc<Shelf>,
    applied: Applied,
}

impl<M: StateMachine> Worker<M> {
    /// Removes what a crash left of an installation, and restores the machine. Blocks.
    pub(crate) fn open(
        machine: M,
        store: Arc<Shared>,
        log: Arc<Log>,
        limits: Limits,
        backlog: Arc<AtomicU64>,
        milestone: Arc<Milestone>,
    ) -> Result<Self, Fatal> {
        let group = log.group();
        let applied = store.db.applied(group)?;
        let shelf = Arc::new(Shelf::open(group, Arc::clone(&store))?);
        let mut core = Core {
            machine,
            group,
            store,
            log,
            shelf,
            applied,
        };
        core.remove_other_generations()?;
        core.restore()?;
        Ok(Self {
            core: Arc::new(Mutex::new(core)),
            limits,
            backlog,
            milestone,
        })
    }

    /// Runs where blocking is allowed. A panic there stops the node: the machine may be half way.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Core<M>) -> Result<T, Fatal> + Send + 'static,
    ) -> io::Result<T> {
        let core = Arc::clone(&self.core);
        let done = tokio::task::spawn_blocking(move || run(&mut lock(&core))).await;
        match done {
            Ok(result) => Ok(result?),
            Err(error) => {
                let stop = Arc::clone(&lock(&self.core).store.stop);
                Err(stop.stop(Fatal::because("run the machine", error)).into())
            }
        }
    }
}

impl<M: StateMachine> Core<M> {
    fn restore(&mut self) -> Result<(), Fatal> {
        let view = View::new(Arc::clone(&self.store.db), self.group)?;
        self.machine.restore(&view)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl RaftStateMachine ===

impl<M: StateMachine> RaftStateMachine<TypeConfig> for Worker<M> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let core = lock(&self.core);
        Ok((core.applied.last, core.applied.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut ended = false;
        while !ended {
            let (mut chunk, mut bytes, mut last) = (Vec::new(), 0, 0);
            while chunk.len() < self.limits.entries && bytes < self.limits.bytes {
                let Some(next) = entries.next().await else {
                    ended = true;
                    break;
                };
                let next = next?;
                bytes += apply::bytes(&next.0);
                last = next.0.log_id.index;
                chunk.push(next);
                if self.milestone.is_at(last) {
                    break;
                }
            }
            if !chunk.is_empty() {
                let chunk = self.blocking(move |core| core.apply(chunk)).await?;
                self.backlog.fetch_add(bytes as u64, Ordering::Relaxed);
                for (responder, answer) in chunk {
                    responder.send(Answer(answer));
                }
                self.milestone.applied(last, || {
                    let core = lock(&self.core);
                    View::new(Arc::clone(&core.store.db), core.group)
                });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let core = lock(&self.core);
        self.backlog.store(0, Ordering::Relaxed);
        Builder {
            view: Some(View::new(Arc::clone(&core.store.db), core.group)),
            group: core.group,
            sm_format: M::FORMAT,
            shelf: Arc::clone(&core.shelf),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let meta = meta.clone();
        self.blocking(move |core| core.install(&meta, &snapshot))
            .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<GroupSnapshot>> {
        let current = lock(&self.core).shelf.current();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Builds one snapshot of the view it was created with.
pub(crate) struct Builder {
    view: Option<Result<View, Fatal>>,
    group: GroupId,
    sm_format: u32,
    shelf: Arc<Shelf>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<GroupSnapshot> {
        let view = self
            .view
            .take()
            .ok_or_else(|| Fatal::new("a builder builds once"))?;
        let (group, sm_format, shelf) = (self.group, self.sm_format, Arc::clone(&self.shelf));
        let built = tokio::task::spawn_blocking(move || {
            let view = view?;
            let contents = Contents {
                group,
                sm_format,
                meta: view.snapshot_meta(),
            };
            let snapshot = shelf.build(&contents, view.everything())?;
            Ok(Snapshot {
                meta: contents.meta,
                snapshot,
            })
        });
        let built = built.await;
        let built = built.unwrap_or_else(|error| Err(Fatal::because("build a snapshot", error)));
        Ok(built.map_err(|fatal| self.shelf.stop(fatal))?)
    }
}
