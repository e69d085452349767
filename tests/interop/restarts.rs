//! Restarts are seen as what they are, and bring no offer and no second agent.

use std::time::Duration;

use serde_json::Value;
use system_tests::wait::{eventually_blocking, holds};

use crate::fleet::{Fleet, Transport, arrives, history, kinds};

/// An agent that went without a word is lost after two intervals of 30 s; everything else is faster.
const LOSS: Duration = Duration::from_secs(90);

const NAME: &str = "agent-0";

#[test]
fn restarts_of_collector_and_supervisor_are_told_apart_over_websocket() {
    restarts_are_told_apart(Transport::Ws);
}

#[test]
fn restarts_of_collector_and_supervisor_are_told_apart_over_http() {
    restarts_are_told_apart(Transport::Http);
}

fn restarts_are_told_apart(transport: Transport) {
    let mut fleet = Fleet::start(transport, 1);
    fleet.deliver("gateway", "agent");
    let uid = fleet.agent(NAME)["agent"]["uid"].clone();

    // Ordered by an operator: the collector is new, the connection and the supervisor are not.
    let seen = history(&fleet.alice, NAME).len();
    fleet.bob.ok(&["agents", "restart", NAME]);
    let ordered = since(
        &fleet,
        seen,
        "the ordered restart",
        &["restart ordered", "collector restarted"],
    );
    let order = ordered
        .iter()
        .find(|transition| transition["kind"] == "restart ordered")
        .unwrap();
    assert!(
        order["detail"].as_str().unwrap().contains("bob"),
        "{order:#}"
    );
    assert!(!kinds(&ordered).contains(&"connected"), "{ordered:#?}");
    healthy(&fleet);

    // Killed: unhealthy with the supervisor's words, and a new collector by itself.
    let seen = history(&fleet.alice, NAME).len();
    fleet.agents[0].kill_collector();
    let killed = since(
        &fleet,
        seen,
        "the collector's death",
        &["unhealthy", "collector restarted"],
    );
    let death = killed
        .iter()
        .find(|transition| transition["kind"] == "unhealthy")
        .unwrap();
    assert!(
        death["detail"]
            .as_str()
            .unwrap()
            .contains("exited unexpectedly"),
        "{death:#}"
    );
    assert!(!kinds(&killed).contains(&"restart ordered"), "{killed:#?}");
    healthy(&fleet);

    // Stopped: it comes back as the same agent. Over WebSocket it says goodbye; over HTTP it has no word for that, and
    // is back before anyone could have missed it.
    let seen = history(&fleet.alice, NAME).len();
    fleet.agents[0].stop();
    if transport == Transport::Ws {
        since(&fleet, seen, "the goodbye", &["left"]);
    }
    fleet.agents[0].again();
    let back: &[_] = match transport {
        Transport::Ws => &["left", "connected", "collector restarted"],
        Transport::Http => &["collector restarted"],
    };
    let stopped = since(&fleet, seen, "the return", back);
    assert!(!kinds(&stopped).contains(&"lost"), "{stopped:#?}");
    arrives(&fleet.alice, NAME);

    // Killed with its host: it does not say goodbye, and is lost after two intervals.
    let seen = history(&fleet.alice, NAME).len();
    fleet.agents[0].kill();
    let lost = since(&fleet, seen, "the loss", &["lost"]);
    assert!(!kinds(&lost).contains(&"left"), "{lost:#?}");
    fleet.agents[0].again();
    since(
        &fleet,
        seen,
        "the return",
        &["lost", "connected", "collector restarted"],
    );
    arrives(&fleet.alice, NAME);

    let detail = fleet.agent(NAME);
    assert_eq!(detail["agent"]["uid"], uid, "{detail:#}");
    assert_eq!(detail["agent"]["state"], "converged", "{detail:#}");
    let all = history(&fleet.alice, NAME);
    assert_eq!(
        kinds(&all)
            .iter()
            .filter(|kind| **kind == "offered")
            .count(),
        1,
        "{all:#?}"
    );
    assert_eq!(fleet.alice.json(&["agents", "list"])["total"], 2);
    fleet.sink.after(0, &fleet.send("after", 3));
}

/// What happened after the first `seen` transitions, once all of `wanted` are in it, in this order.
fn since(fleet: &Fleet, seen: usize, what: &str, wanted: &[&str]) -> Vec<Value> {
    eventually_blocking(LOSS, what, || {
        let transitions = history(&fleet.alice, NAME).split_off(seen);
        let mut found = kinds(&transitions).into_iter();
        let there = wanted
            .iter()
            .all(|wanted| found.any(|kind| kind == *wanted));
        holds(there, kinds(&transitions)).map(|()| transitions)
    })
}

fn healthy(fleet: &Fleet) {
    eventually_blocking(LOSS, "a healthy collector", || {
        let agent = fleet.agent(NAME)["agent"].take();
        holds(
            agent["healthy"] == true && agent["state"] == "converged",
            agent,
        )
    });
}
