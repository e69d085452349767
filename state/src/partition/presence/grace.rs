//! In which time an agent could be heard at all: only silence in it tells that an agent is lost.

use std::sync::Arc;

/// Looks are a second apart; after so much longer this node has stood still, or is so loaded that it hears nobody in time.
const STOOD_STILL_MS: u64 = 3_000;

/// A gateway that has come back has said within this where all its conversations stand.
pub(super) const INTRODUCED_MS: u64 = 10_000;

/// Since when this node could hear, and through which gateways.
pub(super) struct Grace {
    /// Since then all could be heard, as far as it is for this node. Silence before proves nothing.
    listens_from_ms: u64,
    /// That were heard; an agent's is an index into it.
    gateways: Vec<Gateway>,
}

struct Gateway {
    name: Arc<str>,
    /// It has no stream to this node, and has had one lately.
    away: bool,
    /// Silence of its agents before that proves nothing.
    silent_until_ms: u64,
}

// === impl Grace ===

impl Grace {
    pub(super) fn from(now_ms: u64) -> Self {
        Grace {
            listens_from_ms: now_ms,
            gateways: Vec::new(),
        }
    }

    /// Leads anew, and may have been cut off until now.
    pub(super) fn begin(&mut self, now_ms: u64) {
        self.listens_from_ms = now_ms;
    }

    /// Looks for who is lost, after it has done so before.
    pub(super) fn looks(&mut self, before_ms: u64, now_ms: u64, lost_after_ms: u64) {
        let stood_still_ms = STOOD_STILL_MS.max(lost_after_ms / 2);
        if now_ms.saturating_sub(before_ms) > stood_still_ms {
            self.listens_from_ms = now_ms;
        }
    }

    /// One text for all agents of a gateway; there are few.
    pub(super) fn gateway(&mut self, name: &str) -> u32 {
        let known = self.gateways.iter().position(|known| &*known.name == name);
        let at = known.unwrap_or_else(|| {
            self.gateways.push(Gateway {
                name: name.into(),
                away: false,
                silent_until_ms: 0,
            });
            self.gateways.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }

    pub(super) fn name(&self, gateway: u32) -> Option<&Arc<str>> {
        let gateway = self.gateways.get(gateway as usize)?;
        Some(&gateway.name)
    }

    /// It can be heard from now on, or cannot be for now.
    pub(super) fn is_here(&mut self, gateway: u32, here: bool, now_ms: u64, lost_after_ms: u64) {
        let judged_ms = (now_ms + INTRODUCED_MS).saturating_sub(lost_after_ms);
        if let Some(gateway) = self.gateways.get_mut(gateway as usize) {
            gateway.away = !here;
            if here {
                gateway.silent_until_ms = gateway.silent_until_ms.max(judged_ms);
            }
        }
    }

    /// It will not come back: its agents may come elsewhere from now on.
    pub(super) fn is_gone(&mut self, gateway: u32, now_ms: u64) {
        if let Some(gateway) = self.gateways.get_mut(gateway as usize) {
            (gateway.away, gateway.silent_until_ms) = (false, now_ms);
        }
    }

    /// Since when an agent of this gateway could be heard; none: it cannot be now.
    pub(super) fn since_ms(&self, gateway: Option<u32>) -> Option<u64> {
        let gateway = gateway.and_then(|at| self.gateways.get(at as usize));
        if gateway.is_some_and(|gateway| gateway.away) {
            return None;
        }
        let silent_until_ms = gateway.map_or(0, |gateway| gateway.silent_until_ms);
        Some(silent_until_ms.max(self.listens_from_ms))
    }
}
