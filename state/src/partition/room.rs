//! How many more offers this partition may make, where a budget or a wave limits them.
//!
//! The controller gives each *lane* a quota; a partition keeps to it by an upper bound of what it has in flight there.
//! What is not limited has no lane. A lane without a quota has no room: after a restart nothing is offered in it before
//! the controller has counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet::budget::needs_room;
use fleet::program::{Desired, Reason};
use fleet::selector::Facts;
use proto::store::RoleProgress;

use crate::control::Documents;

/// Quotas hold for so long: several looks of the controller. Whoever cannot be reached has none of them after it, and
/// what it had may be given to others.
pub const QUOTA_LIFE: Duration = Duration::from_secs(10);

/// What is limited together: the agents of one failure domain that one role of one rollout is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane {
    /// Rollout; empty: agents that get their family's stable revision, since they join or were away before their wave.
    pub rollout: String,
    /// Role.
    pub role: String,
    /// Value of the budget's label; empty: agents without it, or no budget.
    pub domain: String,
}

/// An answer to who wants to offer something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It needs no room.
    Unlimited,
    /// There was room in this lane.
    In(Lane),
    /// There is none now.
    Full,
}

/// Everything that is limited in one partition.
#[derive(Default)]
pub struct Rooms(Mutex<State>);

#[derive(Default)]
struct State {
    limits: Limits,
    lanes: BTreeMap<Lane, Room>,
    /// How many proposals have had no answer so far.
    unknowns: u64,
}

/// What has become of an offer that took room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Stored,
    /// It is not stored, and will not be.
    Nothing,
    /// Nobody has answered: it may be stored, or may be later.
    Unknown,
}

/// What is limited, by the documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Label of the failure domains; none: there is no budget.
    pub label: Option<String>,
    /// Open rollouts with a wave that limits what is in flight; by role, how many of their waves are open.
    pub limited: BTreeMap<String, BTreeMap<String, u32>>,
    /// Open rollouts back to an earlier revision. They wait for no room in a domain, since what they take back may be what
    /// uses the budget up; what they have in flight leaves the others less.
    pub back: BTreeSet<String>,
}

/// A quota, and the bound of what is in flight: counted, granted since, under way, and what nobody has answered for.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    quota: u64,
    counted: u64,
    /// Stored between the last count's beginning and the one under way.
    before: u64,
    since: u64,
    under_way: u64,
    unknown: u64,
}

// === impl Lane ===

impl Lane {
    /// Rollout, role and domain.
    pub fn of((rollout, role, domain): (&str, &str, &str)) -> Self {
        Lane {
            rollout: rollout.to_owned(),
            role: role.to_owned(),
            domain: domain.to_owned(),
        }
    }
}

// === impl Limits ===

impl Limits {
    /// What these documents limit.
    pub fn of(documents: &Documents) -> Limits {
        let mut limits = Limits {
            label: documents.budget().map(|budget| budget.label),
            ..Limits::default()
        };
        for (id, rollout) in &documents.rollouts {
            if crate::control::rollout_state(rollout.value.state()).is_final() {
                continue;
            }
            let plan = rollout.value.plan.as_ref();
            if plan.is_some_and(|p| p.waves.iter().any(|wave| wave.max_in_flight > 0)) {
                let open = |role: &RoleProgress| (role.role.clone(), role.open_waves);
                let open = rollout.value.roles.iter().map(open).collect();
                limits.limited.insert(id.clone(), open);
            }
            if rollout.value.back {
                limits.back.insert(id.clone());
            }
        }
        limits
    }

    /// Is anything limited?
    pub fn is_empty(&self) -> bool {
        self.label.is_none() && self.limited.is_empty()
    }

    /// The lane of an offer; none: it is not limited.
    pub fn lane(&self, desired: &Desired, facts: &(impl Facts + ?Sized)) -> Option<Lane> {
        if !needs_room(&desired.reason) {
            return None;
        }
        let rollout = match &desired.reason {
            Reason::Wave { rollout } => rollout.as_str(),
            _ => "",
        };
        let (_, role) = desired.owner.as_ref()?;
        let domain = self.domain_waited_for(rollout, facts)?;
        Some(Lane::of((rollout, role, domain)))
    }

