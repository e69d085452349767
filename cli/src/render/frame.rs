//! The picture of a rollout that `watch` redraws: bars for each role and wave, what it waits for, what went wrong.

use proto::api::{Rollout, WaveRollout};

use crate::render::beside::{account, checks, origin};
use crate::render::counts::{Kind, bar, sum, words};
use crate::render::rollout::{change, error, other_waits, remark, wave_waits};
use crate::render::text::{age, clean, plural, thousands};
use crate::render::{Look, Tone};

/// Characters of a bar.
const BAR: usize = 24;
/// Groups of errors; the first are the most frequent.
const ERRORS: usize = 8;
/// Characters of an error.
const ERROR_WIDTH: usize = 160;

/// The whole picture, without a line end at its end.
pub fn frame(rollout: &Rollout, look: &Look) -> String {
    let mut lines = vec![title(rollout, look)];
    let below = |line: String| format!("  {line}");
    lines.extend(origin(rollout, look).into_iter().map(below));
    if !rollout.cause.is_empty() {
        lines.push(format!("  because: {}", clean(&rollout.cause)));
    }
    if !rollout.rolling_back.is_empty() {
        lines.push(look.paint(
            Tone::Moving,
            &format!("  rolling back: {}", clean(&rollout.rolling_back)),
        ));
    }
    if is_being_prepared(rollout) {
        lines.push("  its lists of members are being made".to_owned());
    } else {
        lines.extend(figures(rollout, look));
    }
    let waits = other_waits(rollout).into_iter();
    lines.extend(waits.map(|what| format!("  waits for {}", clean(what))));
    lines.extend(account(rollout, look).into_iter().map(below));
    if !rollout.errors.is_empty() {
        lines.push(look.paint(Tone::Title, "  errors"));
        lines.extend(
            rollout
                .errors
                .iter()
                .take(ERRORS)
                .map(|group| format!("    {}", error(group, ERROR_WIDTH, look))),
        );
        let more = rollout.errors.len().saturating_sub(ERRORS);
        if more > 0 {
            lines.push(format!("    … and {} more", plural(more as u64, "group")));
        }
    }
    lines.join("\n")
}

fn title(rollout: &Rollout, look: &Look) -> String {
    let what = format!("{} {}", clean(&rollout.family), change(rollout));
    let mut facts = vec![
        format!(
            "{}  {}",
            look.paint(Tone::Title, &what),
            look.state(&rollout.state)
        ),
        clean(&rollout.id),
    ];
    if !rollout.plan.is_empty() {
        facts.push(format!("plan {}", clean(&rollout.plan)));
    }
    if !rollout.actor.is_empty() {
        facts.push(format!("by {}", clean(&rollout.actor)));
    }
    if rollout.ended_ms != 0 {
        facts.push(format!("ended {} ago", look.age(rollout.ended_ms)));
    } else if rollout.started_ms != 0 {
        facts.push(format!("for {}", look.age(rollout.started_ms)));
    }
    facts.join("  ")
}

/// A rollout that was just started knows its members a moment later; until then every figure is 0.
fn is_being_prepared(rollout: &Rollout) -> bool {
    rollout.state == "planned" && rollout.total.unwrap_or_default().members == 0
}

fn figures(rollout: &Rollout, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    for role in &rollout.roles {
        lines.push(format!(
            "  {} {}, {}",
            clean(&role.role),
            look.state(&role.state),
            plural(role.members, "agent")
        ));
        for w in &role.waves {
            lines.extend(wave(w, wave_waits(rollout, &role.role, w.number), look));
        }
    }
    if let Some(total) = &rollout.total {
        lines.push(format!(
            "  total   {}  {}",
            bar(total, BAR, look),
            words(total, look)
        ));
    }
    lines
}

fn wave(wave: &WaveRollout, waits: Option<&str>, look: &Look) -> Vec<String> {
    let counts = wave.counts.unwrap_or_default();
    let there = format!(
        "{}/{}",
        thousands(sum(&counts, Kind::Good)),
        thousands(wave.agents)
    );
    let soak = if wave.state == "soaking" && wave.soak_ms > 0 {
        format!(" {} of {}", age(wave.soaked_ms), age(wave.soak_ms))
    } else {
        String::new()
    };
    let mut line = format!(
        "    wave {} {}  {there}  {}{soak}",
        wave.number,
        bar(&counts, BAR, look),
        look.state(&wave.state)
    );
    // Of a wave that has not begun there is nothing more to say, of one that passed no more than its exceptions.
    if sum(&counts, Kind::Waiting) < wave.agents && sum(&counts, Kind::Good) < wave.agents {
        line += &format!("  {}", words(&counts, look));
    }
    let mut lines = vec![line];
    let below = match (wave.state.as_str(), remark(wave), waits) {
        ("in flight", Some((tone, verdict)), _) => {
            Some(look.paint(tone, &format!("gate: {verdict}")))
        }
        ("in flight", None, Some(waits)) => {
            Some(look.paint(Tone::Quiet, &format!("waits: {}", clean(waits))))
        }
        _ => None,
    };
    let below = below.into_iter().chain(checks(wave, look));
    lines.extend(below.map(|text| format!("           {text}")));
    lines
}

