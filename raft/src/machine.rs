//! What a group replicates: the trait of a state machine.
//!
//! Not a runtime: the group calls it from a thread where blocking is allowed, one call at a time.
//! Invariant asked of implementors: `apply` depends on nothing but the entry, its index and what
//! it reads through the batch.

use crate::{Batch, Fatal, View};

/// A deterministic machine over replicated entries, with its state in the store.
pub trait StateMachine: Send + 'static {
    /// Version of the stored state. Written with every applied chunk and into snapshots; state
    /// and snapshots of a newer version are refused.
    const FORMAT: u32;

    /// Applies one entry and returns the answer for its proposer.
    ///
    /// Reads and writes go through `batch`, which shows the writes of earlier entries of the same
    /// chunk. A rejected command is an `Ok` answer of the machine's own making.
    ///
    /// # Errors
    /// Stops the node: nothing of the chunk is written and nobody is answered.
    fn apply(
        &mut self,
        log_index: u64,
        entry: &[u8],
        batch: &mut Batch<'_>,
    ) -> Result<Vec<u8>, Fatal>;

    /// The chunk applied last is in the database; its proposers have not been answered yet.
    /// Publish what readers see in memory here.
    fn published(&mut self);

    /// Rebuilds memory from the state: at start, and after a snapshot replaced the state.
    ///
    /// # Errors
    /// Stops the node, or at start fails it.
    fn restore(&mut self, view: &View) -> Result<(), Fatal>;
}
