//! Names of groups and nodes.
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
