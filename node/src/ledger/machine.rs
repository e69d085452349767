//! Applies entries: compare, then store, then chain the acts.

use bytes::Buf;
use fleet::audit;
use fleet::digest::Digest;
use prost::Message;
use proto::store::{ActRecord, Conflict, Entry, Outcome, StaleEpoch, Stored, Write, outcome};
use raft::{Batch, Fatal, StateMachine, View};

use super::table;

const META_FLOOR: &[u8] = b"floor";
const META_HEAD: &[u8] = b"head";
const META_OUTCOMES: &[u8] = b"outcomes";

/// Outcomes kept for repeated idempotency keys. At one change a second, a little under three hours.
const OUTCOMES_KEPT: u64 = 10_000;

/// Memory beside the documents, e.g. an index. It sees every change after it is stored.
pub trait Mirror: Send + 'static {
    /// Tables it wants to see.
    const TABLES: &'static [u8];
    /// Forget everything; the documents follow.
    fn reset(&mut self);
    /// A document was stored.
    fn put(&mut self, table: u8, key: &[u8], version: u64, value: &[u8]);
    /// A document was removed.
    fn delete(&mut self, table: u8, key: &[u8]);
    /// Show readers all changes since the last call, at once.
    fn publish(&mut self, floor: u64);
}

/// The state machine of every group.
pub struct Machine<M> {
    chain: String,
    mirror: M,
    seen: Vec<Change>,
    floor: u64,
}

struct Change {
    table: u8,
    key: Vec<u8>,
    /// Version and value; none: removed.
    document: Option<(u64, Vec<u8>)>,
}

// === impl Machine ===

impl<M: Mirror> Machine<M> {
    /// `chain` names the group's audit log; heads of different chains never verify against each other.
    pub fn new(chain: impl Into<String>, mirror: M) -> Self {
        Machine {
            chain: chain.into(),
            mirror,
            seen: Vec::new(),
            floor: 0,
        }
    }

    fn run(
        &mut self,
        index: u64,
        entry: Entry,
        batch: &mut Batch<'_>,
    ) -> Result<outcome::Outcome, Fatal> {
        if !entry.idempotency_key.is_empty()
            && let Some(before) = batch.get(table::OUTCOME, entry.idempotency_key.as_bytes())?
        {
            let (_, bytes) = versioned(&before)?;
            let before =
                Outcome::decode(bytes).map_err(|e| Fatal::because("decode a stored outcome", e))?;
            return Ok(before
                .outcome
                .unwrap_or(outcome::Outcome::Stored(Stored { version: 0 })));
        }
        let floor = batch
            .get(table::META, META_FLOOR)?
            .map_or(0, |bytes| number(&bytes));
        if entry.epoch != 0 && entry.epoch < floor {
            return Ok(outcome::Outcome::StaleEpoch(StaleEpoch {
                epoch: entry.epoch,
                floor,
            }));
        }
        for write in &entry.writes {
            if let Some(conflict) = compare(write, batch)? {
                return Ok(outcome::Outcome::Conflict(conflict));
            }
        }
        if entry.raise_floor > floor {
            batch.put(table::META, META_FLOOR, entry.raise_floor.to_be_bytes());
            self.floor = entry.raise_floor;
        }
        for write in entry.writes {
            self.store(index, write, batch)?;
        }
        self.chain(entry.acts, batch)?;
        let outcome = outcome::Outcome::Stored(Stored { version: index });
        if !entry.idempotency_key.is_empty() {
            remember(index, &entry.idempotency_key, &outcome, batch)?;
        }
        Ok(outcome)
    }

