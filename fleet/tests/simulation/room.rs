//! The budget in the checker's own words: however partitions, controller and messages fail, no failure domain has more
//! in work at once than the budget says.

use std::collections::BTreeMap;

use fleet::program::{Desired, Reason};
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
        if !world.is_in_the_dark() {
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
        let Some(budget) = world.budget.as_ref().filter(|_| seen.waited) else {
            return Ok(());
        };
        let agents = self.0.get(&seen.domain).copied().unwrap_or(0);
        let of = |size: &Size| match size {
            Size::Count(count) => *count,
            Size::Percent(thousandths) => (agents * u64::from(*thousandths) / 100_000).max(1),
        };
        total.limited += 1;
        total.limited_in_the_dark += u64::from(world.is_in_the_dark());
        // Who cannot be reached may have agents that nobody knows to be sick, or to be on their way back.
        let others = match world.is_in_the_dark() {
            true => 0,
            false => seen.sick + seen.unasked,
        };
        total.beside_a_way_back += u64::from(others > seen.sick);
        let taken = seen.ordinary + others;
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

/// Of a wave's rollout and role no more is in flight than the wave says, whatever older waves have left there.
pub fn in_wave(world: &World, desired: &Desired, seen: &Limited, total: &mut Total) -> Result {
    let (Reason::Wave { rollout }, Some((_, role))) = (&desired.reason, &desired.owner) else {
        return Ok(());
    };
    let plan = &world.rollouts[rollout].kept;
    let found = plan.roles.iter().find(|found| found.name == *role);
    let newest = seen.open_waves.checked_sub(1);
    let wave = found.zip(newest).map(|(role, wave)| plan.wave(role, wave));
    let most = u64::from(wave.map_or(0, |wave| wave.max_in_flight));
    if most == 0 {
        return Ok(());
    }
    total.limited_by_waves += 1;
    total.full_waves += u64::from(seen.in_wave == most);
    hold(seen.in_wave <= most, || {
        format!(
            "wave: {} of {role} are in flight in {rollout}, of {most}",
            seen.in_wave
        )
    })
}
