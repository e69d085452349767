//! Applying one chunk of entries.

use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder};
use rocksdb::WriteBatch;

use super::Core;
use crate::batch::Changes;
use crate::store::keys;
use crate::types::{Entry, StoredMembership, TypeConfig};
use crate::{Batch, Fatal, StateMachine};

/// Who waits for an entry, and the answer.
type Answers = Vec<(ApplyResponder<TypeConfig>, Vec<u8>)>;

/// Bytes an entry counts for, so that many small ones fill a chunk too.
pub(super) fn bytes(entry: &Entry) -> usize {
    const OVERHEAD: usize = 32;
    match &entry.payload {
        EntryPayload::Normal(proposal) => OVERHEAD + proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => OVERHEAD,
    }
}

impl<M: StateMachine> Core<M> {
    /// Applies a chunk, not empty, and returns the answers to send, in order.
    pub(super) fn apply(
        &mut self,
        chunk: Vec<EntryResponder<TypeConfig>>,
    ) -> Result<Answers, Fatal> {
        self.try_apply(chunk)
            .map_err(|fatal| self.store.stop.stop(fatal))
    }

    fn try_apply(&mut self, chunk: Vec<EntryResponder<TypeConfig>>) -> Result<Answers, Fatal> {
        let mut applied = self.applied.clone();
        let space = applied.space(self.group);
        let mut changes = Changes::new();
        let mut answers = Answers::new();
        for (entry, responder) in chunk {
            let mut answer = Vec::new();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(proposal) => {
                    let mut batch = Batch::new(&self.store.db, space, &mut changes);
                    answer = self
                        .machine
                        .apply(entry.log_id.index, &proposal.0, &mut batch)?;
                }
                EntryPayload::Membership(members) => {
                    applied.members = StoredMembership::new(Some(entry.log_id), members);
                }
            }
            applied.last = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        applied.sm_format = M::FORMAT;
        if let Some(last) = &applied.last {
            self.log.wait_written(last.index)?;
        }

        let family = self.store.db.family(keys::STATE);
        let mut batch = WriteBatch::default();
        for (name, value) in changes {
            let key = keys::join(&space, &name);
            match value {
                Some(value) => batch.put_cf(family, key, value),
                None => batch.delete_cf(family, key),
            }
        }
        batch.put_cf(
            self.store.db.family(keys::SM_META),
            keys::applied(self.group),
            applied.encode(),
        );
        self.store.stop.write(&self.store.db.engine, batch)?;
        self.applied = applied;
        self.machine.published();
        Ok(answers)
    }
}
