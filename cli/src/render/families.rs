//! Families, their revisions, and how revisions differ.

use proto::api;

use crate::render::table::{facts, table};
use crate::render::text::{
    clean, clean_lines, cut, indent, or_dash, plural, revision, short, thousands,
};
use crate::render::{Look, Tone};

/// Characters of one change; the text below has it whole.
const CHANGE_WIDTH: usize = 160;

/// The table of `families list`.
pub fn list(answer: &api::ListFamiliesResponse, look: &Look) -> String {
    if answer.families.is_empty() {
        return "no families; `muster apply -f FILE` makes one\n".to_owned();
    }
    let headers = [
        "NAME",
        "OWNER",
        ">PRECEDENCE",
        "STABLE",
        "TARGET",
        "LATEST",
        "ROLES",
        ">AGENTS",
        ">CONVERGED",
        ">FAILED",
        "ROLLOUT",
    ];
    table(
        &headers,
        answer.families.iter().map(|family| {
            let tone = if family.failed > 0 {
                Tone::Bad
            } else {
                Tone::Quiet
            };
            let failed = look.cell(tone, &thousands(family.failed));
            vec![
                clean(&family.name).into(),
                or_dash(&family.owner).into(),
                family.precedence.to_string().into(),
                revision(family.stable).into(),
                revision(family.target).into(),
                revision(family.latest).into(),
                or_dash(&family.roles.join(",")).into(),
                thousands(family.owned).into(),
                thousands(family.converged).into(),
                failed,
                or_dash(&family.rollout).into(),
            ]
        }),
    )
}

/// `families get`.
pub fn detail(answer: &api::FamilyDetail, with_config: bool, look: &Look) -> String {
    let none = api::Family::default();
    let family = answer.family.as_ref().unwrap_or(&none);
    let mut text = facts([
        ("Family", look.paint(Tone::Title, &clean(&family.name))),
        ("Owner", clean(&family.owner)),
        ("Precedence", family.precedence.to_string()),
        ("Stable", revision(family.stable)),
        ("Target", revision(family.target)),
        (
            "Agents",
            format!(
                "{} owned, {} converged, {} failed",
                thousands(family.owned),
                thousands(family.converged),
                thousands(family.failed)
            ),
        ),
        ("Rollout", clean(&family.rollout)),
    ]);
    if let Some(revision) = &answer.revision {
        text += &one_revision(revision, with_config, look);
    }
    if !answer.revisions.is_empty() {
        text += &format!("\n{}\n", look.paint(Tone::Title, "Revisions"));
        text += &indent(&revisions(&answer.revisions, family, look), 2);
    }
    text
}

/// `families diff`.
pub fn diff(answer: &api::DiffRevisionsResponse, look: &Look) -> String {
    let from = match answer.from {
        0 => "nothing".to_owned(),
        from => revision(from),
    };
    let mut text = format!("{from} → {}\n", revision(answer.to));
    let roles: Vec<_> = answer
        .roles
        .iter()
        .filter(|role| !role.text.is_empty() || !role.changes.is_empty())
        .collect();
    if roles.is_empty() {
        text += "no difference\n";
    }
    for role in roles {
        text += &format!(
            "\n{}\n",
            look.paint(Tone::Title, &format!("role {}", clean(&role.role)))
        );
        text += &indent(
            &role
                .changes
                .iter()
                .map(|change| format!("{}\n", cut(&clean(change), CHANGE_WIDTH)))
                .collect::<String>(),
            2,
        );
        text += &unified(&role.text, look);
    }
    text
}

/// A unified diff with its lines in colours.
pub fn unified(diff: &str, look: &Look) -> String {
    let paint = |line: &str| match line.as_bytes() {
        [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] => look.paint(Tone::Title, line),
        [b'+', ..] => look.paint(Tone::Good, line),
        [b'-', ..] => look.paint(Tone::Bad, line),
        [b'@', b'@', ..] => look.paint(Tone::Quiet, line),
        _ => line.to_owned(),
    };
    clean_lines(diff)
        .lines()
        .map(|line| format!("{}\n", paint(line)))
        .collect()
}

