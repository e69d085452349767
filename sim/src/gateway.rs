//! A gateway: it finds the leader of an agent's partition, asks it again until there is an answer, and writes an offer
//! only while its grant lives.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cluster::{Cluster, PARTITIONS};
use crate::evaluate::{Grant, Message};
use crate::invariants::Fact;
use crate::leader::GRANT_LIFE_MS;
use crate::network::{Network, Place};
use crate::time::{now_ms, sleep_ms, spawn};
use crate::types::GroupId;

/// A report without a leader is held for so long.
const HELD_MS: u64 = 5_000;

pub struct Gateway {
    pub id: u32,
    cluster: Arc<Cluster>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// A restart forgets everything, and whoever waits.
    life: u64,
    /// Who leads, by what was answered last.
    leads: BTreeMap<GroupId, u64>,
    /// When each agent was here last.
    heard: BTreeMap<u32, u64>,
}

/// An agent's request, as long as it waits for the answer.
#[derive(Clone, Debug)]
pub struct Connection(Arc<AtomicBool>);

// === impl Connection ===

impl Connection {
    pub fn open() -> Self {
        Connection(Arc::new(AtomicBool::new(true)))
    }

    pub fn close(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The partition that keeps this agent.
pub fn partition_of(agent: u32) -> GroupId {
    GroupId(1 + agent % PARTITIONS)
}

// === impl Gateway ===

impl Gateway {
    pub fn start(id: u32, cluster: &Arc<Cluster>) -> Arc<Self> {
        let gateway = Arc::new(Gateway {
            id,
            cluster: Arc::clone(cluster),
            memory: Mutex::default(),
        });
        let _presence = spawn(tell_presence(Arc::clone(&gateway)));
        gateway
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn network(&self) -> &Network {
        &self.cluster.network
    }

    /// Killed and begun anew.
    pub fn restart(&self) {
        let mut memory = self.memory();
        *memory = Memory {
            life: memory.life + 1,
            ..Memory::default()
        };
    }

    /// Answers an agent: what it is sent, if anything. None: 503, or no answer at all.
    pub async fn check_in(
        self: Arc<Self>,
        message: Message,
        connection: Connection,
    ) -> Option<Option<Grant>> {
        let life = {
            let mut memory = self.memory();
            memory.heard.insert(message.agent, now_ms());
            memory.life
        };
        let until = now_ms() + HELD_MS;
        loop {
            let asked = now_ms();
            let answer = self.ask(&message).await;
            if self.memory().life != life {
                return None;
            }
            match answer {
                Some(Some(grant)) => return Some(self.write(&message, grant, asked, &connection)),
                Some(None) => return Some(None),
                None if now_ms() >= until => return None,
                None => {}
            }
            let pause = self.cluster.watch.chance().between(20, 200);
            sleep_ms(pause).await;
        }
    }

    /// Asks whoever is believed to lead; who does not answer is believed no more.
    async fn ask(&self, message: &Message) -> Option<Option<Grant>> {
        let group = partition_of(message.agent);
        let nodes: Vec<u64> = self.cluster.node_ids().collect();
        let believed = self.memory().leads.get(&group).copied();
        let to = believed.unwrap_or_else(|| self.cluster.watch.chance().pick(&nodes));
        let (cluster, asks) = (Arc::clone(&self.cluster), message.clone());
        let work = async move {
            let process = cluster.process(to)?;
            let answer = process.report(group, asks).await?;
            process.is_alive().then_some(answer)
        };
        let (from, there) = (Place::Gateway(self.id), Place::Node(to));
        let answer = self.cluster.network.call(from, there, work).await;
        let mut memory = self.memory();
        match answer {
            Some(_) => memory.leads.insert(group, to),
            None => memory.leads.remove(&group),
        };
        answer
    }

    /// Writes the offer, if its grant still lives and the agent still waits; else its leader is told that it was not.
    fn write(
        &self,
        message: &Message,
        grant: Grant,
        asked: u64,
        connection: &Connection,
    ) -> Option<Grant> {
        if now_ms() < asked + GRANT_LIFE_MS && connection.is_open() {
            self.cluster.watch.note(Fact::Written {
                gateway: self.id,
                agent: message.agent,
                number: message.number,
                hash: grant.hash,
            });
            return Some(grant);
        }
        let group = partition_of(message.agent);
        let to = self.memory().leads.get(&group).copied()?;
        let (cluster, message, id) = (Arc::clone(&self.cluster), message.clone(), self.id);
        let _beside = spawn(async move {
            let there = Arc::clone(&cluster);
            let work = async move {
                there.process(to)?.take_back(group, &message).await;
                Some(())
            };
            cluster
                .network
                .call(Place::Gateway(id), Place::Node(to), work)
                .await
        });
        None
    }
}

/// Tells every node who was here. Loss is tolerated.
async fn tell_presence(gateway: Arc<Gateway>) {
    let cluster = Arc::clone(&gateway.cluster);
    loop {
        sleep_ms(500).await;
        let now = now_ms();
        let heard: Vec<(u32, u64)> = {
            let memory = gateway.memory();
            let recent = memory.heard.iter().filter(|(_, at)| now - **at < 5_000);
            recent.map(|(agent, at)| (*agent, now - at)).collect()
        };
        for node in cluster.node_ids() {
            let (there, heard, from) = (
                Arc::clone(&cluster),
                heard.clone(),
                Place::Gateway(gateway.id),
            );
            let _beside = spawn(async move {
                if there.network.tell(from, Place::Node(node)).await
                    && let Some(process) = there.process(node)
                {
                    for (agent, age) in heard {
                        process.leaders.hear(agent, age);
                    }
                }
            });
        }
    }
}
