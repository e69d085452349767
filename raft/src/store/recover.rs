//! Opening the database and comparing what was recovered with what was promised.
//!
//! Not repair: data that lost something is refused, never patched.

use std::path::Path;

use prost::Message;
use rocksdb::ErrorKind;

use super::Db;
use super::keys::{self, Kind};
use super::mark::{Durable, Marks};
use crate::stored::{self, StoreHeader};
use crate::types::{LogId, Vote};
use crate::{Fatal, GroupId, NodeId, OpenError, StoreConfig, StoreId};

/// Key of the [`StoreHeader`] in the default column family.
const HEADER: &[u8] = b"store";

pub(crate) fn open(dir: &Path, path: &Path, config: &StoreConfig) -> Result<Db, OpenError> {
    Db::open(path, config).map_err(|error| {
        let in_use = error.kind() == ErrorKind::IOError && error.as_ref().contains("lock");
        match in_use {
            true => OpenError::Locked {
                path: dir.to_owned(),
            },
            false => OpenError::Database {
                path: path.to_owned(),
                source: Fatal::because("recover", error),
            },
        }
    })
}

/// Refuses unknown formats, and data behind its mark.
pub(crate) fn check(db: &Db, dir: &Path, marks: &Marks) -> Result<(), OpenError> {
    let failed = |source| OpenError::Database {
        path: dir.to_owned(),
        source,
    };
    if let Some(bytes) = db.get("default", HEADER).map_err(failed)? {
        let header = StoreHeader::decode(bytes.as_slice());
        let found = header
            .map_err(|error| failed(Fatal::because("decode store header", error)))?
            .version;
        if found != stored::VERSION {
            return Err(OpenError::Format {
                path: dir.to_owned(),
                found,
                known: stored::VERSION,
            });
        }
    }
    for (group, marked) in marks.groups() {
        let found = recovered(db, group).map_err(failed)?;
        if is_behind(&found, &marked) {
            return Err(OpenError::BehindMark {
                group,
                marked: describe(&marked),
                found: describe(&found),
            });
        }
    }
    Ok(())
}

/// The store's id, made when it has none.
pub(crate) fn identity(db: &Db) -> Result<StoreId, Fatal> {
    let header = header(db)?;
    if header.id.is_empty() {
        let id = *uuid::Uuid::new_v4().as_bytes();
        let named = StoreHeader {
            id: id.to_vec(),
            ..header
        };
        write_header(db, &named)?;
        return Ok(StoreId(id));
    }
    let id = <[u8; 16]>::try_from(header.id);
    id.map(StoreId)
        .map_err(|id| Fatal::new(format!("store id of {} bytes", id.len())))
}

/// Binds the store to a node the first time; afterwards returns whose it is.
pub(crate) fn owner(db: &Db, node: NodeId) -> Result<NodeId, Fatal> {
    let header = header(db)?;
    if let Some(owner) = header.node {
        return Ok(NodeId(owner));
    }
    let bound = StoreHeader {
        node: Some(node.0),
        ..header
    };
    write_header(db, &bound)?;
    Ok(node)
}

/// What the database says it is; a new one says nothing.
fn header(db: &Db) -> Result<StoreHeader, Fatal> {
    match db.get("default", HEADER)? {
        Some(bytes) => stored::decode("store header", bytes.as_slice(), |m: &StoreHeader| {
            m.version
        }),
        None => Ok(StoreHeader {
            version: stored::VERSION,
            ..StoreHeader::default()
        }),
    }
}

fn write_header(db: &Db, header: &StoreHeader) -> Result<(), Fatal> {
    let mut sync = rocksdb::WriteOptions::default();
    sync.set_sync(true);
    let put = db.engine.put_opt(HEADER, header.encode_to_vec(), &sync);
    put.map_err(|error| Fatal::because("write the store header", error))
}

/// What the database has of a group.
fn recovered(db: &Db, group: GroupId) -> Result<Durable, Fatal> {
    let records = records(db, group)?;
    let applied = db.applied(group)?.last;
    let last = records.last.max(applied);
    Ok(Durable::new(last, records.vote))
}