    /// The domain in which an offer of this rollout to an agent waits for room; none: it waits for none. A way back has its
    /// own waves to keep to, if they are limited, and nothing else.
    pub fn domain_waited_for<'f>(
        &self,
        rollout: &str,
        facts: &'f (impl Facts + ?Sized),
    ) -> Option<&'f str> {
        if self.back.contains(rollout) && !self.limited.contains_key(rollout) {
            return None;
        }
        self.domain_in(rollout, facts)
    }

    /// The domain in which what this rollout has in flight at an agent uses room, whether it waited for that or not; none:
    /// nothing is limited there.
    pub fn domain_in<'f>(
        &self,
        rollout: &str,
        facts: &'f (impl Facts + ?Sized),
    ) -> Option<&'f str> {
        if self.label.is_none() && !self.limited.contains_key(rollout) {
            return None;
        }
        let label = self.label.as_ref();
        Some(label.and_then(|label| facts.get(label)).unwrap_or(""))
    }
}

// === impl Rooms ===

impl Rooms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is limited from now on. A new label makes new domains: nothing is known of them yet. What was given for one
    /// wave is not used for the next, which may allow less. True: quotas were taken away for that.
    pub fn follow(&self, limits: Limits) -> bool {
        let mut state = self.state();
        let other_domains = state.limits.label != limits.label;
        if other_domains {
            state.lanes.clear();
        }
        let before = std::mem::replace(&mut state.limits, limits);
        let State { limits, lanes, .. } = &mut *state;
        let moved = |rollout: &String| before.limited.get(rollout) != limits.limited.get(rollout);
        for (lane, room) in lanes.iter_mut() {
            if moved(&lane.rollout) {
                room.quota = 0;
            }
        }
        let known = before.limited.keys();
        other_domains || known.chain(limits.limited.keys()).any(moved)
    }

    /// What is limited now.
    pub fn limits(&self) -> Limits {
        self.state().limits.clone()
    }

    /// Takes room for one more offer, which is then under way.
    pub fn take(&self, desired: &Desired, facts: &(impl Facts + ?Sized)) -> Taken {
        let mut state = self.state();
        let Some(lane) = state.limits.lane(desired, facts) else {
            return Taken::Unlimited;
        };
        let room = state.lanes.entry(lane.clone()).or_default();
        if room.bound() >= room.quota {
            return Taken::Full;
        }
        room.under_way += 1;
        Taken::In(lane)
    }

    /// An offer is not under way any more.
    pub fn settle(&self, lane: &Lane, outcome: Outcome) {
        let mut state = self.state();
        state.unknowns += u64::from(outcome == Outcome::Unknown);
        if let Some(room) = state.lanes.get_mut(lane) {
            room.under_way = room.under_way.saturating_sub(1);
            match outcome {
                Outcome::Stored => room.since += 1,
                Outcome::Nothing => {}
                Outcome::Unknown => room.unknown += 1,
            }
        }
    }

    /// Offers of unknown outcome, so far; none: there are none that use room. No count sees one that is stored later.
    pub fn unknown(&self) -> Option<u64> {
        let state = self.state();
        let some = state.lanes.values().any(|room| room.unknown > 0);
        some.then_some(state.unknowns)
    }

    /// Something was stored that was proposed after those: whatever of them is stored stands before it, and the next count
    /// sees it. Nothing, where others have joined them since.
    pub fn resolve(&self, unknowns: u64) {
        let mut state = self.state();
        if state.unknowns == unknowns {
            for room in state.lanes.values_mut() {
                room.since += std::mem::take(&mut room.unknown);
            }
        }
    }

    /// This node leads anew, and everything that was proposed before is applied, or never will be: as [`Rooms::hold`].
    pub fn begin(&self) {
        for room in self.state().lanes.values_mut() {
            room.unknown = 0;
        }
        self.hold();
    }

    /// A count of what is in flight begins.
    pub fn begin_count(&self) {
        for room in self.state().lanes.values_mut() {
            room.before += std::mem::take(&mut room.since);
        }
    }

    /// The count has ended: what it has not seen was stored since it began, or is under way.
    pub fn end_count(&self, in_flight: &BTreeMap<Lane, u64>) {
        let mut state = self.state();
        for lane in in_flight.keys() {
            state.lanes.entry(lane.clone()).or_default();
        }
        for (lane, room) in &mut state.lanes {
            room.counted = in_flight.get(lane).copied().unwrap_or(0);
            room.before = 0;
        }
    }

    /// Grants nothing more until there are new quotas; the bound of what is in flight, by lane.
    pub fn hold(&self) -> BTreeMap<Lane, u64> {
        let mut state = self.state();
        state
            .lanes
            .retain(|_, room| room.bound() > 0 || room.quota > 0);
        for room in state.lanes.values_mut() {
            room.quota = 0;
        }
        let bounds = state.lanes.iter();
        bounds
            .map(|(lane, room)| (lane.clone(), room.bound()))
            .collect()
    }

    /// The bound of what is in flight, all lanes together.
    pub fn in_flight(&self) -> u64 {
        self.state().lanes.values().map(Room::bound).sum()
    }

    /// New quotas, of everything in flight. Answers how much of it each lane uses already.
    pub fn open(&self, quotas: &BTreeMap<Lane, u64>) -> BTreeMap<Lane, u64> {
        let mut state = self.state();
        let open = |(lane, quota): (&Lane, &u64)| {
            let room = state.lanes.entry(lane.clone()).or_default();
            room.quota = *quota;
            (lane.clone(), room.bound())
        };
        quotas.iter().map(open).collect()
    }
}

