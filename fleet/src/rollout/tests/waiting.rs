//! What a rollout waits for, when it pauses, and when it is complete.

use super::*;

#[test]
fn members_on_their_way_count_towards_the_pause_only_when_outcomes_stop_coming() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.inconclusive_ms = 0;
    let observed = seen("agent", vec![counts(&[(Bucket::Applying, 1)])]);
    for _ in 0..10 {
        let next = plan(&r, &observed, 60_000);
        assert_eq!(next.inconclusive_ms, 0, "an offer inside its timeout");
        r.apply(&next);
    }
    let mut minutes = 0;
    while r.state == State::Running {
        let next = plan(&r, &observed, 60_000);
        r.apply(&next);
        minutes += 1;
    }
    assert_eq!((r.state, minutes), (State::Paused, 15));
}

#[test]
fn a_wave_that_misses_its_deadline_pauses() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.plan.waves[0].deadline_ms = Some(120_000);
    r.roles[0].clock.open_ms = 119_500;
    let observed = seen("agent", vec![counts(&[(Bucket::Applying, 1)])]);
    let why = "agent wave 1 has not passed within its 2m";
    assert_eq!(
        plan(&r, &observed, 500).steps,
        [Step::Pause { why: why.into() }]
    );
}

#[test]
fn no_wave_starts_during_a_freeze_and_the_soak_is_kept() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.roles[0].soaked_ms = 60_000;
    let mut observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
    observed.freeze = Some("black-friday".into());
    let next = plan(&r, &observed, 1_000);
    assert_eq!((next.steps.len(), next.inconclusive_ms), (0, 0));
    assert_eq!(next.soaked_ms["agent"], 60_000, "no more than it has to be");
    assert!(next.waiting[0].to_string().contains("black-friday"));
    observed.freeze = None;
    assert_eq!(plan(&r, &observed, 0).steps.len(), 1);
}

fn last_wave(of: &[(Bucket, u64)]) -> (Rollout, Observed) {
    let mut last = role("agent", &[], &[1, 100], 2);
    last.done = true;
    let waves = vec![counts(&[(Bucket::Converged, 1)]), counts(of)];
    (rollout(vec![last]), seen("agent", waves))
}

#[test]
fn ninety_nine_percent_pass_the_wave_and_do_not_complete_the_rollout() {
    let (r, observed) = last_wave(&[(Bucket::Converged, 98), (Bucket::Soaking, 1)]);
    let next = plan(&r, &observed, 1_000);
    assert_eq!(next.steps, []);
    let rest = Waiting::Rest {
        in_flight: 1,
        failed: 0,
    };
    assert_eq!(next.waiting, [rest]);
}

#[test]
fn named_exceptions_complete_and_failures_wait_for_a_person_who_accepts_them() {
    let (r, observed) = last_wave(&[(Bucket::Converged, 62), (Bucket::NotReached, 37)]);
    assert_eq!(plan(&r, &observed, 1_000).steps, [Step::Complete]);
    let (mut r, mut observed) = last_wave(&[
        (Bucket::Converged, 998),
        (Bucket::Failed(Failure::Rejected), 1),
    ]);
    let next = plan(&r, &observed, 1_000);
    assert_eq!((next.steps.len(), next.inconclusive_ms), (0, 1_000));
    r.inconclusive_ms = INCONCLUSIVE_MS_MAX;
    let next = plan(&r, &observed, 1_000);
    r.apply(&next);
    assert_eq!(r.state, State::Paused);
    assert!(r.resume(&observed, "accepted").is_some());
    assert_eq!(plan(&r, &observed, 1_000).steps, [Step::Complete]);
    observed.evidence_age_ms = None;
    assert_eq!(plan(&r, &observed, 1_000).steps, []);
}

#[test]
fn a_rollout_that_stands_still_waits_for_a_person() {
    let said = |state| {
        let mut r = rollout(vec![role("agent", &[], &[1], 0)]);
        r.state = state;
        let next = plan(&r, &Observed::default(), 1_000);
        let said: Vec<_> = next.waiting.iter().map(Waiting::to_string).collect();
        said.join("; ")
    };
    assert_eq!(said(State::Paused), "a person: resume, halt or roll back");
    assert_eq!(said(State::Halted), "a person: resume or roll back");
    assert_eq!(said(State::AwaitingApproval), "a person: approve");
    assert_eq!(said(State::Completed), "");
}

