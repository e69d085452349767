//! One number for all of a group's state, to compare replicas by.
//!
//! Not a snapshot's hash, which depends on how it was packed. Invariant: equal states at equal
//! positions have equal digests, whatever versions of this software computed them.

use std::time::Duration;

use super::Group;
use crate::{Fatal, StateMachine, View};

/// What a group's state is at one applied position.
///
/// Replicas that applied the same entries have the same digest. Compare only where `applied` is
/// equal: elsewhere a difference says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Index of the last entry applied; `None` if nothing was.
    pub applied: Option<u64>,
    /// BLAKE3 over all rows, ascending by table and key: the lengths of key and value as eight
    /// bytes each, little endian, the key with its table in front, the value.
    pub hash: [u8; 32],
}

impl<M: StateMachine> Group<M> {
    /// The digest of what is applied here now. Reads all of the state, beside what goes on.
    ///
    /// # Errors
    /// The database failed or stored bytes are damaged.
    pub async fn digest(&self) -> Result<Digest, Fatal> {
        aside(self.view()?).await
    }

    /// The digest of what is applied here when the entry of this index is, and none after it: what
    /// replicas are compared by while entries come. `None` if that was before, or is not within
    /// `timeout`, or somebody asks for another index meanwhile.
    ///
    /// # Errors
    /// The database failed or stored bytes are damaged.
    pub async fn digest_at(&self, index: u64, timeout: Duration) -> Result<Option<Digest>, Fatal> {
        let seen = self.shared.milestone.set(index);
        match tokio::time::timeout(timeout, seen).await {
            Ok(Ok(view)) => aside(view?).await.map(Some),
            _ => Ok(None),
        }
    }
}

/// Where blocking is allowed.
async fn aside(view: View) -> Result<Digest, Fatal> {
    let digest = tokio::task::spawn_blocking(move || of(&view)).await;
    digest.map_err(|error| Fatal::because("compute the digest", error))?
}

fn of(view: &View) -> Result<Digest, Fatal> {
    let mut hash = blake3::Hasher::new();
    for row in view.everything() {
        let (key, value) = row?;
        for bytes in [&key, &value] {
            hash.update(&(bytes.len() as u64).to_le_bytes());
        }
        hash.update(&key);
        hash.update(&value);
    }
    Ok(Digest {
        applied: view.applied_index(),
        hash: *hash.finalize().as_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::keys;
    use crate::{GroupId, Store, StoreConfig};

    fn digest(store: &Store, generation: u32) -> Digest {
        let db = &store.shared.db;
        let applied = crate::stored::Applied {
            generation,
            last: Some(crate::types::log_id(1, 1, 40)),
            ..Default::default()
        };
        let family = db.family(keys::SM_META);
        let put = db
            .engine
            .put_cf(family, keys::applied(GroupId(7)), applied.encode());
        put.unwrap();
        of(&View::new(Arc::clone(db), GroupId(7)).unwrap()).unwrap()
    }

    fn put(store: &Store, generation: u32, name: &[u8], value: &[u8]) {
        let db = &store.shared.db;
        let key = keys::join(&keys::space(GroupId(7), generation), name);
        db.engine
            .put_cf(db.family(keys::STATE), key, value)
            .unwrap();
    }

    #[test]
    fn the_digest_of_two_rows_is_frozen_and_the_same_in_every_generation() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        for generation in [0, 5] {
            put(&store, generation, b"\x01a", b"one");
            put(&store, generation, b"\x02", b"");
        }
        let found = digest(&store, 0);
        let hashed = [
            [2u64, 3].map(u64::to_le_bytes).concat().as_slice(),
            b"\x01aone",
            [1u64, 0].map(u64::to_le_bytes).concat().as_slice(),
            b"\x02",
        ]
        .concat();
        assert_eq!(found.hash, *blake3::hash(&hashed).as_bytes());
        assert_eq!(found.applied, Some(40));
        assert_eq!(digest(&store, 5), found);
    }

    #[test]
    fn a_byte_that_moves_from_key_to_value_makes_a_difference() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        put(&store, 0, b"\x01ab", b"c");
        put(&store, 1, b"\x01a", b"bc");
        assert_ne!(digest(&store, 0).hash, digest(&store, 1).hash);
        assert_eq!(digest(&store, 2).hash, *blake3::hash(b"").as_bytes());
    }
}
