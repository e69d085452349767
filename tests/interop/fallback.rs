//! What a supervisor does by itself about a config that its collector cannot run, and what is seen of it, while a rollout
//! holds. What `validate` refuses never replaces what runs. What crashes is started again every 5 s until the server sends
//! something else; with `automatic_config_rollback` the supervisor goes back to the last config that worked.

use std::time::Duration;

use serde_json::Value;
use system_tests::wait::{SOON, eventually_blocking, holds};

use crate::fleet::{Fleet, ROLLOUT, Transport, history, kinds, roll_out, watch};
use crate::peers::Supervisor;

/// Three polls or heartbeats, which come every 30 s over both transports.
const POLLS: u32 = 3;

/// Between two looks at something that takes minutes.
const LOOK: Duration = Duration::from_secs(1);

#[test]
fn config_that_validation_refuses_is_not_offered_again_and_shown_while_the_last_good_one_runs_over_websocket()
 {
    last_good_one_runs(Transport::Ws);
}

#[test]
fn config_that_validation_refuses_is_not_offered_again_and_shown_while_the_last_good_one_runs_over_http()
 {
    last_good_one_runs(Transport::Http);
}

#[test]
fn collector_that_crashes_on_a_config_stays_down_and_is_shown_until_the_server_takes_it_back_over_websocket()
 {
    crashes_until_taken_back(Transport::Ws);
}

#[test]
fn collector_that_crashes_on_a_config_stays_down_and_is_shown_until_the_server_takes_it_back_over_http()
 {
    crashes_until_taken_back(Transport::Http);
}

#[test]
fn supervisor_that_goes_back_by_itself_is_not_offered_the_config_again_and_shown_over_websocket() {
    goes_back_by_itself(Transport::Ws);
}

#[test]
fn supervisor_that_goes_back_by_itself_is_not_offered_the_config_again_and_shown_over_http() {
    goes_back_by_itself(Transport::Http);
}

fn last_good_one_runs(transport: Transport) {
    let fleet = Fleet::start(transport, 2);
    fleet.deliver("gateway", "agent");
    let before: Vec<_> = fleet.agents.iter().map(Supervisor::collector).collect();

    let (canary, _) = halts(&fleet, "agent-bad");
    let after: Vec<_> = fleet.agents.iter().map(Supervisor::collector).collect();
    assert_eq!(before, after, "a collector was restarted for it");
    let detail = failed(&fleet, canary, "failed", "send_batch_maximum");
    assert_eq!(detail["agent"]["healthy"], true, "{detail:#}");
    fleet.sink.after(0, &fleet.send("still", 3));

    // The collector says what it runs when it starts, and this one starts with what it had.
    fleet.bob.ok(&["agents", "restart", &canary.name]);
    eventually_blocking(ROLLOUT, "the fallback to be seen", || {
        let agent = fleet.agent(&canary.name)["agent"].take();
        let kinds = agent["drift"].as_array().cloned().unwrap_or_default();
        holds(
            kinds.contains(&"fallback".into()) && agent["healthy"] == true,
            agent,
        )
    });

    during_polls(|| failed(&fleet, canary, "failed", "send_batch_maximum"));
    fleet.sink.after(0, &fleet.send("after", 3));
}

fn crashes_until_taken_back(transport: Transport) {
    let fleet = Fleet::start(transport, 2);
    fleet.deliver("gateway", "agent");

    let (canary, rollout) = halts(&fleet, "agent-crashing");
    // Started again, and crashed again: another process each time.
    let mut deaths = Vec::new();
    eventually_blocking(ROLLOUT, "several crashes", || {
        let detail = failed(&fleet, canary, "failed", "exit code 1");
        let last = detail["health"]["last_error"].as_str().unwrap_or_default();
        if last.contains("exited unexpectedly") && !deaths.iter().any(|death| death == last) {
            deaths.push(last.to_owned());
        }
        std::thread::sleep(LOOK);
        holds(deaths.len() >= 3, &deaths)
    });
    let transitions = history(&fleet.alice, &canary.name);
    let newest_first = kinds(&transitions).into_iter().rev();
    let since: Vec<_> = newest_first.take_while(|kind| *kind != "offered").collect();
    assert!(!since.contains(&"healthy"), "{transitions:#?}");

    fleet.alice.ok(&["rollout", "rollback", &rollout]);
    let ended = watch(&fleet.alice, &rollout);
    assert_eq!(
        (ended.output.code, &ended.rollout["state"]),
        (7, &"rolled back".into()),
        "{ended:#?}"
    );
    eventually_blocking(SOON, "the canary to run revision 1", || {
        let detail = fleet.agent(&canary.name);
        let back = detail["agent"]["revision"] == 1 && detail["agent"]["state"] == "converged";
        holds(back, detail)
    });
    let refused = &fleet.agent(&canary.name)["refused"];
    assert_eq!(refused.as_array().unwrap().len(), 1, "{refused:#}");
    fleet.sink.after(0, &fleet.send("after", 3));
}

