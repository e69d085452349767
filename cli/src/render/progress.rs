//! A rollout as a log: lines for what changed since the last look, nothing where nothing changed.

use proto::api::{ErrorGroup, Rollout, WaveRollout};

use crate::render::Look;
use crate::render::counts::words;
use crate::render::rollout::{change, error};
use crate::render::text::{clean, plural};

/// What changed from `before` to `now`; all that matters where there is no `before`.
pub fn lines(before: Option<&Rollout>, now: &Rollout) -> Vec<String> {
    let mut lines = Vec::new();
    if before.is_none_or(|before| (&before.state, &before.cause) != (&now.state, &now.cause)) {
        lines.push(state(now));
    }
    if !now.rolling_back.is_empty()
        && before.is_none_or(|before| before.rolling_back != now.rolling_back)
    {
        lines.push(format!("rolling back: {}", clean(&now.rolling_back)));
    }
    for role in &now.roles {
        for wave in role
            .waves
            .iter()
            .filter(|wave| differs(before, &role.role, wave))
        {
            lines.push(figures(&role.role, wave));
        }
    }
    if before.is_none_or(|before| before.waiting != now.waiting) {
        lines.extend(
            now.waiting
                .iter()
                .map(|what| format!("waits for {}", clean(what))),
        );
    }
    let known = |group: &ErrorGroup| {
        before.is_some_and(|before| {
            before
                .errors
                .iter()
                .any(|old| (&old.kind, &old.error) == (&group.kind, &group.error))
        })
    };
    lines.extend(
        now.errors
            .iter()
            .filter(|group| !known(group))
            .map(|group| format!("error: {}", error(group))),
    );
    lines
}

fn state(now: &Rollout) -> String {
    let cause = if now.cause.is_empty() {
        String::new()
    } else {
        format!(": {}", clean(&now.cause))
    };
    format!(
        "{} {} {}{cause}",
        clean(&now.family),
        change(now),
        clean(&now.state)
    )
}

fn figures(role: &str, wave: &WaveRollout) -> String {
    let counts = wave.counts.unwrap_or_default();
    let verdict = if wave.verdict.is_empty() {
        String::new()
    } else {
        format!(" (gate: {})", clean(&wave.verdict))
    };
    let (number, agents) = (wave.number, plural(wave.agents, "agent"));
    format!(
        "{} wave {number} {}, {agents}: {}{verdict}",
        clean(role),
        clean(&wave.state),
        words(&counts, &Look::default())
    )
}

/// A wave that has not begun is no news, and neither is the time it has soaked.
fn differs(before: Option<&Rollout>, role: &str, now: &WaveRollout) -> bool {
    let old = before
        .and_then(|before| before.roles.iter().find(|old| old.role == role))
        .and_then(|old| old.waves.iter().find(|old| old.number == now.number));
    match old {
        Some(old) => (&old.state, &old.counts) != (&now.state, &now.counts),
        None => now.state != "waiting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::frame::tests::running;

    #[test]
    fn first_look_tells_all_but_what_has_not_begun() {
        assert_eq!(
            lines(None, &running()),
            [
                "pii r3 → r4 running",
                "agent wave 1 passed, 1 agent: 1 converged",
                "agent wave 2 in flight, 99 agents: 49 converged, 49 applying, 1 rejected (gate: inconclusive: 50 of 99 answered)",
                "waits for 49 agents of wave 2 to answer",
                "error: 1 agent rejected: unknown key `foo`, e.g. web-7",
            ]
        );
    }

    #[test]
    fn nothing_is_said_where_nothing_changed() {
        let mut soaked = running();
        soaked.roles[0].waves[1].soaked_ms += 1_000;
        assert_eq!(lines(Some(&running()), &soaked), Vec::<String>::new());
    }

    #[test]
    fn change_is_said_alone() {
        let halted = Rollout {
            state: "halted".into(),
            cause: "2 failures in wave 2".into(),
            ..running()
        };
        assert_eq!(
            lines(Some(&running()), &halted),
            ["pii r3 → r4 halted: 2 failures in wave 2"]
        );
    }

    #[test]
    fn error_that_more_agents_have_is_no_new_error() {
        let mut more = running();
        more.errors[0].agents = 5;
        assert!(lines(Some(&running()), &more).is_empty());
    }
}
