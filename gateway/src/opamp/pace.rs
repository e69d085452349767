//! Is a message that has begun still coming? It may be slow, but what it holds of the budget is not held for nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::Limits;

/// The deadlines of one body or WebSocket message.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The whole of it is there by then.
    end: Instant,
    /// The next `step` bytes are there by then.
    step_end: Instant,
    every: Duration,
    step: usize,
    /// Bytes since the last whole step.
    since: usize,
}

// === impl Pace ===

impl Pace {
    /// For a message that begins now.
    pub fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        Pace {
            end: now + limits.body_timeout,
            step_end: now + limits.progress_timeout,
            every: limits.progress_timeout,
            step: limits.progress_bytes.max(1),
            since: 0,
        }
    }

    /// `bytes` more have come.
    pub fn arrived(&mut self, bytes: usize) {
        self.since = self.since.saturating_add(bytes);
        if self.since >= self.step {
            self.since = 0;
            self.step_end = Instant::now() + self.every;
        }
    }

    /// It is given up then, unless more has come.
    pub fn due(&self) -> Instant {
        self.end.min(self.step_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_steps_put_the_deadline_off_and_never_beyond_the_end() {
        let limits = Limits {
            progress_bytes: 100,
            progress_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(15),
            ..Limits::default()
        };
        let mut pace = Pace::new(&limits);
        let first = pace.due();
        pace.arrived(99);
        assert_eq!(pace.due(), first);
        std::thread::sleep(Duration::from_millis(2));
        pace.arrived(1);
        assert!(pace.due() > first);
        pace.every = Duration::from_secs(60);
        pace.arrived(100);
        assert_eq!(pace.due(), pace.end);
    }
}
