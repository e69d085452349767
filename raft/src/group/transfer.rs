//! Handing leadership over.
//!
//! Invariant: the core is told to hand over only to a voter that could win at once, since it
//! takes no proposals from then on, and has no way back but another election.

use std::collections::BTreeSet;

use openraft::metrics::WaitError;

use super::{Group, Progress, Running, stopped};
use crate::types::TypeConfig;
use crate::{ChangeError, NodeId, Role, StateMachine, TransferError};

impl<M: StateMachine> Group<M> {
    /// Hands leadership over to a voter and returns who leads then: that voter, or another that
    /// was quicker. Proposals are answered `NotLeader` meanwhile; those taken before are answered
    /// as ever.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<NodeId, TransferError> {
        let Running { raft, node, .. } = &*self.shared;
        // A change of voters meanwhile could leave the core waiting for one who cannot lead.
        let turn = self.turn().await;
        let (_turn, deadline) = turn.map_err(|_: ChangeError| TransferError::InProgress)?;
        self.can_lead(to)?;
        if to == *node {
            return Ok(to);
        }
        let told = raft.trigger().transfer_leader(to.0).await;
        told.map_err(|error| TransferError::Fatal(stopped(&error)))?;
        let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
        let somebody_else = |metrics: &openraft::RaftMetrics<TypeConfig>| {
            metrics.current_leader.is_some_and(|leads| leads != node.0)
        };
        let wait = raft.wait(Some(remaining));
        match wait.metrics(somebody_else, "somebody else leads").await {
            Ok(metrics) => Ok(metrics.current_leader.map_or(to, NodeId)),
            Err(WaitError::Timeout(..)) => Err(TransferError::Timeout),
            Err(error) => Err(TransferError::Fatal(error.to_string())),
        }
    }

    /// Lets the one of these voters lead that lacks least. Left to itself, the core leads on
    /// without a vote while it is a learner.
    pub(super) async fn resign(&self, voters: &BTreeSet<NodeId>) {
        let progress = self.progress().unwrap_or_default();
        let fit = progress
            .iter()
            .filter(|one| voters.contains(&one.node) && self.is_heard(one));
        if let Some(next) = fit.min_by_key(|one| one.behind) {
            // The error is that the core has stopped, and leads nobody.
            let _ = self
                .shared
                .raft
                .trigger()
                .transfer_leader(next.node.0)
                .await;
        }
    }

    fn is_heard(&self, member: &Progress) -> bool {
        member.heard.is_some_and(|ago| ago < self.shared.silence)
    }

    fn can_lead(&self, to: NodeId) -> Result<(), TransferError> {
        let leadership = self.status().leadership;
        let progress = match (leadership.role, self.progress()) {
            (Role::Leader, Some(progress)) => progress,
            _ => {
                return Err(TransferError::NotLeader {
                    leader: leadership.leader,
                });
            }
        };
        let voter = progress.iter().find(|one| one.node == to && one.voter);
        let voter = voter.ok_or(TransferError::NotVoter(to))?;
        if voter.behind > self.shared.transfer_behind_max {
            return Err(TransferError::Behind {
                node: to,
                entries: voter.behind,
            });
        }
        match self.is_heard(voter) {
            true => Ok(()),
            false => Err(TransferError::Silent(to)),
        }
    }
}
