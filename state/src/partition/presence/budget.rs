//! How often an agent may change its record: whoever goes on and on is written down as it is now and then.

use std::collections::HashMap;

use proto::uid::Uid;

/// An agent may change its record so often in a row, and once in [`WRITE_EVERY_MS`] in the long run.
pub(super) const WRITES: u32 = 30;
pub(super) const WRITE_EVERY_MS: u64 = 2_000;

/// Who has earned so many changes since has rested, and is asked for what was skipped: after 6 s of quiet.
const RESTED: u32 = 3;

/// Only agents that wrote lately have one.
#[derive(Default)]
pub(super) struct Budgets(HashMap<Uid, Budget>);

/// What an agent has left of its write budget.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    since_ms: u64,
    /// Changes that were not written.
    skipped: u64,
}

// === impl Budgets ===

impl Budgets {
    /// May a change be written? If not, it counts as skipped.
    pub(super) fn may_write(&mut self, uid: Uid, now_ms: u64) -> bool {
        let budget = self.0.entry(uid).or_insert(Budget {
            left: WRITES,
            since_ms: now_ms,
            skipped: 0,
        });
        budget.refill(now_ms);
        let may = budget.left > 0;
        budget.skipped += u64::from(!may);
        may
    }

    /// It was written. What was tried and not stored uses up nothing.
    pub(super) fn wrote(&mut self, uid: Uid) {
        if let Some(budget) = self.0.get_mut(&uid) {
            budget.left = budget.left.saturating_sub(1);
        }
    }

    /// How many changes were skipped of an agent that may write again: once.
    pub(super) fn owed(&mut self, uid: Uid, now_ms: u64) -> Option<u64> {
        let budget = self.0.get_mut(&uid)?;
        budget.refill(now_ms);
        // Not at the first write that is free: an agent that goes on would be asked at every other message.
        let rested = budget.left >= RESTED && budget.skipped > 0;
        rested.then(|| std::mem::take(&mut budget.skipped))
    }

    /// Was something skipped that nobody has asked for?
    pub(super) fn owes(&self, uid: Uid) -> bool {
        let budget = self.0.get(&uid);
        budget.is_some_and(|budget| budget.skipped > 0)
    }

    /// Forgets budgets that are whole again.
    pub(super) fn rest(&mut self, now_ms: u64) {
        self.0.retain(|_, budget| {
            budget.refill(now_ms);
            budget.left < WRITES || budget.skipped > 0
        });
    }

    pub(super) fn forget(&mut self, uid: Uid) {
        self.0.remove(&uid);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Budget {
    fn refill(&mut self, now_ms: u64) {
        let earned = now_ms.saturating_sub(self.since_ms) / WRITE_EVERY_MS;
        self.since_ms += earned * WRITE_EVERY_MS;
        let earned = u32::try_from(earned).unwrap_or(WRITES);
        self.left = self.left.saturating_add(earned).min(WRITES);
    }
}
