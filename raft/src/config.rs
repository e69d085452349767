//! Settings of a store and of a group, with unit, default and reason.
//!
//! Not a file format: whoever reads files builds these.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::{Disk, NoPeers, NodeId, Peers, SystemDisk};

/// Settings of one node's store.
#[derive(Clone)]
pub struct StoreConfig {
    /// Where writes and fsyncs go. Default: the operating system.
    pub disk: Arc<dyn Disk>,
    /// What stops the node after a failed write or fsync, run after the error was logged.
    /// Default: `std::process::abort`, since a process that goes on would answer from memory.
    pub abort: Arc<dyn Fn() + Send + Sync>,
    /// Time between two writes of `durable.mark`. Default 1 s: two extra fsyncs per second.
    pub mark_interval: Duration,
    /// Bytes merged into one log write. Default 4 MiB: bounds the latency of the first in line.
    pub io_batch_bytes: usize,
    /// Operations merged into one log write. Default 8192.
    pub io_batch_ops: usize,
    /// Bytes waiting for the disk, all groups, before `append` waits. Default 64 MiB.
    pub io_queue_bytes: usize,
    /// Memory of all memtables in bytes. Default 128 MiB.
    pub memtable_bytes: usize,
    /// Block cache in bytes. Default 128 MiB.
    pub cache_bytes: usize,
    /// Write-ahead log that may be kept before memtables are flushed, in bytes. Default 256 MiB.
    pub wal_bytes: u64,
    /// Flush and compaction threads. Default 2.
    pub background_jobs: u32,
    /// Compaction and flush writes in bytes per second. Default 64 MiB/s: foreground fsyncs come first.
    pub background_bytes_per_second: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            disk: Arc::new(SystemDisk),
            abort: Arc::new(|| std::process::abort()),
            mark_interval: Duration::from_secs(1),
            io_batch_bytes: 4 << 20,
            io_batch_ops: 8192,
            io_queue_bytes: 64 << 20,
            memtable_bytes: 128 << 20,
            cache_bytes: 128 << 20,
            wal_bytes: 256 << 20,
            background_jobs: 2,
            background_bytes_per_second: 64 << 20,
        }
    }
}

/// What a group does when its store holds nothing of it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// Becomes a cluster of this node alone.
    Alone,
    /// Becomes a cluster of these voters at once. Give the same set on each of them.
    Voters(BTreeSet<NodeId>),
    /// Waits to be added by a leader.
    Join,
}

/// Settings of one group.
#[derive(Clone)]
pub struct GroupConfig {
    /// First members. Default: this node alone.
    pub bootstrap: Bootstrap,
    /// How other nodes are reached. Default: not at all.
    pub peers: Arc<dyn Peers>,
    /// Time between heartbeats. Default 250 ms: fits two-core shared machines.
    pub heartbeat: Duration,
    /// Shortest election timeout. Default 1250 ms: five heartbeats.
    pub election_min: Duration,
    /// Longest election timeout, also the leader lease. Default 2000 ms.
    pub election_max: Duration,
    /// Ask before raising the term. Default on: a returning node does not disturb a leader.
    pub pre_vote: bool,
    /// Entries in one replication message. Default 1024.
    pub replicate_entries_max: u64,
    /// Bytes in one replication message; one entry is always sent. Default 1 MiB.
    pub replicate_bytes_max: usize,
    /// Entries handed to the log in one append. Default 4096.
    pub append_entries_max: u64,
    /// Applied entries after which a snapshot is taken. Default 50 000.
    pub snapshot_entries: u64,
    /// Applied entry bytes after which a snapshot is taken. Default 256 MiB.
    pub snapshot_log_bytes: u64,
    /// Entries kept in the log although a snapshot covers them. Default 50 000: slow followers
    /// catch up from the log.
    pub log_keep_entries: u64,
    /// Entries removed in one purge. Default 4096: one range deletion each.
    pub purge_entries_min: u64,
    /// Time a whole snapshot transfer may take. Default 600 s; stalls are for [`Peers`] to notice.
    pub snapshot_timeout: Duration,
    /// Time one message to a peer may take. Default 2 s.
    pub request_timeout: Duration,
    /// Bytes of newest entries kept in memory. Default 8 MiB; entries not yet written are kept beyond it.
    pub tail_bytes: usize,
    /// Entries merged into one state write. Default 1024.
    pub apply_entries_max: usize,
    /// Entry bytes merged into one state write. Default 4 MiB.
    pub apply_bytes_max: usize,
    /// Time after which a proposal that was not answered is `Unknown`. Default 10 s.
    pub propose_timeout: Duration,
    /// Time after which a linearizable read gives up. Default 5 s.
    pub read_timeout: Duration,
    /// Time after which a change of members or of the leader gives up. Default 10 s: a handover
    /// to a voter that dies meanwhile takes two election timeouts.
    pub change_timeout: Duration,
    /// Time `start` waits for recovery, and of a lone voter for leadership. Default 30 s.
    pub start_timeout: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            bootstrap: Bootstrap::Alone,
            peers: Arc::new(NoPeers),
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1250),
            election_max: Duration::from_millis(2000),
            pre_vote: true,
            replicate_entries_max: 1024,
            replicate_bytes_max: 1 << 20,
            append_entries_max: 4096,
            snapshot_entries: 50_000,
            snapshot_log_bytes: 256 << 20,
            log_keep_entries: 50_000,
            purge_entries_min: 4096,
            snapshot_timeout: Duration::from_secs(600),
            request_timeout: Duration::from_secs(2),
            tail_bytes: 8 << 20,
            apply_entries_max: 1024,
            apply_bytes_max: 4 << 20,
            propose_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
            change_timeout: Duration::from_secs(10),
            start_timeout: Duration::from_secs(30),
        }
    }
}
