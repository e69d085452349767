//! A wall clock that is set under the node that moves rollouts, while they run and agents poll. Ages, ends of freezes and of
//! pins are made of wall times, and the clock that they go by follows the system's only slowly (node/src/clock.rs).
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use muster_loadtest::{Behaviour, Script};
use system_tests::by_hand::{ByHand, node};
use system_tests::clock::Clock;
use system_tests::crowd::{Crowd, PATIENCE};
use system_tests::manifest::{config, family, plan, role};
use system_tests::server::{binary, free_address};
use system_tests::wait::{SOON, eventually, holds};

const AGENTS: usize = 24;
const NODES: usize = 3;
const HOUR: i64 = 3600;

/// As nodes have it: see `NODE` of the crowd.
const OFFER_TIMEOUT: Duration = Duration::from_secs(20);

/// Agents that take a config and never say how it went: so many that some of them belong to each node.
const MUTE: usize = 12;
const FROZEN: usize = 3;
/// The first wave of those who are mute.
const OPEN: usize = 8;

/// Three nodes, each with a clock of its own, and two gateways.
struct Clocks {
    crowd: Crowd,
    clocks: Vec<Clock>,
    cluster: ByHand,
}

// === impl Clocks ===

impl Clocks {
    async fn start() -> Self {
        let mut cluster = ByHand::new("clocks");
        let clocks = Clock::several(&cluster.path(""), NODES);
        for (id, clock) in (1..).zip(&clocks) {
            cluster.with(&node(id), &clock.variables());
        }
        let listen: Vec<SocketAddr> = (0..NODES).map(|_| free_address()).collect();
        cluster.found_behind(&binary(), &listen, &listen, &[]);
        cluster.start_gateways(&binary(), 2);
        cluster.is_ready_as_a_whole();
        let crowd = Crowd::of(AGENTS, cluster.urls(), cluster.api()).await;
        for _ in 0..MUTE {
            let script = Script::new([Behaviour::NeverAnswers]);
            crowd.fleet.spawn("mute", script);
        }
        for _ in 0..FROZEN {
            crowd.fleet.spawn("frozen", Script::default());
        }
        eventually(SOON, "everybody to be listed", async || {
            let listed = crowd.api.try_list("").await;
            let listed = listed.map_err(|status| status.to_string())?.len();
            holds(listed == crowd.fleet.len(), listed)
        })
        .await;
        crowd.cluster_is_whole().await;
        Clocks {
            crowd,
            clocks,
            cluster,
        }
    }

    /// Stores a family of this name for this role and a plan that goes to most of it at once. Answers the delivery hash.
    async fn store(&self, name: &str, of: &str, precedence: i64) -> Vec<u8> {
        let selector = format!("role = {of}");
        let config = config(name);
        let family = family(name, precedence, &[role("agent", &selector, &config)]);
        let all = plan("all", &["size: 60%", "size: 100%"], "hold");
        let file = self.cluster.path("more.yaml");
        std::fs::write(&file, [family, all].join("---\n")).unwrap();
        self.crowd.cli.apply(&file);
        self.crowd.api.delivery_hash(name, "agent").await
    }

    async fn start_of(&self, family: &str, plan: &str) -> String {
        self.crowd.api.start(family, plan).await.unwrap().id
    }

