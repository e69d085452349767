//! How a revision comes to be one that may be rolled out: drafts, the checks that agents answer, and settings.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::time::Duration;

use proto::opamp::{AgentToServer, RemoteConfigStatuses};
use serde_json::Value;
use system_tests::manifest::{Role, config, family, role};
use system_tests::raw::{Http, Script, components, offer};
use system_tests::scene::{PATIENCE, Scene, plans};
use system_tests::wait::{eventually, holds};

/// The family "edge" with more keys in its spec, and the plans.
fn edge(roles: &[Role<'_>], more: &str) -> String {
    let text = family("edge", 10, roles);
    let text = text.replace("  precedence: 10\n", &format!("  precedence: 10\n{more}"));
    [&[text], &plans()[..]].concat().join("---\n")
}

fn apply(scene: &Scene, text: &str, more: &[&str]) -> Result<String, String> {
    let file = scene.server.write("manifests.yaml", text);
    let file = file.to_str().unwrap();
    let args = [&["apply", "-f", file], more].concat();
    let tried = scene.cli.run(&args);
    match tried.code {
        0 => Ok(tried.stdout),
        _ => Err(tried
            .stderr
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")),
    }
}

fn label(scene: &Scene, agent: usize, label: &str) {
    let uid = scene.fleet.agent(agent).uid().to_string();
    scene.cli.ok(&["agents", "label", &uid, label]);
}

fn revision(scene: &Scene) -> Value {
    scene.cli.json(&["families", "get", "edge"])["revision"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_shown_with_what_is_wrong_and_started_once_it_passes_every_check() {
    let scene = Scene::of(4).await;
    let body = config("one").replace("processors: [batch]", "processors: [nosuch]");
    let wrong = edge(&[role("agent", "role = agent", &body)], "");
    let said = apply(&scene, &wrong, &[]).unwrap_err();
    assert!(said.contains("names `nosuch`"), "{said}");
    let said = apply(&scene, &wrong, &["--draft"]).unwrap();
    assert!(said.contains("family/edge r1 created, a draft"), "{said}");

    let draft = revision(&scene);
    assert_eq!(draft["state"], "draft", "{draft:#}");
    assert_eq!(draft["findings"][0]["severity"], "error", "{draft:#}");
    let preview = scene.cli.json(&["preview", "edge", "--plan", "quick"]);
    assert_eq!(preview["members"], 4, "{preview:#}");
    assert!(preview["findings"].to_string().contains("nosuch"));
    assert!(preview["needs"].to_string().contains("is a draft"));
    for refused in [
        &["rollout", "start", "edge", "--plan", "quick", "--yes"][..],
        &["families", "validate", "edge"],
        &["approve", "edge", "--plan", "quick"],
    ] {
        let said = scene.refused(refused);
        assert!(said.contains("edge revision 1 is a draft"), "{said}");
        assert!(said.contains("nosuch"), "{said}");
        assert!(said.contains("muster families validate edge"), "{said}");
    }
    scene.nobody_is_offered_anything().await;

    // A draft whose cause goes away is validated as it is.
    let body = config("two");
    let roles = [
        role("agent", "role = agent", &body),
        role("also", "also = yes", &body),
    ];
    label(&scene, 1, "also=yes");
    let two = edge(&roles, "");
    let said = apply(&scene, &two, &[]).unwrap_err();
    assert!(
        said.contains("roles agent and also of family `edge` match the same agent"),
        "{said}"
    );
    apply(&scene, &two, &["--draft"]).unwrap();
    let said = scene.refused(&["families", "validate", "edge"]);
    assert!(said.contains("match the same agent"), "{said}");
    label(&scene, 1, "also-");
    let said = scene.cli.ok(&["families", "validate", "edge"]);
    assert!(said.contains("edge r2 is validated"), "{said}");
    assert_eq!(revision(&scene)["state"], "validated");
    let audit = scene.api.audit("family/edge").await;
    let validations: Vec<&str> = audit
        .iter()
        .filter(|entry| entry.action == "revision.validate")
        .map(|entry| entry.detail.as_str())
        .collect();
    assert!(
        validations.contains(&"revision 2 passes every check"),
        "{validations:?}"
    );
    scene.complete("edge").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_for_some_agents_counts_from_when_a_role_has_such_an_agent() {
    let scene = Scene::of(3).await;
    let rule = "  policies: [{forbid: {kind: exporter, component: debug}, where: tier = prod}]\n";
    let with = |marker: &str| {
        let body = config(marker);
        edge(&[role("agent", "role = agent", &body)], rule)
    };
    apply(&scene, &with("one"), &[]).unwrap();
    label(&scene, 2, "tier=prod");
    let preview = scene.cli.json(&["preview", "edge", "--plan", "quick"]);
    let findings = preview["findings"].to_string();
    assert!(
        findings.contains("no debug exporter where tier = prod"),
        "{findings}"
    );
    let said = scene.refused(&["rollout", "start", "edge", "--plan", "quick", "--yes"]);
    assert!(
        said.contains("edge revision 1 is against the rules for agents that it has now"),
        "{said}"
    );
    let said = apply(&scene, &with("two"), &[]).unwrap_err();
    assert!(said.contains("is such an agent"), "{said}");
    // What is stored already is no new revision.
    apply(&scene, &with("one"), &[]).unwrap();
    scene.nobody_is_offered_anything().await;
    label(&scene, 2, "tier=dev");
    scene.complete("edge").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_family_does_by_itself_is_approved_with_the_revision_that_says_it() {
    let scene = Scene::of(3).await;
    let body = config("one");
    let roles = [role("agent", "role = agent", &body)];
    let bob = scene.cli.as_user("bob");
    apply(&scene, &edge(&roles, "  approvals: 1\n"), &[]).unwrap();
    let id = scene.start("quick").await;
    bob.ok(&["approve", "edge", "--plan", "quick"]);
    scene.state(&id, "completed").await;

    let auto = edge(
        &roles,
        "  approvals: 1\n  ownerChange: auto\n  drift: re-offer\n",
    );
    let said = apply(&scene, &auto, &[]).unwrap();
    assert!(said.contains("family/edge r2 new revision"), "{said}");
    let policy = || scene.cli.json(&["families", "get", "edge"])["family"]["owner_change"].clone();
    assert_eq!(policy(), "ask", "nobody has approved it");
    let id = scene.start("quick").await;
    scene.state(&id, "awaiting approval").await;
    assert_eq!(policy(), "ask");
    bob.ok(&["approve", "edge", "--plan", "quick"]);
    scene.state(&id, "completed").await;
    eventually(PATIENCE, "the settings to be in force", async || {
        let policy = policy();
        holds(policy == "auto", policy)
    })
    .await;
    // A family that was deleted does not come back with them.
    scene.cli.ok(&["families", "delete", "edge", "--yes"]);
    apply(&scene, &auto, &[]).unwrap();
    assert_eq!(policy(), "ask");
    scene.assert_nobody_was_offered_twice();
}

/// Conditions of an agent as it is shown.
async fn conditions(scene: &Scene, agent: &Script) -> Vec<String> {
    let shown = scene.api.agent(&agent.uid()).await;
    shown.agent.unwrap().conditions
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_a_component_is_left_out_and_keeps_what_it_runs_once_the_revision_is_stable() {
    let scene = Scene::of(3).await;
    let one = scene.stable("one").await;
    // An old build that joins: it has the receiver otlp and no other one.
    let old = |name: &str| {
        let agent = Script::new(name).with("role", "agent");
        agent.with("service.version", "0.99.0")
    };
    let tells = |agent: &mut Script| AgentToServer {
        available_components: Some(components(b"old build", true)),
        ..agent.full()
    };
    let mut http = Http::connect(scene.server.opamp).await;
    let mut agent = old("old");
    let mut reply = http.ask(&tells(&mut agent)).await;
    for _ in 0..50 {
        if offer(&reply).is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        reply = http.ask(&agent.bare()).await;
    }
    assert_eq!(offer(&reply).map(|(hash, _)| hash), Some(one.clone()));
    let applied = agent.status(&one, RemoteConfigStatuses::Applied, "");
    http.ask(&applied).await;
    // Nobody of its build was there when the revision was rolled out.
    let shown = conditions(&scene, &agent).await;
    let unvalidated = |c: &String| c.starts_with("unvalidated version: ");
    assert!(shown.iter().any(unvalidated), "{shown:?}");
    for known in scene.api.list("role = agent").await {
        let is_old = known.uid == agent.uid();
        let shown = scene.api.agent(&known.uid).await.agent.unwrap();
        let unvalidated = shown.conditions.iter().any(unvalidated);
        assert_eq!(unvalidated, is_old, "{shown:?}");
    }

    let body = config("two")
        .replace("{otlp: {", "{filelog: {include: [/x]}, otlp: {")
        .replace("receivers: [otlp]", "receivers: [otlp, filelog]");
    let roles = [role("agent", "role = agent", &body)];
    apply(&scene, &edge(&roles, ""), &[]).unwrap();
    let preview = scene.cli.json(&["preview", "edge", "--plan", "quick"]);
    assert_eq!(preview["members"], 3, "{preview:#}");
    let left_out = &preview["left_out"][0];
    assert_eq!(left_out["why"], "its build lacks receiver filelog");
    assert_eq!(left_out["examples"][0], agent.uid(), "{preview:#}");
    let id = scene.start("quick").await;
    let done = scene.state(&id, "completed").await;
    assert_eq!(done.total.unwrap().members, 3);

    // Neither now that it is stable, nor as one that joins.
    let mut joins = old("joins");
    assert_eq!(offer(&http.ask(&tells(&mut joins)).await), None);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for agent in [&mut agent, &mut joins] {
            assert_eq!(offer(&http.ask(&agent.bare()).await), None);
        }
    }
    for agent in [&agent, &joins] {
        let shown = conditions(&scene, agent).await;
        let lacks = "lacks components: receiver filelog, which family edge needs";
        assert!(shown.iter().any(|c| c.starts_with(lacks)), "{shown:?}");
    }
    let kept = scene.api.agent(&agent.uid()).await.agent.unwrap();
    assert_eq!(kept.reported_hash, hex::encode(&one));

    // A family that would rather wait for them does not start.
    apply(&scene, &edge(&roles, "  missingComponents: block\n"), &[]).unwrap();
    let said = scene.refused(&["rollout", "start", "edge", "--plan", "quick", "--yes"]);
    let why =
        "family edge does not start while agents lack components: 2 agents lack receiver filelog";
    assert!(said.contains(why), "{said}");
}
