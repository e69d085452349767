//! An agent: it polls through any gateway, repeats a message until it is answered, and takes what it is sent as its
//! nature is: it applies it, fails, falls back, is slow or says nothing.

use std::sync::Arc;

use fleet::digest::Digest;
use fleet::offer::Reported;

use crate::evaluate::{Grant, Message};
use crate::gateway::{Connection, Gateway};
use crate::invariants::Fact;
use crate::network::Place;
use crate::program::FAMILIES;
use crate::time::{now_ms, sleep_ms};
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
    build: u64,
    running: Option<Digest>,
    status: Option<(Digest, Reported, String)>,
    work: Option<(Digest, Reaction, u64)>,
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
            build: 1,
            running: None,
            status: None,
            work: None,
        }
    }

    pub async fn live(mut self) {
        let poll = if self.id.is_multiple_of(2) {
            SLOW_POLL_MS
        } else {
            POLL_MS
        };
        loop {
            let (pause, restarts, sleeps, upgrades) = {
                let mut chance = self.watch.chance();
                let pause = chance.between(poll / 2, poll * 3 / 2);
                let mut one_in = |times| chance.one_in(times);
                (pause, one_in(150), one_in(25), one_in(8))
            };
            sleep_ms(if sleeps { ASLEEP_MS } else { pause }).await;
            self.build += u64::from(upgrades);
            if restarts {
                // What it worked on is forgotten.
                self.number = (self.number.0 + 1, 0);
                self.work = None;
            }
            self.do_work();
            self.number.1 += 1;
            self.check_in().await;
        }
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
    async fn check_in(&mut self) {
        let message = Message {
            agent: self.id,
            number: self.number,
            family: family_of(self.id),
            build: self.build,
            status: self.status.clone(),
            healthy: true,
        };
        loop {
            let at = {
                let mut chance = self.watch.chance();
                let sticky = !chance.one_in(4);
                let id = usize::try_from(self.id).unwrap_or(0);
                let other = usize::try_from(chance.below(8)).unwrap_or(0);
                if sticky { id } else { other }
            };
            let gateway = Arc::clone(&self.gateways[at % self.gateways.len()]);
            let place = Place::Gateway(gateway.id);
            let network = gateway.network().clone();
            let connection = Connection::open();
            let work = gateway.check_in(message.clone(), connection.clone());
            let answer = network
                .call_within(PATIENCE_MS, Place::Outside, place, work)
                .await;
            connection.close();
            if let Some(answer) = answer {
                let status = message.status.as_ref();
                self.watch.note(Fact::Answered {
                    agent: self.id,
                    status: status.map(|(hash, reported, _)| (*hash, *reported)),
                });
                if let Some(grant) = answer {
                    self.receive(grant);
                }
                return;
            }
            let pause = self.watch.chance().between(100, 1_000);
            sleep_ms(pause).await;
        }
    }

    fn receive(&mut self, grant: Grant) {
        let hash = grant.hash;
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
