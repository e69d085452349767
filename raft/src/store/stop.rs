//! Fail-stop: the first failed write or fsync ends the node.
//!
//! Not error handling: there is no way back. Invariant: once tripped, nothing is acknowledged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::chain;
use crate::{Disk, Fatal};

/// The disk, and the switch that is thrown when it fails.
pub(crate) struct FailStop {
    tripped: AtomicBool,
    /// The store was closed on purpose: late work of groups fails, and that is no fault.
    closed: AtomicBool,
    disk: Arc<dyn Disk>,
    abort: Arc<dyn Fn() + Send + Sync>,
    syncs: AtomicU64,
    sync_micros: AtomicU64,
}

impl FailStop {
    pub(crate) fn new(disk: Arc<dyn Disk>, abort: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            tripped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            disk,
            abort,
            syncs: AtomicU64::new(0),
            sync_micros: AtomicU64::new(0),
        }
    }

    /// Refuses once the node is stopping.
    pub(crate) fn check(&self) -> Result<(), Fatal> {
        match (self.tripped.load(Ordering::Acquire), self.is_closed()) {
            (false, false) => Ok(()),
            (true, _) => Err(Fatal::new("the node is stopping after a failure")),
            (false, true) => Err(Fatal::new("the store is closed")),
        }
    }

    /// Nothing is acknowledged from here on. Answers what is waiting, then call [`FailStop::abort`].
    pub(crate) fn trip(&self, fatal: &Fatal) {
        if !self.is_closed() && !self.tripped.swap(true, Ordering::AcqRel) {
            tracing::error!(error = chain(fatal), "the node stops");
        }
    }

    pub(crate) fn abort(&self) {
        if !self.is_closed() {
            (self.abort)();
        }
    }

    /// Everything queued was done; what comes late fails quietly.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// How often the log was synced, and how long that took, all together.
    pub(crate) fn syncs(&self) -> (u64, Duration) {
        let micros = self.sync_micros.load(Ordering::Relaxed);
        let syncs = self.syncs.load(Ordering::Relaxed);
        (syncs, Duration::from_micros(micros))
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Trips and aborts at once, where nothing waits to be told.
    pub(crate) fn stop(&self, fatal: Fatal) -> Fatal {
        self.trip(&fatal);
        self.abort();
        fatal
    }

    /// One write into the write-ahead log.
    pub(crate) fn write(
        &self,
        engine: &rocksdb::DB,
        batch: rocksdb::WriteBatch,
    ) -> Result<(), Fatal> {
        self.check()?;
        let mut batch = Some(batch);
        let mut real = || match batch.take() {
            Some(batch) => engine.write(batch).map_err(io::Error::other),
            None => Err(io::Error::other("a write is not tried twice")),
        };
        self.disk
            .write(&mut real)
            .map_err(|error| Fatal::because("write to the log", error))
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self, engine: &rocksdb::DB) -> Result<(), Fatal> {
        self.check()?;
        let mut real = || engine.flush_wal(true).map_err(io::Error::other);
        let began = Instant::now();
        let synced = self.disk.sync(&mut real);
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_micros.fetch_add(micros, Ordering::Relaxed);
        synced.map_err(|error| Fatal::because("sync the log", error))
    }
}
