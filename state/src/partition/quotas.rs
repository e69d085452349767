//! What may be in work at once, divided among rollouts, failure domains and partitions: what a controller gives, and what
//! it has given.
//!
//! The limits are [`fleet::budget`]'s; a partition keeps to its part by [`super::room`].

use std::collections::{BTreeMap, BTreeSet};

use fleet::budget::{Budget, Domain, Partition as Number, split};

use super::counting::Count;
use super::millis;
use super::occupancy::Occupancy;
use super::room::{Lane, QUOTA_LIFE};

/// By rollout and role: how many may be in flight in its open waves.
pub type WaveLimits = BTreeMap<(String, String), u64>;

/// What the documents say about limits.
#[derive(Default)]
pub struct Rules {
    /// Of every failure domain, if there is one.
    pub budget: Option<Budget>,
    /// Of roles whose newest wave has a limit.
    pub waves: WaveLimits,
    /// Rollouts that may use more of the budget.
    pub urgent: BTreeSet<String>,
    /// Rollouts back to an earlier revision: they wait for no room in a domain, and use it.
    pub back: BTreeSet<String>,
}

/// What this controller has given, for partitions that cannot be asked. Times are milliseconds of its monotonic clock.
pub struct Given {
    /// The term in which it leads, and how often it has divided in it: no other controller has the same.
    term: u64,
    rounds: u32,
    /// Since when this controller divides: what another one gave before may still hold.
    since_ms: u64,
    last: Vec<Option<(u64, BTreeMap<Lane, u64>)>>,
}

impl Given {
    /// Nothing yet, from now on.
    pub fn nothing(now_ms: u64) -> Self {
        Given {
            term: 0,
            rounds: 0,
            since_ms: now_ms,
            last: vec![],
        }
    }

    /// This node leads the control group in this term. What it has given it knows as long as that is the same: nobody else
    /// has led in between.
    pub fn leads_in(&mut self, term: u64, now_ms: u64) {
        if self.term != term {
            *self = Given {
                term,
                ..Given::nothing(now_ms)
            };
        }
    }

    /// In which it leads.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// The next round's.
    pub fn count(&mut self) -> Count {
        self.rounds += 1;
        Count::of(self.term, self.rounds)
    }

    /// Quotas that are about to be sent to who has answered, with what each has in flight: an answer of theirs that is lost
    /// may have arrived. Whoever has not answered gets none, and may use what it was given before.
    pub fn renew(
        &mut self,
        answered: &[Option<u64>],
        bounds: &[BTreeMap<Lane, u64>],
        quotas: &[BTreeMap<Lane, u64>],
        now_ms: u64,
    ) {
        self.last.resize(quotas.len(), None);
        let told = answered.iter().zip(bounds).zip(quotas);
        for (last, ((answered, bounds), quotas)) in self.last.iter_mut().zip(told) {
            if answered.is_none() {
                continue;
            }
            let mut most = quotas.clone();
            for (lane, bound) in bounds {
                let most = most.entry(lane.clone()).or_default();
                *most = (*most).max(*bound);
            }
            *last = Some((now_ms, most));
        }
    }

    /// What a partition that does not answer may have in flight beyond what is stored here: its leader may be cut off from
    /// this node only, and then grants as long as its quotas live, and has offers open for `offers_live_ms` after that.
    /// None: that is not known.
    pub fn to(
        &self,
        partition: usize,
        offers_live_ms: u64,
        now_ms: u64,
    ) -> Option<BTreeMap<Lane, u64>> {
        let is_over = |since| now_ms.saturating_sub(since) >= millis(QUOTA_LIFE) + offers_live_ms;
        match self.last.get(partition).and_then(Option::as_ref) {
            Some((at, quotas)) if !is_over(*at) => Some(quotas.clone()),
            Some(_) => Some(BTreeMap::new()),
            None => is_over(self.since_ms).then(BTreeMap::new),
        }
    }
}