// === impl Room ===

impl Room {
    fn bound(&self) -> u64 {
        self.counted + self.before + self.since + self.under_way + self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms() -> Rooms {
        let rooms = Rooms::default();
        rooms.follow(Limits {
            label: Some("zone".into()),
            ..Limits::default()
        });
        rooms
    }

    fn desired() -> Desired {
        Desired {
            owner: Some(("web".into(), "agent".into())),
            revision: None,
            delivery: None,
            offerable: true,
            reason: Reason::Wave {
                rollout: "ro-1".into(),
            },
            conditions: vec![],
        }
    }

    fn zone(name: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("zone".to_owned(), name.to_owned())])
    }

    fn lane(domain: &str) -> Lane {
        Lane {
            rollout: "ro-1".into(),
            role: "agent".into(),
            domain: domain.into(),
        }
    }

    #[test]
    fn nothing_is_offered_in_a_lane_before_it_has_a_quota_and_no_more_than_that_after() {
        let rooms = rooms();
        assert_eq!(rooms.take(&desired(), &zone("a")), Taken::Full);
        rooms.open(&BTreeMap::from([(lane("a"), 2)]));
        for _ in 0..2 {
            assert_eq!(rooms.take(&desired(), &zone("a")), Taken::In(lane("a")));
        }
        assert_eq!(rooms.take(&desired(), &zone("a")), Taken::Full);
        assert_eq!(
            rooms.take(&desired(), &zone("b")),
            Taken::Full,
            "another domain"
        );
        rooms.settle(&lane("a"), Outcome::Nothing);
        assert!(
            rooms.take(&desired(), &zone("a")) != Taken::Full,
            "it was not stored"
        );
    }

    #[test]
    fn what_is_stored_while_a_count_runs_is_never_forgotten() {
        let rooms = rooms();
        rooms.open(&BTreeMap::from([(lane("a"), 3)]));
        let offer = || {
            let taken = rooms.take(&desired(), &zone("a"));
            if let Taken::In(lane) = &taken {
                rooms.settle(lane, Outcome::Stored);
            }
            taken != Taken::Full
        };
        assert!(offer());
        rooms.begin_count();
        assert!(offer(), "seen by this count, or not");
        rooms.end_count(&BTreeMap::from([(lane("a"), 1)]));
        assert!(offer());
        assert!(!offer());
        rooms.begin_count();
        rooms.end_count(&BTreeMap::from([(lane("a"), 3)]));
        assert!(!offer());
        rooms.begin_count();
        rooms.end_count(&BTreeMap::from([(lane("a"), 2)]));
        assert!(offer(), "one has an outcome");
    }

    #[test]
    fn what_nobody_has_answered_for_uses_room_until_something_newer_is_stored() {
        let rooms = rooms();
        rooms.open(&BTreeMap::from([(lane("a"), 1)]));
        assert_ne!(rooms.take(&desired(), &zone("a")), Taken::Full);
        rooms.settle(&lane("a"), Outcome::Unknown);
        let count = |found: u64| {
            rooms.begin_count();
            rooms.end_count(&BTreeMap::from([(lane("a"), found)]));
            rooms.in_flight()
        };
        assert_eq!(count(0), 1, "it may be stored later");
        let unknowns = rooms.unknown().expect("there is one");
        // Another one joins it while something newer is under way.
        rooms.open(&BTreeMap::from([(lane("b"), 1)]));
        assert_ne!(rooms.take(&desired(), &zone("b")), Taken::Full);
        rooms.settle(&lane("b"), Outcome::Unknown);
        rooms.resolve(unknowns);
        assert_eq!(count(1), 3, "it is not known which of them stand before it");
        rooms.resolve(rooms.unknown().expect("there are two"));
        assert_eq!((count(1), rooms.unknown()), (1, None));
        rooms.settle(&lane("a"), Outcome::Unknown);
        rooms.begin();
        assert_eq!((count(1), rooms.unknown()), (1, None), "it leads anew");
    }

    #[test]
    fn who_gives_back_what_it_took_needs_no_room() {
        let rooms = rooms();
        let back = Desired {
            reason: Reason::RolledBack {
                rollout: "ro-1".into(),
            },
            ..desired()
        };
        assert_eq!(rooms.take(&back, &zone("a")), Taken::Unlimited);
        rooms.follow(Limits {
            label: Some("zone".into()),
            back: BTreeSet::from(["ro-1".to_owned()]),
            ..Limits::default()
        });
        assert_eq!(rooms.take(&desired(), &zone("a")), Taken::Unlimited);
    }

    #[test]
    fn what_goes_back_waits_for_no_room_and_uses_it() {
        let back = |limited| Limits {
            label: Some("zone".into()),
            limited,
            back: BTreeSet::from(["ro-1".to_owned()]),
        };
        let free = back(BTreeMap::new());
        assert_eq!(free.lane(&desired(), &zone("a")), None);
        assert_eq!(free.domain_in("ro-1", &zone("a")), Some("a"));
        // Its own wave may limit it: then in the domain that it is in, like any.
        let limited = back(BTreeMap::from([("ro-1".to_owned(), BTreeMap::new())]));
        assert_eq!(limited.lane(&desired(), &zone("a")), Some(lane("a")));
    }

    #[test]
    fn what_was_given_for_one_wave_is_not_used_for_the_next() {
        let rooms = rooms();
        let limits = |open| Limits {
            label: Some("zone".into()),
            limited: BTreeMap::from([(
                "ro-1".to_owned(),
                BTreeMap::from([("agent".to_owned(), open)]),
            )]),
            ..Limits::default()
        };
        assert!(rooms.follow(limits(1)));
        rooms.open(&BTreeMap::from([(lane("a"), 5)]));
        assert!(!rooms.follow(limits(1)));
        assert_ne!(rooms.take(&desired(), &zone("a")), Taken::Full);
        assert!(rooms.follow(limits(2)));
        assert_eq!(rooms.take(&desired(), &zone("a")), Taken::Full);
        assert_eq!(rooms.in_flight(), 1);
    }

    #[test]
    fn holding_tells_the_bound_and_grants_nothing_until_quotas_come() {
        let rooms = rooms();
        rooms.open(&BTreeMap::from([(lane("a"), 5)]));
        assert_ne!(rooms.take(&desired(), &zone("a")), Taken::Full);
        assert_eq!(rooms.in_flight(), 1);
        assert_eq!(rooms.hold(), BTreeMap::from([(lane("a"), 1)]));
        assert_eq!(rooms.take(&desired(), &zone("a")), Taken::Full);
    }
}
