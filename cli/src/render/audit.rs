//! The audit log, and what a check of it found.

use proto::api;
use serde::Serialize;

use crate::render::table::table;
use crate::render::text::{clean, cut, or_dash, short, thousands, timestamp};
use crate::render::{Look, Tone};

/// Characters of a detail of an audit entry; -o wide cuts none.
const DETAIL_WIDTH: usize = 100;

/// A chain that was recomputed off line.
#[derive(Debug, Serialize)]
pub struct Chain {
    /// Name of the chain.
    pub group: String,
    /// Number of the first entry that was read; 1: the chain's first.
    pub first: u64,
    /// Number of the last entry that holds.
    pub last: u64,
    /// Entries that were read.
    pub entries: u64,
    /// Hash of the last entry that holds.
    pub head: String,
    /// Where it breaks; empty: it holds.
    pub problem: String,
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

/// What `audit check` found; nothing in a file without entries.
pub fn chains(chains: &[Chain], look: &Look) -> String {
    if chains.is_empty() {
        return String::new();
    }
    table(
        &["GROUP", ">ENTRIES", ">FROM", ">TO", "CHAIN", "HEAD"],
        chains.iter().map(|chain| {
            let holds = match chain.problem.as_str() {
                "" => look.cell(Tone::Good, "intact"),
                problem => look.cell(Tone::Bad, &format!("BROKEN: {}", clean(problem))),
            };
            vec![
                clean(&chain.group).into(),
                thousands(chain.entries).into(),
                thousands(chain.first).into(),
                thousands(chain.last).into(),
                holds,
                or_dash(&chain.head).into(),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checked_chain_says_from_where_to_where_it_holds() {
        let chain = Chain {
            group: "control".into(),
            first: 3,
            last: 1_200,
            entries: 1_198,
            head: "ab12".into(),
            problem: String::new(),
        };
        assert_eq!(
            chains(&[chain], &Look::default()),
            "\
GROUP     ENTRIES   FROM      TO   CHAIN    HEAD
control     1,198      3   1,200   intact   ab12
"
        );
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
