//! The documents of a group in memory, under the server's own rule of how an entry changes them.
//!
//! Agents and member lists are stored in the server's forms. Families and rollouts are the simulation's own, and stand on
//! a shelf: what is stored of them is their place there, since the rule does not look into documents.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet::audit;
use fleet::program::OwnerChange;
use fleet::rollout::Rollout;
use prost::Message;
use proto::store::{self, ActRecord, Outcome as Kept, Write, outcome::Outcome as Became};
use proto::uid::Uid;
use state::ledger::{Documents, apply, record, table};

use crate::program::{number, uid};

/// The two pointers of a family, its newest revision and its newest rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    pub stable: Option<u64>,
    pub latest: u64,
    pub rollout: Option<String>,
    pub owner_change: OwnerChange,
}

/// A rollout with its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutDoc {
    pub family: String,
    pub from: Option<u64>,
    pub to: u64,
    /// The program by which it was opened; 0: by the one that this document makes.
    pub opened: u64,
    pub moves: Rollout,
    pub members: BTreeMap<u32, Listed>,
}

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub wave: u32,
    /// The family whose it is until then.
    pub taken_from: Option<String>,
}

/// Families and rollouts as they were written, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<Vec<Shelved>>>);

#[derive(Clone, Debug)]
enum Shelved {
    Family(Arc<Family>),
    Rollout(Arc<RolloutDoc>),
}

/// A stored document.
#[derive(Clone, Debug, PartialEq)]
enum Doc {
    Family(Arc<Family>),
    Rollout(Arc<RolloutDoc>),
    Agent(Arc<store::Agent>),
    Other(Arc<[u8]>),
}

/// What is proposed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// No two proposals have the same; for the checker, the ledger does not look at it.
    pub id: u64,
    pub entry: store::Entry,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Outcome {
    /// Not a change: membership, or a new leader's first entry.
    #[default]
    Nothing,
    /// Stored, as documents of this version.
    Stored(u64),
    /// A document has moved.
    Conflict,
    /// It offers by an older program than this group has accepted.
    StaleEpoch,
}

/// For the mirror: version and bytes of a document, or that it is gone.
pub type Seen = (u8, Vec<u8>, Option<(u64, Vec<u8>)>);

/// State of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// Entries seen, and a sum of all of them in order: what makes two replicas comparable anywhere.
    pub entries: u64,
    pub trail: u64,
    /// Version of the newest family or rollout: the program's epoch.
    pub epoch: u64,
    pub floor: u64,
    pub head: audit::Head,
    documents: BTreeMap<(u8, Vec<u8>), (u64, Doc)>,
    outcomes: BTreeMap<String, Kept>,
    /// So many transitions, which nobody reads here.
    history: u64,
}

/// One entry on its way into a ledger.
struct Applying<'a> {
    ledger: &'a mut Ledger,
    shelf: &'a Shelf,
    links: Vec<audit::Entry>,
    seen: Vec<Seen>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            entries: 0,
            trail: 0,
            epoch: 0,
            floor: 0,
            head: audit::Head::genesis("sim"),
            documents: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            history: 0,
        }
    }
}

// === impl Shelf ===

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Vec<Shelved>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, document: Shelved) -> Vec<u8> {
        let mut shelf = self.lock();
        shelf.push(document);
        (shelf.len() as u64 - 1).to_be_bytes().to_vec()
    }

    fn at(&self, place: &[u8]) -> Option<Shelved> {
        let place = u64::from_be_bytes(place.try_into().ok()?);
        self.lock().get(usize::try_from(place).ok()?).cloned()
    }

    /// Stores a family, if it still has this version; 0: if there is none.
    pub fn family(&self, name: &str, version: u64, family: Family) -> Write {
        write(
            table::FAMILY,
            name,
            version,
            self.add(Shelved::Family(Arc::new(family))),
        )
    }

    /// As [`Shelf::family`].
    pub fn rollout(&self, id: &str, version: u64, doc: RolloutDoc) -> Write {
        write(
            table::ROLLOUT,
            id,
            version,
            self.add(Shelved::Rollout(Arc::new(doc))),
        )
    }
}

fn write(table: u8, key: &str, expect: u64, value: Vec<u8>) -> Write {
    Write {
        table: table.into(),
        key: key.as_bytes().to_vec(),
        expect,
        value,
        ..Write::default()
    }
}

// === impl Ledger ===

impl Ledger {
    /// An entry that changes nothing.
    pub fn pass(&mut self) {
        self.entries += 1;
        self.trail = mix(self.trail, 0);
    }

    /// Applies a change by the server's rule: what became of it, its links of the audit chain, and what a mirror sees.
    pub fn apply(
        &mut self,
        index: u64,
        change: &Change,
        shelf: &Shelf,
    ) -> (Outcome, Vec<audit::Entry>, Vec<Seen>) {
        self.entries += 1;
        self.trail = mix(self.trail, change.id);
        let mut applying = Applying {
            ledger: self,
            shelf,
            links: vec![],
            seen: vec![],
        };
        let Ok(kept) = apply(index, change.entry.clone(), &mut applying);
        let outcome = match kept.outcome {
            Some(Became::Stored(stored)) => Outcome::Stored(stored.version),
            Some(Became::Conflict(_)) => Outcome::Conflict,
            Some(Became::StaleEpoch(_)) => Outcome::StaleEpoch,
            None => Outcome::Nothing,
        };
        (outcome, applying.links, applying.seen)
    }

