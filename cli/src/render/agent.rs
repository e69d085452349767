//! One agent in full.

use proto::api;

use crate::render::agents::{assignment, health, last_seen};
use crate::render::health::tree;
use crate::render::table::{facts, table};
use crate::render::text::{
    clean, clean_lines, indent, or_dash, plural, revision, short, timestamp,
};
use crate::render::{Look, Tone};

/// Which part is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    All,
    /// The effective config only.
    Effective,
    /// What was sent last only.
    Delivered,
}

/// `agents get`.
pub fn detail(answer: &api::AgentDetail, part: Part, look: &Look) -> String {
    match part {
        Part::Effective => files(&answer.effective),
        Part::Delivered => files(&answer.delivered),
        Part::All => whole(answer, look),
    }
}

/// `agents get --why`: what became of each term, role by role.
pub fn why(answer: &api::AgentDetail) -> String {
    let roles = answer.why.iter();
    roles
        .map(|role| format!("{}: {}\n", clean(&role.role), clean(&role.why)))
        .collect()
}

/// `agents history`: one line for each transition.
pub fn history(transitions: &[api::Transition], look: &Look) -> String {
    if transitions.is_empty() {
        return "nothing recorded\n".to_owned();
    }
    table(
        &["TIME", "AGE", "WHAT", "FROM", "TO", "DETAIL"],
        transitions.iter().map(|t| {
            let detail = clean(&t.detail);
            vec![
                timestamp(t.at_ms),
                look.age(t.at_ms),
                clean(&t.kind),
                or_dash(&t.from),
                or_dash(&t.to),
                detail,
            ]
        }),
    )
}

fn whole(answer: &api::AgentDetail, look: &Look) -> String {
    let empty = api::Agent::default();
    let agent = answer.agent.as_ref().unwrap_or(&empty);
    let mut text = head(agent, answer, look);
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            text += &format!("\n{}\n{}", look.paint(Tone::Title, title), indent(&body, 2));
        }
    };
    section(
        "Claims",
        answer
            .claims
            .iter()
            .map(|claim| format!("{}\n", clean(claim)))
            .collect(),
    );
    section("Config", config(answer, look));
    section("Drift", answer.drift.iter().map(drift).collect());
    section(
        "Refused",
        answer
            .refused
            .iter()
            .map(|r| {
                format!(
                    "{}  {}: {}\n",
                    look.age(r.at_ms),
                    short(&r.hash),
                    clean(&r.why)
                )
            })
            .collect(),
    );
    section(
        "Health",
        answer
            .health
            .as_ref()
            .map(|health| tree(health, look))
            .unwrap_or_default(),
    );
    section("Labels", labels(answer));
    section("Attributes", attributes(answer));
    section("Components", components(answer));
    section("Effective config", files(&answer.effective));
    let recent = if answer.history.is_empty() {
        String::new()
    } else {
        history(&answer.history, look)
    };
    section("Last transitions", recent);
    text
}

fn head(agent: &api::Agent, answer: &api::AgentDetail, look: &Look) -> String {
    let version = format!(
        "{} {} on {}/{}",
        clean(&agent.service),
        clean(&agent.version),
        or_dash(&agent.os),
        or_dash(&agent.arch)
    );
    let (tone, word) = health(agent);
    facts([
        ("Agent", look.paint(Tone::Title, &clean(&agent.name))),
        ("Uid", clean(&agent.uid)),
        ("Runs", version.trim().to_owned()),
        ("Role", assignment(agent)),
        ("State", look.state(&agent.state)),
        ("Health", look.paint(tone, &word)),
        ("Error", look.paint(Tone::Bad, &clean(&agent.error))),
        (
            "Conditions",
            agent
                .conditions
                .iter()
                .map(|c| clean(c))
                .collect::<Vec<_>>()
                .join(", "),
        ),
        ("Last seen", last_seen(agent)),
        ("First seen", timestamp(answer.first_seen_ms)),
        (
            "Connection",
            format!("{} {}", clean(&agent.transport), clean(&answer.peer))
                .trim()
                .to_owned(),
        ),
        ("Token", clean(&answer.token)),
        (
            "Capabilities",
            answer
                .capabilities
                .iter()
                .map(|c| clean(c))
                .collect::<Vec<_>>()
                .join(", "),
        ),
    ])
}

fn config(answer: &api::AgentDetail, look: &Look) -> String {
    let mut lines = Vec::new();
    if let Some(d) = &answer.delivery {
        let offers = if d.offers > 1 {
            format!(", {} offers", d.offers)
        } else {
            String::new()
        };
        let answered = if d.answered_ms == 0 {
            "no answer yet".into()
        } else {
            format!("answered {} ago", look.age(d.answered_ms))
        };
        let what = format!(
            "{}/{} {} {}",
            clean(&d.family),
            clean(&d.role),
            revision(d.revision),
            short(&d.hash)
        );
        lines.push((
            "Delivered",
            format!(
                "{what}, offered {} ago{offers}, {answered}",
                look.age(d.offered_ms)
            ),
        ));
        lines.push(("State", look.state(&d.state)));
        lines.push(("Rollout", clean(&d.rollout)));
        lines.push(("Effective", clean(&d.effective)));
        lines.push(("Error", look.paint(Tone::Bad, &clean(&d.error))));
    }
    if let Some(s) = answer.status.as_ref().filter(|s| s.state != "unset") {
        let error = if s.error.is_empty() {
            String::new()
        } else {
            format!(": {}", clean(&s.error))
        };
        lines.push((
            "Reported",
            format!(
                "{} {} since {}{error}",
                clean(&s.state),
                short(&s.hash),
                look.age(s.since_ms)
            ),
        ));
    }
    facts(lines)
}

