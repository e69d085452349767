//! A rollout as a log: lines for what changed since the last look, nothing where nothing changed.

use proto::api::{ErrorGroup, Rollout, WaveRollout};

use crate::render::Look;
use crate::render::beside::{way_on, window};
use crate::render::counts::words;
use crate::render::rollout::{change, error, other_waits, remark};
use crate::render::text::{age, clean, plural};

/// What changed from `before` to `now`; all that matters where there is no `before`.
pub fn lines(before: Option<&Rollout>, now: &Rollout, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    if before.is_none_or(|before| (&before.state, &before.cause) != (&now.state, &now.cause)) {
        lines.push(state(now));
        lines.extend(way_on(now));
    }
    // Told once: before the end its figures change with each agent.
    if now.ended_ms != 0 && before.is_none_or(|before| before.ended_ms == 0) {
        lines.extend(now.window.as_ref().and_then(|took| window(took, look)));
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
    let told: Vec<String> = before
        .map(other_waits)
        .unwrap_or_default()
        .iter()
        .map(kind)
        .collect();
    let waits = other_waits(now).into_iter();
    lines.extend(
        waits
            .filter(|what| !told.contains(&kind(what)))
            .map(|what| format!("waits for {}", clean(what))),
    );
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
            .map(|group| format!("error: {}", error(group, usize::MAX, look))),
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
    let soak = if wave.state == "soaking" && wave.soak_ms > 0 {
        format!(" for {}", age(wave.soak_ms))
    } else {
        String::new()
    };
    let remark = remark(wave).map(|(_, verdict)| format!(" (gate: {verdict})"));
    let (number, agents) = (wave.number, plural(wave.agents, "agent"));
    format!(
        "{} wave {number} {}{soak}, {agents}: {}{}",
        clean(role),
        clean(&wave.state),
        words(&counts, &Look::default()),
        remark.unwrap_or_default()
    )
}

/// What is waited for, whatever its figures: a countdown is no news.
fn kind(what: &&str) -> String {
    what.chars().filter(|c| !c.is_ascii_digit()).collect()
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
            lines(None, &running(), &Look::default()),
            [
                "pii r3 → r4 running",
                "agent wave 1 passed, 1 agent: 1 converged",
                "agent wave 2 in flight, 99 agents: 49 converged, 49 applying, 1 rejected",
                "waits for gateway, which goes before edge",
                "error: 1 agent rejected: unknown key `foo`, e.g. web-7",
            ]
        );
    }

    #[test]
    fn nothing_is_said_where_nothing_changed() {
        let mut soaked = running();
        soaked.roles[0].waves[1].soaked_ms += 1_000;
        soaked.waiting[0] = "agent wave 2: 50 of 99 needed have converged, 48 on their way".into();
        assert_eq!(
            lines(Some(&running()), &soaked, &Look::default()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn countdown_is_no_news() {
        let waits = |what: &str| Rollout {
            waiting: vec![what.into()],
            ..running()
        };
        let two = waits("agent: 2 have not gone back yet");
        let one = waits("agent: 1 have not gone back yet");
        assert!(lines(Some(&two), &one, &Look::default()).is_empty());
        let person = waits("a person: resume");
        assert_eq!(
            lines(Some(&one), &person, &Look::default()),
            ["waits for a person: resume"]
        );
    }

    #[test]
    fn soak_tells_its_length_once() {
        let mut soaking = running();
        let wave = &mut soaking.roles[0].waves[1];
        wave.state = "soaking".into();
        wave.verdict = "pass".into();
        wave.soak_ms = 600_000;
        let told = lines(Some(&running()), &soaking, &Look::default());
        assert_eq!(told.len(), 1);
        assert!(
            told[0].starts_with("agent wave 2 soaking for 10m, 99 agents: "),
            "{told:?}"
        );
    }

    #[test]
    fn change_is_said_alone() {
        let halted = Rollout {
            state: "halted".into(),
            cause: "2 failures in wave 2".into(),
            ..running()
        };
        assert_eq!(
            lines(Some(&running()), &halted, &Look::default()),
            ["pii r3 → r4 halted: 2 failures in wave 2"]
        );
    }

    #[test]
    fn wait_for_approval_tells_the_way_on_and_an_end_how_long_it_took() {
        let waiting = Rollout {
            state: "awaiting approval".into(),
            ..running()
        };
        let told = lines(Some(&running()), &waiting, &Look::default());
        assert_eq!(told[0], "pii r3 → r4 awaiting approval");
        assert!(told[1].ends_with("muster approve pii --revision 4 --plan careful"));
        let ended = Rollout {
            state: "completed".into(),
            ended_ms: 120_000,
            window: Some(proto::api::Window {
                p50_ms: 1_000,
                p99_ms: 2_000,
                last_ms: 3_000,
                converged: 1_000,
                ..Default::default()
            }),
            ..running()
        };
        assert_eq!(
            lines(Some(&running()), &ended, &Look::default()),
            [
                "pii r3 → r4 completed",
                "converged after: p50 1 s, p99 2 s, last agent 3 s"
            ]
        );
        assert!(lines(Some(&ended), &ended, &Look::default()).is_empty());
    }

    #[test]
    fn error_that_more_agents_have_is_no_new_error() {
        let mut more = running();
        more.errors[0].agents = 5;
        assert!(lines(Some(&running()), &more, &Look::default()).is_empty());
    }
}
