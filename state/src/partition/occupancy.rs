//! A partition as budgets see it: how many agents each failure domain has, what is in flight, and who waits.

use std::collections::{BTreeMap, BTreeSet};

use fleet::budget::{Domain, needs_room};
use fleet::offer::{Decision, State};
use fleet::program::{Desired, Program, Reason};
use fleet::selector::Facts;
use proto::store::Link;
use proto::uid::Uid;

use super::listing::Everybody;
use super::next_for;
use super::room::{Lane, Limits};
use crate::inventory::{Columns, Row};

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

/// Looks at every agent: what budgets have to know, and what is in flight by lane. `re_offering`: families that send
/// once more what an agent has drifted from.
pub fn count(
    columns: &Columns,
    program: &Program,
    re_offering: &BTreeSet<String>,
    limits: &Limits,
) -> (Occupancy, BTreeMap<Lane, u64>) {
    let mut everybody = Everybody::of(columns, program);
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
        if let Decision::Offer(_) = next_for(row, &desired, doubt, re_offering)
            && let Some(lane) = lane(limits, &desired, row)
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
    (seen, in_flight)
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
