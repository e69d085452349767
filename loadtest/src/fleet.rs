//! Many simulated supervisors in one process, with a handle to watch and drive them.
//!
//! Each agent is a task with one connection. They start spread over the ramp, in the order of their index; agent `i` of
//! the same seed and roles is the same agent in every run.

mod config;
mod handle;

pub use config::{FleetConfig, Transport};
pub use handle::{AgentHandle, AgentState};

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::uid::Uid;
use tokio::sync::mpsc;

use crate::agent::{Disk, Options, SimAgent, Wire};
use crate::collector::Composer;
use crate::driver::{Driver, View};
use crate::identity::Identity;
use crate::script::Script;
use crate::stats::{Offer, Record, Report, Snapshot};
use crate::transport::{self, Endpoint, Route};

/// Orders to one agent that may wait.
const CONTROLS_MAX: usize = 16;
/// How long agents may take to say goodbye.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Why a fleet cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not use the server")]
    Transport(#[from] transport::Error),
    #[error("waited {waited:?} for {what}; the fleet is at {snapshot:?}")]
    Waited {
        what: String,
        waited: Duration,
        snapshot: Box<Snapshot>,
    },
}

/// A running fleet. Dropping it switches every agent off without a word.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    options: Arc<Options>,
    composer: Arc<Composer>,
    record: Arc<Record>,
    route: Route,
    agents: Mutex<Vec<AgentHandle>>,
}

// === impl Fleet ===

impl Fleet {
    /// Starts the agents of `config`, spread over its ramp; returns at once. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Transport`] for a server that is no URL, not loopback without `allow_remote`, or an unreadable CA file.
    pub fn start(config: FleetConfig) -> Result<Self, Error> {
        let endpoints = config
            .servers
            .iter()
            .map(|url| Endpoint::parse(url, config.allow_remote));
        let endpoints: Arc<[Endpoint]> = endpoints.collect::<Result<Vec<_>, _>>()?.into();
        if endpoints.is_empty() {
            return Err(transport::Error::None.into());
        }
        let tls = transport::tls(config.ca.as_deref())?;
        let route = Route {
            endpoints,
            turn: 0,
            headers: Vec::new(),
            tls,
            allow_remote: config.allow_remote,
        };
        let mut options = config.options.clone();
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        options.epoch_nanos = wall.as_nanos() as u64;
        let fleet = Fleet {
            options: Arc::new(options),
            composer: Arc::default(),
            record: Arc::new(Record::new()),
            route,
            agents: Mutex::default(),
            config,
        };
        fleet.spawn_all();
        Ok(fleet)
    }

    fn spawn_all(&self) {
        let total = self.config.agents().max(1) as u32;
        for (role, count) in &self.config.roles {
            for _ in 0..*count {
                let index = self.len();
                let delay = self.config.ramp * (index as u32) / total;
                self.spawn_one(role, self.config.scripts.script(role, index), None, delay);
            }
        }
    }

    /// One more agent, at once. Returns its index.
    pub fn spawn(&self, role: &str, script: Script) -> usize {
        self.spawn_one(role, script, None, Duration::ZERO)
    }

    /// A second machine with a copy of agent `index`'s disk: same uid, its own attributes and numbers.
    pub fn clone_agent(&self, index: usize) -> usize {
        let original = self.agent(index);
        self.spawn_one(
            original.role(),
            Script::default(),
            Some(original.view().disk),
            Duration::ZERO,
        )
    }

    fn spawn_one(&self, role: &str, script: Script, disk: Option<Disk>, delay: Duration) -> usize {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let index = agents.len();
        let identity = Identity::drawn(self.config.seed, index as u64, role);
        let uid = script.clone_of().map_or(identity.uid, |of| {
            Identity::drawn(self.config.seed, of as u64, "").uid
        });
        let disk = disk.unwrap_or_else(|| Disk::empty(uid));
        let wire = self.config.transport.wire(index);
        let agent = SimAgent::new(
            identity,
            wire,
            self.options.clone(),
            self.composer.clone(),
            script,
            disk,
        );
        let view = Arc::new(Mutex::new(View::of(&agent)));
        let (controls, orders) = mpsc::channel(CONTROLS_MAX);
        let (record, seen, route) = (
            self.record.clone(),
            view.clone(),
            self.route_of(index, role),
        );
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let driver = Driver::new(index, agent, orders, record, seen);
            match wire {
                Wire::Http => Box::pin(transport::http::run(driver, route)).await,
                Wire::Ws => Box::pin(transport::ws::run(driver, route)).await,
            }
        });
        agents.push(AgentHandle::new(
            index,
            role,
            controls,
            view,
            self.record.clone(),
            task,
        ));
        index
    }

    fn route_of(&self, index: usize, role: &str) -> Route {
        let token = self
            .config
            .role_tokens
            .get(role)
            .or(self.config.token.as_ref());
        let bearer = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
        Route {
            turn: index,
            headers: bearer.into_iter().collect(),
            ..self.route.clone()
        }
    }

    /// How many agents there are, started or not.
    pub fn len(&self) -> usize {
        self.agents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The agent number `index`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn agent(&self, index: usize) -> AgentHandle {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)[index].clone()
    }

    /// All agents, by index.
    pub fn agents(&self) -> Vec<AgentHandle> {
        self.agents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn uids(&self) -> Vec<Uid> {
        self.agents().iter().map(AgentHandle::uid).collect()
    }

    /// The numbers of the moment.
    pub fn stats(&self) -> Snapshot {
        self.record.snapshot(self.len())
    }

    /// Offers, reports and latencies in detail.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Each offer so far, in the order of arrival.
    pub fn offers(&self) -> Vec<Offer> {
        self.record.offers()
    }

    /// Each status sent so far, in the order of sending.
    pub fn reports(&self) -> Vec<Report> {
        self.record.reports()
    }

    /// Waits until `holds`; looks every 20 ms.
    ///
    /// # Errors
    ///
    /// [`Error::Waited`] with `what` was waited for, after `within`.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        holds: impl Fn(&Fleet, &Snapshot) -> bool,
    ) -> Result<Snapshot, Error> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let snapshot = self.stats();
            if holds(self, &snapshot) {
                return Ok(snapshot);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::Waited {
                    what: what.to_owned(),
                    waited: within,
                    snapshot: snapshot.into(),
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every agent's last exchange has succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::Waited`].
    pub async fn connected(&self, within: Duration) -> Result<Snapshot, Error> {
        self.until("all agents connected", within, |fleet, now| {
            now.connected as usize == fleet.len()
        })
        .await
    }

    /// Waits until every agent has reported `hash` as applied.
    ///
    /// # Errors
    ///
    /// [`Error::Waited`].
    pub async fn converged(&self, hash: &[u8], within: Duration) -> Result<Snapshot, Error> {
        let what = format!("all agents at {}", hex::encode(hash));
        self.until(&what, within, |fleet, _| {
            fleet
                .agents()
                .iter()
                .all(|agent| agent.state().applied(hash))
        })
        .await
    }

    /// Stops every agent cleanly; WebSocket agents say goodbye. Returns the last numbers.
    pub async fn stop(self) -> Snapshot {
        let snapshot = self.stats();
        let agents = self.agents();
        for agent in &agents {
            agent.ask_to_stop();
        }
        let deadline = tokio::time::Instant::now() + STOP_MAX;
        for agent in &agents {
            agent.ended(deadline).await;
        }
        snapshot
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for agent in self.agents() {
            agent.abort();
        }
    }
}
