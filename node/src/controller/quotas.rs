//! Divides what may be in work at once among rollouts, failure domains and partitions, twice a second.
//!
//! The limits are [`fleet::budget`]'s; a partition keeps to its part by [`crate::partition::room`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleet::budget::{Budget, Domain, Partition as Number, split};
use proto::store;

use crate::control::rollout_state;
use crate::local::{Node, Uncounted};
use crate::partition::room::{Lane, QUOTA_LIFE};
use crate::partition::{Count, Occupancy};

/// By rollout and role: how many may be in flight in its open waves.
type WaveLimits = BTreeMap<(String, String), u64>;

/// What the documents say about limits.
struct Rules {
    budget: Option<Budget>,
    waves: WaveLimits,
    urgent: BTreeSet<String>,
    /// Rollouts back to an earlier revision: they wait for no room in a domain, and use it.
    back: BTreeSet<String>,
}

/// What this controller has given, for partitions that cannot be asked.
pub struct Given {
    /// The term in which it leads, and how often it has divided in it: no other controller has the same.
    term: u64,
    rounds: u32,
    /// Since when this controller divides: what another one gave before may still hold.
    since: Instant,
    last: Vec<Option<(Instant, BTreeMap<Lane, u64>)>>,
}

impl Given {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Given {
            term: 0,
            rounds: 0,
            since: Instant::now(),
            last: vec![],
        }
    }

    /// This node leads the control group in this term. What it has given it knows as long as that is the same: nobody else
    /// has led in between.
    pub fn leads_in(&mut self, term: u64) {
        if self.term != term {
            *self = Given {
                term,
                ..Given::nothing()
            };
        }
    }

    /// The next round's.
    fn count(&mut self) -> Count {
        self.rounds += 1;
        Count::of(self.term, self.rounds)
    }

    /// Quotas that are about to be sent to who has answered, with what each has in flight: an answer of theirs that is lost
    /// may have arrived. Whoever has not answered gets none, and may use what it was given before.
    fn renew(
        &mut self,
        answered: &[Option<u64>],
        bounds: &[BTreeMap<Lane, u64>],
        quotas: &[BTreeMap<Lane, u64>],
        now: Instant,
    ) {
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
            *last = Some((now, most));
        }
    }

    /// What a partition that does not answer may have in flight beyond what is stored here: its leader may be cut off from
    /// this node only, and then grants as long as its quotas live, and has offers open for `offers_live` after that. None:
    /// that is not known.
    fn to(
        &self,
        partition: usize,
        offers_live: Duration,
        now: Instant,
    ) -> Option<BTreeMap<Lane, u64>> {
        let is_over = |since| now.saturating_duration_since(since) >= QUOTA_LIFE + offers_live;
        match self.last.get(partition).and_then(Option::as_ref) {
            Some((at, quotas)) if !is_over(*at) => Some(quotas.clone()),
            Some(_) => Some(BTreeMap::new()),
            None => is_over(self.since).then(BTreeMap::new),
        }
    }
}

