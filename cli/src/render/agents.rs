//! Lists of agents, their counts and their errors.

use comfy_table::Cell;
use proto::api;

use crate::render::table::table;
use crate::render::text::{
    age, clean, clean_lines, cut, indent, or_dash, plural, revision, such_as, thousands,
};
use crate::render::{Look, Tone};

/// Characters of an error in a column.
const ERROR_WIDTH: usize = 80;
/// Lines of an example of an error.
const EXAMPLE_LINES: usize = 6;

/// The table of `agents list`.
pub fn list(answer: &api::ListAgentsResponse, look: &Look) -> String {
    if answer.agents.is_empty() {
        return "no agents\n".to_owned();
    }
    let mut headers = vec![
        "NAME",
        "VERSION",
        "OS/ARCH",
        "ROLE",
        "STATE",
        "HEALTH",
        "LAST SEEN",
    ];
    if look.wide {
        headers.extend(["UID", "SERVICE", "TRANSPORT", "CONDITIONS", "ERROR"]);
    }
    table(&headers, answer.agents.iter().map(|agent| row(agent, look)))
}

/// What the table does not show; goes to stderr.
pub fn list_note(answer: &api::ListAgentsResponse) -> Option<String> {
    let shown = answer.agents.len() as u64;
    let mut notes = Vec::new();
    if shown < answer.total {
        notes.push(format!(
            "{} of {}; --limit 0 prints all",
            thousands(shown),
            plural(answer.total, "agent")
        ));
    }
    if answer.unreadable_partitions > 0 {
        let partitions = plural(answer.unreadable_partitions, "partition");
        notes.push(format!(
            "warning: {partitions} could not be asked; their agents are missing here"
        ));
    }
    (!notes.is_empty()).then(|| notes.join("\n"))
}

/// The table of `agents count`.
pub fn groups(answer: &api::GroupAgentsResponse, by: &str) -> String {
    let header = clean(by).to_uppercase();
    let rows = answer.groups.iter().map(|group| {
        let value = if group.value.is_empty() {
            "(none)".to_owned()
        } else {
            clean(&group.value)
        };
        vec![
            value,
            thousands(group.agents),
            thousands(group.connected),
            thousands(group.healthy),
        ]
    });
    let total = vec![
        "total".to_owned(),
        thousands(answer.total),
        String::new(),
        String::new(),
    ];
    table(
        &[&header, ">AGENTS", ">CONNECTED", ">HEALTHY"],
        rows.chain([total]),
    )
}

/// `agents errors`: each error once, with how many have it and one example in full.
pub fn errors(answer: &api::ListErrorsResponse, look: &Look) -> String {
    if answer.groups.is_empty() {
        return "no errors\n".to_owned();
    }
    let mut text = String::new();
    for group in &answer.groups {
        let count = look.paint(Tone::Bad, &plural(group.agents, "agent"));
        text += &format!(
            "{count}: {}{}\n",
            clean(&group.error),
            such_as(&group.examples)
        );
        if !group.example_text.is_empty() && group.example_text != group.error {
            text += &indent(&head(&clean_lines(&group.example_text), EXAMPLE_LINES), 4);
        }
    }
    text
}

/// The health of an agent in a word, and its tone.
pub fn health(agent: &api::Agent) -> (Tone, String) {
    match (agent.healthy, agent.health_status.is_empty()) {
        (true, _) => (Tone::Good, "healthy".to_owned()),
        (false, true) => (Tone::Bad, "unhealthy".to_owned()),
        (false, false) => (
            Tone::Bad,
            format!("unhealthy ({})", clean(&agent.health_status)),
        ),
    }
}

/// `family/role r7`; `-` for an unassigned agent.
pub fn assignment(agent: &api::Agent) -> String {
    if agent.family.is_empty() {
        return "-".to_owned();
    }
    let place = format!("{}/{}", clean(&agent.family), clean(&agent.role));
    if agent.revision == 0 {
        place
    } else {
        format!("{place} {}", revision(agent.revision))
    }
}

/// `12s`, or `3m (lost)` for an agent without a connection.
pub fn last_seen(agent: &api::Agent) -> String {
    let seen = age(agent.last_seen_ms_ago);
    if agent.link.is_empty() || agent.link == "connected" {
        seen
    } else {
        format!("{seen} ({})", clean(&agent.link))
    }
}

/// The first `lines` lines, and how many more there are.
pub fn head(text: &str, lines: usize) -> String {
    let all = text.lines().count();
    let mut head: String = text
        .lines()
        .take(lines)
        .map(|line| format!("{line}\n"))
        .collect();
    if all > lines {
        head += &format!("… {} more lines\n", thousands((all - lines) as u64));
    }
    head
}

