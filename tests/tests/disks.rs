//! Disks that fail under a node in every way that a disk has, while a rollout runs and agents poll. The node ends at once, the
//! others go on, and nothing that was acknowledged is lost.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::net::SocketAddr;
use std::time::Duration;

use proto::api::{ApplyRequest, Manifest};
use system_tests::by_hand::{ByHand, node};
use system_tests::crowd::{Crowd, PATIENCE};
use system_tests::disk::Disk;
use system_tests::manifest::{config, family, role};
use system_tests::server::{binary, free_address};
use system_tests::wait::{SOON, eventually};
use tonic::Status;

const AGENTS: usize = 24;
const NODES: u64 = 3;

/// Logs so short that snapshots are taken all the time.
const SHORT_LOG: &str = "--keep-log=100";

/// As it leads the control group, or does not.
#[derive(Clone, Copy, Debug)]
enum Under {
    TheLeader,
    AFollower,
}

/// Three nodes, each on a disk of its own, and two gateways.
struct Disks {
    crowd: Crowd,
    disks: Vec<Disk>,
    cluster: ByHand,
    stored: usize,
}

// === impl Disks ===

impl Disks {
    /// With these options of nodes.
    async fn under(options: &[&str]) -> Self {
        let mut cluster = ByHand::new("disks");
        let disks = Disk::several(&cluster.path(""), 3);
        for (id, disk) in (1..).zip(&disks) {
            cluster.with(&node(id), &disk.variables());
        }
        let listen: Vec<SocketAddr> = (0..NODES).map(|_| free_address()).collect();
        cluster.found_behind(&binary(), &listen, &listen, options);
        cluster.start_gateways(&binary(), 2);
        cluster.is_ready_as_a_whole();
        let crowd = Crowd::of(AGENTS, cluster.urls(), cluster.api()).await;
        crowd.cluster_is_whole().await;
        Disks {
            crowd,
            disks,
            cluster,
            stored: 0,
        }
    }

    async fn one(&self, under: Under) -> u64 {
        let leader = self.crowd.api.leader("control", PATIENCE).await;
        match under {
            Under::TheLeader => leader,
            Under::AFollower => leader % NODES + 1,
        }
    }

    fn disk(&self, id: u64) -> &Disk {
        &self.disks[usize::try_from(id).unwrap() - 1]
    }

    /// Stores the next revision. Answers its delivery hash.
    async fn store(&mut self) -> Vec<u8> {
        self.stored += 1;
        let file = self.cluster.path("edge.yaml");
        self.crowd.store(&file, &format!("n{}", self.stored)).await
    }

    /// Delivery hash and id of a rollout whose first members have converged.
    async fn begin(&mut self) -> (Vec<u8>, String) {
        let hash = self.store().await;
        let id = self.crowd.api.start("edge", "pausing").await.unwrap().id;
        self.crowd.converge(&id, 2).await;
        (hash, id)
    }

    /// A rollout that runs while the disk under one node comes to be like this. The node ends, and comes back on a sound one.
    async fn outlives(&mut self, trouble: &str, under: Under) {
        let (hash, id) = self.begin().await;
        let failing = self.one(under).await;
        self.disk(failing).is(trouble);
        self.crowd.completes(&id).await;
        self.comes_back(failing).await;
        self.crowd.assert_offered_once_to_everybody(&hash);
    }

    /// A node ends by itself. What the others acknowledge meanwhile is there when it has come back on a sound disk.
    async fn comes_back(&mut self, failing: u64) {
        self.cluster.fails(&node(failing));
        let kept = self.store().await;
        self.disk(failing).is_sound();
        self.cluster.again(&node(failing), &binary());
        self.cluster.is_ready(&node(failing));
        self.crowd.cluster_is_whole().await;
        let found = self.crowd.api.delivery_hash("edge", "agent").await;
        assert_eq!(found, kept);
    }

    /// So many entries more in the control group, each of them acknowledged before the next.
    async fn write(&mut self, entries: usize) {
        for _ in 0..entries {
            self.stored += 1;
            eventually(PATIENCE, "a write to be acknowledged", async || {
                let applied = self.apply(self.stored).await;
                applied.map_err(|status| status.to_string())
            })
            .await;
        }
    }

