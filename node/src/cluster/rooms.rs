//! Rooms and quotas as they travel between nodes.

use std::collections::BTreeMap;

use fleet::budget::Domain;
use proto::cluster::{self, Held, LaneNumber};

use crate::partition::room::Lane;
use crate::partition::{Counted, Occupancy};

/// What a leader has counted.
pub fn to_wire(counted: &Counted) -> Held {
    let domain = |(name, domain): (&String, &Domain)| cluster::Domain {
        name: name.clone(),
        agents: domain.agents,
        unhealthy: domain.unhealthy,
    };
    let waiting = counted.occupancy.waiting.iter();
    Held {
        domains: counted.occupancy.domains.iter().map(domain).collect(),
        waiting: waiting.map(|(lane, (n, _))| number(lane, *n)).collect(),
        bounds: numbers(&counted.bounds),
        count: counted.number.unwrap_or(0),
    }
}

/// What another node's leader has counted. Whom it would name, it keeps to itself.
pub fn from_wire(held: Held) -> Counted {
    let domain = |domain: cluster::Domain| {
        let counted = Domain {
            agents: domain.agents,
            unhealthy: domain.unhealthy,
            in_flight: 0,
        };
        (domain.name, counted)
    };
    let waiting = lanes(held.waiting).into_iter();
    Counted {
        occupancy: Occupancy {
            domains: held.domains.into_iter().map(domain).collect(),
            waiting: waiting.map(|(lane, n)| (lane, (n, vec![]))).collect(),
        },
        bounds: lanes(held.bounds),
        number: Some(held.count),
    }
}

/// By lane.
pub fn numbers(lanes: &BTreeMap<Lane, u64>) -> Vec<LaneNumber> {
    lanes.iter().map(|(lane, n)| number(lane, *n)).collect()
}

/// By lane.
pub fn lanes(numbers: Vec<LaneNumber>) -> BTreeMap<Lane, u64> {
    let lane = |number: LaneNumber| {
        let lane = number.lane.unwrap_or_default();
        let lane = Lane {
            rollout: lane.rollout,
            role: lane.role,
            domain: lane.domain,
        };
        (lane, number.number)
    };
    numbers.into_iter().map(lane).collect()
}

fn number(lane: &Lane, number: u64) -> LaneNumber {
    let lane = cluster::Lane {
        rollout: lane.rollout.clone(),
        role: lane.role.clone(),
        domain: lane.domain.clone(),
    };
    LaneNumber {
        lane: Some(lane),
        number,
    }
}
