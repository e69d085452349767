//! How a rollout moves, case by case.

mod gates;
mod order;
mod waiting;

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
        proven: false,
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
    let why = "the gate could not decide for 15 minutes: agent wave 1: a partition cannot be read; resume when that is settled, or roll back";
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
