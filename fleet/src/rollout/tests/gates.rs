//! Gates and their checks.

use super::*;

fn with_checks(checks: Vec<CheckSpec>) -> WaveSpec {
    let gate = Gate {
        checks,
        ..Gate::default()
    };
    WaveSpec {
        gate,
        ..WaveSpec::default()
    }
}

fn good(findings: &[Finding]) -> WaveView<'_> {
    WaveView {
        counts: counts(&[(Bucket::Converged, 10)]),
        signs: Some(Signs::default()),
        findings,
        first: true,
        proven: false,
        forgiven: 0,
        evidence_age_ms: Some(0),
        open_ms: 0,
    }
}

fn found(check: Check, answer: Answer) -> Finding {
    Finding {
        check,
        answer,
        age_ms: 0,
    }
}

#[test]
fn a_failed_check_stops_and_one_that_observes_is_only_shown() {
    let query = Check::PromQl("up".into());
    let findings = [found(query.clone(), Answer::Fail("3 % lost".into()))];
    let converged = CheckSpec::gate(Check::Converged);
    let gates = with_checks(vec![converged.clone(), CheckSpec::gate(query.clone())]);
    let Verdict::Fail { cause } = gates.judge(&good(&findings)) else {
        panic!("it has to fail");
    };
    assert_eq!(cause.to_string(), "check promql `up` failed: 3 % lost");
    let observes = with_checks(vec![converged, CheckSpec::observe(query)]);
    assert_eq!(observes.judge(&good(&findings)), Verdict::Pass);
    let answers = observes.gate.answers(&good(&findings));
    assert_eq!(answers[1].1.to_string(), "fail: 3 % lost");
}

#[test]
fn a_check_without_evidence_never_passes_and_says_why() {
    let spec = with_checks(vec![
        CheckSpec::gate(Check::Converged),
        CheckSpec::gate(Check::Flow),
    ]);
    let why = "check flow is inconclusive: no evidence source";
    assert_eq!(
        spec.judge(&good(&[])),
        Verdict::Inconclusive {
            why: Inconclusive::NoEvidence(why.into())
        }
    );
}

#[test]
fn a_person_is_waited_for_last_and_fifteen_minutes_long() {
    let person = Check::Person("platform".into());
    let spec = with_checks(vec![
        CheckSpec::gate(Check::Converged),
        CheckSpec::gate(person.clone()),
    ]);
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.plan.waves[0] = spec.clone();
    r.roles[0].soaked_ms = 500;
    let mut observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
    let next = plan(&r, &observed, 60_000);
    assert_eq!((next.steps.len(), next.inconclusive_ms), (0, 60_000));
    assert_eq!(next.soaked_ms["agent"], 500, "the soak stands still");
    assert_eq!(
        next.waiting[0].to_string(),
        "a person: platform has to pass agent wave 1"
    );
    r.inconclusive_ms = INCONCLUSIVE_MS_MAX - 60_000;
    let next = plan(&r, &observed, 60_000);
    let why = "the gate could not decide for 15 minutes: platform has to pass agent wave 1: say `muster rollout pass` or \
               `fail`, while it stands still, too; resume when that is settled, or roll back";
    assert_eq!(next.steps, [Step::Pause { why: why.into() }]);
    // The answer comes while it is paused.
    r.apply(&next);
    let key = ("agent".to_owned(), 0);
    let said = found(person, Answer::Pass);
    observed.findings.insert(key, vec![said]);
    assert_eq!(plan(&r, &observed, 60_000).steps, []);
    assert!(r.resume(&observed, "answered").is_some());
    assert!(matches!(
        plan(&r, &observed, 1_000).steps[..],
        [Step::OpenWave { .. }]
    ));
}

#[test]
fn an_external_check_without_an_answer_pauses_after_fifteen_minutes() {
    for check in [
        Check::PromQl("up".into()),
        Check::Webhook("https://x".into()),
    ] {
        let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
        r.plan.waves[0] = with_checks(vec![
            CheckSpec::gate(Check::Converged),
            CheckSpec::gate(check.clone()),
        ]);
        let observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
        let minutes = minutes_until_it_stands(&mut r, &observed);
        assert_eq!((r.state, minutes), (State::Paused, 15), "{check}");
    }
}

/// Minutes until it does not run any more; at most a day.
pub(super) fn minutes_until_it_stands(r: &mut Rollout, observed: &Observed) -> u64 {
    let mut minutes = 0;
    while r.state == State::Running && minutes < 1_440 {
        let next = plan(r, observed, 60_000);
        r.apply(&next);
        minutes += 1;
    }
    minutes
}

