//! An agent: it polls through any gateway, repeats a message until it is answered or given up, and takes what it is sent
//! as its nature is: it applies it, fails, falls back, is slow or says nothing.
//!
//! It says what is new, and everything when it starts or is asked for it.

use std::sync::Arc;

use fleet::digest::Digest;
use fleet::offer::Reported;
use proto::opamp::{ServerToAgent, ServerToAgentFlags};

use crate::gateway::{Connection, Gateway};
use crate::invariants::Fact;
use crate::message::{Facts, Message};
use crate::network::Place;
use crate::program::FAMILIES;
use crate::time::{now_ms, sleep_ms, wall_ms};
use crate::world::Watch;

/// Time between two polls, about; some agents take more.
pub const POLL_MS: u64 = 1_000;
pub const SLOW_POLL_MS: u64 = 6_000;

/// Now and then an agent sleeps for so long.
const ASLEEP_MS: u64 = 20_000;

/// An agent waits so long for an answer before it asks again, elsewhere perhaps.
const PATIENCE_MS: u64 = 6_000;

pub struct Agent {
    id: u32,
    watch: Watch,
    gateways: Vec<Arc<Gateway>>,
    number: (u64, u64),
    started_ms: u64,
    build: u64,
    running: Option<Digest>,
    status: Option<(Digest, Reported, String)>,
    work: Option<(Digest, Reaction, u64)>,
    /// Everything is to be said: it has started, or was asked.
    full: bool,
    /// What it has told of, as far as it knows.
    told: (u64, Option<(Digest, Reported)>),
}

/// How an agent takes a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    Apply,
    Slow,
    Reject,
    FallBack,
    Ignore,
}

pub fn family_of(id: u32) -> &'static str {
    FAMILIES[usize::from(id.is_multiple_of(3))].0
}

/// Its failure domain: some of every family and of every partition are in each.
pub fn zone_of(id: u32) -> &'static str {
    ["a", "b"][usize::from(id % 4 < 2)]
}

/// The same for the same agent, config and world.
fn reaction(seed: u64, id: u32, hash: Digest) -> Reaction {
    let bytes = Digest::of(
        "reaction",
        &[&seed.to_le_bytes(), &id.to_le_bytes(), hash.as_bytes()],
    );
    // A config may be bad for everybody.
    let bad = hash.as_bytes()[0] < 20;
    match bytes.as_bytes()[0] {
        0..6 => Reaction::Ignore,
        6..14 => Reaction::Reject,
        14..20 => Reaction::FallBack,
        20..120 if bad => Reaction::Reject,
        120..170 => Reaction::Slow,
        _ => Reaction::Apply,
    }
}

// === impl Agent ===

impl Agent {
    pub fn new(id: u32, watch: Watch, gateways: Vec<Arc<Gateway>>) -> Self {
        Agent {
            id,
            watch,
            gateways,
            number: (1, 0),
            started_ms: wall_ms(),
            build: 1,
            running: None,
            status: None,
            work: None,
            full: true,
            told: (0, None),
        }
    }

    pub async fn live(mut self) {
        let poll = if self.id.is_multiple_of(2) {
            SLOW_POLL_MS
        } else {
            POLL_MS
        };
        loop {
            let (pause, restarts, sleeps, upgrades, forgets) = {
                let mut chance = self.watch.chance();
                let pause = chance.between(poll / 2, poll * 3 / 2);
                let mut one_in = |times| chance.one_in(times);
                let restarts = one_in(150);
                (pause, restarts, one_in(25), one_in(8), one_in(60))
            };
            sleep_ms(if sleeps { ASLEEP_MS } else { pause }).await;
            self.build += u64::from(upgrades);
            if restarts {
                // What it worked on is forgotten.
                (self.number, self.started_ms) = ((self.number.0 + 1, 0), wall_ms());
                (self.work, self.full) = (None, true);
            }
            self.do_work();
            self.number.1 += 1;
            let message = self.compose();
            if forgets {
                self.lose();
            } else {
                self.check_in(message).await;
            }
        }
    }

