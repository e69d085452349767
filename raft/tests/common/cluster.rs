//! Nodes connected by function calls, and what is done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use raft::*;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What takes a node's messages, and where it receives snapshots.
type Plug = (Arc<dyn Incoming>, Store);

/// Who can be reached, and through what.
#[derive(Default)]
pub struct Wires {
    nodes: Mutex<BTreeMap<NodeId, Plug>>,
    cut: Mutex<BTreeSet<NodeId>>,
    snapshots: Mutex<Vec<NodeId>>,
    damage: Mutex<bool>,
}

impl Wires {
    pub fn cut(&self, id: u64) {
        self.cut.lock().unwrap().insert(NodeId(id));
    }

    pub fn heal(&self, id: u64) {
        self.cut.lock().unwrap().remove(&NodeId(id));
    }

    /// Flips a byte of the next snapshot sent.
    pub fn damage_next_snapshot(&self) {
        *self.damage.lock().unwrap() = true;
    }

    /// How many snapshots were sent to a node.
    pub fn snapshots_to(&self, id: u64) -> usize {
        let sent = self.snapshots.lock().unwrap();
        sent.iter().filter(|to| **to == NodeId(id)).count()
    }
}

/// The network as one node has it.
struct Port {
    node: NodeId,
    wires: Arc<Wires>,
}

impl Port {
    fn target(&self, to: NodeId) -> Result<Plug, PeerError> {
        let cut = self.wires.cut.lock().unwrap();
        let nodes = self.wires.nodes.lock().unwrap();
        match nodes.get(&to) {
            Some(target) if !cut.contains(&to) && !cut.contains(&self.node) => Ok(target.clone()),
            _ => Err(PeerError::Unreachable(to)),
        }
    }
}

fn network(node: NodeId) -> impl Fn(ReceiveError) -> PeerError {
    move |error| PeerError::Network {
        node,
        reason: error.to_string(),
    }
}

