//! Names of groups, nodes and stores.
//!
//! Not addresses: where a node is reached is for [`crate::Peers`] to know.
//! Invariant: a node id is never used for a second disk.

use std::fmt;

/// A replication group. Also the first four bytes, big endian, of every key the group owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u32);

/// A node, that is one disk with the promises made on it. A wiped node gets a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// A store, that is one data directory from its first open on. Made at random, kept with the data.
///
/// A node id with another store id than before is a disk that was replaced, with the promises on
/// it lost: such a node has to come back under a new node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
