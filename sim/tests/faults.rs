//! Would the checker notice? One mistake at a time is made on purpose, and has to be found, by the invariant that is
//! about it. The same worlds without it are sound.

use sim::fault::Fault;
use sim::invariants::Invariant;
use sim::trouble::Theme;
use sim::world::{Plan, run};

/// So many worlds at most.
const SEEDS: u64 = 100;

fn is_caught_by(fault: Fault, theme: Theme, invariant: Invariant) {
    let themed = |seed| Plan {
        theme,
        ..Plan::of(seed)
    };
    is_caught_in(themed, fault, invariant);
}

fn is_caught_in(world: impl Fn(u64) -> Plan, fault: Fault, invariant: Invariant) {
    for seed in 0..SEEDS {
        let plan = world(seed);
        let fault = Some(fault);
        let Some(broken) = run(Plan { fault, ..plan }).broken else {
            continue;
        };
        println!("{fault:?}, seed {seed}: {broken}");
        assert_eq!(broken.invariant, invariant, "seed {seed}: {broken}");
        let sound = run(plan).broken;
        assert!(sound.is_none(), "seed {seed} without a mistake: {sound:?}");
        return;
    }
    panic!("{fault:?} was not caught in {SEEDS} worlds");
}

#[test]
fn a_vote_that_is_not_synced_is_caught() {
    is_caught_by(Fault::VoteNotSynced, Theme::Nodes, Invariant::Vote);
}

#[test]
fn an_empty_disk_under_an_old_id_is_caught() {
    is_caught_by(Fault::IdReused, Theme::Nodes, Invariant::Vote);
}

#[test]
fn an_acknowledgement_before_the_flush_is_caught() {
    is_caught_by(Fault::AckBeforeFlush, Theme::Nodes, Invariant::Acknowledged);
}

#[test]
fn state_without_its_index_is_caught() {
    is_caught_by(Fault::ApplyWithoutIndex, Theme::Nodes, Invariant::SameState);
}

#[test]
fn a_fence_that_is_forgotten_is_caught() {
    is_caught_by(
        Fault::FenceForgotten,
        Theme::Leaders,
        Invariant::StandsStill,
    );
}

/// In worlds in which agents are relabelled and spoken of.
fn of_owners_is_caught(fault: Fault) {
    let owners = |seed| Plan {
        owners: true,
        theme: Theme::Everything,
        ..Plan::of(seed)
    };
    is_caught_in(owners, fault, Invariant::Owner);
}

#[test]
fn a_claim_that_counts_as_a_persons_word_is_caught() {
    of_owners_is_caught(Fault::OwnerByClaim);
}

#[test]
fn a_word_that_does_not_go_before_older_lists_is_caught() {
    of_owners_is_caught(Fault::WordWithoutEpoch);
}

#[test]
fn a_controller_that_forgets_what_it_gave_is_caught() {
    let limited = |seed| Plan {
        in_work: 2,
        theme: Theme::Leaders,
        ..Plan::of(seed)
    };
    is_caught_in(limited, Fault::GivenForgotten, Invariant::Budget);
}

#[test]
fn offers_by_mismatch_of_hashes_are_caught() {
    // Where agents change hands, the books of owners may find it first.
    let settled = |seed| Plan {
        owners: false,
        theme: Theme::Everything,
        ..Plan::of(seed)
    };
    is_caught_in(settled, Fault::OfferByMismatch, Invariant::OfferedOnce);
}
