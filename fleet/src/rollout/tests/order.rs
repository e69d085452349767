//! Roles in order, the way back, and what continues another rollout.

use super::*;

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

/// Gateways in zones a, b and c, one wave each; agents in a and c only.
fn zoned() -> Rollout {
    let mut r = rollout(vec![
        role("gateway", &[], &[2, 4, 6], 2),
        role("agent", &["gateway"], &[5, 10], 1),
    ]);
    let zone = |zone: &str| WaveSpec {
        zone: Some(zone.into()),
        ..WaveSpec::default()
    };
    r.plan = PlanSpec::of(vec![zone("a"), zone("b"), zone("c"), WaveSpec::default()]);
    r.plan.interleave = true;
    r.roles[0].wave_specs = vec![0, 1, 3];
    r.roles[1].wave_specs = vec![0, 3];
    r
}

#[test]
fn a_role_that_leaves_a_zone_out_does_not_overtake_the_gateways_of_the_next() {
    let mut r = zoned();
    let converged = |role: &str, waves: &[u64]| {
        let waves = waves.iter().map(|n| counts(&[(Bucket::Converged, *n)]));
        (role.to_owned(), waves.collect::<Vec<_>>())
    };
    let mut observed = seen("gateway", converged("gateway", &[2, 2, 0]).1);
    observed = observed.with("agent", converged("agent", &[5, 0]).1);
    r.plan.waves[1].soak_ms = 60_000;
    let next = plan(&r, &observed, 0);
    assert_eq!(next.steps, [], "gateways of c have not gone");
    assert!(next.waiting.contains(&Waiting::Wave {
        role: "agent".into(),
        after: "gateway".into(),
        wave: 2,
    }));
    let shown = schedule(&r).to_string();
    assert!(
        shown.contains("agent wave 2/2: 5 agents, after gateway wave 3"),
        "{shown}"
    );
    assert!(
        shown.find("gateway wave 3/3") < shown.find("agent wave 2/2"),
        "{shown}"
    );
}

#[test]
fn interleaving_is_refused_where_a_wave_would_go_before_gateways_that_it_may_use() {
    let late = |before: &Role, from: usize, spec: &WaveSpec| {
        let zones = ["a", "b", "c"].iter().skip(from);
        let taken = zones.filter(|zone| spec.zone.as_deref().is_none_or(|z| z == **zone));
        before.wave_size(0) * taken.count() as u64
    };
    let mut r = zoned();
    assert_eq!(r.check_in_step(late), Ok(()));
    r.plan.waves[0].zone = None;
    assert_eq!(
        r.check_in_step(late).unwrap_err().to_string(),
        "the plan interleaves roles, but wave 1 of role agent would go before 4 members of role gateway that share its part of the fleet: give the waves zones or selectors that take agents together with all their gateways, or leave `interleave` out"
    );
    r.plan.interleave = false;
    assert_eq!(r.check_in_step(late), Ok(()));
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

#[test]
fn a_restored_rollout_is_halted_and_one_that_has_ended_stays_so() {
    for state in [
        State::Planned,
        State::AwaitingApproval,
        State::Running,
        State::Paused,
        State::RollingBack,
    ] {
        let mut r = rollout(vec![]);
        r.state = state;
        assert!(r.restore().is_some());
        assert_eq!(r.state, State::Halted);
    }
    let mut r = rollout(vec![]);
    r.state = State::Completed;
    assert_eq!(r.restore(), None);
}
