//! What the gateway asks of others: partition leaders (`Link`) and whoever knows the tokens (`Access`).
//!
//! Both are given from outside. The gateway holds no address of a node and no token.

use std::future::Future;
use std::time::Duration;

use futures::Stream;
use proto::edge;
use proto::uid::Uid;

/// The way to the partition leaders.
pub trait Link: Send + Sync + 'static {
    /// Hands a report to the leader of the agent's partition; answered after commit.
    ///
    /// Without a leader the link holds the report for up to 5 s before it says `Unavailable`.
    /// `Answer.grant_ms` counts from the call of this function: a link that held the report back before
    /// it last sent it adds the time of holding to the grant.
    fn report(
        &self,
        report: edge::Report,
    ) -> impl Future<Output = Result<edge::Answer, LinkError>> + Send;

    /// Tells all voters which agents spoke. Called every 250 ms, also with an empty batch. Loss is tolerated.
    fn presence(&self, batch: Vec<edge::Presence>) -> impl Future<Output = ()> + Send;

    /// Tells voters that have heard nothing of this gateway yet where all its conversations stand, if there are such
    /// voters: a node that has just begun, or has just got a replica. Called after [`Link::presence`], which tells who is
    /// back.
    fn introduce(
        &self,
        all: impl Fn() -> Vec<edge::Presence> + Send,
    ) -> impl Future<Output = ()> + Send {
        let _ = all;
        std::future::ready(())
    }

    /// An agent's WebSocket connection ended. `clean`: the agent said that it leaves, or closed with 1000.
    fn closed(&self, uid: Uid, connection: u64, clean: bool) -> impl Future<Output = ()> + Send;

    /// What leaders tell this gateway. The stream lives as long as the link and is taken once.
    fn notices(&self) -> impl Stream<Item = Vec<edge::Notice>> + Send;

    /// Was the leader of this agent's partition heard within the last 10 s?
    ///
    /// Asked at every check-in, so it answers from memory. While it says no, nothing is answered from a session.
    fn in_contact(&self, uid: Uid) -> bool {
        let _ = uid;
        true
    }
}

/// Why a report has no answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LinkError {
    /// No leader, also not after holding the report.
    #[error("the agent's partition has no leader at the moment")]
    Unavailable {
        /// Wait so long; the gateway keeps it within 1 to 5 s.
        retry_after: Duration,
    },
    /// The leader sheds load.
    #[error("the agent's partition is overloaded")]
    Overloaded,
    /// The message is malformed in a way that only the leader sees; the text goes to the agent.
    #[error("the message was rejected: {0}")]
    Rejected(String),
}

/// Who may speak. Decided elsewhere, asked here: answers come from memory.
pub trait Access: Send + Sync + 'static {
    /// The name of the enrolment token, or empty where none is needed.
    fn agent(&self, bearer: Option<&str>) -> Result<String, Denied>;

    /// The operator behind a token.
    fn operator(&self, bearer: Option<&str>) -> Result<Operator, Denied>;

    /// Are tokens asked for at all?
    fn tokens_required(&self) -> bool;
}

/// An operator who was let in; a request extension for the services behind the operator listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Name of the token, or `local/<user>` where none is needed.
    pub name: String,
    /// What the operator may do.
    pub role: Role,
}

/// What an operator may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Writes families and revisions.
    Editor,
    /// Approves and moves rollouts.
    Approver,
    /// Everything, tokens included.
    Admin,
}

/// The token is missing, unknown or revoked. Says no more to the outside.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("a valid token is needed")]
pub struct Denied;

impl Role {
    /// As tokens and calls name it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Editor => "editor",
            Role::Approver => "approver",
            Role::Admin => "admin",
        }
    }

    /// The role of this name; an unknown one may only read.
    pub fn named(name: &str) -> Role {
        match name {
            "admin" => Role::Admin,
            "approver" => Role::Approver,
            "editor" => Role::Editor,
            _ => Role::Viewer,
        }
    }
}
