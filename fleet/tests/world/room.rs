//! Partitions, which decide by themselves, and how a budget is divided among them.
//!
//! A partition keeps to its quotas by an upper bound of what it has in flight. In each round the controller first has
//! every partition that it can reach say that bound and give its quotas back, and only then gives away what is free. A
//! partition that it cannot reach keeps what it was given, and that much is not free. What the controller knows of quotas is in
//! memory: after a restart it gives nothing away before it has heard from everybody.

use std::collections::{BTreeMap, BTreeSet};

use fleet::budget::{Domain, Partition, needs_room, split};
use fleet::offer::{Decision, decide};
use fleet::program::{Desired, Program, Reason};
use fleet::rollout::Direction;

use super::{Agent, Id, World};

/// What is limited together: the agents of one failure domain that one role of one rollout is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    pub rollout: String,
    pub role: String,
    pub domain: String,
}

type Lanes = BTreeMap<Lane, u64>;

/// Quotas, and what goes into them.
#[derive(Debug, Default)]
pub struct Rooms {
    /// By partition: what it has accepted.
    pub quotas: BTreeMap<Partition, Lanes>,
    /// By partition: the bound of what it has in flight in this round.
    bounds: BTreeMap<Partition, Lanes>,
    /// What the controller knows.
    told: BTreeMap<Partition, Told>,
    /// New quotas do not arrive here.
    pub deaf: BTreeSet<Partition>,
    /// Agents that were unhealthy when quotas were last given, by domain.
    pub sick: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Told {
    /// Agents and unhealthy ones by domain.
    domains: BTreeMap<String, Domain>,
    /// The most that it may have in flight.
    most: Lanes,
    waiting: Lanes,
}

impl Rooms {
    /// The controller's memory is gone.
    pub fn forget(&mut self) {
        self.told.clear();
    }
}

impl World {
    pub fn partition(&self, id: Id) -> Partition {
        id % self.partitions
    }

    /// A partition cannot be read.
    pub fn is_blind(&self) -> bool {
        !self.unreachable.is_empty()
    }

    /// The failure domain of an agent.
    pub fn domain_of(&self, agent: &Agent) -> String {
        let label = self.budget.as_ref().map(|budget| &budget.label);
        let value = label.and_then(|label| agent.labels.get(label));
        value.cloned().unwrap_or_default()
    }

    /// The lane of an offer; none: it is not limited.
    pub fn lane(&self, id: Id, desired: &Desired) -> Option<Lane> {
        let rollout = match &desired.reason {
            Reason::Wave { rollout } => rollout.as_str(),
            _ => "",
        };
        let (_, role) = desired.owner.as_ref()?;
        let limited = self.budget.is_some() && needs_room(&desired.reason);
        limited.then(|| self.lane_in(id, rollout, role)).flatten()
    }

    fn lane_in(&self, id: Id, rollout: &str, role: &str) -> Option<Lane> {
        let doc = self.rollouts.get(rollout);
        let back = doc.is_some_and(|doc| doc.kept.direction == Direction::Back);
        (!back).then(|| Lane {
            rollout: rollout.to_owned(),
            role: role.to_owned(),
            domain: self.domain_of(&self.agents[&id]),
        })
    }

    /// Takes room for one more offer, if there is some.
    pub fn take_room(&mut self, id: Id, desired: &Desired) -> bool {
        let Some(lane) = self.lane(id, desired) else {
            return true;
        };
        let partition = self.partition(id);
        let quotas = self.rooms.quotas.get(&partition);
        let quota = quotas.and_then(|quotas| quotas.get(&lane)).copied();
        let bounds = self.rooms.bounds.entry(partition).or_default();
        let bound = bounds.entry(lane).or_default();
        let has_room = *bound < quota.unwrap_or(0);
        *bound += u64::from(has_room);
        has_room
    }

