//! Replicated documents: the rule of [`state::ledger`] over a group of `raft`.

mod handle;
mod machine;

pub use crate::clock::now_ms;
pub use fleet::{audit, digest};
pub use handle::{Leaders, Ledger, ProposeError, Proposed, ReadMark, View};
pub use machine::{Machine, Unreadable, read};
pub use state::ledger::{
    Key, Mirror, delete, delete_any, entry, once, put, put_any, record, table,
};

use proto::store::Act;

/// Who did what, now, for the audit chain.
pub fn act(actor: &str, action: &str, object: String, detail: String) -> Act {
    state::ledger::act(actor, action, object, detail, now_ms())
}