/// One drift: what it is, the keys it is about, and what follows.
fn drift(drift: &api::Drift) -> String {
    let mut text = format!("{}: {}\n", clean(&drift.kind), clean(&drift.text));
    for difference in &drift.differences {
        text += &format!("  {}\n", clean(difference));
    }
    if !drift.answer.is_empty() {
        text += &format!("  → {}\n", clean(&drift.answer));
    }
    text
}

fn labels(answer: &api::AgentDetail) -> String {
    let by_operator = answer
        .operator_labels
        .iter()
        .map(|(k, v)| format!("{}={}\n", clean(k), clean(v)));
    let by_token = answer
        .token_labels
        .iter()
        .map(|(k, v)| format!("{}={} (by token)\n", clean(k), clean(v)));
    by_operator.chain(by_token).collect()
}

fn attributes(answer: &api::AgentDetail) -> String {
    let line = |a: &api::KeyValue| {
        format!(
            "{}={}{}\n",
            clean(&a.key),
            clean(&a.value),
            if a.identifying { " (identifying)" } else { "" }
        )
    };
    answer.attributes.iter().map(line).collect()
}

fn components(answer: &api::AgentDetail) -> String {
    facts(answer.components.iter().map(|kind| {
        let names: Vec<String> = kind.components.iter().map(|name| clean(name)).collect();
        (
            kind.kind.as_str(),
            format!(
                "{}: {}",
                plural(names.len() as u64, "type"),
                names.join(", ")
            ),
        )
    }))
}

/// Bodies of configs. The name is told where there are several, and as a comment, so that the text stays YAML.
fn files(files: &[api::ConfigFile]) -> String {
    let mut text = String::new();
    for file in files {
        if files.len() > 1 || !file.note.is_empty() {
            let name = if file.name.is_empty() {
                "(unnamed)".to_owned()
            } else {
                clean(&file.name)
            };
            let note = if file.note.is_empty() {
                String::new()
            } else {
                format!(": {}", clean(&file.note))
            };
            text += &format!("# {name}{note}\n");
        }
        text += clean_lines(&file.body).trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_names_delivery_refusals_and_labels() {
        let answer = api::AgentDetail {
            agent: Some(crate::render::agents::tests::agent()),
            operator_labels: [("env".to_owned(), "prod".to_owned())].into(),
            delivery: Some(api::Delivery {
                hash: "abcdef0123456789".into(),
                family: "pii".into(),
                role: "agent".into(),
                revision: 7,
                offered_ms: 40_000,
                offers: 2,
                state: "applying".into(),
                ..Default::default()
            }),
            refused: vec![api::Refusal {
                hash: "ffff".into(),
                why: "crashed".into(),
                at_ms: 70_000,
            }],
            ..Default::default()
        };
        let text = detail(
            &answer,
            Part::All,
            &Look {
                now_ms: 100_000,
                ..Default::default()
            },
        );
        for line in [
            "Role        pii/agent r7\n",
            "  Delivered  pii/agent r7 abcdef012345, offered 1m ago, 2 offers, no answer yet\n",
            "  30s  ffff: crashed\n",
            "  env=prod\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("Components"), "empty sections are left out");
    }

    #[test]
    fn drift_is_told_with_its_keys_and_what_follows() {
        let content = api::Drift {
            kind: "content".into(),
            text: "1 key differs".into(),
            differences: vec!["exporters.otlp.endpoint: a → b (edited by hand)".into()],
            answer: "reported".into(),
        };
        let answer = api::AgentDetail {
            drift: vec![content],
            ..Default::default()
        };
        let text = detail(&answer, Part::All, &Look::default());
        assert!(
            text.contains("\nDrift\n  content: 1 key differs\n    exporters.otlp.endpoint: a → b (edited by hand)\n    → reported\n"),
            "{text}"
        );
    }

    #[test]
    fn one_config_is_printed_as_it_is_and_several_under_their_names() {
        let file = |name: &str| api::ConfigFile {
            name: name.into(),
            body: "a: 1\n".into(),
            ..Default::default()
        };
        let one = api::AgentDetail {
            effective: vec![file("")],
            ..Default::default()
        };
        assert_eq!(detail(&one, Part::Effective, &Look::default()), "a: 1\n");
        let two = api::AgentDetail {
            delivered: vec![file("a"), file("b")],
            ..Default::default()
        };
        assert_eq!(
            detail(&two, Part::Delivered, &Look::default()),
            "# a\na: 1\n# b\na: 1\n"
        );
    }

    #[test]
    fn transition_is_a_line() {
        let t = api::Transition {
            at_ms: 1_788_271_320_000,
            kind: "config".into(),
            from: "applying".into(),
            to: "failed".into(),
            detail: "bad key".into(),
        };
        let text = history(
            &[t],
            &Look {
                now_ms: 1_788_271_380_000,
                ..Default::default()
            },
        );
        assert!(
            text.ends_with("2026-09-01T14:02:00Z   1m    config   applying   failed   bad key\n"),
            "{text}"
        );
    }
}
