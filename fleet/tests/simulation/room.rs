//! The budget in the checker's own words: however partitions, controller and messages fail, no failure domain has more
//! in work at once than the budget says.

use std::collections::BTreeMap;

use fleet::waves::Size;

use super::Total;
use super::invariants::{Result, hold};
use super::world::{Limited, World};

/// Agents of each failure domain: the most since every partition could be reached. Who cannot be reached keeps a quota
/// that is a share of as many.
#[derive(Default)]
pub struct Domains(BTreeMap<String, u64>);

impl Domains {
    /// After each tick.
    pub fn count(&mut self, world: &World) {
        let mut now: BTreeMap<String, u64> = BTreeMap::new();
        for agent in world.agents.values().filter(|agent| !agent.deleted) {
            *now.entry(world.domain_of(agent)).or_default() += 1;
        }
        if !world.is_blind() {
            self.0.clear();
        }
        for (name, agents) in now {
            let most = self.0.entry(name).or_default();
            *most = agents.max(*most);
        }
    }

    /// An offer that needed room was made.
    pub fn offered(&mut self, world: &World, seen: &Limited, total: &mut Total) -> Result {
        self.count(world);
        let Some(budget) = &world.budget else {
            return Ok(());
        };
        let agents = self.0.get(&seen.domain).copied().unwrap_or(0);
        let of = |size: &Size| match size {
            Size::Count(count) => *count,
            Size::Percent(thousandths) => (agents * u64::from(*thousandths) / 100_000).max(1),
        };
        total.limited += 1;
        total.limited_in_the_dark += u64::from(world.is_blind());
        // Who cannot be reached may have agents that nobody knows to be sick.
        let sick = if world.is_blind() { 0 } else { seen.sick };
        let taken = seen.ordinary + sick;
        let most = of(&budget.size);
        hold(seen.urgent_now || taken <= most, || {
            format!(
                "budget: {taken} of {most} are taken in domain {}",
                seen.domain
            )
        })?;
        let (taken, most) = (taken + seen.urgent, of(&budget.urgent));
        let most = if seen.urgent > 0 {
            most
        } else {
            of(&budget.size)
        };
        hold(taken <= most, || {
            format!(
                "budget: {taken} of {most} are taken in domain {}, urgent ones too",
                seen.domain
            )
        })
    }
}
