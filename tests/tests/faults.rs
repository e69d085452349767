//! Words that do not arrive and disks that fail, while a rollout runs and agents poll.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::time::{Duration, Instant};

use system_tests::apart::{Apart, FIVE_NODES, GATEWAYS, NODES};
use system_tests::crowd::PATIENCE;
use system_tests::network::in_own_network;
use system_tests::wait::{eventually, eventually_blocking, holds};

#[test]
fn a_rollout_goes_on_without_the_node_that_moved_it_while_that_is_cut_off_and_after() {
    in_own_network(async {
        let scene = Apart::of(24).await;
        let hash = scene.store("one").await;
        let id = scene.api.start("edge", "pausing").await.unwrap().id;
        scene.converge(&id, 2).await;
        let cut_off = scene.leader("control").await;
        scene.network.plug(cut_off, "down");
        scene.completes(&id).await;
        scene.network.plug(cut_off, "up");
        scene.ends_well(&hash).await;
    });
}

#[test]
fn a_leader_that_hears_everybody_and_is_heard_by_nobody_leads_no_more() {
    in_own_network(async {
        let scene = Apart::of(24).await;
        let hash = scene.store("one").await;
        let id = scene.api.start("edge", "pausing").await.unwrap().id;
        scene.converge(&id, 2).await;
        let mute = scene.leader("control").await;
        for other in scene.others(mute).chain(GATEWAYS) {
            scene.network.cut(mute, other);
        }
        scene.completes(&id).await;
        for other in scene.others(mute).chain(GATEWAYS) {
            scene.network.heal(mute, other);
        }
        scene.ends_well(&hash).await;
    });
}

#[test]
fn a_leader_that_is_heard_by_everybody_and_hears_nobody_leads_no_more() {
    in_own_network(async {
        let scene = Apart::of(24).await;
        let hash = scene.store("one").await;
        let id = scene.api.start("edge", "pausing").await.unwrap().id;
        scene.converge(&id, 2).await;
        let deaf = scene.leader("control").await;
        // It goes on saying that it leads, and no answer comes back: whoever believes it elects nobody.
        for other in scene.others(deaf).chain(GATEWAYS) {
            scene.network.cut(other, deaf);
        }
        scene.completes(&id).await;
        for other in scene.others(deaf).chain(GATEWAYS) {
            scene.network.heal(other, deaf);
        }
        scene.ends_well(&hash).await;
    });
}

/// A leader that one voter hears keeps that voter from voting for another one, if it goes on speaking without a majority
/// (openraft issue 2080).
#[test]
fn a_leader_that_is_heard_by_one_of_four_does_not_keep_a_majority_without_it_from_going_on() {
    in_own_network(async {
        let scene = Apart::with(&FIVE_NODES, 24).await;
        let hash = scene.store("one").await;
        let id = scene.api.start("edge", "pausing").await.unwrap().id;
        scene.converge(&id, 2).await;
        let leader = scene.leader("control").await;
        let others: Vec<u8> = scene.others(leader).collect();
        // The first is the bridge: it hears the leader and the two in the middle. The last one hears nobody.
        let [_bridge, one, two, alone] = others[..] else {
            panic!("{others:?}");
        };
        for far in [one, two] {
            scene.network.cut(leader, far);
            scene.network.cut(far, leader);
        }
        scene.network.plug(alone, "down");
        scene.completes(&id).await;
        for far in [one, two] {
            scene.network.heal(leader, far);
            scene.network.heal(far, leader);
        }
        scene.network.plug(alone, "up");
        scene.ends_well(&hash).await;
    });
}

#[test]
fn two_nodes_that_cannot_reach_each_other_do_not_stop_a_rollout_that_the_third_one_sees() {
    in_own_network(async {
        let scene = Apart::of(24).await;
        let hash = scene.store("one").await;
        let id = scene.api.start("edge", "pausing").await.unwrap().id;
        scene.converge(&id, 2).await;
        let one = scene.leader("control").await;
        let other = scene.others(one).next().unwrap();
        scene.network.cut(one, other);
        scene.network.cut(other, one);
        scene.completes(&id).await;
        scene.network.heal(one, other);
        scene.network.heal(other, one);
        scene.ends_well(&hash).await;
    });
}

