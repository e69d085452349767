//! What goes wrong in the middle of a rollout: a config that the collector refuses, and a server that dies.

use system_tests::wait::{SOON, eventually_blocking, holds};

use crate::fleet::{FAMILY, Fleet, ROLLOUT, Transport, history, kinds, watch};

#[test]
fn config_that_the_collector_refuses_stops_at_the_canary_and_is_rolled_back_over_websocket() {
    stops_at_the_canary(Transport::Ws);
}

#[test]
fn config_that_the_collector_refuses_stops_at_the_canary_and_is_rolled_back_over_http() {
    stops_at_the_canary(Transport::Http);
}

#[test]
fn rollout_goes_on_after_the_server_was_killed_in_it_over_websocket() {
    goes_on_after_a_kill(Transport::Ws);
}

#[test]
fn rollout_goes_on_after_the_server_was_killed_in_it_over_http() {
    goes_on_after_a_kill(Transport::Http);
}

fn stops_at_the_canary(transport: Transport) {
    let fleet = Fleet::start(transport, 3);
    fleet.deliver("gateway", "agent");

    fleet.apply("gateway", "agent-bad");
    let ended = fleet.roll_out();
    assert_eq!(
        (ended.output.code, &ended.rollout["state"]),
        (7, &"rolled back".into()),
        "{ended:#?}"
    );
    // The collector's own words, once for the group of agents that say them.
    let errors = ended.rollout["errors"].as_array().unwrap();
    assert_eq!(
        (errors.len(), &errors[0]["agents"]),
        (1, &1.into()),
        "{errors:#?}"
    );
    let error = errors[0]["error"].as_str().unwrap();
    assert!(error.contains("send_batch_maximum"), "{error}");

    let mut canaries = Vec::new();
    for agent in &fleet.agents {
        let transitions = history(&fleet.alice, &agent.name);
        let detail = eventually_blocking(
            SOON,
            &format!("{} to run revision 1 again", agent.name),
            || {
                let detail = fleet.agent(&agent.name);
                let back = detail["agent"]["revision"] == 1
                    && detail["agent"]["state"] == "converged"
                    && detail["agent"]["delivery_hash"] == detail["agent"]["reported_hash"];
                holds(back, &detail).map(|()| detail)
            },
        );
        if kinds(&transitions).contains(&"failed") {
            // What failed there is not offered there again.
            assert_eq!(detail["refused"].as_array().unwrap().len(), 1, "{detail:#}");
            canaries.push(&agent.name);
        } else {
            assert_eq!(detail["delivery"]["offers"], 1, "{detail:#}");
            assert_eq!(
                kinds(&transitions)
                    .iter()
                    .filter(|kind| **kind == "offered")
                    .count(),
                1,
                "{transitions:#?}"
            );
        }
    }
    assert_eq!(canaries.len(), 1, "{canaries:?}");

    // Nobody lost a record over it.
    fleet.sink.after(0, &fleet.send("still", 3));
    fleet.alice.ok(&["audit", "verify"]);
}

fn goes_on_after_a_kill(transport: Transport) {
    let mut fleet = Fleet::start(transport, 3);
    fleet.deliver("gateway", "agent");

    fleet.apply("gateway-redacted", "agent-redacted");
    let started = fleet
        .alice
        .json(&["rollout", "start", FAMILY, "--plan", "quick", "--yes"]);
    let id = started["id"].as_str().unwrap();
    let canary = eventually_blocking(ROLLOUT, "the canary agent to be offered revision 2", || {
        let agents = offered(&fleet);
        holds(agents.len() == 1, &agents).map(|()| agents[0].clone())
    });
    fleet.server.kill();
    // Collectors do not need the control plane.
    fleet.sink.after(0, &fleet.send("meanwhile", 1));
    fleet.server.again();

    let watched = watch(&fleet.alice, id);
    watched.completed();
    let total = &watched.rollout["total"];
    assert_eq!(total["converged"], 4, "{watched:#?}");
    assert_eq!(
        fleet.alice.json(&["rollout", "list"])["rollouts"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    for supervisor in fleet.supervisors() {
        let detail = fleet.agent(&supervisor.name);
        assert_eq!(detail["agent"]["revision"], 2, "{detail:#}");
        let transitions = history(&fleet.alice, &supervisor.name);
        let offers = kinds(&transitions)
            .iter()
            .filter(|kind| **kind == "offered")
            .count();
        assert_eq!(
            offers, 2,
            "one offer for each revision: {canary} was the canary: {transitions:#?}"
        );
    }
    fleet.alice.ok(&["audit", "verify"]);
}

/// Names of the agents that were offered revision 2.
fn offered(fleet: &Fleet) -> Vec<String> {
    let listed = fleet.alice.json(&["agents", "list", "-l", "role = agent"]);
    let agents = listed["agents"].as_array().unwrap().iter();
    agents
        .filter(|agent| agent["revision"] == 2)
        .map(|agent| agent["name"].as_str().unwrap().to_owned())
        .collect()
}
