//! The column index of one partition: every agent in memory, compact, rebuilt from the documents at start.

mod answer;
pub mod build;
mod list;
mod matched;
mod record;
mod row;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use fleet::components::Available;
use prost::Message;
use proto::store::{self, MemberChunk};
use proto::uid::Uid;

pub use build::{Build, Told};
pub use list::{List, Walk};
pub use matched::Question;
pub use record::{
    BRIDGE, RecordFacts, is_healthy, owner, reported, resolved, reverted, state, state_word,
    state_word_stored, stored_state, whose, word,
};
pub use row::{Delivery, Interner, Row};

use crate::ledger::{Mirror, table};

/// A member of a rollout's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Index into the rollout's roles.
    pub role: u32,
    /// Wave index from 0.
    pub wave: u32,
    /// Its delivery did not change when the list was made.
    pub unchanged: bool,
    /// Family and role that the rollout takes it over from; also another role of its own family.
    pub taken_from: Option<Owner>,
}

/// Family and role.
pub type Owner = Box<(Arc<str>, Arc<str>)>;

/// What readers see, always at one applied position.
#[derive(Default)]
pub struct Columns {
    /// Agents by uid.
    pub rows: BTreeMap<Uid, Row>,
    /// Member lists by rollout.
    pub lists: HashMap<String, List>,
    /// The open rollouts an agent is listed by.
    pub listed: HashMap<Uid, Vec<Arc<str>>>,
    /// Component lists by hash as reported that some agent has told in full.
    pub components: HashMap<Box<[u8]>, Told>,
    /// Those of them that nobody has read here yet: see [`Index::tell`].
    pub unread: HashMap<Box<[u8]>, [u8; 32]>,
    /// No program before this one is accepted.
    pub floor: u64,
    /// Grows with every change.
    pub moment: u64,
    /// The moment in which a member list changed last, or a component list was read; 0: there was none.
    pub lists_changed: u64,
    /// The moment in which a component list was read last; 0: none was.
    pub builds_told: u64,
}

/// Shared between the state machine, which writes, and everybody else.
#[derive(Clone, Default)]
pub struct Index(Arc<RwLock<Columns>>);

/// The writing side.
pub struct IndexMirror {
    index: Index,
    interner: Interner,
    staged: Vec<Staged>,
    published: u64,
}

enum Staged {
    Agent(Uid, Option<Box<(Row, Option<Told>)>>),
    Chunk(String, Option<MemberChunk>),
}

// === impl Index ===

impl Index {
    /// For reading; short, and never over an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Columns> {
        self.0
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What stands in the component list of this hash was read; nothing: it cannot be read, and stays unknown. Whoever has
    /// looked at its agents looks again.
    pub fn tell(&self, hash: &[u8], available: Available) {
        let mut columns = self
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if columns.unread.remove(hash).is_none() {
            return;
        }
        if let Some(told) = columns.components.get(hash) {
            told.build.tell(available);
            columns.moment += 1;
            columns.lists_changed = columns.moment;
            columns.builds_told = columns.moment;
        }
    }

    /// The writing side, for the state machine.
    pub fn mirror(&self) -> IndexMirror {
        IndexMirror {
            index: self.clone(),
            interner: Interner::default(),
            staged: Vec::new(),
            published: 0,
        }
    }
}

// === impl IndexMirror ===

impl Mirror for IndexMirror {
    const TABLES: &'static [u8] = &[table::AGENT, table::MEMBERS];

    fn reset(&mut self) {
        self.staged.clear();
        let mut columns = self
            .index
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *columns = Columns {
            moment: columns.moment + 1,
            ..Columns::default()
        };
    }

    fn put(&mut self, table: u8, key: &[u8], version: u64, value: &[u8]) {
        match table {
            table::AGENT => {
                let (Ok(uid), Ok(agent)) = (Uid::from_wire(key), store::Agent::decode(value))
                else {
                    return;
                };
                let row = Row::new(uid, version, &agent, &mut self.interner);
                let told = agent.components.and_then(|list| {
                    Some(Told {
                        address: list.body.try_into().ok()?,
                        build: row.build.clone()?,
                    })
                });
                self.staged
                    .push(Staged::Agent(uid, Some(Box::new((row, told)))));
            }
            table::MEMBERS => {
                if let (Some(rollout), Ok(list)) = (chunk_key(key), MemberChunk::decode(value)) {
                    self.staged.push(Staged::Chunk(rollout, Some(list)));
                }
            }
            _ => {}
        }
    }

