//! Messages between the replicas of a group.
//!
//! Not a transport. Invariants: each message names the node it is meant for and carries its
//! version; an unknown version is refused, never guessed at.

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message;

use crate::stored::{self, MembersAt, Position, Vote, log_id, position};
use crate::types::{self, SnapshotMeta, TypeConfig};
use crate::{Fatal, NodeId};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The node it is meant for.
    #[prost(uint64, tag = "2")]
    pub to: u64,
    #[prost(oneof = "Ask", tags = "3, 4, 5, 6, 7")]
    pub ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Ask {
    #[prost(message, tag = "3")]
    Append(Append),
    #[prost(message, tag = "4")]
    Vote(Ballot),
    #[prost(message, tag = "5")]
    PreVote(Ballot),
    #[prost(message, tag = "6")]
    Transfer(Transfer),
    #[prost(message, tag = "7")]
    Snapshot(Announce),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Append {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub before: Option<Position>,
    #[prost(message, repeated, tag = "3")]
    pub entries: Vec<stored::LogEntry>,
    #[prost(message, optional, tag = "4")]
    pub commit: Option<Position>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ballot {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub last: Option<Position>,
    #[prost(bool, tag = "3")]
    pub transfer: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Transfer {
    #[prost(message, optional, tag = "1")]
    pub from: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub last: Option<Position>,
    /// Who is to lead. Every voter is told, so that the others do not hold on to who led.
    #[prost(uint64, tag = "3")]
    pub to: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Announce {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(message, optional, tag = "2")]
    pub last: Option<Position>,
    #[prost(message, optional, tag = "3")]
    pub members: Option<MembersAt>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reply {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(oneof = "Tell", tags = "2, 3, 4, 5")]
    pub tell: Option<Tell>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Tell {
    #[prost(message, tag = "2")]
    Append(Appended),
    #[prost(message, tag = "3")]
    Vote(Voted),
    #[prost(message, tag = "4")]
    Transfer(Transferred),
    #[prost(message, tag = "5")]
    Snapshot(Installed),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Appended {
    /// 1 all, 2 up to `last`, 3 conflict, 4 `vote` is higher.
    #[prost(uint32, tag = "1")]
    pub result: u32,
    #[prost(message, optional, tag = "2")]
    pub last: Option<Position>,
    #[prost(message, optional, tag = "3")]
    pub vote: Option<Vote>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Voted {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
    #[prost(bool, tag = "2")]
    pub granted: bool,
    #[prost(message, optional, tag = "3")]
    pub last: Option<Position>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Transferred {
    /// 1 done, 2 the vote is `vote`, 3 the log is flushed up to `last`.
    #[prost(uint32, tag = "1")]
    pub result: u32,
    #[prost(message, optional, tag = "2")]
    pub vote: Option<Vote>,
    #[prost(message, optional, tag = "3")]
    pub last: Option<Position>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Installed {
    #[prost(message, optional, tag = "1")]
    pub vote: Option<Vote>,
}

fn vote(vote: &Option<Vote>) -> Result<types::Vote, Fatal> {
    vote.as_ref()
        .map(types::Vote::from)
        .ok_or_else(|| Fatal::new("message without vote"))
}

// === requests ===

impl Request {
    pub(crate) fn encode_to(to: NodeId, ask: Ask) -> Bytes {
        Self {
            version: stored::VERSION,
            to: to.0,
            ask: Some(ask),
        }
        .encode_to_vec()
        .into()
    }

    pub(crate) fn parse(bytes: Bytes) -> Result<(NodeId, Ask), Fatal> {
        let Self {
            version: _,
            to,
            ask,
        } = stored::decode("request", bytes, |m: &Self| m.version)?;
        Ok((NodeId(to), ask.ok_or_else(|| Fatal::new("empty request"))?))
    }
}

impl From<&AppendEntriesRequest<TypeConfig>> for Append {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        let AppendEntriesRequest {
            vote,
            prev_log_id,
            entries,
            leader_commit,
        } = request;
        Self {
            vote: Some(vote.into()),
            before: position(prev_log_id),
            entries: entries.iter().map(stored::LogEntry::from).collect(),
            commit: position(leader_commit),
        }
    }
}

impl TryFrom<Append> for AppendEntriesRequest<TypeConfig> {
    type Error = Fatal;

    fn try_from(append: Append) -> Result<Self, Fatal> {
        let Append {
            vote: by,
            before,
            entries,
            commit,
        } = append;
        Ok(Self {
            vote: vote(&by)?,
            prev_log_id: log_id(&before),
            entries: entries
                .into_iter()
                .map(stored::entry)
                .collect::<Result<_, _>>()?,
            leader_commit: log_id(&commit),
        })
    }
}

impl From<&VoteRequest<TypeConfig>> for Ballot {
    fn from(request: &VoteRequest<TypeConfig>) -> Self {
        let VoteRequest {
            vote,
            last_log_id,
            leadership_transfer,
        } = request;
        Self {
            vote: Some(vote.into()),
            last: position(last_log_id),
            transfer: *leadership_transfer,
        }
    }
}

impl TryFrom<Ballot> for VoteRequest<TypeConfig> {
    type Error = Fatal;

    fn try_from(ballot: Ballot) -> Result<Self, Fatal> {
        let Ballot {
            vote: by,
            last,
            transfer,
        } = ballot;
        Ok(Self {
            vote: vote(&by)?,
            last_log_id: log_id(&last),
            leadership_transfer: transfer,
        })
    }
}

impl From<&TransferLeaderRequest<TypeConfig>> for Transfer {
    fn from(request: &TransferLeaderRequest<TypeConfig>) -> Self {
        Self {
            from: Some(request.from_leader().into()),
            last: request.last_log_id().map(Into::into),
            to: *request.to_node_id(),
        }
    }
}

impl TryFrom<Transfer> for TransferLeaderRequest<TypeConfig> {
    type Error = Fatal;

    fn try_from(transfer: Transfer) -> Result<Self, Fatal> {
        let Transfer { from, last, to } = transfer;
        Ok(Self::new(vote(&from)?, to, log_id(&last)))
    }
}

impl Announce {
    pub(crate) fn new(vote: &types::Vote, meta: &SnapshotMeta) -> Self {
        let SnapshotMeta {
            last_log_id,
            last_membership,
        } = meta;
        Self {
            vote: Some(vote.into()),
            last: position(last_log_id),
            members: Some(last_membership.into()),
        }
    }

    pub(crate) fn parts(&self) -> Result<(types::Vote, SnapshotMeta), Fatal> {
        let Self {
            vote: by,
            last,
            members,
        } = self;
        let meta = SnapshotMeta {
            last_log_id: log_id(last),
            last_membership: stored::stored_membership(members)?,
        };
        Ok((vote(by)?, meta))
    }
}

// === replies ===

impl Reply {
    pub(crate) fn encode(tell: Tell) -> Bytes {
        Self {
            version: stored::VERSION,
            tell: Some(tell),
        }
        .encode_to_vec()
        .into()
    }

    pub(crate) fn parse(bytes: Bytes) -> Result<Tell, Fatal> {
        let Self { version: _, tell } = stored::decode("reply", bytes, |m: &Self| m.version)?;
        tell.ok_or_else(|| Fatal::new("empty reply"))
    }
}

impl From<&AppendEntriesResponse<TypeConfig>> for Appended {
    fn from(response: &AppendEntriesResponse<TypeConfig>) -> Self {
        let (result, last, vote) = match response {
            AppendEntriesResponse::Success => (1, None, None),
            AppendEntriesResponse::PartialSuccess(last) => (2, position(last), None),
            AppendEntriesResponse::Conflict => (3, None, None),
            AppendEntriesResponse::HigherVote(vote) => (4, None, Some(vote.into())),
        };
        Self { result, last, vote }
    }
}

impl TryFrom<Appended> for AppendEntriesResponse<TypeConfig> {
    type Error = Fatal;

    fn try_from(appended: Appended) -> Result<Self, Fatal> {
        let Appended {
            result,
            last,
            vote: by,
        } = appended;
        match result {
            1 => Ok(Self::Success),
            2 => Ok(Self::PartialSuccess(log_id(&last))),
            3 => Ok(Self::Conflict),
            4 => Ok(Self::HigherVote(vote(&by)?)),
            other => Err(Fatal::new(format!("unknown append result {other}"))),
        }
    }
}

impl From<&VoteResponse<TypeConfig>> for Voted {
    fn from(response: &VoteResponse<TypeConfig>) -> Self {
        let VoteResponse {
            vote,
            vote_granted,
            last_log_id,
        } = response;
        Self {
            vote: Some(vote.into()),
            granted: *vote_granted,
            last: position(last_log_id),
        }
    }
}

impl TryFrom<Voted> for VoteResponse<TypeConfig> {
    type Error = Fatal;

    fn try_from(voted: Voted) -> Result<Self, Fatal> {
        let Voted {
            vote: by,
            granted,
            last,
        } = voted;
        Ok(Self {
            vote: vote(&by)?,
            vote_granted: granted,
            last_log_id: log_id(&last),
        })
    }
}

impl From<&TransferLeaderResponse<TypeConfig>> for Transferred {
    fn from(response: &TransferLeaderResponse<TypeConfig>) -> Self {
        match response {
            Ok(()) => Self {
                result: 1,
                vote: None,
                last: None,
            },
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Self {
                result: 2,
                vote: Some(actual.into()),
                last: None,
            },
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => Self {
                result: 3,
                vote: None,
                last: position(actual),
            },
        }
    }
}

impl Transferred {
    pub(crate) fn response(
        self,
        request: &TransferLeaderRequest<TypeConfig>,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Fatal> {
        let Self {
            result,
            vote: by,
            last,
        } = self;
        match result {
            1 => Ok(Ok(())),
            2 => Ok(Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: vote(&by)?,
            })),
            3 => Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: log_id(&last),
            })),
            other => Err(Fatal::new(format!("unknown transfer result {other}"))),
        }
    }
}

impl From<&SnapshotResponse<TypeConfig>> for Installed {
    fn from(response: &SnapshotResponse<TypeConfig>) -> Self {
        Self {
            vote: Some((&response.vote).into()),
        }
    }
}

impl TryFrom<Installed> for SnapshotResponse<TypeConfig> {
    type Error = Fatal;

    fn try_from(installed: Installed) -> Result<Self, Fatal> {
        Ok(Self::new(vote(&installed.vote)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote() -> Vote {
        Vote {
            version: stored::VERSION,
            term: 5,
            node: 2,
            committed: true,
        }
    }

    fn at(index: u64) -> Option<Position> {
        Some(Position {
            term: 1,
            node: 2,
            index,
        })
    }

    #[test]
    fn requests_of_version_1_are_frozen() {
        let frozen = |ask: Ask, bytes: &[u8]| {
            let encoded = Request::encode_to(NodeId(3), ask.clone());
            assert_eq!(encoded, bytes);
            assert_eq!(Request::parse(encoded).unwrap(), (NodeId(3), ask));
        };
        let ballot = || Ballot {
            vote: Some(vote()),
            last: at(7),
            transfer: true,
        };
        let said = [
            10, 8, 8, 1, 16, 5, 24, 2, 32, 1, 18, 6, 8, 1, 16, 2, 24, 7, 24, 1,
        ];
        frozen(
            Ask::Vote(ballot()),
            &[&[8, 1, 16, 3, 34, 20][..], &said].concat(),
        );
        frozen(
            Ask::PreVote(ballot()),
            &[&[8, 1, 16, 3, 42, 20][..], &said].concat(),
        );
        let append = Append {
            vote: Some(vote()),
            before: at(7),
            entries: vec![stored::LogEntry {
                version: stored::VERSION,
                position: at(8),
                payload: Some(stored::Payload::Normal(Bytes::from_static(b"abc"))),
            }],
            commit: at(6),
        };
        frozen(
            Ask::Append(append),
            &[
                8, 1, 16, 3, 26, 43, 10, 8, 8, 1, 16, 5, 24, 2, 32, 1, 18, 6, 8, 1, 16, 2, 24, 7,
                26, 15, 8, 1, 18, 6, 8, 1, 16, 2, 24, 8, 34, 3, 97, 98, 99, 34, 6, 8, 1, 16, 2, 24,
                6,
            ],
        );
    }

    #[test]
    fn replies_of_version_1_are_frozen() {
        let voted = Tell::Vote(Voted {
            vote: Some(vote()),
            granted: true,
            last: at(7),
        });
        let bytes = [
            8, 1, 26, 20, 10, 8, 8, 1, 16, 5, 24, 2, 32, 1, 16, 1, 26, 6, 8, 1, 16, 2, 24, 7,
        ];
        let encoded = Reply::encode(voted.clone());
        assert_eq!(encoded, bytes.as_slice());
        assert_eq!(Reply::parse(encoded).unwrap(), voted);
    }

    #[test]
    fn another_version_is_refused() {
        let request = Request {
            version: 2,
            to: 3,
            ask: None,
        };
        let refused = Request::parse(request.encode_to_vec().into()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "request has format 2, this version knows 1"
        );
        let reply = Reply {
            version: 2,
            tell: None,
        };
        assert!(Reply::parse(reply.encode_to_vec().into()).is_err());
    }
}
