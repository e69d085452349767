//! Who has to agree, and what stands in the way: approvals, freezes, pins, urgency, replacement, owners, budgets.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::time::Duration;

use muster_loadtest::Script;
use proto::api::GetFamilyRequest;
use proto::opamp::RemoteConfigStatuses;
use system_tests::manifest::{config, family, plan, role};
use system_tests::scene::{PATIENCE, Scene, plans};
use system_tests::wait::{SOON, eventually, holds};

/// The family "edge" for the agents, with more keys in its spec.
fn edge(marker: &str, more: &str) -> String {
    let text = family(
        "edge",
        10,
        &[role("agent", "role = agent", &config(marker))],
    );
    let text = text.replace("  precedence: 10\n", &format!("  precedence: 10\n{more}"));
    [&[text], &plans()[..]].concat().join("---\n")
}

// === approvals ===

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_waits_for_the_approval_of_somebody_else_than_the_author() {
    let scene = Scene::of(6).await;
    scene.apply(&edge("one", "  approvals: 1\n"));
    let id = scene.start("quick").await;
    let waiting = scene.state(&id, "awaiting approval").await;
    assert!(
        waiting
            .cause
            .contains("edge revision 1 has 0 of 1 approvals"),
        "{}",
        waiting.cause
    );
    scene.nobody_is_offered_anything().await;

    let own = scene.refused(&["approve", "edge", "--plan", "quick"]);
    assert!(
        own.contains("wrote edge revision 1 and cannot approve it: ask somebody else"),
        "{own}"
    );
    let bob = scene.cli.as_user("bob");
    let other = bob.run(&["approve", "edge", "--plan", "quick", "--hash", "0000"]);
    assert!(other.stderr.contains("look at it again"), "{other:?}");
    bob.ok(&["approve", "edge", "--plan", "canary"]);
    scene.several_polls().await;
    assert_eq!(
        scene.api.rollout(&id).await.state,
        "awaiting approval",
        "of another plan"
    );
    bob.ok(&[
        "approve",
        "edge",
        "--plan",
        "quick",
        "--reason",
        "looked at the diff",
    ]);
    scene.state(&id, "completed").await;

    // Whoever asks for fewer approvals needs those that hold now.
    scene.apply(&edge("two", ""));
    let id = scene.start("quick").await;
    let waiting = scene.state(&id, "awaiting approval").await;
    assert!(
        waiting
            .cause
            .contains("edge revision 2 has 0 of 1 approvals"),
        "{}",
        waiting.cause
    );
    bob.ok(&["reject", "edge", "--reason", "the exporter is wrong"]);
    let given_up = scene.state(&id, "aborted").await;
    assert!(
        given_up.cause.contains("the exporter is wrong"),
        "{}",
        given_up.cause
    );
    let again = scene.refused(&["rollout", "start", "edge", "--plan", "quick", "--yes"]);
    assert!(
        again.contains("was rejected by local/bob: the exporter is wrong"),
        "{again}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_resumes_a_rollout_that_waits_for_approvals_does_not_begin_it() {
    let scene = Scene::of(4).await;
    scene.apply(&edge("one", "  approvals: 1\n"));
    let id = scene.start("quick").await;
    scene.state(&id, "awaiting approval").await;
    scene.cli.ok(&["rollout", "resume", &id]);
    scene.nobody_is_offered_anything().await;
    assert_eq!(scene.api.rollout(&id).await.state, "awaiting approval");
    let bob = scene.cli.as_user("bob");
    bob.ok(&["approve", "edge", "--plan", "quick"]);
    let done = scene.state(&id, "completed").await;
    assert_eq!(done.total.unwrap().converged, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn glass_is_broken_with_an_urgent_plan_and_a_reason_and_leaves_a_review_to_somebody_else() {
    let scene = Scene::of(6).await;
    let urgent = plan("now", &["size: 1, soak: 500ms", "size: 100%"], "")
        .replace("spec:\n", "spec:\n  urgent: true\n");
    scene.apply(&[edge("one", "  approvals: 2\n"), urgent].join("---\n"));
    let careful = scene.refused(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--yes",
        "--break-glass",
        "cards leak",
    ]);
    assert!(
        careful.contains("only an urgent plan starts without its approvals"),
        "{careful}"
    );
    scene.cli.ok(&[
        "freeze",
        "set",
        "holidays",
        "--reason",
        "nobody is here",
        "--for",
        "1h",
    ]);
    scene.cli.ok(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "now",
        "--yes",
        "--break-glass",
        "cards leak",
    ]);
    let done = scene.state("edge", "completed").await;
    let debt = done.debt.clone().unwrap();
    assert_eq!(
        (debt.reason.as_str(), debt.reviewed_by.as_str()),
        ("cards leak", "")
    );
    assert!(
        debt.missing.contains("0 of 2 approvals"),
        "{}",
        debt.missing
    );
    let owed = scene.cli.ok(&["rollout", "list", "--unreviewed"]);
    assert!(owed.contains("edge"), "{owed}");

    let own = scene.refused(&["rollout", "review", &done.id, "--note", "fine"]);
    assert!(own.contains("ask somebody else"), "{own}");
    scene
        .cli
        .as_user("bob")
        .ok(&["rollout", "review", &done.id, "--note", "it was right"]);
    let again = scene.refused(&["rollout", "review", &done.id, "--note", "fine"]);
    assert!(again.contains("owes no review"), "{again}");
    let audit = scene.api.audit(&format!("rollout/{}", done.id)).await;
    let started = audit
        .iter()
        .find(|entry| entry.action == "rollout.start")
        .unwrap();
    assert!(
        started.detail.contains("without approvals") && started.detail.contains("cards leak"),
        "{}",
        started.detail
    );
    assert!(
        audit
            .iter()
            .any(|entry| entry.action == "rollout.review" && entry.actor == "local/bob")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals_are_not_escaped_by_deleting_taking_over_or_pinning() {
    let scene = Scene::of(4).await;
    scene.apply(&edge("one", "  approvals: 1\n"));
    let bob = scene.cli.as_user("bob");
    let id = scene.start("quick").await;
    bob.ok(&["approve", "edge", "--plan", "quick"]);
    scene.state(&id, "completed").await;

    // Another family that takes its agents needs what it asks for.
    let above = family(
        "above",
        20,
        &[role("agent", "role = agent", &config("above"))],
    );
    scene.apply(&above);
    let taking = scene.api.start("above", "quick").await.unwrap();
    let taking = scene.state(&taking.id, "awaiting approval").await;
    assert!(
        taking.cause.contains("0 of 1 approvals"),
        "{}",
        taking.cause
    );
    scene.cli.ok(&["rollout", "halt", &taking.id]);

    // A pin brings an agent only to what has had its rollout.
    scene.apply(&edge("two", ""));
    let uid = scene.fleet.agent(0).uid().to_string();
    let pinned = scene.refused(&[
        "pin",
        "set",
        "p",
        "--family",
        "edge",
        "--agent",
        &uid,
        "--revision",
        "2",
        "--reason",
        "quick",
        "--for",
        "1h",
    ]);
    assert!(
        pinned.contains("revision 2 of family edge never was active"),
        "{pinned}"
    );

    // A family that was deleted comes back with what it asked for.
    scene.cli.ok(&["families", "delete", "edge", "--yes"]);
    scene.apply(&edge("three", ""));
    let back = scene.api.start("edge", "quick").await.unwrap();
    let back = scene.state(&back.id, "awaiting approval").await;
    assert!(back.cause.contains("0 of 1 approvals"), "{}", back.cause);
    scene.nobody_is_offered_anything().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rollback_agents_are_stopped_started_and_pinned_as_before() {
    let scene = Scene::of(4).await;
    let first = scene.stable("one").await;
    let second = scene.store("two").await;
    let id = scene.start("canary").await;
    let canary = scene.until_offered(&second, 1).await;
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    for agent in [
        canary.first().copied().unwrap(),
        (0..4).find(|a| !canary.contains(a)).unwrap(),
    ] {
        let uid = scene.fleet.agent(agent).uid().to_string();
        let state = async |wanted: &str| {
            eventually(
                PATIENCE,
                &format!("agent {agent} to be {wanted}"),
                async || {
                    let state = scene.api.agent(&uid).await.agent.unwrap().state;
                    holds(state == wanted, state)
                },
            )
            .await;
        };
        scene
            .cli
            .ok(&["agents", "stop", &uid, "--yes", "--reason", "a test"]);
        state("stopped").await;
        let before = scene.offered(&first).len();
        scene.cli.ok(&["agents", "start", &uid]);
        state("converged").await;
        assert_eq!(scene.offered(&first).len(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waited_is_held_against_its_preview_once_more() {
    let scene = Scene::of(4).await;
    scene.apply(&edge("one", "  approvals: 1\n"));
    let id = scene.start("quick").await;
    scene.state(&id, "awaiting approval").await;
    for _ in 0..2 {
        scene.fleet.spawn("agent", Script::default());
    }
    eventually(SOON, "the new agents to be listed", async || {
        let agents = scene.api.list("").await.len();
        holds(agents == 6, agents)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene
        .cli
        .as_user("bob")
        .ok(&["approve", "edge", "--plan", "quick"]);
    let given_up = scene.state(&id, "aborted").await;
    assert!(
        given_up.cause.contains("2 members joined"),
        "{}",
        given_up.cause
    );
    scene.nobody_is_offered_anything().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_replaced_goes_on_until_the_newer_one_has_its_approvals() {
    let scene = Scene::of(6).await;
    scene.stable("one").await;
    scene.store("two").await;
    let old = scene.start("canary").await;
    scene.state(&old, "running").await;
    scene.apply(&edge("three", "  approvals: 1\n"));
    let third = scene.api.delivery_hash("edge", "agent").await;
    let new = scene.cli.json(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--yes",
        "--supersede",
        "restart",
    ]);
    let new = new["id"].as_str().unwrap().to_owned();
    scene.state(&new, "awaiting approval").await;
    // A family's name means what reaches its agents.
    assert_eq!(scene.api.rollout("edge").await.id, old);
    assert_eq!(scene.api.rollout(&old).await.state, "running");
    scene
        .cli
        .as_user("bob")
        .ok(&["approve", "edge", "--plan", "quick"]);
    scene.state(&new, "completed").await;
    let replaced = scene.api.rollout(&old).await;
    assert_eq!(replaced.state, "superseded");
    assert_eq!(replaced.total.unwrap().members, 6, "its figures stay");
    assert_eq!(scene.offered(&third).len(), 6);

    // Whoever waits can be given up.
    scene.apply(&edge("four", "  approvals: 1\n"));
    let id = scene.start("quick").await;
    scene.state(&id, "awaiting approval").await;
    scene.cli.ok(&["rollout", "halt", &id]);
    scene.state(&id, "aborted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_comes_while_members_are_in_flight_starts_what_it_was_given_for() {
    let scene = Scene::slow(4, Duration::from_secs(4)).await;
    scene.stable("one").await;
    let two = scene.store("two").await;
    scene.apply(&plan("soaking", &["size: 1, soak: 12s", "size: 100%"], ""));
    let old = scene.start("soaking").await;
    scene
        .until(&old, "the canary to run it", |rollout| {
            rollout.total.as_ref().is_some_and(|t| t.converged == 1)
        })
        .await;
    scene.apply(&edge("three", "  approvals: 1\n"));
    let start = "rollout start edge --plan quick --yes --supersede restart";
    let start: Vec<&str> = start.split(' ').collect();
    let new = scene.cli.json(&start)["id"].as_str().unwrap().to_owned();
    scene.state(&new, "awaiting approval").await;
    // What they run has been seen, and so has what they are about to run.
    eventually(PATIENCE, "the others to be in flight", async || {
        let offered = scene.offered(&two).len();
        holds(offered == 4, offered)
    })
    .await;
    scene
        .cli
        .as_user("bob")
        .ok(&["approve", "edge", "--plan", "quick"]);
    scene
        .until(&new, "the rollout to begin", |rollout| {
            assert_ne!(rollout.state, "aborted", "{}", rollout.cause);
            rollout.state == "running"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_while_a_rollout_is_open_is_late_and_outside_of_its_figures() {
    let scene = Scene::of(6).await;
    scene.stable("one").await;
    let second = scene.store("two").await;
    let id = scene.start("pausing").await;
    scene.until_offered(&second, 3).await;
    scene.fleet.spawn("agent", Script::default());
    let seen = scene
        .until(&id, "the late one to be counted", |rollout| {
            rollout.late == 1
        })
        .await;
    assert_eq!(seen.total.unwrap().members, 6);
    let done = scene.state(&id, "completed").await;
    assert_eq!(done.total.unwrap().converged, 6);
    eventually(PATIENCE, "the late one to follow", async || {
        let offered = scene.offered(&second).len();
        holds(offered == 7, offered)
    })
    .await;
}

// === freezes ===

#[tokio::test(flavor = "multi_thread")]
async fn no_wave_starts_in_a_freeze_and_a_rollback_does() {
    let scene = Scene::of(6).await;
    let first = scene.stable("one").await;
    let second = scene.store("two").await;
    let id = scene.start("canary").await;
    let canary = scene.until_offered(&second, 1).await;
    scene.cli.ok(&[
        "freeze",
        "set",
        "sale",
        "--reason",
        "black friday",
        "--for",
        "1h",
        "--family",
        "edge",
    ]);
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    let back: Vec<usize> = scene.offered(&first).into_iter().rev().take(1).collect();
    assert_eq!(back, canary.into_iter().collect::<Vec<_>>());

    scene.store("three").await;
    let needs = scene.cli.json(&["preview", "edge", "--plan", "quick"]);
    assert!(
        needs["needs"]
            .to_string()
            .contains("freeze sale (black friday"),
        "{}",
        needs["needs"]
    );
    let id = scene.start("quick").await;
    let frozen = scene
        .until(&id, "the freeze to be waited for", |rollout| {
            rollout
                .waiting
                .iter()
                .any(|what| what.contains("the end of freeze sale (black friday"))
        })
        .await;
    assert_eq!(frozen.state, "running");
    scene.nobody_is_offered_anything().await;
    scene.cli.ok(&["freeze", "end", "sale"]);
    scene.state(&id, "completed").await;
    let empty = scene.refused(&["freeze", "set", "x", "--reason", "", "--for", "1h"]);
    assert!(empty.contains("freeze x has no reason"), "{empty}");
}

// === pins ===

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_agent_stays_where_it_is_is_named_and_follows_when_the_pin_ends() {
    let scene = Scene::of(6).await;
    scene.stable("one").await;
    let pinned = scene.fleet.agent(2).uid().to_string();
    let said = scene.refused(&[
        "pin", "set", "legacy", "--family", "edge", "--agent", &pinned, "--reason", "x", "--for",
        "400d",
    ]);
    assert!(
        said.contains("has to end between now and 90 days from now"),
        "{said}"
    );
    scene.cli.ok(&[
        "pin",
        "set",
        "legacy",
        "--family",
        "edge",
        "--agent",
        &pinned,
        "--reason",
        "ticket 12",
        "--for",
        "1h",
    ]);
    let second = scene.store("two").await;
    let id = scene.start("quick").await;
    let done = scene.state(&id, "completed").await;
    let total = done.total.unwrap();
    assert_eq!((total.converged, total.pinned), (5, 1));
    assert!(!scene.offered(&second).contains(&2));
    assert_eq!(
        scene.api.agent(&pinned).await.agent.unwrap().state,
        "pinned"
    );
    scene.cli.ok(&["pin", "remove", "legacy"]);
    eventually(PATIENCE, "the agent to follow", async || {
        holds(scene.offered(&second).contains(&2), ())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_that_expires_lets_its_agents_go() {
    let scene = Scene::of(4).await;
    scene.stable("one").await;
    scene.cli.ok(&[
        "pin",
        "set",
        "short",
        "--family",
        "edge",
        "-l",
        "role = agent",
        "--reason",
        "a look",
        "--for",
        "4s",
    ]);
    let second = scene.store("two").await;
    let id = scene.start("quick").await;
    scene.state(&id, "completed").await;
    assert_eq!(scene.offered(&second), Vec::<usize>::new());
    eventually(PATIENCE, "everybody to follow", async || {
        let offered = scene.offered(&second).len();
        holds(offered == 4, offered)
    })
    .await;
    let audit = scene.api.audit("pin/short").await;
    assert!(
        audit.iter().any(|entry| entry.action == "pin.expire"),
        "{audit:?}"
    );
}

// === one rollout per family ===

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_revision_replaces_an_open_rollout_only_when_that_is_said() {
    let scene = Scene::of(8).await;
    let first = scene.stable("one").await;
    let second = scene.store("two").await;
    let old = scene.start("half").await;
    let touched = scene.until_offered(&second, 4).await;
    let third = scene.store("three").await;
    let refused = scene.api.start("edge", "quick").await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("replace it with --supersede restart or --supersede continue"),
        "{refused}"
    );
    let before = scene.offered(&first).len();
    scene.cli.ok(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--yes",
        "--supersede",
        "restart",
        "--wait",
        "--timeout",
        "60s",
    ]);
    assert_eq!(scene.api.rollout(&old).await.state, "superseded");
    let new = scene.api.rollout("edge").await;
    assert_eq!(
        (new.state.as_str(), new.supersedes.as_str()),
        ("completed", old.as_str())
    );
    assert_eq!(scene.offered(&third).len(), 8);
    assert_eq!(
        scene.offered(&first).len(),
        before,
        "nobody was sent back in between: {touched:?}"
    );
    scene.assert_nobody_was_offered_twice();
}

#[tokio::test(flavor = "multi_thread")]
async fn continuing_opens_the_waves_that_had_passed_with_the_same_agents() {
    let scene = Scene::of(8).await;
    scene.stable("one").await;
    let second = scene.store("two").await;
    let old = scene.start("half").await;
    scene.until_offered(&second, 4).await;
    let canary = scene.offered(&second)[0];
    scene
        .until(&old, "the first wave to pass", |rollout| {
            rollout.roles[0].waves[0].state == "passed"
        })
        .await;
    let third = scene.store("three").await;
    scene.cli.ok(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "half",
        "--yes",
        "--supersede",
        "continue",
    ]);
    let offered = scene.until_offered(&third, 1).await;
    assert!(offered.contains(&canary), "{offered:?} {canary}");
    let id = scene.api.rollout("edge").await.id;
    scene.cli.ok(&["rollout", "halt", &id]);
}

// === back ===

#[tokio::test(flavor = "multi_thread")]
async fn one_command_goes_back_to_any_revision_that_was_active() {
    let scene = Scene::of(6).await;
    let first = scene.stable("one").await;
    scene.stable("two").await;
    let third = scene.store("three").await;
    let _ = third;
    let never = scene.refused(&["rollout", "back", "edge", "3", "--yes"]);
    assert!(never.contains("is newer than the stable one"), "{never}");
    let here = scene.refused(&["rollout", "back", "edge", "2", "--yes"]);
    assert!(here.contains("is at revision 2 already"), "{here}");
    let unknown = scene.refused(&["rollout", "back", "edge", "9", "--yes"]);
    assert!(
        unknown.contains("has no revision 9") || unknown.contains("newer"),
        "{unknown}"
    );
    scene.cli.ok(&[
        "freeze",
        "set",
        "sale",
        "--reason",
        "black friday",
        "--for",
        "1h",
    ]);
    let before = scene.offered(&first).len();
    scene.apply(&plan(
        "swift",
        &["size: 1, soak: 500ms", "size: 100%"],
        "hold",
    ));
    scene.cli.ok(&[
        "rollout",
        "back",
        "edge",
        "1",
        "--plan",
        "swift",
        "--yes",
        "--wait",
        "--timeout",
        "60s",
    ]);
    let done = scene.api.rollout("edge").await;
    assert!(done.back && done.state == "completed", "{done:?}");
    assert_eq!(scene.offered(&first).len(), before + 6);
    let edge = scene.cli.json(&["families", "get", "edge"]);
    assert_eq!(edge["family"]["stable"], 1, "{edge}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deactivated_family_leaves_its_agents_what_they_run_until_a_rollout_brings_it_back() {
    let roles = vec![("agent".to_owned(), 3), ("gateway".to_owned(), 2)];
    let scene = Scene::with(roles, &[]).await;
    let one = scene.stable("one").await;
    scene.apply(&family(
        "other",
        20,
        &[role("gateway", "role = gateway", &config("other"))],
    ));
    scene.complete("other").await;
    let stable = async || {
        let request = GetFamilyRequest {
            name: "edge".to_owned(),
            revision: 0,
        };
        let detail = scene.api.families.clone().get_family(request).await;
        let family = detail.unwrap().into_inner().family.unwrap();
        (family.stable, family.target)
    };
    assert_eq!(stable().await, (1, 1));

    let off = ["families", "deactivate", "edge", "--yes", "--reason", "why"];
    let answer = scene.cli.json(&off);
    let result = &answer["results"][0];
    assert_eq!(result["change"], "deactivated", "{answer}");
    let audit = scene.api.audit("family/edge").await;
    let entry = audit.iter().find(|e| e.action == "family.deactivate");
    assert_eq!(entry.unwrap().detail, "3 agents keep what they run: why");
    assert_eq!(stable().await, (0, 0));
    assert!(scene.refused(&off).contains("family edge is not active"));
    let uid = scene.fleet.agent(0).uid().to_string();
    let pin = "pin set p --family edge --revision 1 --reason x --for 1h --agent";
    let pin: Vec<&str> = pin.split(' ').chain([&*uid]).collect();
    let said = scene.refused(&pin);
    let way_out = "pin p: family edge is deactivated, so nothing is sent to its agents: roll a revision out first";
    assert!(said.contains(way_out), "{said}");
    let deleted = ["families", "delete", "other", "--yes"];
    scene.cli.ok(&deleted);
    let late = scene.fleet.spawn("agent", Script::default());
    let uid = scene.fleet.agent(late).uid().to_string();
    eventually(SOON, "the late one to be there", async || {
        let found = scene.api.find(&uid).await.ok();
        let agent = found.and_then(|found| found.agent);
        holds(agent.as_ref().is_some_and(|a| a.healthy), &agent)
    })
    .await;
    scene.nobody_is_offered_anything().await;
    // Its agents are what those of a family are that was deleted; who matches it gets nothing.
    let gateway = scene.api.list("role = gateway").await.remove(0);
    for agent in scene.api.list("role = agent").await {
        if agent.uid == uid {
            assert_eq!((&*agent.state, &*agent.family), ("unassigned", ""));
            continue;
        }
        assert_eq!(
            (&agent.state, &agent.conditions),
            (&gateway.state, &gateway.conditions)
        );
        assert_eq!(agent.reported_hash, hex::encode(&one));
    }

    // A rollout begins where its agents are, and goes back there.
    let two = scene.store("two").await;
    let id = scene.start("canary").await;
    scene.until_offered(&two, 1).await;
    assert_eq!(scene.api.rollout(&id).await.from, 1);
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    assert_eq!(scene.offered(&one).len(), 4);
    assert_eq!(stable().await, (0, 0));
    let id = scene.start("quick").await;
    let done = scene.state(&id, "completed").await;
    assert_eq!(done.total.unwrap().converged, 4);
    assert_eq!(stable().await, (2, 2));
}

// === owners ===

/// "base" for everybody, and "special" above it for those with the label.
fn two_families() -> String {
    [
        family("base", 1, &[role("agent", "role = agent", &config("base"))]),
        family(
            "special",
            20,
            &[role(
                "agent",
                "role = agent, team = special",
                &config("special"),
            )],
        ),
    ]
    .join("---\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_another_family_are_taken_over_only_by_their_number_and_go_back() {
    let scene = Scene::of(6).await;
    scene.store("unused").await;
    scene.apply(&two_families());
    scene.complete("base").await;
    let base = scene.api.delivery_hash("base", "agent").await;
    let special = scene.api.delivery_hash("special", "agent").await;
    for agent in 0..2 {
        let uid = scene.fleet.agent(agent).uid().to_string();
        scene.cli.ok(&["agents", "label", &uid, "team=special"]);
    }
    let refused = scene.refused(&["rollout", "start", "special", "--plan", "canary", "--yes"]);
    assert!(refused.contains("--reach 2"), "{refused}");
    scene.nobody_is_offered_anything().await;
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "quick", "--yes", "--reach", "2",
    ]);
    let done = scene.state("special", "completed").await;
    assert_eq!(done.total.unwrap().converged, 2);
    let owner = scene
        .api
        .agent(&scene.fleet.agent(0).uid().to_string())
        .await;
    assert_eq!(owner.agent.unwrap().family, "special");
    assert_eq!(scene.offered(&special).len(), 2);

    // The other two ways: back as a whole, which returns them to whose they were.
    for agent in 2..4 {
        let uid = scene.fleet.agent(agent).uid().to_string();
        scene.cli.ok(&["agents", "label", &uid, "team=special"]);
    }
    scene.apply(&two_families().replace("debug/special", "debug/special2"));
    let newer = scene.api.delivery_hash("special", "agent").await;
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "half", "--yes", "--reach", "4",
    ]);
    scene.until_offered(&newer, 2).await;
    let id = scene.api.rollout("special").await.id;
    let before = scene.offered(&base).len();
    scene.cli.ok(&["rollout", "rollback", &id]);
    let back = scene.state(&id, "rolled back").await;
    let taken: Vec<usize> = scene
        .offered(&newer)
        .into_iter()
        .filter(|a| *a >= 2)
        .collect();
    assert_eq!(scene.offered(&base).len(), before + taken.len(), "{back:?}");
    for agent in taken {
        let uid = scene.fleet.agent(agent).uid().to_string();
        assert_eq!(scene.api.agent(&uid).await.agent.unwrap().family, "base");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_to_be_taken_over_is_served_by_the_rollout_of_the_family_that_has_it() {
    let scene = Scene::of(6).await;
    scene.store("unused").await;
    scene.apply(&two_families());
    scene.complete("base").await;
    for agent in 0..2 {
        let uid = scene.fleet.agent(agent).uid().to_string();
        scene.cli.ok(&["agents", "label", &uid, "team=special"]);
    }
    // Both rollouts list the two; the newer one takes one of them over, and the other one waits for its wave.
    scene.apply(&two_families().replace("debug/base", "debug/base2"));
    scene.cli.ok(&[
        "freeze", "set", "later", "--family", "base", "--reason", "not yet", "--for", "1h",
    ]);
    let base = scene.api.start("base", "quick").await.unwrap().id;
    scene
        .until(&base, "the freeze to hold it", |rollout| {
            rollout.state == "running" && !rollout.waiting.is_empty()
        })
        .await;
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "canary", "--yes", "--reach", "2",
    ]);
    let special = scene.api.delivery_hash("special", "agent").await;
    scene.until_offered(&special, 1).await;
    scene.cli.ok(&["freeze", "end", "later"]);
    scene.state(&base, "completed").await;
    let newer = scene.api.delivery_hash("base", "agent").await;
    let served = scene.until_offered(&newer, 5).await;
    let taken = scene.offered(&special);
    assert_eq!((served.len(), taken.len()), (5, 1), "{served:?} {taken:?}");
    assert!(!served.contains(&taken[0]), "{served:?} {taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_is_not_ended_while_another_one_may_have_to_give_its_agents_back() {
    let scene = Scene::of(4).await;
    scene.store("unused").await;
    scene.apply(&two_families());
    scene.apply(&plan("patient", &["size: 1", "size: 100%, soak: 1h"], ""));
    scene.complete("base").await;
    let uid = scene.fleet.agent(0).uid().to_string();
    scene.cli.ok(&["agents", "label", &uid, "team=special"]);
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "patient", "--yes", "--reach", "1",
    ]);
    let special = scene.api.delivery_hash("special", "agent").await;
    scene.until_offered(&special, 1).await;
    for end in ["deactivate", "delete"] {
        let said = scene.refused(&["families", end, "base", "--yes", "--reason", "why"]);
        let why = format!("while another family's rollout takes 1 of its agents ({uid})");
        assert!(said.contains(&why), "{said}");
        assert!(said.contains("`muster agents owner UID --keep`"), "{said}");
    }
    let id = scene.api.rollout("special").await.id;
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    let off = ["families", "deactivate", "base", "--yes", "--reason", "why"];
    scene.cli.ok(&off);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_slept_through_a_rollback_goes_back_to_its_family_by_the_next_one() {
    let scene = Scene::of(4).await;
    scene.store("unused").await;
    scene.apply(&two_families());
    scene.apply(&plan("patient", &["size: 1", "size: 100%, soak: 1h"], ""));
    scene.complete("base").await;
    let base = scene.api.delivery_hash("base", "agent").await;
    let sleeper = scene.fleet.agent(0);
    let uid = sleeper.uid().to_string();
    scene.cli.ok(&["agents", "label", &uid, "team=special"]);
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "patient", "--yes", "--reach", "1",
    ]);
    let first = scene.api.delivery_hash("special", "agent").await;
    scene.until_offered(&first, 1).await;
    let taken = scene.api.rollout("special").await.id;
    scene
        .until(&taken, "the agent to be taken over", |rollout| {
            rollout.total.as_ref().is_some_and(|t| t.converged == 1)
        })
        .await;
    sleeper.sleep(Duration::from_secs(20)).await;
    eventually(SOON, "the sleeper to be lost", async || {
        let link = scene.api.agent(&uid).await.agent.unwrap().link;
        holds(link == "lost", link)
    })
    .await;
    scene.cli.ok(&["rollout", "rollback", &taken]);
    scene.state(&taken, "rolled back").await;

    // It owes the sleeper to family base, and so does the next one, which brings it something newer first.
    scene.apply(&two_families().replace("debug/special", "debug/special2"));
    scene
        .cli
        .ok(&["rollout", "start", "special", "--plan", "patient", "--yes"]);
    let second = scene.api.delivery_hash("special", "agent").await;
    eventually(PATIENCE, "the sleeper to wake and get it", async || {
        let offered = scene.offered(&second);
        holds(offered == [0], offered)
    })
    .await;
    let before = scene.offered(&base).len();
    let id = scene.api.rollout("special").await.id;
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    assert_eq!(scene.offered(&base).len(), before + 1);
    let owner = scene.api.agent(&uid).await.agent.unwrap().family;
    assert_eq!(owner, "base");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_keeps_an_agent_from_a_wave_that_has_not_begun_and_may_take_that_back() {
    let scene = Scene::of(6).await;
    scene.store("unused").await;
    scene.apply(&two_families());
    // Who is kept is never alone in its wave, so that each of them has somebody to be judged by.
    scene.apply(&plan("pairs", &["size: 2, soak: 500ms", "size: 100%"], ""));
    scene.complete("base").await;
    let special = scene.api.delivery_hash("special", "agent").await;
    let uid = |agent: usize| scene.fleet.agent(agent).uid().to_string();
    for agent in 0..4 {
        scene
            .cli
            .ok(&["agents", "label", &uid(agent), "team=special"]);
    }
    // There is no list yet that it could be kept from.
    let nothing = scene.refused(&["agents", "owner", &uid(0), "--keep"]);
    assert!(
        nothing.contains("no open rollout takes it over: there is nothing to resolve"),
        "{nothing}"
    );
    scene.cli.ok(&[
        "freeze", "set", "later", "--family", "special", "--reason", "not yet", "--for", "1h",
    ]);
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "pairs", "--yes", "--reach", "4",
    ]);
    let id = scene.api.rollout("special").await.id;
    scene
        .until(&id, "the freeze to hold it", |rollout| {
            rollout.state == "running" && !rollout.waiting.is_empty()
        })
        .await;

    let (kept, back) = (uid(0), uid(1));
    let order = [
        "agents", "owner", &kept, &back, "--keep", "--reason", "INC-2",
    ];
    let said = scene.cli.ok(&order);
    let stays = format!(
        "2 agents: stays with base/agent; rollout {id} does not take it over to special/agent"
    );
    assert!(said.contains(&stays), "{said}");
    let said = scene.cli.ok(&["agents", "owner", &back, "--accept"]);
    let taken_back = format!(
        "what was said of base/agent is taken back; rollout {id} takes it over to special/agent with its wave"
    );
    assert!(said.contains(&taken_back), "{said}");
    let agreed = scene.refused(&["agents", "owner", &uid(2), "--accept"]);
    assert!(agreed.contains("there is nothing to resolve"), "{agreed}");
    assert!(agreed.contains(&uid(2)), "{agreed}");
    scene.nobody_is_offered_anything().await;

    scene.cli.ok(&["freeze", "end", "later"]);
    let done = scene.state(&id, "completed").await;
    let total = done.total.unwrap();
    assert_eq!((total.converged, total.excluded), (3, 1), "{total:?}");
    let mut offered = scene.offered(&special);
    offered.sort_unstable();
    assert_eq!(offered, [1, 2, 3]);
    let family = async |uid: &str| scene.api.agent(uid).await.agent.unwrap().family;
    assert_eq!(family(&kept).await, "base");
    assert_eq!(family(&back).await, "special");
    let audit = scene.api.audit(&format!("agent/{kept}")).await;
    let word = audit.iter().find(|entry| entry.action == "agent.owner");
    assert!(word.unwrap().detail.ends_with(": INC-2"), "{word:?}");

    // No list has it any more, and family special claims it: now it goes at once.
    let said = scene.cli.ok(&["agents", "owner", &kept, "--accept"]);
    assert!(said.contains("1 agent: goes to special/agent"), "{said}");
    eventually(SOON, "it to go to who claims it", async || {
        let owner = family(&kept).await;
        holds(owner == "special", owner)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_is_said_before_the_lists_are_made_goes_before_them() {
    let scene = Scene::of(5).await;
    let base = family(
        "base",
        1,
        &[role("agent", "role = agent, !team", &config("base"))],
    );
    let special = family(
        "special",
        20,
        &[role(
            "agent",
            "role = agent, team = special",
            &config("special"),
        )],
    ) + "  approvals: 1\n";
    // Who is kept is never alone in its wave.
    let pairs = plan("pairs", &["size: 2, soak: 500ms", "size: 100%"], "");
    scene.store("unused").await;
    scene.apply(&[base, special, pairs].join("---\n"));
    scene.complete("base").await;
    let hash = scene.api.delivery_hash("special", "agent").await;
    let uid = |agent: usize| scene.fleet.agent(agent).uid().to_string();
    for agent in 0..4 {
        scene
            .cli
            .ok(&["agents", "label", &uid(agent), "team=special"]);
    }
    let id = scene.api.start("special", "pairs").await.unwrap().id;
    scene.state(&id, "awaiting approval").await;

    let said = scene.cli.ok(&["agents", "owner", &uid(0), "--keep"]);
    assert!(said.contains("stays with base/agent"), "{said}");
    // Something else changes before the lists are made.
    scene.apply(&family(
        "other",
        30,
        &[role("other", "role = other", &config("other"))],
    ));
    scene
        .cli
        .as_user("bob")
        .ok(&["approve", "special", "--plan", "pairs"]);
    let done = scene.state(&id, "completed").await;
    let total = done.total.unwrap();
    assert_eq!((total.converged, total.excluded), (3, 1), "{total:?}");
    let mut offered = scene.offered(&hash);
    offered.sort_unstable();
    assert_eq!(offered, [1, 2, 3]);
    assert_eq!(scene.api.agent(&uid(0)).await.agent.unwrap().family, "base");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_keeps_an_agent_from_a_rollback_can_be_taken_back() {
    let scene = Scene::of(4).await;
    scene.store("unused").await;
    scene.apply(&two_families());
    scene.complete("base").await;
    let base = scene.api.delivery_hash("base", "agent").await;
    for agent in 0..2 {
        let uid = scene.fleet.agent(agent).uid().to_string();
        scene.cli.ok(&["agents", "label", &uid, "team=special"]);
    }
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "canary", "--yes", "--reach", "2",
    ]);
    let id = scene.api.rollout("special").await.id;
    scene
        .until(&id, "the canary to be taken over", |rollout| {
            rollout.total.as_ref().is_some_and(|t| t.converged == 1)
        })
        .await;
    let special = scene.api.delivery_hash("special", "agent").await;
    let canary = scene.offered(&special)[0];
    let canary = scene.fleet.agent(canary).uid().to_string();
    let said = scene.cli.ok(&["agents", "owner", &canary, "--keep"]);
    let stays = format!("a rollback of {id} does not give it back to base/agent");
    assert!(said.contains(&stays), "{said}");
    let said = scene.cli.ok(&["agents", "owner", &canary, "--accept"]);
    let taken_back = format!("a rollback of {id} gives it back to base/agent");
    assert!(said.contains(&taken_back), "{said}");
    let before = scene.offered(&base).len();
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "rolled back").await;
    assert_eq!(scene.offered(&base).len(), before + 1);
    let owner = scene.api.agent(&canary).await.agent.unwrap().family;
    assert_eq!(owner, "base");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relabelled_agent_moves_when_a_person_says_so_or_both_families_let_it() {
    let scene = Scene::of(4).await;
    scene.store("unused").await;
    scene.apply(&two_families());
    scene.complete("base").await;
    let first = scene.fleet.agent(0).uid().to_string();
    scene.cli.ok(&["agents", "label", &first, "team=special"]);
    scene.cli.ok(&[
        "rollout", "start", "special", "--plan", "quick", "--yes", "--reach", "1",
    ]);
    scene.state("special", "completed").await;

    let second = scene.fleet.agent(1).uid().to_string();
    scene.cli.ok(&["agents", "label", &second, "team=special"]);
    scene.nobody_is_offered_anything().await;
    let shown = scene.api.agent(&second).await.agent.unwrap();
    assert!(
        shown
            .conditions
            .iter()
            .any(|c| c.contains("owner changing: claimed by special/agent")),
        "{shown:?}"
    );
    let nothing = scene.refused(&["agents", "owner", &first, "--accept"]);
    assert!(nothing.contains("nothing to resolve"), "{nothing}");
    scene
        .cli
        .ok(&["agents", "owner", &second, "--accept", "--reason", "INC-1"]);
    let owned_by = async |uid: &str, family: &str| {
        eventually(SOON, "the owner to change", async || {
            let owner = scene.api.agent(uid).await.agent.unwrap().family;
            holds(owner == family, owner)
        })
        .await;
    };
    owned_by(&second, "special").await;

    // Or it stays, because somebody says so.
    let kept = scene.fleet.agent(3).uid().to_string();
    scene.cli.ok(&["agents", "label", &kept, "team=special"]);
    let changing = scene.api.agent(&kept).await.agent.unwrap();
    assert!(
        changing
            .conditions
            .iter()
            .any(|c| c.contains("owner changing")),
        "{changing:?}"
    );
    scene.cli.ok(&["agents", "owner", &kept, "--keep"]);
    let shown = scene.api.agent(&kept).await.agent.unwrap();
    assert_eq!(shown.family, "base");
    assert!(
        !shown
            .conditions
            .iter()
            .any(|c| c.contains("owner changing")),
        "{shown:?}"
    );

    scene.cli.ok(&["agents", "label", &kept, "team-"]);

    // By itself it goes only once both families' revisions that say so are complete.
    let auto = two_families().replace("precedence:", "ownerChange: auto\n  precedence:");
    scene.apply(&auto);
    let shown = scene.cli.json(&["preview", "base", "--plan", "quick"]);
    assert!(
        shown["findings"]
            .to_string()
            .contains("owner change auto instead of ask"),
        "{}",
        shown["findings"]
    );
    scene.complete("base").await;
    scene.complete("special").await;
    let third = scene.fleet.agent(2).uid().to_string();
    scene.cli.ok(&["agents", "label", &third, "team=special"]);
    owned_by(&third, "special").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_order_to_stop_sends_an_empty_config_and_it_can_be_taken_back() {
    let scene = Scene::of(3).await;
    let hash = scene.stable("one").await;
    let uid = scene.fleet.agent(1).uid().to_string();
    let mute = scene.refused(&["agents", "stop", &uid, "--yes", "--reason", ""]);
    assert!(mute.contains("needs a reason"), "{mute}");
    scene.cli.ok(&[
        "agents",
        "stop",
        &uid,
        "--yes",
        "--reason",
        "it floods the backend",
    ]);
    eventually(SOON, "the agent to be stopped", async || {
        let state = scene.api.agent(&uid).await.agent.unwrap().state;
        holds(state == "stopped", state)
    })
    .await;
    let before = scene.offered(&hash).len();
    scene.cli.ok(&["agents", "start", &uid]);
    eventually(SOON, "the agent to be started", async || {
        let state = scene.api.agent(&uid).await.agent.unwrap().state;
        holds(state == "converged", state)
    })
    .await;
    assert_eq!(scene.offered(&hash).len(), before + 1);
    let audit = scene.api.audit(&format!("agent/{uid}")).await;
    let stop = audit
        .iter()
        .find(|entry| entry.action == "agent.stop")
        .unwrap();
    assert_eq!(stop.detail, "it floods the backend");
}

// === budgets ===

/// The most agents that had an offer and no outcome at one time, by what they themselves did.
fn most_in_flight(scene: &Scene, hash: &[u8]) -> usize {
    let mut moments: Vec<(Duration, i64)> = Vec::new();
    for offer in scene.fleet.offers().iter().filter(|o| o.hash == hash) {
        moments.push((offer.at, 1));
    }
    for report in scene
        .fleet
        .reports()
        .iter()
        .filter(|r| r.hash == hash && r.status != RemoteConfigStatuses::Applying)
    {
        moments.push((report.at, -1));
    }
    moments.sort();
    let (mut now, mut most) = (0i64, 0i64);
    for (_, change) in moments {
        now += change;
        most = most.max(now);
    }
    usize::try_from(most).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_agents_are_in_flight_than_the_budget_of_their_domain_allows() {
    let scene = Scene::slow(12, Duration::from_millis(400)).await;
    scene.apply("apiVersion: muster/v1\nkind: Budget\nmetadata: {name: fleet}\nspec: {label: role, size: 25%}\n");
    let hash = scene.store("one").await;
    let id = scene.start("quick").await;
    scene.state(&id, "completed").await;
    assert_eq!(scene.offered(&hash).len(), 12);
    let most = most_in_flight(&scene, &hash);
    assert!(most <= 3, "{most} of 12 at once, 25 % are 3");
    assert!(most >= 2, "and no slower than it has to be: {most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_keeps_to_its_max_in_flight() {
    let scene = Scene::slow(10, Duration::from_millis(400)).await;
    let hash = scene.store("one").await;
    scene.apply(&plan(
        "narrow",
        &["size: 1, soak: 200ms", "size: 100%, maxInFlight: 2"],
        "",
    ));
    let id = scene.start("narrow").await;
    scene.state(&id, "completed").await;
    assert_eq!(scene.offered(&hash).len(), 10);
    assert!(most_in_flight(&scene, &hash) <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_silent_take_no_room_from_those_that_are_there() {
    let scene = Scene::of(8).await;
    scene.apply("apiVersion: muster/v1\nkind: Budget\nmetadata: {name: fleet}\nspec: {label: role, size: 1}\n");
    for agent in 0..2 {
        let agent = scene.fleet.agent(agent);
        agent.sleep(Duration::from_secs(600)).await;
    }
    eventually(SOON, "the sleepers to be lost", async || {
        let lost = scene.api.list("").await;
        let lost = lost.iter().filter(|agent| agent.link == "lost").count();
        holds(lost == 2, lost)
    })
    .await;
    scene.store("one").await;
    let id = scene.start("quick").await;
    let done = scene.state(&id, "completed").await;
    let total = done.total.unwrap();
    assert_eq!((total.converged, total.not_reached), (6, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_sick_already_use_the_budget_up() {
    let scene = Scene::of(8).await;
    scene.apply("apiVersion: muster/v1\nkind: Budget\nmetadata: {name: fleet}\nspec: {label: role, size: 25%}\n");
    for agent in 0..2 {
        scene.fleet.agent(agent).fail("disk is full").await;
    }
    let hash = scene.store("one").await;
    let id = scene.start("quick").await;
    scene.several_polls().await;
    assert_eq!(scene.offered(&hash), Vec::<usize>::new(), "2 of 8 are 25 %");
    for agent in 0..2 {
        scene.fleet.agent(agent).recover().await;
    }
    scene.state(&id, "completed").await;
}