fn one_revision(revision: &api::Revision, with_config: bool, look: &Look) -> String {
    let title = format!("Revision r{}, {}", revision.number, clean(&revision.state));
    let mut text = format!("\n{}\n", look.paint(Tone::Title, &title));
    text += &indent(
        &facts([
            ("Hash", clean(&revision.hash)),
            (
                "Author",
                format!(
                    "{}, {} ago",
                    or_dash(&revision.author),
                    look.age(revision.created_ms)
                ),
            ),
            ("Note", clean(&revision.note)),
            (
                "Policies",
                revision
                    .policies
                    .iter()
                    .map(|policy| clean(policy))
                    .collect::<Vec<_>>()
                    .join("; "),
            ),
        ]),
        2,
    );
    for role in &revision.roles {
        let after = if role.after.is_empty() {
            String::new()
        } else {
            format!(", after {}", clean(&role.after.join(", ")))
        };
        let matches = if role.matched == 1 {
            "matches"
        } else {
            "match"
        };
        text += &format!(
            "\n  role {}{after}: {} {matches}\n",
            clean(&role.name),
            plural(role.matched, "agent")
        );
        text += &format!("    {}\n", clean(&role.selector));
        for file in role.config.iter().filter(|_| with_config) {
            text += &format!(
                "    # {}\n{}",
                or_dash(&file.name),
                indent(&clean_lines(&file.body), 4)
            );
        }
    }
    text
}

fn revisions(revisions: &[api::RevisionSummary], family: &api::Family, look: &Look) -> String {
    table(
        &["", "HASH", "STATE", "AUTHOR", "AGE", "POINTER", "NOTE"],
        revisions.iter().map(|r| {
            let pointers: Vec<&str> = [(family.stable, "stable"), (family.target, "target")]
                .into_iter()
                .filter(|(number, _)| *number == r.number)
                .map(|(_, name)| name)
                .collect();
            let pointer = or_dash(&pointers.join(", "));
            let note = clean(&r.note);
            vec![
                revision(r.number).into(),
                short(&r.hash).into(),
                look.state_cell(&r.state),
                or_dash(&r.author).into(),
                look.age(r.created_ms).into(),
                pointer.into(),
                note.into(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pointers_are_always_shown() {
        let family = api::Family {
            name: "pii".into(),
            precedence: 100,
            stable: 3,
            target: 4,
            latest: 5,
            owned: 9_412,
            ..Default::default()
        };
        let text = list(
            &api::ListFamiliesResponse {
                families: vec![family],
            },
            &Look::default(),
        );
        assert!(
            text.lines()
                .nth(1)
                .unwrap()
                .starts_with("pii    -              100   r3       r4       r5"),
            "{text}"
        );
    }

    #[test]
    fn diff_is_plain_without_colours_and_marked_with() {
        let role = api::diff_revisions_response::RoleDiff {
            role: "agent".into(),
            text: "@@ -1 +1 @@\n-a: 1\n+a: 2\n".into(),
            changes: vec!["selector: `a` → `b`".into()],
        };
        let answer = api::DiffRevisionsResponse {
            from: 3,
            to: 4,
            roles: vec![role],
        };
        assert_eq!(
            diff(&answer, &Look::default()),
            "r3 → r4\n\nrole agent\n  selector: `a` → `b`\n@@ -1 +1 @@\n-a: 1\n+a: 2\n"
        );
        let coloured = diff(
            &answer,
            &Look {
                colour: true,
                ..Default::default()
            },
        );
        assert!(
            coloured.contains("\u{1b}[31m-a: 1\u{1b}[0m\n\u{1b}[32m+a: 2\u{1b}[0m\n"),
            "{coloured:?}"
        );
    }

    #[test]
    fn equal_revisions_say_so() {
        let answer = api::DiffRevisionsResponse {
            from: 3,
            to: 3,
            roles: vec![],
        };
        assert_eq!(diff(&answer, &Look::default()), "r3 → r3\nno difference\n");
    }

    #[test]
    fn detail_shows_roles_with_matches_and_configs_only_on_request() {
        let role = api::Role {
            name: "agent".into(),
            selector: "role = agent".into(),
            after: vec!["gateway".into()],
            matched: 9_412,
            config: vec![api::ConfigFile {
                name: "agent.yaml".into(),
                body: "a: 1\n".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = api::FamilyDetail {
            family: Some(api::Family {
                name: "pii".into(),
                ..Default::default()
            }),
            revision: Some(api::Revision {
                number: 4,
                state: "draft".into(),
                roles: vec![role],
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = detail(&answer, false, &Look::default());
        assert!(
            text.contains("  role agent, after gateway: 9,412 agents match\n    role = agent\n"),
            "{text}"
        );
        assert!(!text.contains("a: 1"));
        assert!(detail(&answer, true, &Look::default()).contains("    # agent.yaml\n    a: 1\n"));
    }
}
