//! Many processes: nodes are killed, gateways are killed, and nothing is lost, offered twice or asked for again.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::collections::BTreeSet;
use std::time::Duration;

use proto::opamp::ServerToAgent;
use system_tests::api::Api;
use system_tests::cluster::Cluster;
use system_tests::crowd::{Crowd, NODE, PATIENCE};
use system_tests::grants::{Act, Acts, unexplained};
use system_tests::manifest::{config, family, plan, role};
use system_tests::metrics::Exposed;
use system_tests::otlp::Receiver;
use system_tests::process::{Signal, signal};
use system_tests::raw::{FULL_STATE, Http, Script, Ws, offer};
use system_tests::scene::plans;
use system_tests::wait::{SOON, eventually, holds};

/// From an order to its arrival at an agent that is connected: a few commits, on a loaded machine. Far below the 30 s after
/// which such an agent has something to say by itself.
const PUSHED: Duration = Duration::from_secs(8);

/// A cluster, and a fleet in front of it.
struct Scene {
    cluster: Cluster,
    crowd: Crowd,
}

impl Scene {
    async fn of(agents: usize) -> Self {
        let cluster = Cluster::start(&NODE, &[]);
        let api = cluster.described().gateways[0].api;
        let crowd = Crowd::of(agents, cluster.http_urls(), api).await;
        Scene { cluster, crowd }
    }

    async fn store(&self, marker: &str) -> Vec<u8> {
        let file = self.cluster.write("edge.yaml", "");
        self.crowd.store(&file, marker).await
    }

    /// The process id of the node that leads a group.
    async fn leader(&self, group: &str) -> u32 {
        self.cluster.leader(group, PATIENCE).await
    }
}

impl std::ops::Deref for Scene {
    type Target = Crowd;

    fn deref(&self) -> &Crowd {
        &self.crowd
    }
}

