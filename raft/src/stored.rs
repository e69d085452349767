//! What is written to disk, as versioned messages, and the way to and from the types in use.
//!
//! Not the wire between nodes: that is `wire`, which shares the parts.
//! Invariants: each top message carries its version in field 1; a field number is never reused;
//! unset means zero, none or empty; the bytes of each version are frozen in a test.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EmptyNode, EntryPayload};
use prost::Message;

use crate::types::{self, LeaderId, LogId, Proposal};
use crate::{Fatal, GroupId};

/// The version of every message below.
pub(crate) const VERSION: u32 = 1;

/// A log position. `node` is the leader that made the entry.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Position {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub node: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

/// Voters of one half of a configuration.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Voters {
    #[prost(uint64, repeated, tag = "1")]
    pub nodes: Vec<u64>,
}

/// Members: one set of voters, two while the configuration is joint; all nodes with learners.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Members {
    #[prost(message, repeated, tag = "1")]
    pub configs: Vec<Voters>,
    #[prost(uint64, repeated, tag = "2")]
    pub nodes: Vec<u64>,
}

/// Members and the entry that set them; no position before the first.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembersAt {
    #[prost(message, optional, tag = "1")]
    pub position: Option<Position>,
    #[prost(message, optional, tag = "2")]
    pub members: Option<Members>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Blank {}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Payload {
    #[prost(message, tag = "3")]
    Blank(Blank),
    #[prost(bytes = "bytes", tag = "4")]
    Normal(Bytes),
    #[prost(message, tag = "5")]
    Members(Members),
}

/// A log entry.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogEntry {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(message, optional, tag = "2")]
    pub position: Option<Position>,
    #[prost(oneof = "Payload", tags = "3, 4, 5")]
    pub payload: Option<Payload>,
}

/// A vote.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Vote {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(uint64, tag = "3")]
    pub node: u64,
    #[prost(bool, tag = "4")]
    pub committed: bool,
}

/// A position on its own: purged, committed.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoredPosition {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(message, optional, tag = "2")]
    pub position: Option<Position>,
}

/// Where a group's state stands.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SmMeta {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint32, tag = "2")]
    pub generation: u32,
    #[prost(message, optional, tag = "3")]
    pub applied: Option<Position>,
    #[prost(message, optional, tag = "4")]
    pub members: Option<MembersAt>,
    /// Format of the machine's state.
    #[prost(uint32, tag = "5")]
    pub sm_format: u32,
}

/// First record of a snapshot.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotHeader {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint32, tag = "2")]
    pub group: u32,
    #[prost(uint32, tag = "3")]
    pub sm_format: u32,
    #[prost(message, optional, tag = "4")]
    pub last: Option<Position>,
    #[prost(message, optional, tag = "5")]
    pub members: Option<MembersAt>,
}

/// The current snapshot file of a group, a name within `snapshots/`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotMarker {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub file: String,
}

/// What the directory is: layout version, the node it belongs to, none before the first group,
/// and its id, empty where it was written before there were ids.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StoreHeader {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(uint64, optional, tag = "2")]
    pub node: Option<u64>,
    #[prost(bytes = "vec", tag = "3")]
    pub id: Vec<u8>,
}

/// What a group had durable when the mark was written.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GroupMark {
    #[prost(uint32, tag = "1")]
    pub group: u32,
    #[prost(message, optional, tag = "2")]
    pub last: Option<Position>,
    #[prost(message, optional, tag = "3")]
    pub vote: Option<Vote>,
}

/// Content of `durable.mark`, groups ascending.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Mark {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(message, repeated, tag = "2")]
    pub groups: Vec<GroupMark>,
}

/// Decodes a message and checks its version.
pub(crate) fn decode<M: Message + Default>(
    what: &str,
    bytes: impl bytes::Buf,
    version: impl Fn(&M) -> u32,
) -> Result<M, Fatal> {
    let message =
        M::decode(bytes).map_err(|error| Fatal::because(format!("decode {what}"), error))?;
    match version(&message) {
        VERSION => Ok(message),
        other => Err(Fatal::new(format!(
            "{what} has format {other}, this version knows {VERSION}"
        ))),
    }
}

// === positions ===

impl From<&LogId> for Position {
    fn from(id: &LogId) -> Self {
        let LeaderId { term, node_id } = id.leader_id;
        Self {
            term,
            node: node_id,
            index: id.index,
        }
    }
}

impl From<&Position> for LogId {
    fn from(position: &Position) -> Self {
        let Position { term, node, index } = *position;
        types::log_id(term, node, index)
    }
}

pub(crate) fn position(id: &Option<LogId>) -> Option<Position> {
    id.as_ref().map(Position::from)
}

pub(crate) fn log_id(position: &Option<Position>) -> Option<LogId> {
    position.as_ref().map(LogId::from)
}

pub(crate) fn encode_position(id: &LogId) -> Vec<u8> {
    StoredPosition {
        version: VERSION,
        position: Some(id.into()),
    }
    .encode_to_vec()
}

