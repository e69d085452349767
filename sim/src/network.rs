//! Links between everybody: each message takes its time and may be lost; links are cut one way or both ways, and heal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::chance::Chance;
use crate::time::{now_ms, sleep_ms, spawn, within_ms};

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Node(u64),
    Gateway(u32),
    /// Agents and operators, who are never cut off.
    Outside,
}

/// Who asks gives up after so long. The consensus library's own limit is one heartbeat, too short for a slow disk.
const CALL_MS: u64 = 1_000;

#[derive(Debug, Default)]
struct Links {
    /// From, to.
    cut: BTreeSet<(Place, Place)>,
    /// Who stands still, and until when.
    frozen: BTreeMap<Place, u64>,
    /// One message in so many is lost; 0: none.
    lost_in: u64,
    delay_ms_max: u64,
}

#[derive(Clone, Debug)]
pub struct Network {
    links: Arc<Mutex<Links>>,
    chance: Arc<Mutex<Chance>>,
}

impl Network {
    pub fn new(chance: Arc<Mutex<Chance>>) -> Self {
        let network = Network {
            links: Arc::default(),
            chance,
        };
        network.heal();
        network
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chance(&self) -> MutexGuard<'_, Chance> {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- trouble ----

    /// One way; whoever it is always reaches itself.
    pub fn cut(&self, from: Place, to: Place) {
        if from != to {
            self.links().cut.insert((from, to));
        }
    }

    pub fn weather(&self, lost_in: u64, delay_ms_max: u64) {
        let mut links = self.links();
        (links.lost_in, links.delay_ms_max) = (lost_in, delay_ms_max);
    }

    /// It stands still for so long: what is said to it, and what it says, waits.
    pub fn freeze(&self, place: Place, ms: u64) {
        self.links().frozen.insert(place, now_ms() + ms);
    }

    fn is_frozen(&self, place: Place) -> bool {
        let frozen = &self.links().frozen;
        frozen.get(&place).is_some_and(|until| now_ms() < *until)
    }

    /// Returns when this place does not stand still.
    pub async fn awake(&self, place: Place) {
        while self.is_frozen(place) {
            sleep_ms(20).await;
        }
    }

    /// Everybody hears everybody again.
    pub fn heal(&self) {
        let mut links = self.links();
        links.cut.clear();
        links.frozen.clear();
        (links.lost_in, links.delay_ms_max) = (0, 5);
    }

    // ---- messages ----

    /// Does the message arrive? Returns when it does, or would have.
    async fn carry(&self, from: Place, to: Place) -> bool {
        let (delay, lost) = {
            let links = self.links();
            let mut chance = self.chance();
            let delay = chance.between(1, links.delay_ms_max);
            let lost = links.lost_in > 0 && chance.one_in(links.lost_in);
            (delay, lost || links.cut.contains(&(from, to)))
        };
        sleep_ms(delay).await;
        self.awake(from).await;
        self.awake(to).await;
        !lost && !self.links().cut.contains(&(from, to))
    }

    /// Asks and waits for the answer. The work is done to its end also where nobody waits for it any more: who has no
    /// answer knows nothing.
    pub fn call<T: Send + 'static>(
        &self,
        from: Place,
        to: Place,
        work: impl Future<Output = Option<T>> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send {
        self.call_within(CALL_MS, from, to, work)
    }

    /// As [`Network::call`], with more patience.
    pub fn call_within<T: Send + 'static>(
        &self,
        ms: u64,
        from: Place,
        to: Place,
        work: impl Future<Output = Option<T>> + Send + 'static,
    ) -> impl Future<Output = Option<T>> + Send {
        let work = Box::pin(work);
        let exchange = async move {
            if !self.carry(from, to).await {
                return std::future::pending().await;
            }
            let answer = spawn(work).await.flatten();
            if self.carry(to, from).await {
                answer
            } else {
                std::future::pending().await
            }
        };
        let exchange = within_ms(ms, exchange);
        async move { exchange.await.flatten() }
    }

    /// Says something without waiting.
    pub async fn tell(&self, from: Place, to: Place) -> bool {
        self.carry(from, to).await
    }
}
