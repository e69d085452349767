//! Nodes with their disks, the processes that run on them one after another, and how a change or a read reaches the
//! leader of a group.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{Config, EmptyNode, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use state::inventory::Index;

use crate::controller;
use crate::disk::{Disk, End, Open};
use crate::invariants::Fact;
use crate::leader::{self, Leaders};
use crate::ledger::{Change, Ledger, Outcome};
use crate::members::{self, FIRST};
use crate::network::{Network, Place};
use crate::peers::Peers;
use crate::store::{LogStore, Machine, View};
use crate::time::{sleep_ms, spawn, within_ms};
use crate::types::{CONTROL, GroupId, Proposal, TypeConfig};
use crate::world::Watch;

/// Partitions beside the control group.
pub const PARTITIONS: u32 = 2;

/// A proposal or a read that takes longer has no answer.
const ANSWER_MS: u64 = 3_000;

pub struct Cluster {
    pub watch: Watch,
    pub network: Network,
    /// By id. Who has lost its disk is gone, and its id with it.
    nodes: Mutex<BTreeMap<u64, Arc<Node>>>,
    /// Whoever changes members holds it: none is replaced meanwhile.
    members: Arc<()>,
}

struct Node {
    disk: Disk,
    process: Mutex<Option<Arc<Process>>>,
}

/// One life of a node.
pub struct Process {
    pub node: u64,
    pub watch: Watch,
    pub leaders: Leaders,
    network: Network,
    groups: BTreeMap<GroupId, Group>,
    alive: AtomicBool,
}

/// A replica.
#[derive(Clone)]
pub struct Group {
    pub id: GroupId,
    pub raft: Raft<TypeConfig, Machine>,
    /// Its agents and lists, for looks at all of them.
    pub index: Index,
    view: View,
}

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nothing was stored; perhaps it leads.
    NotLeader(Option<u64>),
    /// It may have been stored, or may be later.
    Unknown,
}

// === impl Cluster ===

