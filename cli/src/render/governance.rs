//! Who has agreed, and what stands in the way: approvals, freezes, pins.

use std::collections::BTreeSet;

use proto::api;

use crate::render::table::table;
use crate::render::text::{
    clean, cut, or_dash, plural, revision, shell_word, short, thousands, timestamp,
};
use crate::render::{Look, Tone};

/// Characters of a reason in a column; -o wide cuts none.
const REASON_WIDTH: usize = 60;

/// What `muster approve` stored, and what is still missing for a start with that plan.
pub fn approved(family: &str, answer: &api::RevisionSummary, look: &Look) -> String {
    let what = what(family, answer);
    // The answer lists every approval; the one that was just given is the newest.
    let given = answer.given.iter().max_by_key(|given| given.at_ms);
    // Servers that know refuse it; older ones store an approval that nobody asks for.
    let Some(given) = given.filter(|_| answer.approvals > 0) else {
        return format!(
            "{what} needs no approvals: muster rollout start {family} --revision {}\n",
            answer.number
        );
    };
    let with: BTreeSet<&str> = answer
        .given
        .iter()
        .filter(|other| (&other.plan, &other.plan_hash) == (&given.plan, &given.plan_hash))
        .map(|other| other.by.as_str())
        .collect();
    let found = u64::try_from(with.len()).unwrap_or(u64::MAX);
    let people: Vec<String> = with.into_iter().map(clean).collect();
    let missing = u64::from(answer.approvals).saturating_sub(found);
    let follows = match missing {
        0 => {
            let plan = with_plan(&given.plan);
            let start = format!(
                "muster rollout start {family} --revision {}{plan}",
                answer.number
            );
            look.paint(Tone::Good, &format!("enough: {start}"))
        }
        missing => look.paint(Tone::Moving, &format!("{missing} still missing")),
    };
    format!(
        "{what} approved with {}\n{found} of {} ({}); {follows}\n",
        plan_words(&given.plan),
        plural(answer.approvals.into(), "approval"),
        people.join(", ")
    )
}

/// What `muster reject` stored.
pub fn rejected(family: &str, answer: &api::RevisionSummary, look: &Look) -> String {
    let what = what(family, answer);
    let why = clean(&answer.rejected);
    let colon = if why.is_empty() { "" } else { ": " };
    format!(
        "{what} {}{colon}{why}\nno rollout of it can be started any more\n",
        look.paint(Tone::Bad, "rejected")
    )
}

/// The approvals of a revision, `1/2`; who gave them with which plan is told by [`given`].
pub fn tally(approvals: u32, given: &[api::Approval]) -> String {
    let people: BTreeSet<&str> = given.iter().map(|given| given.by.as_str()).collect();
    match (approvals, people.len()) {
        (0, 0) => "-".to_owned(),
        (needed, found) => format!("{found}/{needed}"),
    }
}

/// One line for each approval: who, with which plan, when, why.
pub fn given(given: &[api::Approval], look: &Look) -> Vec<String> {
    let line = |given: &api::Approval| {
        let reason = match clean(&given.reason) {
            reason if reason.is_empty() => reason,
            reason => format!(": {reason}"),
        };
        format!(
            "{} with {}, {} ago{reason}",
            or_dash(&given.by),
            plan_words(&given.plan),
            look.age(given.at_ms)
        )
    };
    given.iter().map(line).collect()
}

/// `--plan careful`, with a space before it; nothing for the default plan.
pub fn with_plan(plan: &str) -> String {
    match plan {
        "" | "default" => String::new(),
        plan => format!(" --plan {}", shell_word(plan)),
    }
}

/// The table of `freeze list`.
pub fn freezes(answer: &api::ListFreezesResponse, past: bool, look: &Look) -> String {
    if answer.freezes.is_empty() {
        return if past {
            "no freezes\n".to_owned()
        } else {
            "no freeze holds or is to come; `muster freeze list --past` shows those that are over\n"
                .to_owned()
        };
    }
    table(
        &["NAME", "STATE", "FROM", "UNTIL", "FAMILIES", "BY", "REASON"],
        answer.freezes.iter().map(|freeze| {
            let tone = window_tone(&freeze.state);
            vec![
                clean(&freeze.name).into(),
                look.cell(tone, &clean(&freeze.state)),
                timestamp(freeze.from_ms).into(),
                timestamp(freeze.until_ms).into(),
                families(&freeze.families).into(),
                or_dash(&freeze.created_by).into(),
                reason(&freeze.reason, look).into(),
            ]
        }),
    )
}

