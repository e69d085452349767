//! Replacing the state by a snapshot, and what a crash leaves of that.
//!
//! Invariants: the new state is written under a generation nobody reads; one synced write makes
//! it the state; before it the old state stands whole, after it the new one does.

use std::sync::Arc;

use rocksdb::WriteBatch;

use super::Core;
use crate::snapshot::{self, Bytes, Contents, Reader};
use crate::store::{Shared, keys};
use crate::stored::Applied;
use crate::types::SnapshotMeta;
use crate::{Fatal, GroupId, SnapshotFile, StateMachine};

impl<M: StateMachine> Core<M> {
    pub(super) fn install(
        &mut self,
        meta: &SnapshotMeta,
        source: &SnapshotFile,
    ) -> Result<(), Fatal> {
        let contents = self.check(meta, source)?;
        self.replace(&contents, source)
            .map_err(|fatal| self.store.stop.stop(fatal))
    }

    /// Whatever fails here leaves the core without its group: the node has to stop.
    fn replace(&mut self, contents: &Contents, source: &SnapshotFile) -> Result<(), Fatal> {
        let draft = self.shelf.copy(source)?;
        let generation = self.applied.generation.wrapping_add(1);
        let next = Applied {
            generation,
            last: contents.meta.last_log_id,
            members: contents.meta.last_membership.clone(),
            sm_format: contents.sm_format,
        };
        self.write(&next, source)?;
        self.flip(&next)?;
        let old = std::mem::replace(&mut self.applied, next);
        self.shelf.adopt(&draft, contents)?;
        remove_in_background(Arc::clone(&self.store), self.group, old.generation);
        self.restore()
    }

    /// Refuses what does not verify, is of another group, or is of a newer machine.
    fn check(&self, meta: &SnapshotMeta, source: &SnapshotFile) -> Result<Contents, Fatal> {
        // It has verified when it arrived: what cannot be read now, the disk has lost since.
        let verified = snapshot::verify(source);
        let contents = verified.map_err(|fatal| self.store.stop.stop(fatal))?;
        if contents.group != self.group || contents.meta.last_log_id != meta.last_log_id {
            return Err(Fatal::new("the snapshot is not the one announced"));
        }
        if contents.sm_format > M::FORMAT {
            let (found, known) = (contents.sm_format, M::FORMAT);
            return Err(Fatal::new(format!(
                "the snapshot has format {found}, this machine knows up to {known}"
            )));
        }
        Ok(contents)
    }

    fn write(&self, next: &Applied, source: &SnapshotFile) -> Result<(), Fatal> {
        let space = next.space(self.group);
        remove(&self.store, self.group, next.generation)?;
        let family = self.store.db.family(keys::STATE);
        let mut reader = Reader::new(Bytes::new(source))?;
        while let Some(rows) = reader.block()? {
            let mut batch = WriteBatch::default();
            for (name, value) in rows {
                batch.put_cf(family, keys::join(&space, &name), value);
            }
            self.store.stop.write(&self.store.db.engine, batch)?;
        }
        Ok(())
    }

    fn flip(&self, next: &Applied) -> Result<(), Fatal> {
        let mut batch = WriteBatch::default();
        batch.put_cf(
            self.store.db.family(keys::SM_META),
            keys::applied(self.group),
            next.encode(),
        );
        self.store.stop.write(&self.store.db.engine, batch)?;
        self.store.stop.sync(&self.store.db.engine)
    }