    fn store(&mut self, index: u64, write: Write, batch: &mut Batch<'_>) -> Result<(), Fatal> {
        let table = table_of(&write);
        if write.only_compare || (write.if_absent && batch.get(table, &write.key)?.is_some()) {
            return Ok(());
        }
        let document = if write.delete {
            batch.delete(table, &write.key);
            None
        } else {
            batch.put(table, &write.key, document(index, &write.value));
            Some((index, write.value))
        };
        if M::TABLES.contains(&table) {
            self.seen.push(Change {
                table,
                key: write.key,
                document,
            });
        }
        Ok(())
    }

    fn chain(&self, acts: Vec<proto::store::Act>, batch: &mut Batch<'_>) -> Result<(), Fatal> {
        if acts.is_empty() {
            return Ok(());
        }
        let mut head = stored_head(&self.chain, batch.get(table::META, META_HEAD)?)?;
        for act in acts {
            let (next, entry) = audit::append(head, record(&act));
            head = next;
            let stored = ActRecord {
                seq: entry.seq,
                prev: entry.prev.as_bytes().to_vec(),
                hash: entry.digest.as_bytes().to_vec(),
                act: Some(act),
            };
            batch.put(
                table::AUDIT,
                &entry.seq.to_be_bytes(),
                stored.encode_to_vec(),
            );
        }
        batch.put(table::META, META_HEAD, head_bytes(&head));
        Ok(())
    }
}

impl<M: Mirror> StateMachine for Machine<M> {
    const FORMAT: u32 = 1;

    fn apply(
        &mut self,
        log_index: u64,
        entry: &[u8],
        batch: &mut Batch<'_>,
    ) -> Result<Vec<u8>, Fatal> {
        let entry = Entry::decode(entry).map_err(|e| Fatal::because("decode a log entry", e))?;
        if entry.format != 1 {
            return Err(Fatal::new(format!(
                "log entry {log_index} has format {}, this version knows 1",
                entry.format
            )));
        }
        let outcome = self.run(log_index, entry, batch)?;
        Ok(Outcome {
            outcome: Some(outcome),
        }
        .encode_to_vec())
    }

    fn published(&mut self) {
        for change in self.seen.drain(..) {
            match change.document {
                Some((version, value)) => {
                    self.mirror.put(change.table, &change.key, version, &value)
                }
                None => self.mirror.delete(change.table, &change.key),
            }
        }
        self.mirror.publish(self.floor);
    }

    fn restore(&mut self, view: &View) -> Result<(), Fatal> {
        self.seen.clear();
        self.mirror.reset();
        for table in M::TABLES {
            for row in view.scan_prefix(*table, &[]) {
                let (key, stored) = row?;
                let (version, value) = versioned(&stored)?;
                self.mirror.put(*table, &key, version, value);
            }
        }
        self.floor = view
            .get(table::META, META_FLOOR)?
            .map_or(0, |bytes| number(&bytes));
        self.mirror.publish(self.floor);
        Ok(())
    }
}

fn compare(write: &Write, batch: &Batch<'_>) -> Result<Option<Conflict>, Fatal> {
    if write.any_version || write.if_absent {
        return Ok(None);
    }
    let found = match batch.get(table_of(write), &write.key)? {
        Some(stored) => versioned(&stored)?.0,
        None => 0,
    };
    let conflict = Conflict {
        table: write.table,
        key: write.key.clone(),
        expected: write.expect,
        found,
    };
    Ok((found != write.expect).then_some(conflict))
}

/// Keeps the newest [`OUTCOMES_KEPT`] outcomes: a ring of keys beside the outcomes by key.
fn remember(
    index: u64,
    key: &str,
    outcome: &outcome::Outcome,
    batch: &mut Batch<'_>,
) -> Result<(), Fatal> {
    let count = batch
        .get(table::META, META_OUTCOMES)?
        .map_or(0, |bytes| number(&bytes));
    let slot = outcome_slot(count);
    if let Some(old) = batch.get(table::META, &slot)? {
        batch.delete(table::OUTCOME, &old);
    }
    let outcome = Outcome {
        outcome: Some(outcome.clone()),
    };
    let value = document(index, &outcome.encode_to_vec());
    batch.put(table::OUTCOME, key.as_bytes(), value);
    batch.put(table::META, &slot, key.as_bytes());
    batch.put(table::META, META_OUTCOMES, (count + 1).to_be_bytes());
    Ok(())
}

