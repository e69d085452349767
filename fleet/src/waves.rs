//! Which member goes in which wave: decided once, over all partitions' lists together, exactly.
//!
//! A wave may be for a selector or a zone only: it then takes members that match, in their order, until its cumulative
//! size is reached or no more match. Who is left over goes in a later wave; the last is for everyone, whatever it says.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::rollout::WaveSpec;
use crate::selector::Facts;

/// How far a wave reaches: so much of the role's members has been in a wave when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// So many members.
    Count(u64),
    /// Thousandths of a percent: 10 % is 10 000. Rounds up, at least one member.
    Percent(u32),
}

/// All of it, in [`Size::Percent`].
pub const WHOLE: u32 = 100_000;

/// A member before waves are assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Instance uid.
    pub uid: [u8; 16],
    /// What makes agents alike for a canary: version, OS, architecture.
    pub stratum: String,
    /// Connected when the list was made; canaries are taken from these while there are any.
    pub reachable: bool,
    /// An open wave of the rollout that this one continues has it already: it goes first again.
    pub ahead: bool,
}

/// A role's members by wave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// Where each wave ends, cumulative; waves without members are left out.
    pub ends: Vec<u64>,
    /// Which wave of the plan each of them is, from 0. The implicit last one counts as the plan's last.
    pub specs: Vec<u32>,
    /// Wave of each candidate, in the order in which they were given.
    pub waves: Vec<u32>,
}

/// Labels and attributes that name an agent's zone, the first that is there counts.
pub const ZONE_KEYS: [&str; 3] = [
    "zone",
    "topology.kubernetes.io/zone",
    "cloud.availability_zone",
];

/// Why wave sizes are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A wave that ends where or before the one before it ends.
    #[error("wave {wave} ends at {end} of {members} members, where wave {} ended already: sizes are cumulative and must grow", wave - 1)]
    NotGrowing {
        /// Number from 1.
        wave: usize,
        /// Its end.
        end: u64,
        /// Members of the role.
        members: u64,
    },
    /// A percentage of zero or above 100.
    #[error("wave {wave}: {} % is no share of a fleet: use more than 0 % and at most 100 %", f64::from(*percent) / 1000.0)]
    Percent {
        /// Number from 1.
        wave: usize,
        /// As given.
        percent: u32,
    },
    /// A count of zero.
    #[error("wave {wave} has size 0: use a count of at least 1, or a percentage")]
    Zero {
        /// Number from 1.
        wave: usize,
    },
    /// A selector or zone that nobody is in.
    #[error("wave {wave} is for {what}, and no member is: correct it, or leave the wave out")]
    Nobody {
        /// Number from 1.
        wave: usize,
        /// The selector or zone.
        what: String,
    },
    /// A first wave that is everybody.
    #[error(
        "the first wave takes all {members} members of the role: a canary must leave at least one; give a smaller first size"
    )]
    CanaryIsEverybody {
        /// Members of the role.
        members: u64,
    },
}

