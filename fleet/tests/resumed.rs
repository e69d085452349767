//! Who resumes a rollout accepts what has failed until then, also under the rollouts whose place it took.

#[allow(dead_code, reason = "each test reads a part of the world")]
mod world;

use std::collections::BTreeMap;

use fleet::bucket::Bucket;
use fleet::governance::supersede::How;
use fleet::offer::Failure;
use fleet::program::OwnerChange;
use fleet::rollout::{Direction, OnStop, PlanSpec, State, WaveSpec};
use fleet::selector::Selector;
use fleet::waves::{Size, WHOLE};

use world::operator::Start;
use world::{Agent, Family, Id, Reaction, World, delivery};

const AGENTS: Id = 6;

/// Agents that family web claims.
fn fleet() -> World {
    let mut world = World::new();
    let selector = Selector::parse("role = agent").expect("a selector");
    let family = Family {
        precedence: 1,
        stable: None,
        latest: 0,
        roles: vec![("agent".to_owned(), selector, vec![])],
        draft: None,
        rollout: None,
        owner_change: OwnerChange::Ask,
    };
    world.families.insert("web".to_owned(), family);
    for id in 1..=AGENTS {
        let labels = BTreeMap::from([("role".to_owned(), "agent".to_owned())]);
        world.agents.insert(id, Agent::new(labels, 0));
    }
    world
}

/// The first revision to two agents, then to the others; a stop is a halt.
fn start(world: &mut World, supersede: Option<How>) -> String {
    let plan = PlanSpec {
        on_stop: OnStop::Hold,
        ..PlanSpec::of(vec![
            WaveSpec::of(Size::Count(2), 1_000),
            WaveSpec::of(Size::Percent(WHOLE), 1_000),
        ])
    };
    let started = world.start(&Start {
        family: "web",
        plan,
        reach: None,
        supersede,
        to: Some(1),
        direction: Direction::Forward,
    });
    started.expect("it may begin")
}

fn run(world: &mut World, ticks: u64) {
    for _ in 0..ticks {
        world.tick();
    }
}

/// Until it stands still, five minutes at most.
fn settles(world: &mut World, id: &str) -> State {
    for _ in 0..300 {
        world.tick();
        let state = world.rollouts[id].kept.state;
        if state != State::Running {
            return state;
        }
    }
    State::Running
}

/// Two agents have failed in a rollout that another one of the same config replaces, in which they come last.
fn replaced() -> (World, String) {
    let mut world = fleet();
    let first = start(&mut world, None);
    let members = world.rollouts[&first].members.iter();
    let early = members.filter(|(_, member)| member.wave == 0);
    let early: Vec<Id> = early.map(|(id, _)| *id).collect();
    for id in &early {
        let hash = delivery("web", "agent", 1);
        world.reactions.insert((*id, hash), Reaction::Reject);
    }
    assert_eq!(settles(&mut world, &first), State::Halted);
    // The other one answers, too.
    run(&mut world, 60);
    assert_eq!(
        in_bucket(&world, &first, Bucket::Failed(Failure::Rejected)),
        2
    );
    let sleep = |world: &mut World, asleep| {
        for id in &early {
            world.agents.get_mut(id).expect("an agent").asleep = asleep;
        }
    };
    // Who is silent when the list is made is nobody's canary.
    sleep(&mut world, true);
    run(&mut world, 200);
    let second = start(&mut world, Some(How::Restart));
    let wave = |id: &Id| world.rollouts[&second].members[id].wave;
    assert!(early.iter().all(|id| wave(id) == 1));
    sleep(&mut world, false);
    (world, second)
}

fn in_bucket(world: &World, id: &str, bucket: Bucket) -> u64 {
    let (observed, _) = world.observe(id, &world.program());
    let waves = observed.waves("agent").iter();
    waves.map(|counts| counts.of(bucket)).sum()
}

#[test]
fn who_resumes_a_rollout_accepts_what_failed_under_the_one_that_it_replaces() {
    // Nobody gets over failures by replacing a rollout.
    let (mut world, id) = replaced();
    assert_eq!(settles(&mut world, &id), State::Halted);
    assert_eq!(in_bucket(&world, &id, Bucket::Refused), 0);

    // A person does who resumes it, also over those of a wave that has not begun by then.
    let (mut world, id) = replaced();
    assert!(world.halt(&id) && world.resume(&id));
    assert_eq!(settles(&mut world, &id), State::Completed);
    assert_eq!(in_bucket(&world, &id, Bucket::Refused), 2);
}

#[test]
fn an_order_to_resume_that_is_refused_accepts_nothing() {
    let (mut world, id) = replaced();
    let since = world.rollouts[&id].since;
    world.epoch += 5;
    assert!(!world.resume(&id), "it runs");
    assert_eq!(world.rollouts[&id].since, since);
}
