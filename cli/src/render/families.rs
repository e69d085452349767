//! Families in a list, and how revisions differ.

use comfy_table::Cell;
use proto::api;

use crate::render::family::drift;
use crate::render::table::table;
use crate::render::text::{clean, clean_lines, cut, indent, or_dash, revision, thousands};
use crate::render::{Look, Tone};

/// Characters of one change; the text below has it whole.
const CHANGE_WIDTH: usize = 160;

/// The table of `families list`. What few families have stands in a column where one has it; wide shows settings, too.
pub fn list(answer: &api::ListFamiliesResponse, look: &Look) -> String {
    if answer.families.is_empty() {
        return "no families; `muster apply -f FILE` makes one\n".to_owned();
    }
    let has = |of: fn(&api::Family) -> bool| look.wide || answer.families.iter().any(of);
    let drifts = has(|family| !family.drift.is_empty());
    let outside = has(|family| family.outside_versions > 0);
    let sources = has(|family| !family.source.is_empty());
    let mut headers = vec![
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
    headers.extend(drifts.then_some("DRIFT"));
    headers.extend(outside.then_some(">OUTSIDE"));
    headers.extend(sources.then_some("SOURCE"));
    if look.wide {
        headers.extend([
            "VERSIONS",
            "VERSION POLICY",
            "OWNER CHANGE",
            "DRIFT POLICY",
            ">APPROVALS",
        ]);
    }
    table(
        &headers,
        answer.families.iter().map(|family| {
            let tone = if family.failed > 0 {
                Tone::Bad
            } else {
                Tone::Quiet
            };
            let failed = look.cell(tone, &thousands(family.failed));
            let mut row: Vec<Cell> = vec![
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
            ];
            row.extend(drifts.then(|| Cell::new(or_dash(&drift(family)))));
            row.extend(outside.then(|| Cell::new(thousands(family.outside_versions))));
            row.extend(sources.then(|| Cell::new(or_dash(&family.source))));
            if look.wide {
                row.extend([
                    or_dash(&family.versions).into(),
                    or_dash(&family.version_policy).into(),
                    or_dash(&family.owner_change).into(),
                    or_dash(&family.drift_policy).into(),
                    family.approvals.to_string().into(),
                ]);
            }
            row
        }),
    )
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
    fn what_few_families_have_stands_in_a_column_where_one_has_it() {
        let plain = api::Family {
            name: "web".into(),
            ..Default::default()
        };
        let owned = api::Family {
            name: "pii".into(),
            source: "git".into(),
            outside_versions: 2,
            drift: vec![api::DriftCount {
                kind: "content".into(),
                agents: 3,
            }],
            versions: "12 × 0.151.0".into(),
            ..Default::default()
        };
        let families = |families| api::ListFamiliesResponse { families };
        let without = list(&families(vec![plain.clone()]), &Look::default());
        assert!(without.lines().next().unwrap().ends_with("ROLLOUT"));
        let with = list(&families(vec![plain.clone(), owned]), &Look::default());
        let lines: Vec<&str> = with.lines().collect();
        assert!(
            lines[0].ends_with("ROLLOUT   DRIFT       OUTSIDE   SOURCE"),
            "{with}"
        );
        assert!(
            lines[1].ends_with("-         -                 0   -"),
            "{with}"
        );
        assert!(
            lines[2].ends_with("-         3 content         2   git"),
            "{with}"
        );
        let wide = Look {
            wide: true,
            ..Default::default()
        };
        assert!(list(&families(vec![plain]), &wide).contains("VERSION POLICY"));
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
}
