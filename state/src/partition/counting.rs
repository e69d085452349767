//! Counts of what is in flight, and which quotas answer which of them: what a partition leader keeps between the two.

use std::collections::BTreeMap;

use proto::uid::Uid;

use super::occupancy::Occupancy;
use super::occupancy::kept::Counter;
use super::room::Lane;

/// A count, and the upper bound of what is in flight since it was made.
#[derive(Debug, Default)]
pub struct Counted {
    /// What was seen.
    pub occupancy: Occupancy,
    /// By lane.
    pub bounds: BTreeMap<Lane, u64>,
    /// Its number, which the quotas that answer it name. None: the leader has not counted, and takes no quotas.
    pub number: Option<u64>,
}

/// Number of a count, in the order in which controllers ask for them: the term in which one leads the control group, then
/// its rounds. So of two that both believe that they lead, the older one's counts are refused once the newer one has
/// counted, and no round of one controller comes between those of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// What is held while a count is made.
#[derive(Default)]
pub struct Counting {
    /// The newest count that a controller has numbered.
    newest: Count,
    /// The term of the partition's own group in which that was.
    numbered_in: Option<u64>,
    /// What the counts before have found.
    pub counter: Counter,
}

/// A partition has begun a newer count: this one is of a controller that has been replaced, or has come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("count {}.{} comes after {}.{}: it is of an older round, or of a controller that leads no more", .count.term(), .count.round(), .newest.term(), .newest.round())]
pub struct Older {
    /// What was asked for.
    pub count: Count,
    /// What has been begun before.
    pub newest: Count,
}

/// A count that waits for its quotas.
#[derive(Debug)]
pub struct Waiting {
    /// Of the count.
    pub number: u64,
    /// Its controller has given it its number.
    pub is_numbered: bool,
    /// When it was made, by this partition's clock.
    pub at_ms: u64,
    /// Whom to ask again when there is room.
    pub named: BTreeMap<Lane, Vec<Uid>>,
}

// === impl Count ===

impl Count {
    /// A controller's in its term, rounds from 1.
    pub fn of(term: u64, round: u32) -> Self {
        let term = u32::try_from(term).unwrap_or(u32::MAX);
        Count(u64::from(term) << 32 | u64::from(round))
    }

    /// Of a controller of an older version, which gives its counts no numbers.
    pub const UNNUMBERED: Count = Count(0);

    fn term(self) -> u64 {
        self.0 >> 32
    }

