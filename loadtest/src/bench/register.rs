//! New agents with full first messages, as fast as they are answered: a cold start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::opamp::ServerToAgent;

use super::idle::Poller;
use super::wire::Connection;
use super::{Error, Outcome, Plan, Tally, measure};
use crate::agent::{Disk, Effect, Event, Options, SimAgent, Timer, Wire};
use crate::collector::{Composer, config_map};
use crate::identity::Identity;
use crate::script::Script;

/// Pause of a connection after 429 or 503.
pub(super) const SHED_PAUSE: Duration = Duration::from_millis(50);
/// A conversation that takes more messages than this is a loop.
const CONVERSATION_MAX: usize = 50;

/// What the registering agents have been running, so that their first message has a realistic size (about 2 KiB).
const CONFIG: &str = include_str!("register.yaml");

/// Makes the agents of one connection, one after the other.
pub(super) struct Newcomers {
    seed: u64,
    indices: std::iter::StepBy<std::ops::Range<usize>>,
    options: Arc<Options>,
    composer: Arc<Composer>,
    running: bool,
}

/// One agent on its way in.
pub(super) struct Newcomer {
    agent: SimAgent,
    started: Duration,
}

/// Registers [`Plan::agents`] agents; [`Plan::duration`] bounds it. Counts only the first message of each.
///
/// # Errors
///
/// See [`Error`]; a broken connection ends the bench.
pub async fn register(plan: Plan) -> Result<Outcome, Error> {
    let plan = Arc::new(plan);
    let lanes = 0..plan.connections;
    measure(&plan, lanes, |lane, end| announce(plan.clone(), lane, end)).await
}

async fn announce(plan: Arc<Plan>, lane: usize, end: Instant) -> Result<Tally, Error> {
    let mut connection = Connection::open(&plan).await?;
    let mut newcomers = Newcomers::new(&plan, lane);
    newcomers.running = true;
    let mut tally = Tally::new();
    while let Some(mut newcomer) = newcomers.next() {
        for first in newcomer.step(Event::Start) {
            while Instant::now() < end {
                let sent = Instant::now();
                let status = connection.post(&first).await?.status;
                match status {
                    200 => tally
                        .latency
                        .saturating_record(sent.elapsed().as_micros() as u64),
                    _ => tally.non_200 += 1,
                }
                if !matches!(status, 429 | 503) {
                    break;
                }
                tokio::time::sleep(SHED_PAUSE).await;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    Ok(tally)
}

// === impl Newcomers ===

impl Newcomers {
    pub fn new(plan: &Plan, lane: usize) -> Self {
        let indices = (lane.min(plan.agents)..plan.agents).step_by(plan.connections.max(1));
        Newcomers {
            seed: plan.seed,
            indices,
            options: Arc::default(),
            composer: Arc::default(),
            running: false,
        }
    }

    pub fn next(&mut self) -> Option<Newcomer> {
        let identity = Identity::drawn(self.seed, self.indices.next()? as u64, "agent");
        let config = self
            .composer
            .compose(&config_map(CONFIG))
            .ok()
            .filter(|_| self.running);
        let disk = match config {
            Some(config) => Disk::running(
                identity.uid,
                blake3::hash(CONFIG.as_bytes()).as_bytes().to_vec(),
                config,
            ),
            None => Disk::empty(identity.uid),
        };
        let (options, composer) = (self.options.clone(), self.composer.clone());
        let agent = SimAgent::new(
            identity,
            Wire::Http,
            options,
            composer,
            Script::default(),
            disk,
        );
        Some(Newcomer {
            agent,
            started: Duration::ZERO,
        })
    }
}

// === impl Newcomer ===

impl Newcomer {
    /// Talks until neither side has anything to say; timers run out at once, in their order.
    pub async fn register(&mut self, connection: &mut Connection) -> Result<(), Error> {
        let mut waiting = self.step(Event::Start);
        let mut said = 0;
        let mut timers = [Timer::CollectorUp, Timer::Apply].into_iter();
        loop {
            while let Some(message) = waiting.pop() {
                said += 1;
                let answer = connection.post(&message).await?;
                if matches!(answer.status, 429 | 503) {
                    waiting.push(message);
                    tokio::time::sleep(SHED_PAUSE).await;
                } else if answer.status != 200 || said > CONVERSATION_MAX {
                    return Err(Error::Refused(answer.status));
                } else {
                    let reply = ServerToAgent::decode(answer.body).unwrap_or_default();
                    waiting = self.step(Event::Reply(Box::new(reply)));
                }
            }
            match timers.next() {
                Some(timer) => waiting = self.step(Event::Timer(timer)),
                None => return Ok(()),
            }
        }
    }

    pub fn poller(&self) -> Poller {
        Poller {
            uid: *self.agent.uid().as_bytes(),
            next_number: self.agent.next_sequence_num(),
        }
    }

    fn step(&mut self, event: Event) -> Vec<Bytes> {
        self.started += Duration::from_millis(1);
        let effects = self.agent.step(event, self.started);
        effects
            .into_iter()
            .filter_map(|e| {
                if let Effect::Send(bytes) = e {
                    Some(bytes)
                } else {
                    None
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_about_two_kibibytes() {
        let plan = Plan {
            endpoint: crate::transport::Endpoint::parse("http://127.0.0.1:1", false).unwrap(),
            token: None,
            agents: 3,
            connections: 2,
            duration: Duration::ZERO,
            seed: 1,
            plain: false,
            cpu_of: None,
            under_way: 1,
        };
        let mut newcomers = Newcomers::new(&plan, 0);
        newcomers.running = true;
        let first = newcomers.next().unwrap().step(Event::Start).remove(0);
        assert!((1800..3600).contains(&first.len()), "{}", first.len());
        assert!(
            newcomers.next().is_some() && newcomers.next().is_none(),
            "agents 0 and 2 of 3"
        );
    }
}
