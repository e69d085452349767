//! A partition as budgets see it: how many agents each failure domain has, what is in flight, and who waits.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use proto::edge::notice;
use proto::uid::Uid;
use state::partition::millis;
pub use state::partition::occupancy::Occupancy;
use state::partition::occupancy::kept::Counter;
use state::partition::room::{Lane, QUOTA_LIFE, Rooms};

use super::Partition;

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
pub(super) struct Counting {
    /// The newest count that a controller has numbered.
    newest: Count,
    /// The term of the partition's own group in which that was.
    numbered_in: Option<u64>,
    /// What the counts before have found.
    counter: Counter,
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
pub(super) struct Waiting {
    number: u64,
    /// Its controller has given it its number.
    is_numbered: bool,
    /// When it was made, by this partition's clock.
    at_ms: u64,
    /// Whom to ask again when there is room.
    named: BTreeMap<Lane, Vec<Uid>>,
}

/// What is limited in a partition, all its lanes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Agents that may be in flight.
    pub quota: u64,
    /// The upper bound of those that are.
    pub in_flight: u64,
    /// Agents that something was due for when they were counted last.
    pub wanted: u64,
}

// === impl Count ===

impl Count {
    /// A controller's in its term, rounds from 1.
    pub fn of(term: u64, round: u32) -> Self {
        let term = u32::try_from(term).unwrap_or(u32::MAX);
        Count(u64::from(term) << 32 | u64::from(round))
    }

    /// Of a controller of an older version, which gives its counts no numbers.
    const UNNUMBERED: Count = Count(0);

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
    fn begin(&mut self, count: Count, term: u64) -> Result<(), Older> {
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

// === impl Waiting ===

impl Waiting {
    /// Do quotas that name this count answer this one? Without a number they answer what had none, too.
    fn is_answered_by(&self, count: u64) -> bool {
        self.number == count || count == Count::UNNUMBERED.0 && !self.is_numbered
    }
}

// === impl Partition ===

impl Partition {
    /// What is limited now. None: nothing is, or this node does not lead.
    pub fn room(&self) -> Option<Room> {
        if !self.leads() || self.rooms.limits().is_empty() {
            return None;
        }
        let holds = self.quotas_until_ms.load(Ordering::SeqCst) >= self.monotonic_ms();
        let given = self.given.load(Ordering::Relaxed);
        Some(Room {
            quota: if holds { given } else { 0 },
            in_flight: self.rooms.in_flight(),
            wanted: self.wanted.load(Ordering::Relaxed),
        })
    }

    /// Counts, and grants nothing more in any lane until [`Partition::open_rooms`]. Whom it would name is kept here. One
    /// count at a time, each newer than the one before; `Count(0)`: from a controller that gives them no numbers, which is
    /// not taken any more once another one does.
    ///
    /// # Errors
    /// A newer count has begun: nothing is held.
    pub fn hold_rooms(&self, count: Count) -> Result<Counted, Older> {
        let mut counting = self.counting();
        counting.begin(count, self.leads_in.load(Ordering::SeqCst))?;
        let number = match count {
            Count::UNNUMBERED => self.counts.fetch_add(1, Ordering::SeqCst),
            Count(number) => number,
        };
        let mut occupancy = self.look(&mut counting.counter);
        let wanted = occupancy.waiting.values().map(|(wanted, _)| wanted).sum();
        self.wanted.store(wanted, Ordering::Relaxed);
        let bounds = self.rooms.hold();
        let named =
            |(lane, (_, uids)): (&Lane, &mut (u64, Vec<Uid>))| (lane.clone(), std::mem::take(uids));
        *self.waiting() = Some(Waiting {
            number,
            is_numbered: count != Count::UNNUMBERED,
            at_ms: self.monotonic_ms(),
            named: occupancy.waiting.iter_mut().map(named).collect(),
        });
        Ok(Counted {
            occupancy,
            bounds,
            number: Some(number),
        })
    }

    /// What this replica has of a partition that is led elsewhere and does not answer; its leader may have granted up
    /// to these quotas meanwhile. Nobody in it waits for anything.
    pub fn seen_here(&self, quotas: &BTreeMap<Lane, u64>) -> Counted {
        let mut counting = self.counting();
        let mut occupancy = self.look(&mut counting.counter);
        occupancy.waiting.clear();
        let mut bounds = self.rooms.hold();
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

    /// New quotas, good for [`super::room::QUOTA_LIFE`] since the count that they answer; whoever waits for what is new in
    /// them is asked again. A leader that has not counted since it began to lead takes none: it would not know what is in
    /// flight. Nor are quotas taken that answer an older count: they come late, and what they give may be somebody
    /// else's by now. `count` 0: from a node whose counts have no numbers.
    pub fn open_rooms(&self, count: u64, quotas: &BTreeMap<Lane, u64>) {
        let answered = |waiting: &mut Waiting| waiting.is_answered_by(count);
        let mut counted = self.waiting();
        let Some(waiting) = counted.take_if(answered) else {
            return;
        };
        // Before anybody else finds that the count was answered: see [`Partition::take_program`].
        let bounds = self.rooms.open(quotas);
        drop(counted);
        let given = quotas
            .values()
            .fold(0u64, |sum, quota| sum.saturating_add(*quota));
        self.given.store(given, Ordering::Relaxed);
        let until = waiting.at_ms + millis(QUOTA_LIFE);
        self.quotas_until_ms.store(until, Ordering::SeqCst);
        for (lane, waiting) in waiting.named {
            let quota = quotas.get(&lane).copied().unwrap_or(0);
            let room = quota.saturating_sub(bounds.get(&lane).copied().unwrap_or(0));
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            for uid in waiting.iter().take(room) {
                self.tell(*uid, notice::Kind::Pending);
            }
        }
    }

    /// Held while a count is made: what is stored between the beginnings of two that overlap would be in neither.
    fn counting(&self) -> MutexGuard<'_, Counting> {
        self.counting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Quotas that were not renewed in time are none: whoever gave them may be somebody else by now.
    pub(super) fn expire_rooms(&self) {
        if self.quotas_until_ms.load(Ordering::SeqCst) < self.monotonic_ms() {
            self.rooms.hold();
        }
    }

    /// What is limited here, and how far.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Looks at every agent, and asks those that have changed.
    pub fn occupancy(&self) -> Occupancy {
        self.look(&mut self.counting().counter)
    }

    fn look(&self, counter: &mut Counter) -> Occupancy {
        let limits = self.rooms.limits();
        let program = self.program();
        let re_offering = self.re_offering.load_full();
        self.rooms.begin_count();
        let counted = {
            let columns = self.index.read();
            counter.count(&columns, &program, &re_offering, &limits)
        };
        let (seen, in_flight) = counted;
        self.rooms.end_count(&in_flight);
        seen
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
