//! Yesterday's backup restored: nobody downgraded, what stands open is shown, and a person decides.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::path::{Path, PathBuf};

use proto::api::ServerInfoRequest;
use system_tests::by_hand::{ByHand, arrange};
use system_tests::cli::Output;
use system_tests::cluster::Cluster;
use system_tests::crowd::{Crowd, PATIENCE};
use system_tests::manifest::{config, family, role};
use system_tests::scene::{Scene, plans};
use system_tests::server::{Server, binary};
use system_tests::wait::{SOON, eventually, holds};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Beside the server's data.
fn beside(server: &Server, name: &str) -> PathBuf {
    server.data.parent().unwrap().join(name)
}

fn back_up(server: &Server, name: &str) -> PathBuf {
    let file = beside(server, name);
    server.cli().ok(&["backup", text(&file)]);
    file
}

/// Throws the data of a server that has stopped away, and restores this instead.
fn restore(server: &Server, file: &Path) -> String {
    std::fs::remove_dir_all(&server.data).unwrap();
    let output = server
        .cli()
        .run(&["restore", text(file), "--data-dir", text(&server.data)]);
    assert_eq!(output.code, 0, "{output:#?}");
    output.stderr
}

fn one_line(output: &Output) -> String {
    output
        .stderr
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn in_conflict(scene: &Scene) -> u64 {
    let listed = scene.cli.json(&["agents", "list", "--state", "conflict"]);
    listed["total"].as_u64().unwrap_or_default()
}

async fn conflicts(scene: &Scene, agents: u64) {
    let what = format!("{agents} agents in conflict");
    eventually(SOON, &what, async || {
        let found = in_conflict(scene);
        holds(found == agents, found)
    })
    .await;
}

async fn epoch(scene: &Scene) -> u64 {
    let mut admin = scene.api.admin.clone();
    let info = admin.server_info(ServerInfoRequest {}).await;
    info.unwrap().into_inner().epoch
}

/// Rolls the latest revision out instead of what is open, and waits for its end.
fn replace(scene: &Scene) {
    scene.cli.ok(&[
        "rollout",
        "start",
        "edge",
        "--plan",
        "quick",
        "--supersede",
        "restart",
        "--yes",
        "--wait",
        "--timeout",
        "60s",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterdays_backup_is_restored_and_nobody_is_downgraded() {
    let mut scene = Scene::of(8).await;
    scene.stable("one").await;
    let two = scene.store("two").await;
    let open = scene.start("canary").await;
    let canary = *scene.until_offered(&two, 1).await.first().unwrap();
    scene
        .until(&open, "the canary to converge", |rollout| {
            rollout
                .total
                .as_ref()
                .is_some_and(|total| total.converged == 1)
        })
        .await;
    let before = epoch(&scene).await;
    let backup = back_up(&scene.server, "yesterday.bak");

    // The day that is lost.
    let three = scene.store("three").await;
    replace(&scene);
    scene.fleet.converged(&three, SOON).await.unwrap();
    scene.server.stop();
    let said = restore(&scene.server, &backup);
    assert!(
        said.contains(&format!("rollout {open} is halted")),
        "{said}"
    );
    let offers = scene.fleet.offers().len();
    scene.server.again();

    conflicts(&scene, 8).await;
    scene.nobody_is_offered_anything().await;
    assert_eq!(scene.fleet.offers().len(), offers);
    let halted = scene.api.rollout(&open).await;
    assert_eq!(
        (halted.state.as_str(), halted.cause.as_str()),
        ("halted", "restored from a backup")
    );
    assert_eq!(halted.total.unwrap().excluded, 8);
    assert_eq!((before >> 48, epoch(&scene).await >> 48), (0, 1));
    let audit = scene.api.audit("cluster/").await;
    let actions: Vec<_> = audit.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["cluster.restored", "cluster.backup"]);
    let uid = scene.fleet.agent(canary).uid().to_string();
    let shown = scene.cli.json(&["agents", "get", &uid]);
    assert!(
        shown["agent"]["conditions"]
            .to_string()
            .contains("conflict: it runs"),
        "{shown:#}"
    );
    assert_eq!(scene.cli.run(&["audit", "verify"]).code, 0);

    // A person resolves one of them and lets the rollout go on: that one moves, and nobody else.
    scene.cli.ok(&["agents", "retry", &uid]);
    conflicts(&scene, 7).await;
    scene.nobody_is_offered_anything().await;
    scene.cli.ok(&["rollout", "resume", &open]);
    eventually(
        SOON,
        "the canary to get what its rollout gives",
        async || {
            let offered = scene.offered(&two);
            holds(offered == [canary, canary], offered)
        },
    )
    .await;
    scene.nobody_is_offered_anything().await;

    // The lost revision is made again: who runs it already is sent nothing.
    assert_eq!(scene.store("three").await, three);
    replace(&scene);
    conflicts(&scene, 0).await;
    scene.fleet.converged(&three, SOON).await.unwrap();
    assert_eq!(scene.fleet.offers().len(), offers + 2);
    assert_eq!(
        scene
            .offered(&three)
            .iter()
            .filter(|agent| **agent == canary)
            .count(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_not_begun_comes_back_halted_and_begins_when_a_person_resumes_it() {
    let roles = vec![("agent".to_owned(), 2), ("gateway".to_owned(), 2)];
    let mut scene = Scene::with(roles, &[]).await;
    let asking = |name: &str, precedence: i64, of: &str| {
        let selector = format!("role = {of}");
        let config = config(name);
        family(name, precedence, &[role(of, &selector, &config)]) + "  approvals: 1\n"
    };
    let families = [asking("edge", 10, "agent"), asking("other", 20, "gateway")];
    scene.apply(&[&families[..], &plans()[..]].concat().join("---\n"));
    let edge = scene.start("quick").await;
    let other = scene.api.start("other", "quick").await.unwrap().id;
    scene.state(&edge, "awaiting approval").await;
    scene.state(&other, "awaiting approval").await;
    let backup = back_up(&scene.server, "waiting.bak");
    scene.server.stop();
    let said = restore(&scene.server, &backup);
    for id in [&edge, &other] {
        assert!(said.contains(&format!("rollout {id} is halted")), "{said}");
    }
    scene.server.again();

    // An approval alone begins nothing, nor does anything else that is not a person's resumption.
    scene
        .cli
        .as_user("bob")
        .ok(&["approve", "other", "--plan", "quick"]);
    scene.nobody_is_offered_anything().await;
    for id in [&edge, &other] {
        let halted = scene
            .until(id, "it to wait for a person", |rollout| {
                rollout.waiting == ["a person: resume, or halt to give it up"]
            })
            .await;
        assert_eq!(
            (halted.state.as_str(), halted.cause.as_str()),
            ("halted", "restored from a backup")
        );
    }

    // It still waits for what it waited for.
    scene.cli.ok(&["rollout", "resume", &edge]);
    scene.state(&edge, "awaiting approval").await;
    scene.nobody_is_offered_anything().await;
    scene
        .cli
        .as_user("bob")
        .ok(&["approve", "edge", "--plan", "quick"]);
    let done = scene.state(&edge, "completed").await;
    assert_eq!(done.total.unwrap().converged, 2);
    scene.cli.ok(&["rollout", "resume", &other]);
    scene.state(&other, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_not_begun_before_a_restore_can_be_given_up_instead() {
    let mut scene = Scene::of(2).await;
    let asking = family("edge", 10, &[role("agent", "role = agent", &config("one"))]);
    let asking = [asking + "  approvals: 1\n", plans().join("---\n")];
    scene.apply(&asking.join("---\n"));
    let id = scene.start("quick").await;
    scene.state(&id, "awaiting approval").await;
    let backup = back_up(&scene.server, "waiting.bak");
    scene.server.stop();
    restore(&scene.server, &backup);
    scene.server.again();
    scene.cli.ok(&["rollout", "rollback", &id]);
    scene.state(&id, "aborted").await;
    let again = scene.refused(&["rollout", "resume", &id]);
    assert!(
        again.contains("is aborted: it cannot be resumed"),
        "{again}"
    );
    scene.nobody_is_offered_anything().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_did_not_move_on_are_in_no_conflict_and_go_on_as_before() {
    let mut scene = Scene::of(4).await;
    let one = scene.stable("one").await;
    let backup = back_up(&scene.server, "now.bak");
    scene.server.stop();
    restore(&scene.server, &backup);
    scene.server.again();
    scene.several_polls().await;
    scene.nobody_is_offered_anything().await;
    assert_eq!(in_conflict(&scene), 0);
    let two = scene.stable("two").await;
    scene.fleet.converged(&two, SOON).await.unwrap();
    assert_eq!(
        (scene.offered(&one).len(), scene.offered(&two).len()),
        (4, 4)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_encrypted_verified_and_refused_where_it_does_not_belong() {
    let mut server = Server::start(&[]);
    let cli = server.cli();
    cli.apply(&server.write(
        "edge.yaml",
        &family("edge", 10, &[role("agent", "role = agent", &config("one"))]),
    ));
    let key = server.write("backup.key", &"0f".repeat(32));
    let other = server.write("other.key", &"f0".repeat(32));
    let file = beside(&server, "edge.bak");
    let with_key = ["--key-file", text(&key)];
    cli.ok(&[&["backup", text(&file)], &with_key[..]].concat());
    let again = cli.run(&[&["backup", text(&file)], &with_key[..]].concat());
    assert_eq!(again.code, 4, "{again:#?}");
    assert!(one_line(&again).contains("is there already"), "{again:#?}");
    server.stop();

    // Without a server.
    let made = cli.json(&[&["backup", "verify", text(&file)], &with_key[..]].concat());
    assert_eq!(made["encrypted"], true, "{made}");
    assert_eq!(made["groups"].as_array().unwrap().len(), 9, "{made}");
    let bytes = std::fs::read(&file).unwrap();
    let cut = beside(&server, "cut.bak");
    std::fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    let altered = beside(&server, "altered.bak");
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&altered, damaged).unwrap();
    let target = beside(&server, "target");
    let refused = |file: &Path, key: Option<&Path>, into: &Path| {
        let mut args = vec!["restore", text(file), "--data-dir", text(into)];
        args.extend(key.iter().flat_map(|key| ["--key-file", text(key)]));
        let output = cli.run(&args);
        assert_eq!(output.code, 1, "{output:#?}");
        one_line(&output)
    };
    for (said, expected) in [
        (refused(&cut, Some(&key), &target), "cut short"),
        (refused(&altered, Some(&key), &target), "damaged"),
        (
            refused(&file, Some(&other), &target),
            "not the one that the backup was made with",
        ),
        (
            refused(&file, None, &target),
            "give its key with --key-file",
        ),
        (refused(&file, Some(&key), &server.data), "is not empty"),
        (refused(&key, None, &target), "not a backup of Muster"),
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let left: Vec<_> = std::fs::read_dir(&target).unwrap().collect();
    assert!(
        left.is_empty(),
        "nothing is written before everything has verified: {left:?}"
    );

    // What is left of a restore that was cut off is never started.
    std::fs::remove_dir_all(&server.data).unwrap();
    cli.ok(&[
        &["restore", text(&file), "--data-dir", text(&server.data)],
        &with_key[..],
    ]
    .concat());
    let unfinished = server.data.join("restore.unfinished");
    std::fs::write(&unfinished, "").unwrap();
    let ended = system_tests::server::serve_that_refuses(&["--data-dir", text(&server.data)]);
    assert!(ended.log.contains("was not finished"), "{ended:?}");
    std::fs::remove_file(&unfinished).unwrap();
    server.again();
    let families = server.cli().json(&["families", "list"]);
    assert!(families.to_string().contains("edge"), "{families}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_cluster_is_restored_as_one_process() {
    let cluster = Cluster::start(&[], &[]);
    let manifest = family("edge", 10, &[role("agent", "role = agent", &config("one"))]);
    cluster.cli().apply(&cluster.write("edge.yaml", &manifest));
    let mut server = Server::start(&[]);
    server.stop();
    let file = beside(&server, "cluster.bak");
    cluster.cli().ok(&["backup", text(&file)]);
    drop(cluster);
    restore(&server, &file);
    server.again();
    let families = server.cli().json(&["families", "list"]);
    assert!(families.to_string().contains("edge"), "{families}");
    let nodes = server.cli().json(&["cluster", "status"]);
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "{nodes}");
    assert_eq!(server.cli().run(&["audit", "verify"]).code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_as_a_cluster_of_three_and_what_is_left_of_the_old_one_is_refused() {
    let mut cluster = ByHand::new("prod");
    cluster.found(&binary(), 3);
    cluster.start_gateways(&binary(), 1);
    cluster.is_ready_as_a_whole();
    let crowd = Crowd::of(8, cluster.urls(), cluster.api()).await;
    let one = crowd.store(&cluster.path("edge.yaml"), "one").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;
    let (file, data) = (cluster.path("prod.bak"), cluster.path("restored-1"));
    crowd.cli.ok(&["backup", text(&file)]);

    // The last one is forgotten: it runs on, under the same name, and its gateway still knows where it is.
    for name in ["gateway-1", "node-1", "node-2"] {
        cluster.kill(name);
    }
    crowd
        .cli
        .ok(&["restore", text(&file), "--data-dir", text(&data)]);
    let first = cluster.first();
    let alone = ["--id=1".to_owned(), format!("--founders=1={first}")];
    cluster.start_node("restored-1", &binary(), first, &alone);
    cluster.is_ready("restored-1");
    let both = ["incarnation 0", "incarnation 1", "--join"];
    let logged = |said| [&[said][..], &both].concat();
    let refused = logged("another node refuses this one");
    cluster.has_logged("node-3", PATIENCE, &refused);
    cluster.has_logged("restored-1", PATIENCE, &logged("a node is refused"));
    cluster.again("gateway-1", &binary());
    cluster.is_ready("gateway-1");

    for (name, nodes) in [("restored-2", &[1, 2][..]), ("restored-3", &[1, 2, 3][..])] {
        cluster.join(name, &binary());
        crowd.has_nodes(nodes).await;
    }
    arrange(&crowd.cli);
    crowd.cluster_is_whole().await;
    let view = crowd.api.cluster().await.unwrap();
    for group in &view.groups {
        let voters = group.replicas.iter().filter(|replica| replica.votes);
        assert_eq!(voters.count(), 3, "{group:?}");
    }

    // The copies count: whoever restored is lost, and the others go on.
    cluster.kill("restored-1");
    crowd.is_led_without(&[1], |_| true).await;
    let two = crowd.store(&cluster.path("edge.yaml"), "two").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;
    for hash in [&one, &two] {
        crowd.assert_offered_once_to_everybody(hash);
    }
    crowd.assert_nobody_is_lost().await;
    crowd.assert_audit_verifies();
    crowd.fleet.stop().await;
}
