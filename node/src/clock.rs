//! Wall time that does not jump: it runs with the monotonic clock and follows the system's a hundredth at a time.
//!
//! What is stored has wall times, since it outlives this process, and ages are made of them: of offers, of health. A
//! step of the system's clock must neither time out every offer at once nor keep them open for an hour.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// [`follow`] is called so often.
pub const FOLLOW: Duration = Duration::from_secs(1);

/// The clock is moved by at most so much each time.
const STEP_MS: i64 = 10;

/// Such a difference is worth a word.
const ODD_MS: u64 = 5_000;

static CLOCK: LazyLock<Clock> = LazyLock::new(|| Clock {
    begun: Instant::now(),
    base_ms: AtomicI64::new(system_ms()),
});

struct Clock {
    begun: Instant,
    /// Wall time at `begun`, as far as is known.
    base_ms: AtomicI64,
}

/// Wall time in milliseconds since 1970: for people and for ages, never for order.
pub fn now_ms() -> u64 {
    let since = i64::try_from(CLOCK.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    let now = CLOCK.base_ms.load(Ordering::Relaxed).saturating_add(since);
    u64::try_from(now).unwrap_or(0)
}

/// Moves a little towards the system's clock.
pub fn follow() {
    let behind_ms = system_ms().saturating_sub_unsigned(now_ms());
    CLOCK.base_ms.fetch_add(step(behind_ms), Ordering::Relaxed);
    if behind_ms.unsigned_abs() >= ODD_MS && now_ms() % 60_000 < 1_000 {
        tracing::warn!(
            behind_ms,
            "the system's clock was set; it is followed slowly, and times shown differ from it until then"
        );
    }
}

fn step(behind_ms: i64) -> i64 {
    behind_ms.clamp(-STEP_MS, STEP_MS)
}

fn system_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_followed_and_does_not_jump() {
        assert_eq!(step(3), 3);
        assert_eq!(step(3_600_000), STEP_MS);
        assert_eq!(step(-3_600_000), -STEP_MS);
    }

    #[test]
    fn it_begins_with_the_systems_time() {
        assert!(now_ms().abs_diff(system_ms().unsigned_abs()) < 1_000);
    }
}
