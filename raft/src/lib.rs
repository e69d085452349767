//! Replicated state machines on one durable store: groups, their log, their snapshots.
//!
//! This crate replicates entries and snapshots it does not interpret. It knows nothing of fleets,
//! and nothing of the consensus library it is built on leaks through its public types.
//!
//! What holds, as long as the disk does what it was asked:
//!
//! - an answered proposal survives `kill -9` and power loss on a quorum of nodes;
//! - vote and log of a group reach the disk in the order they were issued;
//! - the applied position and the state it describes are one atomic write;
//! - any failed write or fsync stops the node; nothing is answered after it;
//! - data that fell behind what this node once promised is refused at open.

mod batch;
mod config;
mod disk;
mod error;
mod group;
mod ids;
mod log;
mod machine;
mod network;
mod peers;
mod snapshot;
mod store;
mod stored;
#[cfg(test)]
mod suite;
mod types;
mod view;
mod wire;
mod worker;

pub use batch::Batch;
pub use config::{Bootstrap, GroupConfig, StoreConfig};
pub use disk::{Disk, SystemDisk};
pub use error::{
    ChangeError, Fatal, OpenError, ProposeError, ReadError, ReceiveError, SnapshotError,
    StartError, TransferError,
};
pub use group::{Digest, Group, GroupCounts, GroupStatus, Leadership, Progress, Role};
pub use ids::{GroupId, NodeId, StoreId};
pub use machine::StateMachine;
pub use peers::{Incoming, NoPeers, PeerError, Peers, SnapshotFile};
pub use snapshot::{Exported, check_export};
pub use store::{DiskUse, ScratchFile, Store};
pub use view::{Row, Rows, View};

/// The longest entry that can be proposed, in bytes. A longer one is [`ProposeError::TooLarge`].
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