/// The quotas of each partition, by lane. What rollouts before have taken is not given twice. Ways back come first: they
/// take what they want, and the others get what that leaves.
pub fn quotas(
    rules: &Rules,
    occupied: &[Occupancy],
    bounds: &[BTreeMap<Lane, u64>],
) -> Vec<BTreeMap<Lane, u64>> {
    let mut domains: BTreeMap<&str, Domain> = BTreeMap::new();
    for (name, seen) in occupied.iter().flat_map(|o| &o.domains) {
        let domain = domains.entry(name).or_default();
        domain.agents += seen.agents;
        domain.unhealthy += seen.unhealthy;
    }
    let mut lanes: BTreeMap<&Lane, u64> = BTreeMap::new();
    for (lane, bound) in bounds.iter().flatten() {
        *lanes.entry(lane).or_default() += bound;
        domains.entry(&lane.domain).or_default().in_flight += bound;
    }
    for lane in occupied.iter().flat_map(|o| o.waiting.keys()) {
        lanes.entry(lane).or_default();
    }
    let mut in_waves: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (lane, own) in &lanes {
        *in_waves.entry((&lane.rollout, &lane.role)).or_default() += own;
    }
    let mut quotas = vec![BTreeMap::new(); occupied.len()];
    let goes_back = |lane: &Lane| rules.back.contains(&lane.rollout);
    let (back, forward): (Vec<_>, Vec<_>) = lanes.iter().partition(|(lane, _)| goes_back(lane));
    for (lane, own) in back.into_iter().chain(forward) {
        let wave = in_waves.entry((&lane.rollout, &lane.role)).or_default();
        let key = (lane.rollout.clone(), lane.role.clone());
        let in_wave = rules.waves.get(&key).map(|max| max.saturating_sub(*wave));
        let domain = domains.entry(&lane.domain).or_default();
        let urgent = rules.urgent.contains(&lane.rollout);
        let budget = rules.budget.as_ref().filter(|_| !goes_back(lane));
        let in_domain = budget.map(|b| b.room(domain, urgent));
        let wanted: u64 = occupied.iter().map(|o| o.wanted(lane)).sum();
        let room = in_wave
            .into_iter()
            .chain(in_domain)
            .min()
            .unwrap_or(u64::MAX);
        let more = room.min(wanted);
        *wave += more;
        domain.in_flight += more;
        let demand: BTreeMap<Number, u64> = (0..)
            .zip(occupied)
            .map(|(p, o)| (p, o.wanted(lane)))
            .collect();
        for (partition, more) in split(more, &demand) {
            let at = partition as usize;
            let bound = bounds[at].get(*lane).copied().unwrap_or(0);
            // What is on its way back needed no room: where there is none, it leaves none behind.
            let quota = if more > 0 { bound + more } else { 0 };
            quotas[at].insert((*lane).clone(), quota);
        }
        debug_assert!(*own <= *wave);
    }
    quotas
}

#[cfg(test)]
mod tests {
    use fleet::waves::Size;

    use super::*;

    fn lane(rollout: &str, domain: &str) -> Lane {
        Lane {
            rollout: rollout.into(),
            role: "agent".into(),
            domain: domain.into(),
        }
    }

    fn seen(domain: &str, agents: u64, unhealthy: u64, waiting: &[(&str, u64)]) -> Occupancy {
        let here = Domain {
            agents,
            unhealthy,
            in_flight: 0,
        };
        let wants = |(rollout, wanted): &(&str, u64)| (lane(rollout, domain), (*wanted, vec![]));
        Occupancy {
            domains: BTreeMap::from([(domain.to_owned(), here)]),
            waiting: waiting.iter().map(wants).collect(),
        }
    }

    fn rules(size: Size) -> Rules {
        Rules {
            budget: Some(Budget {
                size,
                ..Budget::default()
            }),
            waves: BTreeMap::new(),
            urgent: BTreeSet::new(),
            back: BTreeSet::new(),
        }
    }

    fn total(quotas: &[BTreeMap<Lane, u64>]) -> u64 {
        quotas.iter().flat_map(BTreeMap::values).sum()
    }

    #[test]
    fn two_rollouts_share_one_domain_and_the_sick_count() {
        let occupied = [
            seen("a", 10, 1, &[("ro-1", 5), ("ro-2", 5)]),
            seen("a", 10, 0, &[("ro-1", 5)]),
        ];
        let bounds = [BTreeMap::from([(lane("ro-2", "a"), 1)]), BTreeMap::new()];
        let quotas = quotas(&rules(Size::Percent(25_000)), &occupied, &bounds);
        // 25 % of 20 are 5; one is sick, one in flight: three more. `ro-2` gets none of them, and keeps no quota.
        assert_eq!(total(&quotas), 3);
    }

    #[test]
    fn what_goes_back_leaves_no_quota_behind() {
        let occupied = [seen("a", 10, 0, &[("ro-1", 5)])];
        // More is in flight than the budget says: a rollback needs no room.
        let bounds = [BTreeMap::from([(lane("ro-1", "a"), 5)])];
        let quotas = quotas(&rules(Size::Count(2)), &occupied, &bounds);
        assert_eq!(total(&quotas), 0);
    }

    #[test]
    fn what_a_way_back_has_in_flight_is_not_free_for_others() {
        let mut rules = rules(Size::Count(3));
        rules.back.insert("ro-2".into());
        let occupied = [seen("a", 20, 0, &[("ro-1", 5)])];
        let flying = |agents| [BTreeMap::from([(lane("ro-2", "a"), agents)])];
        let given = |agents| total(&quotas(&rules, &occupied, &flying(agents)));
        assert_eq!((given(0), given(2), given(3)), (3, 1, 0));
    }

