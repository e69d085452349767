//! A group as the rest of the node uses it: propose entries, read documents, verify the audit chain.
//!
//! Wherever the leader is: an entry goes there, and what was stored there is waited for here, so that whoever has changed
//! something reads it.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fleet::audit;
use fleet::digest::Digest;
use prost::Message;
use proto::store::{ActRecord, Conflict, Entry, Outcome, StaleEpoch, outcome};
use raft::{Fatal, Group, GroupId, NodeId, ReadError};

use super::machine::{Machine, head_of, versioned};
use super::{Mirror, record, table};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Without a leader a change waits for one for so long.
const HOLD: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// A replica that has a leader is behind it by less.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The way to leaders on other nodes.
pub trait Leaders: Send + Sync + 'static {
    /// Proposes there. Only `NotLeader` says that nothing has happened.
    fn propose(
        &self,
        leader: NodeId,
        group: GroupId,
        entry: Bytes,
    ) -> BoxFuture<Result<Proposed, raft::ProposeError>>;

    /// Where a linearizable read stands.
    fn read_index(&self, leader: NodeId, group: GroupId) -> BoxFuture<Result<ReadMark, ReadError>>;
}

/// A leader's answer to an entry.
#[derive(Clone, Debug)]
pub struct Proposed {
    /// Of the state machine.
    pub answer: Vec<u8>,
    /// What the leader had applied by then.
    pub applied: u64,
}

/// Where a linearizable read stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadMark {
    /// Whoever has applied it reads everything that was answered before.
    pub index: u64,
    /// How long ago a partition's leader looked at its agents; 0 for the control group.
    pub looked_ms: u64,
}

/// One group.
pub struct Ledger<M: Mirror> {
    name: String,
    group: Group<Machine<M>>,
    /// None: there is no other node.
    leaders: Option<Arc<dyn Leaders>>,
}

/// Why an entry was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else changed the document meanwhile.
    #[error("document {:?} of table {} has version {}, {} was expected", String::from_utf8_lossy(&.0.key), .0.table, .0.found, .0.expected)]
    Conflict(Conflict),
    /// The program it was decided on is not the newest that the group accepted.
    #[error("decided on program {}, the group accepts none before {}", .0.epoch, .0.floor)]
    StaleEpoch(StaleEpoch),
    /// No leader, no answer, or the node stops.
    #[error("group {group} did not store it")]
    Group {
        /// Which.
        group: String,
        /// Why.
        #[source]
        source: raft::ProposeError,
    },
    /// An answer of the machine that this version does not know.
    #[error("group {0} answered something unknown")]
    Answer(String),
}

/// Documents at one applied position.
pub struct View(raft::View);

impl ProposeError {
    /// Is it sure that nothing was stored, and that nothing of it will be? Everything else may be committed yet.
    pub fn stored_nothing(&self) -> bool {
        match self {
            ProposeError::Conflict(_) | ProposeError::StaleEpoch(_) => true,
            ProposeError::Group { source, .. } => matches!(
                source,
                raft::ProposeError::NotLeader { .. } | raft::ProposeError::TooLarge { .. }
            ),
            ProposeError::Answer(_) => false,
        }
    }

    /// Was there no leader, so that nothing has happened?
    pub fn is_leaderless(&self) -> bool {
        matches!(
            self,
            ProposeError::Group {
                source: raft::ProposeError::NotLeader { .. },
                ..
            }
        )
    }
}

// === impl Ledger ===

impl<M: Mirror> Clone for Ledger<M> {
    fn clone(&self) -> Self {
        Ledger {
            name: self.name.clone(),
            group: self.group.clone(),
            leaders: self.leaders.clone(),
        }
    }
}

impl<M: Mirror> Ledger<M> {
    /// A started group under its name, and the way to its other replicas where there are any.
    pub fn new(
        name: impl Into<String>,
        group: Group<Machine<M>>,
        leaders: Option<Arc<dyn Leaders>>,
    ) -> Self {
        Ledger {
            name: name.into(),
            group,
            leaders,
        }
    }

    /// Its name: `control`, `inventory-0`…
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The group below.
    pub fn group(&self) -> &Group<Machine<M>> {
        &self.group
    }

    /// Does this node lead it?
    pub fn leads(&self) -> bool {
        self.group.leadership().borrow().role == raft::Role::Leader
    }

