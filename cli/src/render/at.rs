//! What ran where at a given time.

use comfy_table::Cell;
use proto::api;

use crate::render::Look;
use crate::render::table::table;
use crate::render::text::{clean, or_dash, revision, short, timestamp};

/// Agents of one answer; the API gives no more.
const AGENTS_MAX: usize = 1000;

/// `agents at`: the time, and the agents as they were then.
pub fn at(answer: &api::AgentsAtResponse, look: &Look) -> String {
    let title = format!("at {}\n", timestamp(answer.at_ms));
    if answer.agents.is_empty() {
        return title + "no agents match\n";
    }
    let notes = look.wide || answer.agents.iter().any(|agent| !agent.note.is_empty());
    let mut headers = vec!["NAME", "ROLE", "CONFIG", "STATE", "SINCE", "HEALTH", "LINK"];
    headers.extend(look.wide.then_some("UID"));
    headers.extend(notes.then_some("NOTE"));
    let rows = answer.agents.iter().map(|agent| row(agent, notes, look));
    title + &table(&headers, rows)
}

/// That there may be more; goes to stderr.
pub fn note(answer: &api::AgentsAtResponse) -> Option<String> {
    (answer.agents.len() >= AGENTS_MAX)
        .then(|| "there may be more agents than these 1,000; narrow with -l".to_owned())
}

fn row(agent: &api::AgentAt, notes: bool, look: &Look) -> Vec<Cell> {
    let role = match (agent.family.as_str(), agent.revision) {
        ("", _) => "-".to_owned(),
        (family, 0) => format!("{}/{}", clean(family), clean(&agent.role)),
        (family, number) => format!(
            "{}/{} {}",
            clean(family),
            clean(&agent.role),
            revision(number)
        ),
    };
    let name = match agent.name.as_str() {
        "" => clean(&agent.uid),
        name => clean(name),
    };
    let state = match agent.state.as_str() {
        "" => Cell::new("-"),
        state => look.state_cell(state),
    };
    let mut row = vec![
        name.into(),
        role.into(),
        short(&agent.delivery_hash).into(),
        state,
        timestamp(agent.since_ms).into(),
        or_dash(&agent.health).into(),
        or_dash(&agent.link).into(),
    ];
    row.extend(look.wide.then(|| Cell::new(clean(&agent.uid))));
    row.extend(notes.then(|| Cell::new(or_dash(&agent.note))));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_stand_as_they_were_and_what_is_not_known_says_why() {
        let known = api::AgentAt {
            uid: "u1".into(),
            name: "web-1".into(),
            link: "connected".into(),
            health: "healthy".into(),
            delivery_hash: "0123456789abcdef".into(),
            family: "pii".into(),
            role: "agent".into(),
            revision: 3,
            state: "converged".into(),
            since_ms: 1_788_264_000_000,
            ..Default::default()
        };
        let unknown = api::AgentAt {
            uid: "u2".into(),
            note: "not registered yet".into(),
            ..Default::default()
        };
        let mut answer = api::AgentsAtResponse {
            at_ms: 1_788_271_320_000,
            agents: vec![known, unknown],
        };
        assert_eq!(
            at(&answer, &Look::default()),
            "\
at 2026-09-01T14:02:00Z
NAME    ROLE           CONFIG         STATE       SINCE                  HEALTH    LINK        NOTE
web-1   pii/agent r3   0123456789ab   converged   2026-09-01T12:00:00Z   healthy   connected   -
u2      -              -              -           -                      -         -           not registered yet
"
        );
        assert_eq!(note(&answer), None);
        answer.agents.clear();
        assert_eq!(
            at(&answer, &Look::default()),
            "at 2026-09-01T14:02:00Z\nno agents match\n"
        );
    }

    #[test]
    fn full_answer_says_that_there_may_be_more() {
        let full = api::AgentsAtResponse {
            at_ms: 1,
            agents: vec![api::AgentAt::default(); 1000],
        };
        assert!(note(&full).unwrap().contains("narrow with -l"));
    }
}