impl Cluster {
    pub fn new(watch: Watch, nodes: u64) -> Arc<Self> {
        let cluster = Arc::new(Cluster {
            network: Network::new(watch.shared_chance()),
            nodes: Mutex::default(),
            members: Arc::default(),
            watch,
        });
        (1..=nodes).for_each(|id| cluster.add(id));
        cluster
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of those that are there now.
    pub fn node_ids(&self) -> std::vec::IntoIter<u64> {
        let ids: Vec<u64> = self.nodes().keys().copied().collect();
        ids.into_iter()
    }

    /// A node with an empty disk.
    pub fn add(&self, id: u64) {
        let node = Node {
            disk: Disk::new(self.watch.shared_chance()),
            process: Mutex::default(),
        };
        self.nodes().insert(id, Arc::new(node));
    }

    /// For who changes members, as long as that takes.
    pub fn changing(&self) -> Arc<()> {
        Arc::clone(&self.members)
    }

    /// Nobody changes members now.
    pub fn is_steady(&self) -> bool {
        Arc::strong_count(&self.members) == 1
    }

    pub fn groups() -> impl Iterator<Item = GroupId> {
        (0..=PARTITIONS).map(GroupId)
    }

    pub fn partitions() -> impl Iterator<Item = GroupId> {
        (1..=PARTITIONS).map(GroupId)
    }

    fn node(&self, id: u64) -> Option<Arc<Node>> {
        self.nodes().get(&id).cloned()
    }

    /// The process that lives there now.
    pub fn process(&self, id: u64) -> Option<Arc<Process>> {
        self.node(id)?.process().clone()
    }

    /// A disk takes this many times as long for a sync.
    pub fn slow_down(&self, id: u64, times: u64) {
        if let Some(node) = self.node(id) {
            node.disk.set_slowness(times);
        }
    }

    // ---- life and death ----

    /// Begins a process with what is on the disk.
    pub async fn start(self: &Arc<Self>, id: u64) {
        let Some(node) = self.node(id) else { return };
        let disk = node.disk.open();
        let mut groups = BTreeMap::new();
        for group in Self::groups() {
            let Some(started) = self.start_group(id, group, &disk).await else {
                return; // it was killed meanwhile
            };
            groups.insert(group, started);
        }
        let process = Arc::new(Process {
            node: id,
            watch: self.watch.clone(),
            leaders: Leaders::default(),
            network: self.network.clone(),
            groups,
            alive: AtomicBool::new(true),
        });
        *node.process() = Some(Arc::clone(&process));
        leader::run(self, &process);
        let _controller = spawn(controller::run(Arc::clone(self), process));
    }

    async fn start_group(
        self: &Arc<Self>,
        node: u64,
        group: GroupId,
        disk: &Open,
    ) -> Option<Group> {
        let fault = self.watch.fault();
        let (view, index) = (View::default(), Index::default());
        let log = LogStore {
            disk: disk.clone(),
            group,
            fault,
        };
        let (vote, applied, ledger) = disk
            .read(group, |image| {
                let applied = image.position.count();
                (image.vote, applied, Arc::clone(&image.ledger))
            })
            .ok()?;
        self.watch.note(Fact::Opened {
            node,
            group,
            vote,
            applied,
            ledger,
        });
        let machine = Machine::open(
            node,
            group,
            disk.clone(),
            self.watch.clone(),
            (Arc::clone(&view), &index),
        )
        .ok()?;
        let peers = Peers {
            cluster: Arc::clone(self),
            node,
            group,
        };
        let raft = Raft::new(node, Arc::new(settings()), peers, log, machine);
        let raft = Box::pin(raft).await.ok()?;
        Some(Group {
            id: group,
            raft,
            index,
            view,
        })
    }

    /// The first voters of all groups; others join them.
    pub async fn initialize(self: &Arc<Self>) {
        for node in self.node_ids() {
            self.start(node).await;
        }
        let member = |node: u64| (node, EmptyNode::new());
        let first = self.node_ids().filter(|node| *node <= FIRST);
        let members: BTreeMap<u64, EmptyNode> = first.clone().map(member).collect();
        // Each group by another node, which then leads it.
        for (node, group) in first.cycle().zip(Self::groups()) {
            let process = self.process(node).expect("it was started");
            let begun = process.group(group).raft.initialize(members.clone());
            begun.await.expect("nobody has begun it before");
        }
        for node in self.node_ids().filter(|node| *node > FIRST) {
            let _beside = spawn(members::join(Arc::clone(self), node));
        }
    }

    /// The process dies at once: whatever it is doing ends, and nobody gets an answer from it.
    pub fn end(&self, id: u64, how: End) {
        let Some(node) = self.node(id) else { return };
        let dead = node.process().take();
        let lost = node.disk.end(how);
        if how == End::DiskLost {
            self.nodes().remove(&id);
        }
        let Some(dead) = dead else { return };
        dead.alive.store(false, Ordering::SeqCst);
        self.watch.note(Fact::Ended {
            node: id,
            how,
            lost,
        });
        for group in dead.groups.values() {
            let raft = group.raft.clone();
            let _beside = spawn(async move { raft.shutdown().await });
        }
    }

    /// After the last event: processes and network know each other, and would never be freed.
    pub fn forget(&self) {
        self.nodes().clear();
    }

    // ---- reaching a leader ----

    /// A linearizable read for the replica of `process`: it has everything that was stored before the call. False: that
    /// is not known.
    pub async fn sync(self: &Arc<Self>, process: &Arc<Process>, group: GroupId) -> bool {
        let before = self.watch.known(group);
        let replica = process.group(group);
        let entries = match replica.leader() {
            Some(leader) if leader == process.node => replica.linearize().await,
            Some(leader) => {
                let there = Arc::clone(self);
                let work = async move { there.process(leader)?.group(group).linearize().await };
                let (from, to) = (Place::Node(process.node), Place::Node(leader));
                self.network.call(from, to, work).await
            }
            None => None,
        };
        let Some(entries) = entries else { return false };
        while replica.view().0 < entries {
            if !process.is_alive() {
                return false;
            }
            sleep_ms(5).await;
        }
        let (applied, ledger) = replica.view();
        if process.is_alive() {
            self.watch.note(Fact::Read {
                group,
                before,
                applied,
                ledger,
            });
        }
        process.is_alive()
    }

    /// Has it stored by the leader, wherever that is, and waits until this replica has it, too.
    pub async fn propose(
        self: &Arc<Self>,
        process: &Arc<Process>,
        group: GroupId,
        change: Change,
    ) -> Result<Outcome, NoAnswer> {
        let replica = process.group(group);
        let (at, outcome) = match replica.leader() {
            Some(leader) if leader == process.node => process.propose_here(group, change).await?,
            Some(leader) => {
                let there = Arc::clone(self);
                let work = async move {
                    let process = there.process(leader)?;
                    let outcome = process.propose_here(group, change).await;
                    process.is_alive().then_some(outcome)
                };
                let (from, to) = (Place::Node(process.node), Place::Node(leader));
                let answer = self.network.call_within(ANSWER_MS, from, to, work).await;
                answer.unwrap_or(Err(NoAnswer::Unknown))?
            }
            None => return Err(NoAnswer::NotLeader(None)),
        };
        while replica.view().0 < at {
            if !process.is_alive() {
                return Err(NoAnswer::Unknown);
            }
            sleep_ms(5).await;
        }
        Ok(outcome)
    }
}

fn settings() -> Config {
    Config {
        heartbeat_interval: 100,
        heartbeat_min_interval: Some(100),
        election_timeout_min: 500,
        election_timeout_max: 1_000,
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(2_000),
        // A restarted leader may have forgotten what it applied: it asks for votes first.
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        install_snapshot_timeout: 10_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(40),
        max_in_snapshot_log_to_keep: 5,
        replication_lag_threshold: 50,
        ..Config::default()
    }
    .validate()
    .expect("the settings are sound")
}

// === impl Node ===

impl Node {
    fn process(&self) -> MutexGuard<'_, Option<Arc<Process>>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Process ===

impl Process {
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Returns when this process does not stand still.
    pub async fn awake(&self) {
        self.network.awake(Place::Node(self.node)).await;
    }