pub(crate) fn decode_position(what: &str, bytes: &[u8]) -> Result<Option<LogId>, Fatal> {
    let stored: StoredPosition = decode(what, bytes, |m: &StoredPosition| m.version)?;
    Ok(log_id(&stored.position))
}

// === votes ===

impl From<&types::Vote> for Vote {
    fn from(vote: &types::Vote) -> Self {
        let LeaderId { term, node_id } = vote.leader_id;
        Self {
            version: VERSION,
            term,
            node: node_id,
            committed: vote.committed,
        }
    }
}

impl From<&Vote> for types::Vote {
    fn from(vote: &Vote) -> Self {
        let Vote {
            version: _,
            term,
            node,
            committed,
        } = *vote;
        Self {
            leader_id: LeaderId {
                term,
                node_id: node,
            },
            committed,
        }
    }
}

// === members ===

impl From<&types::Membership> for Members {
    fn from(members: &types::Membership) -> Self {
        let configs = members.get_joint_config().iter();
        Self {
            configs: configs
                .map(|set| Voters {
                    nodes: set.iter().copied().collect(),
                })
                .collect(),
            nodes: members.nodes().map(|(id, _)| *id).collect(),
        }
    }
}

impl TryFrom<&Members> for types::Membership {
    type Error = Fatal;

    fn try_from(members: &Members) -> Result<Self, Fatal> {
        if members.configs.is_empty() && members.nodes.is_empty() {
            return Ok(Self::default());
        }
        let configs: Vec<BTreeSet<u64>> = members
            .configs
            .iter()
            .map(|voters| voters.nodes.iter().copied().collect())
            .collect();
        let nodes: BTreeMap<u64, EmptyNode> = members
            .nodes
            .iter()
            .map(|id| (*id, EmptyNode::new()))
            .collect();
        Self::new(configs, nodes).map_err(|error| Fatal::because("decode members", error))
    }
}

impl From<&types::StoredMembership> for MembersAt {
    fn from(stored: &types::StoredMembership) -> Self {
        Self {
            position: position(stored.log_id()),
            members: Some(stored.membership().into()),
        }
    }
}

pub(crate) fn stored_membership(at: &Option<MembersAt>) -> Result<types::StoredMembership, Fatal> {
    let Some(MembersAt { position, members }) = at else {
        return Ok(types::StoredMembership::default());
    };
    let members = members
        .as_ref()
        .map(types::Membership::try_from)
        .transpose()?
        .unwrap_or_default();
    Ok(types::StoredMembership::new(log_id(position), members))
}

// === entries ===

impl From<&types::Entry> for LogEntry {
    fn from(entry: &types::Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => Payload::Blank(Blank {}),
            EntryPayload::Normal(proposal) => Payload::Normal(proposal.0.clone()),
            EntryPayload::Membership(members) => Payload::Members(members.into()),
        };
        Self {
            version: VERSION,
            position: Some((&entry.log_id).into()),
            payload: Some(payload),
        }
    }
}

pub(crate) fn entry(stored: LogEntry) -> Result<types::Entry, Fatal> {
    let LogEntry {
        version: _,
        position,
        payload,
    } = stored;
    let position = position.ok_or_else(|| Fatal::new("log entry without position"))?;
    let payload = match payload {
        Some(Payload::Blank(Blank {})) => EntryPayload::Blank,
        Some(Payload::Normal(data)) => EntryPayload::Normal(Proposal(data)),
        Some(Payload::Members(members)) => EntryPayload::Membership((&members).try_into()?),
        None => {
            return Err(Fatal::new(format!(
                "log entry {} without payload",
                position.index
            )));
        }
    };
    Ok(types::Entry {
        log_id: (&position).into(),
        payload,
    })
}

pub(crate) fn encode_entry(entry: &types::Entry) -> Vec<u8> {
    LogEntry::from(entry).encode_to_vec()
}

pub(crate) fn decode_entry(bytes: Bytes) -> Result<types::Entry, Fatal> {
    entry(decode("log entry", bytes, |m: &LogEntry| m.version)?)
}

// === state ===

/// Where a group's state stands, decoded. The default is a group that applied nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Applied {
    pub generation: u32,
    pub last: Option<LogId>,
    pub members: types::StoredMembership,
    pub sm_format: u32,
}

impl Applied {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self {
            generation,
            last,
            members,
            sm_format,
        } = self;
        SmMeta {
            version: VERSION,
            generation: *generation,
            applied: position(last),
            members: Some(members.into()),
            sm_format: *sm_format,
        }
        .encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fatal> {
        let SmMeta {
            version: _,
            generation,
            applied,
            members,
            sm_format,
        } = decode("applied position", bytes, |m: &SmMeta| m.version)?;
        Ok(Self {
            generation,
            last: log_id(&applied),
            members: stored_membership(&members)?,
            sm_format,
        })
    }