#[test]
fn the_answers_of_a_gate_are_shown_check_by_check() {
    let r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    let mut observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
    let loops = Signs {
        restart_loops: 1,
        unhealthy: 1,
    };
    observed.signs.insert("agent".into(), vec![loops]);
    let answers = |observed: &Observed| -> Vec<String> {
        let answers = r.answers(&r.roles[0], 0, observed).into_iter();
        answers
            .map(|(spec, answer)| format!("{}: {answer}", spec.check))
            .collect()
    };
    assert_eq!(
        answers(&observed),
        [
            "converged: pass",
            "healthy: inconclusive: 0 of 1 needed are healthy",
            "no restart loop: fail: 1 collectors restart again and again",
        ]
    );
    observed.evidence_age_ms = Some(EVIDENCE_AGE_MS_MAX + 1);
    let old = "converged: inconclusive: what is known of the members is too old";
    assert_eq!(answers(&observed)[0], old);
}

#[test]
fn a_failed_external_check_stops_the_newest_wave() {
    let query = Check::PromQl("errors < 1".into());
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.plan.waves[0]
        .gate
        .checks
        .push(CheckSpec::gate(query.clone()));
    let mut observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
    let found = Finding {
        check: query,
        answer: Answer::Fail("7 errors".into()),
        age_ms: 0,
    };
    observed.findings.insert(("agent".into(), 0), vec![found]);
    let next = plan(&r, &observed, 1_000);
    let stopped = r.apply(&next);
    assert_eq!(
        stopped[0].cause,
        "agent wave 1: check promql `errors < 1` failed: 7 errors"
    );
    let Step::Stop { cause, .. } = &next.steps[0] else {
        panic!("it has to stop");
    };
    assert_eq!((cause.name(), cause.failure()), ("promql", None));
}

#[test]
fn members_that_arrive_after_the_last_wave_has_passed_do_not_count_towards_the_pause() {
    let (mut r, _) = last_wave(&[]);
    for arrived in 0..40 {
        let rest = [
            (Bucket::Converged, 59 + arrived),
            (Bucket::Applying, 40 - arrived),
        ];
        let (_, observed) = last_wave(&rest);
        let next = plan(&r, &observed, 60_000);
        assert_eq!(next.inconclusive_ms, 0, "{arrived} have arrived");
        r.apply(&next);
    }
    // From here on nobody does.
    let (_, stuck) = last_wave(&[(Bucket::Converged, 98), (Bucket::Applying, 1)]);
    assert_eq!(
        super::gates::minutes_until_it_stands(&mut r, &stuck),
        10 + 15
    );
}

#[test]
fn a_member_that_comes_and_goes_does_not_keep_a_wave_from_its_pause() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    let mut looks = 0;
    while r.state == State::Running && looks < 1_000 {
        let now = [Bucket::Converged, Bucket::Soaking][looks % 2];
        let observed = seen("agent", vec![counts(&[(now, 1)])]);
        // Shorter than the soak.
        let next = plan(&r, &observed, 40_000);
        let opens = |step: &Step| matches!(step, Step::OpenWave { .. });
        assert!(!next.steps.iter().any(opens));
        r.apply(&next);
        looks += 1;
    }
    assert_eq!(r.state, State::Paused);
}

#[test]
fn a_wave_that_soaks_when_its_deadline_is_over_pauses() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.plan.waves[0].deadline_ms = Some(120_000);
    r.roles[0].clock.open_ms = 119_500;
    let observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
    assert!(matches!(
        plan(&r, &observed, 500).steps[..],
        [Step::Pause { .. }]
    ));
    // Soaked, it has passed, though something else keeps the next one.
    r.roles[0].soaked_ms = 60_000;
    let frozen = Observed {
        freeze: Some("black-friday".into()),
        ..observed
    };
    assert_eq!(plan(&r, &frozen, 500).steps, []);
}

#[test]
fn who_wakes_up_or_is_retried_in_numbers_and_converges_one_by_one_does_not_pause_the_rollout() {
    for before in [Bucket::NotReached, Bucket::Failed(Failure::NoAnswer)] {
        let mut r = rollout(vec![role("agent", &[], &[1_000, 2_000], 1)]);
        // Nobody counts failures here.
        r.plan.waves[0].gate.max_failures = Some(Size::Count(1_000));
        let wave = |of: &[(Bucket, u64)]| seen("agent", vec![counts(of)]);
        let next = plan(&r, &wave(&[(Bucket::Converged, 600), (before, 400)]), 500);
        r.apply(&next);
        for converged in 600..640 {
            let now = [
                (Bucket::Converged, converged),
                (Bucket::PendingPickup, 1_000 - converged),
            ];
            let next = plan(&r, &wave(&now), 60_000);
            r.apply(&next);
        }
        assert_eq!(r.state, State::Running, "{before:?}");
    }
}
