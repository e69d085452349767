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
    /// Smaller than the one before it, as written.
    #[error("wave {wave} is smaller than wave {}: sizes are cumulative and must grow", wave - 1)]
    Shrinks {
        /// Number from 1.
        wave: usize,
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

/// Do sizes of one kind grow as they are written? Others compare in a fleet only: see [`ends`].
pub fn check_growing(sizes: &[Size]) -> Result<(), Error> {
    let smaller = |pair: &[Size]| match (pair[0], pair[1]) {
        (Size::Count(before), Size::Count(after)) => after < before,
        (Size::Percent(before), Size::Percent(after)) => after < before,
        _ => false,
    };
    match sizes.windows(2).position(smaller) {
        Some(before) => Err(Error::Shrinks { wave: before + 2 }),
        None => Ok(()),
    }
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
mod tests;
