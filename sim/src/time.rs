//! Virtual time, in milliseconds since the world began.

use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::Instant;
use openraft_rt_sim::{SimInstant, SimRuntime};

pub fn now_ms() -> u64 {
    u64::try_from(now().as_millis()).expect("a run is short")
}

pub fn now() -> Duration {
    SimInstant::now().elapsed_since_start()
}

pub async fn sleep_ms(ms: u64) {
    SimRuntime::sleep(Duration::from_millis(ms)).await;
}

/// What the work gives, if it is done within so long.
pub fn within_ms<'a, T: Send + 'a>(
    ms: u64,
    work: impl Future<Output = T> + Send + 'a,
) -> impl Future<Output = Option<T>> + Send + 'a {
    // Boxed: those of the consensus library are large, and would be in whoever waits for them.
    let work = Box::pin(work);
    async move {
        SimRuntime::timeout(Duration::from_millis(ms), work)
            .await
            .ok()
    }
}

/// Runs beside everything else, and to its end whoever waits for it.
pub fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Option<T>> + Send {
    let handle = SimRuntime::spawn(work);
    async move { handle.await.ok() }
}

/// Wall time when the world began.
const BEGAN_MS: u64 = 1_700_000_000_000;

/// Wall time, the same on all nodes.
pub fn wall_ms() -> u64 {
    BEGAN_MS + now_ms()
}
