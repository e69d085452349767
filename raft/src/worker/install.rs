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
    pub(super) fn install(&mut self, meta: &SnapshotMeta, source: &SnapshotFile) -> Result<(), Fatal> {
        let contents = self.check(meta, source)?;
        let draft = self.shelf.copy(source)?;
        let generation = self.applied.generation.wrapping_add(1);
        let next = Applied {
            generation,
            last: contents.meta.last_log_id,
            members: contents.meta.last_membership.clone(),
            sm_format: contents.sm_format,
        };
        let installed = self.write(&next, source).and_then(|()| self.flip(&next));
        installed.map_err(|fatal| self.store.stop.stop(fatal))?;
        let old = std::mem::replace(&mut self.applied, next);
        self.shelf.adopt(&draft, &contents)?;
        remove_in_background(Arc::clone(&self.store), self.group, old.generation);
        self.restore().map_err(|fatal| self.store.stop.stop(fatal))
    }

    /// Refuses what does not verify, is of another group, or is of a newer machine.
    fn check(&self, meta: &SnapshotMeta, source: &SnapshotFile) -> Result<Contents, Fatal> {
        let contents = snapshot::verify(source)?;
        if contents.group != self.group || contents.meta.last_log_id != meta.last_log_id {
            return Err(Fatal::new("the snapshot is not the one announced"));
        }
        if contents.sm_format > M::FORMAT {
            let (found, known) = (contents.sm_format, M::FORMAT);
            return Err(Fatal::new(format!("the snapshot has format {found}, this machine knows up to {known}")));
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
        batch.put_cf(self.store.db.family(keys::SM_META), keys::applied(self.group), next.encode());
        self.store.stop.write(&self.store.db.engine, batch)?;
        self.store.stop.sync(&self.store.db.engine)
    }

    /// Removes generations that are not the state: an installation was cut off before its flip,
    /// or the removal of the old state was.
    pub(super) fn remove_other_generations(&self) -> Result<(), Fatal> {
        let mut raw = self.store.db.engine.raw_iterator_cf(self.store.db.family(keys::STATE));
        let mut from = keys::space(self.group, 0).to_vec();
        loop {
            raw.seek(&from);
            raw.status().map_err(|error| Fatal::because("find generations", error))?;
            let Some(found) = raw.key().and_then(|key| keys::generation(self.group, key)) else { return Ok(()) };
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
    let Some(end) = keys::after_prefix(&first) else { return Ok(()) };
    batch.delete_range_cf(store.db.family(keys::STATE), first.as_slice(), end.as_slice());
    store.stop.write(&store.db.engine, batch)
}

fn remove_in_background(store: Arc<Shared>, group: GroupId, generation: u32) {
    tokio::task::spawn_blocking(move || {
        if let Err(fatal) = remove(&store, group, generation) {
            store.stop.stop(fatal);
        }
    });
}
