//! The raft-io thread: log and vote of all groups, one write and one fsync at a time.
//!
//! Not for state: that is written by the groups' workers, unsynced, into the same log.
//! Invariants: work is written in the order it was queued, across all groups; whoever waits is
//! answered in that order, after the fsync; while one fsync runs the next batch gathers.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use openraft::storage::IOFlushed;
use rocksdb::WriteBatch;
use tokio::sync::{Semaphore, oneshot};

use super::Db;
use super::keys::{self, Kind};
use super::mark::Marks;
use super::stop::FailStop;
use crate::log::Log;
use crate::types::{LogId, TypeConfig, Vote};
use crate::{Fatal, GroupId, stored};

/// One thing to write for one group.
pub(crate) enum Work {
    /// Entries, ascending and encoded.
    Append {
        log: Arc<Log>,
        rows: Vec<(u64, Vec<u8>)>,
        sequence: u64,
        last: Option<LogId>,
        done: IOFlushed<TypeConfig>,
    },
    Vote {
        group: GroupId,
        vote: Vote,
        done: oneshot::Sender<Result<(), Fatal>>,
    },
    /// Removes `first` and everything after it.
    Truncate {
        group: GroupId,
        first: u64,
    },
    /// Removes from `first` to `upto`, inclusive.
    Purge {
        group: GroupId,
        first: u64,
        upto: LogId,
    },
    Committed {
        group: GroupId,
        id: LogId,
    },
}

/// Unit of back-pressure, in bytes.
const PERMIT_BYTES: usize = 1024;

/// Work waiting for the thread.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
    /// Room for more, in units of [`PERMIT_BYTES`].
    room: Semaphore,
    room_max: u32,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<(Work, usize, u32)>,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let permits =
            (bytes_max / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self {
            waiting: Mutex::new(Waiting::default()),
            ready: Condvar::new(),
            room: Semaphore::new(permits),
            room_max: u32::try_from(permits).unwrap_or(u32::MAX),
        }
    }

    /// Waits until `bytes` may be queued. Hand the result to [`Queue::push`].
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<u32, Fatal> {
        let permits = u32::try_from(bytes / PERMIT_BYTES + 1)
            .unwrap_or(u32::MAX)
            .min(self.room_max);
        let room = self.room.acquire_many(permits).await;
        room.map_err(|_| closed())?.forget();
        Ok(permits)
    }

    /// Bytes that wait or are reserved, and how many may, rounded up to permits.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let room = self.room.available_permits().min(self.room_max as usize);
        let used = self.room_max as usize - room;
        let bytes = |permits: usize| (permits * PERMIT_BYTES) as u64;
        (bytes(used), bytes(self.room_max as usize))
    }

    /// Queues work of about `bytes`, with the permits reserved for it.
    pub(crate) fn push(&self, work: Work, bytes: usize, permits: u32) -> Result<(), Fatal> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(closed());
        }
        waiting.work.push_back((work, bytes, permits));
        self.ready.notify_one();
        Ok(())
    }

    /// No more work is taken; what is queued is still done.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.ready.notify_all();
    }

    /// The next batch, in order; `None` when closed and empty. Also the permits to give back.
    fn take(&self, ops_max: usize, bytes_max: usize) -> Option<(Vec<Work>, u32)> {
        let mut waiting = self.lock();
        while waiting.work.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = self
                .ready
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let (mut taken, mut total, mut permits) = (Vec::new(), 0, 0);
        while taken.len() < ops_max && (taken.is_empty() || total < bytes_max) {
            let Some((work, bytes, room)) = waiting.work.pop_front() else {
                break;
            };
            total += bytes;
            permits += room;
            taken.push(work);
        }
        Some((taken, permits))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> Fatal {
    Fatal::new("the store is closed")
}

/// What the thread works with.
pub(crate) struct Io {
    pub db: Arc<Db>,
    pub queue: Arc<Queue>,
    pub stop: Arc<FailStop>,
    pub marks: Arc<Marks>,
    pub ops_max: usize,
    pub bytes_max: usize,
}

impl Io {
    /// Runs until the queue is closed and empty.
    pub(crate) fn run(self) {
        while let Some((work, permits)) = self.queue.take(self.ops_max, self.bytes_max) {
            let result = self.perform(&work);
            if let Err(fatal) = &result {
                self.stop.trip(fatal);
            }
            let failed = result.is_err();
            for one in work {
                self.answer(one, failed);
            }
            if failed {
                self.stop.abort();
            }
            self.queue.room.add_permits(permits as usize);
        }
    }

    fn perform(&self, work: &[Work]) -> Result<(), Fatal> {
        let mut batch = WriteBatch::default();
        work.iter().for_each(|one| self.add(one, &mut batch));
        if !batch.is_empty() {
            self.stop.write(&self.db.engine, batch)?;
        }
        for one in work {
            if let Work::Append { log, sequence, .. } = one {
                log.written(*sequence);
            }
        }
        // What nobody waits for rides along with the next fsync.
        if work
            .iter()
            .any(|one| matches!(one, Work::Append { .. } | Work::Vote { .. }))
        {
            self.stop.sync(&self.db.engine)?;
            self.marks.flushed(work);
        }
        self.marks.committed(work);
        Ok(())
    }

    fn add(&self, work: &Work, batch: &mut WriteBatch) {
        let log_family = self.db.family(keys::RAFT_LOG);
        let meta_family = self.db.family(keys::RAFT_META);
        match work {
            Work::Append { log, rows, .. } => {
                for (index, bytes) in rows {
                    batch.put_cf(log_family, keys::log(log.group(), *index), bytes);
                }
            }
            Work::Vote { group, vote, .. } => {
                let value = prost::Message::encode_to_vec(&stored::Vote::from(vote));
                batch.put_cf(meta_family, keys::meta(*group, Kind::Vote), value);
            }
            Work::Truncate { group, first } => {
                batch.delete_range_cf(
                    log_family,
                    keys::log(*group, *first),
                    keys::log(*group, u64::MAX),
                );
            }
            Work::Purge { group, first, upto } => {
                // The record goes first: entries without it would look like a hole.
                batch.put_cf(
                    meta_family,
                    keys::meta(*group, Kind::Purged),
                    stored::encode_position(upto),
                );
                let end = keys::log(*group, upto.index.saturating_add(1));
                batch.delete_range_cf(log_family, keys::log(*group, *first), end);
            }
            Work::Committed { group, id } => {
                batch.put_cf(
                    meta_family,
                    keys::meta(*group, Kind::Committed),
                    stored::encode_position(id),
                );
            }
        }
    }

    fn answer(&self, work: Work, failed: bool) {
        let result = || match failed {
            true => Err(Fatal::new("the log could not be written")),
            false => Ok(()),
        };
        match work {
            Work::Append { log, done, .. } => {
                if failed {
                    log.wake();
                }
                done.io_completed(result().map_err(Into::into));
            }
            Work::Vote { done, .. } => {
                // A group that stopped meanwhile does not wait any more.
                let _ = done.send(result());
            }
            Work::Truncate { .. } | Work::Purge { .. } | Work::Committed { .. } => {}
        }
    }
}
