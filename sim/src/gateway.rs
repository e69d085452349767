//! A gateway: the server's session table, and around it a shell that finds leaders, keeps a line to each node, and
//! writes an offer only while its grant lives.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway::sessions::{Decision, Heard, Reply, Settled, Table, Turns};
use prost::Message as _;
use proto::edge::{Answer, Notice, Presence, Report, Session, Transport, Unsent, notice};
use proto::opamp::ServerToAgent;
use proto::sequence::is_idle;
use proto::uid::Uid;

use crate::cluster::{Cluster, PARTITIONS};
use crate::invariants::Fact;
use crate::line::{Said, Told};
use crate::message::{CAPABILITIES, Message};
use crate::network::{Network, Place};
use crate::program::uid;
use crate::time::{now_ms, sleep_ms, spawn};
use crate::types::GroupId;
use crate::world::Watch;

/// A report without a leader is held for so long.
const HELD_MS: u64 = 5_000;

/// Who spoke is named so often.
const PRESENCE_MS: u64 = 250;

/// Without a word of the leader's node for so long, nothing is answered from a session of its partition.
const CONTACT_MS: u64 = 10_000;

pub struct Gateway {
    pub id: u32,
    cluster: Arc<Cluster>,
    memory: Mutex<Memory>,
}

struct Memory {
    /// A restart forgets everything, and whoever waits.
    life: u64,
    table: Table,
    turns: Turns<()>,
    lines: BTreeMap<u64, Line>,
    /// Who leads, and in which term, by what nodes say.
    leads: BTreeMap<GroupId, (u64, u64)>,
}

/// To one node.
#[derive(Default)]
struct Line {
    /// Of the stream; another one begins when this one breaks.
    number: u64,
    stands: bool,
    heard_ms: u64,
    /// Who spoke since it was told last.
    spoke: Vec<Presence>,
}

/// An agent's request, as long as it waits for the answer.
#[derive(Clone, Debug)]
pub struct Connection {
    number: u64,
    open: Arc<AtomicBool>,
}

// === impl Connection ===

impl Connection {
    pub fn open(watch: &Watch) -> Self {
        Connection {
            number: watch.next_change(),
            open: Arc::new(AtomicBool::new(true)),
        }
    }

    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }
}

/// The partition that keeps this agent.
pub fn partition_of(agent: u32) -> GroupId {
    GroupId(1 + agent % PARTITIONS)
}

// === impl Memory ===

impl Memory {
    fn new(life: u64) -> Self {
        Memory {
            life,
            table: Table::new(1_000),
            turns: Turns::new(0),
            lines: BTreeMap::new(),
            leads: BTreeMap::new(),
        }
    }

    fn leader(&self, group: GroupId) -> Option<u64> {
        let (_, node) = self.leads.get(&group)?;
        self.lines.get(node).filter(|line| line.stands)?;
        Some(*node)
    }

    fn in_contact(&self, group: GroupId) -> bool {
        let line = self.leader(group).and_then(|node| self.lines.get(&node));
        line.is_some_and(|line| now_ms() - line.heard_ms < CONTACT_MS)
    }

    /// A node's word on one agent; what it wants to know in turn.
    fn notice(&mut self, notice: &Notice) -> Option<Presence> {
        let uid = Uid::from_wire(&notice.instance_uid).ok()?;
        match notice.kind() {
            notice::Kind::Pending => {
                self.table.set_pending(&uid);
                self.turns.notice(&uid, |noticed| noticed.pending = true);
            }
            notice::Kind::Recall => {
                self.table.recall(&uid);
                self.turns.notice(&uid, |noticed| noticed.recalled = true);
            }
            notice::Kind::Moved => {
                let stood = self.table.stood(&uid, now_ms());
                self.table.forget(&uid);
                return stood.map(over_http);
            }
            notice::Kind::Drop | notice::Kind::Unspecified => {}
        }
        None
    }
}

/// No connection stands over which the agent could be reached.
fn over_http(presence: Presence) -> Presence {
    Presence {
        closed: true,
        ..presence
    }
}

// === impl Gateway ===

impl Gateway {
    pub fn start(id: u32, cluster: &Arc<Cluster>) -> Arc<Self> {
        let gateway = Arc::new(Gateway {
            id,
            cluster: Arc::clone(cluster),
            memory: Mutex::new(Memory::new(0)),
        });
        let _presence = spawn(gather_presence(Arc::clone(&gateway)));
        cluster.node_ids().for_each(|node| gateway.hold_line(node));
        gateway
    }

