//! What is kept from count to count, against the plain count, which asks everybody each time.

use std::sync::Arc;

use fleet::program::Epoch;
use prost::Message;
use proto::store;

use super::kept::Counter;
use super::*;
use crate::inventory::{Index, IndexMirror, chunk};
use crate::ledger::{Mirror, table};
use crate::partition::drawn::{Draw, ID, OTHER_ID, agent, member, program};

/// Everybody at once.
const ALL: usize = usize::MAX;

fn uid(n: u16) -> Uid {
    let mut bytes = [3; 16];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Uid::from_wire(&bytes).expect("a uid")
}

/// Half of them able to take something, so that many wait.
fn write(mirror: &mut IndexMirror, draw: &mut Draw, uid: Uid) {
    let mut agent = agent(draw);
    agent.heard_in = draw.of(&[0, 1]);
    if draw.one_in(2) {
        agent.delivery = agent.delivery.filter(|d| d.state > 2);
        agent.refused = vec![];
        agent.link = Link::Connected.into();
    }
    mirror.put(table::AGENT, uid.as_bytes(), 1, &agent.encode_to_vec());
}

/// A list of these agents, of whom it leaves some out.
fn list(mirror: &mut IndexMirror, draw: &mut Draw, id: &str, uids: &[Uid]) {
    let members = uids.iter().filter_map(|uid| {
        let member = member(draw);
        let owner = |from: Box<(Arc<str>, Arc<str>)>| store::Owner {
            family: from.0.to_string(),
            role: from.1.to_string(),
        };
        (!draw.one_in(3)).then(|| store::Member {
            uid: uid.as_bytes().to_vec(),
            role: member.role,
            wave: member.wave,
            unchanged: member.unchanged,
            taken_from: member.taken_from.map(owner),
            ..store::Member::default()
        })
    });
    let list = store::MemberChunk {
        members: members.collect(),
    };
    mirror.put(table::MEMBERS, &chunk(id, 0), 1, &list.encode_to_vec());
}