#[test]
fn halt_returns_in_bounded_time_and_holds_where_a_node_is_cut_off_from_the_others_but_not_from_gateways()
 {
    in_own_network(async {
        let scene = Apart::of(24).await;
        let hash = scene.store("one").await;
        let id = scene.api.start("edge", "half").await.unwrap().id;
        // Leaders are spread by themselves; until then one node may lead them all.
        let what = "a node that leads a partition and not the documents";
        let alone = eventually(PATIENCE, what, async || {
            let view = scene.api.cluster().await;
            let view = view.map_err(|status| status.to_string())?;
            let leads = |name: &str| view.groups.iter().find(|g| g.name == name).unwrap().leader;
            let control = leads("control");
            let mut leads = view.groups.iter().map(|group| group.leader);
            let other = leads.find(|leader| control != 0 && ![0, control].contains(leader));
            other.ok_or_else(|| format!("{:?}", view.groups))
        })
        .await;
        let alone = u8::try_from(alone).unwrap();
        for other in scene.others(alone) {
            scene.network.cut(alone, other);
            scene.network.cut(other, alone);
        }
        let began = Instant::now();
        let halted = scene.cli.run(&["rollout", "halt", &id, "--reason", "test"]);
        let took = began.elapsed();
        assert_eq!(halted.code, 0, "{halted:?}");
        assert!(took < Duration::from_secs(12), "{took:?}");
        let before = scene.offers(&hash);
        // Its gateways still ask the one that has not heard of the halt.
        tokio::time::sleep(Duration::from_secs(6)).await; // the claim is about this time
        assert_eq!(scene.offers(&hash), before);
        for other in scene.others(alone) {
            scene.network.heal(alone, other);
            scene.network.heal(other, alone);
        }
        scene.cluster_is_whole().await;
        assert_eq!(scene.offers(&hash), before);
        scene.assert_nobody_is_lost().await;
        scene.assert_audit_verifies();
        scene.stop().await;
    });
}

/// A rollout, and a disk that comes to be like this under the node that moves it.
async fn a_rollout_with_a_disk(trouble: &str) -> (Apart, Vec<u8>, u8) {
    let scene = Apart::of(24).await;
    let hash = scene.store("one").await;
    let id = scene.api.start("edge", "pausing").await.unwrap().id;
    scene.converge(&id, 2).await;
    let node = scene.leader("control").await;
    scene.disk(node).is(trouble);
    scene.completes(&id).await;
    (scene, hash, node)
}

/// As [`a_rollout_with_a_disk`]; the node ends, as it must, and comes back on a sound disk.
async fn a_rollout_with_a_dying_disk(trouble: &str) {
    let (scene, hash, node) = a_rollout_with_a_disk(trouble).await;
    eventually_blocking(PATIENCE, "the node on the dying disk to end", || {
        holds(scene.network.has_ended(node), "it runs")
    });
    scene.disk(node).is_sound();
    scene.network.kill(node);
    scene.start_node(node);
    scene.ends_well(&hash).await;
}

#[test]
fn a_node_whose_disk_dies_ends_and_the_others_go_on() {
    in_own_network(async { a_rollout_with_a_dying_disk("eio 0").await });
}

#[test]
fn a_node_whose_disk_is_full_ends_and_the_others_go_on() {
    in_own_network(async { a_rollout_with_a_dying_disk("enospc 0").await });
}

#[test]
fn a_slow_disk_under_the_node_that_moves_a_rollout_slows_it_and_loses_nothing() {
    in_own_network(async {
        let (scene, hash, node) = a_rollout_with_a_disk("slow 150").await;
        scene.disk(node).is_sound();
        scene.ends_well(&hash).await;
    });
}

#[test]
fn a_power_cut_of_every_node_at_once_loses_nothing_that_was_said_to_be_done() {
    in_own_network(async {
        let scene = Apart::of(24).await;
        let hash = scene.store("one").await;
        let id = scene.api.start("edge", "pausing").await.unwrap().id;
        scene.converge(&id, 2).await;
        for node in NODES {
            scene.network.kill(node);
        }
        for node in NODES {
            scene.disk(node).loses_what_is_not_synced();
            scene.start_node(node);
        }
        scene.completes(&id).await;
        scene.ends_well(&hash).await;
    });
}
