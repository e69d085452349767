//! A replicated set of versioned documents with a hash-chained audit log: what control and inventory groups have in
//! common. An entry names the versions it was decided on; it is stored whole or refused whole.
//!
//! It evaluates nothing. Who proposes has decided; replicas of two software versions cannot diverge here.

mod apply;

pub use apply::{Documents, apply, record};

use proto::store::{Act, Entry, Write};

/// Numbers of the tables of documents. Never reused.
pub mod table {
    /// Floor, audit head, counters. Not documents.
    pub const META: u8 = 0;
    /// Audit entries by number. Not documents.
    pub const AUDIT: u8 = 1;
    /// Outcomes by idempotency key. Not documents.
    pub const OUTCOME: u8 = 2;
    /// `store::Agent` by uid.
    pub const AGENT: u8 = 10;
    /// `store::Body` by digest.
    pub const BODY: u8 = 11;
    /// `store::Transition` by uid, time, counter.
    pub const HISTORY: u8 = 12;
    /// `store::MemberChunk` by rollout id, 0, chunk number.
    pub const MEMBERS: u8 = 13;
    /// `store::Agent` with the refusals of a forgotten agent, by uid.
    pub const TOMBSTONE: u8 = 14;
    /// `store::Numbers`: where a clean stop left each conversation.
    pub const NUMBERS: u8 = 15;
    /// `store::Family` by name.
    pub const FAMILY: u8 = 20;
    /// `store::Revision` by family, 0, number.
    pub const REVISION: u8 = 21;
    /// `store::Plan` by name.
    pub const PLAN: u8 = 22;
    /// `store::Rollout` by id.
    pub const ROLLOUT: u8 = 23;
    /// `store::Preview` by id.
    pub const PREVIEW: u8 = 24;
    /// `store::Token` by name.
    pub const TOKEN: u8 = 25;
    /// `store::Freeze` by name.
    pub const FREEZE: u8 = 26;
    /// `store::Pin` by name.
    pub const PIN: u8 = 27;
    /// `store::Budget`: one, under [`crate::control::BUDGET_KEY`].
    pub const BUDGET: u8 = 28;
    /// `store::Source` by name.
    pub const SOURCE: u8 = 29;
    /// `store::GoneFamily` by name.
    pub const GONE: u8 = 30;
    /// `store::ClusterNode` by node id, big endian.
    pub const NODE: u8 = 31;
    /// `store::Identity`: one, under [`crate::control::IDENTITY_KEY`].
    pub const IDENTITY: u8 = 32;
}

/// A table and key.
pub type Key = (u8, Vec<u8>);

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

// === builders of entries ===

/// The key of one change of a call: a caller's key stands for one action on one object. Empty stays empty.
pub fn once(action: &str, object: &str, key: &str) -> String {
    if key.is_empty() {
        return String::new();
    }
    format!("{action} {object} {key}")
}

/// An entry of these writes and acts, not fenced.
pub fn entry(writes: Vec<Write>, acts: Vec<Act>) -> Entry {
    Entry {
        format: 1,
        writes,
        acts,
        ..Entry::default()
    }
}

/// Stores a document if its version is still `expect`; 0 = it must not exist.
pub fn put(table: u8, key: impl Into<Vec<u8>>, expect: u64, value: &impl prost::Message) -> Write {
    Write {
        table: table.into(),
        key: key.into(),
        expect,
        value: value.encode_to_vec(),
        ..Write::default()
    }
}

/// Stores a document whatever stands there.
pub fn put_any(table: u8, key: impl Into<Vec<u8>>, value: &impl prost::Message) -> Write {
    Write {
        any_version: true,
        ..put(table, key, 0, value)
    }
}

/// Removes a document if its version is still `expect`.
pub fn delete(table: u8, key: impl Into<Vec<u8>>, expect: u64) -> Write {
    Write {
        table: table.into(),
        key: key.into(),
        expect,
        delete: true,
        ..Write::default()
    }
}

/// Removes a document if it is there.
pub fn delete_any(table: u8, key: impl Into<Vec<u8>>) -> Write {
    Write {
        any_version: true,
        ..delete(table, key, 0)
    }
}

/// Who did what and when, for the audit chain.
pub fn act(actor: &str, action: &str, object: String, detail: String, at_ms: u64) -> Act {
    Act {
        actor: actor.to_owned(),
        action: action.to_owned(),
        object,
        detail,
        at_ms,
    }
}