    /// From now on it has a line to this node, whenever that can be reached.
    pub fn hold_line(self: &Arc<Self>, node: u64) {
        let _line = spawn(hold_line(Arc::clone(self), node));
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn network(&self) -> &Network {
        &self.cluster.network
    }

    /// Returns when it does not stand still.
    async fn awake(&self) {
        self.network().awake(Place::Gateway(self.id)).await;
    }

    fn name(&self) -> String {
        format!("gateway-{}", self.id)
    }

    /// Killed and begun anew.
    pub fn restart(&self) {
        let mut memory = self.memory();
        *memory = Memory::new(memory.life + 1);
        drop(memory);
        let gateway = self.id;
        self.cluster.watch.note(Fact::Forgot { gateway });
    }

    /// Answers an agent. None: 503, or no answer at all.
    pub async fn check_in(
        self: Arc<Self>,
        message: Message,
        connection: Connection,
    ) -> Option<ServerToAgent> {
        let uid = uid(message.agent);
        let (begun, life) = (now_ms(), self.memory().life);
        let heard = Heard {
            uid,
            number: message.number.1,
            digest: message.digest(),
            capabilities: message.said.capabilities,
            bare: is_idle(&message.said, CAPABILITIES),
            speaker: 0,
            connection: connection.number,
            websocket: false,
            in_contact: false,
        };
        let decision = loop {
            {
                let mut memory = self.memory();
                if memory.life != life {
                    return None;
                }
                if !memory.turns.is_taken(&uid) {
                    let in_contact = memory.in_contact(partition_of(message.agent));
                    let heard = Heard {
                        in_contact,
                        ..heard
                    };
                    let decision = memory.table.hear(&heard, now_ms());
                    if matches!(decision, Decision::Report(_)) {
                        memory.turns.take(uid);
                    }
                    break decision;
                }
            }
            if now_ms() >= begun + HELD_MS {
                return None;
            }
            sleep_ms(20).await;
        };
        match decision {
            Decision::Plain => Some(ServerToAgent::default()),
            Decision::Repeat(replies) => first(&replies),
            Decision::Report(session) => {
                let answer = self.report(&message, &connection, session).await;
                self.settle(life, &message, &connection, answer)
            }
        }
    }

    fn blank(&self, agent: u32, connection: &Connection) -> Report {
        Report {
            instance_uid: uid(agent).as_bytes().to_vec().into(),
            transport: Transport::Http.into(),
            connection: connection.number,
            gateway: self.name(),
            ..Report::default()
        }
    }

    /// Asks whoever leads until there is an answer, and when that was asked for.
    async fn report(
        &self,
        message: &Message,
        connection: &Connection,
        session: Option<Session>,
    ) -> Option<(u64, Answer)> {
        let report = Report {
            message: Some(message.said.clone()),
            digest: message.digest().to_vec().into(),
            session,
            ..self.blank(message.agent, connection)
        };
        let until = now_ms() + HELD_MS;
        loop {
            let asked = now_ms();
            if let Some(answer) = self.ask(message.agent, report.clone()).await {
                return Some((asked, answer));
            }
            if now_ms() >= until {
                return None;
            }
            let pause = self.cluster.watch.chance().between(20, 200);
            sleep_ms(pause).await;
        }
    }

    /// Asks the leader, as far as one is known.
    async fn ask(&self, agent: u32, report: Report) -> Option<Answer> {
        let group = partition_of(agent);
        let to = self.memory().leader(group)?;
        let cluster = Arc::clone(&self.cluster);
        let work = async move {
            let process = cluster.process(to)?;
            let answer = process.report(group, report).await?;
            process.is_alive().then_some(answer)
        };
        let (from, there) = (Place::Gateway(self.id), Place::Node(to));
        self.cluster.network.call(from, there, work).await
    }

    /// The session goes on, and the answer is written if it may be: an offer only while its grant lives and the agent
    /// waits; else its leader is told that it was not.
    fn settle(
        self: &Arc<Self>,
        life: u64,
        message: &Message,
        connection: &Connection,
        answer: Option<(u64, Answer)>,
    ) -> Option<ServerToAgent> {
        let uid = uid(message.agent);
        let mut memory = self.memory();
        if memory.life != life {
            return None;
        }
        let noticed = memory.turns.take_noticed(&uid);
        memory.turns.end(&uid);
        let (asked, answer) = answer?;
        let of = |reply: ServerToAgent| Reply::of(&uid, reply);
        let replies: Vec<Reply> = answer.replies.into_iter().take(1).map(of).collect();
        let sent = replies.first().cloned();
        if let Some(session) = answer.session {
            let settled = Settled {
                session,
                speaker: 0,
                connection: connection.number,
                sent: Some(replies),
                noticed,
            };
            memory.table.settle(uid, settled, now_ms());
        }
        let Some(reply) = sent else {
            return Some(ServerToAgent::default());
        };
        let Some(unsent) = reply.to_give_back() else {
            return first(&[reply]);
        };
        let in_time = now_ms() < asked + u64::from(answer.grant_ms);
        if in_time && connection.is_open() {
            drop(memory);
            self.written(message, unsent);
            return first(&[reply]);
        }
        memory.table.set_pending(&uid);
        drop(memory);
        let report = Report {
            unsent: Some(unsent.clone()),
            ..self.blank(message.agent, connection)
        };
        let (gateway, agent) = (Arc::clone(self), message.agent);
        let _beside = spawn(async move { gateway.ask(agent, report).await });
        Some(ServerToAgent::default())
    }

    fn written(&self, message: &Message, offer: &Unsent) {
        if let Some(hash) = fleet::digest::Digest::from_slice(&offer.config_hash) {
            self.cluster.watch.note(Fact::Written {
                gateway: self.id,
                agent: message.agent,
                number: message.number,
                hash,
            });
        }
    }
}

/// HTTP has room for one.
fn first(replies: &[Reply]) -> Option<ServerToAgent> {
    let reply = replies.first()?.clone();
    ServerToAgent::decode(reply.into_body()).ok()
}

/// Who spoke is told to each node whose line stands.
async fn gather_presence(gateway: Arc<Gateway>) {
    loop {
        sleep_ms(PRESENCE_MS).await;
        gateway.awake().await;
        let mut memory = gateway.memory();
        let mut batch = vec![];
        memory.table.presence(now_ms(), &mut batch);
        let batch: Vec<Presence> = batch.into_iter().map(over_http).collect();
        for line in memory.lines.values_mut().filter(|line| line.stands) {
            line.spoke.extend(batch.iter().cloned());
        }
    }
}

/// Speaks with one node, over one stream as long as there are answers. A new one begins with where all conversations
/// stand.
async fn hold_line(gateway: Arc<Gateway>, node: u64) {
    let cluster = Arc::clone(&gateway.cluster);
    loop {
        sleep_ms(PRESENCE_MS).await;
        gateway.awake().await;
        let (life, said) = gateway.say(node);
        let (name, there) = (gateway.name(), Arc::clone(&cluster));
        let work = async move {
            let process = there.process(node)?;
            process.hear(&name, &said)
        };
        let (from, to) = (Place::Gateway(gateway.id), Place::Node(node));
        let told = cluster.network.call(from, to, work).await;
        gateway.hear(node, life, told);
    }
}

impl Gateway {
    fn say(&self, node: u64) -> (u64, Said) {
        let mut memory = self.memory();
        let memory = &mut *memory;
        let line = memory.lines.entry(node).or_default();
        let introduces = !line.stands;
        if introduces {
            line.number = self.cluster.watch.next_change();
        }
        let presences = if introduces {
            let mut all: Vec<Presence> = memory
                .table
                .all(now_ms())
                .map(|(_, presence)| over_http(presence))
                .collect();
            // The table has no order.
            all.sort_by(|a, b| a.instance_uid.cmp(&b.instance_uid));
            all
        } else {
            std::mem::take(&mut line.spoke)
        };
        let said = Said {
            stream: line.number,
            introduces,
            presences,
        };
        (memory.life, said)
    }

    fn hear(&self, node: u64, life: u64, told: Option<Told>) {
        let mut memory = self.memory();
        if memory.life != life {
            return;
        }
        let Some(told) = told else {
            let line = memory.lines.insert(node, Line::default());
            let leads = memory.leads.values().any(|(_, leader)| *leader == node);
            drop(memory);
            if leads && line.is_some_and(|line| line.stands) {
                let gateway = self.id;
                self.cluster.watch.note(Fact::Broke { gateway });
            }
            return;
        };
        let stood: Vec<Presence> = told
            .notices
            .iter()
            .filter_map(|notice| memory.notice(notice))
            .collect();
        for (group, term, leader) in told.leads {
            let (newest, known) = memory.leads.entry(group).or_insert((term, leader));
            if *newest <= term {
                (*newest, *known) = (term, leader);
            }
        }
        let line = memory.lines.entry(node).or_default();
        (line.stands, line.heard_ms) = (true, now_ms());
        line.spoke.extend(stood);
    }
}
