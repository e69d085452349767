//! A rollout at rest: the list, and one in full.

use comfy_table::Cell;
use proto::api::{ErrorGroup, ListRolloutsResponse, Rollout, WaveRollout};

use crate::render::counts::{Kind, sum};
use crate::render::table::table;
use crate::render::text::{age, clean, cut, or_dash, plural, revision, thousands, timestamp};
use crate::render::{Look, Tone, frame};

/// The table of `rollout list`.
pub fn list(answer: &ListRolloutsResponse, look: &Look) -> String {
    if answer.rollouts.is_empty() {
        return "no rollouts; start one: muster rollout start FAMILY\n".to_owned();
    }
    let debts = answer.rollouts.iter().any(|rollout| rollout.debt.is_some());
    let mut headers = vec![
        "ID",
        "FAMILY",
        "REVISION",
        "PLAN",
        "STATE",
        ">MEMBERS",
        ">CONVERGED",
        ">FAILED",
        "STARTED",
        "BY",
    ];
    headers.extend(debts.then_some("REVIEW"));
    table(
        &headers,
        answer.rollouts.iter().map(|rollout| {
            let counts = rollout.total.unwrap_or_default();
            let mut row = vec![
                clean(&rollout.id).into(),
                clean(&rollout.family).into(),
                change(rollout).into(),
                or_dash(&rollout.plan).into(),
                look.state_cell(&rollout.state),
                thousands(counts.members).into(),
                thousands(sum(&counts, Kind::Good)).into(),
                thousands(sum(&counts, Kind::Failed)).into(),
                look.age(rollout.started_ms).into(),
                or_dash(&rollout.actor).into(),
            ];
            row.extend(debts.then(|| review(rollout, look)));
            row
        }),
    )
}

/// Whether a rollout that was started without its approvals has been reviewed since.
fn review(rollout: &Rollout, look: &Look) -> Cell {
    match &rollout.debt {
        None => Cell::new("-"),
        Some(debt) if debt.reviewed_by.is_empty() => look.cell(Tone::Bad, "owed"),
        Some(debt) => Cell::new(format!("by {}", clean(&debt.reviewed_by))),
    }
}

/// `rollout get`: the picture of `watch`, and when things happened.
pub fn detail(rollout: &Rollout, look: &Look) -> String {
    let mut text = frame::frame(rollout, look);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let mut times = vec![format!("created {}", timestamp(rollout.created_ms))];
    if rollout.started_ms != 0 {
        times.push(format!("started {}", timestamp(rollout.started_ms)));
    }
    if rollout.ended_ms != 0 {
        times.push(format!("ended {}", timestamp(rollout.ended_ms)));
        times.push(format!(
            "took {}",
            age(rollout.ended_ms.saturating_sub(rollout.started_ms))
        ));
    }
    text += &look.paint(Tone::Quiet, &times.join(", "));
    text.push('\n');
    text
}

/// `r3 → r4`; `r4` where there was nothing before.
pub fn change(rollout: &Rollout) -> String {
    match rollout.from {
        0 => revision(rollout.to),
        from => format!("{} → {}", revision(from), revision(rollout.to)),
    }
}

/// One group of equal errors in a line, the error cut after `width` characters.
pub fn error(group: &ErrorGroup, width: usize, look: &Look) -> String {
    format!(
        "{} {}: {}{}",
        plural(group.agents, "agent"),
        clean(&group.kind),
        cut(&clean(&group.error), width),
        look.names.such_as(&group.examples)
    )
}

/// The agents that a rollout's errors are shown with.
pub fn examples(rollout: &Rollout) -> impl Iterator<Item = &str> {
    let groups = rollout.errors.iter();
    let errors = groups.flat_map(|group| group.examples.iter().map(String::as_str));
    let last = rollout.window.iter().map(|window| window.last.as_str());
    errors.chain(last.filter(|uid| !uid.is_empty()))
}

/// What the open wave of a role waits for. The server's words begin with its place.
pub fn wave_waits<'a>(rollout: &'a Rollout, role: &str, number: u64) -> Option<&'a str> {
    let place = wave_place(role, number);
    let mut waiting = rollout.waiting.iter();
    waiting.find_map(|what| what.strip_prefix(&place))
}

/// What the rollout waits for besides the members of its open waves.
pub fn other_waits(rollout: &Rollout) -> Vec<&str> {
    let places: Vec<String> = rollout
        .roles
        .iter()
        .flat_map(|role| role.waves.iter().map(|w| wave_place(&role.role, w.number)))
        .collect();
    let of_a_wave = |what: &&str| places.iter().any(|place| what.starts_with(place));
    let waiting = rollout.waiting.iter().map(String::as_str);
    waiting.filter(|what| !of_a_wave(what)).collect()
}

