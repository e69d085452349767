//! What a group counts of itself, for whoever watches it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Group;
use crate::StateMachine;

/// What a group has done on this node since it was started, and what is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupCounts {
    /// Entries that were proposed here and have no answer yet.
    pub proposals: u64,
    /// Snapshots that are being sent.
    pub snapshots_sending: u64,
    /// Snapshots that were sent and taken.
    pub snapshots_sent: u64,
    /// Their bytes.
    pub snapshot_bytes_sent: u64,
    /// Snapshots that were begun to be sent and not taken.
    pub snapshots_failed: u64,
    /// Snapshots of others that were installed.
    pub snapshots_installed: u64,
}

/// The counters behind it. What is under way is given back by [`UnderWay`], also by a future that is dropped.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub proposals: AtomicU64,
    pub snapshots_sending: AtomicU64,
    pub snapshots_sent: AtomicU64,
    pub snapshot_bytes_sent: AtomicU64,
    pub snapshots_failed: AtomicU64,
    pub snapshots_installed: AtomicU64,
}

/// So many are under way until this is dropped.
pub(crate) struct UnderWay<'a> {
    counter: &'a AtomicU64,
    many: u64,
}

impl<'a> UnderWay<'a> {
    pub(crate) fn new(counter: &'a AtomicU64, many: usize) -> Self {
        let many = many as u64;
        counter.fetch_add(many, Ordering::Relaxed);
        UnderWay { counter, many }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.many, Ordering::Relaxed);
    }
}

impl<M: StateMachine> Group<M> {
    /// What this group has counted. Cheap; of a moment ago.
    pub fn counts(&self) -> GroupCounts {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GroupCounts {
            proposals: read(&counters.proposals),
            snapshots_sending: read(&counters.snapshots_sending),
            snapshots_sent: read(&counters.snapshots_sent),
            snapshot_bytes_sent: read(&counters.snapshot_bytes_sent),
            snapshots_failed: read(&counters.snapshots_failed),
            snapshots_installed: read(&counters.snapshots_installed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_given_back_also_when_it_is_given_up() {
        let counter = AtomicU64::new(0);
        let three = UnderWay::new(&counter, 3);
        let given_up = async {
            let _one = UnderWay::new(&counter, 1);
            std::future::pending::<()>().await;
        };
        let mut given_up = Box::pin(given_up);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(given_up.as_mut().poll(&mut context).is_pending());
        assert_eq!(counter.load(Ordering::Relaxed), 4);
        drop(given_up);
        assert_eq!(counter.load(Ordering::Relaxed), 3);
        drop(three);
        assert_eq!(counter.load(Ordering::Relaxed), 0);
    }
}