    /// Families of their own, which claim nobody.
    async fn apply(&self, number: usize) -> Result<(), Status> {
        let (name, marker) = (format!("other-{}", number % 8), format!("w{number}"));
        let config = config(&marker);
        let role = role("agent", "role = nobody", &config);
        let precedence = 100 + i64::try_from(number % 8).unwrap();
        let manifest = Manifest {
            path: "other.yaml".to_owned(),
            yaml: family(&name, precedence, &[role]),
            ..Manifest::default()
        };
        let request = ApplyRequest {
            manifests: vec![manifest],
            idempotency_key: marker,
            ..ApplyRequest::default()
        };
        let mut families = self.crowd.api.families.clone();
        families.apply(request).await.map(|_| ())
    }

    async fn ends_well(self) {
        self.crowd.cluster_is_whole().await;
        self.crowd.assert_nobody_is_lost().await;
        self.crowd.assert_nobody_was_lost().await;
        self.crowd.assert_audit_verifies();
        self.crowd.fleet.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_disk_fails_or_is_full_ends_and_the_others_go_on() {
    let mut scene = Disks::under(&[]).await;
    let troubles = ["eio 0", "eio-once 0", "eio-write 0", "eio-write-once 0"];
    for trouble in troubles.into_iter().chain(["enospc 0"]) {
        scene.outlives(trouble, Under::AFollower).await;
    }
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_fails_writes_or_fails_once_ends_and_the_others_go_on() {
    let mut scene = Disks::under(&[]).await;
    for trouble in ["eio-once 0", "eio-write 0", "eio-write-once 0"] {
        scene.outlives(trouble, Under::TheLeader).await;
    }
    scene.ends_well().await;
}

/// Each sync takes longer than lease and election together.
async fn a_rollout_with_a_disk_of_three_seconds(under: Under) {
    let mut scene = Disks::under(&[]).await;
    let (hash, id) = scene.begin().await;
    let slow = scene.one(under).await;
    scene.disk(slow).is("slow 3000");
    match under {
        Under::AFollower => scene.crowd.completes(&id).await,
        // What is known of members comes too late to decide anything.
        Under::TheLeader => tokio::time::sleep(Duration::from_secs(20)).await,
    }
    scene.disk(slow).is_sound();
    scene.crowd.completes(&id).await;
    scene.crowd.assert_offered_once_to_everybody(&hash);
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_three_seconds_under_a_follower_loses_nothing_and_stops_no_rollout() {
    a_rollout_with_a_disk_of_three_seconds(Under::AFollower).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_three_seconds_under_the_leader_loses_nothing_and_the_rollout_goes_on_when_it_is_sound()
 {
    a_rollout_with_a_disk_of_three_seconds(Under::TheLeader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_disk_fails_under_a_snapshot_that_it_builds_ends_and_the_others_go_on() {
    let mut scene = Disks::under(&[SHORT_LOG]).await;
    let (hash, id) = scene.begin().await;
    let failing = scene.one(Under::AFollower).await;
    scene.disk(failing).is("eio-snapshot 0");
    // As many as are kept, and as many more: by then everybody takes one.
    scene.write(250).await;
    scene.crowd.completes(&id).await;
    scene.comes_back(failing).await;
    let said = ["the node stops", "snapshot"];
    scene.cluster.has_logged(&node(failing), SOON, &said);
    scene.crowd.assert_offered_once_to_everybody(&hash);
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_full_under_a_snapshot_that_it_gets_ends_and_gets_it_again() {
    let mut scene = Disks::under(&[SHORT_LOG]).await;
    let (hash, id) = scene.begin().await;
    let behind = scene.one(Under::AFollower).await;
    scene.cluster.kill(&node(behind));
    // More than the others keep for it.
    scene.write(400).await;
    scene.disk(behind).is("enospc-snapshot 0");
    scene.cluster.again(&node(behind), &binary());
    scene.crowd.completes(&id).await;
    scene.comes_back(behind).await;
    let said = ["the node stops", "snapshot"];
    scene.cluster.has_logged(&node(behind), SOON, &said);
    scene.crowd.assert_offered_once_to_everybody(&hash);
    scene.ends_well().await;
}
