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
fn a_person_is_waited_for_last_and_no_longer_than_any_other_answer() {
    let person = Check::Person("platform".into());
    let spec = with_checks(vec![
        CheckSpec::gate(Check::Converged),
        CheckSpec::gate(person.clone()),
    ]);
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.plan.waves[0] = spec.clone();
    r.inconclusive_ms = INCONCLUSIVE_MS_MAX - 2_000;
    let mut observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
    let next = plan(&r, &observed, 1_000);
    assert_eq!(next.steps, []);
    assert_eq!(
        next.waiting[0].to_string(),
        "a person: platform has to pass agent wave 1"
    );
    let Step::Pause { why } = &plan(&r, &observed, 2_000).steps[0] else {
        panic!("it has to pause");
    };
    assert_eq!(
        why,
        "the gate could not decide for 15 minutes: platform has to pass agent wave 1, and has not answered"
    );
    let key = ("agent".to_owned(), 0);
    observed
        .findings
        .insert(key, vec![found(person, Answer::Pass)]);
    assert!(matches!(
        plan(&r, &observed, 1_000).steps[..],
        [Step::OpenWave { .. }]
    ));
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
    let sick = WaveView {
        signs: Some(Signs {
            unhealthy: 1,
            ..Signs::default()
        }),
        ..good(&[])
    };
    assert!(matches!(
        WaveSpec::default().judge(&sick),
        Verdict::Inconclusive {
            why: Inconclusive::OnTheirWay { needed: 10 }
        }
    ));
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
        "2 members cannot be reached, 1 may be: wait for them, exclude them, or raise maxUnreachable"
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
