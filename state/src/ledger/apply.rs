//! The rule by which an entry changes what is stored: compare, then store, then chain the acts.
//!
//! It is the same over a database and in a simulation. Nothing is evaluated here, so that replicas of two software
//! versions cannot diverge.

use fleet::audit;
use proto::store::{
    Act, ActRecord, Conflict, Entry, Outcome, StaleEpoch, Stored, Write, outcome::Outcome as Became,
};

/// What a group has stored, as far as entries change it. Reads see what was written before in the same apply.
pub trait Documents {
    /// It cannot be read.
    type Error;

    /// What became of the entry with this idempotency key; none: there was none, or it is too long ago.
    fn outcome(&self, key: &str) -> Result<Option<Outcome>, Self::Error>;
    /// Keeps what became of it.
    fn remember(&mut self, key: &str, outcome: &Outcome) -> Result<(), Self::Error>;

    /// Offers of an older program are refused.
    fn floor(&self) -> Result<u64, Self::Error>;
    /// From now on.
    fn raise_floor(&mut self, floor: u64);

    /// The version of a document; none: it does not exist.
    fn version(&self, table: u8, key: &[u8]) -> Result<Option<u64>, Self::Error>;
    /// Stores a document.
    fn put(&mut self, table: u8, key: Vec<u8>, version: u64, value: Vec<u8>);
    /// Removes a document, if there is one.
    fn delete(&mut self, table: u8, key: Vec<u8>);

    /// Where the audit chain ends.
    fn head(&self) -> Result<audit::Head, Self::Error>;
    /// Makes the chain longer by these, which end it here.
    fn chain(&mut self, records: Vec<ActRecord>, head: audit::Head);
}

/// Applies one entry: it is stored whole, as documents of version `index`, or refused whole.
///
/// # Errors
/// What is stored cannot be read. Part of the entry may have been written: nothing of it may be kept.
pub fn apply<D: Documents>(
    index: u64,
    entry: Entry,
    documents: &mut D,
) -> Result<Outcome, D::Error> {
    let key = entry.idempotency_key.clone();
    if !key.is_empty()
        && let Some(before) = documents.outcome(&key)?
    {
        let stored = Became::Stored(Stored { version: 0 });
        return Ok(became(before.outcome.unwrap_or(stored)));
    }
    let floor = documents.floor()?;
    if let Some(refused) = refusal(&entry, floor, documents)? {
        return Ok(became(refused));
    }
    if entry.raise_floor > floor {
        documents.raise_floor(entry.raise_floor);
    }
    for write in entry.writes {
        store(index, write, documents)?;
    }
    link(entry.acts, documents)?;
    let outcome = became(Became::Stored(Stored { version: index }));
    if !key.is_empty() {
        documents.remember(&key, &outcome)?;
    }
    Ok(outcome)
}

/// Why an entry is not stored; none: it is.
fn refusal<D: Documents>(
    entry: &Entry,
    floor: u64,
    documents: &D,
) -> Result<Option<Became>, D::Error> {
    let epoch = entry.epoch;
    if epoch != 0 && epoch < floor {
        return Ok(Some(Became::StaleEpoch(StaleEpoch { epoch, floor })));
    }
    for write in &entry.writes {
        if let Some(conflict) = compare(write, documents)? {
            return Ok(Some(Became::Conflict(conflict)));
        }
    }
    Ok(None)
}

fn compare<D: Documents>(write: &Write, documents: &D) -> Result<Option<Conflict>, D::Error> {
    if write.any_version || write.if_absent {
        return Ok(None);
    }
    let found = documents.version(table_of(write), &write.key)?;
    let found = found.unwrap_or(0);
    let conflict = Conflict {
        table: write.table,
        key: write.key.clone(),
        expected: write.expect,
        found,
    };
    Ok((found != write.expect).then_some(conflict))
}

fn store<D: Documents>(index: u64, write: Write, documents: &mut D) -> Result<(), D::Error> {
    let table = table_of(&write);
    let exists = |documents: &D| documents.version(table, &write.key).map(|v| v.is_some());
    if write.only_compare || (write.if_absent && exists(documents)?) {
        return Ok(());
    }
    if write.delete {
        documents.delete(table, write.key);
    } else {
        documents.put(table, write.key, index, write.value);
    }
    Ok(())
}

fn link<D: Documents>(acts: Vec<Act>, documents: &mut D) -> Result<(), D::Error> {
    if acts.is_empty() {
        return Ok(());
    }
    let mut head = documents.head()?;
    let linked = acts.into_iter().map(|act| {
        let (next, entry) = audit::append(head, record(&act));
        head = next;
        ActRecord {
            seq: entry.seq,
            prev: entry.prev.as_bytes().to_vec(),
            hash: entry.digest.as_bytes().to_vec(),
            act: Some(act),
        }
    });
    let records = linked.collect();
    documents.chain(records, head);
    Ok(())
}

/// An act as the audit chain's arithmetic has it.
pub fn record(act: &Act) -> audit::Record {
    audit::Record {
        actor: act.actor.clone(),
        action: act.action.clone(),
        object: act.object.clone(),
        detail: act.detail.clone(),
        at_ms: act.at_ms,
    }
}

fn became(outcome: Became) -> Outcome {
    Outcome {
        outcome: Some(outcome),
    }
}

