//! Three voters over a network of function calls: what replication promises.

#![allow(clippy::unwrap_used)] // helpers of tests are not marked as tests

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::*;
use raft::*;
use tempfile::TempDir;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Who can be reached, and through what.
#[derive(Default)]
struct Wires {
    nodes: Mutex<BTreeMap<NodeId, Arc<dyn Incoming>>>,
    cut: Mutex<BTreeSet<NodeId>>,
    snapshots: Mutex<usize>,
    /// Flips a byte of the next snapshot sent.
    damage: Mutex<bool>,
}

/// The network as one node has it.
struct Port {
    node: NodeId,
    wires: Arc<Wires>,
}

impl Port {
    fn target(&self, to: NodeId) -> Result<Arc<dyn Incoming>, PeerError> {
        let cut = self.wires.cut.lock().unwrap();
        let nodes = self.wires.nodes.lock().unwrap();
        match nodes.get(&to) {
            Some(target) if !cut.contains(&to) && !cut.contains(&self.node) => {
                Ok(Arc::clone(target))
            }
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
        Box::pin(async move { target?.receive(message).await.map_err(network(to)) })
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
        *self.wires.snapshots.lock().unwrap() += 1;
        let damage = std::mem::take(&mut *self.wires.damage.lock().unwrap());
        Box::pin(async move {
            let mut bytes = vec![0; usize::try_from(snapshot.bytes()).unwrap()];
            snapshot.read_at(&mut bytes, 0).unwrap();
            if damage {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            let received = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(received.path(), bytes).unwrap();
            let received = SnapshotFile::open(received.path()).unwrap();
            target?
                .receive_snapshot(message, received)
                .await
                .map_err(network(to))
        })
    }
}

struct Node {
    _store: Store,
    _dir: TempDir,
    group: Group<Kv>,
    published: Published,
}

fn voters() -> BTreeSet<NodeId> {
    [1, 2, 3].map(NodeId).into()
}

async fn node(id: NodeId, wires: &Arc<Wires>) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let config = GroupConfig {
        bootstrap: Bootstrap::Voters(voters()),
        peers: Arc::new(Port {
            node: id,
            wires: Arc::clone(wires),
        }),
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        log_keep_entries: 5,
        purge_entries_min: 1,
        snapshot_entries: 100,
        propose_timeout: Duration::from_secs(3),
        ..GroupConfig::default()
    };
    let machine = Kv::default();
    let published = Arc::clone(&machine.published);
    let group = Group::start(&store, GroupId(1), id, machine, config)
        .await
        .unwrap();
    wires
        .nodes
        .lock()
        .unwrap()
        .insert(id, Arc::new(group.clone()));
    Node {
        _store: store,
        _dir: dir,
        group,
        published,
    }
}

async fn cluster() -> (Arc<Wires>, Vec<Node>) {
    let wires = Arc::new(Wires::default());
    let mut nodes = Vec::new();
    for id in voters() {
        nodes.push(node(id, &wires).await);
    }
    (wires, nodes)
}

/// Index in `nodes` of the leader that a majority not in `without` follows.
async fn leader(nodes: &[Node], without: Option<usize>) -> usize {
    let mut found = None;
    eventually("a leader", || {
        let reached = || {
            nodes
                .iter()
                .enumerate()
                .filter(|(n, _)| Some(*n) != without)
        };
        found = reached()
            .find(|(_, node)| node.group.status().leadership.role == Role::Leader)
            .map(|(n, _)| n);
        found.is_some_and(|n| {
            let leader = Some(nodes[n].group.status().node);
            reached().all(|(_, node)| node.group.status().leadership.leader == leader)
        })
    })
    .await;
    found.unwrap()
}

async fn propose(group: &Group<Kv>, entry: Bytes) {
    for _ in 0..50 {
        match group.propose(entry.clone()).await {
            Ok(_) => return,
            // The lease of a fresh leader is not confirmed yet.
            Err(ProposeError::NotLeader { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_applies_the_same_and_followers_name_the_leader() {
    let (_wires, nodes) = cluster().await;
    let leads = leader(&nodes, None).await;
    for n in 0..50 {
        propose(&nodes[leads].group, entry("k", n)).await;
    }
    for node in &nodes {
        eventually("replicated", || {
            node.published
                .lock()
                .unwrap()
                .get("k")
                .is_some_and(|value| value == "49")
        })
        .await;
        assert_eq!(
            node.group.status().voters,
            voters().into_iter().collect::<Vec<_>>()
        );
    }
    let follower = &nodes[(leads + 1) % 3].group;
    let leader = Some(nodes[leads].group.status().node);
    let refused = follower.propose(entry("k", 0)).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { leader: named }) if named == leader),
        "{refused:?}"
    );
    assert!(matches!(
        follower.linearize().await,
        Err(ReadError::NotLeader { .. })
    ));
    assert!(nodes[leads].group.linearize().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_the_loss_of_the_leader() {
    let (wires, nodes) = cluster().await;
    let old = leader(&nodes, None).await;
    for n in 0..20 {
        propose(&nodes[old].group, entry(n, "before")).await;
    }
    wires
        .cut
        .lock()
        .unwrap()
        .insert(nodes[old].group.status().node);
    let lost = nodes[old].group.propose(entry("lost", 1)).await;
    assert!(
        matches!(
            lost,
            Err(ProposeError::Unknown | ProposeError::NotLeader { .. })
        ),
        "{lost:?}"
    );
    let new = leader(&nodes, Some(old)).await;
    propose(&nodes[new].group, entry("after", 1)).await;
    for n in 0..20 {
        assert_eq!(
            read(&nodes[new].group, &n.to_string()).as_deref(),
            Some("before")
        );
    }
    wires.cut.lock().unwrap().clear();
    eventually("the old leader follows", || {
        nodes[old].published.lock().unwrap().contains_key("after")
    })
    .await;
    assert_eq!(leader(&nodes, None).await, new, "pre-vote keeps the leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_left_behind_gets_a_snapshot_and_a_damaged_one_is_refused() {
    let (wires, nodes) = cluster().await;
    let leads = leader(&nodes, None).await;
    let behind = (leads + 1) % 3;
    propose(&nodes[leads].group, entry("old", 1)).await;
    eventually("replicated", || {
        nodes[behind].published.lock().unwrap().contains_key("old")
    })
    .await;
    wires
        .cut
        .lock()
        .unwrap()
        .insert(nodes[behind].group.status().node);
    for n in 0..300 {
        propose(&nodes[leads].group, entry(n, n)).await;
    }
    nodes[leads].group.snapshot_now().await.unwrap();
    eventually("log purged", || {
        nodes[leads]
            .group
            .status()
            .purged
            .is_some_and(|index| index > 200)
    })
    .await;
    *wires.damage.lock().unwrap() = true;
    wires.cut.lock().unwrap().clear();
    eventually("caught up", || {
        nodes[behind].published.lock().unwrap().len() == 301
    })
    .await;
    assert!(
        *wires.snapshots.lock().unwrap() >= 2,
        "the damaged one and a whole one"
    );
    eventually("it is known to be installed", || {
        nodes[behind].group.status().snapshot.is_some()
    })
    .await;
    assert_eq!(read(&nodes[behind].group, "299").as_deref(), Some("299"));
    assert_eq!(nodes[behind].group.status().stopped, None);
    propose(&nodes[leads].group, entry("on", 1)).await;
    eventually("replicates again", || {
        nodes[behind].published.lock().unwrap().contains_key("on")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_another_node_is_refused() {
    let (_wires, nodes) = cluster().await;
    let error = nodes[0]
        .group
        .receive(Bytes::from_static(&[8, 1, 16, 2, 34, 0]))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ReceiveError::OtherNode {
                meant: NodeId(2),
                here: NodeId(1)
            }
        ),
        "{error}"
    );
    let error = nodes[0]
        .group
        .receive(Bytes::from_static(&[8, 9]))
        .await
        .unwrap_err();
    assert!(matches!(error, ReceiveError::Malformed(_)), "{error}");
}
