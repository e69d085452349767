//! A partition as budgets see it: how many agents each failure domain has, what is in flight, and who waits.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use fleet::budget::{Domain, needs_room};
use fleet::offer::{Decision, State};
use fleet::program::{Desired, Reason};
use fleet::selector::Facts;
use proto::edge::notice;
use proto::store::Link;
use proto::uid::Uid;

use super::listing::Everybody;
use super::room::{Lane, Limits, QUOTA_LIFE, Rooms};
use super::{Partition, millis, next_for};
use crate::inventory::Row;

/// Agents that are named when there is room again. Whoever is not named asks at its next message.
const NAMED: usize = 1_000;

/// What a look at all agents has found.
#[derive(Debug, Default)]
pub struct Occupancy {
    /// By value of the budget's label. What is in flight is known by lane.
    pub domains: BTreeMap<String, Domain>,
    /// Agents that something is due for: how many, and the first of them.
    pub waiting: BTreeMap<Lane, (u64, Vec<Uid>)>,
}

impl Occupancy {
    /// How many wait in this lane.
    pub fn wanted(&self, lane: &Lane) -> u64 {
        self.waiting.get(lane).map_or(0, |(wanted, _)| *wanted)
    }
}

/// A count, and the upper bound of what is in flight since it was made.
#[derive(Debug, Default)]
pub struct Counted {
    /// What was seen.
    pub occupancy: Occupancy,
    /// By lane.
    pub bounds: BTreeMap<Lane, u64>,
    /// Its number, which the quotas that answer it name. None: the leader has not counted, and takes no quotas.
    pub number: Option<u64>,
}

/// A count that waits for its quotas.
#[derive(Debug)]
pub(super) struct Waiting {
    number: u64,
    /// When it was made, by this partition's clock.
    at_ms: u64,
    /// Whom to ask again when there is room.
    named: BTreeMap<Lane, Vec<Uid>>,
}

/// What is limited in a partition, all its lanes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Agents that may be in flight.
    pub quota: u64,
    /// The upper bound of those that are.
    pub in_flight: u64,
    /// Agents that something was due for when they were counted last.
    pub wanted: u64,
}

impl Partition {
    /// What is limited now. None: nothing is, or this node does not lead.
    pub fn room(&self) -> Option<Room> {
        if !self.leads() || self.rooms.limits().is_empty() {
            return None;
        }
        let holds = self.quotas_until_ms.load(Ordering::SeqCst) >= self.monotonic_ms();
        let given = self.given.load(Ordering::Relaxed);
        Some(Room {
            quota: if holds { given } else { 0 },
            in_flight: self.rooms.in_flight(),
            wanted: self.wanted.load(Ordering::Relaxed),
        })
    }

    /// Counts, and grants nothing more in any lane until [`Partition::open_rooms`]. Whom it would name is kept here.
    pub fn hold_rooms(&self) -> Counted {
        let mut occupancy = self.occupancy();
        let wanted = occupancy.waiting.values().map(|(wanted, _)| wanted).sum();
        self.wanted.store(wanted, Ordering::Relaxed);
        let bounds = self.rooms.hold();
        let named =
            |(lane, (_, uids)): (&Lane, &mut (u64, Vec<Uid>))| (lane.clone(), std::mem::take(uids));
        let number = self.counts.fetch_add(1, Ordering::SeqCst);
        *self.waiting() = Some(Waiting {
            number,
            at_ms: self.monotonic_ms(),
            named: occupancy.waiting.iter_mut().map(named).collect(),
        });
        Counted {
            occupancy,
            bounds,
            number: Some(number),
        }
    }

    /// What this replica has of a partition that is led elsewhere and does not answer; its leader may have granted up
    /// to these quotas meanwhile. Nobody in it waits for anything.
    pub fn seen_here(&self, quotas: &BTreeMap<Lane, u64>) -> Counted {
        let mut occupancy = self.occupancy();
        occupancy.waiting.clear();
        let mut bounds = self.rooms.hold();
        for (lane, quota) in quotas {
            let bound = bounds.entry(lane.clone()).or_default();
            *bound = (*bound).max(*quota);
        }
        Counted {
            occupancy,
            bounds,
            number: None,
        }
    }

