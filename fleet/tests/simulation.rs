//! Random fleets, failures, kills and operators; after each event the invariants of the design hold.
//!
//! `MUSTER_SIM_SEED=n` repeats one run; `MUSTER_SIM_SECONDS=n` runs for so long (default 5). A failure prints its seed.
//! Invariant 5 (no needless request for full state) is about messages, which the domain does not have.

#[path = "simulation/chaos.rs"]
mod chaos;
#[path = "simulation/invariants.rs"]
mod invariants;
#[path = "simulation/ownership.rs"]
mod ownership;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/room.rs"]
mod room;
#[allow(dead_code, reason = "each test reads a part of the world")]
mod world;

use std::time::{Duration, Instant};

use chaos::Chaos;
use invariants::Checker;

/// Ticks of trouble in one run, and ticks to settle afterwards.
const TROUBLE: u64 = 900;
const SETTLE: u64 = 400;

/// Says by which seed a panic can be repeated.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with MUSTER_SIM_SEED={}", self.0);
        }
    }
}

#[test]
fn invariants_hold_after_each_event_whatever_happens() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("MUSTER_SIM_SEED") {
        run(seed);
        return;
    }
    let seconds = Duration::from_secs(number("MUSTER_SIM_SECONDS").unwrap_or(5));
    let begun = now();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // Each thread has seeds of its own, so that a seed means the same fleet on every machine.
    let several = |first: u64| {
        let (mut seeds, mut total) = (0, Total::default());
        while begun.elapsed() < seconds {
            total.add(&run(first + seeds * at_once));
            seeds += 1;
        }
        (seeds, total)
    };
    let (mut seeds, mut total) = (0, Total::default());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once)
            .map(|first| scope.spawn(move || several(first)))
            .collect();
        for thread in threads {
            let (ran, seen) = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            seeds += ran;
            total.add(&seen);
        }
    });
    println!("{seeds} fleets: {total:?}");
    assert!(total.completed > 0 && total.rolled_back > 0, "{total:?}");
    let happened = [
        total.inherited,
        total.taken,
        total.given_back,
        total.left_where_put,
        total.granted,
        total.kept_from_a_list,
        total.words_taken_back,
        total.by_policy,
        total.limited,
        total.limited_in_the_dark,
        total.limited_by_waves,
        total.full_waves,
        total.quotas_late,
        total.quotas_stale,
        total.counts_late,
        total.counts_refused,
    ];
    // Each happens several times in so many fleets; a slow machine may not get so far.
    let many = seeds >= 40;
    assert!(
        !many || happened.iter().all(|times| *times > 0),
        "{total:?}"
    );
}

#[expect(
    clippy::disallowed_methods,
    reason = "bounds the test, decides nothing"
)]
fn now() -> Instant {
    Instant::now()
}

/// What a simulation has seen: a run in which nothing happens proves nothing.
#[derive(Debug, Default)]
struct Total {
    ticks: u64,
    offers: u64,
    started: u64,
    completed: u64,
    rolled_back: u64,
    stopped: u64,
    superseded: u64,
    /// By tick: members that failed under the rollout that theirs replaces.
    inherited: u64,
    taken: u64,
    on_two_lists: u64,
    given_back: u64,
    left_where_put: u64,
    granted: u64,
    kept_from_a_list: u64,
    words_taken_back: u64,
    by_policy: u64,
    limited: u64,
    limited_in_the_dark: u64,
    beside_a_way_back: u64,
    limited_by_waves: u64,
    full_waves: u64,
    quotas_late: u64,
    quotas_stale: u64,
    counts_late: u64,
    counts_refused: u64,
}

impl Total {
    fn add(&mut self, other: &Total) {
        self.ticks += other.ticks;
        self.offers += other.offers;
        self.started += other.started;
        self.completed += other.completed;
        self.rolled_back += other.rolled_back;
        self.stopped += other.stopped;
        self.superseded += other.superseded;
        self.inherited += other.inherited;
        self.taken += other.taken;
        self.on_two_lists += other.on_two_lists;
        self.given_back += other.given_back;
        self.left_where_put += other.left_where_put;
        self.granted += other.granted;
        self.kept_from_a_list += other.kept_from_a_list;
        self.words_taken_back += other.words_taken_back;
        self.by_policy += other.by_policy;
        self.limited += other.limited;
        self.limited_in_the_dark += other.limited_in_the_dark;
        self.beside_a_way_back += other.beside_a_way_back;
        self.limited_by_waves += other.limited_by_waves;
        self.full_waves += other.full_waves;
        self.quotas_late += other.quotas_late;
        self.quotas_stale += other.quotas_stale;
        self.counts_late += other.counts_late;
        self.counts_refused += other.counts_refused;
    }
}

fn run(seed: u64) -> Total {
    let guard = Seed(seed);
    let mut chaos = Chaos::new(seed);
    let mut checker = Checker::default();
    let mut total = Total::default();
    for tick in 0..TROUBLE + SETTLE {
        match tick {
            ..TROUBLE => chaos.trouble(),
            TROUBLE => chaos.calm(),
            _ => {}
        }
        chaos.world.tick();
        if let Err(broken) = checker.check(&mut chaos.world, &mut total) {
            panic!("seed {seed}, tick {tick}: {broken}");
        }
    }
    checker
        .settled(&chaos.world)
        .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    total.ticks += TROUBLE + SETTLE;
    let heard = &chaos.world.rooms.heard;
    total.quotas_late += heard.late;
    total.quotas_stale += heard.stale;
    total.counts_late += heard.counts;
    total.counts_refused += heard.old_counts;
    drop(guard);
    total
}
