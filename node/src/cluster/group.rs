//! A group, whatever it keeps: what other nodes may ask of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::cluster::change_request::Change;
use proto::cluster::{GroupDescription, Voters};
use raft::{
    Fatal, Group, GroupCounts, GroupStatus, Incoming, NodeId, Progress, ProposeError, ReadError,
    StateMachine,
};

/// A member that lacks fewer entries has nearly everything: a second of a busy group.
const NEARLY: u64 = 5_000;

/// An index that is not reached so soon is not waited for.
const REACHED: Duration = Duration::from_secs(10);

/// A group behind one face.
#[tonic::async_trait]
pub trait AnyGroup: Incoming {
    /// As other nodes are told.
    fn describe(&self) -> GroupDescription;

    /// Where it stands on this node.
    fn status(&self) -> GroupStatus;

    /// How far its members have followed, if it is led here.
    fn progress(&self) -> Option<Vec<Progress>>;

    /// What it has counted.
    fn counts(&self) -> GroupCounts;

    /// Proposes if it is led here: the machine's answer, and what is applied by then.
    async fn propose(&self, entry: Bytes) -> Result<(Vec<u8>, u64), ProposeError>;

    /// A linearizable read if it is led here.
    async fn linearize(&self) -> Result<u64, ReadError>;

    /// Changes its members if it is led here; in words, why not.
    async fn change(&self, change: Change) -> Result<(), String>;

    /// The digest of what is applied here at this index; none: it was passed, or is not reached soon.
    async fn digest_at(&self, index: u64) -> Result<Option<[u8; 32]>, Fatal>;
}

#[tonic::async_trait]
impl<M: StateMachine> AnyGroup for Group<M> {
    fn describe(&self) -> GroupDescription {
        let status = Group::status(self);
        let progress = Group::progress(self).unwrap_or_default();
        let caught_up = progress.iter().filter(|member| member.behind < NEARLY);
        GroupDescription {
            group: status.group.0,
            leader: status.leadership.leader.map_or(0, |leader| leader.0),
            term: status.leadership.term,
            last_log: status.last_log.unwrap_or(0),
            applied: status.applied.unwrap_or(0),
            voters: status.voters.iter().map(|node| node.0).collect(),
            learners: status.learners.iter().map(|node| node.0).collect(),
            stopped: status.stopped.unwrap_or_default(),
            caught_up: caught_up.map(|member| member.node.0).collect(),
            same_at: 0,
            differs: vec![],
        }
    }

    fn status(&self) -> GroupStatus {
        Group::status(self)
    }

    fn progress(&self) -> Option<Vec<Progress>> {
        Group::progress(self)
    }

    fn counts(&self) -> GroupCounts {
        Group::counts(self)
    }

    async fn propose(&self, entry: Bytes) -> Result<(Vec<u8>, u64), ProposeError> {
        let answer = Group::propose(self, entry).await?;
        Ok((answer, Group::status(self).applied.unwrap_or(0)))
    }

    async fn linearize(&self) -> Result<u64, ReadError> {
        Group::linearize(self).await
    }

    async fn change(&self, change: Change) -> Result<(), String> {
        let changed = match change {
            Change::AddLearner(node) => self.add_learner(NodeId(node)).await,
            Change::RemoveLearner(node) => self.remove_learner(NodeId(node)).await,
            Change::SetVoters(Voters { nodes }) => {
                let voters: BTreeSet<NodeId> = nodes.into_iter().map(NodeId).collect();
                self.change_voters(&voters, true).await
            }
            Change::MoveLeader(to) => {
                let moved = self.transfer_leader(NodeId(to)).await;
                return moved.map(|_| ()).map_err(|error| error.to_string());
            }
        };
        changed.map_err(|error| error.to_string())
    }

    async fn digest_at(&self, index: u64) -> Result<Option<[u8; 32]>, Fatal> {
        let digest = Group::digest_at(self, index, REACHED).await?;
        Ok(digest.map(|digest| digest.hash))
    }
}

/// A group behind one face.
pub fn any<M: StateMachine>(group: &Group<M>) -> Arc<dyn AnyGroup> {
    Arc::new(group.clone())
}