    fn delete(&mut self, table: u8, key: &[u8]) {
        match table {
            table::AGENT => self
                .staged
                .extend(Uid::from_wire(key).ok().map(|uid| Staged::Agent(uid, None))),
            table::MEMBERS => self
                .staged
                .extend(chunk_key(key).map(|rollout| Staged::Chunk(rollout, None))),
            _ => {}
        }
    }

    fn publish(&mut self, floor: u64) {
        if self.staged.is_empty() && self.index.read().floor == floor {
            return;
        }
        let mut columns = self
            .index
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        columns.floor = floor;
        columns.moment += 1;
        for staged in self.staged.drain(..) {
            columns.take(staged);
        }
        self.published += 1;
        if self.published.is_multiple_of(10_000) {
            columns.forget_components();
            drop(columns);
            self.interner.sweep();
        }
    }
}

impl Columns {
    /// Component lists that no agent names any more. Whoever names one again is asked for it again.
    fn forget_components(&mut self) {
        let builds = self.rows.values().filter_map(|row| row.build.as_ref());
        let named: HashSet<&[u8]> = builds.map(|build| build.hash()).collect();
        self.components.retain(|hash, _| named.contains(&**hash));
        self.unread.retain(|hash, _| named.contains(&**hash));
    }

    /// The lists that name this agent know that its record was written.
    fn touch(&mut self, uid: &Uid) {
        for id in self.listed.get(uid).into_iter().flatten() {
            if let Some(list) = self.lists.get_mut(&**id) {
                list.touch(uid, self.moment);
            }
        }
    }

    fn take(&mut self, staged: Staged) {
        match staged {
            Staged::Agent(uid, Some(agent)) => {
                let (row, told) = *agent;
                if let Some(told) = told {
                    let hash: Box<[u8]> = told.build.hash().into();
                    if !told.build.is_read() {
                        self.unread.insert(hash.clone(), told.address);
                    }
                    self.components.insert(hash, told);
                }
                self.rows.insert(uid, row);
                self.touch(&uid);
            }
            Staged::Agent(uid, None) => {
                self.rows.remove(&uid);
                self.touch(&uid);
            }
            Staged::Chunk(rollout, Some(chunk)) => {
                self.lists_changed = self.moment;
                let id: Arc<str> = rollout.as_str().into();
                let list = self.lists.entry(rollout).or_default();
                // Few families lose agents to one rollout: their names are kept once.
                let mut owners = Interner::default();
                for member in chunk.members {
                    let Ok(uid) = Uid::from_wire(&member.uid) else {
                        continue;
                    };
                    list.insert(
                        uid,
                        Member {
                            role: member.role,
                            wave: member.wave,
                            unchanged: member.unchanged,
                            taken_from: row::owner(member.taken_from.as_ref(), &mut owners),
                        },
                        self.moment,
                    );
                    let listed = self.listed.entry(uid).or_default();
                    if !listed.contains(&id) {
                        listed.push(Arc::clone(&id));
                    }
                }
            }
            Staged::Chunk(rollout, None) => {
                self.lists_changed = self.moment;
                // Lists go as a whole: every chunk of a rollout is removed in one entry.
                let list = self.lists.remove(&rollout).unwrap_or_default();
                for (uid, _) in list.iter() {
                    if let Some(listed) = self.listed.get_mut(uid) {
                        listed.retain(|id| **id != *rollout);
                        if listed.is_empty() {
                            self.listed.remove(uid);
                        }
                    }
                }
            }
        }
    }
}

/// Key of a chunk: rollout id, a zero byte, chunk number.
pub fn chunk(rollout: &str, number: u32) -> Vec<u8> {
    let mut key = rollout.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The rollout that a chunk belongs to.
fn chunk_key(key: &[u8]) -> Option<String> {
    let rollout = key.get(..key.len().checked_sub(5)?)?;
    String::from_utf8(rollout.to_vec()).ok()
}