    /// First bytes of every state key.
    pub(crate) fn space(&self, group: GroupId) -> [u8; crate::store::keys::SPACE_BYTES] {
        crate::store::keys::space(group, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> types::Membership {
        types::Membership::new_with_defaults(
            vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 300])],
            [4],
        )
    }

    fn entry_of(payload: EntryPayload<Proposal, u64, EmptyNode>) -> types::Entry {
        types::Entry {
            log_id: types::log_id(3, 1, 1000),
            payload,
        }
    }

    fn frozen(entry: &types::Entry, bytes: &[u8]) {
        assert_eq!(encode_entry(entry), bytes);
        let decoded = decode_entry(Bytes::copy_from_slice(bytes)).unwrap();
        assert_eq!(decoded, *entry);
    }

    #[test]
    fn log_entry_bytes_of_version_1_are_frozen() {
        let head = [8, 1, 18, 7, 8, 3, 16, 1, 24, 232, 7];
        frozen(
            &entry_of(EntryPayload::Blank),
            &[head.as_slice(), &[26, 0]].concat(),
        );
        let normal = EntryPayload::Normal(Proposal(Bytes::from_static(b"abc")));
        frozen(
            &entry_of(normal),
            &[head.as_slice(), &[34, 3, 97, 98, 99]].concat(),
        );
        let configs = [
            42, 21, 10, 4, 10, 2, 1, 2, 10, 5, 10, 3, 2, 172, 2, 18, 5, 1, 2, 4, 172, 2,
        ];
        let configs = [&[42, 20], &configs[2..]].concat();
        frozen(
            &entry_of(EntryPayload::Membership(members())),
            &[head.as_slice(), &configs].concat(),
        );
    }

    #[test]
    fn vote_bytes_of_version_1_are_frozen() {
        let vote = types::Vote {
            leader_id: LeaderId {
                term: 5,
                node_id: 2,
            },
            committed: true,
        };
        let bytes = [8, 1, 16, 5, 24, 2, 32, 1];
        assert_eq!(Vote::from(&vote).encode_to_vec(), bytes);
        let decoded: Vote = decode("vote", bytes.as_slice(), |m: &Vote| m.version).unwrap();
        assert_eq!(types::Vote::from(&decoded), vote);
    }

    #[test]
    fn position_bytes_of_version_1_are_frozen() {
        let id = types::log_id(1, 2, 3);
        assert_eq!(encode_position(&id), [8, 1, 18, 6, 8, 1, 16, 2, 24, 3]);
        assert_eq!(
            decode_position("position", &encode_position(&id)).unwrap(),
            Some(id)
        );
    }

    #[test]
    fn applied_bytes_of_version_1_are_frozen() {
        let applied = Applied {
            generation: 2,
            last: Some(types::log_id(1, 2, 3)),
            members: types::StoredMembership::new(
                Some(types::log_id(1, 1, 0)),
                types::Membership::new_with_defaults(vec![BTreeSet::from([1])], []),
            ),
            sm_format: 9,
        };
        let bytes = [
            8, 1, 16, 2, 26, 6, 8, 1, 16, 2, 24, 3, 34, 16, 10, 4, 8, 1, 16, 1, 18, 8, 10, 3, 10,
            1, 1, 18, 1, 1, 40, 9,
        ];
        assert_eq!(applied.encode(), bytes);
        assert_eq!(Applied::decode(&bytes).unwrap(), applied);
        assert_eq!(
            Applied::decode(&Applied::default().encode()).unwrap(),
            Applied::default()
        );
    }

    #[test]
    fn snapshot_marker_bytes_of_version_1_are_frozen() {
        let marker = SnapshotMarker {
            version: VERSION,
            file: "g7-300-2.snapshot".to_owned(),
        };
        let bytes = [[8, 1, 18, 17].as_slice(), b"g7-300-2.snapshot"].concat();
        assert_eq!(marker.encode_to_vec(), bytes);
        assert_eq!(SnapshotMarker::decode(bytes.as_slice()).unwrap(), marker);
    }

    #[test]
    fn store_header_bytes_of_version_1_are_frozen() {
        let before_ids = StoreHeader {
            version: VERSION,
            node: Some(7),
            id: Vec::new(),
        };
        assert_eq!(before_ids.encode_to_vec(), [8, 1, 16, 7]);
        let header = StoreHeader {
            id: (1..=16).collect(),
            ..before_ids
        };
        let bytes = [
            8, 1, 16, 7, 26, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
        ];
        assert_eq!(header.encode_to_vec(), bytes);
        assert_eq!(StoreHeader::decode(bytes.as_slice()).unwrap(), header);
    }

    #[test]
    fn another_version_is_refused() {
        let entry = LogEntry {
            version: 2,
            ..LogEntry::default()
        }
        .encode_to_vec();
        let error = decode_entry(entry.into()).unwrap_err().to_string();
        assert_eq!(error, "log entry has format 2, this version knows 1");
    }
}
