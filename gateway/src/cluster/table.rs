//! Who leads what, by what the nodes say. No clock and no I/O.

use std::collections::{BTreeMap, BTreeSet};

use proto::edge::{Route, Routes};
use proto::uid::Uid;

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// By node id.
    addresses: BTreeMap<u64, String>,
    /// By group; the word of the highest term.
    groups: BTreeMap<u32, Route>,
}

impl Table {
    /// A node says what it knows. Answers whether that is news.
    pub fn take(&mut self, routes: &Routes) -> bool {
        let before = self.clone();
        for place in &routes.nodes {
            self.addresses.insert(place.node, place.address.clone());
        }
        for route in &routes.groups {
            let known = self.groups.entry(route.group).or_default();
            // Of one term there is one leader; who does not know it says nothing against it.
            let newer = route.term > known.term;
            if newer || (route.term == known.term && (route.leader != 0 || known.leader == 0)) {
                *known = route.clone();
            }
        }
        *self != before
    }

    /// How many partitions there are; 0 while nothing is known.
    pub fn partitions(&self) -> u32 {
        self.groups.keys().next_back().copied().unwrap_or(0)
    }

    /// The inventory group that keeps this agent.
    pub fn group(&self, uid: &Uid) -> u32 {
        u32::from(uid.slot()) * self.partitions() / 1024 + 1
    }

    /// Node id of who leads the group.
    pub fn leader(&self, group: u32) -> Option<u64> {
        self.groups
            .get(&group)
            .map(|route| route.leader)
            .filter(|leader| *leader != 0)
    }

    /// Has this node a replica of the group?
    pub fn has(&self, node: u64, group: u32) -> bool {
        self.groups
            .get(&group)
            .is_some_and(|route| route.members.contains(&node))
    }

    /// The groups of which this node has a replica.
    pub fn groups_of(&self, node: u64) -> BTreeSet<u32> {
        let has = |(_, route): &(&u32, &Route)| route.members.contains(&node);
        self.groups
            .iter()
            .filter(has)
            .map(|(group, _)| *group)
            .collect()
    }

    /// Where the nodes are.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(leader: u64, term: u64) -> Routes {
        let group = |group| Route {
            group,
            leader,
            term,
            members: vec![1, 2, 3],
        };
        Routes {
            groups: (0..=8).map(group).collect(),
            ..Routes::default()
        }
    }

    #[test]
    fn the_word_of_the_highest_term_counts_whoever_says_it_last() {
        let mut table = Table::default();
        assert!(table.take(&says(1, 4)));
        assert!(table.take(&says(2, 5)));
        assert!(!table.take(&says(1, 4)), "a node that was cut off");
        assert_eq!(table.leader(3), Some(2));
        assert!(
            !table.take(&says(0, 5)),
            "who knows no leader takes none away"
        );
        assert!(table.take(&says(0, 6)), "an election");
        assert_eq!(table.leader(3), None);
    }

    #[test]
    fn slots_are_spread_over_all_partitions_in_order() {
        let mut table = Table::default();
        assert_eq!(table.partitions(), 0);
        table.take(&says(1, 1));
        let uid = |slot: u16| {
            let mut bytes = [0; 16];
            bytes[14..].copy_from_slice(&slot.to_be_bytes());
            Uid::from_wire(&bytes).unwrap()
        };
        assert_eq!(table.group(&uid(1)), 1);
        assert_eq!(table.group(&uid(128)), 2);
        assert_eq!(table.group(&uid(1023)), 8);
    }
}