    fn round(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

// === impl Counting ===

impl Counting {
    /// A count begins, while the partition is led in `term`. One without a number is of an older version's controller,
    /// and taken until somebody numbers: one that was frozen, and wakes after it was replaced, must not divide anything
    /// once its successor has counted. Who leads the partition next may be asked by an older version again.
    ///
    /// # Errors
    /// A newer one has begun.
    pub fn begin(&mut self, count: Count, term: u64) -> Result<(), Older> {
        let is_older = match count {
            Count::UNNUMBERED => self.numbered_in == Some(term),
            numbered => numbered <= self.newest,
        };
        if is_older {
            let newest = self.newest;
            return Err(Older { count, newest });
        }
        if count != Count::UNNUMBERED {
            self.newest = count;
            self.numbered_in = Some(term);
        }
        Ok(())
    }
}

// === impl Counted ===

impl Counted {
    /// What a replica has of a partition whose leader does not answer, and may have granted up to these quotas meanwhile.
    /// Nobody in it waits for anything.
    pub fn unanswered(
        mut occupancy: Occupancy,
        mut bounds: BTreeMap<Lane, u64>,
        quotas: &BTreeMap<Lane, u64>,
    ) -> Self {
        occupancy.waiting.clear();
        for (lane, quota) in quotas {
            let bound = bounds.entry(lane.clone()).or_default();
            *bound = (*bound).max(*quota);
        }
        Counted {
            occupancy,
            bounds,
            number: None,
        }
    }
}

// === impl Waiting ===

impl Waiting {
    /// For a count that was made at `at_ms`, and begun as `count`. Whom it has found waiting is kept here, and taken out of it.
    pub fn of(counted: &mut Counted, number: u64, count: Count, at_ms: u64) -> Self {
        counted.number = Some(number);
        let waiting = counted.occupancy.waiting.iter_mut();
        let named = waiting.map(|(lane, (_, uids))| (lane.clone(), std::mem::take(uids)));
        Waiting {
            number,
            is_numbered: count != Count::UNNUMBERED,
            at_ms,
            named: named.collect(),
        }
    }

    /// Whom to ask again: as many of each lane as these quotas have room for, beside what is in flight.
    pub fn with_room(self, quotas: &BTreeMap<Lane, u64>, bounds: &BTreeMap<Lane, u64>) -> Vec<Uid> {
        let of = |rooms: &BTreeMap<Lane, u64>, lane: &Lane| rooms.get(lane).copied().unwrap_or(0);
        let in_lane = |(lane, uids): (Lane, Vec<Uid>)| {
            let room = of(quotas, &lane).saturating_sub(of(bounds, &lane));
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            uids.into_iter().take(room)
        };
        self.named.into_iter().flat_map(in_lane).collect()
    }

    /// Do quotas that name this count answer this one? Without a number they answer what had none, too.
    pub fn is_answered_by(&self, count: u64) -> bool {
        self.number == count || count == Count::UNNUMBERED.0 && !self.is_numbered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_a_controller_that_was_replaced_are_refused() {
        let mut counting = Counting::default();
        let old = |round| Count::of(4, round);
        let successor = |round| Count::of(5, round);
        assert_eq!(counting.begin(old(7), 1), Ok(()));
        assert_eq!(counting.begin(successor(1), 1), Ok(()));
        // Also by a partition that has been led anew meanwhile.
        let refused = counting.begin(old(8), 2).unwrap_err();
        assert_eq!(
            (refused.newest, counting.newest),
            (successor(1), successor(1))
        );
        assert_eq!(
            refused.to_string(),
            "count 4.8 comes after 5.1: it is of an older round, or of a controller that leads no more"
        );
    }

    #[test]
    fn rounds_of_one_controller_do_not_come_back_when_their_message_is_late() {
        let mut counting = Counting::default();
        assert_eq!(counting.begin(Count::of(4, 2), 1), Ok(()));
        for late in [1, 2] {
            assert!(counting.begin(Count::of(4, late), 1).is_err(), "{late}");
        }
        assert_eq!(counting.begin(Count::of(4, 3), 1), Ok(()));
        assert!(Count::of(4, u32::MAX) < Count::of(5, 1));
    }

    #[test]
    fn counts_without_numbers_are_taken_until_somebody_numbers_them() {
        let mut counting = Counting::default();
        let frozen = Count(0);
        assert_eq!(counting.begin(frozen, 1), Ok(()));
        assert_eq!(counting.begin(frozen, 1), Ok(()), "each is the newest");
        let successor = Count::of(5, 1);
        assert_eq!(counting.begin(successor, 1), Ok(()));
        let refused = counting.begin(frozen, 1).unwrap_err();
        assert_eq!((refused.count, refused.newest), (frozen, successor));
        // An older version may lead the control group again when somebody leads the partition anew.
        assert_eq!(counting.begin(frozen, 2), Ok(()));
        assert_eq!(counting.newest, successor);
    }

    #[test]
    fn quotas_without_a_number_answer_no_count_that_has_one() {
        let waiting = |number, is_numbered| Waiting {
            number,
            is_numbered,
            at_ms: 0,
            named: BTreeMap::new(),
        };
        let numbered = waiting(Count::of(5, 1).0, true);
        assert!(numbered.is_answered_by(Count::of(5, 1).0));
        assert!(!numbered.is_answered_by(0) && !numbered.is_answered_by(7));
        let own = waiting(7, false);
        assert!(own.is_answered_by(0) && own.is_answered_by(7));
        assert!(!own.is_answered_by(6));
    }
}
