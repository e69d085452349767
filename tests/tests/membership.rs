//! Who is in a cluster: five found one and lose two; one of three is replaced while a rollout runs, and one is stopped and
//! hands over what it leads.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::collections::BTreeSet;
use std::time::Instant;

use prost::Message;
use proto::api::{Cluster as View, ClusterGroup};
use proto::uid::Uid;
use system_tests::by_hand::{ByHand, arrange, node};
use system_tests::crowd::{Crowd, PATIENCE};
use system_tests::manifest::{config, family, role};
use system_tests::metrics::Exposed;
use system_tests::raw::{Http, Script};
use system_tests::server::binary;
use system_tests::wait::{eventually, holds};

const INVENTORY: u16 = 8;

fn voters(group: &ClusterGroup) -> BTreeSet<u64> {
    let voters = group.replicas.iter().filter(|replica| replica.votes);
    voters.map(|replica| replica.node).collect()
}

/// Five vote on what operators say and three in each inventory group, evenly; everybody has a copy of everything.
fn is_shared(view: &View) -> bool {
    let votes = |node| {
        let groups = view.groups.iter().filter(|group| group.name != "control");
        groups.filter(|group| voters(group).contains(&node)).count()
    };
    let placed = |group: &ClusterGroup| {
        let expected = if group.name == "control" { 5 } else { 3 };
        (voters(group).len(), group.replicas.len()) == (expected, 5)
    };
    // 24 votes for five.
    view.groups.iter().all(placed) && (1..=5).all(|node| [4, 5].contains(&votes(node)))
}

/// Nine groups, led by five.
fn is_spread(view: &View) -> bool {
    view.nodes.iter().all(|node| (1..=3).contains(&node.leads))
}

async fn eventually_seen(crowd: &Crowd, what: &str, is: impl Fn(&View) -> bool) -> View {
    eventually(PATIENCE, what, async || {
        let view = crowd.api.cluster().await;
        let view = view.map_err(|status| status.to_string())?;
        holds(is(&view), &view).map(|()| view)
    })
    .await
}