fn is_behind(found: &Durable, marked: &Durable) -> bool {
    let log_is = marked.last.is_some() && found.last < marked.last;
    let vote_is = marked.vote.is_some() && found.vote < marked.vote;
    log_is || vote_is
}

fn describe(durable: &Durable) -> String {
    let last = durable
        .last
        .as_ref()
        .map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let vote = durable
        .vote
        .as_ref()
        .map_or_else(|| "none".to_owned(), ToString::to_string);
    format!("log {last} vote {vote}")
}

/// What the log of a group consists of beside its entries.
pub(crate) struct Records {
    pub vote: Option<Vote>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    /// Where the log begins: after what was purged, or at the first entry.
    pub first: u64,
    /// Last entry, or what was purged last.
    pub last: Option<LogId>,
}

pub(crate) fn records(db: &Db, group: GroupId) -> Result<Records, Fatal> {
    let get = |kind| db.get(keys::RAFT_META, &keys::meta(group, kind));
    let position = |kind, what| match get(kind)? {
        Some(bytes) => stored::decode_position(what, &bytes),
        None => Ok(None),
    };
    let vote = match get(Kind::Vote)? {
        Some(bytes) => Some(stored::decode(
            "vote",
            bytes.as_slice(),
            |m: &stored::Vote| m.version,
        )?),
        None => None,
    };
    let purged = position(Kind::Purged, "purged position")?;
    let after_purged = purged.as_ref().map_or(0, |id| id.index + 1);
    let first = first_entry(db, group, after_purged)?.unwrap_or(after_purged);
    if purged.is_some() && first != after_purged {
        return Err(Fatal::new(format!(
            "log of {group} begins at {first}, was purged before {after_purged}"
        )));
    }
    Ok(Records {
        first,
        vote: vote.as_ref().map(Vote::from),
        committed: position(Kind::Committed, "committed position")?,
        last: last_entry(db, group)?.or(purged),
        purged,
    })
}

fn first_entry(db: &Db, group: GroupId, from: u64) -> Result<Option<u64>, Fatal> {
    let mut raw = db.engine.raw_iterator_cf(db.family(keys::RAFT_LOG));
    raw.seek(keys::log(group, from));
    raw.status()
        .map_err(|error| Fatal::because("find the first log entry", error))?;
    Ok(raw.key().and_then(|key| keys::log_index(group, key)))
}

fn last_entry(db: &Db, group: GroupId) -> Result<Option<LogId>, Fatal> {
    let mut raw = db.engine.raw_iterator_cf(db.family(keys::RAFT_LOG));
    raw.seek_for_prev(keys::log(group, u64::MAX));
    raw.status()
        .map_err(|error| Fatal::because("find the last log entry", error))?;
    let Some((key, value)) = raw.item() else {
        return Ok(None);
    };
    if keys::log_index(group, key).is_none() {
        return Ok(None);
    }
    let entry = stored::decode_entry(bytes::Bytes::copy_from_slice(value))?;
    Ok(Some(entry.log_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn stored_header(dir: &Path, bytes: &[u8]) {
        let store = Store::open(dir, StoreConfig::default()).unwrap();
        store.shared.db.engine.put(HEADER, bytes).unwrap();
    }

    #[test]
    fn a_store_from_before_there_were_ids_gets_one_and_stays_its_nodes() {
        let dir = tempfile::tempdir().unwrap();
        stored_header(dir.path(), &[8, 1, 16, 7]);
        let open = || Store::open(dir.path(), StoreConfig::default()).unwrap();
        let id = open().id();
        assert_eq!(open().id(), id);
        assert_eq!(owner(&open().shared.db, NodeId(9)).unwrap(), NodeId(7));
        assert_eq!(open().id(), id);
    }

    #[test]
    fn a_store_that_is_bound_to_its_node_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreConfig::default()).unwrap();
        let id = open().id();
        assert_eq!(owner(&open().shared.db, NodeId(7)).unwrap(), NodeId(7));
        assert_eq!(open().id(), id);
    }

    #[test]
    fn a_store_id_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        stored_header(dir.path(), &[8, 1, 26, 2, 1, 2]);
        let error = Store::open(dir.path(), StoreConfig::default());
        let error = error.err().unwrap();
        assert!(matches!(error, OpenError::Database { .. }), "{error}");
    }
}