#[test]
fn too_many_unreachable_members_pause_after_fifteen_minutes_beyond_the_time_of_their_own() {
    let waits = |unreachable_ms| {
        let mut r = rollout(vec![role("agent", &[], &[10, 20], 1)]);
        r.plan.waves[0].max_unreachable = Some(Size::Count(1));
        r.plan.waves[0].unreachable_ms = unreachable_ms;
        let some = counts(&[(Bucket::Converged, 8), (Bucket::NotReached, 2)]);
        let minutes = minutes_until_it_stands(&mut r, &seen("agent", vec![some]));
        (r.state, minutes)
    };
    assert_eq!(waits(0), (State::Paused, 15));
    // While that runs it is not held against the rollout; the look in which it ends is the first that counts.
    assert_eq!(waits(3_600_000), (State::Paused, 59 + 15));
}

#[test]
fn a_wave_with_nobody_to_judge_it_by_pauses_unless_it_is_the_last_of_several() {
    let asleep = counts(&[(Bucket::NotReached, 1)]);
    let proven = counts(&[(Bucket::Converged, 1)]);
    let stands = |open: u32, ends: &[u64], waves: Vec<Counts>| {
        let mut r = rollout(vec![role("agent", &[], ends, open)]);
        let minutes = minutes_until_it_stands(&mut r, &seen("agent", waves));
        (r.state, minutes)
    };
    assert_eq!(stands(1, &[1, 2], vec![asleep]), (State::Paused, 15));
    assert_eq!(stands(1, &[1], vec![asleep]), (State::Paused, 15));
    let middle = vec![proven, asleep, counts(&[(Bucket::Waiting, 1)])];
    assert_eq!(stands(2, &[1, 2, 3], middle), (State::Paused, 15));
    // The rollout is complete with one that is not reached. It is named, and converges on its return.
    let last = vec![proven, asleep];
    assert_eq!(stands(2, &[1, 2], last), (State::Completed, 1));
}

#[test]
fn a_last_wave_that_sleeps_passes_only_where_somebody_before_it_runs_the_config() {
    // The canary failed, and a person resumed in spite of it: nobody has proved anything.
    let mut r = rollout(vec![role("agent", &[], &[1, 2], 2)]);
    r.roles[0].forgiven = vec![1];
    let waves = vec![
        counts(&[(Bucket::Failed(Failure::Rejected), 1)]),
        counts(&[(Bucket::NotReached, 1)]),
    ];
    let minutes = minutes_until_it_stands(&mut r, &seen("agent", waves));
    assert_eq!((r.state, minutes), (State::Paused, 15));
}

#[test]
fn who_fails_after_a_forgiven_one_has_recovered_stops_the_rollout() {
    let mut r = rollout(vec![role("agent", &[], &[2, 10], 1)]);
    r.plan.waves = vec![WaveSpec::of(Size::Count(2), 3_600_000), WaveSpec::default()];
    r.roles[0].forgiven = vec![1];
    let one = |bucket| {
        seen(
            "agent",
            vec![counts(&[(Bucket::Converged, 1), (bucket, 1)])],
        )
    };
    let failed = one(Bucket::Failed(Failure::Rejected));
    let next = plan(&r, &failed, 1_000);
    r.apply(&next);
    assert_eq!((next.steps, &r.roles[0].forgiven[..]), (vec![], &[1][..]));
    // Without evidence nothing is taken for recovered.
    let blind = Observed {
        evidence_age_ms: None,
        ..seen("agent", vec![])
    };
    r.apply(&plan(&r, &blind, 1_000));
    assert_eq!(r.roles[0].forgiven, [1]);
    r.apply(&plan(&r, &one(Bucket::Soaking), 1_000));
    assert_eq!(r.roles[0].forgiven, [0]);
    assert!(matches!(
        plan(&r, &failed, 1_000).steps[..],
        [Step::Stop { .. }]
    ));
}

#[test]
fn the_soak_starts_anew_when_who_had_converged_falls_silent() {
    let mut r = rollout(vec![role("agent", &[], &[2, 10], 1)]);
    let mut spec = WaveSpec::of(Size::Count(2), 300_000);
    spec.gate.max_failures = Some(Size::Count(5));
    r.plan.waves = vec![spec, WaveSpec::default()];
    r.roles[0].soaked_ms = 240_000;
    let fallen = [
        (Bucket::Converged, 1),
        (Bucket::Failed(Failure::Vanished), 1),
    ];
    let next = plan(&r, &seen("agent", vec![counts(&fallen)]), 1_000);
    assert_eq!(next.soaked_ms["agent"], 0);
    assert_eq!(
        next.waiting[0].to_string(),
        "evidence: agent wave 1: 1 of 2 needed have converged, and no member is on its way"
    );
}