fn asks_full(reply: &ServerToAgent) -> bool {
    reply.flags & FULL_STATE != 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_survives_the_node_that_moves_it_and_nobody_is_offered_it_twice() {
    let scene = Scene::of(24).await;
    let seen = scene.api.cluster().await.unwrap();
    assert_eq!(seen.waits_for, Vec::<String>::new(), "{seen:?}");
    assert_eq!((seen.nodes.len(), seen.groups.len()), (3, 9));

    let hash = scene.store("one").await;
    let id = scene.api.start("edge", "pausing").await.unwrap().id;
    scene.converge(&id, 2).await;
    let leader = scene.leader("control").await;
    scene.cluster.kill(leader);
    scene.completes(&id).await;
    scene.assert_offered_once_to_everybody(&hash);
    scene.cluster_is_whole().await;
    scene.assert_audit_verifies();
    scene.crowd.fleet.stop().await;
    scene.cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_of_a_cluster_show_its_leaders_lines_and_recalls() {
    let cluster = Cluster::start(&NODE, &[]);
    let described = cluster.described();
    let mut agent = Script::new("wanderer").with("role", "agent");
    let mut first = Http::connect(described.gateways[0].opamp).await;
    let mut other = Http::connect(described.gateways[1].opamp).await;
    first.ask(&agent.full()).await;
    first.ask(&agent.bare()).await;
    other.ask(&agent.bare()).await;
    eventually(SOON, "every process to show what it does", async || {
        let nodes = described.nodes.iter().map(|node| Exposed::at(node.addr));
        let nodes: Vec<Exposed> = nodes.collect();
        let gateways = described.gateways.iter().map(|g| Exposed::at(g.api));
        let gateways: Vec<Exposed> = gateways.collect();
        let unlisted = nodes.iter().chain(&gateways).map(Exposed::unlisted);
        assert_eq!(unlisted.flatten().collect::<BTreeSet<_>>(), BTreeSet::new());
        let sum = |of: &[Exposed], name: &str| of.iter().map(|e| e.total(name)).sum::<f64>();
        let seen = [
            sum(&nodes, "muster_group_leads"),
            sum(&nodes, "muster_edge_streams"),
            sum(&nodes, "muster_partition_recalls_total"),
            sum(&gateways, "muster_gateway_line_connected"),
            sum(&gateways, "muster_gateway_groups_unreached"),
        ];
        let followed = sum(&nodes, "muster_group_replica_silent_seconds") > 0.0;
        let [leads, streams, recalls, connected, unreached] = seen;
        let fine = (leads, streams, connected, unreached) == (9.0, 6.0, 6.0, 0.0);
        holds(fine && recalls >= 1.0 && followed, (seen, followed))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_leads_from_the_check_in_at_a_gateway_to_the_commit_at_a_node() {
    let receiver = Receiver::start().await;
    let endpoint = format!("--otlp-endpoint={}", receiver.endpoint);
    let endpoint = endpoint.as_str();
    let cluster = Cluster::start(&[&NODE[..], &[endpoint]].concat(), &[endpoint]);
    let gateway = cluster.described().gateways[0].opamp;
    Http::connect(gateway)
        .await
        .ask(&Script::new("a").full())
        .await;
    // A stop sends what has not been sent, of every process.
    cluster.stop();
    assert!(
        receiver.has_trace(&["check-in", "report", "commit"]),
        "{:?}",
        receiver.spans()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_changes_gateways_is_asked_for_nothing_and_offered_what_is_due() {
    let cluster = Cluster::start(&NODE, &[]);
    let gateways = cluster.described().gateways;
    let mut doors = Vec::new();
    for gateway in &gateways {
        doors.push(Http::connect(gateway.opamp).await);
    }
    let mut agent = Script::new("wanderer").with("role", "agent");
    assert!(!asks_full(&doors[0].ask(&agent.full()).await));
    // As a load balancer does it: sooner than a gateway tells leaders who spoke.
    for turn in 0..40 {
        let reply = doors[turn % 2].ask(&agent.bare()).await;
        assert!(!asks_full(&reply), "turn {turn}");
    }
    // Three at one, so that it answers from memory, then one at the other.
    for turn in 0..20 {
        for _ in 0..3 {
            assert!(
                !asks_full(&doors[turn % 2].ask(&agent.bare()).await),
                "turn {turn}"
            );
        }
    }
    // Decided through one gateway, told by the other at the next poll.
    order(&cluster, "half").await;
    let hash = Api::new(gateways[0].api)
        .delivery_hash("edge", "agent")
        .await;
    let offered = eventually(SOON, "an offer", async || {
        offer(&doors[1].ask(&agent.bare()).await)
            .map(|(hash, _)| hash)
            .ok_or_else(|| "nothing".to_owned())
    })
    .await;
    assert_eq!(offered, hash);
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_a_standing_connection_is_pushed_at_once_what_was_ordered_through_another_gateway()
 {
    // It is the only one that is meant, and says no word after its first: whatever it hears is pushed, and long before the
    // gateway would expect to hear of it.
    let cluster = Cluster::start(&["--agent-interval=30s"], &[]);
    let mut ws = Ws::connect(cluster.described().gateways[1].opamp).await;
    let mut standing = Script::new("standing").with("role", "agent");
    ws.ask(&standing.full()).await;
    let api = Api::new(cluster.described().gateways[0].api);
    eventually(SOON, "the agent to be listed", async || {
        let agents = api.list("role = agent").await;
        let listed = agents.len() == 1 && agents[0].healthy;
        holds(listed, &agents)
    })
    .await;
    order(&cluster, "half").await;
    let pushed = async {
        loop {
            if let Some((hash, _)) = offer(&ws.hear().await) {
                return hash;
            }
        }
    };
    let pushed = tokio::time::timeout(PUSHED, pushed)
        .await
        .expect("nothing is pushed");
    assert_eq!(pushed, api.delivery_hash("edge", "agent").await);
    cluster.stop();
}

/// Orders the family "edge" for whoever has the role "agent", through the first gateway.
async fn order(cluster: &Cluster, plan: &str) {
    let manifests = family("edge", 10, &[role("agent", "role = agent", &config("one"))]);
    let manifests = [&[manifests], &plans()[..]].concat().join("---\n");
    cluster.cli().apply(&cluster.write("edge.yaml", &manifests));
    let api = Api::new(cluster.described().gateways[0].api);
    api.start("edge", plan).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_may_be_lost_all_at_once() {
    let scene = Scene::of(20).await;
    let hash = scene.store("one").await;
    let id = scene.api.start("edge", "quick").await.unwrap().id;
    for gateway in scene.cluster.described().gateways {
        assert!(signal(gateway.pid, Signal::KILL));
    }
    scene.completes(&id).await;
    scene.assert_offered_once_to_everybody(&hash);
    let full = scene.fleet.stats().full_state_requests;
    assert!(
        full <= scene.fleet.len() as u64,
        "{full}: each may have lost one message, and is asked once"
    );
    scene.crowd.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn halt_returns_in_bounded_time_with_a_frozen_node_and_nobody_is_offered_it_afterwards() {
    let scene = Scene::of(20).await;
    let hash = scene.store("one").await;
    let id = scene.api.start("edge", "half").await.unwrap().id;
    // Leaders are spread by themselves; until then one node may lead them all.
    let (frozen, leads) = eventually(
        PATIENCE,
        "another node to lead some partition",
        async || {
            let view = scene
                .api
                .cluster()
                .await
                .map_err(|status| status.to_string())?;
            let control = view
                .groups
                .iter()
                .find(|g| g.name == "control")
                .unwrap()
                .leader;
            let other = view
                .groups
                .iter()
                .find(|g| g.leader != control && g.leader != 0);
            other
                .map(|group| (group.leader, group.name.clone()))
                .ok_or_else(|| format!("{:?}", view.groups))
        },
    )
    .await;
    let nodes = scene.cluster.described().nodes;
    let pid = nodes.iter().find(|node| node.id == frozen).unwrap().pid;
    assert!(signal(pid, Signal::STOP));
    let began = std::time::Instant::now();
    let halted = scene.cli.run(&["rollout", "halt", &id, "--reason", "test"]);
    let took = began.elapsed();
    assert_eq!(halted.code, 0, "{leads}: {halted:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
    let halt = Act {
        hash: hash.clone(),
        at: scene.fleet.record().now(),
    };
    let before = scene.offers(&hash);
    // Longer than every lease and grant of the frozen one would last, had it been awake.
    tokio::time::sleep(Duration::from_secs(3)).await; // the claim is about this time
    assert!(signal(pid, Signal::CONT));
    tokio::time::sleep(Duration::from_secs(3)).await; // and about this
    let after = scene.offers(&hash);
    assert_eq!(after, before);
    let acts = Acts {
        timeout: Duration::from_secs(20), // as `NODE` has it
        halted: vec![halt],
        ..Acts::default()
    };
    let unexplained = unexplained(&scene.fleet.offers(), &scene.fleet.reports(), &acts);
    assert_eq!(unexplained, Vec::<String>::new());
    scene.crowd.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_frozen_for_half_a_second_or_for_half_a_minute_wakes_to_a_rollout_that_went_on()
 {
    let scene = Scene::of(20).await;
    let one = scene.store("one").await;
    let id = scene.api.start("edge", "pausing").await.unwrap().id;
    scene.converge(&id, 2).await;
    // Shorter than any lease, and longer than every lease, grant and election.
    let briefly = scene.leader("control").await;
    assert!(signal(briefly, Signal::STOP));
    tokio::time::sleep(Duration::from_millis(500)).await; // the claim is about this time
    assert!(signal(briefly, Signal::CONT));
    scene.completes(&id).await;

    let two = scene.store("two").await;
    let id = scene.api.start("edge", "pausing").await.unwrap().id;
    scene.converge(&id, 2).await;
    let long = scene.leader("control").await;
    assert!(signal(long, Signal::STOP));
    let awake = tokio::time::Instant::now() + Duration::from_secs(30);
    scene.completes(&id).await;
    tokio::time::sleep_until(awake).await; // and about this
    assert!(signal(long, Signal::CONT));
    scene.cluster_is_whole().await;
    for hash in [&one, &two] {
        scene.assert_offered_once_to_everybody(hash);
    }
    scene.assert_nobody_is_lost().await;
    scene.assert_audit_verifies();
    scene.crowd.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_killed_again_and_again_does_not_disturb_a_rollout() {
    let scene = Scene::of(20).await;
    // Each time it ends soon its process comes back later: half a minute for five times.
    let waves = ["size: 1", "size: 50%, soak: 20s", "size: 100%"];
    let long = scene.cluster.write("long.yaml", &plan("long", &waves, ""));
    scene.cli.apply(&long);
    let hash = scene.store("one").await;
    let id = scene.api.start("edge", "long").await.unwrap().id;
    scene.converge(&id, 2).await;
    let leader = scene.leader("control").await;
    let nodes = scene.cluster.described().nodes;
    let follower = nodes.iter().find(|node| node.pid != leader).unwrap().id;
    for _ in 0..5 {
        let nodes = scene.cluster.described().nodes;
        let process = nodes.iter().find(|node| node.id == follower).unwrap().pid;
        // Until another process has taken its place, which may be killed before it has caught up.
        scene.cluster.kill(process);
    }
    scene.completes(&id).await;
    scene.cluster_is_whole().await;
    scene.assert_offered_once_to_everybody(&hash);
    scene.assert_nobody_is_lost().await;
    scene.assert_audit_verifies();
    scene.crowd.fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_takes_its_part_and_another_one_leaves() {
    let scene = Scene::of(12).await;
    let hash = scene.store("one").await;
    let described = scene.cluster.described();
    let joined = scene
        .cluster
        .join_node(&described.nodes[0].addr.to_string());
    eventually(PATIENCE, "the fourth node to be known", async || {
        let view = scene
            .api
            .cluster()
            .await
            .map_err(|status| status.to_string())?;
        holds(
            view.nodes.len() == 4 && view.nodes.iter().all(|n| n.answers),
            &view.nodes,
        )
    })
    .await;
    let planned = scene.cli.run(&["cluster", "plan"]);
    assert!(planned.stdout.contains("copy it to node 4"), "{planned:?}");
    let applied = scene.cli.run(&["cluster", "apply", "--yes"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let id = scene.api.start("edge", "quick").await.unwrap().id;
    scene.completes(&id).await;
    scene.assert_offered_once_to_everybody(&hash);

    let removed = scene.cli.run(&[
        "cluster",
        "remove",
        "3",
        "--reason",
        "its disk is broken",
        "--yes",
    ]);
    assert_eq!(removed.code, 0, "{removed:?}");
    let applied = scene.cli.run(&["cluster", "apply", "--yes"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    let seen = scene.api.cluster().await.unwrap();
    for group in &seen.groups {
        let nodes: Vec<u64> = group.replicas.iter().map(|replica| replica.node).collect();
        assert!(!nodes.contains(&3), "{group:?}");
        assert_eq!(
            group
                .replicas
                .iter()
                .filter(|replica| replica.votes)
                .count(),
            3,
            "{group:?}"
        );
    }
    let nothing = scene.cli.run(&["cluster", "plan"]);
    assert!(nothing.stdout.contains("nothing to move"), "{nothing:?}");
    assert_eq!(scene.cli.run(&["audit", "verify"]).code, 0);
    scene.crowd.fleet.stop().await;
    drop(joined);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_compared_and_found_to_be_the_same_while_agents_poll() {
    let cluster = Cluster::start(&[&NODE[..], &["--compare-every=2s"]].concat(), &[]);
    let gateway = cluster.described().gateways[0].clone();
    let api = Api::new(gateway.api);
    let mut http = Http::connect(gateway.opamp).await;
    let mut turn = 0;
    eventually(PATIENCE, "every group to be compared", async || {
        turn += 1;
        let mut agent = Script::new(&format!("agent-{turn}"));
        http.ask(&agent.full()).await;
        let view = api.cluster().await.map_err(|status| status.to_string())?;
        assert!(view.groups.iter().all(|group| group.differs.is_empty()));
        holds(
            view.groups.iter().all(|group| group.same_at > 0),
            &view.groups,
        )
    })
    .await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_is_refused_under_its_old_number() {
    let cluster = Cluster::start(&NODE, &[]);
    let described = cluster.described();
    eventually(PATIENCE, "every node to have registered", async || {
        let audit = Api::new(described.gateways[0].api).audit("node/").await;
        holds(audit.len() == 3, audit.len())
    })
    .await;
    let lost = described.nodes.iter().find(|node| node.id == 3).unwrap();
    cluster.lose_data(3);
    assert!(signal(lost.pid, Signal::KILL));
    eventually(PATIENCE, "the node to be refused", async || {
        let log = cluster.log("node-3");
        holds(
            log.contains("node 3 has had another data directory") && log.contains("--join"),
            &log,
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_disk_while_all_were_down_does_not_found_the_cluster_anew() {
    let cluster = Cluster::start(&NODE, &[]);
    let described = cluster.described();
    let api = Api::new(described.gateways[0].api);
    eventually(PATIENCE, "every node to have registered", async || {
        let audit = api.audit("node/").await;
        holds(audit.len() == 3, audit.len())
    })
    .await;
    // The one without a disk first, so that it asks while the others still start.
    cluster.lose_data(3);
    for node in described.nodes.iter().rev() {
        assert!(signal(node.pid, Signal::KILL));
    }
    eventually(PATIENCE, "the node to be refused", async || {
        let log = cluster.log("node-3");
        holds(log.contains("node 3 has had another data directory"), &log)
    })
    .await;
    let cli = cluster.cli();
    eventually(
        PATIENCE,
        "the others to go on with what they had",
        async || {
            let verified = cli.run(&["audit", "verify"]);
            holds(verified.code == 0, &verified)
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_certificates_only_nodes_and_gateways_of_the_cluster_are_heard() {
    let cluster = Cluster::start_with(&["--certificates"], &NODE, &[]);
    let described = cluster.described();
    let mut agent = Script::new("a");
    let mut http = Http::connect(described.gateways[0].opamp).await;
    assert!(!asks_full(&http.ask(&agent.full()).await));
    let api = Api::new(described.gateways[0].api);
    let seen = api.cluster().await.unwrap();
    assert_eq!(seen.waits_for, Vec::<String>::new());
    // Without a certificate nobody gets as far as HTTP.
    let plain = system_tests::server::get(described.nodes[0].addr, "/readyz");
    assert!(
        plain.as_ref().map_or(true, |(status, _)| *status == 0),
        "{plain:?}"
    );
    let stranger = cluster.start_gateway(&["--cluster=local"]);
    assert!(
        stranger.never_ready(Duration::from_secs(4)),
        "a gateway without a certificate"
    );
    let stranger = cluster.start_gateway(&["--cluster=other"]);
    assert!(
        stranger.never_ready(Duration::from_secs(2)),
        "a gateway of another cluster"
    );
    cluster.stop();
}