/// Tables fit a byte; an entry that names another one is from a version that this one cannot follow.
fn table_of(write: &Write) -> u8 {
    u8::try_from(write.table).unwrap_or(u8::MAX)
}

/// The key under which the idempotency key number `count` stands, so that it goes when its turn comes again.
fn outcome_slot(count: u64) -> Vec<u8> {
    [&b"outcome/"[..], &(count % OUTCOMES_KEPT).to_be_bytes()].concat()
}

/// A document as it is stored: its version, then its value.
fn document(version: u64, value: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes()[..], value].concat()
}

/// Version and value of a stored document.
pub(super) fn versioned(stored: &[u8]) -> Result<(u64, &[u8]), Fatal> {
    if stored.len() < 8 {
        return Err(Fatal::new("a stored document is shorter than its version"));
    }
    let (version, value) = stored.split_at(8);
    Ok((number(version), value))
}

fn number(bytes: &[u8]) -> u64 {
    let mut bytes = bytes;
    if bytes.len() < 8 { 0 } else { bytes.get_u64() }
}

fn head_bytes(head: &audit::Head) -> Vec<u8> {
    [&head.seq.to_be_bytes()[..], head.digest.as_bytes()].concat()
}

pub(super) fn stored_head(chain: &str, stored: Option<Vec<u8>>) -> Result<audit::Head, Fatal> {
    let Some(bytes) = stored else {
        return Ok(audit::Head::genesis(chain));
    };
    let digest = bytes.get(8..).and_then(Digest::from_slice);
    let digest = digest.ok_or_else(|| Fatal::new("the stored audit head is damaged"))?;
    Ok(audit::Head {
        seq: number(&bytes),
        digest,
    })
}

pub(super) fn head_of(chain: &str, view: &View) -> Result<audit::Head, Fatal> {
    stored_head(chain, view.get(table::META, META_HEAD)?)
}

pub(super) fn record(act: &proto::store::Act) -> audit::Record {
    audit::Record {
        actor: act.actor.clone(),
        action: act.action.clone(),
        object: act.object.clone(),
        detail: act.detail.clone(),
        at_ms: act.at_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // What stands here stands in databases: a line is never edited. A change is a new `FORMAT` that still reads this one.

    #[test]
    fn documents_of_format_1_are_frozen() {
        let stored = document(0x0102_0304_0506_0708, b"abc");
        assert_eq!(stored, b"\x01\x02\x03\x04\x05\x06\x07\x08abc");
        assert_eq!(
            versioned(&stored).unwrap(),
            (0x0102_0304_0506_0708, &b"abc"[..])
        );
        assert_eq!(document(1, b""), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert!(versioned(b"1234567").is_err());
    }

    #[test]
    fn what_is_kept_beside_documents_is_frozen_in_format_1() {
        assert_eq!(
            [META_FLOOR, META_HEAD, META_OUTCOMES],
            [&b"floor"[..], b"head", b"outcomes"]
        );
        assert_eq!(outcome_slot(258), b"outcome/\0\0\0\0\0\0\x01\x02");
        assert_eq!(outcome_slot(OUTCOMES_KEPT + 258), outcome_slot(258));
        assert_eq!(number(&[0, 0, 0, 0, 0, 0, 1, 2]), 258);
        let head = audit::Head {
            seq: 258,
            digest: Digest::from_bytes([7; 32]),
        };
        let bytes = [&[0, 0, 0, 0, 0, 0, 1, 2][..], &[7; 32]].concat();
        assert_eq!(head_bytes(&head), bytes);
        assert_eq!(stored_head("control", Some(bytes)).unwrap(), head);
    }
}
