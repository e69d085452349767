//! What a supervisor keeps over a restart: its persistent_state.yaml and the remote configs beside it.

use std::sync::Arc;

use proto::opamp::{RemoteConfigStatus, RemoteConfigStatuses};
use proto::uid::Uid;

use crate::collector::Composed;

/// The last verdict on a remote config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigStatus {
    /// As the server named it.
    pub hash: Vec<u8>,
    pub status: RemoteConfigStatuses,
    /// Empty unless failed.
    pub error: String,
}

/// The storage directory. A clone of it is what a cloned machine has.
#[derive(Clone, Debug)]
pub struct Disk {
    pub uid: Uid,
    /// Sent in the first message after a restart.
    pub status: Option<ConfigStatus>,
    /// The config to start with.
    pub(super) received: Option<Arc<Composed>>,
    /// What a rollback goes back to.
    pub(super) working: Option<(Vec<u8>, Arc<Composed>)>,
}

// === impl Disk ===

impl Disk {
    /// Of an agent that never ran.
    pub fn empty(uid: Uid) -> Self {
        Disk {
            uid,
            status: None,
            received: None,
            working: None,
        }
    }

    /// Of an agent that has been running `config`, named `hash`, without trouble.
    pub fn running(uid: Uid, hash: Vec<u8>, config: Arc<Composed>) -> Self {
        let status = ConfigStatus {
            hash: hash.clone(),
            status: RemoteConfigStatuses::Applied,
            error: String::new(),
        };
        Disk {
            uid,
            status: Some(status),
            received: Some(config.clone()),
            working: Some((hash, config)),
        }
    }

    /// The report; UNSET with an empty hash before any remote config.
    pub(super) fn report(&self) -> RemoteConfigStatus {
        match &self.status {
            None => RemoteConfigStatus::default(),
            Some(status) => RemoteConfigStatus {
                last_remote_config_hash: status.hash.clone(),
                status: status.status.into(),
                error_message: status.error.clone(),
            },
        }
    }
}
