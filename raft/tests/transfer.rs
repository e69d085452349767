//! Leadership that is handed over, over a network of function calls.

#![allow(clippy::unwrap_used)] // helpers of tests are not marked as tests

mod common;

use common::cluster::*;
use common::*;
use raft::*;

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_round_under_load_and_nothing_is_lost_or_done_twice() {
    let cluster = Cluster::of(1..=3).await;
    cluster.leader(1..=3).await;
    let load = Load::start(&cluster.groups());
    for _ in 0..6 {
        load.goes_on().await;
        let old = cluster.leader(1..=3).await;
        let to = NodeId(old % 3 + 1);
        match cluster.group(old).transfer_leader(to).await {
            Ok(new) => assert_ne!(new, NodeId(old)),
            // An election on a busy machine was quicker than this test.
            Err(TransferError::NotLeader { .. } | TransferError::Silent(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    load.goes_on().await;
    let answered = load.stop().await;
    cluster.propose(1..=3, entry("last", 1)).await;
    for id in 1..=3 {
        eventually("all applied", || cluster.has(id, "last")).await;
        for key in &answered {
            assert!(cluster.has(id, key), "{key} of {} is lost", answered.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::of(1..=3).await;
    let old = cluster.leader(1..=3).await;
    let to = NodeId(old % 3 + 1);
    cluster.propose(1..=3, entry("before", 1)).await;
    cluster.caught_up(old, to.0).await;
    let term = cluster.group(old).status().leadership.term;
    assert_eq!(cluster.group(old).transfer_leader(to).await.unwrap(), to);
    assert_eq!(cluster.leader(1..=3).await, to.0);
    assert_eq!(cluster.group(to.0).status().leadership.term, term + 1);
    let again = cluster.group(to.0).transfer_leader(to).await;
    assert_eq!(again.unwrap(), to, "who leads already has nothing to do");
    cluster.propose(1..=3, entry("after", 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_not_sent_where_it_would_be_lost() {
    let mut cluster = Cluster::of(1..=3).await;
    let leads = cluster.leader(1..=3).await;
    let (behind, follower) = (leads % 3 + 1, (leads + 1) % 3 + 1);
    cluster.join(4).await;
    cluster
        .change(1..=3, async |group| group.add_learner(NodeId(4)).await)
        .await;
    let group = cluster.group(leads);
    for nobody in [4, 9] {
        let refused = group.transfer_leader(NodeId(nobody)).await;
        assert!(matches!(refused, Err(TransferError::NotVoter(NodeId(id))) if id == nobody));
    }
    let elsewhere = cluster
        .group(follower)
        .transfer_leader(NodeId(follower))
        .await;
    assert!(
        matches!(elsewhere, Err(TransferError::NotLeader { leader: Some(NodeId(id)) }) if id == leads),
        "{elsewhere:?}"
    );

    cluster.wires.cut(behind);
    let silence = quick().election_min;
    eventually("it is silent", || {
        let progress = group.progress().unwrap_or_default();
        let of = progress.iter().find(|one| one.node == NodeId(behind));
        of.is_some_and(|one| one.heard.is_some_and(|ago| ago > silence))
    })
    .await;
    let silent = group.transfer_leader(NodeId(behind)).await;
    assert!(
        matches!(silent, Err(TransferError::Silent(NodeId(id))) if id == behind),
        "{silent:?}"
    );
    let entries = (0..2000).map(|n| entry(n, n)).collect();
    assert!(group.propose_many(entries).await.iter().all(Result::is_ok));
    let late = group.transfer_leader(NodeId(behind)).await;
    assert!(
        matches!(late, Err(TransferError::Behind { node: NodeId(id), entries }) if id == behind && entries >= 2000),
        "{late:?}"
    );
    // A refusal costs nothing: it still takes proposals.
    group.propose(entry("still", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handover_to_a_voter_that_dies_ends_with_another_leader() {
    let cluster = Cluster::of(1..=3).await;
    let old = cluster.leader(1..=3).await;
    let (dies, other) = (old % 3 + 1, (old + 1) % 3 + 1);
    cluster.propose(1..=3, entry("before", 1)).await;
    cluster.caught_up(old, other).await;
    // It was heard of a moment ago, so the attempt is made.
    cluster.wires.cut(dies);
    let new = cluster.group(old).transfer_leader(NodeId(dies)).await;
    assert_eq!(new.unwrap(), NodeId(other));
    cluster.propose([old, other], entry("after", 1)).await;
    assert!(cluster.has(other, "before"));
}