impl Peers for Port {
    fn call(
        &self,
        to: NodeId,
        _: GroupId,
        message: Bytes,
        _: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>> {
        let target = self.target(to);
        Box::pin(async move { target?.0.receive(message).await.map_err(network(to)) })
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        _: GroupId,
        message: Bytes,
        snapshot: SnapshotFile,
        _: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>> {
        let target = self.target(to);
        self.wires.snapshots.lock().unwrap().push(to);
        let damage = std::mem::take(&mut *self.wires.damage.lock().unwrap());
        Box::pin(async move {
            let (target, store) = target?;
            let mut bytes = vec![0; usize::try_from(snapshot.bytes()).unwrap()];
            snapshot.read_at(&mut bytes, 0).unwrap();
            if damage {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            let mut scratch = store.scratch_file().unwrap();
            scratch.write_all(&bytes).unwrap();
            let received = target.receive_snapshot(message, scratch.received().unwrap());
            received.await.map_err(network(to))
        })
    }
}

pub struct Node {
    pub group: Group<Kv>,
    pub published: Published,
    pub store: Store,
    pub dir: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The wires hold the stores, too: they would write their marks into directories that are gone.
        self.wires.nodes.lock().unwrap().clear();
        for node in self.nodes.values() {
            node.store.clone().close();
        }
    }
}

/// Nodes of one group.
#[derive(Default)]
pub struct Cluster {
    pub wires: Arc<Wires>,
    pub nodes: BTreeMap<u64, Node>,
}

pub fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

/// Times as short as two busy cores allow, and logs that are soon purged.
pub fn quick() -> GroupConfig {
    GroupConfig {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        log_keep_entries: 5,
        purge_entries_min: 1,
        snapshot_entries: 100,
        propose_timeout: Duration::from_secs(3),
        ..GroupConfig::default()
    }
}

impl Cluster {
    /// Nodes that vote from the start.
    pub async fn of(voters: impl IntoIterator<Item = u64>) -> Self {
        let mut cluster = Self::default();
        let voters = ids(voters);
        for id in &voters {
            let first = Bootstrap::Voters(voters.clone());
            cluster.start(id.0, first).await;
        }
        cluster
    }

    /// A node that waits to be added.
    pub async fn join(&mut self, id: u64) {
        self.start(id, Bootstrap::Join).await;
    }

    async fn start(&mut self, id: u64, bootstrap: Bootstrap) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        self.run(id, store, dir, bootstrap).await;
    }

    /// Runs the group on a store that was opened again.
    pub async fn run(&mut self, id: u64, store: Store, dir: TempDir, bootstrap: Bootstrap) {
        let peers = Arc::new(Port {
            node: NodeId(id),
            wires: Arc::clone(&self.wires),
        });
        let config = GroupConfig {
            bootstrap,
            peers,
            ..quick()
        };
        let machine = Kv::default();
        let published = Arc::clone(&machine.published);
        let group = Group::start(&store, GroupId(1), NodeId(id), machine, config);
        let group = group.await.unwrap();
        let incoming: Arc<dyn Incoming> = Arc::new(group.clone());
        let mut wired = self.wires.nodes.lock().unwrap();
        wired.insert(NodeId(id), (incoming, store.clone()));
        drop(wired);
        let node = Node {
            group,
            published,
            store,
            dir,
        };
        self.nodes.insert(id, node);
    }

    /// Ends a node at once for the others, and stops it. Returns its directory.
    pub async fn kill(&mut self, id: u64) -> TempDir {
        let unplugged = self.wires.nodes.lock().unwrap().remove(&NodeId(id));
        drop(unplugged);
        let node = self.nodes.remove(&id).unwrap();
        close(node.store, vec![node.group]).await;
        node.dir
    }

    pub fn group(&self, id: u64) -> &Group<Kv> {
        &self.nodes[&id].group
    }

    pub fn groups(&self) -> Vec<Group<Kv>> {
        self.nodes.values().map(|node| node.group.clone()).collect()
    }

    pub fn has(&self, id: u64, key: &str) -> bool {
        self.nodes[&id].published.lock().unwrap().contains_key(key)
    }

    /// The one of these nodes that all of these nodes follow.
    pub async fn leader(&self, among: impl IntoIterator<Item = u64>) -> u64 {
        let among: Vec<u64> = among.into_iter().collect();
        let of = |id: &u64| self.group(*id).status().leadership;
        let mut found = None;
        eventually("a leader", || {
            found = among.iter().find(|id| of(id).role == Role::Leader);
            let leader = found.map(|id| NodeId(*id));
            leader.is_some() && among.iter().all(|id| of(id).leader == leader)
        })
        .await;
        *found.unwrap()
    }

    /// Proposes to whoever of these leads, until it is answered.
    pub async fn propose(&self, among: impl IntoIterator<Item = u64>, entry: Bytes) {
        let among: Vec<u64> = among.into_iter().collect();
        for _ in 0..50 {
            let leads = self.leader(among.iter().copied()).await;
            match self.group(leads).propose(entry.clone()).await {
                Ok(_) => return,
                // The lease of a fresh leader is not confirmed yet.
                Err(ProposeError::NotLeader { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("never accepted");
    }

    /// Changes members at whoever of these leads, again where that may be needed.
    pub async fn change(
        &self,
        among: impl IntoIterator<Item = u64>,
        change: impl AsyncFn(&Group<Kv>) -> Result<(), ChangeError>,
    ) {
        let among: Vec<u64> = among.into_iter().collect();
        for _ in 0..50 {
            let leads = self.leader(among.iter().copied()).await;
            match change(self.group(leads)).await {
                Ok(()) => return,
                Err(
                    ChangeError::NotLeader { .. }
                    | ChangeError::NoQuorum
                    | ChangeError::InProgress
                    | ChangeError::Unknown,
                ) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("never changed");
    }

    /// Waits until the leader knows that a member lacks nothing.
    pub async fn caught_up(&self, leader: u64, member: u64) {
        eventually("caught up", || {
            let progress = self.group(leader).progress().unwrap_or_default();
            let member = progress.iter().find(|one| one.node == NodeId(member));
            member.is_some_and(|member| member.behind == 0)
        })
        .await;
    }
}

/// Writers that propose fresh keys, one after the other each, until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub fn start(groups: &[Group<Kv>]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let writers = (0..4).map(|writer| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tokio::spawn(write(groups.to_vec(), writer, stop, answered))
        });
        Self {
            writers: writers.collect(),
            stop,
            answered,
        }
    }

    /// Waits until some more are answered.
    pub async fn goes_on(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + 10;
        eventually("proposals are answered", || {
            self.answered.load(Ordering::Relaxed) >= enough
        })
        .await;
    }

    /// The keys that were answered.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answered = Vec::new();
        for writer in self.writers {
            answered.extend(writer.await.unwrap());
        }
        answered
    }
}

async fn write(
    groups: Vec<Group<Kv>>,
    writer: usize,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut answered = Vec::new();
    let (mut at, mut next) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{writer}-{next}");
        match groups[at].propose(entry(&key, "written")).await {
            Ok(before) => {
                assert_eq!(before, b"", "{key} was applied before it was answered");
                answered.push(key);
                count.fetch_add(1, Ordering::Relaxed);
                next += 1;
            }
            // Appended nowhere, so the same key is proposed again.
            Err(ProposeError::NotLeader { leader }) => {
                let named = groups
                    .iter()
                    .position(|group| Some(group.status().node) == leader);
                at = named.unwrap_or((at + 1) % groups.len());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(_) => next += 1,
        }
    }
    answered
}
