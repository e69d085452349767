//! How many agents may be in work or broken at once, over all rollouts, per failure domain; and how that number is
//! divided among partitions that decide by themselves.
//!
//! A failure domain is all agents with the same value of one label (a zone, a cluster); agents without it are one domain
//! of their own. What is free in a domain is the budget less the agents that are unhealthy already, whoever broke
//! them, and less those that any rollout has in flight. A rollback needs no room: agents that are broken by what it takes
//! back would otherwise keep it from taking it back. It uses room all the same: what it has in flight is not free for
//! others. So it is with a whole rollout back to an earlier revision.

use std::collections::BTreeMap;

use crate::program::Reason;
use crate::waves::{Size, WHOLE};

/// Of how many agents of a domain may be in work or broken at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The label or attribute whose values are the failure domains.
    pub label: String,
    /// For ordinary rollouts: a count, or a share of the domain.
    pub size: Size,
    /// For urgent ones.
    pub urgent: Size,
}

/// A failure domain as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// Agents in it.
    pub agents: u64,
    /// Unhealthy and not in flight.
    pub unhealthy: u64,
    /// Offered something and without an outcome, over all rollouts.
    pub in_flight: u64,
}

/// A partition's number.
pub type Partition = u32;

/// May only be sent when there is room? A rollback, a pin and the stop that a person ordered need none; what they have in
/// flight counts.
pub fn needs_room<S>(reason: &Reason<S>) -> bool {
    // *Waiting* is who gets stable while its wave has not begun: it was away, and converges under the same budget.
    matches!(
        reason,
        Reason::Wave { .. } | Reason::Stable | Reason::Waiting { .. }
    )
}

impl Default for Budget {
    /// A quarter of each zone; half of it when it is urgent.
    fn default() -> Self {
        Budget {
            label: "zone".to_owned(),
            size: Size::Percent(25_000),
            urgent: Size::Percent(50_000),
        }
    }
}

impl Budget {
    /// How many agents of this domain may be in work or broken. At least one: a domain of one agent has to be changed,
    /// too.
    pub fn limit(&self, agents: u64, urgent: bool) -> u64 {
        let size = if urgent { self.urgent } else { self.size };
        let limit = match size {
            Size::Count(count) => count,
            Size::Percent(percent) => agents * u64::from(percent) / u64::from(WHOLE),
        };
        limit.max(1)
    }

    /// How many more offers this domain bears now.
    pub fn room(&self, domain: &Domain, urgent: bool) -> u64 {
        let taken = domain.unhealthy + domain.in_flight;
        self.limit(domain.agents, urgent).saturating_sub(taken)
    }

    /// The budget of one rollout in one domain: what it has in flight there and what is free, but not more than its
    /// wave allows (0: no limit).
    pub fn of_rollout(
        &self,
        domain: &Domain,
        own_in_flight: u64,
        urgent: bool,
        wave_max: u32,
    ) -> u64 {
        let budget = own_in_flight + self.room(domain, urgent);
        match wave_max {
            0 => budget,
            max => budget.min(u64::from(max)),
        }
    }
}

/// Divides a budget among partitions by their demand (members that still have no outcome): by largest remainder, ties
/// to the lower number. Sums to the budget, unless nobody has any demand.
pub fn split(budget: u64, demand: &BTreeMap<Partition, u64>) -> BTreeMap<Partition, u64> {
    let total: u64 = demand.values().sum();
    if total == 0 {
        return demand.keys().map(|partition| (*partition, 0)).collect();
    }
    let whole = |demand: u64| u128::from(budget) * u128::from(demand);
    let mut quotas: BTreeMap<Partition, u64> = BTreeMap::new();
    let mut remainders = Vec::new();
    for (partition, demand) in demand {
        let share = whole(*demand) / u128::from(total);
        quotas.insert(*partition, u64::try_from(share).unwrap_or(u64::MAX));
        let remainder = whole(*demand) % u128::from(total);
        remainders.push((std::cmp::Reverse(remainder), *partition));
    }
    remainders.sort_unstable();
    let given: u64 = quotas.values().sum();
    let left = usize::try_from(budget - given).unwrap_or(usize::MAX);
    // Fewer are left than partitions have a remainder, so each gets at most one.
    for (_, partition) in remainders.iter().take(left) {
        *quotas.entry(*partition).or_default() += 1;
    }
    quotas
}

