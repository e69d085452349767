//! A new port of the gateway together with the agents that use it: one revision, one command, and no record is lost.
//!
//! The gateway goes first, and keeps its old port while agents change over: what a collector could not send yet when it
//! is restarted is lost. The next revision closes that port.

use serde_json::Value;
use system_tests::wait::{eventually_blocking, holds};

use crate::fleet::{FAMILY, Fleet, ROLLOUT, Transport, history, kinds, watch};
use crate::logs::listens;

#[test]
fn new_port_of_the_gateway_and_its_agents_change_in_one_rollout_without_a_lost_record_over_websocket()
 {
    port_changes(Transport::Ws);
}

#[test]
fn new_port_of_the_gateway_and_its_agents_change_in_one_rollout_without_a_lost_record_over_http() {
    port_changes(Transport::Http);
}

fn port_changes(transport: Transport) {
    let fleet = Fleet::start(transport, 2);
    fleet.deliver("gateway", "agent");
    assert!(!listens(fleet.new_port), "nobody has asked for it yet");

    let stream = fleet.stream("during");
    fleet.deliver("gateway-both-ports", "agent-new-port");
    let gateway = change(&fleet, &fleet.gateway.name, 2);
    for agent in &fleet.agents {
        let agent_change = change(&fleet, &agent.name, 2);
        assert!(
            agent_change.offered_ms >= gateway.applied_ms,
            "{} came before the gateway: {agent_change:?}, {gateway:?}",
            agent.name
        );
    }

    // Agents do not change with the third revision, and are offered nothing: they sent to the new port already.
    fleet.deliver("gateway-new-port", "agent-new-port");
    assert!(!listens(fleet.gateway.otlp), "the old port is still open");
    for agent in &fleet.agents {
        let transitions = history(&fleet.alice, &agent.name);
        let offers = kinds(&transitions)
            .into_iter()
            .filter(|kind| *kind == "offered");
        assert_eq!(offers.count(), 2, "{transitions:#?}");
    }
    fleet.sink.after(0, &stream.end());
    fleet.sink.after(0, &fleet.send("after", 3));
    fleet.alice.ok(&["audit", "verify"]);
}

#[test]
fn new_port_is_taken_back_from_the_agents_first_without_a_lost_record_over_websocket() {
    let fleet = Fleet::start(Transport::Ws, 2);
    fleet.deliver("gateway", "agent");
    fleet.apply("gateway-both-ports", "agent-new-port");
    let started = fleet
        .alice
        .json(&["rollout", "start", FAMILY, "--plan", "watched", "--yes"]);
    let id = started["id"].as_str().unwrap();
    for supervisor in fleet.supervisors() {
        eventually_blocking(ROLLOUT, "everyone to run revision 2", || {
            let agent = fleet.agent(&supervisor.name)["agent"].take();
            holds(
                agent["revision"] == 2 && agent["state"] == "converged",
                agent,
            )
        });
    }

    let stream = fleet.stream("back");
    fleet.alice.ok(&["rollout", "rollback", id]);
    let ended = watch(&fleet.alice, id);
    assert_eq!(
        (ended.output.code, &ended.rollout["state"]),
        (7, &"rolled back".into()),
        "{ended:#?}"
    );
    let gateway = change(&fleet, &fleet.gateway.name, 1);
    for agent in &fleet.agents {
        let agent_change = change(&fleet, &agent.name, 1);
        assert!(
            gateway.offered_ms >= agent_change.applied_ms,
            "the gateway went back before {}: {gateway:?}, {agent_change:?}",
            agent.name
        );
    }
    assert!(!listens(fleet.new_port), "the new port is still open");
    fleet.sink.after(0, &stream.end());
    fleet.sink.after(0, &fleet.send("after", 3));
}

/// When an agent was last offered a revision, and when it ran that by all it says.
#[derive(Debug)]
struct Change {
    offered_ms: u64,
    applied_ms: u64,
}

fn change(fleet: &Fleet, name: &str, revision: u64) -> Change {
    let transitions = history(&fleet.alice, name);
    let offer = |transition: &Value| {
        let detail = transition["detail"].as_str().unwrap();
        transition["kind"] == "offered" && detail.ends_with(&format!(" r{revision}"))
    };
    let offered = transitions.iter().rposition(offer);
    let offered = offered.unwrap_or_else(|| panic!("{name} was not offered it: {transitions:#?}"));
    let later = &transitions[offered..];
    let applied = later.iter().position(|later| later["kind"] == "applied");
    let applied = applied.unwrap_or_else(|| panic!("{name} did not apply it: {transitions:#?}"));
    // The supervisor says APPLIED when its new collector is healthy.
    let health = later[..applied].iter().rev();
    let health = health
        .filter_map(|earlier| earlier["kind"].as_str())
        .find(|kind| ["healthy", "unhealthy"].contains(kind));
    assert_ne!(health, Some("unhealthy"), "{transitions:#?}");
    let at = |transition: &Value| transition["at_ms"].as_u64().unwrap();
    Change {
        offered_ms: at(&later[0]),
        applied_ms: at(&later[applied]),
    }
}
