//! How a rollout moves, case by case.

use super::*;
use crate::bucket::Bucket;
use crate::offer::Failure;
use crate::program::{RollBack, Scope};
use crate::waves::{Size, WHOLE};
use proptest::prelude::*;

fn counts(of: &[(Bucket, u64)]) -> Counts {
    let mut counts = Counts::default();
    for (bucket, n) in of {
        (0..*n).for_each(|_| counts.add(*bucket));
    }
    counts
}

fn role(name: &str, after: &[&str], wave_ends: &[u64], open_waves: u32) -> Role {
    let after = after.iter().map(|s| (*s).to_owned()).collect();
    Role {
        name: name.into(),
        after,
        wave_ends: wave_ends.into(),
        open_waves,
        ..Role::default()
    }
}

fn rollout(roles: Vec<Role>) -> Rollout {
    Rollout {
        state: State::Running,
        direction: Direction::Forward,
        plan: default_plan(),
        roles,
        roll_back: None,
        inconclusive_ms: 0,
    }
}

impl Observed {
    /// Fresh counts of a role, whose members show no bad signs.
    fn with(mut self, role: &str, waves: Vec<Counts>) -> Self {
        let signs = vec![Signs::default(); waves.len()];
        self.signs.insert(role.to_owned(), signs);
        self.roles.insert(role.to_owned(), waves);
        self.evidence_age_ms = Some(100);
        self.offer_timeout_ms = 600_000;
        self
    }
}

fn judge(gate: &Gate, counts: &Counts, first: bool, forgiven: u64) -> Verdict {
    let spec = WaveSpec {
        gate: gate.clone(),
        ..WaveSpec::default()
    };
    spec.judge(&WaveView {
        counts: *counts,
        signs: Some(Signs::default()),
        findings: &[],
        first,
        forgiven,
        evidence_age_ms: Some(0),
        open_ms: 0,
    })
}

fn seen(role: &str, waves: Vec<Counts>) -> Observed {
    Observed::default().with(role, waves)
}

#[test]
fn a_wave_opens_after_the_soak_and_not_before() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    let good = seen(
        "agent",
        vec![
            counts(&[(Bucket::Converged, 1)]),
            counts(&[(Bucket::Waiting, 9)]),
        ],
    );
    let soaking = plan(&r, &good, 1_000);
    assert_eq!(soaking.steps, []);
    assert_eq!(soaking.soaked_ms["agent"], 1_000);
    r.roles[0].soaked_ms = 59_500;
    assert_eq!(
        plan(&r, &good, 1_000).steps,
        [Step::OpenWave {
            role: "agent".into(),
            wave: 1
        }]
    );
}

#[test]
fn the_soak_starts_again_when_a_member_falls_out() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.roles[0].soaked_ms = 50_000;
    let broken = seen("agent", vec![counts(&[(Bucket::Soaking, 1)])]);
    assert_eq!(plan(&r, &broken, 1_000).soaked_ms["agent"], 0);
}

#[test]
fn one_failure_in_the_first_wave_stops_and_takes_it_back() {
    let r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    let bad = seen(
        "agent",
        vec![counts(&[(Bucket::Failed(Failure::Rejected), 1)])],
    );
    let roll_back = Some(Scope::Wave {
        role: "agent".into(),
        wave: 0,
    });
    let stop = Step::Stop {
        role: "agent".into(),
        wave: 0,
        cause: Cause::Failures {
            failure: Failure::Rejected,
            failures: 1,
        },
        roll_back,
    };
    assert_eq!(plan(&r, &bad, 1_000).steps, [stop]);
}

