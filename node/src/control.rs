//! The control group's documents in memory, shared: the state machine writes, everybody else reads.

use std::sync::{Arc, RwLock, RwLockReadGuard};

use state::control;
use state::ledger::Mirror;
use tokio::sync::watch;

pub use state::control::*;

/// Shared between the state machine, which writes, and everybody else.
#[derive(Clone)]
pub struct Control {
    documents: Arc<RwLock<Documents>>,
    changed: watch::Sender<u64>,
}

/// The writing side.
pub struct ControlMirror {
    control: Control,
    staged: Vec<Staged>,
}

/// Table, key, and version with value; none: removed.
type Staged = (u8, Vec<u8>, Option<(u64, Vec<u8>)>);

// === impl Control ===

impl Default for Control {
    fn default() -> Self {
        Control {
            documents: Arc::default(),
            changed: watch::channel(0).0,
        }
    }
}

impl Control {
    /// For reading; short, and never over an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Documents> {
        self.documents
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Wakes on every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The writing side, for the state machine.
    pub fn mirror(&self) -> ControlMirror {
        ControlMirror {
            control: self.clone(),
            staged: Vec::new(),
        }
    }
}

impl Mirror for ControlMirror {
    const TABLES: &'static [u8] = control::TABLES;

    fn reset(&mut self) {
        self.staged.clear();
        *self
            .control
            .documents
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Documents::default();
    }

    fn put(&mut self, table: u8, key: &[u8], version: u64, value: &[u8]) {
        self.staged
            .push((table, key.to_vec(), Some((version, value.to_vec()))));
    }

    fn delete(&mut self, table: u8, key: &[u8]) {
        self.staged.push((table, key.to_vec(), None));
    }

    fn publish(&mut self, _floor: u64) {
        if self.staged.is_empty() {
            return;
        }
        let mut documents = self
            .control
            .documents
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (table, key, document) in self.staged.drain(..) {
            documents.take(table, &key, document);
        }
        drop(documents);
        self.control.changed.send_modify(|n| *n += 1);
    }
}