/// One freeze in a line, after it was set or ended.
pub fn freeze(freeze: &api::Freeze, look: &Look) -> String {
    let name = clean(&freeze.name);
    if freeze.state == "over" {
        return format!("freeze {name} is over\n");
    }
    let about = match freeze.families.as_slice() {
        [] => "all families".to_owned(),
        some => families(some),
    };
    format!(
        "freeze {name} {} from {} until {}: no wave of {about} starts\n",
        look.paint(window_tone(&freeze.state), &clean(&freeze.state)),
        timestamp(freeze.from_ms),
        timestamp(freeze.until_ms)
    )
}

/// The table of `pin list`.
pub fn pins(answer: &api::ListPinsResponse, look: &Look) -> String {
    if answer.pins.is_empty() {
        return "no pins\n".to_owned();
    }
    table(
        &[
            "NAME", "FAMILY", "HELD", "AT", ">AGENTS", "STATE", "UNTIL", "OWNER", "REASON",
        ],
        answer.pins.iter().map(|pin| {
            vec![
                clean(&pin.name).into(),
                clean(&pin.family).into(),
                held(pin, look).into(),
                revision(pin.revision).into(),
                thousands(pin.agents).into(),
                look.cell(window_tone(&pin.state), &clean(&pin.state)),
                timestamp(pin.until_ms).into(),
                or_dash(&pin.owner).into(),
                reason(&pin.reason, look).into(),
            ]
        }),
    )
}

/// One pin in a line, after it was set.
pub fn pin(pin: &api::Pin, look: &Look) -> String {
    format!(
        "pin {} holds {} at {} {} until {}, now {}\n",
        clean(&pin.name),
        held(pin, look),
        clean(&pin.family),
        revision(pin.revision),
        timestamp(pin.until_ms),
        plural(pin.agents, "agent")
    )
}

/// A pin that was removed.
pub fn unpinned(pin: &api::Pin, _: &Look) -> String {
    format!(
        "pin {} removed; its agents follow family {}\n",
        clean(&pin.name),
        clean(&pin.family)
    )
}

fn what(family: &str, answer: &api::RevisionSummary) -> String {
    let (family, hash) = (clean(family), short(&answer.hash));
    format!("{family} {} ({hash})", revision(answer.number))
}

fn plan_words(plan: &str) -> String {
    match plan {
        "" | "default" => "the default plan".to_owned(),
        plan => format!("plan {}", clean(plan)),
    }
}

fn held(pin: &api::Pin, look: &Look) -> String {
    if pin.agent.is_empty() {
        format!("`{}`", clean(&pin.selector))
    } else if look.wide {
        clean(&pin.agent)
    } else {
        look.names.of(&pin.agent)
    }
}

fn families(families: &[String]) -> String {
    match families {
        [] => "all".to_owned(),
        some => clean(&some.join(", ")),
    }
}

fn reason(reason: &str, look: &Look) -> String {
    let reason = or_dash(reason);
    if look.wide {
        reason
    } else {
        cut(&reason, REASON_WIDTH)
    }
}