#[test]
fn a_later_wave_holds_unless_collectors_crash() {
    let r = rollout(vec![role("agent", &[], &[1, 100], 2)]);
    let waves = |failure| {
        vec![
            counts(&[(Bucket::Converged, 1)]),
            counts(&[(Bucket::Failed(failure), 5), (Bucket::Converged, 94)]),
        ]
    };
    let scope_of = |failure| match plan(&r, &seen("agent", waves(failure)), 1_000)
        .steps
        .remove(0)
    {
        Step::Stop { roll_back, .. } => roll_back,
        step => panic!("{step:?}"),
    };
    assert_eq!(scope_of(Failure::Rejected), None);
    assert_eq!(scope_of(Failure::Crashed), Some(Scope::All));
}

#[test]
fn a_percentage_of_failures_counts_from_the_sample_on() {
    let gate = Gate::default();
    let few = counts(&[
        (Bucket::Failed(Failure::Rejected), 1),
        (Bucket::Applying, 99),
    ]);
    assert!(matches!(
        judge(&gate, &few, false, 0),
        Verdict::Inconclusive { .. }
    ));
    let enough = counts(&[
        (Bucket::Failed(Failure::Rejected), 1),
        (Bucket::Converged, 19),
        (Bucket::Applying, 80),
    ]);
    assert!(matches!(
        judge(&gate, &enough, false, 0),
        Verdict::Fail { .. }
    ));
}

#[test]
fn sleeping_members_do_not_hold_a_wave_up_but_a_wave_of_sleepers_does_not_pass() {
    let gate = Gate::default();
    let some = counts(&[(Bucket::Converged, 95), (Bucket::NotReached, 5)]);
    assert_eq!(judge(&gate, &some, false, 0), Verdict::Pass);
    let none = counts(&[(Bucket::NotReached, 5)]);
    assert!(matches!(
        judge(&gate, &none, true, 0),
        Verdict::Inconclusive { .. }
    ));
}

#[test]
fn forgiven_failures_count_neither_way() {
    let gate = Gate::default();
    let seen = counts(&[
        (Bucket::Failed(Failure::Rejected), 1),
        (Bucket::Converged, 9),
    ]);
    assert!(matches!(judge(&gate, &seen, true, 0), Verdict::Fail { .. }));
    assert_eq!(judge(&gate, &seen, true, 1), Verdict::Pass);
}

#[test]
fn a_role_waits_for_those_before_it() {
    let r = rollout(vec![
        role("gateway", &[], &[1, 2], 1),
        role("agent", &["gateway"], &[1, 10], 0),
    ]);
    let observed = seen("gateway", vec![counts(&[(Bucket::Converged, 1)])]);
    let waits = Waiting::Role {
        role: "agent".into(),
        after: "gateway".into(),
    };
    assert!(plan(&r, &observed, 1_000).waiting.contains(&waits));
}

#[test]
fn fifteen_minutes_without_a_decision_pause() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.inconclusive_ms = INCONCLUSIVE_MS_MAX - 500;
    let blind = Observed {
        evidence_age_ms: None,
        ..seen("agent", vec![counts(&[(Bucket::Converged, 1)])])
    };
    let why = "the gate could not decide for 15 minutes: agent wave 1: a partition cannot be read";
    assert_eq!(
        plan(&r, &blind, 1_000).steps,
        [Step::Pause { why: why.into() }]
    );
}

#[test]
fn a_rollback_goes_against_the_order() {
    let mut r = rollout(vec![
        role("gateway", &[], &[2], 1),
        role("agent", &["gateway"], &[2], 1),
    ]);
    r.state = State::RollingBack;
    r.roll_back = Some(RollBack {
        scope: Scope::All,
        open_roles: vec![],
    });
    let out = counts(&[(Bucket::Converged, 2)]);
    let observed = seen("gateway", vec![out]).with("agent", vec![out]);
    assert_eq!(
        plan(&r, &observed, 500).steps,
        [Step::OpenRollBack {
            role: "agent".into()
        }]
    );
    let back = counts(&[(Bucket::Returned, 2)]);
    let observed = Observed {
        roles: [
            ("gateway".to_owned(), vec![out]),
            ("agent".to_owned(), vec![back]),
        ]
        .into(),
        ..observed
    };
    r.roll_back = Some(RollBack {
        scope: Scope::All,
        open_roles: vec!["agent".into()],
    });
    assert_eq!(
        plan(&r, &observed, 500).steps,
        [Step::OpenRollBack {
            role: "gateway".into()
        }]
    );
}

