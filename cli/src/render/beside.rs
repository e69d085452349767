//! What is told of a rollout besides its figures: why it is here, who answers for it, what its checks say, how long it
//! took.

use proto::api::{CheckAnswer, Debt, Rollout, WaveRollout, Window};

use crate::render::governance::with_plan;
use crate::render::text::{age, clean, plural, revision, timestamp};
use crate::render::{Look, Tone};

/// Longest time that is told in seconds.
const SECONDS_MAX_MS: u64 = 120_000;

/// Where it comes from: before its figures.
pub fn origin(rollout: &Rollout, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    if rollout.back {
        let to = revision(rollout.to);
        lines.push(format!("goes back to {to}, an earlier revision"));
    }
    if !rollout.supersedes.is_empty() {
        lines.push(format!("replaces rollout {}", clean(&rollout.supersedes)));
    }
    lines.extend(
        rollout
            .debt
            .as_ref()
            .map(|debt| debt_words(rollout, debt, look)),
    );
    lines
}

/// What is left to say after its figures.
pub fn account(rollout: &Rollout, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    if rollout.late > 0 {
        let agents = plural(rollout.late, "agent");
        lines.push(format!(
            "late: {agents} joined since, outside of these figures"
        ));
    }
    lines.extend(rollout.window.as_ref().and_then(|w| window(w, look)));
    lines.extend(way_on(rollout));
    if matches!(rollout.state.as_str(), "planned" | "awaiting approval") {
        lines.extend(rollout.schedule.iter().map(|line| clean(line)));
    }
    lines
}

/// The command that takes a rollout out of the state in which it waits for approvals.
pub fn way_on(rollout: &Rollout) -> Option<String> {
    (rollout.state == "awaiting approval").then(|| {
        let plan = with_plan(&rollout.plan);
        format!(
            "it starts once somebody else approves it: muster approve {} --revision {}{plan}",
            clean(&rollout.family),
            rollout.to
        )
    })
}

/// `p50 12 s, p99 31 s, last agent 40 s on web-7`; nothing where nobody has converged.
pub fn window(window: &Window, look: &Look) -> Option<String> {
    if window.converged == 0 {
        return None;
    }
    let last = match window.last.as_str() {
        "" => String::new(),
        uid => format!(" on {}", look.names.of(uid)),
    };
    let open = match window.open {
        0 => String::new(),
        open => format!("; {} not converged", plural(open, "agent")),
    };
    Some(format!(
        "converged after: p50 {}, p99 {}, last agent {}{last}{open}",
        took(window.p50_ms),
        took(window.p99_ms),
        took(window.last_ms)
    ))
}

/// What every gate looks at unless its plan says otherwise.
const ORDINARY: [&str; 3] = ["converged", "healthy", "no restart loop"];

/// The checks of a wave that is under way: what its plan asks besides, and the ordinary ones where they do not pass.
pub fn checks(wave: &WaveRollout, look: &Look) -> Vec<String> {
    if !matches!(wave.state.as_str(), "in flight" | "soaking" | "stopped") {
        return Vec::new();
    }
    let is_told = |c: &&CheckAnswer| c.answer != "pass" || !ORDINARY.contains(&c.check.as_str());
    let told = wave.checks.iter().filter(is_told);
    told.map(|c| check(c, look)).collect()
}

fn check(check: &CheckAnswer, look: &Look) -> String {
    let tone = match check.answer.split(':').next() {
        Some("pass") => Tone::Good,
        Some("fail") if !check.observe => Tone::Bad,
        _ => Tone::Moving,
    };
    let observed = if check.observe {
        " (only observed)"
    } else {
        ""
    };
    let answer = look.paint(tone, &clean(&check.answer));
    format!("check {}{observed}: {answer}", clean(&check.check))
}

fn debt_words(rollout: &Rollout, debt: &Debt, look: &Look) -> String {
    let missing = match clean(&debt.missing) {
        missing if missing.is_empty() => missing,
        missing => format!(" ({missing})"),
    };
    let started = format!(
        "started without approvals by {}: {}{missing}",
        clean(&debt.actor),
        clean(&debt.reason)
    );
    if debt.reviewed_ms == 0 && debt.reviewed_by.is_empty() {
        let id = clean(&rollout.id);
        let owed = format!("review is owed: muster rollout review {id} --note TEXT");
        return format!("{started}; {}", look.paint(Tone::Bad, &owed));
    }
    let note = match clean(&debt.note) {
        note if note.is_empty() => note,
        note => format!(": {note}"),
    };
    let (by, at) = (clean(&debt.reviewed_by), timestamp(debt.reviewed_ms));
    format!("{started}; reviewed by {by} at {at}{note}")
}

