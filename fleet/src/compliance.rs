//! The compliance window: from activation to converged, over the members of one rollout.

use std::fmt;

/// How long it took, in milliseconds, and for whom it has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Half of the converged members took no longer.
    pub p50_ms: Option<u64>,
    /// 99 % of the converged members took no longer.
    pub p99_ms: Option<u64>,
    /// The last one.
    pub last_ms: Option<u64>,
    /// Members that have converged.
    pub converged: u64,
    /// Members that have to, and have not yet.
    pub open: u64,
}

/// From activation and the instants of convergence, by one clock; who ran it before the activation took no time.
/// Percentiles are by nearest rank. `open` are members that are neither converged nor unchanged.
pub fn window(activated_ms: u64, converged_ms: impl IntoIterator<Item = u64>, open: u64) -> Window {
    let took = converged_ms
        .into_iter()
        .map(|at| at.saturating_sub(activated_ms));
    let mut took: Vec<u64> = took.collect();
    took.sort_unstable();
    let rank = |percent: usize| {
        let at = (took.len() * percent).div_ceil(100).checked_sub(1)?;
        took.get(at).copied()
    };
    Window {
        p50_ms: rank(50),
        p99_ms: rank(99),
        last_ms: took.last().copied(),
        converged: took.len() as u64,
        open,
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(p50), Some(p99), Some(last)) = (self.p50_ms, self.p99_ms, self.last_ms) else {
            return write!(f, "none of {} members has converged", self.open);
        };
        let seconds = |ms: u64| ms.div_ceil(1000);
        write!(
            f,
            "p50 {} s, p99 {} s, last agent {} s; {} converged, {} open",
            seconds(p50),
            seconds(p99),
            seconds(last),
            self.converged,
            self.open
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank_and_the_last_agent_is_named() {
        let hundred = window(1_000, (1..=100).map(|s| 1_000 + s * 1_000), 3);
        assert_eq!(
            hundred.to_string(),
            "p50 50 s, p99 99 s, last agent 100 s; 100 converged, 3 open"
        );
        let one = window(0, [5], 0);
        assert_eq!(
            (one.p50_ms, one.p99_ms, one.last_ms),
            (Some(5), Some(5), Some(5))
        );
    }

    #[test]
    fn nobody_converged_is_said_and_running_it_before_took_no_time() {
        assert_eq!(
            window(0, [], 4).to_string(),
            "none of 4 members has converged"
        );
        assert_eq!(window(100, [50], 0).last_ms, Some(0));
    }
}
