//! Three voters over a network of function calls: what replication promises.

#![allow(clippy::unwrap_used)] // helpers of tests are not marked as tests

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::cluster::*;
use common::*;
use raft::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_replica_applies_the_same_and_followers_name_the_leader() {
    let cluster = Cluster::of(1..=3).await;
    let leads = cluster.leader(1..=3).await;
    for n in 0..50 {
        cluster.propose(1..=3, entry("k", n)).await;
    }
    for (id, node) in &cluster.nodes {
        eventually("replicated", || {
            read(&node.group, "k").as_deref() == Some("49")
        })
        .await;
        let voters = ids(1..=3).into_iter().collect::<Vec<_>>();
        assert_eq!(node.group.status().voters, voters, "of {id}");
    }
    let follower = cluster.group(leads % 3 + 1);
    let refused = follower.propose(entry("k", 0)).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { leader: Some(named) }) if named == NodeId(leads)),
        "{refused:?}"
    );
    assert!(matches!(
        follower.linearize().await,
        Err(ReadError::NotLeader { .. })
    ));
    assert!(cluster.group(leads).linearize().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_hangs_holds_up_none_behind_it() {
    let cluster = Cluster::of(1..=3).await;
    // On a busy machine the leader may find that it is alone before both are in its log: then once more.
    for _ in 0..5 {
        let leads = cluster.leader(1..=3).await;
        cluster.propose(1..=3, entry("k", 0)).await;
        let others = || (1..=3).filter(|id| *id != leads);
        others().for_each(|id| cluster.wires.cut(id));
        let group = cluster.group(leads);
        let before = group.status().last_log.unwrap();
        let hanging = async |after: u64| {
            tokio::time::sleep(Duration::from_millis(after)).await;
            group.propose(entry("k", after)).await
        };
        let both_are_in_its_log = async {
            while group.status().last_log.unwrap() < before + 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = both_are_in_its_log => return,
            // The second comes while the first, of which nobody hears, is under way.
            _ = async { tokio::join!(hanging(0), hanging(20)) } => {}
        }
        others().for_each(|id| cluster.wires.heal(id));
    }
    panic!("the second proposal never came to the leader's log while the first one hung");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_compared_at_one_index_while_entries_come() {
    let cluster = Cluster::of(1..=3).await;
    cluster.leader(1..=3).await;
    let compare = async |ahead: u64| {
        let last = cluster.groups()[0].status().last_log.unwrap();
        let groups = cluster.groups();
        let asked = groups
            .iter()
            .map(|group| group.digest_at(last + ahead, Duration::from_secs(10)));
        let load = async {
            for n in 0..ahead + 20 {
                cluster.propose(1..=3, entry(n, last)).await;
            }
        };
        let (digests, ()) = futures::join!(futures::future::join_all(asked), load);
        let digests: Vec<Digest> = digests.into_iter().map(|d| d.unwrap().unwrap()).collect();
        assert!(digests.iter().all(|d| d.applied == Some(last + ahead)));
        digests
    };
    for ahead in [5, 40] {
        let digests = compare(ahead).await;
        assert!(digests.iter().all(|d| *d == digests[0]), "{digests:?}");
    }
    let group = cluster.group(1);
    let passed = group.digest_at(1, Duration::from_millis(100)).await;
    assert_eq!(
        passed.unwrap(),
        None,
        "nobody knows what the state was then"
    );

    cluster.propose(1..=3, "~".into()).await;
    let digests = compare(5).await;
    assert!(digests[1..].iter().all(|d| *d != digests[0]), "{digests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_the_loss_of_the_leader() {
    let cluster = Cluster::of(1..=3).await;
    let old = cluster.leader(1..=3).await;
    let rest = || (1..=3).filter(|id| *id != old);
    for n in 0..20 {
        cluster.propose(1..=3, entry(n, "before")).await;
    }
    cluster.wires.cut(old);
    let lost = cluster.group(old).propose(entry("lost", 1)).await;
    assert!(
        matches!(
            lost,
            Err(ProposeError::Unknown | ProposeError::NotLeader { .. })
        ),
        "{lost:?}"
    );
    let new = cluster.leader(rest()).await;
    cluster.propose(rest(), entry("after", 1)).await;
    for n in 0..20 {
        assert_eq!(
            read(cluster.group(new), &n.to_string()).as_deref(),
            Some("before")
        );
    }
    cluster.wires.heal(old);
    eventually("the old leader follows", || cluster.has(old, "after")).await;
    assert_eq!(
        cluster.leader(1..=3).await,
        new,
        "pre-vote keeps the leader"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_left_behind_gets_a_snapshot_and_a_damaged_one_is_refused() {
    let cluster = Cluster::of(1..=3).await;
    let leads = cluster.leader(1..=3).await;
    let behind = leads % 3 + 1;
    let rest = || (1..=3).filter(|id| *id != behind);
    cluster.propose(1..=3, entry("old", 1)).await;
    eventually("replicated", || cluster.has(behind, "old")).await;
    cluster.wires.cut(behind);
    for n in 0..300 {
        cluster.propose(rest(), entry(n, n)).await;
    }
    cluster.group(leads).snapshot_now().await.unwrap();
    eventually("log purged", || {
        let purged = cluster.group(leads).status().purged;
        purged.is_some_and(|index| index > 200)
    })
    .await;
    cluster.wires.damage_next_snapshot();
    cluster.wires.heal(behind);
    eventually("caught up", || cluster.has(behind, "299")).await;
    assert_eq!(
        cluster.nodes[&behind].published.lock().unwrap().len(),
        301,
        "all that was applied before the snapshot, too"
    );
    assert!(
        cluster.wires.snapshots_to(behind) >= 2,
        "the damaged one and a whole one"
    );
    eventually("it is known to be installed", || {
        cluster.group(behind).status().snapshot.is_some()
    })
    .await;
    assert_eq!(read(cluster.group(behind), "299").as_deref(), Some("299"));
    assert_eq!(cluster.group(behind).status().stopped, None);
    cluster.propose(1..=3, entry("on", 1)).await;
    eventually("replicates again", || cluster.has(behind, "on")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_for_another_node_is_refused() {
    let cluster = Cluster::of(1..=3).await;
    let error = cluster
        .group(1)
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
    let error = cluster
        .group(1)
        .receive(Bytes::from_static(&[8, 9]))
        .await
        .unwrap_err();
    assert!(matches!(error, ReceiveError::Malformed(_)), "{error}");
}

// === digests ===

/// The digests of all nodes at one applied index.
async fn digests(cluster: &Cluster) -> Vec<Digest> {
    for _ in 0..500 {
        let mut digests = Vec::new();
        for group in cluster.groups() {
            digests.push(group.digest().await.unwrap());
        }
        if digests.iter().all(|one| one.applied == digests[0].applied) {
            return digests;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never at one index");
}

/// Changes the first row of any state by hand.
fn alter_a_row(dir: &std::path::Path) {
    let families = ["default", "raft_log", "raft_meta", "state", "sm_meta"];
    let options = rocksdb::Options::default();
    let database = rocksdb::DB::open_cf(&options, dir.join("db"), families).unwrap();
    let state = database.cf_handle("state").unwrap();
    let row = database
        .iterator_cf(state, rocksdb::IteratorMode::Start)
        .next();
    let (key, value) = row.unwrap().unwrap();
    database
        .put_cf(state, key, [&value, b"!".as_slice()].concat())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_applied_the_same_have_one_digest_until_a_row_differs() {
    let mut cluster = Cluster::of(1..=3).await;
    for n in 0..30 {
        cluster.propose(1..=3, entry(n % 7, n)).await;
    }
    let same = digests(&cluster).await;
    assert!(same[0].applied >= Some(30));
    assert_eq!(same, [same[0]; 3]);
    cluster.propose(1..=3, entry(3, "another")).await;
    let later = digests(&cluster).await;
    assert_eq!(later, [later[0]; 3]);
    assert_ne!(later[0].hash, same[0].hash);

    let dir = cluster.kill(2).await;
    reopen(dir.path(), StoreConfig::default())
        .await
        .unwrap()
        .close();
    alter_a_row(dir.path());
    let store = open(dir.path());
    cluster.run(2, store, dir, Bootstrap::Join).await;
    let altered = digests(&cluster).await;
    assert_eq!(altered[0], altered[2]);
    assert_eq!(altered[0].applied, altered[1].applied);
    assert_ne!(altered[0].hash, altered[1].hash);
}
