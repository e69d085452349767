//! Partitions, which decide by themselves, and how a budget is divided among them.
//!
//! A partition keeps to its quotas by an upper bound of what it has in flight. In each round the controller first has
//! every partition that it can reach say that bound and give its quotas back, and only then gives away what is free. A
//! partition that does not answer keeps what it was given, and that much is not free. Messages may be late, in any order,
//! or lost: a partition counts only in a newer round than its last, and takes only quotas that answer that count, as long
//! as no further wave opens. What the controller knows of quotas is in memory: after a restart it gives nothing away before
//! it has heard from everybody.

use std::collections::{BTreeMap, BTreeSet};

use fleet::budget::{Budget, Domain, Partition, needs_room, split};
use fleet::offer::{Decision, decide};
use fleet::program::{Desired, Program, Reason};
use fleet::rollout::Direction;

use super::{Agent, Doc, Id, World};

/// What is limited together: the agents of one failure domain that one role of one rollout is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    pub rollout: String,
    pub role: String,
    pub domain: String,
}

type Lanes = BTreeMap<Lane, u64>;

/// How long messages are on their way to a partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slow {
    /// The order to count, and to give quotas back. Whoever is late with that has not answered in its round.
    pub count_ms: u64,
    /// New quotas.
    pub quotas_ms: u64,
}

/// What has arrived late.
#[derive(Debug, Default)]
pub struct Heard {
    /// Quotas that still held.
    pub late: u64,
    /// Quotas that answered an older count.
    pub stale: u64,
    /// Orders to count.
    pub counts: u64,
    /// Orders to count of a round that is not newer than the last one.
    pub old_counts: u64,
}

/// A message on its way to a partition.
#[derive(Debug)]
struct Letter {
    due_ms: u64,
    partition: Partition,
    /// The controller's, by which the count has its number.
    round: u64,
    /// That answer the count; none: an order to count.
    quotas: Option<Quotas>,
}

/// Quotas, each with how many waves were open when it was given.
type Quotas = BTreeMap<Lane, (u64, u32)>;

/// Quotas, and what goes into them.
#[derive(Debug, Default)]
pub struct Rooms {
    /// By partition: what it has accepted.
    pub quotas: BTreeMap<Partition, Quotas>,
    /// How often a controller has divided; its successor goes on from there, as in a later term.
    round: u64,
    /// By partition: the newest round that it has counted in.
    counts: BTreeMap<Partition, u64>,
    letters: Vec<Letter>,
    /// Messages to these take their time.
    pub slow: BTreeMap<Partition, Slow>,
    /// Who has not answered in this round.
    silent: BTreeSet<Partition>,
    pub heard: Heard,
    /// By partition: the bound of what it has in flight in this round.
    bounds: BTreeMap<Partition, Lanes>,
    /// What the controller knows.
    told: BTreeMap<Partition, Told>,
    /// New quotas do not arrive here.
    pub deaf: BTreeSet<Partition>,
    /// Agents that were unhealthy when quotas were last given, by domain.
    pub sick: BTreeMap<String, u64>,
    /// Agents that had something in flight then that had waited for no room, by domain.
    pub unasked: BTreeMap<String, u64>,
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

    /// A partition counts, and gives back what it had, unless it has counted in a newer round.
    fn count(&mut self, partition: Partition, round: u64) -> bool {
        let is_newer = round > self.counted(partition);
        if is_newer {
            self.quotas.remove(&partition);
            self.counts.insert(partition, round);
        }
        is_newer
    }

    fn counted(&self, partition: Partition) -> u64 {
        self.counts.get(&partition).copied().unwrap_or(0)
    }

    /// Quotas arrive: those that answer an older count are refused, since what they give may be somebody else's by now.
    fn take(&mut self, partition: Partition, round: u64, quotas: Quotas) -> bool {
        let holds = round == self.counted(partition);
        if holds {
            self.quotas.insert(partition, quotas);
        }
        holds
    }