fn goes_back_by_itself(transport: Transport) {
    let fleet = Fleet::that_goes_back(transport, 2);
    fleet.deliver("gateway", "agent");

    let (canary, rollout) = halts(&fleet, "agent-crashing");
    eventually_blocking(ROLLOUT, "the canary to be back", || {
        let detail = fleet.agent(&canary.name);
        let agent = &detail["agent"];
        let back = agent["state"] == "rolled back"
            && agent["healthy"] == true
            && agent["reported_hash"] != agent["delivery_hash"];
        holds(back, detail)
    });
    let before = canary.collector();
    during_polls(|| failed(&fleet, canary, "rolled back", "exit code 1"));
    assert_eq!(before, canary.collector(), "its collector was restarted");
    fleet.sink.after(0, &fleet.send("still", 3));
    let shown = fleet.alice.json(&["rollout", "get", &rollout]);
    assert_eq!(shown["total"]["rolled_back_by_agent"], 1, "{shown:#}");

    // It runs what it gets back already, so that nothing is sent.
    fleet.alice.ok(&["rollout", "rollback", &rollout]);
    let ended = watch(&fleet.alice, &rollout);
    assert_eq!(ended.rollout["state"], "rolled back", "{ended:#?}");
    let detail = fleet.agent(&canary.name);
    assert_eq!(detail["agent"]["revision"], 1, "{detail:#}");
    assert_eq!(detail["agent"]["state"], "converged", "{detail:#}");
    assert_eq!(before, canary.collector(), "its collector was restarted");
    fleet.sink.after(0, &fleet.send("after", 3));
    fleet.alice.ok(&["audit", "verify"]);
}

/// Looks at an agent again and again, while it checks in several times.
fn during_polls(look: impl Fn() -> Value) {
    let mut heard = 0;
    let mut last_ago = 0;
    eventually_blocking(ROLLOUT, "several polls", || {
        let ago = look()["agent"]["last_seen_ms_ago"].as_u64().unwrap();
        heard += u32::from(ago < last_ago);
        last_ago = ago;
        std::thread::sleep(LOOK);
        holds(heard >= POLLS, heard)
    });
}

/// Rolls this out to the agents by a plan that holds where it fails. Answers the canary and the rollout.
fn halts<'a>(fleet: &'a Fleet, agent: &str) -> (&'a Supervisor, String) {
    fleet.apply("gateway", agent);
    let ended = roll_out(&fleet.alice, "holding");
    assert_eq!(
        (ended.output.code, &ended.rollout["state"]),
        (7, &"halted".into()),
        "{ended:#?}"
    );
    let mut canaries = Vec::new();
    for agent in &fleet.agents {
        let detail = fleet.agent(&agent.name);
        if detail["agent"]["revision"] == 2 {
            canaries.push(agent);
        } else {
            assert_eq!(detail["agent"]["state"], "converged", "{detail:#}");
        }
    }
    let [canary] = canaries[..] else {
        panic!("not one canary: {ended:#?}");
    };
    (canary, ended.rollout["id"].as_str().unwrap().to_owned())
}

/// Offered revision 2 once, failed with it for this reason, refuses it from then on, and all of that is shown.
fn failed(fleet: &Fleet, canary: &Supervisor, state: &str, why: &str) -> Value {
    let detail = fleet.agent(&canary.name);
    assert_eq!(detail["agent"]["state"], state, "{detail:#}");
    assert_eq!(detail["delivery"]["offers"], 1, "{detail:#}");
    let refused = detail["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 1, "{detail:#}");
    assert_eq!(refused[0]["hash"], detail["delivery"]["hash"], "{detail:#}");
    assert!(
        refused[0]["why"].as_str().unwrap().contains(why),
        "{detail:#}"
    );
    let transitions = history(&fleet.alice, &canary.name);
    let offers = kinds(&transitions)
        .into_iter()
        .filter(|kind| *kind == "offered");
    assert_eq!(offers.count(), 2, "one for each revision: {transitions:#?}");
    detail
}
