//! Writes of one applied chunk, readable before they are written.
//!
//! Not a transaction: there is no rollback, a machine decides before it writes.
//! Invariant: a read shows the last write of the same batch, else the state before the chunk.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::Fatal;
use crate::store::{Db, keys};
use crate::view::Row;

/// The changes of one applied chunk over the state before it.
///
/// Keys are `(table, key)` within the group; tables are the machine's to number.
pub struct Batch<'a> {
    db: &'a Db,
    /// Group and generation, in front of every key.
    space: [u8; keys::SPACE_BYTES],
    /// Table and key to the new value, `None` for deleted.
    changes: &'a mut Changes,
}

/// Changes in key order, and their size.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

impl<'a> Batch<'a> {
    pub(crate) fn new(
        db: &'a Db,
        space: [u8; keys::SPACE_BYTES],
        changes: &'a mut Changes,
    ) -> Self {
        Self { db, space, changes }
    }

    /// The value of a key, if it has one.
    ///
    /// # Errors
    /// The database failed or stored bytes are damaged.
    pub fn get(&self, table: u8, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        let name = keys::in_table(table, key);
        if let Some(change) = self.changes.get(&name) {
            return Ok(change.clone());
        }
        self.db.get_state(&keys::join(&self.space, &name))
    }

    /// Sets a key.
    pub fn put(&mut self, table: u8, key: &[u8], value: impl Into<Vec<u8>>) {
        self.changes
            .insert(keys::in_table(table, key), Some(value.into()));
    }

    /// Removes a key; nothing happens if there is none.
    pub fn delete(&mut self, table: u8, key: &[u8]) {
        self.changes.insert(keys::in_table(table, key), None);
    }

    /// All keys of a table that begin with `prefix`, ascending, with their values.
    ///
    /// Keys come without table. Costs memory for the whole answer.
    ///
    /// # Errors
    /// As [`Batch::get`].
    pub fn scan_prefix(&self, table: u8, prefix: &[u8]) -> Result<Vec<Row>, Fatal> {
        self.scan(table, prefix, prefix, usize::MAX)
    }

    /// Up to `limit` keys of a table from `start` on, inclusive, ascending, with their values.
    ///
    /// # Errors
    /// As [`Batch::get`].
    pub fn scan_from(&self, table: u8, start: &[u8], limit: usize) -> Result<Vec<Row>, Fatal> {
        self.scan(table, start, &[], limit)
    }

    fn scan(
        &self,
        table: u8,
        start: &[u8],
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<Row>, Fatal> {
        let first = keys::in_table(table, start);
        let end = keys::after_prefix(&keys::in_table(table, prefix));
        let upper = end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut changes = self
            .changes
            .range((Bound::Included(first.clone()), upper))
            .peekable();
        let mut rows = Vec::new();
        let mut stored = self.db.iterate_state(&self.space, &first, end.as_deref());
        let mut next = stored.next().transpose()?;
        while rows.len() < limit {
            let stored_first = match (&next, changes.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, _)), Some((name, _))) => {
                    if key == *name {
                        next = stored.next().transpose()?;
                        continue;
                    }
                    key < *name
                }
            };
            if stored_first {
                if let Some((key, value)) = next.take() {
                    rows.push((key[1..].to_vec(), value));
                }
                next = stored.next().transpose()?;
            } else if let Some((name, Some(value))) = changes.next() {
                rows.push((name[1..].to_vec(), value.clone()));
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::keys::space;
    use crate::{GroupId, Store, StoreConfig};

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, Vec<u8>, u8),
        Delete(u8, Vec<u8>),
        /// Writes the batch and starts another.
        Write,
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..4)
    }

    fn table() -> impl Strategy<Value = u8> {
        prop_oneof![Just(0u8), Just(1), Just(255)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (table(), key(), any::<u8>()).prop_map(|(table, key, value)| Step::Put(table, key, value)),
            2 => (table(), key()).prop_map(|(table, key)| Step::Delete(table, key)),
            1 => Just(Step::Write),
        ]
    }

    fn write(db: &Db, space: &[u8], changes: &mut Changes) {
        for (name, value) in std::mem::take(changes) {
            let (family, key) = (db.family(keys::STATE), keys::join(space, &name));
            match value {
                Some(value) => db.engine.put_cf(family, key, value).unwrap(),
                None => db.engine.delete_cf(family, key).unwrap(),
            }
        }
    }

    #[test]
    fn a_batch_reads_like_a_map_of_all_writes_so_far() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        let db = &store.shared.db;
        let group = std::sync::atomic::AtomicU32::new(0);
        proptest!(|(steps in prop::collection::vec(step(), 1..40), table in table(), probe in key(), limit in 0usize..6)| {
            let group = GroupId(group.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let space = space(group, u32::MAX);
            let (mut changes, mut model) = (Changes::new(), BTreeMap::new());
            for step in steps {
                let mut batch = Batch::new(db, space, &mut changes);
                match step {
                    Step::Put(table, key, value) => {
                        batch.put(table, &key, vec![value]);
                        model.insert((table, key), vec![value]);
                    }
                    Step::Delete(table, key) => {
                        batch.delete(table, &key);
                        model.remove(&(table, key));
                    }
                    Step::Write => write(db, &space, &mut changes),
                }
            }
            let batch = Batch::new(db, space, &mut changes);
            let rows = |keep: &dyn Fn(&[u8]) -> bool| -> Vec<Row> {
                let ours = model.iter().filter(|((of, key), _)| *of == table && keep(key));
                ours.map(|((_, key), value)| (key.clone(), value.clone())).collect()
            };
            prop_assert_eq!(batch.get(table, &probe).unwrap(), model.get(&(table, probe.clone())).cloned());
            prop_assert_eq!(batch.scan_prefix(table, &probe).unwrap(), rows(&|key| key.starts_with(&probe)));
            let mut from = rows(&|key| key >= probe.as_slice());
            from.truncate(limit);
            prop_assert_eq!(batch.scan_from(table, &probe, limit).unwrap(), from);
        });
    }
}
