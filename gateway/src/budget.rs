//! Bytes of messages in flight, all connections together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// The budget. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    max: usize,
    gauge: Gauge,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

// === impl Budget ===

impl Budget {
    /// Of `max` bytes, shown in `gauge`.
    pub fn new(max: usize, gauge: Gauge) -> Self {
        Budget {
            used: Arc::default(),
            max,
            gauge,
        }
    }

    /// A share of `bytes`, or none if the budget is spent.
    pub fn take(&self, bytes: usize) -> Option<Share> {
        let mut share = self.empty();
        share.grow(bytes).then_some(share)
    }

    /// A share of nothing, to grow with what arrives.
    pub fn empty(&self) -> Share {
        Share {
            budget: self.clone(),
            bytes: 0,
        }
    }

    /// Would `bytes` more fit at the moment? Nothing is taken, so others may be faster.
    pub fn has(&self, bytes: usize) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        used.saturating_add(bytes) <= self.max
    }
}

// === impl Share ===

impl Share {
    /// Takes `bytes` more; says whether there were enough.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let used = self.budget.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > self.budget.max {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        self.show(used);
        true
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn show(&self, used: usize) {
        self.budget
            .gauge
            .set(i64::try_from(used).unwrap_or(i64::MAX));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let used = self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.show(used.saturating_sub(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_budget_and_come_back() {
        let budget = Budget::new(10, Gauge::default());
        let mut first = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        assert!(budget.has(4) && !budget.has(5) && !budget.has(usize::MAX));
        assert!(first.grow(4));
        assert!(!first.grow(1));
        drop(first);
        assert!(budget.take(10).is_some());
    }
}