/// The next quotas on the way from those that partitions have accepted to a new division. A giver is lowered first; a
/// taker gets only what givers have accepted to lose, so that all quotas together never exceed the budget.
pub fn hand_over(
    accepted: &BTreeMap<Partition, u64>,
    target: &BTreeMap<Partition, u64>,
) -> BTreeMap<Partition, u64> {
    let of = |quotas: &BTreeMap<Partition, u64>, p: &Partition| quotas.get(p).copied().unwrap_or(0);
    let budget: u64 = target.values().sum();
    let mut free = budget.saturating_sub(accepted.values().sum());
    let mut partitions: Vec<Partition> = accepted.keys().chain(target.keys()).copied().collect();
    partitions.sort_unstable();
    partitions.dedup();
    let next = |partition: Partition| {
        let (has, gets) = (of(accepted, &partition), of(target, &partition));
        let raise = gets.saturating_sub(has).min(free);
        free -= raise;
        (partition, gets.min(has) + raise)
    };
    partitions.into_iter().map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn agents_that_are_broken_already_use_the_budget_up() {
        let budget = Budget::default();
        let healthy = Domain {
            agents: 100,
            ..Domain::default()
        };
        assert_eq!(budget.room(&healthy, false), 25);
        assert_eq!(budget.room(&healthy, true), 50);
        let sick = Domain {
            unhealthy: 20,
            in_flight: 4,
            ..healthy
        };
        assert_eq!(budget.room(&sick, false), 1);
        assert_eq!(budget.of_rollout(&sick, 4, false, 0), 5);
        assert_eq!(budget.of_rollout(&sick, 4, false, 2), 2);
        let broken = Domain {
            unhealthy: 90,
            ..healthy
        };
        assert_eq!(budget.room(&broken, true), 0);
    }

    #[test]
    fn a_domain_of_one_agent_can_be_changed() {
        let counted = Budget {
            size: Size::Count(3),
            ..Budget::default()
        };
        assert_eq!(Budget::default().limit(1, false), 1);
        assert_eq!(counted.limit(1_000, false), 3);
    }

    #[test]
    fn going_back_needs_no_room() {
        let rollout = || "ro-1".to_owned();
        assert!(needs_room(&Reason::Wave { rollout: rollout() }));
        assert!(needs_room(&Reason::<String>::Stable));
        assert!(needs_room(&Reason::Waiting { rollout: rollout() }));
        assert!(!needs_room(&Reason::RolledBack { rollout: rollout() }));
    }

    #[test]
    fn quotas_go_to_who_has_members_left() {
        let demand = BTreeMap::from([(0, 10), (1, 0), (2, 20)]);
        assert_eq!(split(4, &demand), BTreeMap::from([(0, 1), (1, 0), (2, 3)]));
        let nobody = BTreeMap::from([(0, 0)]);
        assert_eq!(split(4, &nobody), nobody);
    }

    #[test]
    fn a_taker_waits_until_the_giver_has_accepted_less() {
        let accepted = BTreeMap::from([(0, 4), (1, 0)]);
        let target = BTreeMap::from([(0, 1), (1, 3)]);
        let first = hand_over(&accepted, &target);
        assert_eq!(first, BTreeMap::from([(0, 1), (1, 0)]));
        assert_eq!(hand_over(&first, &target), target);
    }

    proptest! {
        #[test]
        fn quotas_sum_to_the_budget(budget in 0u64..1_000, demand in proptest::collection::btree_map(0u32..16, 0u64..500, 1..9)) {
            let quotas = split(budget, &demand);
            let total: u64 = demand.values().sum();
            prop_assert_eq!(quotas.values().sum::<u64>(), if total == 0 { 0 } else { budget });
        }

        #[test]
        fn quotas_on_their_way_never_exceed_the_budget_and_arrive(
            old in proptest::collection::btree_map(0u32..8, 0u64..50, 1..8),
            new in proptest::collection::btree_map(0u32..8, 0u64..50, 1..8),
        ) {
            let budget: u64 = old.values().sum::<u64>().max(new.values().sum());
            let mut quotas = old;
            for _ in 0..3 {
                // Old and new numbers may be in force at once: a partition has accepted either.
                let next = hand_over(&quotas, &new);
                let worst: u64 = next.iter().map(|(p, n)| (*n).max(quotas.get(p).copied().unwrap_or(0))).sum();
                prop_assert!(worst <= budget);
                quotas = next;
            }
            prop_assert!(new.iter().all(|(p, n)| quotas.get(p) == Some(n)));
        }
    }
}
