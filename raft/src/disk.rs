//! Where bytes become durable, as a seam for tests that break or hold it.
//!
//! Not a file system: reads, compactions and background flushes go to the engine directly.
//! Invariant: every write of log, vote, state and mark passes `write`, every fsync that someone
//! is answered for passes `sync`.

use std::io;

/// Runs the write or fsync it is given, or does something else to it.
///
/// The store never retries: an error from either method stops the node.
pub trait Disk: Send + Sync + 'static {
    /// Performs one write into the write-ahead log, not yet synced.
    ///
    /// # Errors
    /// Whatever the write fails with.
    fn write(&self, real: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        real()
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Whatever the fsync fails with.
    fn sync(&self, real: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        real()
    }
}

/// The disk as the operating system gives it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {}
