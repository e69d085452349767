//! Collectors that a person stops, which is the one act that sends a supervisor an empty config.

use serde_json::Value;
use system_tests::wait::{SOON, eventually_blocking, holds};

use crate::fleet::{Fleet, Transport, history, kinds};
use crate::logs::listens;

const NAME: &str = "agent-0";

#[test]
fn collector_is_stopped_by_order_of_an_admin_and_runs_again_when_the_order_is_taken_back_over_websocket()
 {
    let fleet = Fleet::start(Transport::Ws, 1);
    fleet.deliver("gateway", "agent");
    let agent = &fleet.agents[0];
    let first = agent.collector();
    assert!(first.is_some(), "it runs");

    let order = ["agents", "stop", NAME, "--yes", "--reason", "floods, INC-7"];
    let others = [&fleet.bob, &fleet.alice].map(|cli| cli.run(&order).code);
    assert_eq!(others, [6, 6], "only an admin may");
    fleet.admin.ok(&order);
    let stopped = in_state(&fleet, "stopped");
    assert_eq!(agent.collector(), None, "{stopped:#}");
    assert!(!listens(agent.otlp), "{stopped:#}");
    assert_eq!(stopped["agent"]["link"], "connected", "{stopped:#}");
    assert_eq!(stopped["agent"]["healthy"], true, "{stopped:#}");

    fleet.admin.ok(&["agents", "start", NAME]);
    let back = in_state(&fleet, "converged");
    assert_eq!(back["agent"]["revision"], 1, "{back:#}");
    let second = agent.collector();
    assert!(second.is_some() && second != first, "{first:?}, {second:?}");
    fleet.sink.after(0, &fleet.send("again", 3));

    let transitions = history(&fleet.alice, NAME);
    let orders: Vec<_> = kinds(&transitions)
        .into_iter()
        .filter(|kind| ["offered", "stop ordered", "start ordered"].contains(kind))
        .collect();
    assert_eq!(
        orders,
        [
            "offered",
            "stop ordered",
            "offered",
            "start ordered",
            "offered"
        ],
        "{transitions:#?}"
    );
    let audit = fleet
        .alice
        .json(&["audit", "list", "--action", "agent.stop"]);
    assert_eq!(audit["entries"][0]["detail"], "floods, INC-7", "{audit:#}");
    fleet.alice.ok(&["audit", "verify"]);
}

/// Waits until the agent is called so, and healthy. Answers what is known of it.
fn in_state(fleet: &Fleet, state: &str) -> Value {
    eventually_blocking(SOON, &format!("{NAME} {state}"), || {
        let detail = fleet.agent(NAME);
        let there = detail["agent"]["state"] == state && detail["agent"]["healthy"] == true;
        holds(there, &detail).map(|()| detail)
    })
}
