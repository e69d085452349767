//! Groups whose members change, over a network of function calls.

#![allow(clippy::unwrap_used)] // helpers of tests are not marked as tests

mod common;

use common::cluster::*;
use common::*;
use raft::*;

/// A group of node 1 and of learners that have caught up with it.
async fn one_and_learners(learners: impl IntoIterator<Item = u64>) -> Cluster {
    let mut cluster = Cluster::of([1]).await;
    cluster.propose([1], entry("first", 1)).await;
    for id in learners {
        cluster.join(id).await;
        cluster.group(1).add_learner(NodeId(id)).await.unwrap();
        cluster.caught_up(1, id).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_grows_from_one_to_three_and_loses_nothing_that_was_answered() {
    let mut cluster = Cluster::of([1]).await;
    for id in [2, 3] {
        cluster.join(id).await;
    }
    let load = Load::start(&cluster.groups());
    for id in [2, 3] {
        cluster.group(1).add_learner(NodeId(id)).await.unwrap();
        eventually("it follows", || cluster.has(id, "0-0")).await;
    }
    assert_eq!(cluster.group(1).status().learners, [NodeId(2), NodeId(3)]);
    let voters = ids(1..=3);
    cluster
        .change(1..=3, async |group| {
            group.change_voters(&voters, false).await
        })
        .await;
    assert_eq!(cluster.group(1).status().voters.len(), 3);
    load.goes_on().await;
    let leads = cluster.leader(1..=3).await;
    cluster.wires.cut(leads);
    load.goes_on().await;
    cluster.wires.heal(leads);
    let answered = load.stop().await;
    let leads = cluster.leader(1..=3).await;
    cluster.propose(1..=3, entry("last", 1)).await;
    for key in &answered {
        assert!(
            cluster.has(leads, key),
            "{key} of {} is lost",
            answered.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_replaced_and_the_new_one_counts() {
    let mut cluster = Cluster::of(1..=3).await;
    let leads = cluster.leader(1..=3).await;
    let (dead, other) = (leads % 3 + 1, (leads + 1) % 3 + 1);
    cluster.propose(1..=3, entry("before", 1)).await;
    cluster.kill(dead).await;
    cluster.join(4).await;
    let rest = [leads, other];
    cluster
        .change(rest, async |group| group.add_learner(NodeId(4)).await)
        .await;
    let voters = ids([leads, other, 4]);
    cluster
        .change(rest, async |group| {
            group.change_voters(&voters, false).await
        })
        .await;
    let status = cluster.group(leads).status();
    assert_eq!(status.voters, voters.iter().copied().collect::<Vec<_>>());
    assert_eq!((status.learners, status.joint), (vec![], false));
    // Two of three are left, and one of the two is new.
    cluster.kill(other).await;
    cluster.propose([leads, 4], entry("after", 1)).await;
    eventually("replicated", || {
        cluster.has(4, "after") && cluster.has(4, "before")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_loses_its_vote_hands_over_and_the_group_shrinks_to_one() {
    let cluster = Cluster::of(1..=3).await;
    let leads = cluster.leader(1..=3).await;
    let (next, other) = (leads % 3 + 1, (leads + 1) % 3 + 1);
    cluster.propose(1..=3, entry("before", 1)).await;
    let voters = ids([next, other]);
    cluster
        .change(1..=3, async |group| {
            group.change_voters(&voters, true).await
        })
        .await;
    eventually("the old leader learns", || {
        cluster.group(leads).status().leadership.role == Role::Learner
    })
    .await;
    cluster.propose([next, other], entry("between", 1)).await;
    eventually("a learner is sent everything", || {
        cluster.has(leads, "between")
    })
    .await;

    let voters = ids([next]);
    cluster
        .change([next, other], async |group| {
            group.change_voters(&voters, false).await
        })
        .await;
    cluster
        .change([next], async |group| {
            group.remove_learner(NodeId(leads)).await
        })
        .await;
    let status = cluster.group(next).status();
    assert_eq!(
        (status.voters, status.learners),
        (vec![NodeId(next)], vec![])
    );
    cluster.wires.cut(leads);
    cluster.wires.cut(other);
    cluster.propose([next], entry("alone", 1)).await;
    assert_eq!(read(cluster.group(next), "before").as_deref(), Some("1"));
    assert_eq!(cluster.group(next).progress().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_cut_off_between_its_steps_is_finished_by_the_same_call() {
    let mut cluster = Cluster::of(1..=3).await;
    for id in [4, 5] {
        cluster.join(id).await;
        cluster
            .change(1..=3, async |group| group.add_learner(NodeId(id)).await)
            .await;
    }
    cluster.propose(1..=3, entry("before", 1)).await;
    let leads = cluster.leader(1..=5).await;
    let (stays, goes) = (leads % 3 + 1, (leads + 1) % 3 + 1);
    // The old voters agree to the first step, but of the new ones too few.
    cluster.wires.cut(4);
    cluster.wires.cut(5);
    let voters = ids([stays, 4, 5]);
    let cut_off = tokio::spawn({
        let (group, voters) = (cluster.group(leads).clone(), voters.clone());
        async move { group.change_voters(&voters, false).await }
    });
    eventually("the first step is known", || {
        [stays, goes]
            .iter()
            .all(|id| cluster.group(*id).status().joint)
    })
    .await;
    cluster.kill(leads).await;
    let cut_off = cut_off.await.unwrap();
    assert!(
        matches!(cut_off, Err(ChangeError::Unknown | ChangeError::Fatal(_))),
        "{cut_off:?}"
    );
    cluster.wires.heal(4);
    cluster.wires.heal(5);

    let rest = [stays, goes, 4, 5];
    cluster.propose(rest, entry("between", 1)).await;
    let leads = cluster.leader(rest).await;
    assert!(
        cluster.group(leads).status().joint,
        "nobody goes on by himself"
    );
    let refused = cluster.group(leads).add_learner(NodeId(6)).await;
    let to: Vec<NodeId> = voters.iter().copied().collect();
    assert!(
        matches!(&refused, Err(ChangeError::Unfinished { voters }) if *voters == to),
        "{refused:?}"
    );
    cluster
        .change(rest, async |group| {
            group.change_voters(&voters, false).await
        })
        .await;
    let new = [stays, 4, 5];
    let leads = cluster.leader(new).await;
    let status = cluster.group(leads).status();
    assert_eq!((status.voters, status.joint), (to, false));
    assert_eq!(status.learners, [], "who does not vote any more is gone");
    cluster.propose(new, entry("after", 1)).await;
    for key in ["before", "between", "after"] {
        assert!(cluster.has(leads, key), "{key} is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_behind_the_purge_gets_a_snapshot_and_is_the_same_then() {
    let mut cluster = Cluster::of([1]).await;
    for n in 0..300 {
        cluster.propose([1], entry(n, n)).await;
    }
    cluster.group(1).snapshot_now().await.unwrap();
    eventually("log purged", || {
        cluster
            .group(1)
            .status()
            .purged
            .is_some_and(|index| index > 200)
    })
    .await;
    cluster.join(2).await;
    cluster.group(1).add_learner(NodeId(2)).await.unwrap();
    cluster.caught_up(1, 2).await;
    assert_eq!(cluster.wires.snapshots_to(2), 1);
    let (sender, receiver) = (cluster.group(1).counts(), cluster.group(2).counts());
    assert_eq!((sender.snapshots_sent, sender.snapshots_sending), (1, 0));
    assert!(sender.snapshot_bytes_sent > 0, "{sender:?}");
    assert_eq!(receiver.snapshots_installed, 1);
    eventually("applied", || {
        cluster.group(2).status().applied == cluster.group(1).status().applied
    })
    .await;
    let digest = cluster.group(1).digest().await.unwrap();
    assert_eq!(cluster.group(2).digest().await.unwrap(), digest);
    let incoming = cluster.nodes[&2].store.incoming_dir();
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
    // It votes with what the snapshot told it.
    cluster
        .group(1)
        .change_voters(&ids([1, 2]), false)
        .await
        .unwrap();
    cluster.propose([1, 2], entry("both", 1)).await;
    assert_eq!(cluster.group(2).status().voters, [NodeId(1), NodeId(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_already_so_is_done_again_without_an_entry() {
    let cluster = one_and_learners([2]).await;
    let group = cluster.group(1);
    let before = group.status().last_log;
    for node in [1, 2] {
        group.add_learner(NodeId(node)).await.unwrap();
    }
    group.change_voters(&ids([1]), false).await.unwrap();
    group.remove_learner(NodeId(7)).await.unwrap();
    assert_eq!(group.status().last_log, before);
    assert_eq!(group.status().learners, [NodeId(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_make_no_sense_are_refused_by_name() {
    let cluster = one_and_learners([2]).await;
    let (leader, learner) = (cluster.group(1), cluster.group(2));
    let stranger = leader.change_voters(&ids([1, 3]), false).await;
    assert!(
        matches!(stranger, Err(ChangeError::NotMember(NodeId(3)))),
        "{stranger:?}"
    );
    let nobody = leader.change_voters(&ids([]), false).await;
    assert!(matches!(nobody, Err(ChangeError::NoVoters)), "{nobody:?}");
    let voter = leader.remove_learner(NodeId(1)).await;
    assert!(
        matches!(voter, Err(ChangeError::Voter(NodeId(1)))),
        "{voter:?}"
    );
    let elsewhere = learner.add_learner(NodeId(3)).await;
    assert!(
        matches!(
            elsewhere,
            Err(ChangeError::NotLeader {
                leader: Some(NodeId(1))
            })
        ),
        "{elsewhere:?}"
    );
    assert_eq!(leader.status().voters, [NodeId(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_without_a_quorum_are_not_begun() {
    let mut cluster = one_and_learners([2, 3]).await;
    cluster
        .group(1)
        .change_voters(&ids([1, 2]), false)
        .await
        .unwrap();
    let leads = cluster.leader([1, 2]).await;
    cluster.kill(3 - leads).await;
    let refused = cluster
        .group(leads)
        .change_voters(&ids([leads, 3]), false)
        .await;
    assert!(
        matches!(
            refused,
            Err(ChangeError::NoQuorum | ChangeError::NotLeader { .. })
        ),
        "{refused:?}"
    );
    assert!(!cluster.group(leads).status().joint);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_tells_who_has_caught_up_and_who_is_silent() {
    let cluster = one_and_learners([2, 3]).await;
    let of = |id: u64| {
        let progress = cluster.group(1).progress().unwrap();
        progress
            .into_iter()
            .find(|one| one.node == NodeId(id))
            .unwrap()
    };
    assert_eq!([1, 2, 3].map(|id| of(id).voter), [true, false, false]);
    cluster.wires.cut(3);
    for n in 0..20 {
        cluster.propose([1], entry(n, n)).await;
    }
    cluster.caught_up(1, 2).await;
    assert_eq!(of(2).matched, cluster.group(1).status().last_log);
    assert!(of(3).behind >= 20, "{:?}", of(3));
    let silence = quick().election_min;
    eventually("it is silent", || {
        of(3).heard.is_some_and(|ago| ago > silence)
    })
    .await;
    eventually("the other is not", || {
        of(2).heard.is_some_and(|ago| ago < silence)
    })
    .await;
    assert_eq!(cluster.group(2).progress(), None, "only the leader knows");
}
