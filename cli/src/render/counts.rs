//! The figures of a rollout by name and kind. Every figure has a name here, so none can go missing from a screen.

use proto::api::Counts;

use crate::render::text::thousands;
use crate::render::{Look, Tone};

/// What a figure means for the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Where it should be.
    Good,
    /// On its way.
    Moving,
    /// Failed, by one of its kinds.
    Failed,
    /// Counted apart: a named exception.
    Apart,
    /// Its wave has not begun.
    Waiting,
}

/// All figures, in the order in which they are shown.
pub fn figures(counts: &Counts) -> [(u64, &'static str, Kind); 22] {
    let &Counts {
        members: _,
        waiting,
        pending_pickup,
        applying,
        soaking,
        converged,
        unchanged,
        rejected,
        crashed,
        rolled_back_by_agent,
        unhealthy,
        was_unhealthy,
        no_answer,
        vanished,
        not_reached,
        unverifiable,
        left,
        deleted,
        refused,
        excluded,
        returned,
        pinned,
        flow_lost,
    } = counts;
    [
        (converged, "converged", Kind::Good),
        (unchanged, "unchanged", Kind::Good),
        (returned, "returned", Kind::Good),
        (soaking, "soaking", Kind::Moving),
        (applying, "applying", Kind::Moving),
        (pending_pickup, "pending pickup", Kind::Moving),
        (rejected, "rejected", Kind::Failed),
        (crashed, "crashed", Kind::Failed),
        (
            rolled_back_by_agent,
            "rolled back by the agent",
            Kind::Failed,
        ),
        (unhealthy, "unhealthy", Kind::Failed),
        (no_answer, "no answer", Kind::Failed),
        (vanished, "vanished", Kind::Failed),
        (flow_lost, "flow lost", Kind::Failed),
        (was_unhealthy, "was unhealthy", Kind::Apart),
        (not_reached, "not reached", Kind::Apart),
        (unverifiable, "unverifiable", Kind::Apart),
        (refused, "refused", Kind::Apart),
        (excluded, "excluded", Kind::Apart),
        (pinned, "pinned", Kind::Apart),
        (left, "left", Kind::Apart),
        (deleted, "deleted", Kind::Apart),
        (waiting, "waiting", Kind::Waiting),
    ]
}

/// The sum of the figures of one kind.
pub fn sum(counts: &Counts, kind: Kind) -> u64 {
    figures(counts)
        .iter()
        .filter(|(_, _, of)| *of == kind)
        .map(|(number, _, _)| number)
        .sum()
}

/// `47 converged, 12 applying, 1 rejected`; what is zero is left out.
pub fn words(counts: &Counts, look: &Look) -> String {
    let named: Vec<String> = figures(counts)
        .into_iter()
        .filter(|(number, _, _)| *number > 0)
        .map(|(number, name, kind)| {
            look.paint(tone(kind), &format!("{} {name}", thousands(number)))
        })
        .collect();
    if named.is_empty() {
        "no members".to_owned()
    } else {
        named.join(", ")
    }
}

/// A bar of `width` characters. A kind with at least one agent has at least one character, failures first of all.
pub fn bar(counts: &Counts, width: usize, look: &Look) -> String {
    let kinds = [
        (Kind::Failed, '!'),
        (Kind::Good, '█'),
        (Kind::Apart, '·'),
        (Kind::Moving, '▒'),
        (Kind::Waiting, '░'),
    ];
    let total: u64 = kinds.iter().map(|(kind, _)| sum(counts, *kind)).sum();
    if total == 0 {
        return "░".repeat(width);
    }
    let mut cells: Vec<usize> = kinds
        .iter()
        .map(|(kind, _)| share(sum(counts, *kind), total, width))
        .collect();
    // Rounding up has made it too long, or down too short: the largest part gives or takes.
    while cells.iter().sum::<usize>() != width {
        let too_long = cells.iter().sum::<usize>() > width;
        let Some(largest) = cells.iter_mut().max() else {
            break;
        };
        *largest = if too_long {
            largest.saturating_sub(1)
        } else {
            *largest + 1
        };
    }
    let part = |index: usize| {
        let (kind, mark) = kinds[index];
        look.paint(tone(kind), &mark.to_string().repeat(cells[index]))
    };
    [1, 2, 0, 3, 4].map(part).concat()
}

fn share(number: u64, total: u64, width: usize) -> usize {
    let exact = u128::from(number) * width as u128 / u128::from(total);
    let cells = usize::try_from(exact).unwrap_or(width);
    if number > 0 { cells.max(1) } else { 0 }
}

fn tone(kind: Kind) -> Tone {
    match kind {
        Kind::Good => Tone::Good,
        Kind::Moving => Tone::Moving,
        Kind::Failed => Tone::Bad,
        Kind::Apart | Kind::Waiting => Tone::Quiet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_add_up_to_the_members() {
        let counts = Counts {
            members: 9,
            converged: 4,
            applying: 3,
            rejected: 1,
            left: 1,
            ..Default::default()
        };
        assert_eq!(
            figures(&counts).iter().map(|(n, _, _)| n).sum::<u64>(),
            counts.members
        );
    }

    #[test]
    fn words_name_what_is_there_and_only_that() {
        let counts = Counts {
            converged: 9_400,
            applying: 12,
            rejected: 1,
            ..Default::default()
        };
        assert_eq!(
            words(&counts, &Look::default()),
            "9,400 converged, 12 applying, 1 rejected"
        );
        assert_eq!(words(&Counts::default(), &Look::default()), "no members");
    }

    #[test]
    fn one_failure_among_thousands_is_seen_in_the_bar() {
        let counts = Counts {
            converged: 9_000,
            rejected: 1,
            waiting: 1_000,
            ..Default::default()
        };
        let bar = bar(&counts, 20, &Look::default());
        assert_eq!(bar, format!("{}!{}", "█".repeat(18), "░"));
    }

    #[test]
    fn bar_has_its_width_whatever_the_figures() {
        for counts in [
            Counts::default(),
            Counts {
                converged: 1,
                rejected: 1,
                left: 1,
                applying: 1,
                waiting: 1,
                ..Default::default()
            },
            Counts {
                converged: u64::MAX / 8,
                applying: 3,
                ..Default::default()
            },
        ] {
            assert_eq!(bar(&counts, 10, &Look::default()).chars().count(), 10);
        }
    }
}
