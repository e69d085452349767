//! The log of one group: what is in memory of it, and the order in which it reaches the disk.
//!
//! Not the thread that writes. Invariants: an entry is readable when `append` returns; an entry
//! that is not yet written stays in memory; entries in memory are the newest, without a hole;
//! a read shows the log as it was at one moment.

mod reader;
mod storage;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

pub(crate) use storage::LogStore;

use crate::store::stop::FailStop;
use crate::store::{Db, Queue};
use crate::types::{Entry, LogId, Vote};
use crate::{Fatal, GroupId};

/// Bounds of one log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of written entries kept in memory.
    pub tail_bytes: usize,
    /// Bytes of one read that may be cut short.
    pub read_bytes: usize,
}

/// The log of one group.
pub(crate) struct Log {
    group: GroupId,
    db: Arc<Db>,
    queue: Arc<Queue>,
    stop: Arc<FailStop>,
    limits: Limits,
    tail: Mutex<Tail>,
    progress: Condvar,
}

/// What is in memory.
#[derive(Default)]
struct Tail {
    purged: Option<LogId>,
    /// Where the log begins: after what was purged, or at the first entry.
    first: u64,
    /// Last entry, or what was purged last.
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The newest entries, ascending.
    cached: VecDeque<Cached>,
    cached_bytes: usize,
    /// Number of the append handed out last, and of the one written last.
    sequence: u64,
    written: u64,
}

struct Cached {
    entry: Entry,
    bytes: usize,
    sequence: u64,
}

impl Log {
    /// Reads where the log stands. Blocks.
    pub(crate) fn open(
        group: GroupId,
        db: Arc<Db>,
        queue: Arc<Queue>,
        stop: Arc<FailStop>,
        limits: Limits,
    ) -> Result<Self, Fatal> {
        let records = crate::store::records(&db, group)?;
        let tail = Tail {
            purged: records.purged,
            first: records.first,
            last: records.last,
            vote: records.vote,
            committed: records.committed,
            ..Tail::default()
        };
        Ok(Self {
            group,
            db,
            queue,
            stop,
            limits,
            tail: Mutex::new(tail),
            progress: Condvar::new(),
        })
    }

    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// Nothing was ever promised for this group.
    pub(crate) fn is_pristine(&self) -> bool {
        let tail = self.lock();
        tail.last.is_none() && tail.vote.is_none()
    }

    /// All appends up to `sequence` are in the database, not yet synced.
    pub(crate) fn written(&self, sequence: u64) {
        let mut tail = self.lock();
        tail.written = tail.written.max(sequence);
        tail.shrink(self.limits.tail_bytes);
        self.progress.notify_all();
    }

    /// Lets those who wait look at the failure.
    pub(crate) fn wake(&self) {
        let _tail = self.lock();
        self.progress.notify_all();
    }

    /// Blocks until the entry at `index` is in the database, so that state derived from it comes
    /// later in the write-ahead log. An index the log does not hold is not waited for.
    pub(crate) fn wait_written(&self, index: u64) -> Result<(), Fatal> {
        let mut tail = self.lock();
        while tail.is_unwritten(index) {
            self.stop.check()?;
            tail = self
                .progress
                .wait(tail)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    fn push(&mut self, entry: Entry, bytes: usize, sequence: u64) {
        if self.last.is_none() {
            self.first = entry.log_id.index;
        }
        self.last = Some(entry.log_id);
        self.cached_bytes += bytes;
        self.cached.push_back(Cached {
            entry,
            bytes,
            sequence,
        });
    }

    /// Drops the oldest entries that are written, until the rest fits.
    fn shrink(&mut self, bytes_max: usize) {
        while self.cached_bytes > bytes_max
            && self
                .cached
                .front()
                .is_some_and(|oldest| oldest.sequence <= self.written)
        {
            self.drop_oldest();
        }
    }

    fn truncate(&mut self, first: u64) {
        while self
            .cached
            .back()
            .is_some_and(|newest| newest.entry.log_id.index >= first)
        {
            if let Some(newest) = self.cached.pop_back() {
                self.cached_bytes -= newest.bytes;
            }
        }
    }

    fn purge(&mut self, upto: LogId) {
        while self
            .cached
            .front()
            .is_some_and(|oldest| oldest.entry.log_id.index <= upto.index)
        {
            self.drop_oldest();
        }
        self.purged = Some(upto);
        self.first = upto.index + 1;
        if self
            .last
            .as_ref()
            .is_none_or(|last| last.index <= upto.index)
        {
            self.last = Some(upto);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.cached.pop_front() {
            self.cached_bytes -= oldest.bytes;
        }
    }

    /// Index of the oldest entry in memory; one after the last if there is none.
    fn cached_from(&self) -> u64 {
        match self.cached.front() {
            Some(oldest) => oldest.entry.log_id.index,
            None => next_index(&self.last),
        }
    }

    fn is_unwritten(&self, index: u64) -> bool {
        let Some(offset) = index.checked_sub(self.cached_from()) else {
            return false;
        };
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.cached
            .get(offset)
            .is_some_and(|cached| cached.sequence > self.written)
    }
}

fn next_index(id: &Option<LogId>) -> u64 {
    id.as_ref().map_or(0, |id| id.index + 1)
}
