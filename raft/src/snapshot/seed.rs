//! Making an exported stream the state of a group in a store that has nothing of it: what a restore does.
//!
//! Not an installation, which a leader asks for and after which its log goes on. Here a new group begins, with one voter,
//! where the stream ends. Invariant: one synced write makes it the state; before it the store has nothing of the group.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::SystemTime;

use prost::Message;
use rocksdb::WriteBatch;

use super::export::exported;
use super::{Contents, Exported, Reader};
use crate::store::keys::{self, Kind};
use crate::stored::{self, Applied};
use crate::types::{LeaderId, Membership, StoredMembership, Vote, log_id};
use crate::{Fatal, GroupId, NodeId, Store};

/// A new group begins so many terms after the old one: who has heard of both believes the new one, although the old one
/// went on after the stream was made. A term is an election, so the old one has not held as many.
const TERMS_AHEAD: u64 = 1_000_000;

/// The generation written; a group that was never written has generation 0, so what a crash leaves is found and removed.
const GENERATION: u32 = 1;

impl Store {
    /// Makes what [`crate::Group::export`] wrote the state of a group with `node` as its only voter. It starts like any
    /// group that was stopped; other nodes can be added then. Blocks.
    ///
    /// # Errors
    /// The store has something of the group already, the stream is of another one, is cut short or altered, or the
    /// database failed.
    pub fn seed(&self, group: GroupId, node: NodeId, stream: impl Read) -> Result<Exported, Fatal> {
        let db = &self.shared.db;
        let records = crate::store::records(db, group)?;
        let untouched = records.last.is_none() && records.vote.is_none();
        if !untouched || db.applied(group)? != Applied::default() {
            return Err(Fatal::new(format!("the store has something of {group}")));
        }
        let mut reader = Reader::new(stream)?;
        let contents = reader.contents().clone();
        if contents.group != group {
            let found = contents.group;
            return Err(Fatal::new(format!("it is of {found}, not of {group}")));
        }
        let begins = beginning(&contents, node)?;
        let space = begins.space(group);
        let mut rows = 0;
        while let Some(block) = reader.block()? {
            rows += block.len() as u64;
            let mut batch = WriteBatch::default();
            for (name, value) in block {
                batch.put_cf(db.family(keys::STATE), keys::join(&space, &name), value);
            }
            self.shared.stop.write(&db.engine, batch)?;
        }
        self.begin(group, node, &begins)?;
        exported(&contents, rows)
    }

    /// The state, and the log that begins after it.
    fn begin(&self, group: GroupId, node: NodeId, begins: &Applied) -> Result<(), Fatal> {
        let db = &self.shared.db;
        let last = begins
            .last
            .ok_or_else(|| Fatal::new("no position to begin at"))?;
        let vote = Vote {
            leader_id: LeaderId {
                term: last.leader_id.term,
                node_id: node.0,
            },
            committed: true,
        };
        let mut batch = WriteBatch::default();
        let family = db.family(keys::SM_META);
        batch.put_cf(family, keys::applied(group), begins.encode());
        let family = db.family(keys::RAFT_META);
        let position = stored::encode_position(&last);
        batch.put_cf(family, keys::meta(group, Kind::Purged), &position);
        batch.put_cf(family, keys::meta(group, Kind::Committed), &position);
        let vote = stored::Vote::from(&vote).encode_to_vec();
        batch.put_cf(family, keys::meta(group, Kind::Vote), vote);
        self.shared.stop.write(&db.engine, batch)?;
        self.shared.stop.sync(&db.engine)
    }
}

/// Where the new group stands at its beginning.
fn beginning(contents: &Contents, node: NodeId) -> Result<Applied, Fatal> {
    let last = contents.meta.last_log_id.as_ref();
    let last = last.ok_or_else(|| Fatal::new("nothing was applied to it"))?;
    // What was restored before and is restored again has to be believed again.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    let ahead = last.leader_id.term.saturating_add(TERMS_AHEAD);
    let term = ahead.max(seconds);
    let last = log_id(term, node.0, last.index);
    let voters = Membership::new_with_defaults(vec![BTreeSet::from([node.0])], []);
    Ok(Applied {
        generation: GENERATION,
        last: Some(last),
        members: StoredMembership::new(Some(last), voters),
        sm_format: contents.sm_format,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Batch, Group, GroupConfig, Role, StateMachine, StoreConfig, View, check_export};

    const GROUP: GroupId = GroupId(7);

    /// Keeps every entry under its index.
    struct Kept;

    impl StateMachine for Kept {
        const FORMAT: u32 = 1;

        fn apply(
            &mut self,
            at: u64,
            entry: &[u8],
            batch: &mut Batch<'_>,
        ) -> Result<Vec<u8>, Fatal> {
            batch.put(1, &at.to_be_bytes(), entry);
            Ok(Vec::new())
        }

        fn published(&mut self) {}

        fn restore(&mut self, _: &View) -> Result<(), Fatal> {
            Ok(())
        }
    }

    async fn start(store: &Store, node: u64) -> Group<Kept> {
        let config = GroupConfig::default();
        let started = Group::start(store, GROUP, NodeId(node), Kept, config).await;
        started.unwrap()
    }

    fn entries(group: &Group<Kept>) -> Vec<Vec<u8>> {
        let view = group.view().unwrap();
        let rows = view.scan_from(1, &[]);
        rows.map(|row| row.unwrap().1).collect()
    }

    /// A stream of a group with two entries, and the term it was in.
    async fn stream() -> (Vec<u8>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let group = start(&store, 1).await;
        for entry in ["one", "two"] {
            group.propose(Bytes::from(entry)).await.unwrap();
        }
        let mut bytes = Vec::new();
        group.export(&mut bytes).unwrap();
        let term = group.leadership().borrow().term;
        group.shutdown().await;
        (bytes, term)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_seeded_group_starts_with_its_state_as_another_node_and_goes_on() {
        let (bytes, term) = stream().await;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let seeded = store.seed(GROUP, NodeId(5), bytes.as_slice()).unwrap();
        assert_eq!(check_export(bytes.as_slice()).unwrap(), seeded);
        let group = start(&store, 5).await;
        assert_eq!(entries(&group), [b"one", b"two"]);
        let led = *group.leadership().borrow();
        assert_eq!(led.role, Role::Leader);
        assert!(led.term > term + TERMS_AHEAD);
        group.propose(Bytes::from("three")).await.unwrap();
        group.shutdown().await;
        drop(group);
        store.close();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let group = start(&store, 5).await;
        assert_eq!(entries(&group), [b"one".as_slice(), b"two", b"three"]);
        assert!(group.status().applied > Some(seeded.applied));
        group.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_a_store_without_the_group_is_seeded() {
        let (bytes, _) = stream().await;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        assert!(store.seed(GroupId(8), NodeId(1), bytes.as_slice()).is_err());
        store.seed(GROUP, NodeId(1), bytes.as_slice()).unwrap();
        assert!(store.seed(GROUP, NodeId(1), bytes.as_slice()).is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_cut_off_seeding_left_is_no_state() {
        let (bytes, _) = stream().await;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let cut = &bytes[..bytes.len() - 1];
        assert!(check_export(cut).is_err());
        assert!(store.seed(GROUP, NodeId(1), cut).is_err());
        let group = start(&store, 1).await;
        assert_eq!(entries(&group), Vec::<Vec<u8>>::new());
        group.shutdown().await;
    }
}
