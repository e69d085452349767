//! What `apply` stored, and what was found in manifests.

use proto::api;

use crate::render::text::{clean, indent, plural, revision};
use crate::render::{Look, Tone};

/// What `apply` did.
pub fn applied(answer: &api::ApplyResponse, look: &Look) -> String {
    let mut text = String::new();
    for result in &answer.results {
        let number = if result.revision == 0 {
            String::new()
        } else {
            format!(" {}", revision(result.revision))
        };
        let tone = match result.change.as_str() {
            "unchanged" => Tone::Quiet,
            "pruned" | "deleted" | "deactivated" => Tone::Bad,
            _ => Tone::Good,
        };
        let change = look.paint(tone, &clean(&result.change));
        let rollout = match result.rollout.as_str() {
            "" => String::new(),
            id => format!(", rollout {} started", clean(id)),
        };
        let draft = match result.draft {
            true => look.paint(Tone::Moving, ", a draft"),
            false => String::new(),
        };
        text += &format!(
            "{}/{}{number} {change}{draft}{rollout}\n",
            clean(&result.kind).to_lowercase(),
            clean(&result.name)
        );
        if result.keep > 0 {
            let keep = match result.keep {
                1 => "keeps what it runs",
                _ => "keep what they run",
            };
            text += &format!("  {} {keep}\n", plural(result.keep, "agent"));
        }
        if !result.not_started.is_empty() {
            text += &format!("  no rollout started: {}\n", clean(&result.not_started));
        }
        text += &indent(&findings(&result.findings, look), 2);
    }
    if text.is_empty() {
        "no manifests\n".to_owned()
    } else {
        text
    }
}

/// One line for each finding: how bad, where, what.
pub fn findings(findings: &[api::Finding], look: &Look) -> String {
    let line = |finding: &api::Finding| {
        let tone = if finding.severity == "error" {
            Tone::Bad
        } else {
            Tone::Moving
        };
        let role = if finding.role.is_empty() {
            String::new()
        } else {
            format!(" role {}", clean(&finding.role))
        };
        let path = if finding.path.is_empty() {
            String::new()
        } else {
            format!(" {}", clean(&finding.path))
        };
        format!(
            "{}{role}{path}: {}\n",
            look.paint(tone, &clean(&finding.severity)),
            clean(&finding.message)
        )
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_tells_what_went_and_what_was_started() {
        let result = |name: &str, change: &str, rollout: &str, not_started: &str| {
            api::apply_response::Result {
                kind: "Family".into(),
                name: name.into(),
                change: change.into(),
                rollout: rollout.into(),
                not_started: not_started.into(),
                ..Default::default()
            }
        };
        let answer = api::ApplyResponse {
            results: vec![
                result("pii", "new revision", "r9", ""),
                result("web", "created", "", "it needs 1 approval"),
                result("old", "pruned", "", ""),
            ],
        };
        assert_eq!(
            applied(&answer, &Look::default()),
            "\
family/pii new revision, rollout r9 started
family/web created
  no rollout started: it needs 1 approval
family/old pruned
"
        );
    }

    #[test]
    fn apply_tells_what_keeps_a_draft_from_being_more() {
        let result = api::apply_response::Result {
            kind: "Family".into(),
            name: "pii".into(),
            change: "created".into(),
            revision: 1,
            draft: true,
            findings: vec![api::Finding {
                severity: "error".into(),
                message: "its config cannot be merged".into(),
                role: "agent".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let results = vec![result];
        assert_eq!(
            applied(&api::ApplyResponse { results }, &Look::default()),
            "family/pii r1 created, a draft\n  error role agent: its config cannot be merged\n"
        );
    }

    #[test]
    fn apply_tells_each_change_with_its_warnings() {
        let finding = api::Finding {
            severity: "warning".into(),
            path: "processors.foo".into(),
            message: "unused".into(),
            role: "agent".into(),
        };
        let result = api::apply_response::Result {
            kind: "Family".into(),
            name: "pii".into(),
            change: "new revision".into(),
            revision: 4,
            findings: vec![finding],
            ..Default::default()
        };
        let text = applied(
            &api::ApplyResponse {
                results: vec![result],
            },
            &Look::default(),
        );
        assert_eq!(
            text,
            "family/pii r4 new revision\n  warning role agent processors.foo: unused\n"
        );
    }
}