    /// What was on its way arrives.
    fn deliver(&mut self, now_ms: u64) {
        let letters = std::mem::take(&mut self.letters);
        let (due, later) = letters.into_iter().partition(|l| l.due_ms <= now_ms);
        self.letters = later;
        let due: Vec<Letter> = due;
        for letter in due {
            let (partition, round) = (letter.partition, letter.round);
            match letter.quotas {
                None => match self.count(partition, round) {
                    true => self.heard.counts += 1,
                    false => self.heard.old_counts += 1,
                },
                Some(quotas) => match self.take(partition, round, quotas) {
                    true => self.heard.late += 1,
                    false => self.heard.stale += 1,
                },
            }
        }
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

    /// Has a partition not answered when quotas were last given?
    pub fn is_in_the_dark(&self) -> bool {
        self.is_blind() || !self.rooms.silent.is_empty()
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
        let doc = self.rollouts.get(rollout);
        let free = self.is_back(rollout) && !doc.is_some_and(has_limited_waves);
        (needs_room(&desired.reason) && !free)
            .then(|| self.lane_in(id, rollout, role))
            .flatten()
    }

    /// Is this an open rollout back to an earlier revision? It waits for no room in a domain, and uses it.
    pub fn is_back(&self, rollout: &str) -> bool {
        let doc = self.rollouts.get(rollout);
        doc.is_some_and(|doc| doc.kept.direction == Direction::Back && !doc.kept.state.is_final())
    }

    /// The lane of what is in flight; none: nothing is limited there.
    fn lane_in(&self, id: Id, rollout: &str, role: &str) -> Option<Lane> {
        let doc = self.rollouts.get(rollout);
        let limited = self.budget.is_some() || doc.is_some_and(has_limited_waves);
        limited.then(|| Lane {
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
        let open = self.open_waves(&lane);
        let quotas = self.rooms.quotas.get(&partition);
        let quota = quotas.and_then(|quotas| quotas.get(&lane));
        // What was given for one wave is not used for the next, which may allow less.
        let quota = quota.filter(|(_, waves)| *waves == open).map(|(q, _)| *q);
        let bounds = self.rooms.bounds.entry(partition).or_default();
        let bound = bounds.entry(lane).or_default();
        let has_room = *bound < quota.unwrap_or(0);
        *bound += u64::from(has_room);
        has_room
    }

    /// One round: everybody counts, the controller divides.
    pub fn divide(&mut self, program: &Program) {
        self.rooms.silent.clear();
        let budget = self.budget.clone();
        if budget.is_none() && !self.rollouts.values().any(has_limited_waves) {
            return;
        }
        self.rooms.round += 1;
        let round = self.rooms.round;
        for partition in 0..self.partitions {
            let in_flight = self.in_flight(partition);
            self.rooms.bounds.insert(partition, in_flight.clone());
            let slow = self.rooms.slow.get(&partition).copied().unwrap_or_default();
            if self.unreachable.contains(&partition) || slow.count_ms > 0 {
                self.rooms.silent.insert(partition);
                if slow.count_ms > 0 {
                    self.rooms.letters.push(Letter {
                        due_ms: self.now_ms + slow.count_ms,
                        partition,
                        round,
                        quotas: None,
                    });
                }
                continue;
            }
            self.rooms.count(partition, round);
            let told = Told {
                domains: self.domains(partition),
                most: in_flight,
                waiting: self.waiting(partition, program),
            };
            self.rooms.told.insert(partition, told);
        }
        self.rooms.sick = self.by_domain(is_sick);
        self.rooms.unasked = self.by_domain(|agent| {
            let delivery = agent.delivery.as_ref();
            agent.is_in_flight() && delivery.is_some_and(|d| d.limited.is_none())
        });
        if self.rooms.told.len() == self.partitions as usize {
            let given = self.give(budget.as_ref());
            self.send(given);
        }
        self.rooms.deliver(self.now_ms);
    }

    /// Divides what is free among those that have answered.
    fn give(&mut self, budget: Option<&Budget>) -> BTreeMap<Partition, Quotas> {
        let mut given: BTreeMap<Partition, Quotas> = BTreeMap::new();
        let mut domains: BTreeMap<String, Domain> = BTreeMap::new();
        let mut lanes = BTreeSet::new();
        let mut in_waves: BTreeMap<(String, String), u64> = BTreeMap::new();
        for told in self.rooms.told.values() {
            for (name, seen) in &told.domains {
                let domain = domains.entry(name.clone()).or_default();
                domain.agents += seen.agents;
                domain.unhealthy += seen.unhealthy;
            }
            for (lane, most) in &told.most {
                domains.entry(lane.domain.clone()).or_default().in_flight += most;
                let wave = (lane.rollout.clone(), lane.role.clone());
                *in_waves.entry(wave).or_default() += most;
            }
            lanes.extend(told.waiting.keys().cloned());
        }
        // Ways back first: the others get what they leave.
        let (back, forward): (Vec<Lane>, Vec<Lane>) =
            lanes.into_iter().partition(|l| self.is_back(&l.rollout));
        for lane in back.into_iter().chain(forward) {
            let answered = |p: &Partition| !self.rooms.silent.contains(p);
            let told = self.rooms.told.iter().filter(|(p, _)| answered(p));
            let wants = |told: &Told| told.waiting.get(&lane).copied().unwrap_or(0);
            let demand: BTreeMap<Partition, u64> =
                told.map(|(p, told)| (*p, wants(told))).collect();
            let domain = domains.entry(lane.domain.clone()).or_default();
            let urgent = self.is_urgent(&lane.rollout);
            let budget = budget.filter(|_| !self.is_back(&lane.rollout));
            let in_domain = budget.map(|budget| budget.room(domain, urgent));
            let wave = in_waves.entry((lane.rollout.clone(), lane.role.clone()));
            let wave = wave.or_default();
            let in_wave = self.wave_max(&lane).map(|max| max.saturating_sub(*wave));
            let room = in_domain.into_iter().chain(in_wave).min();
            let more = room.unwrap_or(u64::MAX).min(demand.values().sum());
            domain.in_flight += more;
            *wave += more;
            let open = self.open_waves(&lane);
            for (partition, more) in split(more, &demand) {
                // Known before it is sent: whether it arrives is not known.
                let told = self.rooms.told.entry(partition).or_default();
                let most = told.most.entry(lane.clone()).or_default();
                *most += more;
                if more > 0 {
                    let quotas = given.entry(partition).or_default();
                    quotas.insert(lane.clone(), (*most, open));
                }
            }
        }
        given
    }

    /// Sends quotas: they arrive at once, late, or never.
    fn send(&mut self, given: BTreeMap<Partition, Quotas>) {
        for (partition, quotas) in given {
            if self.rooms.deaf.contains(&partition) {
                continue;
            }
            let round = self.rooms.round;
            let slow = self.rooms.slow.get(&partition).copied().unwrap_or_default();
            match slow.quotas_ms {
                0 => {
                    self.rooms.take(partition, round, quotas);
                }
                late => self.rooms.letters.push(Letter {
                    due_ms: self.now_ms + late,
                    partition,
                    round,
                    quotas: Some(quotas),
                }),
            }
        }
    }

    /// How many waves of a lane's role are open.
    pub fn open_waves(&self, lane: &Lane) -> u32 {
        let doc = self.rollouts.get(&lane.rollout);
        let mut roles = doc.into_iter().flat_map(|doc| &doc.kept.roles);
        let role = roles.find(|role| role.name == lane.role);
        role.map_or(0, |role| role.open_waves)
    }

    /// What the newest open wave of a lane's role allows in flight; none: it has no limit of its own.
    fn wave_max(&self, lane: &Lane) -> Option<u64> {
        let rollout = &self.rollouts.get(&lane.rollout)?.kept;
        let role = rollout.roles.iter().find(|role| role.name == lane.role)?;
        let newest = role.open_waves.checked_sub(1)?;
        let max = rollout.wave(role, newest).max_in_flight;
        (max > 0).then_some(u64::from(max))
    }

    /// What is in flight of a lane's rollout and role, in all domains and partitions.
    pub fn in_wave(&self, lane: &Lane) -> u64 {
        let all = (0..self.partitions).flat_map(|partition| self.in_flight(partition));
        let same = all.filter(|(l, _)| l.rollout == lane.rollout && l.role == lane.role);
        same.map(|(_, in_flight)| in_flight).sum()
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
            // Who was stopped without ever having had an owner counts, too.
            let role = agent.owner.as_ref().map_or("", |(_, role)| role);
            let delivery = agent.delivery.as_ref();
            let lane = delivery.and_then(|d| self.lane_in(id, &d.rollout, role));
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

    /// Live agents that are this, by domain.
    fn by_domain(&self, is: impl Fn(&Agent) -> bool) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        for agent in self.agents.values().filter(|a| !a.deleted && is(a)) {
            *found.entry(self.domain_of(agent)).or_default() += 1;
        }
        found
    }
}

/// Does a wave of it limit what is in flight?
fn has_limited_waves(doc: &Doc) -> bool {
    doc.kept
        .plan
        .waves
        .iter()
        .any(|wave| wave.max_in_flight > 0)
}

fn is_sick(agent: &Agent) -> bool {
    !agent.told_healthy && !agent.is_in_flight()
}