    /// Removes generations that are not the state: an installation was cut off before its flip,
    /// or the removal of the old state was.
    pub(super) fn remove_other_generations(&self) -> Result<(), Fatal> {
        let mut raw = self
            .store
            .db
            .engine
            .raw_iterator_cf(self.store.db.family(keys::STATE));
        let mut from = keys::space(self.group, 0).to_vec();
        loop {
            raw.seek(&from);
            raw.status()
                .map_err(|error| Fatal::because("find generations", error))?;
            let Some(found) = raw.key().and_then(|key| keys::generation(self.group, key)) else {
                return Ok(());
            };
            if found != self.applied.generation {
                remove(&self.store, self.group, found)?;
            }
            match keys::after_prefix(&keys::space(self.group, found)) {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }
}

fn remove(store: &Shared, group: GroupId, generation: u32) -> Result<(), Fatal> {
    let first = keys::space(group, generation);
    let mut batch = WriteBatch::default();
    // The last generation of the last group has no key after it; no snapshot gets that far.
    let Some(end) = keys::after_prefix(&first) else {
        return Ok(());
    };
    batch.delete_range_cf(
        store.db.family(keys::STATE),
        first.as_slice(),
        end.as_slice(),
    );
    store.stop.write(&store.db.engine, batch)
}

fn remove_in_background(store: Arc<Shared>, group: GroupId, generation: u32) {
    tokio::task::spawn_blocking(move || {
        if let Err(fatal) = remove(&store, group, generation) {
            store.stop.stop(fatal);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};

    use super::*;
    use crate::log::{self, Log};
    use crate::worker::{GroupSnapshot, Limits, Worker, lock};
    use crate::{Batch, Store, StoreConfig, View};

    struct Nothing;

    impl StateMachine for Nothing {
        const FORMAT: u32 = 1;

        fn apply(&mut self, _: u64, _: &[u8], _: &mut Batch<'_>) -> Result<Vec<u8>, Fatal> {
            Ok(Vec::new())
        }

        fn published(&mut self) {}

        fn restore(&mut self, _: &View) -> Result<(), Fatal> {
            Ok(())
        }
    }

    fn worker(store: &Store, group: u32) -> Worker<Nothing> {
        let shared = &store.shared;
        let (db, queue, stop) = (
            Arc::clone(&shared.db),
            Arc::clone(&shared.queue),
            Arc::clone(&shared.stop),
        );
        let limits = log::Limits {
            tail_bytes: 1 << 20,
            read_bytes: 1 << 20,
        };
        let log = Arc::new(Log::open(GroupId(group), db, queue, stop, limits).unwrap());
        let limits = Limits {
            entries: 10,
            bytes: 1 << 20,
        };
        Worker::open(
            Nothing,
            Arc::clone(shared),
            log,
            limits,
            Arc::new(AtomicU64::new(0)),
            Arc::default(),
        )
        .unwrap()
    }

    fn put(store: &Store, group: u32, generation: u32, name: &str) {
        let key = keys::join(&keys::space(GroupId(group), generation), name.as_bytes());
        store
            .shared
            .db
            .engine
            .put_cf(store.shared.db.family(keys::STATE), key, "value")
            .unwrap();
    }

    fn names(store: &Store, group: u32, generation: u32) -> Vec<String> {
        let rows =
            store
                .shared
                .db
                .iterate_state(&keys::space(GroupId(group), generation), b"", None);
        rows.map(|row| String::from_utf8(row.unwrap().0).unwrap())
            .collect()
    }

    fn applied(index: u64) -> Applied {
        Applied {
            last: Some(crate::types::log_id(1, 1, index)),
            sm_format: 1,
            ..Applied::default()
        }
    }

    /// A snapshot of a group that holds two rows.
    async fn snapshot(dir: &Path, group: u32) -> GroupSnapshot {
        let store = Store::open(dir, StoreConfig::default()).unwrap();
        let db = &store.shared.db;
        put(&store, group, 0, "\u{1}a");
        put(&store, group, 0, "\u{1}b");
        let stood = applied(40).encode();
        db.engine
            .put_cf(
                db.family(keys::SM_META),
                keys::applied(GroupId(group)),
                stood,
            )
            .unwrap();
        worker(&store, group)
            .get_snapshot_builder()
            .await
            .build_snapshot()
            .await
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_installed_snapshot_replaces_the_state_and_is_current() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sent = snapshot(from.path(), 7).await;
        let store = Store::open(to.path(), StoreConfig::default()).unwrap();
        put(&store, 7, 0, "\u{1}old");
        put(&store, 8, 0, "\u{1}other group");
        // What an installation left that was cut off before.
        let mut target = worker(&store, 7);
        put(&store, 7, 1, "\u{1}orphan");
        target
            .install_snapshot(&sent.meta, sent.snapshot.clone())
            .await
            .unwrap();
        assert_eq!(names(&store, 7, 1), ["\u{1}a", "\u{1}b"]);
        assert_eq!(
            target.applied_state().await.unwrap().0,
            sent.meta.last_log_id
        );
        assert_eq!(
            target.get_current_snapshot().await.unwrap().unwrap().meta,
            sent.meta
        );
        drop(target);
        let reopened = worker(&store, 7);
        assert_eq!(lock(&reopened.core).applied.generation, 1);
        assert_eq!(lock(&reopened.core).shelf.current().unwrap().0, sent.meta);
        assert_eq!(names(&store, 7, 0), Vec::<String>::new());
        assert_eq!(names(&store, 8, 0), ["\u{1}other group"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_snapshot_of_another_group_or_position_changes_nothing() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sent = snapshot(from.path(), 7).await;
        let store = Store::open(to.path(), StoreConfig::default()).unwrap();
        put(&store, 9, 0, "\u{1}kept");
        let mut other = worker(&store, 9);
        assert!(
            other
                .install_snapshot(&sent.meta, sent.snapshot.clone())
                .await
                .is_err()
        );
        let mut meta = sent.meta.clone();
        meta.last_log_id = Some(crate::types::log_id(1, 1, 41));
        assert!(
            worker(&store, 7)
                .install_snapshot(&meta, sent.snapshot)
                .await
                .is_err()
        );
        assert_eq!(names(&store, 9, 0), ["\u{1}kept"]);
        assert!(other.get_current_snapshot().await.unwrap().is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_snapshot_that_cannot_be_copied_stops_the_node() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sent = snapshot(from.path(), 7).await;
        let aborts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&aborts);
        let abort = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let config = StoreConfig {
            abort,
            ..StoreConfig::default()
        };
        let store = Store::open(to.path(), config).unwrap();
        put(&store, 7, 0, "\u{1}old");
        let mut target = worker(&store, 7);
        std::fs::remove_dir_all(&store.shared.snapshots).unwrap();
        let installed = target.install_snapshot(&sent.meta, sent.snapshot).await;
        assert!(installed.is_err());
        assert_eq!(aborts.load(Ordering::SeqCst), 1);
        assert_eq!(names(&store, 7, 0), ["\u{1}old"]);
    }

    #[test]
    fn orphans_of_a_cut_off_installation_are_removed_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
        for (group, generation) in [(6, 3), (7, 0), (7, 1), (7, 5), (7, u32::MAX), (8, 2)] {
            put(&store, group, generation, "\u{1}row");
        }
        worker(&store, 7);
        let rows = |group, generation| names(&store, group, generation).len();
        assert_eq!(
            [rows(7, 0), rows(7, 1), rows(7, 5), rows(7, u32::MAX)],
            [1, 0, 0, 0]
        );
        assert_eq!([rows(6, 3), rows(8, 2)], [1, 1]);
    }
}