    /// What there is to say now.
    fn compose(&mut self) -> Message {
        let facts = Facts {
            agent: self.id,
            number: self.number,
            family: family_of(self.id),
            build: self.build,
            status: self.status.clone(),
            started_ms: self.started_ms,
        };
        let (build, status) = self.told;
        let described = self.full || build != self.build;
        let message = Message::of(
            &facts,
            described,
            self.full,
            self.full || status != self.said(),
        );
        // It will be told, or lost without this agent's knowing.
        self.told = (self.build, self.said());
        message
    }

    fn said(&self) -> Option<(Digest, Reported)> {
        let status = self.status.as_ref();
        status.map(|(hash, reported, _)| (*hash, *reported))
    }

    /// The message never arrives, and the agent believes that it did. Unless it is the first one: that is told until it is
    /// heard.
    fn lose(&mut self) {
        if self.full {
            (self.number.1, self.told) = (self.number.1 - 1, (0, None));
            return;
        }
        self.watch.note(Fact::Lost { agent: self.id });
    }

    fn do_work(&mut self) {
        let Some((hash, reaction, since)) = self.work else {
            return;
        };
        let age = now_ms() - since;
        let needs = if reaction == Reaction::Slow {
            7_000
        } else {
            2_000
        };
        if age < needs {
            return;
        }
        self.status = match reaction {
            Reaction::FallBack if age < 2 * needs => {
                self.status = Some((hash, Reported::Failed, "unhealthy after apply".to_owned()));
                return;
            }
            Reaction::FallBack => self
                .running
                .map(|old| (old, Reported::Applied, String::new())),
            _ => {
                self.running = Some(hash);
                Some((hash, Reported::Applied, String::new()))
            }
        };
        self.work = None;
    }

    /// Says the same until somebody has heard it.
    async fn check_in(&mut self, message: Message) {
        let tells = message.said.remote_config_status.is_some();
        loop {
            let at = {
                let mut chance = self.watch.chance();
                let sticky = !chance.one_in(4);
                let id = usize::try_from(self.id).unwrap_or(0);
                let other = usize::try_from(chance.below(8)).unwrap_or(0);
                if sticky { id } else { other }
            };
            let gateway = Arc::clone(&self.gateways[at % self.gateways.len()]);
            let gateway_id = gateway.id;
            let place = Place::Gateway(gateway_id);
            let network = gateway.network().clone();
            let connection = Connection::open(&self.watch);
            let asked_ms = now_ms();
            let work = gateway.check_in(message.clone(), connection.clone());
            let answer = network
                .call_within(PATIENCE_MS, Place::Outside, place, work)
                .await;
            connection.close();
            if let Some(answer) = answer {
                self.watch.note(Fact::Answered {
                    agent: self.id,
                    gateway: gateway_id,
                    asked_ms,
                    full: self.full,
                    status: self.said().filter(|_| tells),
                });
                self.full = false;
                self.receive(&answer);
                return;
            }
            let pause = self.watch.chance().between(100, 1_000);
            sleep_ms(pause).await;
        }
    }

    fn receive(&mut self, answer: &ServerToAgent) {
        if answer.flags & ServerToAgentFlags::ReportFullState as u64 != 0 {
            self.full = true;
            self.watch.note(Fact::Asked { agent: self.id });
        }
        let config = answer.remote_config.as_ref();
        let Some(hash) = config.and_then(|config| Digest::from_slice(&config.config_hash)) else {
            return;
        };
        self.watch.note(Fact::Received {
            agent: self.id,
            number: self.number,
            hash,
        });
        let reaction = reaction(self.watch.seed(), self.id, hash);
        self.status = match reaction {
            Reaction::Ignore => return,
            Reaction::Reject => {
                self.work = None;
                Some((hash, Reported::Failed, "unknown key".to_owned()))
            }
            _ => {
                self.work = Some((hash, reaction, now_ms()));
                Some((hash, Reported::Applying, String::new()))
            }
        };
    }
}
