//! How groups reach other nodes: the seam a network plugs into.
//!
//! Not a network. Messages are opaque bytes with their own version; a network carries them to the
//! same group on the node named, and carries the answer back. It knows the addresses.
//! Invariant asked of implementors: an answer belongs to the request it is returned for, and
//! comes from the node that was meant.

use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{GroupId, NodeId, ReceiveError};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends messages of all groups of one node.
pub trait Peers: Send + Sync + 'static {
    /// Delivers `message` to [`Incoming::receive`] of `group` on `to` and returns its answer.
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        message: Bytes,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>>;

    /// Delivers `message` and the whole of `snapshot` to [`Incoming::receive_snapshot`].
    ///
    /// Best over a connection of its own. The network notices stalls by progress; `timeout` is
    /// for the whole transfer.
    fn send_snapshot(
        &self,
        to: NodeId,
        group: GroupId,
        message: Bytes,
        snapshot: SnapshotFile,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>>;
}

/// What a network hands messages to. [`crate::Group`] implements it.
pub trait Incoming: Send + Sync + 'static {
    /// Handles one message and returns the answer to send back.
    fn receive(&self, message: Bytes) -> BoxFuture<Result<Bytes, ReceiveError>>;

    /// Verifies and installs a snapshot that was received completely.
    ///
    /// The file may lie anywhere and may be deleted once this returns; a
    /// [`crate::Store::scratch_file`] is one to receive it into.
    fn receive_snapshot(
        &self,
        message: Bytes,
        snapshot: SnapshotFile,
    ) -> BoxFuture<Result<Bytes, ReceiveError>>;
}

/// Why a message has no answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The node cannot be reached at the moment; the group backs off.
    #[error("{0} is unreachable")]
    Unreachable(NodeId),
    /// It was sent, and something went wrong on the way; the group retries.
    #[error("no answer from {node}: {reason}")]
    Network {
        /// The node asked.
        node: NodeId,
        /// What went wrong.
        reason: String,
    },
}

/// An open snapshot file. Stays readable when a newer snapshot replaces it on disk.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    file: Arc<std::fs::File>,
    bytes: u64,
}

impl SnapshotFile {
    /// Opens a file for reading. Its content is verified when it is installed.
    ///
    /// # Errors
    /// Those of opening a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            file: Arc::new(file),
            bytes,
        })
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads up to `buffer.len()` bytes at `offset`, in bytes. Returns how many; 0 at the end.
    ///
    /// # Errors
    /// Those of reading a file.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
}

/// A network that reaches nobody: for groups of one voter.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn call(
        &self,
        to: NodeId,
        _: GroupId,
        _: Bytes,
        _: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>> {
        Box::pin(std::future::ready(Err(PeerError::Unreachable(to))))
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        _: GroupId,
        _: Bytes,
        _: SnapshotFile,
        _: Duration,
    ) -> BoxFuture<Result<Bytes, PeerError>> {
        Box::pin(std::future::ready(Err(PeerError::Unreachable(to))))
    }
}