#[cfg(test)]
pub mod tests {
    use proto::api::{Counts, ErrorGroup, RoleRollout};

    use super::*;

    pub fn running() -> Rollout {
        let passed = WaveRollout {
            number: 1,
            agents: 1,
            state: "passed".into(),
            counts: Some(Counts {
                members: 1,
                converged: 1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let second = Counts {
            members: 99,
            converged: 49,
            applying: 49,
            rejected: 1,
            ..Default::default()
        };
        let open = WaveRollout {
            number: 2,
            agents: 99,
            state: "in flight".into(),
            counts: Some(second),
            verdict: "inconclusive: 99 have to converge".into(),
            ..Default::default()
        };
        let rest = Counts {
            members: 900,
            waiting: 900,
            ..Default::default()
        };
        let waiting = WaveRollout {
            number: 3,
            agents: 900,
            state: "waiting".into(),
            counts: Some(rest),
            ..Default::default()
        };
        Rollout {
            id: "r1".into(),
            family: "pii".into(),
            from: 3,
            to: 4,
            plan: "careful".into(),
            state: "running".into(),
            actor: "alice".into(),
            roles: vec![RoleRollout {
                role: "agent".into(),
                state: "running".into(),
                members: 1_000,
                waves: vec![passed, open, waiting],
            }],
            total: Some(Counts {
                members: 1_000,
                converged: 50,
                applying: 49,
                rejected: 1,
                waiting: 900,
                ..Default::default()
            }),
            waiting: vec![
                "agent wave 2: 49 of 99 needed have converged, 49 on their way".into(),
                "gateway, which goes before edge".into(),
            ],
            started_ms: 60_000,
            created_ms: 50_000,
            errors: vec![ErrorGroup {
                kind: "rejected".into(),
                error: "unknown key `foo`".into(),
                agents: 1,
                examples: vec!["web-7".into()],
            }],
            ..Default::default()
        }
    }

    #[test]
    fn picture_shows_bars_counts_waits_and_errors() {
        let text = frame(
            &running(),
            &Look {
                now_ms: 300_000,
                ..Default::default()
            },
        );
        let expected = [
            "pii r3 → r4  running  r1  plan careful  by alice  for 4m",
            "  agent running, 1,000 agents",
            "    wave 1 ████████████████████████  1/1  passed",
            "    wave 2 ███████████!▒▒▒▒▒▒▒▒▒▒▒▒  49/99  in flight  49 converged, 49 applying, 1 rejected",
            "           waits: 49 of 99 needed have converged, 49 on their way",
            "    wave 3 ░░░░░░░░░░░░░░░░░░░░░░░░  0/900  waiting",
            "  total   █!▒░░░░░░░░░░░░░░░░░░░░░  50 converged, 49 applying, 1 rejected, 900 waiting",
            "  waits for gateway, which goes before edge",
            "  errors",
            "    1 agent rejected: unknown key `foo`, e.g. web-7",
        ];
        let lines: Vec<&str> = text.lines().collect();
        for (line, expected) in lines
            .iter()
            .zip(expected)
            .filter(|(line, _)| !line.contains("total") && !line.contains("wave 2 "))
        {
            assert_eq!(*line, expected);
        }
        assert_eq!(lines.len(), expected.len(), "{text}");
        assert!(
            lines[3].ends_with("49/99  in flight  49 converged, 49 applying, 1 rejected"),
            "{text}"
        );
    }

    #[test]
    fn rollout_without_its_lists_says_so_instead_of_zeros() {
        let mut planned = Rollout {
            state: "planned".into(),
            total: Some(Counts::default()),
            ..running()
        };
        planned.waiting.clear();
        planned.errors.clear();
        let text = frame(&planned, &Look::default());
        assert!(
            text.ends_with("\n  its lists of members are being made"),
            "{text}"
        );
    }

    #[test]
    fn halt_says_because_of_what() {
        let halted = Rollout {
            state: "halted".into(),
            cause: "1 failure in wave 1".into(),
            rolling_back: "wave 1 of agent".into(),
            ..running()
        };
        let text = frame(&halted, &Look::default());
        assert!(
            text.contains("\n  because: 1 failure in wave 1\n  rolling back: wave 1 of agent\n"),
            "{text}"
        );
    }

    #[test]
    fn soak_shows_how_far_it_is() {
        let mut rollout = running();
        rollout.roles[0].waves[1] = WaveRollout {
            state: "soaking".into(),
            soaked_ms: 180_000,
            soak_ms: 600_000,
            ..rollout.roles[0].waves[1].clone()
        };
        assert!(frame(&rollout, &Look::default()).contains("soaking 3m of 10m"));
    }
}