    /// Stores an entry, wherever the leader is: answered after commit and apply, also here, with the version its
    /// documents got.
    #[tracing::instrument(name = "commit", skip_all, fields(group = self.name))]
    pub async fn propose(&self, entry: Entry) -> Result<u64, ProposeError> {
        let entry = Bytes::from(entry.encode_to_vec());
        let begun = Instant::now();
        loop {
            let leader = match self.group.propose(entry.clone()).await {
                Err(raft::ProposeError::NotLeader { leader }) => leader,
                answer => return self.outcome(answer),
            };
            let (Some(leaders), true) = (&self.leaders, begun.elapsed() < HOLD) else {
                return self.outcome(Err(raft::ProposeError::NotLeader { leader }));
            };
            if let Some(leader) = leader {
                let there = leaders.propose(leader, self.group.id(), entry.clone());
                match there.await {
                    Err(raft::ProposeError::NotLeader { .. }) => {}
                    Err(error) => return self.outcome(Err(error)),
                    Ok(Proposed { answer, applied }) => {
                        // A conflict is decided anew by what made it one, so that has to be here, too. If it does not
                        // come in time, it is stored all the same.
                        self.group.wait_applied(applied, CATCH_UP).await;
                        return self.outcome(Ok(answer));
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Stores an entry if this node leads the group.
    #[tracing::instrument(name = "commit", skip_all, fields(group = self.name))]
    pub async fn propose_here(&self, entry: Entry) -> Result<u64, ProposeError> {
        let answer = self.group.propose(Bytes::from(entry.encode_to_vec())).await;
        self.outcome(answer)
    }

    /// Stores many entries, each by itself, if this node leads the group; the answers in the same order.
    pub async fn propose_many(&self, entries: &[Entry]) -> Vec<Result<u64, ProposeError>> {
        let entries = entries.iter().map(|e| Bytes::from(e.encode_to_vec()));
        let answers = self.group.propose_many(entries.collect()).await;
        answers.into_iter().map(|a| self.outcome(a)).collect()
    }

    /// Waits until this replica has everything that was answered before the call, wherever the leader is.
    pub async fn sync(&self) -> Result<ReadMark, ReadError> {
        let leader = match self.group.linearize().await {
            Ok(index) => {
                return Ok(ReadMark {
                    index,
                    ..ReadMark::default()
                });
            }
            Err(ReadError::NotLeader { leader }) => leader,
            Err(error) => return Err(error),
        };
        let (Some(leaders), Some(at)) = (&self.leaders, leader) else {
            return Err(ReadError::NotLeader { leader });
        };
        let mark = leaders.read_index(at, self.group.id()).await?;
        match self.group.wait_applied(mark.index, CATCH_UP).await {
            true => Ok(mark),
            false => Err(ReadError::Timeout),
        }
    }

    /// Was a change with this idempotency key stored lately?
    pub fn has_done(&self, key: &str) -> Result<bool, Fatal> {
        if key.is_empty() {
            return Ok(false);
        }
        let Some(stored) = self.group.view()?.get(table::OUTCOME, key.as_bytes())? else {
            return Ok(false);
        };
        let outcome = Outcome::decode(versioned(&stored)?.1)
            .map_err(|e| Fatal::because("decode a stored outcome", e))?;
        Ok(matches!(outcome.outcome, Some(outcome::Outcome::Stored(_))))
    }

    fn outcome(&self, answer: Result<Vec<u8>, raft::ProposeError>) -> Result<u64, ProposeError> {
        let answer = answer.map_err(|source| ProposeError::Group {
            group: self.name.clone(),
            source,
        })?;
        match Outcome::decode(answer.as_slice())
            .ok()
            .and_then(|outcome| outcome.outcome)
        {
            Some(outcome::Outcome::Stored(stored)) => Ok(stored.version),
            Some(outcome::Outcome::Conflict(conflict)) => Err(ProposeError::Conflict(conflict)),
            Some(outcome::Outcome::StaleEpoch(stale)) => Err(ProposeError::StaleEpoch(stale)),
            None => Err(ProposeError::Answer(self.name.clone())),
        }
    }

    /// Documents as they are now on this node.
    pub fn view(&self) -> Result<View, Fatal> {
        Ok(View(self.group.view()?))
    }

    /// Recomputes the chain from genesis to head: number of entries and head, or what is broken.
    pub fn verify(&self) -> Result<Result<audit::Head, audit::Broken>, Fatal> {
        let view = self.group.view()?;
        let head = head_of(&self.name, &view)?;
        let mut verifier = audit::Verifier::after(audit::Head::genesis(&self.name));
        for row in view.scan_prefix(table::AUDIT, &[]) {
            let entry = audit_entry(&row?.1)?;
            if let Err(broken) = verifier.check(&entry) {
                return Ok(Err(broken));
            }
        }
        Ok(verifier.finish(head).map(|()| head))
    }

    /// Shows every audit entry, oldest first, until `look` breaks.
    pub fn each_audit(
        &self,
        mut look: impl FnMut(ActRecord) -> ControlFlow<()>,
    ) -> Result<(), Fatal> {
        let view = self.group.view()?;
        for row in view.scan_prefix(table::AUDIT, &[]) {
            let entry = ActRecord::decode(row?.1.as_slice())
                .map_err(|e| Fatal::because("decode an audit entry", e))?;
            if look(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Newest audit entries first, as many as `take` says yes to; it ends at the first `None`.
    pub fn audit(
        &self,
        limit: usize,
        wanted: impl Fn(&ActRecord) -> bool,
    ) -> Result<Vec<ActRecord>, Fatal> {
        let view = self.group.view()?;
        let head = head_of(&self.name, &view)?;
        let mut found = Vec::new();
        // Backwards by numbers: entries are dense from 1 to the head.
        for seq in (1..=head.seq).rev() {
            let Some(bytes) = view.get(table::AUDIT, &seq.to_be_bytes())? else {
                continue;
            };
            let entry = ActRecord::decode(bytes.as_slice())
                .map_err(|e| Fatal::because("decode an audit entry", e))?;
            if wanted(&entry) {
                found.push(entry);
                if found.len() >= limit {
                    break;
                }
            }
        }
        Ok(found)
    }
}

// === impl View ===

impl View {
    /// A document with its version.
    pub fn get<T: Message + Default>(
        &self,
        table: u8,
        key: &[u8],
    ) -> Result<Option<(u64, T)>, Fatal> {
        let Some(stored) = self.0.get(table, key)? else {
            return Ok(None);
        };
        decode(&stored).map(Some)
    }

    /// All documents whose key begins with `prefix`, by key.
    pub fn scan<T: Message + Default>(
        &self,
        table: u8,
        prefix: &[u8],
    ) -> impl Iterator<Item = Result<(Vec<u8>, u64, T), Fatal>> {
        self.0.scan_prefix(table, prefix).map(|row| {
            let (key, stored) = row?;
            let (version, document) = decode(&stored)?;
            Ok((key, version, document))
        })
    }
}

fn decode<T: Message + Default>(stored: &[u8]) -> Result<(u64, T), Fatal> {
    let (version, value) = versioned(stored)?;
    let document = T::decode(value).map_err(|e| Fatal::because("decode a stored document", e))?;
    Ok((version, document))
}

fn audit_entry(bytes: &[u8]) -> Result<audit::Entry, Fatal> {
    let stored =
        ActRecord::decode(bytes).map_err(|e| Fatal::because("decode an audit entry", e))?;
    let damaged = || Fatal::new(format!("audit entry {} is damaged", stored.seq));
    Ok(audit::Entry {
        seq: stored.seq,
        prev: Digest::from_slice(&stored.prev).ok_or_else(damaged)?,
        digest: Digest::from_slice(&stored.hash).ok_or_else(damaged)?,
        record: record(stored.act.as_ref().ok_or_else(damaged)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_an_unknown_outcome_may_be_stored() {
        let of_group = |source| ProposeError::Group {
            group: "inventory-0".to_owned(),
            source,
        };
        let never = [
            ProposeError::Conflict(Conflict::default()),
            ProposeError::StaleEpoch(StaleEpoch::default()),
            of_group(raft::ProposeError::NotLeader { leader: None }),
            of_group(raft::ProposeError::TooLarge { bytes: 5 << 20 }),
        ];
        assert!(never.iter().all(ProposeError::stored_nothing));
        let perhaps = [
            of_group(raft::ProposeError::Unknown),
            of_group(raft::ProposeError::Fatal("it stopped".to_owned())),
            ProposeError::Answer("inventory-0".to_owned()),
        ];
        assert!(!perhaps.iter().any(ProposeError::stored_nothing));
    }
}