fn row(agent: &api::Agent, look: &Look) -> Vec<Cell> {
    let platform = match (agent.os.as_str(), agent.arch.as_str()) {
        ("", "") => "-".to_owned(),
        (os, arch) => format!("{}/{}", or_dash(os), or_dash(arch)),
    };
    let (tone, health) = health(agent);
    let mut row = vec![
        clean(&agent.name).into(),
        or_dash(&agent.version).into(),
        platform.into(),
        assignment(agent).into(),
        look.state_cell(&agent.state),
        look.cell(tone, &health),
        last_seen(agent).into(),
    ];
    if look.wide {
        row.extend([
            clean(&agent.uid).into(),
            or_dash(&agent.service).into(),
            or_dash(&agent.transport).into(),
            or_dash(&agent.conditions.join(", ")).into(),
            cut(&or_dash(&agent.error), ERROR_WIDTH).into(),
        ]);
    }
    row
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn agent() -> api::Agent {
        api::Agent {
            uid: "0192f3a0-0000-7000-8000-000000000001".into(),
            name: "web-1".into(),
            version: "0.160.0".into(),
            os: "linux".into(),
            arch: "amd64".into(),
            link: "connected".into(),
            healthy: true,
            state: "converged".into(),
            family: "pii".into(),
            role: "agent".into(),
            revision: 7,
            last_seen_ms_ago: 12_000,
            ..Default::default()
        }
    }

    #[test]
    fn row_says_what_runs_where_and_how_it_is() {
        let lost = api::Agent {
            name: "db-1".into(),
            link: "lost".into(),
            family: String::new(),
            state: "unassigned".into(),
            healthy: false,
            health_status: "StatusFatalError".into(),
            last_seen_ms_ago: 180_000,
            ..agent()
        };
        let answer = api::ListAgentsResponse {
            agents: vec![agent(), lost],
            total: 2,
            ..Default::default()
        };
        assert_eq!(
            list(&answer, &Look::default()),
            "\
NAME    VERSION   OS/ARCH       ROLE           STATE        HEALTH                         LAST SEEN
web-1   0.160.0   linux/amd64   pii/agent r7   converged    healthy                        12s
db-1    0.160.0   linux/amd64   -              unassigned   unhealthy (StatusFatalError)   3m (lost)
"
        );
        assert_eq!(list_note(&answer), None);
    }

    #[test]
    fn wide_adds_uid_and_error() {
        let answer = api::ListAgentsResponse {
            agents: vec![agent()],
            ..Default::default()
        };
        let text = list(
            &answer,
            &Look {
                wide: true,
                ..Default::default()
            },
        );
        assert!(
            text.contains("UID") && text.contains("0192f3a0-0000-7000-8000-000000000001"),
            "{text}"
        );
    }

    #[test]
    fn missing_agents_are_said_to_be_missing() {
        let answer = api::ListAgentsResponse {
            agents: vec![agent()],
            total: 9_412,
            unreadable_partitions: 1,
            ..Default::default()
        };
        let note = list_note(&answer).unwrap();
        assert!(
            note.contains("1 of 9,412 agents; --limit 0 prints all"),
            "{note}"
        );
        assert!(note.contains("1 partition could not be asked"), "{note}");
    }

    #[test]
    fn count_shows_agents_without_the_key_and_the_total() {
        let group = |value: &str, agents| api::group_agents_response::Group {
            value: value.into(),
            agents,
            connected: agents,
            healthy: 1,
        };
        let answer = api::GroupAgentsResponse {
            groups: vec![group("prod", 1_200), group("", 3)],
            total: 1_203,
        };
        assert_eq!(
            groups(&answer, "env"),
            "\
ENV      AGENTS   CONNECTED   HEALTHY
prod      1,200       1,200         1
(none)        3           3         1
total     1,203
"
        );
    }

    #[test]
    fn error_is_shown_once_with_its_count_and_an_example() {
        let group = api::list_errors_response::Group {
            error: "dial tcp ADDR: refused".into(),
            agents: 12,
            examples: vec!["u1".into()],
            example_text: "dial tcp 10.0.0.1:4317: refused".into(),
        };
        let text = errors(
            &api::ListErrorsResponse {
                groups: vec![group],
            },
            &Look::default(),
        );
        assert_eq!(
            text,
            "12 agents: dial tcp ADDR: refused, e.g. u1\n    dial tcp 10.0.0.1:4317: refused\n"
        );
    }
}
