//! What an older version has made is taken over by this one: a cluster process by process, while agents poll and a rollout
//! runs, and the data of one process. `make upgrade` builds the older program (scripts/upgrade). Without one, the walk is that
//! of a restart: every process, one by one.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use system_tests::by_hand::{ByHand, node};
use system_tests::crowd::{Crowd, NODE, PATIENCE};
use system_tests::manifest::plan;
use system_tests::server::{Server, binary};
use system_tests::wait::{eventually, holds};

/// The older program.
const OLDER: &str = "MUSTER_OLD_BIN";

const NODES: u64 = 3;
const GATEWAYS: usize = 2;

/// The older program, if there is one and it has this command. Loud where not: nobody should think that it was tested.
fn older(command: &str) -> Option<PathBuf> {
    let not_tested = |why: &str| {
        eprintln!("!!!\n!!! NOT TESTED, the upgrade of `muster {command}`: {why}\n!!!");
        None
    };
    let Some(older) = std::env::var_os(OLDER).map(PathBuf::from) else {
        return not_tested("MUSTER_OLD_BIN names no older program; `make upgrade` builds one");
    };
    if has(&older, command) {
        return Some(older);
    }
    not_tested(&format!("{} does not have it", older.display()))
}

fn has(program: &Path, command: &str) -> bool {
    let mut asked = Command::new(program);
    asked.args([command, "--help"]).stdout(Stdio::null());
    let answered = asked.stderr(Stdio::null()).status();
    answered
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()))
        .success()
}

/// Goes on for as long as it takes to restart everything.
fn slowly() -> String {
    let waves = [
        "size: 1",
        "size: 25%, soak: 10s",
        "size: 50%, soak: 10s",
        "size: 75%, soak: 10s",
        "size: 100%",
    ];
    plan("slowly", &waves, "")
}

/// A cluster of this program becomes one of the program under test, process by process, while agents poll and a rollout
/// runs. Answers how many messages were lost so that a client would not have said them again by itself.
async fn walk(name: &str, program: &Path) -> u64 {
    let mut cluster = ByHand::new(name);
    cluster.found(program, NODES);
    cluster.start_gateways(program, GATEWAYS);
    cluster.is_ready_as_a_whole();
    let crowd = Crowd::of(24, cluster.urls(), cluster.api()).await;
    let file = cluster.path("slowly.yaml");
    std::fs::write(&file, slowly()).unwrap();
    crowd.cli.apply(&file);
    let one = crowd.store(&cluster.path("edge.yaml"), "one").await;
    let id = crowd.api.start("edge", "slowly").await.unwrap().id;
    crowd.converge(&id, 2).await;

    for number in 1..=NODES {
        let name = node(number);
        cluster.stop(&name);
        cluster.again(&name, &binary());
        cluster.is_ready(&name);
        crowd.cluster_is_whole().await;
        // Leaders move to it before the next one goes, so that old and new ones follow each other.
        eventually(
            PATIENCE,
            &format!("{name} to lead some group"),
            async || {
                let view = crowd.api.cluster().await;
                let view = view.map_err(|status| status.to_string())?;
                let leads = view.groups.iter().any(|group| group.leader == number);
                holds(leads, &view.groups)
            },
        )
        .await;
    }
    for number in 1..=GATEWAYS {
        let name = format!("gateway-{number}");
        cluster.stop(&name);
        cluster.again(&name, &binary());
        cluster.is_ready(&name);
    }
    crowd.completes(&id).await;
    let two = crowd.store(&cluster.path("edge.yaml"), "two").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;
    for hash in [&one, &two] {
        crowd.assert_offered_once_to_everybody(hash);
    }
    crowd.cluster_is_whole().await;
    crowd.assert_nobody_is_lost().await;
    crowd.assert_audit_verifies();
    let not_retried = crowd.not_retried();
    crowd.fleet.stop().await;
    not_retried
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_an_older_version_is_upgraded_process_by_process_while_a_rollout_runs() {
    let Some(older) = older("node") else { return };
    walk("upgraded", &older).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_is_restarted_while_a_rollout_runs_and_no_agent_has_to_know() {
    let not_retried = walk("restarted", &binary()).await;
    assert_eq!(not_retried, 0, "messages that are not said again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_an_older_server_are_opened_and_everything_goes_on() {
    let Some(older) = older("serve") else { return };
    let mut server = Server::start_as(&older, &NODE);
    let crowd = Crowd::of(8, vec![server.http_url()], server.api).await;
    let file = server.write("edge.yaml", "");
    let one = crowd.store(&file, "one").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;
    let two = crowd.store(&file, "two").await;
    let open = crowd.api.start("edge", "pausing").await.unwrap().id;
    crowd.converge(&open, 1).await;
    server.stop();

    server.again_as(&binary());
    crowd.completes(&open).await;
    let before = crowd.api.rollout(&id).await;
    assert_eq!(before.state, "completed");
    let three = crowd.store(&file, "three").await;
    let id = crowd.api.start("edge", "quick").await.unwrap().id;
    crowd.completes(&id).await;
    for hash in [&one, &two, &three] {
        crowd.assert_offered_once_to_everybody(hash);
    }
    crowd.assert_nobody_is_lost().await;
    crowd.assert_audit_verifies();
    crowd.fleet.stop().await;
}
