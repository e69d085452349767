//! Applies entries by the rule of [`state::ledger`], over the batch of a group.

use bytes::Buf;
use fleet::audit;
use fleet::digest::Digest;
use prost::Message;
use proto::store::{ActRecord, Entry, Outcome};
use raft::{Batch, Fatal, StateMachine, View};
use state::ledger::{Documents, Mirror, apply, table};

const META_FLOOR: &[u8] = b"floor";
const META_HEAD: &[u8] = b"head";
const META_OUTCOMES: &[u8] = b"outcomes";

/// Outcomes kept for repeated idempotency keys. At one change a second, a little under three hours.
const OUTCOMES_KEPT: u64 = 10_000;

/// The format of entries that this version writes and knows.
const ENTRY_FORMAT: u32 = 1;

/// Bytes that no replica of this version could apply.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// They are no entry.
    #[error("it cannot be decoded")]
    Damaged(#[from] prost::DecodeError),
    /// They were written by another version.
    #[error("it has format {0}, this version knows {ENTRY_FORMAT}")]
    Format(u32),
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

/// What a group has stored, while one entry is applied.
struct Writing<'a, 'b, M> {
    index: u64,
    machine: &'a mut Machine<M>,
    batch: &'a mut Batch<'b>,
}

/// An entry as it was proposed. What is refused here must not get into a log: it would end every replica, and again at
/// each start.
pub fn read(bytes: &[u8]) -> Result<Entry, Unreadable> {
    let entry = Entry::decode(bytes)?;
    match entry.format {
        ENTRY_FORMAT => Ok(entry),
        other => Err(Unreadable::Format(other)),
    }
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

    /// The mirror is told of it when it is stored.
    fn see(&mut self, table: u8, key: Vec<u8>, document: Option<(u64, Vec<u8>)>) {
        if M::TABLES.contains(&table) {
            self.seen.push(Change {
                table,
                key,
                document,
            });
        }
    }
}

// === impl Writing ===

impl<M: Mirror> Documents for Writing<'_, '_, M> {
    type Error = Fatal;

    fn outcome(&self, key: &str) -> Result<Option<Outcome>, Fatal> {
        let Some(before) = self.batch.get(table::OUTCOME, key.as_bytes())? else {
            return Ok(None);
        };
        let (_, bytes) = versioned(&before)?;
        let before = Outcome::decode(bytes);
        before
            .map(Some)
            .map_err(|e| Fatal::because("decode a stored outcome", e))
    }

    /// Keeps the newest [`OUTCOMES_KEPT`] outcomes: a ring of keys beside the outcomes by key.
    fn remember(&mut self, key: &str, outcome: &Outcome) -> Result<(), Fatal> {
        let batch = &mut *self.batch;
        let count = batch
            .get(table::META, META_OUTCOMES)?
            .map_or(0, |bytes| number(&bytes));
        let slot = outcome_slot(count);
        if let Some(old) = batch.get(table::META, &slot)? {
            batch.delete(table::OUTCOME, &old);
        }
        let value = document(self.index, &outcome.encode_to_vec());
        batch.put(table::OUTCOME, key.as_bytes(), value);
        batch.put(table::META, &slot, key.as_bytes());
        batch.put(table::META, META_OUTCOMES, (count + 1).to_be_bytes());
        Ok(())
    }

    fn floor(&self) -> Result<u64, Fatal> {
        let floor = self.batch.get(table::META, META_FLOOR)?;
        Ok(floor.map_or(0, |bytes| number(&bytes)))
    }

    fn raise_floor(&mut self, floor: u64) {
        let bytes = floor.to_be_bytes();
        self.batch.put(table::META, META_FLOOR, bytes);
        self.machine.floor = floor;
    }

    fn version(&self, table: u8, key: &[u8]) -> Result<Option<u64>, Fatal> {
        let stored = self.batch.get(table, key)?;
        let version = |stored: Vec<u8>| versioned(&stored).map(|(version, _)| version);
        stored.map(version).transpose()
    }

    fn put(&mut self, table: u8, key: Vec<u8>, version: u64, value: Vec<u8>) {
        self.batch.put(table, &key, document(version, &value));
        self.machine.see(table, key, Some((version, value)));
    }

    fn delete(&mut self, table: u8, key: Vec<u8>) {
        self.batch.delete(table, &key);
        self.machine.see(table, key, None);
    }

    fn head(&self) -> Result<audit::Head, Fatal> {
        let stored = self.batch.get(table::META, META_HEAD)?;
        stored_head(&self.machine.chain, stored)
    }

    fn chain(&mut self, records: Vec<ActRecord>, head: audit::Head) {
        for record in records {
            let key = record.seq.to_be_bytes();
            self.batch.put(table::AUDIT, &key, record.encode_to_vec());
        }
        self.batch.put(table::META, META_HEAD, head_bytes(&head));
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
        let read = read(entry);
        let entry = read.map_err(|e| Fatal::because(format!("read log entry {log_index}"), e))?;
        let mut writing = Writing {
            index: log_index,
            machine: self,
            batch,
        };
        Ok(apply(log_index, entry, &mut writing)?.encode_to_vec())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_cannot_be_applied_is_known_before_it_is_in_a_log() {
        let entry = |format| Entry {
            format,
            ..Entry::default()
        };
        assert_eq!(read(&entry(1).encode_to_vec()).unwrap(), entry(1));
        let newer = read(&entry(2).encode_to_vec()).unwrap_err();
        assert_eq!(newer.to_string(), "it has format 2, this version knows 1");
        // Nothing at all decodes, and has no format.
        assert!(matches!(read(b""), Err(Unreadable::Format(0))));
        assert!(matches!(read(b"\xff"), Err(Unreadable::Damaged(_))));
    }

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
