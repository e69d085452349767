//! Where a group stands, in values of this crate.

use openraft::{RaftMetrics, ServerState};

use super::Group;
use crate::types::TypeConfig;
use crate::{GroupId, NodeId, StateMachine};

/// What this node is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers proposals.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Stands for election.
    Candidate,
    /// Receives entries without a vote, or is not a member yet.
    Learner,
    /// Stopped.
    Stopped,
}

/// Who leads a group, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Term of this node's vote; 0 before the first.
    pub term: u64,
    /// What this node is.
    pub role: Role,
}

/// Where a group stands on this node. Indices are `None` while there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// This node.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
    /// Who leads.
    pub leadership: Leadership,
    /// Index of the last log entry.
    pub last_log: Option<u64>,
    /// Index of the last committed entry this node knows of.
    pub committed: Option<u64>,
    /// Index of the last applied entry.
    pub applied: Option<u64>,
    /// Index of the last entry the newest snapshot covers.
    pub snapshot: Option<u64>,
    /// Index of the last entry removed from the log.
    pub purged: Option<u64>,
    /// Voters, ascending; of both halves while the configuration is joint.
    pub voters: Vec<NodeId>,
    /// A change of voters is under way, or was cut off between its two steps.
    pub joint: bool,
    /// Learners, ascending.
    pub learners: Vec<NodeId>,
    /// Why the group stopped, if it did.
    pub stopped: Option<String>,
}

impl Leadership {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        let role = match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let role = if metrics.running_state.is_err() {
            Role::Stopped
        } else {
            role
        };
        Self {
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            role,
        }
    }
}

impl<M: StateMachine> Group<M> {
    /// Where the group stands. Cheap; of a moment ago.
    pub fn status(&self) -> GroupStatus {
        let metrics = super::current(&self.shared.raft);
        let index = |id: &Option<crate::types::LogId>| id.as_ref().map(|id| id.index);
        let members = metrics.membership_config.membership();
        GroupStatus {
            node: self.shared.node,
            group: self.shared.group,
            leadership: Leadership::of(&metrics),
            last_log: metrics.last_log_index,
            committed: index(&metrics.local_committed).max(index(&metrics.last_applied)),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            voters: members.voter_ids().map(NodeId).collect(),
            joint: members.get_joint_config().len() > 1,
            learners: members.learner_ids().map(NodeId).collect(),
            stopped: metrics.running_state.as_ref().err().map(super::stopped),
        }
    }
}