fn window_tone(state: &str) -> Tone {
    match state {
        "holds" => Tone::Moving,
        "over" => Tone::Quiet,
        _ => Tone::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn approval(by: &str, plan: &str, at_ms: u64) -> api::Approval {
        api::Approval {
            by: by.into(),
            plan: plan.into(),
            at_ms,
            ..Default::default()
        }
    }

    fn summary(approvals: u32, given: Vec<api::Approval>) -> api::RevisionSummary {
        api::RevisionSummary {
            number: 4,
            hash: "0123456789abcdef".into(),
            approvals,
            given,
            ..Default::default()
        }
    }

    #[test]
    fn approval_says_what_was_approved_and_how_many_are_missing() {
        let one = summary(2, vec![approval("alice", "careful", 5)]);
        assert_eq!(
            approved("pii", &one, &Look::default()),
            "pii r4 (0123456789ab) approved with plan careful\n1 of 2 approvals (alice); 1 still missing\n"
        );
    }

    #[test]
    fn where_no_approval_is_needed_that_is_said() {
        for given in [vec![], vec![approval("alice", "careful", 5)]] {
            assert_eq!(
                approved("pii", &summary(0, given), &Look::default()),
                "pii r4 (0123456789ab) needs no approvals: muster rollout start pii --revision 4\n"
            );
        }
    }

    #[test]
    fn approvals_with_another_plan_do_not_count() {
        let given = vec![
            approval("alice", "", 1),
            approval("bob", "careful", 2),
            approval("carol", "careful", 3),
        ];
        let text = approved("pii", &summary(2, given), &Look::default());
        assert!(
            text.ends_with("2 of 2 approvals (bob, carol); enough: muster rollout start pii --revision 4 --plan careful\n"),
            "{text}"
        );
    }

    #[test]
    fn rejection_says_by_whom_and_what_follows() {
        let answer = api::RevisionSummary {
            rejected: "bob: drops the audit pipeline".into(),
            ..summary(0, vec![])
        };
        assert_eq!(
            rejected("pii", &answer, &Look::default()),
            "pii r4 (0123456789ab) rejected: bob: drops the audit pipeline\nno rollout of it can be started any more\n"
        );
    }

    #[test]
    fn tally_counts_people_once() {
        let twice = [approval("alice", "", 1), approval("alice", "careful", 2)];
        assert_eq!(tally(2, &twice), "1/2");
        assert_eq!(tally(0, &[]), "-");
        let look = Look {
            now_ms: 60_002,
            ..Default::default()
        };
        assert_eq!(
            given(&twice, &look),
            [
                "alice with the default plan, 1m ago",
                "alice with plan careful, 1m ago"
            ]
        );
    }

    fn window() -> api::Freeze {
        api::Freeze {
            name: "sales".into(),
            reason: "r".repeat(100),
            from_ms: 1_788_264_000_000,
            until_ms: 1_788_271_320_000,
            created_by: "alice".into(),
            state: "holds".into(),
            ..Default::default()
        }
    }

    #[test]
    fn freeze_says_what_does_not_start_and_until_when() {
        let some = api::Freeze {
            families: vec!["web".into(), "db".into()],
            ..window()
        };
        assert_eq!(
            freeze(&some, &Look::default()),
            "freeze sales holds from 2026-09-01T12:00:00Z until 2026-09-01T14:02:00Z: no wave of web, db starts\n"
        );
        let over = api::Freeze {
            state: "over".into(),
            ..window()
        };
        assert_eq!(freeze(&over, &Look::default()), "freeze sales is over\n");
    }

    #[test]
    fn freezes_stand_in_a_table_and_none_is_said() {
        let answer = api::ListFreezesResponse {
            freezes: vec![window()],
        };
        let text = freezes(&answer, false, &Look::default());
        assert!(
            text.lines().nth(1).unwrap().starts_with(
                "sales   holds   2026-09-01T12:00:00Z   2026-09-01T14:02:00Z   all        alice   rrr"
            ),
            "{text}"
        );
        assert!(text.ends_with("r…\n"), "{text}");
        let none = api::ListFreezesResponse::default();
        assert!(freezes(&none, false, &Look::default()).contains("--past"));
        assert_eq!(freezes(&none, true, &Look::default()), "no freezes\n");
    }

    #[test]
    fn pin_names_its_agent_or_its_selector() {
        let one = api::Pin {
            name: "legacy".into(),
            family: "web".into(),
            agent: "u1".into(),
            revision: 3,
            owner: "edge".into(),
            reason: "old kernel".into(),
            until_ms: 1_788_271_320_000,
            state: "holds".into(),
            agents: 1,
            ..Default::default()
        };
        let many = api::Pin {
            agent: String::new(),
            selector: "env = lab".into(),
            agents: 12,
            ..one.clone()
        };
        let mut look = Look::default();
        look.names.learn("u1".into(), "web-7".into());
        assert_eq!(
            pin(&one, &look),
            "pin legacy holds web-7 (…u1) at web r3 until 2026-09-01T14:02:00Z, now 1 agent\n"
        );
        assert_eq!(
            unpinned(&one, &look),
            "pin legacy removed; its agents follow family web\n"
        );
        let text = pins(
            &api::ListPinsResponse {
                pins: vec![one, many],
            },
            &look,
        );
        assert_eq!(
            text,
            "\
NAME     FAMILY   HELD          AT   AGENTS   STATE   UNTIL                  OWNER   REASON
legacy   web      web-7 (…u1)   r3        1   holds   2026-09-01T14:02:00Z   edge    old kernel
legacy   web      `env = lab`   r3       12   holds   2026-09-01T14:02:00Z   edge    old kernel
"
        );
        assert_eq!(pins(&api::ListPinsResponse::default(), &look), "no pins\n");
    }
}