    #[test]
    fn a_way_back_waits_for_its_own_wave_only_and_goes_before_the_others() {
        let mut rules = rules(Size::Count(3));
        rules.back.insert("ro-2".into());
        rules.waves.insert(("ro-2".into(), "agent".into()), 2);
        // The domain is broken already, and everybody waits.
        let occupied = [seen("a", 20, 9, &[("ro-1", 5), ("ro-2", 5)])];
        let given = quotas(&rules, &occupied, &[BTreeMap::new()]);
        assert_eq!(given[0].get(&lane("ro-2", "a")), Some(&2));
        assert_eq!(total(&given), 2);
        let sound = [seen("a", 20, 0, &[("ro-1", 5), ("ro-2", 5)])];
        let given = quotas(&rules, &sound, &[BTreeMap::new()]);
        assert_eq!(given[0].get(&lane("ro-1", "a")), Some(&1), "what is left");
    }

    #[test]
    fn a_wave_limits_what_is_in_flight_over_all_domains() {
        let mut rules = rules(Size::Count(100));
        rules.waves.insert(("ro-1".into(), "agent".into()), 4);
        let occupied = [
            seen("a", 50, 0, &[("ro-1", 50)]),
            seen("b", 50, 0, &[("ro-1", 50)]),
        ];
        let bounds = [BTreeMap::from([(lane("ro-1", "a"), 1)]), BTreeMap::new()];
        assert_eq!(total(&quotas(&rules, &occupied, &bounds)), 4);
    }

    /// As long as an offer is open.
    const OFFERS_LIVE_MS: u64 = 180_000;

    #[test]
    fn who_does_not_answer_may_use_what_it_was_given_until_that_has_run_out() {
        let mut given = Given::nothing(0);
        let now = 0;
        let to = |given: &Given, partition, now| given.to(partition, OFFERS_LIVE_MS, now);
        assert_eq!(to(&given, 0, now), None, "what another one has given it");
        let quotas = [5, 1].map(|quota| BTreeMap::from([(lane("ro-1", "a"), quota)]));
        let none = [BTreeMap::new(), BTreeMap::new()];
        // The second has more in flight than it may have from now on.
        let bounds = [BTreeMap::new(), BTreeMap::from([(lane("ro-1", "a"), 3)])];
        given.renew(&[Some(7), Some(8)], &bounds, &quotas, now);
        assert_eq!(to(&given, 1, now).as_ref(), Some(&bounds[1]));
        // In two rounds it is silent: there is nothing for it to be given.
        for round in 9..11 {
            given.renew(&[None, Some(round)], &none, &none, now);
            assert_eq!(to(&given, 0, now).as_ref(), Some(&quotas[0]));
        }
        assert_eq!(to(&given, 1, now), Some(BTreeMap::new()));
    }

    #[test]
    fn what_a_silent_partition_was_given_counts_until_its_last_offer_has_had_its_time() {
        let mut given = Given::nothing(0);
        let began = 0;
        let quotas = [BTreeMap::from([(lane("ro-1", "a"), 5)]), BTreeMap::new()];
        let none = [BTreeMap::new(), BTreeMap::new()];
        given.renew(&[Some(1), None], &none, &quotas, began);
        // Its quotas have run out, what it has offered by them may still be open, and is not stored here.
        let offered = began + millis(QUOTA_LIFE) + 1_000;
        let answered = began + millis(QUOTA_LIFE) + OFFERS_LIVE_MS;
        let to = |partition, now| given.to(partition, OFFERS_LIVE_MS, now);
        assert_eq!(to(0, offered).as_ref(), Some(&quotas[0]));
        assert_eq!(to(0, answered), Some(BTreeMap::new()));
        // So it is with what another controller has given it.
        assert_eq!(to(1, offered), None);
        assert_eq!(to(1, answered), Some(BTreeMap::new()));
    }

    #[test]
    fn a_controller_knows_what_it_gave_as_long_as_nobody_else_has_led() {
        let mut given = Given::nothing(0);
        given.leads_in(4, 0);
        let first = given.count();
        given.last = vec![Some((0, BTreeMap::new()))];
        given.leads_in(4, 0);
        let second = given.count();
        assert!(given.last[0].is_some() && second > first);
        given.leads_in(6, 0);
        assert!(given.last.is_empty() && given.count() > second);
    }

    #[test]
    fn nobody_gets_room_that_nobody_asks_for() {
        let occupied = [seen("a", 50, 0, &[]), seen("a", 50, 0, &[("ro-1", 2)])];
        let bounds = [BTreeMap::new(), BTreeMap::new()];
        let quotas = quotas(&rules(Size::Count(10)), &occupied, &bounds);
        assert_eq!(quotas[1], BTreeMap::from([(lane("ro-1", "a"), 2)]));
        assert_eq!(total(&quotas), 2);
    }

    #[test]
    fn an_urgent_rollout_has_more() {
        let mut rules = rules(Size::Percent(25_000));
        rules.urgent.insert("ro-1".into());
        let occupied = [seen("a", 20, 0, &[("ro-1", 20)])];
        assert_eq!(total(&quotas(&rules, &occupied, &[BTreeMap::new()])), 10);
    }
}
