//! A position of the log at which somebody wants to see the state: as it is there, neither before
//! nor after.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::{Fatal, View};

/// Where no entry is.
const NOWHERE: u64 = u64::MAX;

type Seen = oneshot::Sender<Result<View, Fatal>>;

/// One position at a time; who asks for another one takes the place of who asked before.
pub(crate) struct Milestone {
    /// Read for each entry that is applied.
    index: AtomicU64,
    seen: Mutex<Option<Seen>>,
}

impl Default for Milestone {
    fn default() -> Self {
        Self {
            index: AtomicU64::new(NOWHERE),
            seen: Mutex::new(None),
        }
    }
}

impl Milestone {
    /// Hears once the entry of this index has been applied and none after it.
    pub(crate) fn set(&self, index: u64) -> oneshot::Receiver<Result<View, Fatal>> {
        let (seen, hear) = oneshot::channel();
        let mut place = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(seen);
        self.index.store(index, Ordering::Release);
        hear
    }

    /// Has a chunk of entries to end with this one?
    pub(super) fn is_at(&self, index: u64) -> bool {
        self.index.load(Ordering::Acquire) == index
    }

    /// Everything up to this index is applied. A position that has been passed is never heard of.
    pub(super) fn applied(&self, index: u64, view: impl FnOnce() -> Result<View, Fatal>) {
        if index < self.index.load(Ordering::Acquire) {
            return;
        }
        let mut place = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.index.swap(NOWHERE, Ordering::AcqRel);
        if let Some(seen) = place.take()
            && wanted == index
        {
            let _nobody_waits_any_more = seen.send(view());
        }
    }
}
