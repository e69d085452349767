//! One family: its settings, a revision of it, and all of them.

use proto::api;

use crate::render::applied::findings;
use crate::render::governance::{given, tally};
use crate::render::table::{facts, table};
use crate::render::text::{
    clean, clean_lines, indent, or_dash, plural, revision, short, thousands,
};
use crate::render::{Look, Tone};

/// `families get`.
pub fn detail(answer: &api::FamilyDetail, with_config: bool, look: &Look) -> String {
    let none = api::Family::default();
    let family = answer.family.as_ref().unwrap_or(&none);
    let mut text = head(family, look);
    if let Some(revision) = &answer.revision {
        text += &one_revision(revision, with_config, look);
    }
    if !answer.revisions.is_empty() {
        text += &format!("\n{}\n", look.paint(Tone::Title, "Revisions"));
        text += &indent(&revisions(&answer.revisions, family, look), 2);
    }
    text
}

/// `families validate`.
pub fn validated(family: &str, answer: &api::RevisionSummary, look: &Look) -> String {
    format!(
        "{} {} is {}\n{}",
        clean(family),
        revision(answer.number),
        look.state(&answer.state),
        indent(&findings(&answer.findings, look), 2)
    )
}

/// `3 content, 1 version`; nothing without drift.
pub fn drift(family: &api::Family) -> String {
    let counts = family.drift.iter();
    let counts = counts.map(|d| format!("{} {}", thousands(d.agents), clean(&d.kind)));
    counts.collect::<Vec<_>>().join(", ")
}

fn head(family: &api::Family, look: &Look) -> String {
    let source = match family.source.as_str() {
        "" => String::new(),
        source => format!("{}: changes are committed there", clean(source)),
    };
    let approvals = match family.approvals {
        0 => String::new(),
        needed => format!("{needed} needed for a rollout of the latest revision"),
    };
    let outside = match family.outside_versions {
        0 => String::new(),
        outside => look.paint(
            Tone::Bad,
            &format!("; {} outside", plural(outside, "agent")),
        ),
    };
    facts([
        ("Family", look.paint(Tone::Title, &clean(&family.name))),
        ("Owner", clean(&family.owner)),
        ("Source", source),
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
        ("Versions", clean(&family.versions)),
        (
            "Version policy",
            match clean(&family.version_policy) {
                policy if policy.is_empty() => policy,
                policy => format!("{policy}{outside}"),
            },
        ),
        ("Drift", look.paint(Tone::Bad, &drift(family))),
        ("Drift policy", clean(&family.drift_policy)),
        ("Owner change", clean(&family.owner_change)),
        (
            "Components",
            match clean(&family.missing_components) {
                none if none.is_empty() => none,
                some => format!("agents that lack some: {some}"),
            },
        ),
        ("Approvals", approvals),
        ("Rollout", clean(&family.rollout)),
    ])
}

fn one_revision(revision: &api::Revision, with_config: bool, look: &Look) -> String {
    let title = format!("Revision r{}, {}", revision.number, clean(&revision.state));
    let mut text = format!("\n{}\n", look.paint(Tone::Title, &title));
    let policies: Vec<String> = revision
        .policies
        .iter()
        .map(|policy| clean(policy))
        .collect();
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
            ("Commit", clean(&revision.commit)),
            ("Note", clean(&revision.note)),
            ("Policies", policies.join("; ")),
            ("Settings", clean(&revision.settings)),
            ("Approvals", approvals(revision, look)),
            (
                "Rejected",
                look.paint(Tone::Bad, &clean(&revision.rejected)),
            ),
        ]),
        2,
    );
    text += &indent(&findings(&revision.findings, look), 2);
    for role in &revision.roles {
        text += &one_role(role, with_config);
    }
    text
}

/// `1/2: alice with plan careful, 3m ago`; nothing where none are needed or given.
fn approvals(revision: &api::Revision, look: &Look) -> String {
    match (revision.approvals, revision.given.as_slice()) {
        (0, []) => String::new(),
        (needed, []) => tally(needed, &[]),
        (needed, all) => format!("{}: {}", tally(needed, all), given(all, look).join("; ")),
    }
}

fn one_role(role: &api::Role, with_config: bool) -> String {
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
    let mut text = format!(
        "\n  role {}{after}: {} {matches}\n    {}\n",
        clean(&role.name),
        plural(role.matched, "agent"),
        clean(&role.selector)
    );
    for file in role.config.iter().filter(|_| with_config) {
        text += &format!(
            "    # {}\n{}",
            or_dash(&file.name),
            indent(&clean_lines(&file.body), 4)
        );
    }
    text
}