fn limits(draw: &mut Draw) -> Limits {
    let mut some = || {
        let ids = [ID, OTHER_ID].into_iter();
        ids.filter(|_| draw.one_in(3))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let (limited, back) = (some(), some());
    Limits {
        label: draw
            .of(&[None, Some("env"), Some("role")])
            .map(str::to_owned),
        limited: limited.into_iter().map(|id| (id, [].into())).collect(),
        back: back.into_iter().collect(),
    }
}

/// What a count is: every agent is asked. [`Counter::count`] has to find the same.
fn count(
    columns: &Columns,
    program: &Program,
    re_offering: &BTreeSet<String>,
    limits: &Limits,
) -> (Occupancy, BTreeMap<Lane, u64>) {
    let mut asked = Asked::of(columns, program, re_offering, limits);
    // By borrowed names: rollout, role, domain.
    let mut in_flight: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    let mut waiting: BTreeMap<(&str, &str, &str), (u64, Vec<Uid>)> = BTreeMap::new();
    let mut domains: BTreeMap<&str, Domain> = BTreeMap::new();
    for row in columns.rows.values() {
        let Some(found) = asked.find(row) else {
            continue;
        };
        let domain = domains.entry(found.domain).or_default();
        domain.agents += 1;
        domain.unhealthy += u64::from(found.is_sick());
        match found.standing {
            Standing::InFlight(Some(lane)) => *in_flight.entry(lane).or_default() += 1,
            Standing::Waiting { lane, .. } => {
                let (wanted, some) = waiting.entry(lane).or_default();
                *wanted += 1;
                if some.len() < NAMED {
                    some.push(row.uid);
                }
            }
            _ => {}
        }
    }
    let domains = domains.into_iter();
    let waiting = waiting.into_iter();
    let seen = Occupancy {
        domains: domains
            .map(|(name, seen)| (name.to_owned(), seen))
            .collect(),
        waiting: waiting.map(|(lane, who)| (Lane::of(lane), who)).collect(),
    };
    let in_flight = in_flight.into_iter();
    let in_flight = in_flight
        .map(|(lane, agents)| (Lane::of(lane), agents))
        .collect();
    (seen, in_flight)
}

#[test]
fn what_is_kept_counts_what_would_be_found_anew() {
    let mut draw = Draw(17);
    let index = Index::default();
    let mut mirror = index.mirror();
    let uids: Vec<Uid> = (1..=300).map(uid).collect();
    uids.iter()
        .for_each(|uid| write(&mut mirror, &mut draw, *uid));
    list(&mut mirror, &mut draw, ID, &uids);
    mirror.publish(0);
    let mut decides = Arc::new(program(&mut draw));
    let mut re_offering = Arc::new(BTreeSet::new());
    let mut limited = limits(&mut draw);
    let mut counter = Counter::default();
    let (mut lanes, mut most) = (BTreeSet::new(), Domain::default());
    for round in 0..2_000 {
        match draw.below(10) {
            0 => decides = Arc::new(program(&mut draw)),
            1 => {
                // After a restore, or only stamped anew.
                let mut other = Program::clone(&decides);
                other.epoch = Epoch::new(draw.of(&[0, 1]), round);
                decides = Arc::new(other);
            }
            2 => limited = limits(&mut draw),
            3 => {
                let all = ["web", "db"].into_iter();
                let some = all.filter(|_| draw.one_in(2)).map(str::to_owned);
                re_offering = Arc::new(some.collect());
            }
            4 => mirror.delete(table::AGENT, draw.of(&uids).as_bytes()),
            5 => {
                let id = draw.of(&[ID, OTHER_ID]);
                list(&mut mirror, &mut draw, id, &uids);
            }
            6 => mirror.delete(table::MEMBERS, &chunk(draw.of(&[ID, OTHER_ID]), 0)),
            7 if draw.one_in(4) => {
                mirror.reset();
                uids.iter()
                    .for_each(|uid| write(&mut mirror, &mut draw, *uid));
                list(&mut mirror, &mut draw, ID, &uids);
            }
            8 if draw.one_in(4) => counter = Counter::default(),
            _ => {
                for _ in 0..draw.below(20) {
                    let uid = draw.of(&uids);
                    write(&mut mirror, &mut draw, uid);
                }
            }
        }
        mirror.publish(0);
        let columns = index.read();
        let plain = count(&columns, &decides, &re_offering, &limited);
        let kept = counter.count(&columns, &decides, &re_offering, &limited, ALL);
        assert_eq!(kept, plain, "round {round}");
        let (seen, in_flight) = plain;
        lanes.extend(seen.waiting.into_keys().map(|lane| (false, lane)));
        lanes.extend(in_flight.into_keys().map(|lane| (true, lane)));
        for domain in seen.domains.values() {
            most.unhealthy = most.unhealthy.max(domain.unhealthy);
        }
    }
    let is_of = |rollout: &str, flies| {
        let mut lanes = lanes.iter();
        lanes.any(|(in_flight, lane)| *in_flight == flies && *lane.rollout == *rollout)
    };
    assert!(most.unhealthy > 30, "{most:?}");
    assert!(["", ID, OTHER_ID].iter().all(|id| is_of(id, true)));
    assert!(["", ID, OTHER_ID].iter().all(|id| is_of(id, false)));
}

/// A family that everybody is to join, and so many agents in one of two domains, of whom one in three is broken.
fn joining(agents: u16) -> (Index, IndexMirror, Arc<Program>) {
    let index = Index::default();
    let mut mirror = index.mirror();
    (1..=agents).for_each(|n| join(&mut mirror, n, ["a", "b"][usize::from(n % 2)]));
    mirror.publish(0);
    let mut program = program(&mut Draw(1));
    for family in &mut program.families {
        family.rollout = None;
        family.stable = Some(fleet::program::RevisionNumber(1));
        for roles in family.revisions.values_mut() {
            roles.truncate(1);
            roles[0].selector = fleet::selector::Selector::parse("*").expect("a selector");
        }
    }
    program.pins.clear();
    (index, mirror, Arc::new(program))
}

fn join(mirror: &mut IndexMirror, n: u16, env: &str) {
    let agent = store::Agent {
        operator_labels: [("env".to_owned(), env.to_owned())].into(),
        capabilities: proto::opamp::AgentCapabilities::AcceptsRemoteConfig as u64,
        link: Link::Connected.into(),
        health: Some(store::HealthState {
            healthy: !n.is_multiple_of(3),
            ..store::HealthState::default()
        }),
        ..store::Agent::default()
    };
    mirror.put(table::AGENT, uid(n).as_bytes(), 1, &agent.encode_to_vec());
}

fn by_env() -> Limits {
    Limits {
        label: Some("env".into()),
        ..Limits::default()
    }
}

#[test]
fn the_first_of_those_who_wait_are_named_healthy_or_not() {
    let (index, _mirror, program) = joining(3_000);
    let (columns, nobody) = (index.read(), Arc::default());
    let mut counter = Counter::default();
    for limits in [
        Limits {
            label: None,
            ..by_env()
        },
        by_env(),
    ] {
        let plain = count(&columns, &program, &nobody, &limits);
        for _ in 0..2 {
            let kept = counter.count(&columns, &program, &nobody, &limits, ALL);
            assert_eq!(kept, plain);
        }
    }
    let (seen, in_flight) = count(&columns, &program, &nobody, &by_env());
    let domain = Domain {
        agents: 1_500,
        unhealthy: 500,
        in_flight: 0,
    };
    let domains = ["a", "b"].map(|name| (name.to_owned(), domain));
    assert_eq!((seen.domains, in_flight), (domains.into(), [].into()));
    let named = |odd: u16| (0..1_000).map(|i| uid(2 * i + 2 - odd)).collect::<Vec<_>>();
    let waiting: Vec<_> = seen.waiting.into_values().collect();
    assert_eq!(waiting, [(1_500, named(0)), (1_500, named(1))]);
}

#[test]
fn only_who_has_changed_is_asked_again() {
    let (index, mut mirror, program) = joining(300);
    let nobody = Arc::default();
    let mut counter = Counter::default();
    let mut asked = |program: &Arc<Program>| {
        let before = counter.asked;
        counter.count(&index.read(), program, &nobody, &by_env(), ALL);
        counter.asked - before
    };
    assert_eq!((asked(&program), asked(&program)), (300, 0));
    let mut stamped = Program::clone(&program);
    stamped.epoch = Epoch(stamped.epoch.0 + 1);
    let stamped = Arc::new(stamped);
    assert_eq!(asked(&stamped), 0);
    (1..=3).for_each(|n| join(&mut mirror, n, "c"));
    mirror.publish(0);
    assert_eq!((asked(&stamped), asked(&stamped)), (3, 0));
    list(&mut mirror, &mut Draw(1), ID, &[uid(1)]);
    mirror.publish(0);
    assert_eq!((asked(&stamped), asked(&stamped)), (300, 0));
}

#[test]
fn labels_that_agents_had_once_are_forgotten() {
    let (index, mut mirror, program) = joining(10);
    let nobody = Arc::default();
    let mut counter = Counter::default();
    for round in 0..500 {
        (1..=10).for_each(|n| join(&mut mirror, n, &format!("{round}-{n}")));
        mirror.publish(0);
        let columns = index.read();
        let kept = counter.count(&columns, &program, &nobody, &by_env(), ALL);
        assert_eq!(kept, count(&columns, &program, &nobody, &by_env()));
        assert!(counter.findings() < 2_000, "round {round}");
    }
}

#[test]
fn what_is_in_flight_uses_room_whether_it_waited_or_not() {
    let (index, mut mirror, program) = joining(4);
    let back = Limits {
        back: [ID.to_owned()].into(),
        ..by_env()
    };
    let agent = store::Agent {
        operator_labels: [("env".to_owned(), "a".to_owned())].into(),
        link: Link::Connected.into(),
        delivery: Some(store::Delivery {
            rollout: ID.to_owned(),
            role: "agent".to_owned(),
            hash: vec![7; 32],
            state: store::DeliveryState::Applying.into(),
            ..store::Delivery::default()
        }),
        ..store::Agent::default()
    };
    mirror.put(table::AGENT, uid(9).as_bytes(), 1, &agent.encode_to_vec());
    mirror.publish(0);
    let nobody = Arc::default();
    let (_, in_flight) = Counter::default().count(&index.read(), &program, &nobody, &back, ALL);
    let lane = Lane::of((ID, "agent", "a"));
    assert_eq!(in_flight, BTreeMap::from([(lane, 1)]));
}

#[test]
fn a_count_in_parts_has_everything_but_some_of_those_who_wait() {
    let (index, mut mirror, program) = joining(300);
    let nobody = Arc::default();
    let (whole, in_flight) = count(&index.read(), &program, &nobody, &by_env());
    let mut counter = Counter::default();
    let mut in_parts = |program: &Arc<Program>| {
        let (seen, flies) = counter.count(&index.read(), program, &nobody, &by_env(), 100);
        assert_eq!((&seen.domains, &flies), (&whole.domains, &in_flight));
        let waiting = seen.waiting.into_values();
        waiting
            .flat_map(|(_, named)| named)
            .collect::<BTreeSet<_>>()
    };
    let all: BTreeSet<Uid> = (1..=300).map(uid).collect();
    let up_to = |n| (1..=n).map(uid).collect::<BTreeSet<_>>();
    for found in [up_to(100), up_to(200), all.clone(), all.clone()] {
        assert_eq!(in_parts(&program), found);
    }
    // Who has changed is asked at once, once all others were.
    (1..=3).for_each(|n| join(&mut mirror, n, ["a", "b"][usize::from(n % 2)]));
    mirror.publish(0);
    assert_eq!(in_parts(&program), all);
}

#[test]
fn everybody_is_asked_in_turn_though_everything_changes_at_each_count() {
    let (index, _mirror, program) = joining(300);
    let nobody = Arc::default();
    let mut counter = Counter::default();
    let mut named: BTreeSet<Uid> = BTreeSet::new();
    for round in 0..4 {
        let limits = Limits {
            back: [format!("ro-{round}")].into(),
            ..by_env()
        };
        let (seen, _) = counter.count(&index.read(), &program, &nobody, &limits, 100);
        named.extend(seen.waiting.into_values().flat_map(|(_, named)| named));
    }
    assert_eq!(named.len(), 300);
}
