//! A server's check-in path, measured with as little client as possible.
//!
//! Hand-written HTTP/1.1 over kept connections, one request in flight on each, bytes encoded by hand; WebSocket where many
//! agents share a connection. Plain HTTP only: what TLS costs is measured elsewhere. Messages are those of the simulated
//! supervisor.

pub mod bare;
mod change;
mod cpu;
mod idle;
mod register;
mod wire;

pub use change::change;
pub use idle::idle;
pub use register::register;

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::transport::Endpoint;

/// Beyond the set duration, a bench that hangs is given up after this.
const GRACE: Duration = Duration::from_secs(30);

/// What to measure, and with how much.
#[derive(Clone, Debug)]
pub struct Plan {
    pub endpoint: Endpoint,
    pub token: Option<String>,
    pub agents: usize,
    /// The agents are dealt out over these.
    pub connections: usize,
    /// Of the measured part; registering is as long as it takes.
    pub duration: Duration,
    pub seed: u64,
    /// The server is a bare one: nothing is registered and no answer is read beyond its status.
    pub plain: bool,
    /// Whose CPU time is to be counted, too.
    pub cpu_of: Option<u32>,
    /// Agents of one connection that have a change under way at a time; above 1 over WebSocket. Of [`change`] only.
    pub under_way: usize,
}

/// What a bench has found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    pub checkins: u64,
    pub seconds: f64,
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    /// 429 and 503 among them, and errors over WebSocket, are repeated by `bench-register` and `bench-change`, lost in
    /// `bench-idle`.
    pub non_200: u64,
    /// Answers that asked for full state: 0 for a server that is right.
    pub full_state_requests: u64,
    pub connections: usize,
    pub agents: usize,
    pub pid: u32,
    /// CPU the measuring process used meanwhile.
    pub client_cpu_seconds: Option<f64>,
    /// CPU the process given with `--cpu-of` used meanwhile.
    pub server_cpu_seconds: Option<f64>,
    pub cpu_us_per_checkin: Option<f64>,
}

/// Why a bench could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("benches speak plain HTTP: give an http URL")]
    Tls,
    #[error("could not connect to {authority}")]
    Connect {
        authority: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the conversation with the server broke")]
    Broken(#[from] std::io::Error),
    #[error("registration was answered with status {0}")]
    Refused(u16),
    #[error("no end in {0:?}")]
    Hung(Duration),
    #[error("a task of the bench failed")]
    Task(#[from] tokio::task::JoinError),
}

/// What one connection counted.
#[derive(Debug)]
struct Tally {
    latency: Histogram<u64>,
    non_200: u64,
    full_state_requests: u64,
}

/// The measured part: one task a connection, of what that has to do and when it has to end.
async fn measure<L, F>(
    plan: &Plan,
    lanes: impl IntoIterator<Item = L>,
    run: impl Fn(L, Instant) -> F,
) -> Result<Outcome, Error>
where
    F: Future<Output = Result<Tally, Error>> + Send + 'static,
{
    let clocks = cpu::Clocks::start(plan.cpu_of);
    let start = Instant::now();
    let end = start + plan.duration;
    let lanes = lanes.into_iter().map(|lane| tokio::spawn(run(lane, end)));
    let lanes: Vec<_> = lanes.collect();
    let limit = plan.duration + GRACE;
    let mut total = Tally::new();
    for lane in lanes {
        let done = tokio::time::timeout(limit, lane).await;
        total.add(&done.map_err(|_| Error::Hung(limit))???);
    }
    Ok(total.outcome(plan, start.elapsed().as_secs_f64(), &clocks))
}

// === impl Tally ===

impl Tally {
    fn new() -> Self {
        let latency =
            Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds and digits are legal");
        Tally {
            latency,
            non_200: 0,
            full_state_requests: 0,
        }
    }

    fn add(&mut self, other: &Tally) {
        let _ = self.latency.add(&other.latency);
        self.non_200 += other.non_200;
        self.full_state_requests += other.full_state_requests;
    }

    fn outcome(&self, plan: &Plan, seconds: f64, clocks: &cpu::Clocks) -> Outcome {
        let checkins = self.latency.len();
        let (client, server) = clocks.used();
        Outcome {
            checkins,
            seconds,
            per_second: checkins as f64 / seconds.max(1e-9),
            p50_us: self.latency.value_at_quantile(0.5),
            p99_us: self.latency.value_at_quantile(0.99),
            non_200: self.non_200,
            full_state_requests: self.full_state_requests,
            connections: plan.connections,
            agents: plan.agents,
            pid: std::process::id(),
            client_cpu_seconds: client,
            server_cpu_seconds: server,
            cpu_us_per_checkin: server.map(|seconds| seconds * 1e6 / checkins.max(1) as f64),
        }
    }
}