proptest! {
    #[test]
    fn stale_evidence_never_advances(
        age in prop_oneof![Just(None), (EVIDENCE_AGE_MS_MAX + 1..1_000_000).prop_map(Some)],
        numbers in proptest::collection::vec(0u64..50, crate::bucket::ALL.len()),
        soaked_ms in 0u64..1_000_000,
        open in 1u32..3,
        elapsed in 0u64..10_000,
    ) {
        let of: Vec<_> = crate::bucket::ALL.into_iter().zip(numbers).collect();
        let mut r = rollout(vec![role("agent", &[], &[1, 10, 100], open)]);
        r.roles[0].soaked_ms = soaked_ms;
        let observed = Observed { evidence_age_ms: age, ..seen("agent", vec![counts(&of); 3]) };
        let next = plan(&r, &observed, elapsed);
        prop_assert!(next.steps.iter().all(|step| matches!(step, Step::Pause { .. })), "{:?}", next.steps);
    }

    #[test]
    fn counts_add_up(numbers in proptest::collection::vec(0u64..50, crate::bucket::ALL.len())) {
        let of: Vec<_> = crate::bucket::ALL.into_iter().zip(numbers.clone()).collect();
        let all = counts(&of);
        prop_assert_eq!(all.members(), numbers.iter().sum::<u64>());
        prop_assert!(all.reachable() >= all.failures() + all.of(Bucket::Converged));
    }
}

