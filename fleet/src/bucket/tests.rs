//! Where a member stands, case by case.

use super::*;

fn converged() -> Sighting<'static> {
    let goal = Digest::of("test", &[b"goal"]);
    Sighting {
        presence: Presence::Connected,
        unchanged: false,
        open: true,
        touched: true,
        covered: false,
        taken_back: false,
        fresh: true,
        excluded: None,
        pinned: false,
        since: Epoch(10),
        refused: None,
        reports_status: true,
        target: Some(goal),
        goal: Some(goal),
        offer: Some((goal, State::Applied, "")),
        offered_by: Epoch(11),
        reported: Some((goal, Reported::Applied)),
        healthy: true,
        health_age_ms: 1000,
        was_healthy: true,
        contradicts: false,
        proves: true,
        flow_lost: false,
    }
}

#[test]
fn converged_needs_every_sign() {
    let all = converged();
    assert_eq!(bucket(&all), Bucket::Converged);
    assert_eq!(
        bucket(&Sighting {
            healthy: false,
            ..all.clone()
        }),
        Bucket::Soaking
    );
    assert_eq!(
        bucket(&Sighting {
            contradicts: true,
            ..all.clone()
        }),
        Bucket::Soaking
    );
    assert_eq!(
        bucket(&Sighting {
            reported: None,
            ..all.clone()
        }),
        Bucket::Soaking
    );
    assert_eq!(
        bucket(&Sighting {
            presence: Presence::Lost,
            ..all
        }),
        Bucket::Failed(Failure::Vanished)
    );
}

#[test]
fn thirty_seconds_unhealthy_fail_only_who_was_healthy() {
    let sick = Sighting {
        healthy: false,
        health_age_ms: UNHEALTHY_AFTER_MS,
        ..converged()
    };
    assert_eq!(bucket(&sick), Bucket::Failed(Failure::Unhealthy));
    assert_eq!(
        bucket(&Sighting {
            was_healthy: false,
            ..sick
        }),
        Bucket::WasUnhealthy
    );
}

#[test]
fn silent_before_its_offer_is_not_failed() {
    let asleep = Sighting {
        presence: Presence::Lost,
        touched: false,
        offer: None,
        ..converged()
    };
    assert_eq!(bucket(&asleep), Bucket::NotReached);
    assert_eq!(
        bucket(&Sighting {
            presence: Presence::Left,
            ..asleep
        }),
        Bucket::Left
    );
}

#[test]
fn an_agent_without_statuses_is_proven_by_its_effective_config_or_named() {
    let goal = converged().goal.unwrap();
    let mute = Sighting {
        reports_status: false,
        offer: Some((goal, State::NoAnswer, "")),
        reported: None,
        ..converged()
    };
    assert_eq!(bucket(&mute), Bucket::Converged);
    let silent = Sighting {
        fresh: false,
        ..mute.clone()
    };
    assert_eq!(bucket(&silent), Bucket::Soaking, "not heard for a while");
    assert_eq!(
        bucket(&Sighting {
            proves: false,
            ..mute
        }),
        Bucket::Unverifiable
    );
}

#[test]
fn who_was_never_offered_it_is_not_touched_by_a_rollback() {
    let untouched = Sighting {
        covered: true,
        touched: false,
        offer: None,
        ..converged()
    };
    assert_eq!(bucket(&untouched), Bucket::Waiting);
}

#[test]
fn a_member_has_returned_only_when_its_turn_to_go_back_has_come() {
    let covered = Sighting {
        covered: true,
        ..converged()
    };
    assert_eq!(bucket(&covered), Bucket::Converged);
    assert_eq!(
        bucket(&Sighting {
            taken_back: true,
            ..covered
        }),
        Bucket::Returned
    );
}

#[test]
fn a_member_without_flow_has_failed_and_a_pinned_one_is_named() {
    let mute = Sighting {
        flow_lost: true,
        ..converged()
    };
    assert_eq!(bucket(&mute), Bucket::Failed(Failure::FlowLost));
    let pinned = Sighting {
        pinned: true,
        touched: false,
        ..converged()
    };
    assert_eq!(bucket(&pinned), Bucket::Pinned);
    assert!(Bucket::Pinned.is_named_exception());
    assert!(!Bucket::Failed(Failure::Crashed).is_named_exception());
}

