//! Changes of single records, each decided on the very version that it replaces.

use proto::edge::notice;
use proto::store;
use proto::uid::Uid;
use state::partition::history_key;

use super::{Error, Partition, TRIES};
use crate::ledger::{ProposeError, entry, put, put_any, table};

/// What was decided on a record.
pub struct Decided<T> {
    /// For its history.
    pub transition: store::Transition,
    /// For the audit chain.
    pub acts: Vec<store::Act>,
    /// For who asked.
    pub said: T,
}

/// By whose lead is a record changed?
#[derive(Clone, Copy)]
pub(super) enum Through {
    /// Wherever the leader is.
    Leader,
    /// Only if it is this node: whom it has heard is worth nothing to who leads after it. A leader that was cut off finds
    /// everybody silent, and may learn of its successor before that is stored.
    ThisNode,
}

// === impl Partition ===

impl Partition {
    /// The stored record of an agent with its version.
    pub fn agent(&self, uid: Uid) -> Result<Option<(u64, store::Agent)>, Error> {
        self.stored(uid)
    }

    pub(super) fn stored(&self, uid: Uid) -> Result<Option<(u64, store::Agent)>, Error> {
        // Most first messages come from agents that the index does not know: no need to ask the database.
        if !self.index.read().rows.contains_key(&uid) {
            return Ok(None);
        }
        self.document(uid, table::AGENT)
    }

    pub(super) fn document(
        &self,
        uid: Uid,
        table: u8,
    ) -> Result<Option<(u64, store::Agent)>, Error> {
        let read = || self.ledger.view()?.get(table, uid.as_bytes());
        read().map_err(|source| Error::Read { uid, source })
    }

    /// Changes a record by itself, e.g. a label. `None` from the closure: leave it. Answers whether it was changed.
    pub async fn change(
        &self,
        uid: Uid,
        change: impl Fn(&mut store::Agent) -> Option<store::Transition>,
    ) -> Result<bool, Error> {
        self.change_with(uid, String::new(), vec![], change).await
    }

    /// As [`Partition::change`], with entries for the audit chain, and once for a key that is not empty.
    pub async fn change_with(
        &self,
        uid: Uid,
        key: String,
        acts: Vec<store::Act>,
        change: impl Fn(&mut store::Agent) -> Option<store::Transition>,
    ) -> Result<bool, Error> {
        self.change_through(Through::Leader, uid, (key, acts), change)
            .await
    }

    /// As [`Partition::change`], by a key and with entries for the audit chain.
    pub(super) async fn change_through(
        &self,
        through: Through,
        uid: Uid,
        (key, acts): (String, Vec<store::Act>),
        change: impl Fn(&mut store::Agent) -> Option<store::Transition>,
    ) -> Result<bool, Error> {
        let decide = |agent: &mut store::Agent| {
            let decided = |transition| Decided {
                transition,
                acts: acts.clone(),
                said: (),
            };
            Ok(change(agent).map(decided))
        };
        let done: Result<_, Error> = self.decide_through(through, uid, key, decide).await;
        done.map(|done| done.is_some())
    }

    /// Changes a record by what is decided on it, once for a key that is not empty; answers what was said of that. `None`
    /// from the closure: leave it. It is asked anew when the record has changed meanwhile: what is stored was decided on
    /// the very version that it replaces.
    pub async fn decide<T, E: From<Error>>(
        &self,
        uid: Uid,
        key: String,
        decide: impl Fn(&mut store::Agent) -> Result<Option<Decided<T>>, E>,
    ) -> Result<Option<T>, E> {
        self.decide_through(Through::Leader, uid, key, decide).await
    }

    async fn decide_through<T, E: From<Error>>(
        &self,
        through: Through,
        uid: Uid,
        key: String,
        decide: impl Fn(&mut store::Agent) -> Result<Option<Decided<T>>, E>,
    ) -> Result<Option<T>, E> {
        let mut tries = 0;
        loop {
            tries += 1;
            let Some((version, mut agent)) = self.stored(uid)? else {
                return Ok(None);
            };
            let Some(decided) = decide(&mut agent)? else {
                return Ok(None);
            };
            let Decided {
                transition,
                acts,
                said,
            } = decided;
            let history = put_any(
                table::HISTORY,
                history_key(uid, transition.at_ms, version, 0),
                &transition,
            );
            let writes = vec![put(table::AGENT, *uid.as_bytes(), version, &agent), history];
            let change = store::Entry {
                idempotency_key: key.clone(),
                ..entry(writes, acts)
            };
            let stored = match through {
                Through::Leader => self.ledger.propose(change).await,
                Through::ThisNode => self.ledger.propose_here(change).await,
            };
            match stored {
                Ok(_) => return Ok(Some(said)),
                Err(ProposeError::Conflict(_)) if tries < TRIES => {}
                Err(source) => return Err(Error::Store { uid, source }.into()),
            }
        }
    }

    /// The agent's record is gone: its conversation is, too.
    pub fn forget(&self, uid: Uid) {
        self.core().forget(uid);
        self.tell(uid, notice::Kind::Drop);
    }
}
