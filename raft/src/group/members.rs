//! Changing who is in a group, on its leader.
//!
//! Not a plan: who is to be what, and when, is for the caller to say. Invariants: this node makes
//! one change at a time; a change begins only where the one before it is committed and a quorum
//! has confirmed the leader; voters change through a configuration in which the old and the new
//! ones both have to agree, so that no two quorums are ever apart.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode, Instant as _, ServerState};
use tokio::time::Instant;

use super::{Group, Running, current, leader, stopped};
use crate::types::{Membership, TypeConfig};
use crate::{ChangeError, NodeId, ReadError, StateMachine};

type Written = Result<
    openraft::raft::ClientWriteResponse<TypeConfig>,
    RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
>;

/// How far a member has followed its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub node: NodeId,
    /// It votes, in either half of the configuration while that is joint.
    pub voter: bool,
    /// Index of the last entry the leader knows it to hold; `None` before the first.
    pub matched: Option<u64>,
    /// How many entries of the leader's log it is not known to hold.
    pub behind: u64,
    /// How long ago the newest message was sent that it answered; `None` if it never did since
    /// this node leads, zero for the leader itself.
    pub heard: Option<Duration>,
}

impl<M: StateMachine> Group<M> {
    /// Adds a learner: it is sent everything and has no vote. Returns when that is committed, not
    /// when the learner has caught up, which [`Group::progress`] tells.
    ///
    /// A member stays what it is. Start the group on the node with [`crate::Bootstrap::Join`], and
    /// never add a node id whose disk was replaced.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        let (_turn, deadline) = self.turn().await?;
        let members = self.settled(deadline).await?;
        if members.get_node(&node.0).is_some() {
            return Ok(());
        }
        whole(&members)?;
        let raft = &self.shared.raft;
        let added = raft.add_learner(node.0, EmptyNode::new(), false);
        written(tokio::time::timeout_at(deadline, added).await)
    }

    /// Makes exactly these members the voters, in two steps that are both committed when this
    /// returns. Who does not vote any more stays as a learner, or goes.
    ///
    /// Only the change counts for `keep_as_learners`: learners stay, [`Group::remove_learner`]
    /// removes them. A leader that is no voter any more hands over; until it has, it leads. After
    /// [`ChangeError::Unknown`] the first step may be done and not the second; a quorum then needs
    /// a majority of the old and of the new voters. The same call on whoever leads completes it.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn change_voters(
        &self,
        voters: &BTreeSet<NodeId>,
        keep_as_learners: bool,
    ) -> Result<(), ChangeError> {
        let (_turn, deadline) = self.turn().await?;
        let members = self.settled(deadline).await?;
        let asked: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        if asked.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        if let Some(stranger) = asked.iter().find(|id| members.get_node(id).is_none()) {
            return Err(ChangeError::NotMember(NodeId(*stranger)));
        }
        if *members.get_joint_config() != [asked.clone()] {
            let change = ChangeMembers::ReplaceAllVoters(asked);
            let changed = self.shared.raft.change_membership(change, keep_as_learners);
            match written(tokio::time::timeout_at(deadline, changed).await) {
                // Which of the two steps was refused is not known.
                Err(ChangeError::NotLeader { .. } | ChangeError::InProgress) => {
                    return Err(ChangeError::Unknown);
                }
                done => done?,
            }
        }
        if !voters.contains(&self.shared.node) {
            self.resign(voters).await;
        }
        Ok(())
    }

    /// Removes a learner; nothing happens if it is no member. Returns when that is committed.
    ///
    /// The node is not told: what it knew last is that it is a learner.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        let (_turn, deadline) = self.turn().await?;
        let members = self.settled(deadline).await?;
        if members.get_node(&node.0).is_none() {
            return Ok(());
        }
        whole(&members)?;
        if members.voter_ids().any(|id| id == node.0) {
            return Err(ChangeError::Voter(node));
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let removed = self.shared.raft.change_membership(change, true);
        written(tokio::time::timeout_at(deadline, removed).await)
    }

    /// How far each member has followed, ascending by node; `None` on a node that does not lead.
    /// Cheap; of a moment ago.
    pub fn progress(&self) -> Option<Vec<Progress>> {
        let metrics = current(&self.shared.raft);
        let (matched, heard) = (metrics.replication?, metrics.heartbeat?);
        let members = metrics.membership_config.membership();
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let log_end = metrics.last_log_index.map_or(0, |index| index + 1);
        let progress = members.nodes().map(|(&id, _)| {
            let matched = matched.get(&id).and_then(|last| last.as_ref());
            let matched = matched.map(|last| last.index);
            let answered = heard.get(&id).and_then(|sent| sent.as_ref());
            Progress {
                node: NodeId(id),
                voter: voters.contains(&id),
                matched,
                behind: log_end.saturating_sub(matched.map_or(0, |index| index + 1)),
                heard: match id == self.shared.node.0 {
                    true => Some(Duration::ZERO),
                    false => answered.map(|sent| sent.elapsed()),
                },
            }
        });
        Some(progress.collect())
    }

    /// Waits for the changes before this one that this node makes.
    pub(super) async fn turn(
        &self,
    ) -> Result<(tokio::sync::MutexGuard<'_, ()>, Instant), ChangeError> {
        let deadline = Instant::now() + self.shared.change_timeout;
        match tokio::time::timeout_at(deadline, self.shared.changes.lock()).await {
            Ok(turn) => Ok((turn, deadline)),
            Err(_) => Err(ChangeError::InProgress),
        }
    }

    /// The members, when they are committed, and a quorum says that this node leads.
    async fn settled(&self, deadline: Instant) -> Result<Membership, ChangeError> {
        let Running { raft, .. } = &*self.shared;
        let led = tokio::time::timeout_at(deadline, self.linearize()).await;
        led.unwrap_or(Err(ReadError::Timeout)).map_err(no_lead)?;
        loop {
            // Asked of the core: what it publishes may be older than the last change.
            let members = raft.with_raft_state(|state| {
                let members = &state.membership_state;
                let committed = members.effective().log_id() == members.committed().log_id();
                committed.then(|| members.effective().membership().clone())
            });
            let members = members.await;
            if let Some(members) = members.map_err(|error| ChangeError::Fatal(stopped(&error)))? {
                return Ok(members);
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            let committed = |metrics: &openraft::RaftMetrics<TypeConfig>| {
                metrics.membership_config == metrics.committed_membership_config
                    || metrics.state != ServerState::Leader
            };
            let wait = raft.wait(Some(remaining));
            match wait.metrics(committed, "members committed").await {
                Ok(metrics) if metrics.state != ServerState::Leader => {
                    return Err(ChangeError::NotLeader {
                        leader: metrics.current_leader.map(NodeId),
                    });
                }
                Ok(_) => {}
                Err(openraft::metrics::WaitError::Timeout(..)) => {
                    return Err(ChangeError::InProgress);
                }
                Err(error) => return Err(ChangeError::Fatal(error.to_string())),
            }
        }
    }
}

