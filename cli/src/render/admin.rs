//! Tokens and the audit log.

use proto::api;

use crate::render::table::table;
use crate::render::text::{clean, cut, or_dash, short, thousands, timestamp};
use crate::render::{Look, Tone};

/// Characters of a detail of an audit entry; -o wide cuts none.
const DETAIL_WIDTH: usize = 100;

/// The table of `tokens list`.
pub fn tokens(answer: &api::ListTokensResponse, look: &Look) -> String {
    if answer.tokens.is_empty() {
        return "no tokens; `muster tokens create NAME` makes one\n".to_owned();
    }
    table(
        &[
            "NAME", "KIND", "ROLE", "LABELS", "STATE", "EXPIRES", "AGE", "BY",
        ],
        answer.tokens.iter().map(|token| {
            let labels: Vec<String> = token
                .labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            let (tone, state) = token_state(token, look);
            vec![
                clean(&token.name).into(),
                clean(&token.kind).into(),
                or_dash(&token.role).into(),
                or_dash(&labels.join(",")).into(),
                look.cell(tone, &state),
                timestamp(token.expires_ms).into(),
                look.age(token.created_ms).into(),
                or_dash(&token.created_by).into(),
            ]
        }),
    )
}

/// The uid of the agent that an audit entry is about, if it is about one.
pub fn agent_of(entry: &api::AuditEntry) -> Option<&str> {
    entry.object.strip_prefix("agent/")
}

/// What is said where there are no entries.
pub fn no_entries(narrowed: bool) -> &'static str {
    if narrowed {
        "no entries match; `muster audit list` shows the newest of all\n"
    } else {
        "no entries yet\n"
    }
}

/// The table of `audit list`. Agents stand by their names; wide shows uids and details whole.
pub fn audit(answer: &api::ListAuditResponse, look: &Look) -> String {
    table(
        &["TIME", "ACTOR", "ACTION", "OBJECT", "DETAIL", "ENTRY"],
        answer.entries.iter().map(|entry| {
            let place = format!(
                "{}/{} {}",
                clean(&entry.group),
                entry.seq,
                short(&entry.hash)
            );
            let object = match agent_of(entry) {
                Some(uid) if !look.wide => format!("agent/{}", look.names.of(uid)),
                _ => or_dash(&entry.object),
            };
            let detail = clean(&entry.detail);
            vec![
                timestamp(entry.at_ms),
                or_dash(&entry.actor),
                clean(&entry.action),
                object,
                if look.wide {
                    detail
                } else {
                    cut(&detail, DETAIL_WIDTH)
                },
                place,
            ]
        }),
    )
}

/// What `audit verify` found. The heads are printed whole: they are what one compares with a copy kept elsewhere.
pub fn verified(groups: &[api::VerifyAuditResponse], look: &Look) -> String {
    table(
        &["GROUP", ">ENTRIES", "CHAIN", "HEAD"],
        groups.iter().map(|group| {
            let chain = if group.intact {
                look.cell(Tone::Good, "intact")
            } else {
                look.cell(Tone::Bad, &format!("BROKEN: {}", or_dash(&group.problem)))
            };
            vec![
                clean(&group.group).into(),
                thousands(group.entries).into(),
                chain,
                or_dash(&group.head).into(),
            ]
        }),
    )
}

fn token_state(token: &api::Token, look: &Look) -> (Tone, String) {
    if token.revoked_ms != 0 {
        (
            Tone::Quiet,
            format!("revoked {} ago", look.age(token.revoked_ms)),
        )
    } else if token.expires_ms != 0 && token.expires_ms <= look.now_ms {
        (Tone::Quiet, "expired".to_owned())
    } else {
        (Tone::Good, "valid".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_valid_expired_or_revoked() {
        let look = Look {
            now_ms: 100_000,
            ..Default::default()
        };
        let token = |expires_ms, revoked_ms| api::Token {
            expires_ms,
            revoked_ms,
            ..Default::default()
        };
        assert_eq!(token_state(&token(0, 0), &look).1, "valid");
        assert_eq!(token_state(&token(100_000, 0), &look).1, "expired");
        assert_eq!(token_state(&token(0, 40_000), &look).1, "revoked 1m ago");
    }

    #[test]
    fn broken_chain_names_its_problem_and_its_head() {
        let broken = api::VerifyAuditResponse {
            group: "control".into(),
            entries: 1_200,
            head: "ab12".into(),
            intact: false,
            problem: "entry 7 was changed".into(),
        };
        let text = verified(&[broken], &Look::default());
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "control     1,200   BROKEN: entry 7 was changed   ab12"
        );
    }

    #[test]
    fn agent_stands_by_its_name_in_the_audit_log_and_wide_by_its_uid() {
        let uid = "019a0000-0000-72bb-bd85-b5b5176c3ee3";
        let entry = api::AuditEntry {
            object: format!("agent/{uid}"),
            detail: "d".repeat(200),
            ..Default::default()
        };
        let answer = api::ListAuditResponse {
            entries: vec![entry],
        };
        let mut look = Look::default();
        look.names.learn(uid.into(), "web-1".into());
        let text = audit(&answer, &look);
        assert!(text.contains("agent/web-1 (…176c3ee3)   ddd"), "{text}");
        assert!(text.contains("d…"), "{text}");
        look.wide = true;
        let text = audit(&answer, &look);
        assert!(
            text.contains(uid) && text.contains(&"d".repeat(200)),
            "{text}"
        );
    }

    #[test]
    fn audit_entry_says_who_did_what_when() {
        let entry = api::AuditEntry {
            at_ms: 1_788_271_320_000,
            actor: "alice".into(),
            action: "halt".into(),
            object: "rollout/r1".into(),
            group: "control".into(),
            seq: 9,
            ..Default::default()
        };
        let text = audit(
            &api::ListAuditResponse {
                entries: vec![entry],
            },
            &Look::default(),
        );
        assert!(
            text.lines()
                .nth(1)
                .unwrap()
                .starts_with("2026-09-01T14:02:00Z   alice   halt     rollout/r1"),
            "{text}"
        );
    }
}