/// Tables fit a byte; an entry that names another one is from a version that this one cannot follow.
fn table_of(write: &Write) -> u8 {
    u8::try_from(write.table).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;
    use crate::ledger::{act, delete, entry, put, put_any, table};

    /// Documents in memory.
    struct Memory {
        documents: BTreeMap<(u8, Vec<u8>), (u64, Vec<u8>)>,
        outcomes: BTreeMap<String, Outcome>,
        floor: u64,
        head: audit::Head,
        records: Vec<ActRecord>,
    }

    impl Default for Memory {
        fn default() -> Self {
            Memory {
                documents: BTreeMap::new(),
                outcomes: BTreeMap::new(),
                floor: 0,
                head: audit::Head::genesis("test"),
                records: vec![],
            }
        }
    }

    impl Documents for Memory {
        type Error = Infallible;

        fn outcome(&self, key: &str) -> Result<Option<Outcome>, Infallible> {
            Ok(self.outcomes.get(key).cloned())
        }

        fn remember(&mut self, key: &str, outcome: &Outcome) -> Result<(), Infallible> {
            self.outcomes.insert(key.to_owned(), outcome.clone());
            Ok(())
        }

        fn floor(&self) -> Result<u64, Infallible> {
            Ok(self.floor)
        }

        fn raise_floor(&mut self, floor: u64) {
            self.floor = floor;
        }

        fn version(&self, table: u8, key: &[u8]) -> Result<Option<u64>, Infallible> {
            let found = self.documents.get(&(table, key.to_vec()));
            Ok(found.map(|(version, _)| *version))
        }

        fn put(&mut self, table: u8, key: Vec<u8>, version: u64, value: Vec<u8>) {
            self.documents.insert((table, key), (version, value));
        }

        fn delete(&mut self, table: u8, key: Vec<u8>) {
            self.documents.remove(&(table, key));
        }

        fn head(&self) -> Result<audit::Head, Infallible> {
            Ok(self.head)
        }

        fn chain(&mut self, records: Vec<ActRecord>, head: audit::Head) {
            self.records.extend(records);
            self.head = head;
        }
    }

    impl Memory {
        fn apply(&mut self, index: u64, entry: Entry) -> Became {
            let Ok(outcome) = apply(index, entry, self);
            outcome.outcome.expect("there is one")
        }
    }

    fn family(name: &str, expect: u64) -> Write {
        put(table::FAMILY, name, expect, &Stored { version: 9 })
    }

    fn stored(version: u64) -> Became {
        Became::Stored(Stored { version })
    }

    #[test]
    fn an_entry_whose_document_has_moved_is_refused_whole() {
        let mut memory = Memory::default();
        assert_eq!(
            memory.apply(1, entry(vec![family("a", 0)], vec![])),
            stored(1)
        );
        let both = entry(
            vec![family("b", 0), family("a", 0)],
            vec![act("anna", "x", "y".into(), "z".into(), 1)],
        );
        let Became::Conflict(conflict) = memory.apply(2, both) else {
            panic!("it was stored");
        };
        assert_eq!((conflict.expected, conflict.found), (0, 1));
        assert_eq!((memory.documents.len(), memory.records.len()), (1, 0));
        let next = entry(vec![delete(table::FAMILY, "a", 1)], vec![]);
        assert_eq!(memory.apply(3, next), stored(3));
        assert!(memory.documents.is_empty());
    }

    #[test]
    fn what_is_only_compared_or_is_there_already_is_not_written() {
        let mut memory = Memory::default();
        memory.apply(1, entry(vec![family("a", 0)], vec![]));
        let compared = Write {
            only_compare: true,
            ..family("a", 1)
        };
        let absent = Write {
            if_absent: true,
            ..family("a", 0)
        };
        let outcome = memory.apply(2, entry(vec![compared, absent], vec![]));
        assert_eq!(outcome, stored(2));
        assert_eq!(memory.version(table::FAMILY, b"a"), Ok(Some(1)));
        let any = put_any(table::FAMILY, "a", &Stored { version: 9 });
        memory.apply(3, entry(vec![any], vec![]));
        assert_eq!(memory.version(table::FAMILY, b"a"), Ok(Some(3)));
    }

    #[test]
    fn an_offer_of_an_older_program_than_the_floor_is_refused() {
        let mut memory = Memory::default();
        let raise = |floor| Entry {
            raise_floor: floor,
            ..entry(vec![], vec![])
        };
        memory.apply(1, raise(7));
        memory.apply(2, raise(5));
        let offer = |epoch| Entry {
            epoch,
            ..entry(vec![], vec![])
        };
        let stale = StaleEpoch { epoch: 6, floor: 7 };
        assert_eq!(memory.apply(3, offer(6)), Became::StaleEpoch(stale));
        assert_eq!(memory.apply(4, offer(7)), stored(4));
        assert_eq!(memory.apply(5, offer(0)), stored(5), "it offers nothing");
    }

    #[test]
    fn a_key_that_comes_again_gets_its_first_outcome_and_changes_nothing() {
        let mut memory = Memory::default();
        let order = || Entry {
            idempotency_key: "halt ro-1 k".into(),
            ..entry(
                vec![family("a", 0)],
                vec![act("anna", "halt", "ro-1".into(), String::new(), 1)],
            )
        };
        assert_eq!(memory.apply(1, order()), stored(1));
        assert_eq!(memory.apply(2, order()), stored(1));
        assert_eq!(memory.records.len(), 1);
    }

    #[test]
    fn acts_are_chained_in_order() {
        let mut memory = Memory::default();
        let acts = ["one", "two"].map(|action| act("anna", action, "x".into(), "".into(), 1));
        memory.apply(1, entry(vec![], acts.to_vec()));
        let mut verifier = audit::Verifier::after(audit::Head::genesis("test"));
        for chained in &memory.records {
            let digest = |bytes: &[u8]| fleet::digest::Digest::from_slice(bytes).unwrap();
            let link = audit::Entry {
                seq: chained.seq,
                prev: digest(&chained.prev),
                digest: digest(&chained.hash),
                record: record(chained.act.as_ref().unwrap()),
            };
            verifier.check(&link).unwrap();
        }
        assert_eq!(verifier.head(), memory.head);
    }
}
