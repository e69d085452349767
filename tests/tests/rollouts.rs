//! Rollouts as an operator lives through them: a fleet of simulated supervisors, the real server, the command line.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::collections::BTreeSet;
use std::time::Duration;

use muster_loadtest::{Behaviour, Script};
use proto::api::Rollout;
use system_tests::api::Api;
use system_tests::manifest::{Role, config, family, plan, role};
use system_tests::raw;
use system_tests::scene::{BROKEN, Scene, assert_adds_up, rejects};
use system_tests::server::Server;
use system_tests::wait::{SOON, eventually, holds};

// === the way it should go ===

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_why_a_role_matches_it_or_not() {
    let scene = Scene::of(1).await;
    scene.store("one").await;
    let uid = scene.fleet.agent(0).uid().to_string();
    let why = ["agents", "get", &uid, "--why", "edge"];
    let said = scene.cli.ok(&why);
    assert_eq!(
        said,
        "agent: matched because `role = agent` holds: role is agent\n"
    );
    scene.cli.ok(&["agents", "label", &uid, "role=other"]);
    let said = scene.cli.json(&why);
    let role = &said["why"][0];
    assert_eq!(role["matched"], false, "{said:#}");
    assert_eq!(
        role["why"],
        "not matched because `role = agent` does not hold: role is other"
    );
    let unknown = scene.refused(&["agents", "get", &uid, "--why", "nosuch"]);
    assert!(unknown.contains("there is no family `nosuch`"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_from_file_to_fleet_and_is_written_down() {
    let scene = Scene::of(12).await;
    let hash = scene.store("one").await;
    let preview = scene.cli.json(&["preview", "edge", "--plan", "quick"]);
    assert_eq!(preview["members"], 12, "{preview}");
    scene.nobody_is_offered_anything().await;
    let id = preview["id"].as_str().unwrap();
    scene.cli.ok(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--preview",
        id,
        "--wait",
        "--timeout",
        "60s",
    ]);

    scene.fleet.converged(&hash, SOON).await.unwrap();
    scene.assert_nobody_was_offered_twice();
    assert_eq!(scene.offered(&hash).len(), 12);
    let rollout = scene.api.rollout("edge").await;
    assert_adds_up(&rollout);
    assert_eq!(
        (rollout.state.as_str(), rollout.total.unwrap().converged),
        ("completed", 12)
    );
    let waves: Vec<u64> = rollout.roles[0]
        .waves
        .iter()
        .map(|wave| wave.agents)
        .collect();
    assert_eq!(waves, [1, 5, 6]);

    let audit = scene.api.audit(&format!("rollout/{}", rollout.id)).await;
    for action in ["rollout.start", "rollout.open", "rollout.complete"] {
        let entry = audit.iter().find(|entry| entry.action == action);
        assert!(
            !entry
                .unwrap_or_else(|| panic!("{action}: {audit:?}"))
                .actor
                .is_empty()
        );
    }
    let person = &audit
        .iter()
        .find(|entry| entry.action == "rollout.start")
        .unwrap()
        .actor;
    assert_eq!(*person, rollout.actor);
    assert_ne!(person, "controller");
    let agent = scene.fleet.agent(0).uid();
    let offers = scene.api.audit(&format!("agent/{agent}")).await;
    assert_eq!(
        offers
            .iter()
            .filter(|entry| entry.action == "offer.grant")
            .count(),
        1
    );
    let verified = scene.cli.run(&["audit", "verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_go_in_their_order_and_back_against_it() {
    let scene = Scene::with(
        vec![("gateway".to_owned(), 4), ("agent".to_owned(), 6)],
        &[],
    )
    .await;
    let (gateways, agents) = (config("gateway-one"), config("agent-one"));
    let roles = [
        Role {
            name: "agent",
            selector: "role = agent",
            after: &["gateway"],
            config: &agents,
        },
        role("gateway", "role = gateway", &gateways),
    ];
    scene.store_roles(&roles);
    let id = scene.start("quick").await;
    scene.state(&id, "completed").await;
    let at = |role: &str, hash: &[u8]| -> Vec<Duration> {
        let offers = scene.fleet.offers();
        let of_role = |agent: usize| scene.fleet.agent(agent).role() == role;
        offers
            .iter()
            .filter(|offer| offer.hash == hash && of_role(offer.agent))
            .map(|offer| offer.at)
            .collect()
    };
    let gateway_hash = scene.api.delivery_hash("edge", "gateway").await;
    let agent_hash = scene.api.delivery_hash("edge", "agent").await;
    assert_eq!(
        (
            at("gateway", &gateway_hash).len(),
            at("agent", &agent_hash).len()
        ),
        (4, 6)
    );
    let applied = scene.fleet.reports();
    let gateways_done = applied
        .iter()
        .filter(|report| report.hash == gateway_hash)
        .map(|report| report.at)
        .max()
        .unwrap();
    assert!(
        at("agent", &agent_hash)
            .iter()
            .all(|at| *at > gateways_done),
        "no agent before the last gateway"
    );

    let (gateways, agents) = (config("gateway-two"), config("agent-two"));
    let roles = [
        Role {
            name: "agent",
            selector: "role = agent",
            after: &["gateway"],
            config: &agents,
        },
        role("gateway", "role = gateway", &gateways),
    ];
    scene.store_roles(&roles);
    let id = scene.start("half").await;
    let newer = scene.api.delivery_hash("edge", "agent").await;
    // The gateways soak for an hour in their second wave: no agent is touched. Halt, and go through with another plan.
    let newer_gateway = scene.api.delivery_hash("edge", "gateway").await;
    scene.until_offered(&newer_gateway, 2).await;
    scene.several_polls().await;
    assert_eq!(scene.offered(&newer), Vec::<usize>::new());
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    let id = scene.start("pausing").await;
    scene.until_offered(&newer, 3).await;
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    let last_agent = at("agent", &agent_hash).into_iter().max().unwrap();
    let gateways_back: Vec<Duration> = at("gateway", &gateway_hash)
        .into_iter()
        .rev()
        .take(4)
        .collect();
    assert!(
        gateways_back.iter().all(|at| *at > last_agent),
        "gateways go back when the last agent has: {gateways_back:?} {last_agent:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_asleep_are_named_and_hold_nothing_up() {
    let scene = Scene::of(20).await;
    let asleep = scene.fleet.agent(7);
    asleep.sleep(Duration::from_secs(600)).await;
    eventually(SOON, "the sleeper to be lost", async || {
        let link = scene
            .api
            .agent(&asleep.uid().to_string())
            .await
            .agent
            .unwrap()
            .link;
        holds(link == "lost", link)
    })
    .await;
    scene.store("one").await;
    let id = scene.start("quick").await;
    let rollout = scene.state(&id, "completed").await;
    let total = rollout.total.unwrap();
    assert_eq!((total.converged, total.not_reached), (19, 1), "{total:?}");
    let named = scene.cli.json(&[
        "agents",
        "list",
        "--rollout",
        &id,
        "--bucket",
        "not_reached",
    ]);
    assert!(
        named.to_string().contains(&asleep.uid().to_string()),
        "{named}"
    );
}

// === what goes wrong ===

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_the_canary_rejects_touches_one_agent_and_is_taken_back() {
    let scene = Scene::disliking(12, &[rejects()]).await;
    let good = scene.stable("good").await;
    let bad = scene.store(BROKEN).await;
    let started = scene.cli.run(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--yes",
        "--wait",
        "--timeout",
        "60s",
    ]);
    assert_eq!(started.code, 7, "{started:?}");
    let rollout = scene.state("edge", "rolled back").await;
    scene.nobody_is_offered_anything().await;

    let canary = match scene.offered(&bad)[..] {
        [canary] => canary,
        ref offered => panic!("offered to {offered:?}"),
    };
    for agent in scene.fleet.agents() {
        let expected = if agent.index() == canary { 2 } else { 1 };
        assert_eq!(
            agent
                .offers()
                .iter()
                .filter(|offer| offer.hash == good)
                .count(),
            expected,
            "agent {}",
            agent.index()
        );
        assert!(agent.state().applied(&good), "agent {}", agent.index());
    }
    let total = rollout.total.unwrap();
    assert_eq!(
        (total.members, total.returned, total.waiting),
        (12, 1, 11),
        "{total:?}"
    );
    let errors: Vec<_> = rollout
        .errors
        .iter()
        .filter(|group| group.error.contains("redactoin"))
        .collect();
    assert_eq!(errors.len(), 1, "{:?}", rollout.errors);
    assert_eq!(errors[0].agents, 1);
    let family = scene.cli.json(&["families", "get", "edge"]);
    assert_eq!(family["family"]["stable"], 1, "{family}");
}

#[tokio::test(flavor = "multi_thread")]
async fn collectors_that_crash_in_a_later_wave_roll_everything_back() {
    let scene = Scene::of(12).await;
    let good = scene.stable("good").await;
    let bad = scene.store(BROKEN).await;
    let id = scene.start("pausing").await;
    let canary = scene.until_offered(&bad, 1).await;
    for agent in scene
        .fleet
        .agents()
        .iter()
        .filter(|agent| !canary.contains(&agent.index()))
    {
        agent
            .follow(Script::crashing(BROKEN, Duration::from_millis(30)))
            .await;
    }
    let rollout = scene.state(&id, "rolled back").await;
    let touched: BTreeSet<usize> = scene.offered(&bad).into_iter().collect();
    assert_eq!(touched.len(), 6, "the canary and its wave: {touched:?}");
    assert_eq!(rollout.total.unwrap().returned, 6);
    assert!(rollout.cause.contains("crash"), "{}", rollout.cause);
    eventually(SOON, "everybody to run the good config", async || {
        let away: Vec<_> = scene
            .fleet
            .agents()
            .iter()
            .filter(|agent| !agent.state().applied(&good))
            .map(|a| a.index())
            .collect();
        holds(away.is_empty(), away)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_wave_that_fails_goes_back_alone_where_the_plan_says_so() {
    let scene = Scene::of(12).await;
    let good = scene.stable("good").await;
    let bad = scene.store(BROKEN).await;
    let id = scene.start("by-wave").await;
    let canary = *scene.until_offered(&bad, 1).await.first().unwrap();
    for agent in scene.fleet.agents() {
        if agent.index() != canary {
            agent.follow(Script::rejecting(BROKEN, "no")).await;
        }
    }
    let rollout = scene.state(&id, "halted").await;
    scene.nobody_is_offered_anything().await;

    let touched: BTreeSet<usize> = scene.offered(&bad).into_iter().collect();
    let second = touched.len() - 1;
    assert!((1..=5).contains(&second), "{touched:?}");
    let total = rollout.total.unwrap();
    assert_eq!(
        (total.converged, total.returned, total.waiting),
        (1, second as u64, 11 - second as u64),
        "{total:?}"
    );
    for agent in scene.fleet.agents() {
        let is_back = touched.contains(&agent.index()) && agent.index() != canary;
        let of_good = agent.offers().iter().filter(|o| o.hash == good).count();
        assert_eq!(of_good, if is_back { 2 } else { 1 }, "{}", agent.index());
        let runs = if agent.index() == canary { &bad } else { &good };
        assert!(agent.state().applied(runs), "{}", agent.index());
    }
    // The rest is for a person to say.
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    assert!(scene.fleet.agent(canary).state().applied(&good));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_gets_unhealthy_and_stays_so_stops_the_rollout() {
    let does = [Behaviour::UnhealthyAfter {
        after: Duration::from_millis(500),
    }];
    let scene = Scene::disliking(4, &does).await;
    scene.stable("good").await;
    let bad = scene.store(BROKEN).await;
    let id = scene.start("watching").await;
    let canary = *scene.until_offered(&bad, 1).await.first().unwrap();
    let rollout = scene.state(&id, "halted").await;
    let total = rollout.total.unwrap();
    assert_eq!((total.unhealthy, total.waiting), (1, 3), "{total:?}");
    assert!(rollout.cause.contains("unhealthy"), "{}", rollout.cause);
    // It has applied what it was sent; that alone proves nothing.
    assert!(scene.fleet.agent(canary).state().applied(&bad));
    assert_eq!(scene.offered(&bad), [canary]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_falls_silent_after_its_offer_has_vanished_and_stops_the_rollout() {
    let scene = Scene::of(4).await;
    scene.stable("good").await;
    let bad = scene.store("deaf").await;
    let id = scene.start("watching").await;
    let canary = *scene.until_offered(&bad, 1).await.first().unwrap();
    scene
        .fleet
        .agent(canary)
        .sleep(Duration::from_secs(600))
        .await;
    let rollout = scene.state(&id, "halted").await;
    let total = rollout.total.unwrap();
    assert_eq!((total.vanished, total.waiting), (1, 3), "{total:?}");
    assert!(rollout.cause.contains("vanished"), "{}", rollout.cause);
    let named = scene
        .cli
        .json(&["agents", "list", "--rollout", &id, "--bucket", "vanished"]);
    let uid = scene.fleet.agent(canary).uid().to_string();
    assert!(named.to_string().contains(&uid), "{named}");
    assert_eq!(scene.offered(&bad), [canary]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_crashes_again_and_again_after_it_has_applied_is_taken_back() {
    let does = [Behaviour::CrashesAfter {
        after: Duration::from_secs(2),
    }];
    let scene = Scene::disliking(4, &does).await;
    let good = scene.stable("good").await;
    let bad = scene.store(BROKEN).await;
    let id = scene.start("canary").await;
    let canary = *scene.until_offered(&bad, 1).await.first().unwrap();
    let agent = scene.fleet.agent(canary);
    eventually(SOON, "the canary to apply it", async || {
        holds(agent.state().applied(&bad), agent.state())
    })
    .await;
    let rollout = scene.state(&id, "rolled back").await;
    assert!(rollout.cause.contains("restart"), "{}", rollout.cause);
    let total = rollout.total.unwrap();
    assert_eq!((total.returned, total.waiting), (1, 3), "{total:?}");
    assert!(agent.state().applied(&good));
    assert_eq!(scene.offered(&bad), [canary]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_rolled_back_by_itself_is_left_alone_and_shown() {
    let does = [
        Behaviour::Rollback,
        Behaviour::CrashesAfter {
            after: Duration::from_millis(30),
        },
    ];
    let scene = Scene::disliking(6, &does).await;
    let good = scene.stable("good").await;
    let bad = scene.store(BROKEN).await;
    let id = scene.start("holding").await;
    let rollout = scene
        .until(&id, "a stop", |rollout| rollout.state == "halted")
        .await;
    let canary = *scene.until_offered(&bad, 1).await.first().unwrap();
    let agent = scene.fleet.agent(canary);
    eventually(SOON, "the supervisor to be back", async || {
        holds(agent.state().applied(&good), agent.state())
    })
    .await;
    eventually(SOON, "it to be shown", async || {
        let shown = scene
            .api
            .agent(&agent.uid().to_string())
            .await
            .agent
            .unwrap();
        holds(shown.state == "rolled back", shown)
    })
    .await;
    scene.nobody_is_offered_anything().await;
    assert_eq!(scene.offered(&bad).len(), 1);
    scene
        .until(&rollout.id, "the kind of failure", |rollout| {
            rollout.total.as_ref().unwrap().rolled_back_by_agent == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_is_offered_again_when_a_person_says_so() {
    let scene = Scene::disliking(4, &[rejects()]).await;
    scene.stable("good").await;
    let bad = scene.store(BROKEN).await;
    let id = scene.start("holding").await;
    scene.state(&id, "halted").await;
    let canary = *scene.until_offered(&bad, 1).await.first().unwrap();
    for agent in scene.fleet.agents() {
        agent.follow(Script::default()).await;
    }
    scene.nobody_is_offered_anything().await;
    let uid = scene.fleet.agent(canary).uid().to_string();
    scene.cli.ok(&["agents", "retry", &uid, "--yes"]);
    scene.cli.ok(&["rollout", "resume", &id]);
    scene.state(&id, "completed").await;
    assert!(
        scene
            .fleet
            .agents()
            .iter()
            .all(|agent| agent.state().applied(&bad))
    );
    assert_eq!(
        scene
            .offered(&bad)
            .iter()
            .filter(|agent| **agent == canary)
            .count(),
        2
    );
}

// === a person steps in ===

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_offered_anything_between_a_pause_and_its_resume() {
    let scene = Scene::of(12).await;
    let hash = scene.store("one").await;
    let id = scene.start("pausing").await;
    scene.until_offered(&hash, 1).await;
    scene
        .cli
        .ok(&["rollout", "pause", &id, "--reason", "lunch"]);
    scene.nobody_is_offered_anything().await;
    let rollout = scene.state(&id, "paused").await;
    assert!(rollout.cause.contains("lunch"), "{}", rollout.cause);
    scene.cli.ok(&["rollout", "resume", &id]);
    scene.state(&id, "completed").await;
    scene.assert_nobody_was_offered_twice();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_offered_anything_after_a_halt_has_returned() {
    let scene = Scene::of(40).await;
    let hash = scene.store("one").await;
    let id = scene.start("holding").await;
    // In the middle of the second wave, while offers are being written.
    scene.until_offered(&hash, 3).await;
    scene.cli.ok(&["rollout", "halt", &id]);
    scene.nobody_is_offered_anything().await;
    scene.state(&id, "halted").await;
    let some = scene.offered(&hash).len();
    scene.cli.ok(&["rollout", "resume", &id]);
    scene.state(&id, "completed").await;
    assert_eq!(scene.offered(&hash).len(), 40, "{some} before the halt");
    scene.assert_nobody_was_offered_twice();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_returns_exactly_those_that_were_touched() {
    let scene = Scene::of(12).await;
    let old = scene.stable("old").await;
    let new = scene.store("new").await;
    let id = scene.start("half").await;
    let touched = scene.until_offered(&new, 6).await;
    scene
        .until(&id, "the second wave to soak", |rollout| {
            rollout.total.as_ref().unwrap().converged == 6
        })
        .await;
    scene
        .cli
        .ok(&["rollout", "rollback", &id, "--reason", "wrong week"]);
    let rollout = scene.state(&id, "rolled back").await;
    let total = rollout.total.unwrap();
    assert_eq!((total.returned, total.waiting), (6, 6), "{total:?}");
    assert_eq!(
        scene.offered(&new).into_iter().collect::<BTreeSet<_>>(),
        touched
    );
    for agent in scene.fleet.agents() {
        let expected = if touched.contains(&agent.index()) {
            2
        } else {
            1
        };
        assert_eq!(
            agent
                .offers()
                .iter()
                .filter(|offer| offer.hash == old)
                .count(),
            expected
        );
        assert!(agent.state().applied(&old));
    }
    scene.nobody_is_offered_anything().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rollback_of_a_first_rollout_delivers_the_baseline_and_never_an_empty_map() {
    let scene = Scene::of(6).await;
    let hash = scene.store("one").await;
    let id = scene.start("half").await;
    let touched = scene.until_offered(&hash, 3).await;
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    for agent in scene.fleet.agents() {
        let offers = agent.offers();
        let config = agent.effective_config();
        if touched.contains(&agent.index()) {
            assert_eq!(offers.len(), 2);
            assert_ne!(offers[1].hash, hash);
            assert!(!config.contains("debug/one"), "{config}");
        } else {
            assert_eq!(offers.len(), 0);
        }
        assert!(
            config.contains("nop"),
            "an empty map would have stopped the collector: {config}"
        );
        assert!(agent.state().healthy);
    }
}

// === what may happen meanwhile ===

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_second_wave_goes_on_where_it_was() {
    let mut scene = Scene::of(12).await;
    let hash = scene.store("one").await;
    let id = scene.start("pausing").await;
    scene
        .until(&id, "the second wave to soak", |rollout| {
            rollout.total.as_ref().unwrap().converged == 6
        })
        .await;
    let members = async |scene: &Scene| -> Vec<u64> {
        let rollout = scene.api.rollout(&id).await;
        rollout.roles[0]
            .waves
            .iter()
            .map(|wave| wave.agents)
            .collect()
    };
    let (before, touched) = (
        members(&scene).await,
        scene.offered(&hash).into_iter().collect::<BTreeSet<_>>(),
    );
    assert_eq!(touched.len(), 6, "it soaks");
    scene.server.kill_and_restart();
    let rollout = scene.api.rollout(&id).await;
    assert_eq!(rollout.state, "running");
    assert_eq!(members(&scene).await, before);
    assert_eq!(
        scene.offered(&hash).into_iter().collect::<BTreeSet<_>>(),
        touched
    );
    scene.state(&id, "completed").await;
    scene.assert_nobody_was_offered_twice();
    assert_eq!(scene.offered(&hash).len(), 12);
    assert_eq!(scene.cli.run(&["audit", "verify"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_add_up_when_members_are_relabelled_forgotten_and_cloned() {
    let scene = Scene::of(12).await;
    let hash = scene.store("one").await;
    let id = scene.start("half").await;
    let touched = scene.until_offered(&hash, 6).await;
    scene
        .until(&id, "the second wave to soak", |rollout| {
            rollout.total.as_ref().unwrap().converged == 6
        })
        .await;
    let untouched: Vec<usize> = (0..12).filter(|agent| !touched.contains(agent)).collect();
    let members = |rollout: &Rollout| rollout.total.as_ref().map(|total| total.members);

    let uid = |index: usize| scene.fleet.agent(index).uid().to_string();
    scene
        .fleet
        .agent(untouched[0])
        .relabel("role", "retired")
        .await;
    let rollout = scene.until(&id, "the figures", |_| true).await;
    assert_eq!(members(&rollout), Some(12));

    scene.fleet.agent(untouched[1]).kill().await;
    scene.cli.ok(&["agents", "forget", &uid(untouched[1])]);
    let rollout = scene.until(&id, "the figures", |_| true).await;
    assert_eq!(members(&rollout), Some(12));

    let clone = scene.fleet.clone_agent(untouched[2]);
    eventually(SOON, "the clone to be noticed", async || {
        let agents = scene.api.list("").await;
        let marked = agents
            .iter()
            .any(|agent| agent.conditions.iter().any(|c| c.contains("duplicate uid")));
        holds(
            marked || scene.fleet.agent(clone).uid() != scene.fleet.agent(untouched[2]).uid(),
            agents.len(),
        )
    })
    .await;
    let rollout = scene.until(&id, "the figures", |_| true).await;
    assert_eq!(members(&rollout), Some(12));

    // The rest of the rollout is not worth an hour of soak: take it back and look at the sums on the way.
    scene.cli.ok(&["rollout", "rollback", &id]);
    let rollout = scene.state(&id, "rolled back").await;
    assert_eq!(members(&rollout), Some(12));
    assert_eq!(rollout.total.unwrap().returned, 6);
    assert_eq!(
        scene.offered(&hash).into_iter().collect::<BTreeSet<_>>(),
        touched
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_went_away_are_named_and_do_not_hold_up_the_end() {
    let scene = Scene::of(12).await;
    let hash = scene.store("one").await;
    let id = scene.start("pausing").await;
    let touched = scene.until_offered(&hash, 6).await;
    let untouched: Vec<usize> = (0..12).filter(|agent| !touched.contains(agent)).collect();
    scene
        .fleet
        .agent(untouched[0])
        .relabel("role", "retired")
        .await;
    scene.fleet.agent(untouched[1]).kill().await;
    scene.cli.ok(&[
        "agents",
        "forget",
        &scene.fleet.agent(untouched[1]).uid().to_string(),
    ]);
    let rollout = scene.state(&id, "completed").await;
    let total = rollout.total.unwrap();
    assert_eq!(
        (total.converged, total.excluded, total.deleted),
        (10, 1, 1),
        "{total:?}"
    );
    assert!(
        !scene.offered(&hash).contains(&untouched[0]),
        "it is no longer of the role"
    );
}

// === before it starts ===

#[tokio::test]
async fn a_selector_that_matches_everything_by_mistake_is_stopped_by_the_reach_limit() {
    const AGENTS: usize = 130;
    let server = Server::start(&["--agent-interval", "60s"]);
    let (api, cli) = (Api::new(server.api), server.cli());
    let mut http = raw::Http::connect(server.opamp).await;
    let mut agents: Vec<raw::Script> = (0..AGENTS)
        .map(|i| raw::Script::new(&format!("a{i}")))
        .collect();
    for agent in &mut agents {
        http.ask(&agent.full()).await;
    }
    let body = config("one");
    let manifests = [
        family("typo", 1, &[role("agent", "!rolle", &body)]),
        plan("quick", &["size: 1", "size: 100%"], ""),
    ];
    cli.apply(&server.write("typo.yaml", &manifests.join("---\n")));
    let preview = cli.json(&["preview", "typo", "--plan", "quick"]);
    assert_eq!(
        (preview["members"].as_u64(), preview["reach_limit"].as_u64()),
        (Some(130), Some(100)),
        "{preview}"
    );
    let id = preview["id"].as_str().unwrap();
    let refused = cli.run(&[
        "rollout",
        "start",
        "typo",
        "--plan",
        "quick",
        "--preview",
        id,
    ]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        refused.stderr.contains("130") && refused.stderr.contains("reach"),
        "{refused:?}"
    );
    let unasked = cli.run(&["rollout", "start", "typo", "--plan", "quick", "--yes"]);
    assert_eq!(unasked.code, 4, "{unasked:?}");
    let wrong = cli.run(&[
        "rollout",
        "start",
        "typo",
        "--plan",
        "quick",
        "--preview",
        id,
        "--reach",
        "129",
    ]);
    assert_eq!(wrong.code, 4, "{wrong:?}");
    for agent in &mut agents {
        assert_eq!(raw::offer(&http.ask(&agent.bare()).await), None);
    }
    assert_eq!(api.audit("rollout/").await, []);
    let meant = cli.run(&[
        "rollout",
        "start",
        "typo",
        "--plan",
        "quick",
        "--preview",
        id,
        "--reach",
        "130",
    ]);
    assert_eq!(meant.code, 0, "{meant:?}");
}

#[tokio::test]
async fn a_start_is_refused_when_the_preview_no_longer_holds() {
    let server = Server::start(&["--agent-interval", "60s"]);
    let cli = server.cli();
    let mut http = raw::Http::connect(server.opamp).await;
    for i in 0..10 {
        http.ask(&raw::Script::new(&format!("a{i}")).full()).await;
    }
    let body = config("one");
    let manifests = [
        family("edge", 1, &[role("raw", "role = raw", &body)]),
        plan("quick", &["size: 1", "size: 100%"], ""),
    ];
    cli.apply(&server.write("edge.yaml", &manifests.join("---\n")));
    let preview = cli.json(&["preview", "edge", "--plan", "quick"]);
    for name in ["late-1", "late-2", "late-3"] {
        http.ask(&raw::Script::new(name).full()).await;
    }
    let id = preview["id"].as_str().unwrap();
    let refused = cli.run(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--preview",
        id,
    ]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        refused.stderr.contains("preview") && refused.stderr.contains('3'),
        "{refused:?}"
    );
    let preview = cli.json(&["preview", "edge", "--plan", "quick"]);
    let id = preview["id"].as_str().unwrap();
    let other_plan = cli.run(&["rollout", "start", "edge", "--preview", id]);
    assert_eq!(other_plan.code, 4, "{other_plan:?}");
    assert!(
        other_plan.stderr.contains("the plan is another one"),
        "{other_plan:?}"
    );
    let unknown = cli.run(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--preview",
        "no-such-preview",
    ]);
    assert_ne!(unknown.code, 0, "{unknown:?}");
    assert!(unknown.stderr.contains("no-such-preview"), "{unknown:?}");
}

#[tokio::test]
async fn a_start_is_refused_with_an_unknown_plan_or_while_another_rollout_is_open() {
    let server = Server::start(&["--agent-interval", "60s"]);
    let cli = server.cli();
    let mut http = raw::Http::connect(server.opamp).await;
    for i in 0..3 {
        http.ask(&raw::Script::new(&format!("a{i}")).full()).await;
    }
    let store = |marker: &str| {
        let body = config(marker);
        let manifests = [
            family("edge", 1, &[role("raw", "role = raw", &body)]),
            plan("quick", &["size: 1", "size: 100%"], ""),
        ];
        cli.apply(&server.write("edge.yaml", &manifests.join("---\n")))
    };
    store("one");
    let unknown = cli.run(&["rollout", "start", "edge", "--plan", "nosuch", "--yes"]);
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert!(unknown.stderr.contains("nosuch"), "{unknown:?}");
    cli.ok(&["rollout", "start", "edge", "--plan", "quick", "--yes"]);
    store("two");
    let second = cli.run(&["rollout", "start", "edge", "--plan", "quick", "--yes"]);
    assert_eq!(second.code, 4, "{second:?}");
    assert!(
        second.stderr.contains("finish it, roll it back with"),
        "{second:?}"
    );
    let nobody = cli.run(&["rollout", "start", "nofamily", "--yes"]);
    assert_eq!(nobody.code, 3, "{nobody:?}");
}
