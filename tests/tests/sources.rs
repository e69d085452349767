//! Families that belong to a Git source: synced whole or not at all, and edited nowhere else.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use serde_json::Value;
use system_tests::manifest::{config, family, plan, role};
use system_tests::scene::Scene;
use system_tests::wait::{SOON, eventually, holds};

fn edge(marker: &str) -> String {
    family(
        "edge",
        10,
        &[role("agent", "role = agent", &config(marker))],
    )
}

fn quick() -> String {
    plan("quick", &["size: 1, soak: 500ms", "size: 100%"], "")
}

/// Applies these manifests as all that the source "fleet-repo" has.
fn sync(scene: &Scene, manifests: &str, more: &[&str]) -> system_tests::cli::Output {
    let file = scene.server.write("repo.yaml", manifests);
    let path = file.to_str().unwrap();
    let args = [&["apply", "-f", path, "--source", "fleet-repo"], more].concat();
    scene.cli.run(&args)
}

fn synced(scene: &Scene, manifests: &str, more: &[&str]) -> Value {
    let output = sync(scene, manifests, &[more, &["-o", "json"]].concat());
    assert_eq!(output.code, 0, "{output:#?}");
    serde_json::from_str(&output.stdout).unwrap()
}

fn changes(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap();
    let text = |r: &Value| {
        let word = |key: &str| r[key].as_str().unwrap().to_owned();
        format!("{} {}: {}", word("kind"), word("name"), word("change"))
    };
    results.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_synced_as_a_whole_and_owns_what_it_wrote() {
    let scene = Scene::of(4).await;
    let both = [edge("one"), quick()].join("---\n");
    let answer = synced(&scene, &both, &["--commit", "abc123"]);
    assert_eq!(
        changes(&answer),
        ["Family edge: created", "Plan quick: created"]
    );
    scene.nobody_is_offered_anything().await;
    let sources = scene.cli.json(&["sources", "list"]);
    assert_eq!(sources["sources"][0]["commit"], "abc123", "{sources}");

    // Nobody else edits it; what the edit would have been is printed as a patch.
    let file = scene.server.write("edit.yaml", &edge("two"));
    let refused = scene.cli.run(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(refused.code, 4, "{refused:#?}");
    assert!(
        refused.stderr.contains("is owned by source fleet-repo")
            && refused.stderr.contains("-exporters: {debug/one: {}}")
            || refused.stderr.contains("debug/two"),
        "{}",
        refused.stderr
    );
    let other = scene
        .cli
        .run(&["apply", "-f", file.to_str().unwrap(), "--source", "other"]);
    assert!(
        other.stderr.contains("owned by source fleet-repo"),
        "{other:#?}"
    );

    // All or nothing: a mistake in one document stores none.
    let broken = [edge("three"), plan("quick", &["size: 0%"], "")].join("---\n");
    assert_ne!(sync(&scene, &broken, &[]).code, 0);
    let family = scene.cli.json(&["families", "get", "edge"]);
    assert_eq!(family["family"]["latest"], 1, "{family}");
    assert_eq!(family["family"]["source"], "fleet-repo");

    // What the source has no more is pruned, unless it is used.
    let answer = synced(&scene, &edge("one"), &["--dry-run"]);
    assert!(
        changes(&answer).contains(&"Plan quick: pruned".to_owned()),
        "{answer}"
    );
    let answer = synced(&scene, &edge("one"), &["--keep-gone"]);
    assert_eq!(changes(&answer), ["Family edge: unchanged"]);
    let answer = synced(&scene, &edge("one"), &[]);
    assert!(
        changes(&answer).contains(&"Plan quick: pruned".to_owned()),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_may_activate_only_with_the_plan_that_it_was_given() {
    let scene = Scene::of(4).await;
    let both = |marker: &str| [edge(marker), quick()].join("---\n");
    let refused = sync(&scene, &both("one"), &["--activate"]);
    assert!(
        refused.stderr.contains("may write drafts and not activate")
            || refused.stdout.contains("may write drafts and not activate"),
        "{refused:#?}"
    );
    synced(&scene, &both("one"), &[]);
    scene.nobody_is_offered_anything().await;
    scene
        .cli
        .ok(&["sources", "set", "fleet-repo", "--plan", "quick"]);
    synced(&scene, &both("one"), &["--activate"]);
    scene.state("edge", "completed").await;
    let answer = synced(&scene, &both("two"), &["--activate", "--commit", "def456"]);
    assert_ne!(answer["results"][0]["rollout"], "", "{answer}");
    scene.state("edge", "completed").await;
    let hash = scene.api.delivery_hash("edge", "agent").await;
    assert_eq!(scene.offered(&hash).len(), 4);

    // A family whose agents run it is not pruned away under them.
    let gone = sync(&scene, &quick(), &[]);
    assert!(
        gone.stderr
            .contains("family edge is gone from source fleet-repo but"),
        "{gone:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn families_are_handed_over_and_back() {
    let scene = Scene::of(2).await;
    scene.apply(&edge("one"));
    let refused = sync(&scene, &edge("one"), &[]);
    assert!(refused.stderr.contains("muster adopt"), "{refused:#?}");
    scene.cli.ok(&["adopt", "edge", "--source", "fleet-repo"]);
    let answer = synced(&scene, &edge("two"), &[]);
    assert_eq!(changes(&answer), ["Family edge: new revision"]);
    scene.cli.ok(&["adopt", "edge", "--to-api"]);
    scene.apply(&edge("three"));
    let audit = scene.api.audit("family/edge").await;
    assert_eq!(
        audit
            .iter()
            .filter(|entry| entry.action == "family.adopt")
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_family_leaves_its_agents_what_they_run() {
    let scene = Scene::of(2).await;
    let first = [
        family("base", 1, &[role("agent", "role = agent", &config("base"))]),
        edge("one"),
        quick(),
    ]
    .join("---\n");
    synced(&scene, &first, &[]);
    scene.cli.ok(&[
        "rollout",
        "start",
        "base",
        "--plan",
        "quick",
        "--yes",
        "--wait",
        "--timeout",
        "60s",
    ]);
    // "edge" owns nobody: it goes.
    let without = [
        family("base", 1, &[role("agent", "role = agent", &config("base"))]),
        quick(),
    ]
    .join("---\n");
    let answer = synced(&scene, &without, &[]);
    assert!(
        changes(&answer).contains(&"Family edge: pruned".to_owned()),
        "{answer}"
    );
    let gone = scene.refused(&["families", "get", "edge"]);
    assert!(gone.contains("there is no family `edge`"), "{gone}");
    scene.nobody_is_offered_anything().await;
    eventually(SOON, "everybody to stay converged", async || {
        let agents = scene.api.list("").await;
        let converged = agents.iter().filter(|a| a.state == "converged").count();
        holds(converged == 2, converged)
    })
    .await;
}