fn took(ms: u64) -> String {
    if ms < SECONDS_MAX_MS {
        format!("{} s", ms.div_ceil(1000))
    } else {
        age(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::frame::{frame, tests::running};
    use crate::render::rollout::detail;

    #[test]
    fn window_names_the_last_agent() {
        let converged = Window {
            p50_ms: 11_500,
            p99_ms: 31_000,
            last_ms: 40_000,
            converged: 98,
            open: 2,
            last: "u7".into(),
        };
        let mut look = Look::default();
        look.names.learn("u7".into(), "web-7".into());
        assert_eq!(
            window(&converged, &look).unwrap(),
            "converged after: p50 12 s, p99 31 s, last agent 40 s on web-7 (…u7); 2 agents not converged"
        );
        assert_eq!(window(&Window::default(), &look), None);
        assert_eq!(took(7_200_000), "2h");
    }

    #[test]
    fn rollout_tells_where_it_comes_from_and_who_joined_late() {
        let rollout = Rollout {
            back: true,
            supersedes: "r0".into(),
            late: 3,
            ..running()
        };
        let text = frame(&rollout, &Look::default());
        assert!(
            text.contains("\n  goes back to r4, an earlier revision\n  replaces rollout r0\n"),
            "{text}"
        );
        assert!(
            text.contains("\n  late: 3 agents joined since, outside of these figures\n"),
            "{text}"
        );
    }

    #[test]
    fn debt_is_owed_until_somebody_has_reviewed_it() {
        let debt = Debt {
            actor: "alice".into(),
            reason: "cards leak".into(),
            missing: "0 of 1 approvals".into(),
            ..Default::default()
        };
        let owed = Rollout {
            debt: Some(debt.clone()),
            ..running()
        };
        assert_eq!(
            origin(&owed, &Look::default()),
            [
                "started without approvals by alice: cards leak (0 of 1 approvals); review is owed: muster rollout review r1 --note TEXT"
            ]
        );
        let paid = Rollout {
            debt: Some(Debt {
                reviewed_by: "bob".into(),
                reviewed_ms: 1_788_271_320_000,
                note: "fine".into(),
                ..debt
            }),
            ..running()
        };
        assert!(
            origin(&paid, &Look::default())[0]
                .ends_with("; reviewed by bob at 2026-09-01T14:02:00Z: fine")
        );
    }

    #[test]
    fn rollout_that_awaits_approval_names_the_command_and_its_schedule() {
        let waiting = Rollout {
            state: "awaiting approval".into(),
            schedule: vec!["1. agent wave 1/1: 1 agent".into()],
            ..running()
        };
        let text = detail(&waiting, &Look::default());
        assert!(
            text.contains("muster approve pii --revision 4 --plan careful\n"),
            "{text}"
        );
        assert!(text.contains("\n  1. agent wave 1/1: 1 agent\n"), "{text}");
        let runs = Rollout {
            schedule: waiting.schedule,
            ..running()
        };
        assert!(!detail(&runs, &Look::default()).contains("wave 1/1"));
        assert_eq!(way_on(&runs), None);
    }

    #[test]
    fn ordinary_checks_are_told_where_they_do_not_pass_and_others_always() {
        let answer = |check: &str, observe, answer: &str| CheckAnswer {
            check: check.into(),
            observe,
            answer: answer.into(),
        };
        let mut rollout = running();
        let wave = &mut rollout.roles[0].waves[1];
        wave.checks = vec![answer("converged", false, "pass")];
        assert!(checks(wave, &Look::default()).is_empty());
        wave.checks
            .push(answer("healthy", false, "fail: 2 are not"));
        wave.checks.push(answer("promql up", false, "pass"));
        wave.checks.push(answer("flow", true, "fail: 3 are silent"));
        wave.checks.push(answer(
            "platform",
            false,
            "inconclusive: platform has not answered",
        ));
        assert_eq!(
            checks(wave, &Look::default()),
            [
                "check healthy: fail: 2 are not",
                "check promql up: pass",
                "check flow (only observed): fail: 3 are silent",
                "check platform: inconclusive: platform has not answered",
            ]
        );
        let passed = WaveRollout {
            state: "passed".into(),
            ..wave.clone()
        };
        assert!(checks(&passed, &Look::default()).is_empty());
        assert!(frame(&rollout, &Look::default()).contains("\n           check promql up: pass\n"));
    }
}