    /// New quotas, good for [`super::room::QUOTA_LIFE`] since the count that they answer; whoever waits for what is new in
    /// them is asked again. A leader that has not counted since it began to lead takes none: it would not know what is in
    /// flight. Nor are quotas taken that answer an older count: they come late, and what they give may be somebody
    /// else's by now. `count` 0: from a node whose counts have no numbers.
    pub fn open_rooms(&self, count: u64, quotas: &BTreeMap<Lane, u64>) {
        let answered = |waiting: &mut Waiting| count == 0 || waiting.number == count;
        let mut counted = self.waiting();
        let Some(waiting) = counted.take_if(answered) else {
            return;
        };
        // Before anybody else finds that the count was answered: see [`Partition::take_program`].
        let bounds = self.rooms.open(quotas);
        drop(counted);
        let given = quotas
            .values()
            .fold(0u64, |sum, quota| sum.saturating_add(*quota));
        self.given.store(given, Ordering::Relaxed);
        let until = waiting.at_ms + millis(QUOTA_LIFE);
        self.quotas_until_ms.store(until, Ordering::SeqCst);
        for (lane, waiting) in waiting.named {
            let quota = quotas.get(&lane).copied().unwrap_or(0);
            let room = quota.saturating_sub(bounds.get(&lane).copied().unwrap_or(0));
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            for uid in waiting.iter().take(room) {
                self.tell(*uid, notice::Kind::Pending);
            }
        }
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Quotas that were not renewed in time are none: whoever gave them may be somebody else by now.
    pub(super) fn expire_rooms(&self) {
        if self.quotas_until_ms.load(Ordering::SeqCst) < self.monotonic_ms() {
            self.rooms.hold();
        }
    }

    /// What is limited here, and how far.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Looks at every agent.
    pub fn occupancy(&self) -> Occupancy {
        let limits = self.rooms.limits();
        let program = self.program();
        let re_offering = self.re_offering.load_full();
        self.rooms.begin_count();
        let columns = self.index.read();
        let mut everybody = Everybody::of(&columns, &program);
        // By borrowed names: rollout, role, domain.
        let mut in_flight: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
        let mut waiting: BTreeMap<(&str, &str, &str), (u64, Vec<Uid>)> = BTreeMap::new();
        let mut domains: BTreeMap<&str, Domain> = BTreeMap::new();
        let here = |link: Link| link != Link::Left;
        for row in columns.rows.values().filter(|r| !r.alias && here(r.link)) {
            let open = row.delivery.as_ref();
            let open = open.filter(|d| matches!(d.state, State::Offered | State::Applying));
            let name = limits.label.as_ref().and_then(|label| row.get(label));
            let domain = domains.entry(name.unwrap_or("")).or_default();
            domain.agents += 1;
            let sick = open.is_none() && !row.healthy && row.link == Link::Connected;
            domain.unhealthy += u64::from(sick);
            if let Some(open) = open {
                if let Some(domain) = limits.domain_in(&open.rollout, row) {
                    let lane = (&*open.rollout, &*open.role, domain);
                    *in_flight.entry(lane).or_default() += 1;
                }
                continue;
            }
            // Who is silent asks for nothing: room that is kept for it would be nobody's.
            if row.link != Link::Connected {
                continue;
            }
            let desired = everybody.desired(row);
            let doubt = row.word.doubt(program.epoch.incarnation());
            if let Decision::Offer(_) = next_for(row, &desired, doubt, &re_offering)
                && let Some(lane) = lane(&limits, &desired, row)
            {
                let (wanted, some) = waiting.entry(lane).or_default();
                *wanted += 1;
                if some.len() < NAMED {
                    some.push(row.uid);
                }
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
        drop(columns);
        self.rooms.end_count(&in_flight);
        seen
    }
}

/// As [`Limits::lane`], by borrowed names.
fn lane<'d>(
    limits: &Limits,
    desired: &Desired<&'d str>,
    row: &'d Row,
) -> Option<(&'d str, &'d str, &'d str)> {
    if !needs_room(&desired.reason) {
        return None;
    }
    let rollout = match desired.reason {
        Reason::Wave { rollout } => rollout,
        _ => "",
    };
    let (_, role) = desired.owner?;
    Some((rollout, role, limits.domain_in(rollout, row)?))
}
