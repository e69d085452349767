//! The pace at which agents are asked for full state.

use std::collections::HashSet;

use proto::uid::Uid;

/// So many agents in a second are asked for full state, and so many at once: after a loss of power none of a million
/// conversations may be known, and each answer is some KiB to be stored.
pub const FULL_ASKS_PER_S: u64 = 500;

/// Who has lost a message and is asked for full state when it is its turn.
#[derive(Default)]
pub(super) struct FullAsks {
    /// In thousandths of an ask.
    used: u64,
    since_ms: u64,
    /// Agents whose loss was seen and who were not asked.
    postponed: HashSet<Uid>,
}

// === impl FullAsks ===

impl FullAsks {
    /// Leads anew: what was seen before, others may have asked for since.
    pub(super) fn begin(&mut self) {
        self.postponed.clear();
    }

    /// May an agent be asked now? It uses up what there is.
    pub(super) fn may_ask(&mut self, now_ms: u64) -> bool {
        let earned = now_ms
            .saturating_sub(self.since_ms)
            .saturating_mul(FULL_ASKS_PER_S);
        self.used = self.used.saturating_sub(earned);
        self.since_ms = now_ms;
        let free = self.used + 1_000 <= FULL_ASKS_PER_S * 1_000;
        self.used += u64::from(free) * 1_000;
        free
    }

    pub(super) fn postpone(&mut self, uid: Uid, postponed: bool) {
        if postponed {
            self.postponed.insert(uid);
        } else {
            self.postponed.remove(&uid);
        }
    }

    pub(super) fn is_postponed(&self, uid: Uid) -> bool {
        self.postponed.contains(&uid)
    }

    /// How many are still to be asked.
    pub(super) fn postponed(&self) -> usize {
        self.postponed.len()
    }
}
