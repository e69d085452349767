//! A partition as budgets see it: how many agents each failure domain has, what is in flight, and who waits.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use proto::edge::notice;
pub use state::partition::counting::{Count, Counted, Older};
use state::partition::counting::{Counting, Waiting};
use state::partition::millis;
pub use state::partition::occupancy::Occupancy;
use state::partition::occupancy::kept::{ASKED_AT_ONCE, Counter};
use state::partition::room::{Lane, QUOTA_LIFE, Rooms};

use super::Partition;
use crate::ledger::entry;

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
        let occupancy = self.look(&mut counting.counter);
        let wanted = occupancy.waiting.values().map(|(wanted, _)| wanted).sum();
        self.wanted.store(wanted, Ordering::Relaxed);
        let mut counted = Counted {
            occupancy,
            bounds: self.rooms.hold(),
            number: None,
        };
        let waiting = Waiting::of(&mut counted, number, count, self.monotonic_ms());
        *self.waiting() = Some(waiting);
        Ok(counted)
    }

    /// What this replica has of a partition that is led elsewhere and does not answer; its leader may have granted up
    /// to these quotas meanwhile. Nobody in it waits for anything.
    pub fn seen_here(&self, quotas: &BTreeMap<Lane, u64>) -> Counted {
        let mut counting = self.counting();
        let occupancy = self.look(&mut counting.counter);
        Counted::unanswered(occupancy, self.rooms.hold(), quotas)
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
        for uid in waiting.with_room(quotas, &bounds) {
            self.tell(uid, notice::Kind::Pending);
        }
    }

    /// Has something stored where offers of unknown outcome use room: whatever of them is stored stands before it in the log,
    /// where the next count sees it. Call it now and then.
    pub async fn learn_outcomes(&self) {
        let Some(unknowns) = self.rooms.unknown().filter(|_| self.leads()) else {
            return;
        };
        // Without an outcome either, it is tried again.
        if self
            .ledger
            .propose_here(entry(vec![], vec![]))
            .await
            .is_ok()
        {
            self.rooms.resolve(unknowns);
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

    /// Looks at every agent, and asks those that have changed, as many as one count asks at most.
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
            counter.count(&columns, &program, &re_offering, &limits, ASKED_AT_ONCE)
        };
        let (seen, in_flight) = counted;
        self.rooms.end_count(&in_flight);
        seen
    }
}
