//! Random worlds: whatever happens, the invariants of the design hold after each event.
//!
//! `MUSTER_SIM_SEED=n` repeats one run; `MUSTER_SIM_SECONDS=n` runs for so long (default 5), `MUSTER_SIM_WORLDS=n` runs so
//! many, `MUSTER_SIM_FROM=n` begins with this seed. A failure prints its seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sim::trouble::Theme;
use sim::world::{Plan, Report, run};

/// What happens in some worlds and not in others.
const SOMETIMES: [&str; 16] = [
    "begun",
    "passed",
    "completed",
    "halts",
    "rollbacks",
    "went back",
    "kills",
    "voters added",
    "voters removed",
    "disks lost",
    "nodes replaced",
    "power cuts that lost something",
    "relabelled",
    "kept",
    "let go",
    "zones full",
];

/// What happens in one world of ten, or less.
const SELDOM: [&str; 1] = ["taken over"];

#[test]
fn invariants_hold_after_each_event_whatever_happens() {
    let number = |name| {
        let text = std::env::var(name).ok()?;
        text.parse::<u64>().ok()
    };
    if let Some(seed) = number("MUSTER_SIM_SEED") {
        println!("{:?}", sound(seed));
        return;
    }
    let seconds = Duration::from_secs(number("MUSTER_SIM_SECONDS").unwrap_or(5));
    let (worlds, from) = (
        number("MUSTER_SIM_WORLDS"),
        number("MUSTER_SIM_FROM").unwrap_or(0),
    );
    let begun = now();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // Each thread has seeds of its own, so that a seed means the same world on every machine.
    let several = |first: u64| {
        let mut reports = vec![];
        loop {
            let next = first + reports.len() as u64 * at_once;
            let goes_on = match worlds {
                Some(worlds) => next < worlds,
                None => begun.elapsed() < seconds,
            };
            if !goes_on {
                return reports;
            }
            reports.push(sound(from + next));
            if worlds.is_some() && reports.len().is_multiple_of(50) {
                println!("seed {}: sound", from + next);
            }
        }
    };
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once)
            .map(|first| scope.spawn(move || several(first)))
            .collect();
        let ended = threads.into_iter().map(|thread| {
            let reports = thread.join();
            reports.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.flatten().collect()
    });
    let mut total: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, times) in reports.iter().flat_map(|report| &report.seen) {
        *total.entry(what).or_default() += times;
    }
    println!("{} worlds: {total:?}", reports.len());
    // A run in which nothing happens proves nothing.
    for what in ["elections", "acknowledged", "answers", "offers"] {
        assert!(total.contains_key(what), "no {what}: {total:?}");
    }
    // Each of these happens in every few worlds; a slow machine may not get so far.
    let sometimes = SOMETIMES.iter().filter(|_| reports.len() >= 20);
    let seldom = SELDOM.iter().filter(|_| reports.len() >= 100);
    for what in sometimes.chain(seldom) {
        assert!(total.contains_key(what), "no {what}: {total:?}");
    }
}

/// Whatever is asked or declared there has no excuse.
#[test]
fn in_a_calm_world_only_who_has_lost_a_message_is_asked_and_only_who_is_silent_is_declared_lost() {
    for seed in 1_000..1_010 {
        let plan = Plan {
            theme: Theme::Calm,
            ..Plan::of(seed)
        };
        let report = run(plan);
        assert!(report.broken.is_none(), "seed {seed}: {:?}", report.broken);
        let seen = |what| report.seen.get(what).copied().unwrap_or(0);
        assert!(seen("asked for full state") <= seen("lost messages"));
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    let (once, again) = (run(Plan::of(3)), run(Plan::of(3)));
    assert_eq!(once.trace, again.trace);
    assert_eq!(once.seen, again.seen);
    assert_ne!(once.trace, run(Plan::of(4)).trace);
}

/// A world without a mistake.
fn sound(seed: u64) -> Report {
    let report = run(Plan::of(seed));
    if let Some(broken) = &report.broken {
        panic!("repeat with MUSTER_SIM_SEED={seed}: {broken}");
    }
    report
}

#[expect(
    clippy::disallowed_methods,
    reason = "bounds the test, decides nothing"
)]
fn now() -> Instant {
    Instant::now()
}