    /// One round: everybody counts, the controller divides.
    pub fn divide(&mut self, program: &Program) {
        let Some(budget) = self.budget.clone() else {
            return;
        };
        for partition in 0..self.partitions {
            let in_flight = self.in_flight(partition);
            self.rooms.bounds.insert(partition, in_flight.clone());
            if self.unreachable.contains(&partition) {
                continue;
            }
            self.rooms.quotas.remove(&partition);
            let told = Told {
                domains: self.domains(partition),
                most: in_flight,
                waiting: self.waiting(partition, program),
            };
            self.rooms.told.insert(partition, told);
        }
        self.rooms.sick = self.sick();
        if self.rooms.told.len() < self.partitions as usize {
            return;
        }
        let mut domains: BTreeMap<String, Domain> = BTreeMap::new();
        let mut lanes = BTreeSet::new();
        for told in self.rooms.told.values() {
            for (name, seen) in &told.domains {
                let domain = domains.entry(name.clone()).or_default();
                domain.agents += seen.agents;
                domain.unhealthy += seen.unhealthy;
            }
            for (lane, most) in &told.most {
                domains.entry(lane.domain.clone()).or_default().in_flight += most;
            }
            lanes.extend(told.waiting.keys().cloned());
        }
        let reached = |p: &Partition| !self.unreachable.contains(p);
        for lane in lanes {
            let told = self.rooms.told.iter().filter(|(p, _)| reached(p));
            let wants = |told: &Told| told.waiting.get(&lane).copied().unwrap_or(0);
            let demand: BTreeMap<Partition, u64> =
                told.map(|(p, told)| (*p, wants(told))).collect();
            let domain = domains.entry(lane.domain.clone()).or_default();
            let urgent = self.is_urgent(&lane.rollout);
            let more = budget.room(domain, urgent).min(demand.values().sum());
            domain.in_flight += more;
            for (partition, more) in split(more, &demand) {
                // Known before it is sent: whether it arrives is not known.
                let told = self.rooms.told.entry(partition).or_default();
                let most = told.most.entry(lane.clone()).or_default();
                *most += more;
                if more > 0 && !self.rooms.deaf.contains(&partition) {
                    let quotas = self.rooms.quotas.entry(partition).or_default();
                    quotas.insert(lane.clone(), *most);
                }
            }
        }
    }

    pub fn is_urgent(&self, rollout: &str) -> bool {
        let doc = self.rollouts.get(rollout);
        doc.is_some_and(|doc| doc.kept.plan.urgent)
    }

    fn of_partition(&self, partition: Partition) -> impl Iterator<Item = (Id, &Agent)> {
        let here = move |id: &Id| self.partition(*id) == partition;
        let live = self.agents.iter().filter(|(_, agent)| !agent.deleted);
        live.map(|(id, agent)| (*id, agent))
            .filter(move |(id, _)| here(id))
    }

    fn in_flight(&self, partition: Partition) -> Lanes {
        let mut lanes = Lanes::new();
        let open = self
            .of_partition(partition)
            .filter(|(_, a)| a.is_in_flight());
        for (id, agent) in open {
            let delivery = agent.delivery.as_ref().zip(agent.owner.as_ref());
            let lane = delivery.and_then(|(d, (_, role))| self.lane_in(id, &d.rollout, role));
            if let Some(lane) = lane {
                *lanes.entry(lane).or_default() += 1;
            }
        }
        lanes
    }

    fn domains(&self, partition: Partition) -> BTreeMap<String, Domain> {
        let mut domains: BTreeMap<String, Domain> = BTreeMap::new();
        for (_, agent) in self.of_partition(partition) {
            let domain = domains.entry(self.domain_of(agent)).or_default();
            domain.agents += 1;
            domain.unhealthy += u64::from(is_sick(agent));
        }
        domains
    }

    fn waiting(&self, partition: Partition, program: &Program) -> Lanes {
        let mut lanes = Lanes::new();
        for (id, agent) in self.of_partition(partition) {
            if agent.left || agent.is_lost(self.now_ms) || agent.is_in_flight() {
                continue;
            }
            let wants = self.desired(id, program);
            let situation = self.situation(id, &wants, true);
            let lane = self.lane(id, &wants);
            if let (Decision::Offer(_), Some(lane)) = (decide(&situation), lane) {
                *lanes.entry(lane).or_default() += 1;
            }
        }
        lanes
    }

    fn sick(&self) -> BTreeMap<String, u64> {
        let mut sick = BTreeMap::new();
        for agent in self.agents.values().filter(|a| !a.deleted && is_sick(a)) {
            *sick.entry(self.domain_of(agent)).or_default() += 1;
        }
        sick
    }
}

fn is_sick(agent: &Agent) -> bool {
    !agent.told_healthy && !agent.is_in_flight()
}
