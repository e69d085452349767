//! A partition's part of a rollout's list.
//!
//! A list never changes once it is complete. It lies in memory in one piece and in rising order, so that a million members
//! are gone through in a few milliseconds, and knows of each when its record changed last.

use proto::uid::Uid;

use super::Member;

/// So many steps cost about as much as a search.
const STEPS: usize = 16;

/// Members in rising order.
#[derive(Clone, Debug, Default)]
pub struct List {
    uids: Vec<Uid>,
    members: Vec<Member>,
    /// When the member, or the record of its agent, was written last; in moments of the index.
    changed: Vec<u64>,
}

/// One walk through a list.
pub struct Walk<'a> {
    list: &'a List,
    at: usize,
}

impl List {
    /// How many members it has.
    pub fn len(&self) -> usize {
        self.uids.len()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty()
    }

    /// The line of this agent.
    pub fn get(&self, uid: &Uid) -> Option<&Member> {
        let at = self.uids.binary_search(uid).ok()?;
        Some(&self.members[at])
    }

    /// In rising order.
    pub fn iter(&self) -> impl Iterator<Item = (&Uid, &Member)> {
        self.uids.iter().zip(&self.members)
    }

    /// In rising order; with the moment in which the member, or the record of its agent, changed last.
    pub fn with_changes(&self) -> impl Iterator<Item = (&Uid, &Member, u64)> {
        let changed = self.changed.iter().copied();
        self.iter()
            .zip(changed)
            .map(|((uid, member), at)| (uid, member, at))
    }

    /// To ask for members whose uids rise.
    pub fn walk(&self) -> Walk<'_> {
        Walk { list: self, at: 0 }
    }

    /// Puts a member in its place. Chunks come in order, so that this is at the end.
    pub fn insert(&mut self, uid: Uid, member: Member, moment: u64) {
        let next = self.uids.last().is_none_or(|last| *last < uid);
        let found = if next {
            Err(self.uids.len())
        } else {
            self.uids.binary_search(&uid)
        };
        match found {
            Ok(at) => {
                self.members[at] = member;
                self.changed[at] = moment;
            }
            Err(at) => {
                self.uids.insert(at, uid);
                self.members.insert(at, member);
                self.changed.insert(at, moment);
            }
        }
    }

    /// The record of this agent was written.
    pub(super) fn touch(&mut self, uid: &Uid, moment: u64) {
        if let Ok(at) = self.uids.binary_search(uid) {
            self.changed[at] = moment;
        }
    }
}

impl<'a> Walk<'a> {
    /// The line of an agent whose uid is greater than that of the call before.
    pub fn find(&mut self, uid: &Uid) -> Option<&'a Member> {
        let rest = &self.list.uids[self.at..];
        let near = &rest[..rest.len().min(STEPS)];
        self.at += match near.iter().position(|at| at >= uid) {
            Some(steps) => steps,
            None => rest.partition_point(|at| at < uid),
        };
        let here = self.list.uids.get(self.at)?;
        (here == uid).then(|| &self.list.members[self.at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(n: u16) -> Uid {
        let mut bytes = [1; 16];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        Uid::from_wire(&bytes).unwrap()
    }

    fn member(wave: u32) -> Member {
        Member {
            role: 0,
            wave,
            unchanged: false,
            taken_from: None,
        }
    }

    fn list(of: impl Iterator<Item = u16>) -> List {
        let mut list = List::default();
        of.for_each(|n| list.insert(uid(n), member(n.into()), 1));
        list
    }

    #[test]
    fn members_are_in_rising_order_in_whatever_order_they_come() {
        let list = list([5, 9, 2, 7, 5].into_iter());
        let waves: Vec<u32> = list.iter().map(|(_, member)| member.wave).collect();
        assert_eq!(waves, [2, 5, 7, 9]);
        assert_eq!(list.get(&uid(7)), Some(&member(7)));
        assert_eq!(list.get(&uid(8)), None);
    }

    #[test]
    fn a_walk_finds_what_a_search_finds_near_and_far() {
        let list = list((0..10_000).map(|n| n * 3));
        for step in [1, 2, 3, 7, 50, 1_000] {
            let mut walk = list.walk();
            for n in (0..31_000).step_by(step) {
                assert_eq!(
                    walk.find(&uid(n)),
                    list.get(&uid(n)),
                    "{n} in steps of {step}"
                );
            }
        }
        assert_eq!(List::default().walk().find(&uid(1)), None);
    }

    #[test]
    fn it_is_known_whose_record_was_written_since() {
        let mut list = list([1, 2, 3].into_iter());
        list.touch(&uid(2), 8);
        list.touch(&uid(4), 9);
        list.insert(uid(3), member(0), 7);
        let changed: Vec<u64> = list.with_changes().map(|(.., at)| at).collect();
        assert_eq!(changed, [1, 8, 7]);
    }
}