/// Checks what can be checked without a fleet.
pub fn check(sizes: &[Size]) -> Result<(), Error> {
    for (i, size) in sizes.iter().enumerate() {
        match size {
            Size::Count(0) => return Err(Error::Zero { wave: i + 1 }),
            Size::Percent(p) if *p == 0 || *p > WHOLE => {
                return Err(Error::Percent {
                    wave: i + 1,
                    percent: *p,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where each wave ends, cumulative, for a role with so many members. The last end is `members`; an implicit last wave
/// is added when the sizes do not reach it. Waves that a small role leaves empty are merged into the one before: with
/// three members, "1, 10 %, 50 %" ends at 1, 1, 2 and becomes 1, 2, 3.
///
/// Empty when there are no members.
pub fn ends(members: u64, sizes: &[Size]) -> Result<Vec<u64>, Error> {
    check(sizes)?;
    if members == 0 {
        return Ok(vec![]);
    }
    let mut ends: Vec<u64> = Vec::with_capacity(sizes.len() + 1);
    for (i, size) in sizes.iter().enumerate() {
        let end = match size {
            Size::Count(count) => (*count).min(members),
            Size::Percent(p) => share(members, *p).max(1),
        };
        if i == 0 && end == members && members > 1 {
            return Err(Error::CanaryIsEverybody { members });
        }
        match ends.last() {
            Some(last) if end < *last && !both_small(members, sizes, i) => {
                return Err(Error::NotGrowing {
                    wave: i + 1,
                    end,
                    members,
                });
            }
            Some(last) if end <= *last => {}
            _ => ends.push(end),
        }
    }
    if ends.last() != Some(&members) {
        ends.push(members);
    }
    Ok(ends)
}

/// Puts the ordered members of a role into waves. `may(candidate, wave)`: does the wave's selector and zone take it?
///
/// # Errors
///
/// As [`ends`]; that a wave takes nobody is no error of one role: see [`check_everybody`].
pub fn assign<C>(
    ordered: &[C],
    plan: &[WaveSpec],
    may: impl Fn(&C, usize) -> bool,
) -> Result<Assigned, Error> {
    let members = ordered.len() as u64;
    let sizes: Vec<Size> = plan.iter().map(|wave| wave.size).collect();
    let open = |wave: &WaveSpec| wave.selector.is_none() && wave.zone.is_none();
    if plan.iter().all(open) {
        ends(members, &sizes)?;
    } else {
        check(&sizes)?;
    }
    let mut left: Vec<usize> = (0..ordered.len()).collect();
    let mut assigned = Assigned {
        waves: vec![0; ordered.len()],
        ..Assigned::default()
    };
    let mut placed = 0;
    for (at, wave) in plan.iter().enumerate() {
        let end = match wave.size {
            Size::Count(count) => count.min(members),
            Size::Percent(percent) => share(members, percent).max(1),
        };
        let room = end.saturating_sub(placed);
        let mut taken = 0;
        left.retain(|index| {
            let takes = taken < room && (open(wave) || may(&ordered[*index], at));
            if takes {
                taken += 1;
                assigned.waves[*index] = u32::try_from(assigned.ends.len()).unwrap_or(u32::MAX);
            }
            !takes
        });
        if taken == 0 {
            continue;
        }
        placed += taken;
        if assigned.ends.is_empty() && placed == members && members > 1 {
            return Err(Error::CanaryIsEverybody { members });
        }
        assigned.ends.push(placed);
        assigned.specs.push(u32::try_from(at).unwrap_or(u32::MAX));
    }
    let last = u32::try_from(plan.len().saturating_sub(1)).unwrap_or(u32::MAX);
    if placed < members {
        let wave = u32::try_from(assigned.ends.len()).unwrap_or(u32::MAX);
        for index in left {
            assigned.waves[index] = wave;
        }
        assigned.ends.push(members);
        assigned.specs.push(last);
    } else if let Some(spec) = assigned.specs.last_mut() {
        *spec = last;
    }
    Ok(assigned)
}

/// Does the wave's selector and zone take an agent with these facts?
pub fn takes(wave: &WaveSpec, facts: &impl Facts) -> bool {
    let zone = ZONE_KEYS.iter().find_map(|key| facts.get(key));
    wave.selector.as_ref().is_none_or(|s| s.matches(facts))
        && wave
            .zone
            .as_deref()
            .is_none_or(|wanted| zone == Some(wanted))
}

/// Refuses a selector or zone that takes no member of any role: a typo there would skip the canaries.
/// `found[wave]`: does it take anybody?
pub fn check_everybody(plan: &[WaveSpec], found: &[bool]) -> Result<(), Error> {
    for (at, wave) in plan.iter().enumerate() {
        let what = match (&wave.selector, &wave.zone) {
            (None, None) => continue,
            (Some(selector), None) => format!("`{selector}`"),
            (None, Some(zone)) => format!("zone {zone}"),
            (Some(selector), Some(zone)) => format!("`{selector}` in zone {zone}"),
        };
        if !found.get(at).is_some_and(|found| *found) {
            return Err(Error::Nobody { wave: at + 1, what });
        }
    }
    Ok(())
}

/// Waves that are open at once in a rollout that continues another where it stands: as many as those members fill.
pub fn continued(reached: u64, ends: &[u64]) -> u32 {
    u32::try_from(ends.partition_point(|end| *end <= reached)).unwrap_or(u32::MAX)
}

/// A count before a percentage may exceed it in a small role; that is rounding, not a mistake.
fn both_small(_members: u64, sizes: &[Size], i: usize) -> bool {
    matches!(
        (sizes[i - 1], sizes[i]),
        (Size::Count(_), Size::Percent(_)) | (Size::Percent(_), Size::Count(_))
    )
}

fn share(members: u64, percent_milli: u32) -> u64 {
    let whole = u128::from(members) * u128::from(percent_milli);
    u64::try_from(whole.div_ceil(u128::from(WHOLE))).unwrap_or(u64::MAX)
}

/// Orders the members of one role: the first of them are the canaries. Reachable ones first, one of each stratum in
/// turn (largest stratum first), and within a stratum by a hash of rollout and uid, so that no agent is always first.
pub fn order(mut candidates: Vec<Candidate>, seed: &str) -> Vec<Candidate> {
    candidates.sort_by_cached_key(|c| Digest::of("wave", &[seed.as_bytes(), &c.uid]));
    let (ahead, others): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.ahead);
    let (reachable, silent): (Vec<_>, Vec<_>) = others.into_iter().partition(|c| c.reachable);
    let mut ordered = in_turns(ahead);
    ordered.extend(in_turns(reachable));
    ordered.extend(in_turns(silent));
    ordered
}

fn in_turns(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut strata: BTreeMap<String, Vec<Candidate>> = BTreeMap::new();
    let total = candidates.len();
    for candidate in candidates {
        strata
            .entry(candidate.stratum.clone())
            .or_default()
            .push(candidate);
    }
    let mut strata: Vec<_> = strata.into_values().map(Vec::into_iter).collect();
    strata.sort_by_key(|stratum| std::cmp::Reverse(stratum.len()));
    let mut ordered = Vec::with_capacity(total);
    while ordered.len() < total {
        ordered.extend(strata.iter_mut().filter_map(Iterator::next));
        strata.retain(|stratum| stratum.len() > 0);
    }
    ordered
}

/// Wave index of the member at `position` of the order.
pub fn wave_at(ends: &[u64], position: u64) -> u32 {
    u32::try_from(ends.partition_point(|end| *end <= position)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_sizes_of_a_large_fleet_are_exact() {
        let sizes = [
            Size::Count(1),
            Size::Percent(1000),
            Size::Percent(10_000),
            Size::Percent(50_000),
        ];
        assert_eq!(
            ends(1_000_000, &sizes).unwrap(),
            [1, 10_000, 100_000, 500_000, 1_000_000]
        );
        assert_eq!(ends(250, &sizes).unwrap(), [1, 3, 25, 125, 250]);
        assert_eq!(ends(3, &sizes).unwrap(), [1, 2, 3]);
        assert_eq!(ends(1, &sizes).unwrap(), [1]);
        assert_eq!(ends(0, &sizes).unwrap(), [0u64; 0]);
    }

    #[test]
    fn a_canary_of_everybody_is_refused() {
        assert_eq!(
            ends(10, &[Size::Percent(WHOLE)]),
            Err(Error::CanaryIsEverybody { members: 10 })
        );
        assert_eq!(ends(1, &[Size::Percent(WHOLE)]).unwrap(), [1]);
    }

    #[test]
    fn shrinking_sizes_and_percent_of_nothing_are_refused() {
        assert!(matches!(
            ends(100, &[Size::Count(10), Size::Count(5)]),
            Err(Error::NotGrowing { wave: 2, .. })
        ));
        assert!(matches!(
            ends(100, &[Size::Percent(0)]),
            Err(Error::Percent { .. })
        ));
        assert!(matches!(
            ends(100, &[Size::Count(0)]),
            Err(Error::Zero { wave: 1 })
        ));
    }

    fn facts(zone: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("zone".to_owned(), zone.to_owned())])
    }

    #[test]
    fn a_wave_for_a_zone_takes_its_members_and_leaves_the_others_to_later_ones() {
        let zones: Vec<_> = ["a", "b", "a", "b", "b", "a"].map(facts).into();
        let in_zone = WaveSpec {
            zone: Some("b".into()),
            ..WaveSpec::of(Size::Percent(WHOLE), 0)
        };
        let plan = [
            WaveSpec::of(Size::Count(1), 0),
            in_zone,
            WaveSpec::of(Size::Percent(WHOLE), 0),
        ];
        let may = |facts: &BTreeMap<String, String>, at: usize| takes(&plan[at], facts);
        let assigned = assign(&zones, &plan, may).unwrap();
        assert_eq!(assigned.ends, [1, 4, 6]);
        assert_eq!(assigned.waves, [0, 1, 2, 1, 1, 2]);
        assert_eq!(assigned.specs, [0, 1, 2]);
        let error = check_everybody(&plan, &[true, false, true]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "wave 2 is for zone b, and no member is: correct it, or leave the wave out"
        );
        assert_eq!(check_everybody(&plan, &[true, true, true]), Ok(()));
    }

    #[test]
    fn a_small_role_skips_waves_and_keeps_their_specs() {
        let sizes = [Size::Count(1), Size::Percent(10_000), Size::Percent(50_000)];
        let plan = sizes.map(|size| WaveSpec::of(size, 0));
        let assigned = assign(&[(); 4], &plan, |(), _| true).unwrap();
        assert_eq!(assigned.ends, [1, 2, 4]);
        assert_eq!(assigned.specs, [0, 2, 2]);
        let everybody = [WaveSpec::of(Size::Percent(WHOLE), 0)];
        assert_eq!(
            assign(&[(); 4], &everybody, |(), _| true),
            Err(Error::CanaryIsEverybody { members: 4 })
        );
        assert_eq!(
            assign(&[(); 1], &everybody, |(), _| true).unwrap().ends,
            [1]
        );
        assert_eq!(
            assign(&[(); 0], &plan, |(), _| true).unwrap().ends,
            [0u64; 0]
        );
    }

    #[test]
    fn continuing_opens_the_waves_that_were_reached() {
        assert_eq!(continued(12, &[1, 10, 100]), 2);
        assert_eq!(continued(0, &[1, 10, 100]), 0);
    }

    #[test]
    fn canaries_cover_distinct_strata_first() {
        let candidate = |n: u8, stratum: &str| Candidate {
            uid: [n; 16],
            stratum: stratum.into(),
            reachable: true,
            ahead: false,
        };
        let all = vec![
            candidate(1, "a"),
            candidate(2, "a"),
            candidate(3, "a"),
            candidate(4, "b"),
            candidate(5, "c"),
        ];
        let mut first: Vec<_> = order(all, "seed")
            .into_iter()
            .take(3)
            .map(|c| c.stratum)
            .collect();
        first.sort();
        assert_eq!(first, ["a", "b", "c"]);
    }

    proptest! {
        #[test]
        fn wave_sizes_add_up(members in 0u64..100_000, percents in proptest::collection::vec(1u32..=WHOLE, 0..6)) {
            let mut percents = percents;
            percents.sort_unstable();
            let sizes: Vec<_> = percents.into_iter().map(Size::Percent).collect();
            match ends(members, &sizes) {
                Ok(ends) => {
                    prop_assert_eq!(ends.last().copied().unwrap_or(0), members);
                    prop_assert!(ends.windows(2).all(|w| w[0] < w[1]));
                    let counted = (0..members.min(2000)).filter(|p| wave_at(&ends, *p) < ends.len() as u32).count();
                    prop_assert_eq!(counted as u64, members.min(2000));
                }
                Err(error) => prop_assert_eq!(error, Error::CanaryIsEverybody { members }),
            }
        }

        #[test]
        fn assigned_waves_are_the_ends(members in 0usize..500, percents in proptest::collection::vec(1u32..WHOLE, 1..6)) {
            let mut percents = percents;
            percents.sort_unstable();
            let plan: Vec<_> = percents.into_iter().map(|p| WaveSpec::of(Size::Percent(p), 0)).collect();
            let sizes: Vec<_> = plan.iter().map(|w| w.size).collect();
            let all = vec![(); members];
            match (assign(&all, &plan, |(), _| true), ends(members as u64, &sizes)) {
                (Ok(assigned), Ok(ends)) => {
                    prop_assert_eq!(&assigned.ends, &ends);
                    for (position, wave) in assigned.waves.iter().enumerate() {
                        prop_assert_eq!(*wave, wave_at(&ends, position as u64));
                    }
                }
                (assigned, ends) => prop_assert_eq!(assigned.unwrap_err(), ends.unwrap_err()),
            }
        }

        #[test]
        fn order_keeps_every_member_once(n in 0usize..200, seed in "[a-z]{1,6}") {
            let all: Vec<_> = (0..n).map(|i| Candidate {
                uid: (i as u128 + 1).to_be_bytes(), stratum: format!("s{}", i % 5), reachable: i % 3 != 0, ahead: i % 7 == 0,
            }).collect();
            let mut uids: Vec<_> = order(all, &seed).into_iter().map(|c| c.uid).collect();
            uids.sort_unstable();
            uids.dedup();
            prop_assert_eq!(uids.len(), n);
        }
    }
}
