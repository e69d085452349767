//! The types the consensus library is used with: those of crate `raft`, on the simulated runtime.

use std::fmt;
use std::sync::Arc;

use openraft::alias;
use openraft_rt_sim::SimRuntime;

use crate::ledger::{Change, Outcome};

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = openraft::EmptyNode,
        AsyncRuntime = SimRuntime,
);

pub type LogId = alias::LogIdOf<TypeConfig>;
pub type Vote = alias::VoteOf<TypeConfig>;
pub type Entry = alias::EntryOf<TypeConfig>;
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// Which Raft group: the control group, or a partition of the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// Families and rollouts; every other group is a partition.
pub const CONTROL: GroupId = GroupId(0);

/// A change on its way through the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal(pub Arc<Change>);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change {}", self.0.id)
    }
}