/// The core would finish a joint configuration along with whatever is asked of it, and in its own
/// way: that is for who began it.
fn whole(members: &Membership) -> Result<(), ChangeError> {
    match members.get_joint_config().as_slice() {
        [_, .., last] => Err(ChangeError::Unfinished {
            voters: last.iter().copied().map(NodeId).collect(),
        }),
        _ => Ok(()),
    }
}

fn no_lead(error: ReadError) -> ChangeError {
    match error {
        ReadError::NotLeader { leader } => ChangeError::NotLeader { leader },
        ReadError::NoQuorum | ReadError::Timeout => ChangeError::NoQuorum,
        ReadError::Fatal(reason) => ChangeError::Fatal(reason),
    }
}

fn written(written: Result<Written, tokio::time::error::Elapsed>) -> Result<(), ChangeError> {
    let error = match written {
        Err(_) => return Err(ChangeError::Unknown),
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(RaftError::Fatal(error))) => return Err(ChangeError::Fatal(stopped(&error))),
        Ok(Err(RaftError::APIError(error))) => error,
    };
    Err(match error {
        ClientWriteError::ForwardToLeader(to) => ChangeError::NotLeader {
            leader: leader(&to),
        },
        ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_) => {
            ChangeError::Unknown
        }
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::UncommittedLeaderLog(_) => ChangeError::InProgress,
            ChangeMembershipError::EmptyMembership(_) => ChangeError::NoVoters,
            ChangeMembershipError::LearnerNotFound(stranger) => {
                ChangeError::NotMember(NodeId(stranger.node_id))
            }
            // Neither is asked for: nodes carry no data here, and the core picks the steps.
            error @ (ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_)) => {
                ChangeError::Fatal(error.to_string())
            }
        },
    })
}