/// Which inventory group keeps it.
fn kept_by(agent: &Script) -> String {
    let slot = Uid::from_wire(&agent.uid).unwrap().slot();
    format!(
        "inventory-{}",
        u32::from(slot) * u32::from(INVENTORY) / 1024
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn five_founders_share_the_groups_and_what_has_a_quorum_goes_on_without_two_of_them() {
    let mut cluster = ByHand::new("five");
    cluster.found(&binary(), 5);
    cluster.start_gateways(&binary(), 2);
    cluster.is_ready_as_a_whole();
    let crowd = Crowd::of(12, cluster.urls(), cluster.api()).await;
    // All of them vote in everything at first. A node that does not answer in time makes a plan without balance, so it is
    // made until it has some.
    let view = eventually(PATIENCE, "the groups to be shared", async || {
        arrange(&crowd.cli);
        let view = crowd.api.cluster().await;
        let view = view.map_err(|status| status.to_string())?;
        holds(is_shared(&view), &view).map(|()| view)
    })
    .await;
    eventually_seen(&crowd, "leaders to be spread", is_spread).await;
    let one = crowd.store(&cluster.path("edge.yaml"), "one").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;

    // Whoever moves rollouts, and another one.
    let first = crowd.api.leader("control", PATIENCE).await;
    let lost = [first, first % 5 + 1];
    for id in lost {
        cluster.kill(&node(id));
    }
    let stands = |group: &&ClusterGroup| {
        let voters = voters(group);
        let left = voters.iter().filter(|id| !lost.contains(id)).count();
        left > voters.len() / 2
    };
    let standing: BTreeSet<&str> = view
        .groups
        .iter()
        .filter(stands)
        .map(|group| group.name.as_str())
        .collect();
    assert!(standing.contains("control") && standing.len() > 1);
    crowd
        .is_led_without(&lost, |group| standing.contains(group))
        .await;
    // Operators are answered, and so is a new agent whose group stands.
    let manifest = family(
        "newcomers",
        20,
        &[role("new", "role = new", &config("new"))],
    );
    let file = cluster.path("newcomers.yaml");
    std::fs::write(&file, manifest).unwrap();
    crowd.cli.apply(&file);
    let mut newcomers = std::iter::repeat_with(|| Script::new("newcomer"));
    let mut newcomer = newcomers
        .find(|agent| standing.contains(kept_by(agent).as_str()))
        .unwrap();
    eventually(PATIENCE, "a new agent to be registered", async || {
        let mut http = Http::connect(cluster.opamp()).await;
        let answer = http.post(&newcomer.full().encode_to_vec()).await;
        let registered = answer.status == 200 && answer.message().error_response.is_none();
        holds(registered, answer.head)
    })
    .await;

    // They come back, and with them the rest.
    for id in lost {
        cluster.again(&node(id), &binary());
    }
    crowd.cluster_is_whole().await;
    let two = crowd.store(&cluster.path("edge.yaml"), "two").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;
    for hash in [&one, &two] {
        crowd.assert_offered_once_to_everybody(hash);
    }
    let mut agents = crowd.api.list("role = agent").await;
    agents.retain(|agent| agent.link == "lost");
    assert_eq!(agents, []);
    crowd.assert_audit_verifies();
    crowd.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced_while_a_rollout_runs_and_nobody_is_lost_or_offered_it_twice() {
    let mut cluster = ByHand::new("three");
    cluster.found(&binary(), 3);
    cluster.start_gateways(&binary(), 2);
    cluster.is_ready_as_a_whole();
    let crowd = Crowd::of(24, cluster.urls(), cluster.api()).await;
    let hash = crowd.store(&cluster.path("edge.yaml"), "one").await;
    let id = crowd.api.start("edge", "pausing").await.unwrap().id;
    crowd.converge(&id, 2).await;
    // Not the first: that is whom the new one asks for its number.
    cluster.kill(&node(3));
    crowd.is_led_without(&[3], |_| true).await;
    cluster.join("fresh", &binary());
    crowd.has_nodes(&[1, 2, 4]).await;
    crowd.cli.ok(&[
        "cluster",
        "remove",
        "3",
        "--reason",
        "its disk is broken",
        "--yes",
    ]);
    arrange(&crowd.cli);
    crowd.completes(&id).await;
    crowd.assert_offered_once_to_everybody(&hash);
    let view = eventually_seen(&crowd, "the cluster to be healthy", |view| {
        view.waits_for.is_empty()
    })
    .await;
    for group in &view.groups {
        assert_eq!(voters(group), BTreeSet::from([1, 2, 4]), "{group:?}");
    }

    // It may be lost again: the new one counts.
    cluster.kill(&node(2));
    crowd.is_led_without(&[2], |_| true).await;
    let two = crowd.store(&cluster.path("edge.yaml"), "two").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;
    crowd.assert_offered_once_to_everybody(&two);
    crowd.assert_nobody_is_lost().await;
    crowd.assert_audit_verifies();
    crowd.fleet.stop().await;
}

/// How many groups these nodes lead, as they see it themselves.
fn lead(cluster: &ByHand, nodes: &[u64]) -> u64 {
    let leads = |id: &u64| Exposed::at(cluster.address(&node(*id))).total("muster_group_leads");
    nodes.iter().map(leads).sum::<f64>() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_hands_over_what_it_leads_and_no_check_in_is_refused_for_that() {
    // Who elects waits until the lease of a leader that says nothing more is over, and then for the time of an election.
    let election = raft::GroupConfig::default().election_max;
    let mut cluster = ByHand::new("handed");
    cluster.found(&binary(), 3);
    cluster.start_gateways(&binary(), 2);
    cluster.is_ready_as_a_whole();
    let crowd = Crowd::of(24, cluster.urls(), cluster.api()).await;
    crowd.cluster_is_whole().await;
    let hash = crowd.store(&cluster.path("edge.yaml"), "one").await;
    let id = crowd.api.start("edge", "pausing").await.unwrap().id;
    crowd.converge(&id, 2).await;

    let leaves = crowd.api.leader("control", PATIENCE).await;
    let others = [leaves % 3 + 1, (leaves + 1) % 3 + 1];
    let before = crowd.fleet.stats();
    assert!(lead(&cluster, &[leaves]) > 0);
    let told = Instant::now();
    cluster.terminate(&node(leaves));
    // Eight partitions and what operators say.
    eventually(PATIENCE, "the others to lead everything", async || {
        let led = lead(&cluster, &others);
        holds(led == u64::from(INVENTORY) + 1, led)
    })
    .await;
    let took = told.elapsed();
    cluster.ends(&node(leaves));
    assert!(took < election, "{took:?}: they have elected");
    crowd.completes(&id).await;
    let after = crowd.fleet.stats();
    assert_eq!(after.shed, before.shed, "503");
    assert_eq!(crowd.not_retried(), 0);
    crowd.assert_offered_once_to_everybody(&hash);
    cluster.again(&node(leaves), &binary());
    crowd.cluster_is_whole().await;
    crowd.assert_nobody_is_lost().await;
    crowd.assert_audit_verifies();
    crowd.fleet.stop().await;
}
