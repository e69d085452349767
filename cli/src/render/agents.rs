//! Lists of agents.

use comfy_table::Cell;
use proto::api;

use crate::render::table::table;
use crate::render::text::{age, clean, cut, or_dash, plural, revision, thousands};
use crate::render::{Look, Tone};

/// Characters of an error in a column, and of labels; -o wide cuts neither.
const ERROR_WIDTH: usize = 80;
const LABELS_WIDTH: usize = 40;

/// The table of `agents list`. Labels and errors have a column where an agent has some.
pub fn list(answer: &api::ListAgentsResponse, look: &Look) -> String {
    let agents = &answer.agents;
    let extra = Extra {
        labels: look.wide || agents.iter().any(|agent| !agent.labels.is_empty()),
        error: look.wide || agents.iter().any(|agent| !agent.error.is_empty()),
    };
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
        headers.extend(["UID", "SERVICE", "TRANSPORT", "CONDITIONS"]);
    }
    headers.extend(extra.labels.then_some("LABELS"));
    headers.extend(extra.error.then_some("ERROR"));
    table(&headers, agents.iter().map(|agent| row(agent, extra, look)))
}

/// What is said where the list is empty.
pub fn none(narrowed: bool) -> &'static str {
    if narrowed {
        "no agents match; `muster agents list` shows all, `muster agents count --by state` their states\n"
    } else {
        "no agents yet; `muster supervisor-config --version V` prints a config that connects one\n"
    }
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
            "warning: {partitions} could not be asked; what is shown of their agents may be old"
        ));
    }
    (!notes.is_empty()).then(|| notes.join("\n"))
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

/// ` (drift: content, version)`; nothing for an agent without drift.
fn drift(agent: &api::Agent) -> String {
    if agent.drift.is_empty() {
        return String::new();
    }
    let kinds = clean(&agent.drift.join(", "));
    if agent.state == "drifted" {
        format!(" ({kinds})")
    } else {
        format!(" (drift: {kinds})")
    }
}

/// Columns that are not always there.
#[derive(Clone, Copy)]
struct Extra {
    labels: bool,
    error: bool,
}

fn row(agent: &api::Agent, extra: Extra, look: &Look) -> Vec<Cell> {
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
        look.state_cell_with(&agent.state, &drift(agent)),
        look.cell(tone, &health),
        last_seen(agent).into(),
    ];
    if look.wide {
        row.extend([
            clean(&agent.uid).into(),
            or_dash(&agent.service).into(),
            or_dash(&agent.transport).into(),
            or_dash(&agent.conditions.join(", ")).into(),
        ]);
    }
    let fit = |text: String, width| if look.wide { text } else { cut(&text, width) };
    if extra.labels {
        let labels: Vec<String> = agent
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        row.push(fit(or_dash(&labels.join(",")), LABELS_WIDTH).into());
    }
    if extra.error {
        row.push(fit(or_dash(&agent.error), ERROR_WIDTH).into());
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
    fn labels_and_errors_have_a_column_where_an_agent_has_some() {
        let labelled = api::Agent {
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            error: "e".repeat(200),
            ..agent()
        };
        let answer = api::ListAgentsResponse {
            agents: vec![agent(), labelled],
            ..Default::default()
        };
        let text = list(&answer, &Look::default());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("LAST SEEN   LABELS     ERROR"), "{text}");
        assert!(lines[1].ends_with("12s         -          -"), "{text}");
        assert!(lines[2].contains("12s         env=prod   eee"), "{text}");
        assert!(lines[2].ends_with("e…"), "{text}");
        let wide = Look {
            wide: true,
            ..Default::default()
        };
        assert!(list(&answer, &wide).contains(&"e".repeat(200)));
    }

    #[test]
    fn kinds_of_drift_stand_behind_the_state() {
        let drifted = |state: &str| api::Agent {
            state: state.into(),
            drift: vec!["content".into(), "version".into()],
            ..agent()
        };
        let answer = api::ListAgentsResponse {
            agents: vec![drifted("drifted"), drifted("converged")],
            ..Default::default()
        };
        let text = list(&answer, &Look::default());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("drifted (content, version)   "), "{text}");
        assert!(
            lines[2].contains("converged (drift: content, version)   "),
            "{text}"
        );
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
}