/// Counts, divides, and lets go. `unread`: partitions, by name, whose stored offers are not known here up to `read`.
pub async fn divide(node: &Arc<Node>, given: &mut Given, unread: &[String], read: Instant) {
    let limited = node
        .partitions
        .iter()
        .any(|p| !p.rooms().limits().is_empty());
    if !limited {
        return;
    }
    let rules = rules(node);
    given.last.resize(node.partitions.len(), None);
    // From here to the new quotas nothing is granted.
    let count = given.count();
    let counting = node.partitions.iter().map(|p| node.hold_rooms(p, count));
    let counted = futures::future::join_all(counting).await;
    // Somebody else divides by now, and has counted all of them or will.
    if counted.iter().any(|c| matches!(c, Err(Uncounted::Older))) {
        tracing::info!(term = given.term, "another controller divides");
        return;
    }
    let mut seen = Vec::with_capacity(counted.len());
    for (at, counted) in counted.into_iter().enumerate() {
        // Of a partition that does not answer: what is stored here, and at most what it was given. It asks for nothing.
        seen.push(match counted {
            Ok(counted) => counted,
            Err(_) => {
                let partition = node.partitions[at].clone();
                // What it has offered is stored here too, if it could be read a moment ago: it is busy, not cut off.
                let is_unread = unread.iter().any(|name| name == partition.ledger.name());
                let offers_live_ms = if is_unread {
                    partition.offer_timeout_ms()
                } else {
                    0
                };
                let offers_live = Duration::from_millis(offers_live_ms);
                let Some(quotas) = given.to(at, offers_live, read) else {
                    return;
                };
                let seen = tokio::task::spawn_blocking(move || partition.seen_here(&quotas));
                let Ok(seen) = seen.await else { return };
                seen
            }
        });
    }
    let answered: Vec<Option<u64>> = seen.iter().map(|counted| counted.number).collect();
    let (occupied, bounds): (Vec<_>, Vec<_>) =
        seen.into_iter().map(|c| (c.occupancy, c.bounds)).unzip();
    let quotas = quotas(&rules, &occupied, &bounds);
    given.renew(&answered, &bounds, &quotas, Instant::now());
    let opening = node.partitions.iter().zip(&answered).zip(&quotas);
    let opening = opening.filter_map(|((partition, answered), quotas)| {
        let count = (*answered)?;
        Some(node.open_rooms(partition, count, quotas))
    });
    futures::future::join_all(opening).await;
}

fn rules(node: &Node) -> Rules {
    let documents = node.control.read();
    let open = || {
        let all = documents.rollouts.values().map(|r| &*r.value);
        all.filter(|r| !rollout_state(r.state()).is_final())
    };
    let limit = |stored: &store::Rollout| {
        let rollout = documents.domain(stored);
        let of_role = |role: &fleet::rollout::Role| {
            let newest = role.open_waves.checked_sub(1)?;
            let max = rollout.wave(role, newest).max_in_flight;
            (max > 0).then(|| ((stored.id.clone(), role.name.clone()), u64::from(max)))
        };
        rollout.roles.iter().filter_map(of_role).collect::<Vec<_>>()
    };
    let is_urgent = |r: &&store::Rollout| r.plan.as_ref().is_some_and(|plan| plan.urgent);
    Rules {
        budget: documents.budget(),
        waves: open().flat_map(limit).collect(),
        urgent: open().filter(is_urgent).map(|r| r.id.clone()).collect(),
        back: open().filter(|r| r.back).map(|r| r.id.clone()).collect(),
    }
}

/// The quotas of each partition, by lane. What rollouts before have taken is not given twice. Ways back come first: they
/// take what they want, and the others get what that leaves.
fn quotas(
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
    const OFFERS_LIVE: Duration = Duration::from_secs(180);

    #[test]
    fn who_does_not_answer_may_use_what_it_was_given_until_that_has_run_out() {
        let mut given = Given::nothing();
        given.last.resize(2, None);
        let now = given.since;
        let to = |given: &Given, partition, now| given.to(partition, OFFERS_LIVE, now);
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
        let mut given = Given::nothing();
        given.last.resize(2, None);
        let began = given.since;
        let quotas = [BTreeMap::from([(lane("ro-1", "a"), 5)]), BTreeMap::new()];
        let none = [BTreeMap::new(), BTreeMap::new()];
        given.renew(&[Some(1), None], &none, &quotas, began);
        // Its quotas have run out, what it has offered by them may still be open, and is not stored here.
        let offered = began + QUOTA_LIFE + Duration::from_secs(1);
        let answered = began + QUOTA_LIFE + OFFERS_LIVE;
        let to = |partition, now| given.to(partition, OFFERS_LIVE, now);
        assert_eq!(to(0, offered).as_ref(), Some(&quotas[0]));
        assert_eq!(to(0, answered), Some(BTreeMap::new()));
        // So it is with what another controller has given it.
        assert_eq!(to(1, offered), None);
        assert_eq!(to(1, answered), Some(BTreeMap::new()));
    }

    #[test]
    fn a_controller_knows_what_it_gave_as_long_as_nobody_else_has_led() {
        let mut given = Given::nothing();
        given.leads_in(4);
        let first = given.count();
        given.last = vec![Some((given.since, BTreeMap::new()))];
        given.leads_in(4);
        let second = given.count();
        assert!(given.last[0].is_some() && second > first);
        given.leads_in(6);
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