    pub fn group(&self, id: GroupId) -> &Group {
        &self.groups[&id]
    }

    pub fn control(&self) -> Arc<Ledger> {
        self.group(CONTROL).view().1
    }

    /// Stores it, if this node leads: which entry it became, and the outcome.
    pub async fn propose_here(
        &self,
        group: GroupId,
        change: Change,
    ) -> Result<(u64, Outcome), NoAnswer> {
        let id = change.id;
        let write = self
            .group(group)
            .raft
            .client_write(Proposal(Arc::new(change)));
        let written = within_ms(ANSWER_MS, write).await.ok_or(NoAnswer::Unknown)?;
        if !self.is_alive() {
            return Err(NoAnswer::Unknown);
        }
        match written {
            Ok(response) => {
                let at = response.log_id.index + 1;
                self.watch.note(Fact::Acknowledged {
                    group,
                    at,
                    change: id,
                });
                Ok((at, response.data))
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(NoAnswer::NotLeader(to.leader_id))
            }
            Err(_) => Err(NoAnswer::Unknown),
        }
    }

    /// A replica that stopped by itself: which group, and why.
    pub fn stopped(&self) -> Option<(GroupId, String)> {
        self.groups
            .values()
            .find_map(|group| Some((group.id, group.stopped()?)))
    }
}

// === impl Group ===

impl Group {
    /// How many entries are applied, and the state.
    pub fn view(&self) -> (u64, Arc<Ledger>) {
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        view.clone()
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow_watched().current_leader
    }

    /// Who leads, and in which term, as far as this replica knows.
    pub fn known_leader(&self) -> Option<(u64, u64)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Some((metrics.current_term, metrics.current_leader?))
    }

    /// The term in which this replica leads.
    pub fn leads_in(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.state == ServerState::Leader).then_some(metrics.current_term)
    }

    fn stopped(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let error = metrics.borrow_watched().running_state.clone().err()?;
        Some(error.to_string())
    }

    /// So many entries contain everything that was stored before this call, and are applied here; none: it does not
    /// lead, or does not know whether it still does.
    pub async fn linearize(&self) -> Option<u64> {
        let read = async {
            let reader = self
                .raft
                .get_read_linearizer(ReadPolicy::ReadIndex)
                .await
                .ok()?;
            let state = reader.await_ready(&self.raft).await.ok()?;
            Some(state.read_log_id().index() + 1)
        };
        within_ms(ANSWER_MS, read).await.flatten()
    }
}