// === gates ===

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
fn a_person_is_waited_for_last_and_without_the_fifteen_minutes() {
    let person = Check::Person("platform".into());
    let spec = with_checks(vec![
        CheckSpec::gate(Check::Converged),
        CheckSpec::gate(person.clone()),
    ]);
    let mut r = rollout(vec![role("agent", &[], &[1, 10], 1)]);
    r.plan.waves[0] = spec.clone();
    r.inconclusive_ms = INCONCLUSIVE_MS_MAX;
    let mut observed = seen("agent", vec![counts(&[(Bucket::Converged, 1)])]);
    let next = plan(&r, &observed, 60_000);
    assert_eq!((next.steps.len(), next.inconclusive_ms), (0, 0));
    assert_eq!(
        next.waiting[0].to_string(),
        "a person: platform has to pass agent wave 1"
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

// === waiting and pausing ===

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
    let why = "agent wave 1 has not passed within its 2 minutes";
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
    assert_eq!(next.soaked_ms["agent"], 61_000);
    assert!(next.waiting[0].to_string().contains("black-friday"));
    observed.freeze = None;
    assert_eq!(plan(&r, &observed, 0).steps.len(), 1);
}

// === complete, exactly ===

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

// === order ===

#[test]
fn interleaved_roles_go_wave_by_wave_and_a_way_back_reverses_them() {
    let mut r = rollout(vec![
        role("gateway", &[], &[1, 2], 2),
        role("agent", &["gateway"], &[1, 10], 0),
    ]);
    let observed = seen(
        "gateway",
        vec![
            counts(&[(Bucket::Converged, 1)]),
            counts(&[(Bucket::Applying, 1)]),
        ],
    );
    assert_eq!(plan(&r, &observed, 0).steps, []);
    r.plan.interleave = true;
    let first = Step::OpenWave {
        role: "agent".into(),
        wave: 0,
    };
    assert_eq!(plan(&r, &observed, 0).steps, [first]);
    r.plan.interleave = false;
    r.direction = Direction::Back;
    let order: Vec<_> = r.in_order().into_iter().map(|r| r.name.clone()).collect();
    assert_eq!(order, ["agent", "gateway"]);
}

#[test]
fn the_schedule_shows_the_order_before_anything_starts() {
    let mut r = rollout(vec![
        role("gateway", &[], &[1, 4], 0),
        role("agent", &["gateway"], &[1, 10, 100], 0),
    ]);
    r.plan = PlanSpec::of(vec![
        WaveSpec::of(Size::Count(1), 60_000),
        WaveSpec::of(Size::Percent(10_000), 120_000),
        WaveSpec::of(Size::Percent(WHOLE), 0),
    ]);
    assert_eq!(
        schedule(&r).to_string(),
        "1. gateway wave 1/2: 1 agent, soak 60 s\n\
         2. gateway wave 2/2: 3 agents\n\
         3. agent wave 1/3: 1 agent, soak 60 s, after gateway\n\
         4. agent wave 2/3: 9 agents, soak 120 s\n\
         5. agent wave 3/3: 90 agents\n\
         a rollback goes: agent, then gateway"
    );
    r.plan.interleave = true;
    let lines = schedule(&r).to_string();
    assert!(lines.contains("2. agent wave 1/3: 1 agent, soak 60 s, after gateway wave 1"));
    assert!(lines.contains("5. agent wave 3/3: 90 agents, after gateway wave 2"));
}

#[test]
fn a_rollback_has_its_own_status() {
    let mut r = rollout(vec![role("agent", &[], &[10], 1)]);
    assert_eq!(Return::of(&r, &Observed::default()), Return::default());
    assert!(r.roll_back(Scope::All, "no good").is_some());
    assert!(r.roll_back(Scope::All, "again").is_none());
    let observed = seen(
        "agent",
        vec![counts(&[
            (Bucket::Returned, 4),
            (Bucket::Applying, 1),
            (Bucket::Failed(Failure::Rejected), 1),
            (Bucket::Deleted, 1),
            (Bucket::Waiting, 3),
        ])],
    );
    assert_eq!(
        Return::of(&r, &observed).to_string(),
        "4 returned, 1 on their way, 1 failed, 1 in named exceptions, 3 never touched"
    );
}

#[test]
fn a_million_agents_are_planned_by_their_counts() {
    let mut million = role("agent", &[], &[1, 10_000, 100_000, 500_000, 1_000_000], 5);
    million.done = true;
    let waves = million
        .wave_ends
        .clone()
        .into_iter()
        .scan(0, |before, end| {
            let members = end - std::mem::replace(before, end);
            let mut of = [0; crate::bucket::ALL.len()];
            of[4] = members;
            Some(Counts::from_members(&of))
        });
    let observed = seen("agent", waves.collect());
    assert_eq!(
        observed.roles["agent"]
            .iter()
            .map(Counts::members)
            .sum::<u64>(),
        1_000_000
    );
    let r = rollout(vec![million]);
    assert_eq!(plan(&r, &observed, 500).steps, [Step::Complete]);
}

#[test]
fn a_rollout_that_continues_opens_the_reached_waves_together_and_judges_them_all() {
    let mut r = rollout(vec![role("agent", &[], &[1, 10, 100], 0)]);
    r.roles[0].continue_at = 2;
    let good = counts(&[(Bucket::Converged, 9)]);
    let behind = counts(&[(Bucket::Applying, 1)]);
    let observed = seen("agent", vec![behind, good, Counts::default()]);
    let next = plan(&r, &observed, 0);
    let both = Step::OpenWave {
        role: "agent".into(),
        wave: 1,
    };
    assert_eq!(next.steps, [both]);
    r.apply(&next);
    assert_eq!(r.roles[0].open_waves, 2);
    r.roles[0].soaked_ms = 600_000;
    assert_eq!(plan(&r, &observed, 0).steps, []);
    let first = counts(&[(Bucket::Converged, 1)]);
    let observed = seen("agent", vec![first, good, Counts::default()]);
    assert_eq!(plan(&r, &observed, 0).steps.len(), 1);
}
