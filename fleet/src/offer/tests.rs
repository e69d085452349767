//! One offer, case by case.

use super::*;

fn hash(n: u8) -> Digest {
    Digest::of("test", &[&[n]])
}

fn situation(desired: u8, last: Option<(u8, State)>) -> Situation<'static> {
    Situation {
        desired: Some(hash(desired)),
        offerable: true,
        has_room: true,
        last: last.map(|(n, state)| Offer {
            hash: hash(n),
            state,
            grants: 1,
            age_ms: 0,
        }),
        reported: None,
        refused: &[],
        accepts: true,
        many_collectors: false,
        duplicate: false,
        doubt: Doubt::None,
        changes_owner: false,
        proves_not_received: false,
    }
}

#[test]
fn an_unanswered_offer_is_not_repeated() {
    for state in [State::Offered, State::Applying] {
        assert_eq!(
            decide(&situation(1, Some((1, state)))),
            Decision::Nothing(Why::Outstanding)
        );
    }
}

#[test]
fn a_failed_config_is_not_offered_again() {
    for state in [State::Failed, State::RolledBackByAgent] {
        assert_eq!(
            decide(&situation(1, Some((1, state)))),
            Decision::Nothing(Why::Settled)
        );
    }
    let refused = [hash(1)];
    let after_another = Situation {
        refused: &refused,
        ..situation(1, Some((2, State::Applied)))
    };
    assert_eq!(decide(&after_another), Decision::Nothing(Why::Refused));
}

#[test]
fn no_answer_is_repeated_once_and_only_on_proof() {
    let silent = situation(1, Some((1, State::NoAnswer)));
    assert_eq!(decide(&silent), Decision::Nothing(Why::Settled));
    let proven = Situation {
        proves_not_received: true,
        ..silent
    };
    assert_eq!(decide(&proven), Decision::Offer(hash(1)));
    let twice = Situation {
        last: proven.last.map(|last| Offer { grants: 2, ..last }),
        ..proven
    };
    assert_eq!(decide(&twice), Decision::Nothing(Why::Settled));
}

#[test]
fn nothing_is_sent_while_its_rollout_stands_still() {
    for last in [None, Some((1, State::Withdrawn)), Some((2, State::Applied))] {
        let still = Situation {
            offerable: false,
            ..situation(1, last)
        };
        assert_eq!(decide(&still), Decision::Nothing(Why::StandsStill));
    }
}

#[test]
fn nothing_is_sent_beyond_the_quota() {
    let full = Situation {
        has_room: false,
        ..situation(1, None)
    };
    assert_eq!(decide(&full), Decision::Nothing(Why::NoRoom));
    let runs = Situation {
        reported: Some((hash(1), Reported::Applied)),
        ..full
    };
    assert_eq!(decide(&runs), Decision::Adopt(hash(1)));
}

#[test]
fn going_back_is_offered_while_the_new_config_is_under_way() {
    for state in [
        State::Offered,
        State::Applying,
        State::NoAnswer,
        State::Withdrawn,
    ] {
        let s = Situation {
            reported: Some((hash(1), Reported::Applied)),
            ..situation(1, Some((2, state)))
        };
        assert_eq!(decide(&s), Decision::Offer(hash(1)), "{state:?}");
    }
}

#[test]
fn another_hash_proves_nothing() {
    let last = Offer {
        hash: hash(1),
        state: State::Offered,
        grants: 1,
        age_ms: 0,
    };
    for reported in [
        Reported::Unset,
        Reported::Applying,
        Reported::Applied,
        Reported::Failed,
    ] {
        assert_eq!(on_report(&last, hash(2), reported, false), None);
    }
}

#[test]
fn applied_after_failed_stays_failed() {
    let last = Offer {
        hash: hash(1),
        state: State::Failed,
        grants: 1,
        age_ms: 0,
    };
    assert_eq!(on_report(&last, hash(1), Reported::Applied, false), None);
    assert_eq!(
        on_report(&last, hash(2), Reported::Applied, false),
        Some(State::RolledBackByAgent)
    );
}

#[test]
fn an_agent_that_was_applying_it_and_runs_another_has_gone_back() {
    let offer = |state| Offer {
        hash: hash(1),
        state,
        grants: 1,
        age_ms: 0,
    };
    let runs_another = |state| on_report(&offer(state), hash(2), Reported::Applied, false);
    assert_eq!(
        runs_another(State::Applying),
        Some(State::RolledBackByAgent)
    );
    let first = on_report(&offer(State::Applying), hash(2), Reported::Applied, true);
    assert_eq!(first, None, "it may be a clone that tells of its own");
    assert_eq!(runs_another(State::Offered), None, "it may not have it yet");
}

#[test]
fn an_agent_that_runs_it_already_is_sent_nothing() {
    let runs = Situation {
        reported: Some((hash(1), Reported::Applied)),
        ..situation(1, None)
    };
    assert_eq!(decide(&runs), Decision::Adopt(hash(1)));
}

#[test]
fn only_an_able_single_agent_is_sent_anything() {
    let s = situation(1, None);
    assert_eq!(decide(&s), Decision::Offer(hash(1)));
    assert_eq!(
        decide(&Situation {
            accepts: false,
            ..s.clone()
        }),
        Decision::Nothing(Why::DoesNotAccept)
    );
    assert_eq!(
        decide(&Situation {
            many_collectors: true,
            ..s.clone()
        }),
        Decision::Nothing(Why::ManyCollectors)
    );
    assert_eq!(
        decide(&Situation {
            duplicate: true,
            ..s
        }),
        Decision::Nothing(Why::Duplicate)
    );
}

#[test]
fn the_same_config_of_another_owner_is_adopted_and_not_sent() {
    let moved = Situation {
        changes_owner: true,
        ..situation(1, Some((1, State::Applied)))
    };
    assert_eq!(decide(&moved), Decision::Adopt(hash(1)));
    let held = Situation {
        offerable: false,
        ..moved
    };
    assert_eq!(decide(&held), Decision::Nothing(Why::Settled));
}

#[test]
fn nothing_is_sent_after_a_restore_before_the_agent_has_said_what_it_runs() {
    for last in [None, Some((2, State::Applied)), Some((1, State::Withdrawn))] {
        let unheard = Situation {
            doubt: Doubt::Unheard,
            ..situation(1, last)
        };
        assert_eq!(decide(&unheard), Decision::Nothing(Why::Unheard));
    }
}

#[test]
fn an_agent_in_conflict_is_left_alone_until_it_runs_what_it_should() {
    let conflict = Situation {
        doubt: Doubt::Conflict(hash(3)),
        reported: Some((hash(3), Reported::Applied)),
        ..situation(1, Some((2, State::Applied)))
    };
    assert_eq!(decide(&conflict), Decision::Nothing(Why::Conflict));
    // A person has made what it runs the newest revision again.
    let again = Situation {
        desired: Some(hash(3)),
        ..conflict
    };
    assert_eq!(decide(&again), Decision::Adopt(hash(3)));
}
