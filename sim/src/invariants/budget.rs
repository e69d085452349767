//! The budget: of a failure domain, over all partitions, no more agents are in work at once than it says.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::digest::Digest;
use proto::store::{self, DeliveryState};

use super::{Fact, Invariant, Verdict, hold};
use crate::agent::zone_of;
use crate::ledger::Ledger;
use crate::program::delivery;
use crate::types::{CONTROL, GroupId};

#[derive(Debug, Default)]
pub struct Budget {
    /// So many may be in work in each zone; none: as many as one likes.
    in_work: Option<u64>,
    /// Each partition, after so many entries.
    partitions: BTreeMap<GroupId, (u64, Arc<Ledger>)>,
    /// In how many looks a zone was full.
    pub full: u64,
}

impl Budget {
    pub fn check(&mut self, fact: &Fact) -> Verdict {
        match fact {
            Fact::Limited { in_work } => self.in_work = Some(*in_work),
            Fact::Applied {
                group,
                applied,
                ledger,
                ..
            } if *group != CONTROL && self.in_work.is_some() => {
                let (newest, partition) = self.partitions.entry(*group).or_default();
                if *applied > *newest {
                    (*newest, *partition) = (*applied, Arc::clone(ledger));
                    return self.is_kept();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn is_kept(&mut self) -> Verdict {
        let Some(limit) = self.in_work else {
            return Ok(());
        };
        let agents = self
            .partitions
            .values()
            .flat_map(|(_, ledger)| ledger.agents());
        let in_work = agents.filter(|(_, _, record)| is_in_work(record));
        let mut zones: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (agent, ..) in in_work {
            zones.entry(zone_of(agent)).or_default().push(agent);
        }
        self.full += u64::from(zones.values().any(|agents| agents.len() as u64 == limit));
        zones.into_iter().try_for_each(|(zone, agents)| {
            hold(agents.len() as u64 <= limit, Invariant::Budget, || {
                format!("in zone {zone} {agents:?} are in work, and {limit} may be")
            })
        })
    }
}

/// Was it offered something that has no outcome yet? What goes back waits for no room.
fn is_in_work(record: &store::Agent) -> bool {
    let Some(last) = &record.delivery else {
        return false;
    };
    let is_open = matches!(
        last.state(),
        DeliveryState::Offered | DeliveryState::Applying
    );
    is_open && !goes_back(last)
}

/// In a rollout it was offered something else than that brings.
fn goes_back(last: &store::Delivery) -> bool {
    let target = last.rollout.rsplit_once('-');
    let target = target.and_then(|(family, number)| Some(delivery(family, number.parse().ok()?)));
    target.is_some_and(|target| Digest::from_slice(&last.hash) != Some(target))
}
