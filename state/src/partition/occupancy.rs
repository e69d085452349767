//! A partition as budgets see it: how many agents each failure domain has, what is in flight, and who waits.

pub mod kept;

use std::collections::{BTreeMap, BTreeSet};

use fleet::budget::{Domain, needs_room};
use fleet::offer::{Decision, State};
use fleet::program::{Program, Reason};
use fleet::selector::Facts;
use proto::store::Link;
use proto::uid::Uid;

use super::listing::Everybody;
use super::next_for;
use super::room::{Lane, Limits};
use crate::inventory::{Columns, Delivery, Row};

/// Agents that are named when there is room again. Whoever is not named asks at its next message.
const NAMED: usize = 1_000;

/// What a look at all agents has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// By value of the budget's label. What is in flight is known by lane.
    pub domains: BTreeMap<String, Domain>,
    /// Agents that something is due for: how many, and the first of them.
    pub waiting: BTreeMap<Lane, (u64, Vec<Uid>)>,
}

/// What a count finds of one agent, by names of type `N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding<N> {
    /// Value of the budget's label.
    domain: N,
    standing: Standing<N>,
}

/// What an agent means to the budget. Lanes as rollout, role and domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing<N> {
    /// Nothing.
    Idle,
    /// It is unhealthy, without anything in flight, and connected.
    Sick,
    /// Something is in flight, whether it waited for room or not; none: nothing is limited there.
    InFlight(Option<(N, N, N)>),
    /// Something is due for it, and it may be unhealthy.
    Waiting { lane: (N, N, N), sick: bool },
}

/// What a count goes by.
struct Asked<'a> {
    everybody: Everybody<'a>,
    program: &'a Program,
    re_offering: &'a BTreeSet<String>,
    limits: &'a Limits,
}

impl Occupancy {
    /// How many wait in this lane.
    pub fn wanted(&self, lane: &Lane) -> u64 {
        self.waiting.get(lane).map_or(0, |(wanted, _)| *wanted)
    }
}

// === impl Finding ===

impl<N> Finding<N> {
    fn is_sick(&self) -> bool {
        match self.standing {
            Standing::Sick => true,
            Standing::Waiting { sick, .. } => sick,
            Standing::Idle | Standing::InFlight(_) => false,
        }
    }
}

// === impl Asked ===

impl<'a> Asked<'a> {
    fn of(
        columns: &'a Columns,
        program: &'a Program,
        re_offering: &'a BTreeSet<String>,
        limits: &'a Limits,
    ) -> Self {
        Asked {
            everybody: Everybody::of(columns, program),
            program,
            re_offering,
            limits,
        }
    }

    /// About an agent whose uid is greater than that of the call before; none: it is counted nowhere. Rests on the row,
    /// the member lists and what is asked by: nothing here asks for the time.
    fn find(&mut self, row: &'a Row) -> Option<Finding<&'a str>> {
        let mut found = self.glance(row)?;
        if may_wait(row)
            && let Some(lane) = self.lane(row)
        {
            let sick = found.is_sick();
            found.standing = Standing::Waiting { lane, sick };
        }
        Some(found)
    }

    /// As [`Asked::find`], but that nothing is taken to be due for anybody. Most of what a count costs is to find what is.
    fn glance(&self, row: &'a Row) -> Option<Finding<&'a str>> {
        if !is_counted(row) {
            return None;
        }
        let name = self.limits.label.as_ref().and_then(|label| row.get(label));
        let standing = match in_flight(row) {
            Some(open) => {
                let domain = self.limits.domain_in(&open.rollout, row);
                Standing::InFlight(domain.map(|domain| (&*open.rollout, &*open.role, domain)))
            }
            None if may_wait(row) && !row.healthy => Standing::Sick,
            None => Standing::Idle,
        };
        Some(Finding {
            domain: name.unwrap_or(""),
            standing,
        })
    }

    /// The lane of the offer that is due for this agent, by borrowed names; none: nothing is, or it is not limited. As
    /// [`Limits::lane`].
    fn lane(&mut self, row: &'a Row) -> Option<(&'a str, &'a str, &'a str)> {
        let desired = self.everybody.desired(row);
        let doubt = row.word.doubt(self.program.epoch.incarnation());
        let Decision::Offer(_) = next_for(row, &desired, doubt, self.re_offering) else {
            return None;
        };
        if !needs_room(&desired.reason) {
            return None;
        }
        let rollout = match desired.reason {
            Reason::Wave { rollout } => rollout,
            _ => "",
        };
        let (_, role) = desired.owner?;
        Some((rollout, role, self.limits.domain_waited_for(rollout, row)?))
    }
}

fn is_counted(row: &Row) -> bool {
    !row.alias && row.link != Link::Left
}

fn in_flight(row: &Row) -> Option<&Delivery> {
    let open = row.delivery.as_ref();
    open.filter(|d| matches!(d.state, State::Offered | State::Applying))
}

/// Something may be due for it. Who is silent asks for nothing: room that is kept for it would be nobody's.
fn may_wait(row: &Row) -> bool {
    is_counted(row) && row.link == Link::Connected && in_flight(row).is_none()
}

#[cfg(test)]
mod tests;
