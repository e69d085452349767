//! A partition as budgets see it: how many agents each failure domain has, what is in flight, and who waits.

use std::collections::BTreeMap;

use fleet::budget::Domain;
use fleet::offer::{Decision, State};
use fleet::selector::Facts;
use proto::edge::notice;
use proto::store::Link;
use proto::uid::Uid;

use super::room::{Lane, Rooms};
use super::{Partition, desired_of, next_for, place_of};

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

impl Partition {
    /// What is limited here, and how far.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Looks at every agent.
    pub fn occupancy(&self) -> Occupancy {
        let limits = self.rooms.limits();
        let program = self.program();
        let re_offering = self.re_offering.load_full();
        let mut seen = Occupancy::default();
        let mut in_flight: BTreeMap<Lane, u64> = BTreeMap::new();
        self.rooms.begin_count();
        let columns = self.index.read();
        let here = |link: Link| link != Link::Left;
        for row in columns.rows.values().filter(|r| !r.alias && here(r.link)) {
            let name = limits.label.as_ref().and_then(|label| row.get(label));
            let name = name.unwrap_or("");
            if !seen.domains.contains_key(name) {
                seen.domains.insert(name.to_owned(), Domain::default());
            }
            let open = row.delivery.as_ref();
            let open = open.filter(|d| matches!(d.state, State::Offered | State::Applying));
            if let Some(domain) = seen.domains.get_mut(name) {
                domain.agents += 1;
                let sick = open.is_none() && !row.healthy && row.link == Link::Connected;
                domain.unhealthy += u64::from(sick);
            }
            if let Some(open) = open {
                if let Some(lane) = limits.lane_in(&open.rollout, &open.role, row) {
                    *in_flight.entry(lane).or_default() += 1;
                }
                continue;
            }
            // Who is silent asks for nothing: room that is kept for it would be nobody's.
            if row.link != Link::Connected {
                continue;
            }
            let place = place_of(&columns, &program, row.uid);
            let desired = desired_of(row, place.as_ref().map(|p| p.borrow()), &program);
            if let Decision::Offer(_) = next_for(row, &desired, &re_offering)
                && let Some(lane) = limits.lane(&desired, row)
            {
                let (wanted, some) = seen.waiting.entry(lane).or_default();
                *wanted += 1;
                if some.len() < NAMED {
                    some.push(row.uid);
                }
            }
        }
        drop(columns);
        self.rooms.end_count(&in_flight);
        seen
    }

    /// Has those asked again that there is room for now.
    pub fn name_waiting(&self, seen: &Occupancy, room: impl Fn(&Lane) -> u64) {
        for (lane, (_, waiting)) in &seen.waiting {
            let room = usize::try_from(room(lane)).unwrap_or(usize::MAX);
            for uid in waiting.iter().take(room) {
                self.tell(*uid, notice::Kind::Pending);
            }
        }
    }
}
