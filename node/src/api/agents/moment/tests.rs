//! Histories written by hand, played up to a time.

use super::*;

fn at(at_ms: u64, kind: &str, from: &str, detail: &str) -> Transition {
    Transition {
        at_ms,
        kind: kind.to_owned(),
        from: from.to_owned(),
        to: kind.to_owned(),
        detail: detail.to_owned(),
    }
}

/// Registered at 100, revision 1 applied at 130, revision 2 failed at 230, went back at 240, lost at 300.
fn life() -> Vec<Transition> {
    vec![
        at(100, "healthy", "", ""),
        at(100, "connected", "", "10.0.0.1:9"),
        at(110, "offered", "", "aaaaaaaaaaaa web/agent r1"),
        at(120, "applying", "offered", "aaaaaaaaaaaa "),
        at(130, "applied", "applying", "aaaaaaaaaaaa "),
        at(200, "labelled", "", "env=prod"),
        at(210, "offered", "", "bbbbbbbbbbbb web/agent r2"),
        at(220, "unhealthy", "healthy", "exit code 1"),
        at(230, "failed", "offered", "bbbbbbbbbbbb bad exporter"),
        at(240, "rolled back by the agent", "failed", "bbbbbbbbbbbb "),
        at(250, "healthy", "unhealthy", ""),
        at(300, "lost", "connected", "silent"),
    ]
}

fn now() -> Present {
    Present {
        first_seen_ms: 100,
        link: "lost".into(),
        health: "healthy".into(),
        ran: Ran {
            hash: "bbbbbbbbbbbb".into(),
            family: "web".into(),
            role: "agent".into(),
            revision: 2,
            state: "rolled back by the agent".into(),
            since_ms: 240,
        },
    }
}

fn line(agent: &AgentAt) -> String {
    format!(
        "{}, {}, {}/{} r{} {} since {}{}",
        agent.link,
        agent.health,
        agent.family,
        agent.role,
        agent.revision,
        agent.state,
        agent.since_ms,
        if agent.note.is_empty() {
            String::new()
        } else {
            format!(" ({})", agent.note)
        }
    )
}

fn told(history: &[Transition], kept_from_ms: u64, at_ms: u64) -> String {
    line(&replay(history, Some(&now()), kept_from_ms, at_ms))
}

#[test]
fn each_time_has_what_the_transitions_before_it_tell() {
    let expected = [
        (105, "connected, healthy, / r0  since 0"),
        (110, "connected, healthy, web/agent r1 offered since 110"),
        (205, "connected, healthy, web/agent r1 applied since 130"),
        (235, "connected, unhealthy, web/agent r2 failed since 230"),
        (
            299,
            "connected, healthy, web/agent r2 rolled back by the agent since 240",
        ),
        (
            900,
            "lost, healthy, web/agent r2 rolled back by the agent since 240",
        ),
    ];
    for (at_ms, line) in expected {
        assert_eq!(told(&life(), 0, at_ms), line, "at {at_ms}");
    }
    let agent = replay(&life(), Some(&now()), 0, 205);
    assert_eq!(agent.delivery_hash, "aaaaaaaaaaaa");
}

#[test]
fn before_it_registered_there_is_nothing() {
    assert_eq!(replay(&life(), Some(&now()), 0, 99), noted(NOT_REGISTERED));
    assert_eq!(replay(&life(), None, 0, 99), noted(NOT_REGISTERED));
}

#[test]
fn an_agent_that_did_not_change_is_known_though_its_history_is_pruned() {
    let line = "lost, healthy, web/agent r2 rolled back by the agent since 240";
    assert_eq!(told(&[], 1000, 1500), line);
}

#[test]
fn what_changed_later_is_told_by_where_it_came_from() {
    let pruned = &life()[8..];
    let expected = "connected, unhealthy, web/agent r2 offered since 0";
    assert_eq!(told(pruned, 225, 226), expected);
    let expected = "connected, unhealthy, web/agent r2 failed since 230";
    assert_eq!(told(pruned, 225, 235), expected);
}

#[test]
fn what_is_older_than_what_is_kept_is_not_guessed() {
    let pruned = &life()[6..];
    assert_eq!(replay(pruned, Some(&now()), 500, 150), noted(TOO_OLD));
    // Every transition since is kept; what it ran before the first of them is not among them.
    let agent = replay(pruned, Some(&now()), 150, 150);
    assert_eq!(
        line(&agent),
        "connected, healthy, / r0  since 0 (older than what is kept)"
    );
    assert_eq!(replay(pruned, None, 500, 150), noted(TOO_OLD));
}

#[test]
fn a_forgotten_agent_is_known_up_to_then() {
    let mut history = life();
    history.push(at(400, "forgotten", "", "alice"));
    let was = line(&replay(&history, None, 0, 399));
    assert_eq!(
        was,
        "lost, healthy, web/agent r2 rolled back by the agent since 240"
    );
    assert_eq!(replay(&history, None, 0, 400), noted(FORGOTTEN));
    history.push(at(500, "healthy", "", ""));
    history.push(at(500, "connected", "", "10.0.0.1:9"));
    let back = Present {
        first_seen_ms: 500,
        ..now()
    };
    let again = line(&replay(&history, Some(&back), 0, 510));
    assert_eq!(again, "connected, healthy, / r0  since 0");
    assert_eq!(replay(&history, Some(&back), 0, 450), noted(FORGOTTEN));
}

#[test]
fn adopted_repeated_and_retried_deliveries_are_understood() {
    let mut history = life();
    history.push(at(310, "retry ordered", "", "alice"));
    assert_eq!(
        told(&history, 0, 310),
        "lost, healthy, web/agent r2 withdrawn since 310"
    );
    history.push(at(320, "adopted", "", "cccccccccccc web/agent r3"));
    history.push(at(
        330,
        "offered",
        "",
        "cccccccccccc web/agent r3, once more, since it drifted",
    ));
    assert_eq!(
        told(&history, 0, 325),
        "lost, healthy, web/agent r3 applied since 320"
    );
    assert_eq!(
        told(&history, 0, 335),
        "lost, healthy, web/agent r3 offered since 330"
    );
}
