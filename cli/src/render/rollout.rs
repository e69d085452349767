//! A rollout at rest: the list, and one in full.

use proto::api::{ErrorGroup, ListRolloutsResponse, Rollout};

use crate::render::counts::{Kind, sum};
use crate::render::table::table;
use crate::render::text::{age, clean, or_dash, plural, revision, such_as, thousands, timestamp};
use crate::render::{Look, Tone, frame};

/// The table of `rollout list`.
pub fn list(answer: &ListRolloutsResponse, look: &Look) -> String {
    if answer.rollouts.is_empty() {
        return "no rollouts\n".to_owned();
    }
    let headers = [
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
    table(
        &headers,
        answer.rollouts.iter().map(|rollout| {
            let counts = rollout.total.unwrap_or_default();
            vec![
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
            ]
        }),
    )
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

/// One group of equal errors in a line.
pub fn error(group: &ErrorGroup) -> String {
    format!(
        "{} {}: {}{}",
        plural(group.agents, "agent"),
        clean(&group.kind),
        clean(&group.error),
        such_as(&group.examples)
    )
}

#[cfg(test)]
mod tests {
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
