//! One node's durable store: what all its groups share.
//!
//! Not a group: log and state of one are in `log` and `machine`.
//! Invariants: one database, one write-ahead log, one raft-io thread; one process has it open;
//! it belongs to one node id for good.

mod db;
mod io;
pub(crate) mod keys;
pub(crate) mod mark;
mod recover;
mod scratch;
pub(crate) mod stop;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use db::Db;
pub(crate) use io::{Queue, Work};
pub(crate) use recover::{owner, records};
pub use scratch::ScratchFile;

use crate::{GroupId, OpenError, StoreConfig, StoreId};
use io::Io;
use mark::Marks;
use scratch::Scratch;
use stop::FailStop;

/// Directory of snapshots in the store's directory.
const SNAPSHOTS: &str = "snapshots";
/// Directory of files being received in the store's directory.
const INCOMING: &str = "incoming";
/// Directory of the database in the store's directory.
const DATABASE: &str = "db";
/// Locked while a store is open.
const LOCK: &str = "LOCK";

/// One node's durable store: one database, one write-ahead log, one I/O thread. Cheap to clone.
///
/// It closes with [`Store::close`], or when the last handle is dropped; groups that still run
/// then fail their writes and stop, so hold it for as long as they run.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

/// What waits for the disk, and what it has done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of log that wait to be written, all groups.
    pub queued_bytes: u64,
    /// How many may, before appends wait.
    pub queue_bytes_max: u64,
    /// Fsyncs of the log.
    pub syncs: u64,
    /// What they took, all together.
    pub sync_time: Duration,
}

/// Closes the store when the last handle goes, whatever groups still hold of it.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What groups take from the store.
pub(crate) struct Shared {
    pub db: Arc<Db>,
    pub queue: Arc<Queue>,
    pub stop: Arc<FailStop>,
    pub snapshots: PathBuf,
    id: StoreId,
    incoming: Scratch,
    /// Groups that run, so that none does twice.
    running: Mutex<BTreeSet<GroupId>>,
    marks: Arc<Marks>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Unlocked when dropped.
    _lock: File,
}

impl Store {
    /// Opens or creates the store in `dir`, and checks it against what was promised. Blocks, for
    /// seconds after an unclean stop.
    ///
    /// # Errors
    /// The directory is in use, was written by an unknown version, lost something this node had
    /// promised to keep, or cannot be read.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Self, OpenError> {
        let in_file = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let snapshots = dir.join(SNAPSHOTS);
        std::fs::create_dir_all(&snapshots).map_err(in_file(&snapshots))?;
        let lock = lock(dir)?;
        let incoming = dir.join(INCOMING);
        let incoming = Scratch::open(incoming.clone()).map_err(in_file(&incoming))?;
        let marks = Arc::new(Marks::read(dir)?);
        let db = Arc::new(recover::open(dir, &dir.join(DATABASE), &config)?);
        recover::check(&db, dir, &marks)?;
        let id = recover::identity(&db).map_err(|source| OpenError::Database {
            path: dir.to_owned(),
            source,
        })?;

        let stop = Arc::new(FailStop::new(
            Arc::clone(&config.disk),
            Arc::clone(&config.abort),
        ));
        let queue = Arc::new(Queue::new(config.io_queue_bytes));
        let io = Io {
            db: Arc::clone(&db),
            queue: Arc::clone(&queue),
            stop: Arc::clone(&stop),
            marks: Arc::clone(&marks),
            ops_max: config.io_batch_ops,
            bytes_max: config.io_batch_bytes,
        };
        let (mark_writer, mark_stop) = (Arc::clone(&marks), Arc::clone(&stop));
        let threads = vec![
            spawn("raft-io", move || io.run()).map_err(in_file(dir))?,
            spawn("raft-mark", move || {
                mark_writer.run(config.mark_interval, &mark_stop)
            })
            .map_err(in_file(dir))?,
        ];
        let shared = Shared {
            db,
            queue,
            stop,
            snapshots,
            id,
            incoming,
            running: Mutex::new(BTreeSet::new()),
            marks,
            threads: Mutex::new(threads),
            _lock: lock,
        };
        let shared = Arc::new(shared);
        Ok(Self {
            _owner: Arc::new(Owner(Arc::clone(&shared))),
            shared,
        })
    }

    /// The id this store was given when it was first opened.
    pub fn id(&self) -> StoreId {
        self.shared.id
    }

    /// What waits for the disk. Cheap; of a moment ago.
    pub fn disk_use(&self) -> DiskUse {
        let (queued_bytes, queue_bytes_max) = self.shared.queue.usage();
        let (syncs, sync_time) = self.shared.stop.syncs();
        DiskUse {
            queued_bytes,
            queue_bytes_max,
            syncs,
            sync_time,
        }
    }

    /// Directory of files being received, within the store's own; emptied at open.
    pub fn incoming_dir(&self) -> &Path {
        self.shared.incoming.dir()
    }

    /// A new empty file in [`Store::incoming_dir`], to receive a snapshot into. Blocks briefly.
    ///
    /// # Errors
    /// Those of creating a file. A full disk here harms nothing but the transfer.
    pub fn scratch_file(&self) -> std::io::Result<ScratchFile> {
        self.shared.incoming.create()
    }

    /// Writes and syncs what is queued, writes the mark, and takes no more. Blocks.
    ///
    /// Shut the groups down first. The directory can be opened again once all handles of groups,
    /// views and this store are dropped.
    pub fn close(self) {
        self.shared.close();
    }
}

impl Shared {
    /// Notes that a group runs; false if it already does.
    pub(crate) fn enter(&self, group: GroupId) -> bool {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(group)
    }

    pub(crate) fn leave(&self, group: GroupId) {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&group);
    }

    fn close(&self) {
        self.queue.close();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // The I/O thread is first in the list: the mark is written after its last fsync.
            let _ = thread.join();
            self.marks.close();
        }
        self.stop.close();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run)
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let file = File::create(&path).map_err(|source| OpenError::Io {
        path: path.clone(),
        source,
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: dir.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(OpenError::Io { path, source }),
    }
}
