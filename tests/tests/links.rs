//! Bad links between the processes of a cluster, while a rollout runs and agents poll: late, losing, and breaking.
//! Every connection to a node goes through a proxy, those of the other nodes and those of gateways.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use system_tests::by_hand::ByHand;
use system_tests::crowd::Crowd;
use system_tests::manifest::plan;
use system_tests::metrics::Exposed;
use system_tests::proxy::{Proxy, Weather};
use system_tests::server::{binary, free_address};

const AGENTS: usize = 120;
const NODES: u64 = 3;

/// Eight partitions and what operators say.
const GROUPS: f64 = 9.0;

/// Three nodes, each behind a link of its own, and two gateways.
struct Linked {
    crowd: Crowd,
    links: Vec<Proxy>,
    listen: Vec<SocketAddr>,
    cluster: ByHand,
}

// === impl Linked ===

impl Linked {
    async fn of(agents: usize) -> Self {
        let listen: Vec<SocketAddr> = (0..NODES).map(|_| free_address()).collect();
        let mut links = Vec::new();
        for (seed, listen) in (1..).zip(&listen) {
            links.push(Proxy::before(*listen, seed).await);
        }
        let known: Vec<SocketAddr> = links.iter().map(Proxy::address).collect();
        let mut cluster = ByHand::new("linked");
        cluster.found_behind(&binary(), &listen, &known, &[]);
        cluster.start_gateways(&binary(), 2);
        cluster.is_ready_as_a_whole();
        let crowd = Crowd::of(agents, cluster.urls(), cluster.api()).await;
        crowd.cluster_is_whole().await;
        let scene = Linked {
            crowd,
            links,
            listen,
            cluster,
        };
        // Some seconds: a quick one would be over before the links have done anything.
        let waves = ["size: 1", "size: 25%, soak: 7s", "size: 50%, soak: 7s"];
        let waves = [&waves[..], &["size: 100%"]].concat();
        let long = scene.cluster.path("long.yaml");
        std::fs::write(&long, plan("long", &waves, "")).unwrap();
        scene.crowd.cli.apply(&long);
        scene
    }

    /// Delivery hash and id of a rollout that has begun.
    async fn begin(&self) -> (Vec<u8>, String) {
        let file = self.cluster.path("edge.yaml");
        let hash = self.crowd.store(&file, "one").await;
        let id = self.crowd.api.start("edge", "long").await.unwrap().id;
        (hash, id)
    }

    fn have(&self, weather: Weather) {
        self.links.iter().for_each(|link| link.has(weather));
    }

    /// Terms of all groups together, as whoever knows the most of them sees it: each election is one more.
    fn terms(&self) -> f64 {
        let seen = |at: &SocketAddr| Exposed::at(*at).total("muster_group_term");
        self.listen.iter().map(seen).fold(0.0, f64::max)
    }

    /// What has to be true afterwards, however bad the links were.
    async fn ends_well(self, hash: &[u8]) {
        self.crowd.assert_offers_are_explained();
        self.crowd.assert_offered_once_to_everybody(hash);
        self.crowd.cluster_is_whole().await;
        self.crowd.assert_nobody_is_lost().await;
        self.crowd.assert_nobody_was_lost().await;
        // Who says something over a WebSocket while there was no leader for 5 s is told so, and is asked later for what it said.
        let told = self.crowd.not_retried();
        assert!(told <= AGENTS as u64 / 10, "{:?}", self.crowd.fleet.stats());
        self.crowd.assert_audit_verifies();
        self.crowd.fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_runs_through_delay_and_loss_on_all_links_of_a_cluster() {
    let scene = Linked::of(AGENTS).await;
    let (hash, id) = scene.begin().await;
    scene.have(Weather {
        late: Duration::from_millis(80),
        one_lost_in: 40,
    });
    // It goes on, at the pace that evidence comes in, and need not be over when the weather is.
    scene.crowd.converge(&id, 1).await;
    let all = scene.crowd.completes(&id);
    let _over = tokio::time::timeout(Duration::from_secs(30), all).await;
    scene.have(Weather::default());
    scene.crowd.completes(&id).await;
    for link in &scene.links {
        assert!(link.lost() > 0, "nothing went through {}", link.address());
    }
    scene.ends_well(&hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_runs_through_links_that_break_again_and_again_with_few_elections() {
    let scene = Linked::of(AGENTS).await;
    let before = scene.terms();
    let (hash, id) = scene.begin().await;
    let (least, most) = (Duration::from_millis(300), Duration::from_secs(2));
    let flaps = |link| Proxy::flaps(link, least, most, Duration::from_secs(20));
    tokio::join!(
        join_all(scene.links.iter().map(flaps)),
        scene.crowd.completes(&id)
    );
    for link in &scene.links {
        assert!(link.broken() > 0, "nobody used {}", link.address());
    }
    // Who connects again at once is heard within the lease.
    let elections = scene.terms() - before;
    assert!(elections <= 2.0 * GROUPS, "{elections} elections");
    scene.ends_well(&hash).await;
}