/// What a gate says that is worth being told: that it cannot decide and will not by itself, or that it failed. That
/// members are on their way, or have arrived, is seen in the figures.
pub fn remark(wave: &WaveRollout) -> Option<(Tone, String)> {
    let counts = wave.counts.unwrap_or_default();
    let stuck = wave.state == "in flight" && sum(&counts, Kind::Moving) == 0;
    let verdict = clean(&wave.verdict);
    match verdict.split(':').next() {
        Some("fail") if wave.state != "returned" => Some((Tone::Bad, verdict)),
        Some("inconclusive") if stuck => Some((Tone::Moving, verdict)),
        _ => None,
    }
}

fn wave_place(role: &str, number: u64) -> String {
    format!("{role} wave {number}: ")
}

#[cfg(test)]
mod tests {
    use proto::api::Counts;

    use super::*;
    use crate::render::frame::tests::running;

    #[test]
    fn list_has_a_line_for_each_rollout() {
        let first = Rollout {
            from: 0,
            ..running()
        };
        let text = list(
            &ListRolloutsResponse {
                rollouts: vec![running(), first],
            },
            &Look {
                now_ms: 300_000,
                ..Default::default()
            },
        );
        assert_eq!(
            text,
            "\
ID   FAMILY   REVISION   PLAN      STATE     MEMBERS   CONVERGED   FAILED   STARTED   BY
r1   pii      r3 → r4    careful   running     1,000          50        1   4m        alice
r1   pii      r4         careful   running     1,000          50        1   4m        alice
"
        );
    }

    #[test]
    fn list_says_which_reviews_are_owed() {
        let debt = |reviewed_by: &str| {
            Some(proto::api::Debt {
                reviewed_by: reviewed_by.into(),
                ..Default::default()
            })
        };
        let with = |debt| Rollout { debt, ..running() };
        let answer = ListRolloutsResponse {
            rollouts: vec![with(debt("")), with(debt("bob")), running()],
        };
        let text = list(&answer, &Look::default());
        let ends: Vec<&str> = text
            .lines()
            .map(|line| line.rsplit("   ").next().unwrap())
            .collect();
        assert_eq!(ends, ["REVIEW", "owed", "by bob", "-"]);
    }

    #[test]
    fn last_agent_of_a_window_is_named() {
        let window = proto::api::Window {
            last: "u7".into(),
            ..Default::default()
        };
        let rollout = Rollout {
            window: Some(window),
            ..running()
        };
        assert_eq!(examples(&rollout).collect::<Vec<_>>(), ["web-7", "u7"]);
    }

    #[test]
    fn gate_is_told_where_it_failed_or_will_not_decide_by_itself() {
        let verdict = |verdict: &str, applying, converged| {
            remark(&WaveRollout {
                state: "in flight".into(),
                verdict: verdict.into(),
                counts: Some(Counts {
                    applying,
                    converged,
                    ..Default::default()
                }),
                ..Default::default()
            })
            .map(|(_, words)| words)
        };
        assert_eq!(verdict("inconclusive: 3 have to converge", 3, 0), None);
        assert_eq!(verdict("pass", 0, 3), None);
        for told in ["inconclusive: too few converged", "fail: 1 rejected"] {
            assert_eq!(verdict(told, 0, 2).as_deref(), Some(told));
            let returned = WaveRollout {
                state: "returned".into(),
                verdict: told.into(),
                ..Default::default()
            };
            assert_eq!(remark(&returned), None, "its gate is of no more interest");
        }
    }

    #[test]
    fn waits_of_a_wave_are_told_apart_from_those_of_the_rollout() {
        let mut rollout = running();
        rollout.waiting = vec![
            "agent wave 2: 1 on its way".into(),
            "a person: resume".into(),
        ];
        assert_eq!(wave_waits(&rollout, "agent", 2), Some("1 on its way"));
        assert_eq!(wave_waits(&rollout, "agent", 1), None);
        assert_eq!(other_waits(&rollout), ["a person: resume"]);
    }

    #[test]
    fn ended_rollout_tells_how_long_it_took() {
        let ended = Rollout {
            ended_ms: 60_000 + 7_200_000,
            ..running()
        };
        assert!(
            detail(&ended, &Look::default()).ends_with("ended 1970-01-01T02:01:00Z, took 2h\n")
        );
    }
}