/// Approvals and commits have a column where a revision has some.
fn revisions(revisions: &[api::RevisionSummary], family: &api::Family, look: &Look) -> String {
    let approvals = revisions
        .iter()
        .any(|r| r.approvals > 0 || !r.given.is_empty());
    let commits = revisions.iter().any(|r| !r.commit.is_empty());
    let mut headers = vec!["", "HASH", "STATE", "AUTHOR", "AGE", "POINTER"];
    headers.extend(approvals.then_some("APPROVALS"));
    headers.extend(commits.then_some("COMMIT"));
    headers.push("NOTE");
    table(
        &headers,
        revisions.iter().map(|r| {
            let pointers: Vec<&str> = [(family.stable, "stable"), (family.target, "target")]
                .into_iter()
                .filter(|(number, _)| *number == r.number)
                .map(|(_, name)| name)
                .collect();
            let mut row = vec![
                revision(r.number).into(),
                short(&r.hash).into(),
                look.state_cell(&r.state),
                or_dash(&r.author).into(),
                look.age(r.created_ms).into(),
                or_dash(&pointers.join(", ")).into(),
            ];
            row.extend(approvals.then(|| tally(r.approvals, &r.given).into()));
            row.extend(commits.then(|| short(&r.commit).into()));
            row.push(note(r).into());
            row
        }),
    )
}

/// Why it was rejected, what keeps it a draft, or what its author says.
fn note(revision: &api::RevisionSummary) -> String {
    let rejected = clean(&revision.rejected);
    if !rejected.is_empty() {
        return format!("rejected by {rejected}");
    }
    let errors = revision.findings.iter().filter(|f| f.severity == "error");
    let (errors, note) = (errors.count(), clean(&revision.note));
    if errors == 0 {
        return note;
    }
    let errors = plural(errors as u64, "error");
    match note.as_str() {
        "" => errors,
        note => format!("{errors}; {note}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn draft_tells_what_keeps_it_one() {
        let findings = vec![api::Finding {
            severity: "error".into(),
            path: "exporters.debug".into(),
            message: "policy says no".into(),
            role: "agent".into(),
        }];
        let summary = api::RevisionSummary {
            number: 4,
            state: "draft".into(),
            note: "try".into(),
            findings: findings.clone(),
            ..Default::default()
        };
        let answer = api::FamilyDetail {
            revision: Some(api::Revision {
                number: 4,
                state: "draft".into(),
                findings,
                ..Default::default()
            }),
            revisions: vec![summary.clone()],
            ..Default::default()
        };
        let text = detail(&answer, false, &Look::default());
        let finding = "  error role agent exporters.debug: policy says no\n";
        assert!(text.contains(finding), "{text}");
        assert!(text.contains("1 error; try\n"), "{text}");
        assert_eq!(
            validated("pii", &summary, &Look::default()),
            format!("pii r4 is draft\n{finding}")
        );
    }

    #[test]
    fn family_tells_its_settings_and_what_is_outside_of_them() {
        let family = api::Family {
            name: "pii".into(),
            source: "git".into(),
            owner_change: "ask".into(),
            missing_components: "block".into(),
            drift_policy: "report".into(),
            version_policy: "from 0.150".into(),
            versions: "12 × 0.151.0, 2 × 0.149.0".into(),
            outside_versions: 2,
            approvals: 2,
            drift: vec![
                api::DriftCount {
                    kind: "content".into(),
                    agents: 3,
                },
                api::DriftCount {
                    kind: "version".into(),
                    agents: 2,
                },
            ],
            ..Default::default()
        };
        let answer = api::FamilyDetail {
            family: Some(family),
            ..Default::default()
        };
        let text = detail(&answer, false, &Look::default());
        for line in [
            "Source          git: changes are committed there\n",
            "Versions        12 × 0.151.0, 2 × 0.149.0\n",
            "Version policy  from 0.150; 2 agents outside\n",
            "Drift           3 content, 2 version\n",
            "Drift policy    report\n",
            "Owner change    ask\n",
            "Components      agents that lack some: block\n",
            "Approvals       2 needed for a rollout of the latest revision\n",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn revision_tells_who_approved_it_and_why_it_was_rejected() {
        let approval = api::Approval {
            by: "alice".into(),
            plan: "careful".into(),
            at_ms: 1,
            reason: "tried it".into(),
            ..Default::default()
        };
        let answer = api::FamilyDetail {
            revision: Some(api::Revision {
                number: 4,
                approvals: 2,
                given: vec![approval.clone()],
                rejected: "bob: too late".into(),
                commit: "0123456789abcdef".into(),
                ..Default::default()
            }),
            revisions: vec![
                api::RevisionSummary {
                    number: 4,
                    approvals: 2,
                    given: vec![approval],
                    rejected: "bob: too late".into(),
                    commit: "0123456789abcdef".into(),
                    ..Default::default()
                },
                api::RevisionSummary {
                    number: 3,
                    note: "first".into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let look = Look {
            now_ms: 60_001,
            ..Default::default()
        };
        let text = detail(&answer, false, &look);
        for words in [
            "  Approvals  1/2: alice with plan careful, 1m ago: tried it\n",
            "  Rejected   bob: too late\n",
            "  Commit     0123456789abcdef\n",
            "APPROVALS   COMMIT         NOTE\n",
            "1/2         0123456789ab   rejected by bob: too late\n",
            "-           -              first\n",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
    }
}
