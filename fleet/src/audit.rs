//! The audit log: a chain of entries, each of which holds the digest of the one before it.
//!
//! What it is not: storage (the entries are kept by whoever appends them), nor a signature: who can rewrite every entry
//! and the head can rewrite history. Heads are therefore anchored elsewhere.
//!
//! Invariants: the digest of an entry covers every other field of it, length-prefixed and under a versioned domain;
//! `seq` begins at 1 and has no gap; the head of one chain is no head of another.

use crate::digest::Digest;

/// Domain of an entry's digest. The bytes under it are frozen by a test: a change needs a new version.
const ENTRY_DOMAIN: &str = "muster.audit.entry.v1";
const GENESIS_DOMAIN: &str = "muster.audit.genesis.v1";

/// What is to be recorded: who did what to which object, why or how, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// A person, a token or a part of the system, e.g. `alice` or `rollout controller`.
    pub actor: String,
    /// A verb, e.g. `rollout.halt`.
    pub action: String,
    /// What it was done to, e.g. `rollout/017`.
    pub object: String,
    /// The rest for people: cause, old and new value. May be empty.
    pub detail: String,
    /// Wall time in milliseconds since 1970, as the proposer stamped it: for people, never for order.
    pub at_ms: u64,
}

/// A link of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub seq: u64,
    /// Digest of the entry before, or of the chain's genesis.
    pub prev: Digest,
    pub record: Record,
    pub digest: Digest,
}

/// The end of a chain: number and digest of its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// 0 for a chain without entries.
    pub seq: u64,
    pub digest: Digest,
}

/// The first place where a chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("audit entry {expected} is missing or out of order: found entry {found} in its place")]
    Sequence { expected: u64, found: u64 },
    #[error("audit entry {seq} does not continue entry {}: it names {found}, the entry before has {expected}", .seq - 1)]
    Link {
        seq: u64,
        expected: Digest,
        found: Digest,
    },
    #[error("audit entry {seq} was changed: its digest is {found}, its content has {expected}")]
    Content {
        seq: u64,
        expected: Digest,
        found: Digest,
    },
    #[error(
        "the audit log ends at entry {found_seq} ({found}), its head is entry {expected_seq} ({expected})"
    )]
    Head {
        expected_seq: u64,
        expected: Digest,
        found_seq: u64,
        found: Digest,
    },
}

/// Puts `record` behind `head`; the entry to store and the new head.
pub fn append(head: Head, record: Record) -> (Head, Entry) {
    let seq = head.seq + 1;
    let digest = digest(seq, head.digest, &record);
    (
        Head { seq, digest },
        Entry {
            seq,
            prev: head.digest,
            record,
            digest,
        },
    )
}

/// Checks entries in order, without keeping them. After the first break every answer is that break.
#[derive(Debug, Clone)]
pub struct Verifier {
    head: Head,
    broken: Option<Broken>,
}

// === impl Head ===

impl Head {
    /// The head of the empty chain `chain`, e.g. the name of a Raft group.
    pub fn genesis(chain: &str) -> Self {
        Self {
            seq: 0,
            digest: Digest::of(GENESIS_DOMAIN, &[chain.as_bytes()]),
        }
    }
}

impl Entry {
    pub fn head(&self) -> Head {
        Head {
            seq: self.seq,
            digest: self.digest,
        }
    }
}

// === impl Verifier ===

impl Verifier {
    /// A verifier for the entries after `head`: [`Head::genesis`] or an anchored head.
    pub fn after(head: Head) -> Self {
        Self { head, broken: None }
    }

    /// Checks the next entry.
    ///
    /// # Errors
    ///
    /// The first break of the chain, which names the sequence number, what was expected and what was found.
    pub fn check(&mut self, entry: &Entry) -> Result<(), Broken> {
        if self.broken.is_none() {
            match follows(self.head, entry) {
                Ok(head) => self.head = head,
                Err(broken) => self.broken = Some(broken),
            }
        }
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// The head reached so far: the last entry that holds.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Ends the check: the entries must have led to `head`.
    ///
    /// # Errors
    ///
    /// The first break, or [`Broken::Head`] if entries at the end are missing or too many.
    pub fn finish(self, head: Head) -> Result<(), Broken> {
        match self.broken {
            Some(broken) => Err(broken),
            None if self.head == head => Ok(()),
            None => Err(Broken::Head {
                expected_seq: head.seq,
                expected: head.digest,
                found_seq: self.head.seq,
                found: self.head.digest,
            }),
        }
    }
}

fn follows(head: Head, entry: &Entry) -> Result<Head, Broken> {
    let seq = entry.seq;
    if head.seq.checked_add(1) != Some(seq) {
        return Err(Broken::Sequence {
            expected: head.seq.saturating_add(1),
            found: seq,
        });
    }
    if entry.prev != head.digest {
        return Err(Broken::Link {
            seq,
            expected: head.digest,
            found: entry.prev,
        });
    }
    let expected = digest(seq, entry.prev, &entry.record);
    if entry.digest != expected {
        return Err(Broken::Content {
            seq,
            expected,
            found: entry.digest,
        });
    }
    Ok(entry.head())
}

fn digest(seq: u64, prev: Digest, record: &Record) -> Digest {
    let Record {
        actor,
        action,
        object,
        detail,
        at_ms,
    } = record;
    let (seq, at_ms) = (seq.to_le_bytes(), at_ms.to_le_bytes());
    let texts = [actor, action, object, detail].map(|text| text.as_bytes());
    Digest::of(
        ENTRY_DOMAIN,
        &[
            &seq,
            prev.as_bytes(),
            texts[0],
            texts[1],
            texts[2],
            texts[3],
            &at_ms,
        ],
    )
}

#[cfg(test)]
mod tests;