#[test]
fn who_has_set_a_limit_for_the_unreachable_has_it_in_the_last_wave_too() {
    let mut r = rollout(vec![role("agent", &[], &[1, 2], 2)]);
    r.plan.waves = vec![WaveSpec::default(); 2];
    r.plan.waves[1].max_unreachable = Some(Size::Count(0));
    let waves = vec![
        counts(&[(Bucket::Converged, 1)]),
        counts(&[(Bucket::NotReached, 1)]),
    ];
    let minutes = minutes_until_it_stands(&mut r, &seen("agent", waves));
    assert_eq!((r.state, minutes), (State::Paused, 15));
}

#[test]
fn restart_loops_stop_like_crashes_and_need_to_be_looked_for() {
    let looping = WaveView {
        signs: Some(Signs {
            restart_loops: 1,
            ..Signs::default()
        }),
        ..good(&[])
    };
    let Verdict::Fail { cause } = WaveSpec::default().judge(&looping) else {
        panic!("it has to fail");
    };
    assert_eq!(cause.failure(), Some(Failure::Crashed));
    assert_eq!(
        cause.to_string(),
        "check no restart loop failed: 1 collectors restart again and again"
    );
    let blind = WaveView {
        signs: None,
        ..good(&[])
    };
    assert!(matches!(
        WaveSpec::default().judge(&blind),
        Verdict::Inconclusive {
            why: Inconclusive::NoEvidence(_)
        }
    ));
}

#[test]
fn a_wave_whose_members_are_not_healthy_waits() {
    // Whether they have converged is only looked at.
    let only_observed = CheckSpec {
        check: Check::Converged,
        observe: true,
    };
    let spec = with_checks(vec![CheckSpec::gate(Check::Healthy), only_observed]);
    let judge = |of: [(Bucket, bool); 2]| {
        let mut wave = good(&[]);
        let (mut counted, mut signs) = (Counts::default(), Signs::default());
        for (bucket, healthy) in of {
            counted.add(bucket);
            signs.add(bucket, healthy, false);
        }
        (wave.counts, wave.signs) = (counted, Some(signs));
        spec.judge(&wave)
    };
    let well = (Bucket::Converged, true);
    // What it is with the old config says nothing.
    let waiting = [Bucket::PendingPickup, Bucket::Applying].map(|bucket| (bucket, true));
    for sick in waiting.into_iter().chain([(Bucket::Soaking, false)]) {
        assert!(
            matches!(
                judge([well, sick]),
                Verdict::Inconclusive {
                    why: Inconclusive::OnTheirWay { needed: 2 }
                }
            ),
            "{sick:?}"
        );
    }
    assert_eq!(judge([well, (Bucket::Soaking, true)]), Verdict::Pass);
    assert_eq!(judge([well, (Bucket::WasUnhealthy, false)]), Verdict::Pass);
}

#[test]
fn unreachable_members_get_their_time_and_have_their_own_limit() {
    let spec = WaveSpec {
        max_unreachable: Some(Size::Percent(10_000)),
        unreachable_ms: 60_000,
        ..WaveSpec::default()
    };
    let some = WaveView {
        counts: counts(&[(Bucket::Converged, 9), (Bucket::NotReached, 1)]),
        ..good(&[])
    };
    assert!(matches!(
        spec.judge(&some),
        Verdict::Inconclusive {
            why: Inconclusive::Unreachable {
                members: 1,
                left_ms: 60_000
            }
        }
    ));
    let later = WaveView {
        open_ms: 60_000,
        ..some
    };
    assert_eq!(spec.judge(&later), Verdict::Pass);
    let many = WaveView {
        counts: counts(&[(Bucket::Converged, 8), (Bucket::Unverifiable, 2)]),
        ..later
    };
    let Verdict::Inconclusive {
        why: Inconclusive::NoEvidence(why),
    } = spec.judge(&many)
    else {
        panic!("it must not pass");
    };
    assert_eq!(
        why,
        "2 members cannot be reached, 1 may be: wait for them, forget those that are gone for good (`muster agents forget`), \
         or start anew with a larger maxUnreachable"
    );
}

#[test]
fn a_plan_says_what_the_gates_that_decide_have_said() {
    let plan_of = |bucket| {
        let mut done = role("gateway", &[], &[1], 1);
        done.done = true;
        let r = rollout(vec![done, role("agent", &["gateway"], &[1, 10], 1)]);
        let gateway = vec![counts(&[(Bucket::Converged, 1)])];
        let observed = seen("agent", vec![counts(&[(bucket, 1)])]).with("gateway", gateway);
        plan(&r, &observed, 1_000)
    };
    let soaking = plan_of(Bucket::Converged);
    assert_eq!(
        (soaking.steps.len(), &soaking.verdicts[..]),
        (0, &[Verdict::Pass][..])
    );
    let applying = plan_of(Bucket::Applying).verdicts;
    assert!(matches!(applying[..], [Verdict::Inconclusive { .. }]));
    let failed = plan_of(Bucket::Failed(Failure::Rejected)).verdicts;
    assert!(matches!(failed[..], [Verdict::Fail { .. }]), "it stops");
}