#[test]
fn who_failed_under_the_rollout_that_this_one_replaces_has_failed_and_who_failed_earlier_refuses() {
    let goal = converged().goal.unwrap();
    // The replaced rollout has offered it: this one has not touched it.
    let inherited = |state, by| {
        bucket(&Sighting {
            touched: false,
            offer: Some((goal, state, "unknown key")),
            offered_by: Epoch(by),
            refused: Some((Epoch(by), Failure::Rejected)),
            ..converged()
        })
    };
    let rejected = Bucket::Failed(Failure::Rejected);
    assert_eq!(inherited(State::Failed, 10), rejected);
    assert_eq!(inherited(State::Failed, 9), Bucket::Refused);
    let silent = Bucket::Failed(Failure::NoAnswer);
    assert_eq!(inherited(State::NoAnswer, 10), silent);
    assert_eq!(inherited(State::NoAnswer, 9), Bucket::Refused);
    // Something else was delivered to it since.
    let since = |by| {
        bucket(&Sighting {
            touched: false,
            offer: Some((Digest::of("test", &[b"other"]), State::Applied, "")),
            refused: Some((Epoch(by), Failure::Crashed)),
            ..converged()
        })
    };
    assert_eq!(since(10), Bucket::Failed(Failure::Crashed));
    assert_eq!(since(9), Bucket::Refused);
}

#[test]
fn every_bucket_has_one_word_and_one_place() {
    let names: std::collections::BTreeSet<_> = ALL.iter().map(|bucket| bucket.name()).collect();
    assert_eq!(names.len(), ALL.len());
}

#[test]
fn keeping_what_it_has_while_the_rollout_stands_still_is_no_convergence() {
    let before = Sighting {
        touched: false,
        target: Some(Digest::of("test", &[b"target"])),
        ..converged()
    };
    assert_eq!(bucket(&before), Bucket::PendingPickup);
}

#[test]
fn old_evidence_does_not_converge() {
    assert_eq!(
        bucket(&Sighting {
            fresh: false,
            ..converged()
        }),
        Bucket::Soaking
    );
}

#[test]
fn every_bucket_is_counted_at_its_place_in_the_list_of_all() {
    for (at, bucket) in ALL.iter().enumerate() {
        let mut counts = Counts::default();
        counts.add(*bucket);
        let expected: Vec<u64> = (0..ALL.len()).map(|i| u64::from(i == at)).collect();
        assert_eq!(counts.by_bucket(), expected, "{}", bucket.name());
    }
}

#[test]
fn whether_it_was_heard_lately_is_found_as_if_each_had_been_asked_for() {
    let (goal, other) = (converged().goal, Digest::of("test", &[b"other"]));
    let presences = [
        Presence::Connected,
        Presence::Lost,
        Presence::Left,
        Presence::Deleted,
    ];
    let states = [
        State::Offered,
        State::Applying,
        State::Applied,
        State::Failed,
        State::RolledBackByAgent,
        State::NoAnswer,
        State::Withdrawn,
    ];
    for bits in (0..1 << 16u32).step_by(7) {
        let bit = |at: u32| bits >> at & 1 == 1;
        for (presence, state) in presences.iter().flat_map(|p| states.map(|s| (*p, s))) {
            let seen = Sighting {
                presence,
                unchanged: bit(1),
                open: bit(2),
                touched: bit(3),
                covered: bit(4),
                taken_back: bit(5),
                excluded: bit(6).then_some(Exclusion::Stopped),
                pinned: bit(7),
                refused: bit(8).then_some((Epoch(1), Failure::NoAnswer)),
                reports_status: bit(9),
                target: if bit(0) { goal } else { Some(other) },
                offer: goal.filter(|_| bit(10)).map(|hash| (hash, state, "")),
                healthy: bit(11),
                health_age_ms: if bit(12) { 0 } else { UNHEALTHY_AFTER_MS },
                was_healthy: bit(13),
                contradicts: bit(14),
                proves: bit(15),
                ..converged()
            };
            let heard = |fresh| {
                bucket(&Sighting {
                    fresh,
                    ..seen.clone()
                })
            };
            assert_eq!(buckets(&seen), (heard(true), heard(false)), "{seen:?}");
        }
    }
}

#[test]
fn who_falls_silent_with_nothing_sent_to_it_is_not_reached_and_has_not_failed() {
    let silent = |state| {
        bucket(&Sighting {
            presence: Presence::Lost,
            offer: converged()
                .offer
                .map(|(hash, _, error)| (hash, state, error)),
            ..converged()
        })
    };
    assert_eq!(silent(State::Withdrawn), Bucket::NotReached);
    assert_eq!(silent(State::Offered), Bucket::Failed(Failure::Vanished));
}

#[test]
fn what_was_offered_before_a_resume_and_failed_after_it_has_failed() {
    let goal = converged().goal.unwrap();
    let failed = Sighting {
        touched: false,
        offer: Some((goal, State::Failed, "unknown key")),
        offered_by: Epoch(9),
        refused: Some((Epoch(12), Failure::Rejected)),
        ..converged()
    };
    assert_eq!(bucket(&failed), Bucket::Failed(Failure::Rejected));
}