    /// Everything that a mirror sees, anew.
    pub fn mirrored(&self, tables: &[u8]) -> Vec<Seen> {
        let seen = self.documents.iter();
        let seen = seen.filter(|((table, _), _)| tables.contains(table));
        let bytes = |((table, key), (version, doc)): (&(u8, Vec<u8>), &(u64, Doc))| {
            (*table, key.clone(), Some((*version, doc.bytes())))
        };
        seen.map(bytes).collect()
    }

    // ---- reading ----

    fn get(&self, table: u8, key: &[u8]) -> (u64, Option<&Doc>) {
        match self.documents.get(&(table, key.to_vec())) {
            Some((version, doc)) => (*version, Some(doc)),
            None => (0, None),
        }
    }

    pub fn agents(&self) -> impl Iterator<Item = (u32, u64, &store::Agent)> {
        self.documents
            .iter()
            .filter_map(|((_, key), (version, doc))| match doc {
                Doc::Agent(agent) => Some((number(Uid::from_wire(key).ok()?), *version, &**agent)),
                _ => None,
            })
    }

    pub fn agent(&self, id: u32) -> Option<(u64, &store::Agent)> {
        match self.get(table::AGENT, uid(id).as_bytes()) {
            (version, Some(Doc::Agent(agent))) => Some((version, agent)),
            _ => None,
        }
    }

    pub fn family(&self, name: &str) -> (u64, Family) {
        match self.get(table::FAMILY, name.as_bytes()) {
            (version, Some(Doc::Family(family))) => (version, Family::clone(family)),
            (version, _) => (version, Family::default()),
        }
    }

    pub fn rollouts(&self) -> impl Iterator<Item = (&str, u64, &RolloutDoc)> {
        self.documents
            .iter()
            .filter_map(|((_, key), (version, doc))| match doc {
                Doc::Rollout(rollout) => {
                    Some((std::str::from_utf8(key).ok()?, *version, &**rollout))
                }
                _ => None,
            })
    }

    pub fn rollout(&self, id: &str) -> Option<(u64, &RolloutDoc)> {
        match self.get(table::ROLLOUT, id.as_bytes()) {
            (version, Some(Doc::Rollout(rollout))) => Some((version, rollout)),
            _ => None,
        }
    }
}

// === impl Doc ===

impl Doc {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Doc::Agent(agent) => agent.encode_to_vec(),
            Doc::Other(bytes) => bytes.to_vec(),
            Doc::Family(_) | Doc::Rollout(_) => vec![],
        }
    }

    fn of(table: u8, version: u64, value: &[u8], shelf: &Shelf) -> Option<Self> {
        if table == table::AGENT {
            return store::Agent::decode(value)
                .ok()
                .map(|a| Doc::Agent(Arc::new(a)));
        }
        if table != table::FAMILY && table != table::ROLLOUT {
            return Some(Doc::Other(value.into()));
        }
        Some(match shelf.at(value)? {
            Shelved::Family(family) => Doc::Family(family),
            Shelved::Rollout(rollout) if rollout.opened != 0 => Doc::Rollout(rollout),
            Shelved::Rollout(rollout) => Doc::Rollout(Arc::new(RolloutDoc {
                opened: version,
                ..RolloutDoc::clone(&rollout)
            })),
        })
    }
}

// === impl Applying ===

impl Documents for Applying<'_> {
    type Error = Infallible;

    fn outcome(&self, key: &str) -> Result<Option<Kept>, Infallible> {
        Ok(self.ledger.outcomes.get(key).cloned())
    }

    fn remember(&mut self, key: &str, outcome: &Kept) -> Result<(), Infallible> {
        let outcomes = &mut self.ledger.outcomes;
        outcomes.insert(key.to_owned(), outcome.clone());
        Ok(())
    }

    fn floor(&self) -> Result<u64, Infallible> {
        Ok(self.ledger.floor)
    }

    fn raise_floor(&mut self, floor: u64) {
        self.ledger.floor = floor;
    }

    fn version(&self, table: u8, key: &[u8]) -> Result<Option<u64>, Infallible> {
        let (version, document) = self.ledger.get(table, key);
        Ok(document.map(|_| version))
    }

    fn put(&mut self, table: u8, key: Vec<u8>, version: u64, value: Vec<u8>) {
        if table == table::HISTORY {
            self.ledger.history += 1;
            return;
        }
        if matches!(table, table::FAMILY | table::ROLLOUT) {
            self.ledger.epoch = version;
        }
        let document = Doc::of(table, version, &value, self.shelf).expect("this program wrote it");
        self.seen.push((table, key.clone(), Some((version, value))));
        self.ledger
            .documents
            .insert((table, key), (version, document));
    }

    fn delete(&mut self, table: u8, key: Vec<u8>) {
        self.seen.push((table, key.clone(), None));
        self.ledger.documents.remove(&(table, key));
    }

    fn head(&self) -> Result<audit::Head, Infallible> {
        Ok(self.ledger.head)
    }

    fn chain(&mut self, records: Vec<ActRecord>, head: audit::Head) {
        self.links.extend(records.iter().map(link));
        self.ledger.head = head;
    }
}

/// As the checker verifies it: from the stored bytes alone.
fn link(stored: &ActRecord) -> audit::Entry {
    let digest = |bytes: &[u8]| fleet::digest::Digest::from_slice(bytes).expect("32 bytes");
    audit::Entry {
        seq: stored.seq,
        prev: digest(&stored.prev),
        digest: digest(&stored.hash),
        record: record(stored.act.as_ref().expect("an act")),
    }
}

fn mix(trail: u64, id: u64) -> u64 {
    (trail ^ id.wrapping_add(0x9e37_79b9_7f4a_7c15))
        .rotate_left(23)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
