//! The errors of this crate, one enum per thing a caller does.
//!
//! Not the consensus library's errors: those are sorted into these at the edge.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use crate::{GroupId, NodeId};

type Source = Box<dyn StdError + Send + Sync>;

/// The node cannot go on: the disk failed, stored bytes are damaged, or an invariant broke.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Fatal {
    what: String,
    #[source]
    source: Option<Source>,
}

impl Fatal {
    /// A broken invariant, with the operation that found it.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            source: None,
        }
    }

    /// The operation that failed, and why.
    pub fn because(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self {
            what: what.into(),
            source: Some(source.into()),
        }
    }
}

impl From<Fatal> for io::Error {
    fn from(fatal: Fatal) -> Self {
        io::Error::other(fatal)
    }
}

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be used.
    #[error("use {path}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process, or another store in this one, has the directory open.
    #[error("{path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was written by a software version this one does not know.
    #[error("{path} has store format {found}, this version knows up to {known}")]
    Format {
        /// The directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// `durable.mark` cannot be read, so what this node promised is not known.
    #[error(
        "{path} is damaged: {reason}; start the node under a new id with an empty directory, or restore a backup"
    )]
    Mark {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data lost something this node had promised to keep. Starting could undo a commit.
    #[error(
        "{group} is behind its durable mark: mark {marked}, data {found}; \
         replace the node under a new id with an empty directory, or restore a backup"
    )]
    BehindMark {
        /// The group.
        group: GroupId,
        /// Vote and last log position of the mark.
        marked: String,
        /// Vote and last log position found.
        found: String,
    },
    /// The engine refused, or stored bytes are damaged.
    #[error("open the database in {path}")]
    Database {
        /// The directory.
        path: PathBuf,
        /// What the engine said.
        #[source]
        source: Fatal,
    },
}

/// Why a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store belongs to another node id.
    #[error("the store belongs to {owner}, not to {asked}")]
    OtherNode {
        /// The id the store was first used with.
        owner: NodeId,
        /// The id asked for.
        asked: NodeId,
    },
    /// The group already runs on this store.
    #[error("{0} already runs on this store")]
    Running(GroupId),
    /// The state was written by a newer version of the machine.
    #[error("{group} holds state of format {found}, this machine knows up to {known}")]
    NewerFormat {
        /// The group.
        group: GroupId,
        /// The format found.
        found: u32,
        /// The machine's own.
        known: u32,
    },
    /// The settings contradict each other.
    #[error("{group} settings: {reason}")]
    Config {
        /// The group.
        group: GroupId,
        /// What is wrong.
        reason: String,
    },
    /// Recovery or, for a lone voter, leadership took longer than `start_timeout`.
    #[error("{0} did not recover in time")]
    Timeout(GroupId),
    /// The store or the machine failed.
    #[error("start {group}")]
    Fatal {
        /// The group.
        group: GroupId,
        /// Why.
        #[source]
        source: Fatal,
    },
}

/// Why a proposal was not answered with its result.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not appended anywhere; try at the leader, or later if none is known.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// Accepted, but whether it was or will be committed is not known. A retry needs an identity
    /// the state machine recognises.
    #[error("outcome unknown")]
    Unknown,
    /// The group stopped. The outcome is not known either.
    #[error("the group stopped: {0}")]
    Fatal(String),
    /// Not appended: the entry is longer than [`crate::ENTRY_BYTES_MAX`].
    #[error("entry of {bytes} bytes is too large")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
}

/// Why a linearizable read was refused.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Ask the leader, or later if none is known.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// Too few voters answered to be sure of leadership.
    #[error("no quorum answered")]
    NoQuorum,
    /// No answer within `read_timeout`.
    #[error("no answer in time")]
    Timeout,
    /// The group stopped.
    #[error("the group stopped: {0}")]
    Fatal(String),
}

/// Why the members of a group were not changed. Where nothing else is said, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Ask the leader, or later if none is known.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// Too few voters answered to be sure of leadership.
    #[error("no quorum answered")]
    NoQuorum,
    /// An earlier change was not committed in time; try later.
    #[error("another change of members is not committed yet")]
    InProgress,
    /// A change of voters was cut off between its two steps.
    #[error("a change of voters to {} is unfinished: change the voters first", names(.voters))]
    Unfinished {
        /// The voters it was a change to, ascending.
        voters: Vec<NodeId>,
    },
    /// Who is to vote has to be a learner first.
    #[error("{0} is not a member: add it as a learner first")]
    NotMember(NodeId),
    /// Only learners can be removed.
    #[error("{0} votes: take its vote first")]
    Voter(NodeId),
    /// A group without voters never decides anything again.
    #[error("no voter would be left")]
    NoVoters,
    /// It was begun, and whether or how far it was or will be done is not known. The same call,
    /// to whoever leads, completes it.
    #[error("outcome unknown")]
    Unknown,
    /// The group stopped. The outcome is not known either.
    #[error("the group stopped: {0}")]
    Fatal(String),
}

/// Why nobody else leads. But for `Timeout` and `Fatal`, nothing was tried.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Only the leader can hand over.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if one is known.
        leader: Option<NodeId>,
    },
    /// Only a voter can lead.
    #[error("{0} is not a voter")]
    NotVoter(NodeId),
    /// It would have to catch up first, and nobody could propose meanwhile.
    #[error("{node} is {entries} entries behind")]
    Behind {
        /// The node asked for.
        node: NodeId,
        /// How many entries it does not have.
        entries: u64,
    },
    /// It did not answer the last heartbeats.
    #[error("{0} was not heard of lately")]
    Silent(NodeId),
    /// The members are being changed; try later.
    #[error("the members are being changed")]
    InProgress,
    /// Nobody else came to lead in time. Until somebody does, which is a matter of an election
    /// timeout once a quorum can be reached, this node takes no proposals.
    #[error("nobody else leads in time")]
    Timeout,
    /// The group stopped.
    #[error("the group stopped: {0}")]
    Fatal(String),
}

/// Why no snapshot was taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Nothing was applied yet.
    #[error("nothing applied yet")]
    Empty,
    /// Not done within the group's snapshot timeout.
    #[error("not done in time")]
    Timeout,
    /// The group stopped.
    #[error("the group stopped: {0}")]
    Fatal(String),
}

/// Why a message of a peer was not handled.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The bytes are no message of this protocol version.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The snapshot did not verify; nothing was changed.
    #[error("snapshot refused: {0}")]
    Snapshot(String),
    /// Addressed to another node: the address was reused.
    #[error("meant for {meant}, this is {here}")]
    OtherNode {
        /// Who the sender meant.
        meant: NodeId,
        /// Who got it.
        here: NodeId,
    },
    /// The group stopped.
    #[error("the group stopped: {0}")]
    Fatal(String),
}

fn names(nodes: &[NodeId]) -> String {
    let names: Vec<_> = nodes.iter().map(NodeId::to_string).collect();
    names.join(", ")
}

/// An error and everything below it, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