    /// How many of a rollout's members have not answered in time.
    async fn no_answer(&self, id: &str) -> u64 {
        eventually(SOON, "the rollout to be shown", async || {
            let rollout = self.crowd.api.try_rollout(id).await;
            let rollout = rollout.map_err(|status| status.to_string())?;
            Ok(rollout.total.unwrap_or_default().no_answer)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_by_an_hour_under_the_leading_node_ends_no_offer_freeze_or_pin_and_loses_nobody()
 {
    let scene = Clocks::start().await;
    let crowd = &scene.crowd;
    let file = scene.cluster.path("edge.yaml");
    let one = crowd.store(&file, "one").await;
    crowd
        .completes(&scene.start_of("edge", "quick").await)
        .await;

    // A freeze and a pin that end in ten minutes, ...
    let frozen = scene.store("frozen", "frozen", 20).await;
    let freeze = ["freeze", "set", "sale", "--family", "frozen"];
    let reason = ["--reason", "x", "--for", "10m"];
    crowd.cli.ok(&[&freeze[..], &reason].concat());
    let pinned = crowd.fleet.agent(2).uid().to_string();
    let pin = ["pin", "set", "legacy", "--family", "edge"];
    crowd
        .cli
        .ok(&[&pin[..], &["--agent", &pinned], &reason].concat());
    let held = scene.start_of("frozen", "all").await;
    eventually(SOON, "the freeze to be waited for", async || {
        let rollout = crowd.api.try_rollout(&held).await;
        let rollout = rollout.map_err(|status| status.to_string())?;
        let mut waits = rollout.waiting.iter();
        let waits = waits.any(|what| what.contains("the end of freeze sale"));
        holds(waits, &rollout.waiting)
    })
    .await;
    // ... offers that are open, ...
    let mute = scene.store("mute", "mute", 30).await;
    let began = Instant::now();
    let unanswered = scene.start_of("mute", "all").await;
    eventually(SOON, "offers to be open", async || {
        let offers = crowd.offers(&mute);
        holds(offers == OPEN, offers)
    })
    .await;
    // ... and a rollout on its way.
    let two = crowd.store(&file, "two").await;
    let running = scene.start_of("edge", "pausing").await;
    crowd.converge(&running, 2).await;

    let leader = crowd.api.leader("control", PATIENCE).await;
    let clock = &scene.clocks[usize::try_from(leader).unwrap() - 1];
    for seconds in [HOUR, -HOUR, 0] {
        clock.is_ahead(seconds);
        tokio::time::sleep(Duration::from_secs(3)).await; // the claim is about this time
        let early = scene.no_answer(&unanswered).await;
        let passed = began.elapsed();
        assert!(
            early == 0 || passed >= OFFER_TIMEOUT,
            "{early} have no answer after {passed:?}"
        );
        assert_eq!(crowd.offers(&frozen), 0, "the freeze has ended");
    }
    crowd.completes(&running).await;
    // Who is told that no more is offered is told the truth, whatever the clock says.
    let three = crowd.store(&file, "three").await;
    let halted = scene.start_of("edge", "half").await;
    crowd.converge(&halted, 2).await;
    clock.is_ahead(-HOUR);
    crowd
        .cli
        .ok(&["rollout", "halt", &halted, "--reason", "test"]);
    let before = crowd.offers(&three);
    tokio::time::sleep(Duration::from_secs(3)).await; // and about this
    assert_eq!(crowd.offers(&three), before);
    clock.is_ahead(0);
    // Nor are offers open for an hour more.
    eventually(PATIENCE, "offers to run out", async || {
        let late = scene.no_answer(&unanswered).await;
        holds(late > 0, late)
    })
    .await;

    let offered = crowd.fleet.offers();
    let offered = offered.iter().filter(|offer| offer.hash == two);
    let mut offered: Vec<usize> = offered.map(|offer| offer.agent).collect();
    offered.sort_unstable();
    let not_pinned: Vec<usize> = (0..AGENTS).filter(|agent| *agent != 2).collect();
    assert_eq!(offered, not_pinned, "who is pinned is offered nothing");
    assert_eq!(crowd.offers(&one), AGENTS);
    assert_eq!(crowd.offers(&frozen), 0);
    crowd.cli.ok(&["freeze", "end", "sale"]);
    crowd.completes(&held).await;
    assert_eq!(crowd.offers(&frozen), FROZEN);
    crowd.assert_offers_are_explained();
    crowd.cluster_is_whole().await;
    crowd.assert_nobody_is_lost().await;
    crowd.assert_nobody_was_lost().await;
    crowd.assert_audit_verifies();
    scene.crowd.fleet.stop().await;
}
