//! The state of a cluster without its replication: documents, the rule that changes them, what is kept of them in memory,
//! and what a partition leader decides by them.
//!
//! `ledger` is the rule; `control` and `inventory` are what readers keep in memory; `partition` decides about agents and
//! `drift` about what they run. Sans-I/O: the shells around it are in `node`, over RocksDB and gRPC, and in `sim`, over
//! simulated disks and a simulated network.

pub mod ledger;

pub mod control;
pub mod inventory;

pub mod partition;

pub mod drift;

mod rising;

pub use rising::Rising;
