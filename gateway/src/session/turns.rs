//! Whose turn it is: one agent's messages are handled one at a time, in the order in which they came.
//!
//! Only agents with a report under way have an entry. `W` is what wakes a message that waits.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use proto::uid::Uid;

use crate::session::table::Noticed;

/// The turns of one shard.
#[derive(Debug)]
pub struct Turns<W> {
    taken: HashMap<Uid, Turn<W>, RandomState>,
    waiting_max: usize,
}

#[derive(Debug)]
struct Turn<W> {
    waiting: VecDeque<W>,
    noticed: Noticed,
}

/// More messages of one agent wait than are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

// === impl Turns ===

impl<W> Turns<W> {
    /// Lets `waiting_max` messages of one agent wait.
    pub fn new(waiting_max: usize) -> Self {
        Turns {
            taken: HashMap::default(),
            waiting_max,
        }
    }

    /// Is a report of this agent under way?
    pub fn is_taken(&self, uid: &Uid) -> bool {
        !self.taken.is_empty() && self.taken.contains_key(uid)
    }

    /// Takes the turn of an agent that has none under way.
    pub fn take(&mut self, uid: Uid) {
        let free = self.taken.insert(
            uid,
            Turn {
                waiting: VecDeque::new(),
                noticed: Noticed::default(),
            },
        );
        debug_assert!(free.is_none(), "the turn of {uid} is taken twice");
    }

    /// Stands in line behind the turn under way.
    pub fn wait(&mut self, uid: &Uid, waiter: W) -> Result<(), TooMany> {
        match self.taken.get_mut(uid) {
            Some(turn) if turn.waiting.len() < self.waiting_max => {
                turn.waiting.push_back(waiter);
                Ok(())
            }
            _ => Err(TooMany),
        }
    }

    /// Ends a turn. The next in line has it from now on, or nobody.
    pub fn end(&mut self, uid: &Uid) -> Option<W> {
        let turn = self.taken.get_mut(uid)?;
        let next = turn.waiting.pop_front();
        if next.is_none() {
            self.taken.remove(uid);
        }
        next
    }

    /// A notice came; the turn under way must know.
    pub fn notice(&mut self, uid: &Uid, note: impl FnOnce(&mut Noticed)) {
        if let Some(turn) = self.taken.get_mut(uid) {
            note(&mut turn.noticed);
        }
    }

    /// What was said during the turn, once.
    pub fn take_noticed(&mut self, uid: &Uid) -> Noticed {
        self.taken
            .get_mut(uid)
            .map(|turn| std::mem::take(&mut turn.noticed))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u8) -> Uid {
        Uid::from_wire(&[n; 16]).unwrap()
    }

    #[test]
    fn messages_of_one_agent_get_their_turn_in_order_and_others_do_not_wait() {
        let mut turns = Turns::new(2);
        turns.take(uid(1));
        assert!(!turns.is_taken(&uid(2)));
        assert_eq!(turns.wait(&uid(1), "second"), Ok(()));
        assert_eq!(turns.wait(&uid(1), "third"), Ok(()));
        assert_eq!(turns.wait(&uid(1), "fourth"), Err(TooMany));
        assert_eq!(turns.end(&uid(1)), Some("second"));
        assert!(turns.is_taken(&uid(1)));
        assert_eq!(turns.end(&uid(1)), Some("third"));
        assert_eq!(turns.end(&uid(1)), None);
        assert!(!turns.is_taken(&uid(1)));
    }

    #[test]
    fn a_notice_is_told_to_the_turn_under_way_once() {
        let mut turns = Turns::<()>::new(1);
        turns.notice(&uid(1), |noticed| noticed.pending = true);
        turns.take(uid(1));
        assert_eq!(turns.take_noticed(&uid(1)), Noticed::default());
        turns.notice(&uid(1), |noticed| noticed.dropped = true);
        assert!(turns.take_noticed(&uid(1)).dropped);
        assert_eq!(turns.take_noticed(&uid(1)), Noticed::default());
    }
}
