//! The state cluster: replicated documents, partition leaders, the rollout controller, and the services over them.
//!
//! `ledger` replicates documents; `control` and `inventory` are what their groups hold in memory; `partition` answers
//! agents; `controller` moves rollouts; `api` answers operators; `backup` keeps all of it in a file. It never speaks OpAMP
//! to a socket: that is `gateway`.

mod clock;
pub mod cluster;
pub mod edge;
pub mod ledger;
mod trace;

pub mod control;

pub use state::inventory;

pub mod partition;

pub mod drift;

mod checks;

mod folding;

pub mod controller;

pub mod manifest;
pub mod otelcol;
pub mod preview;

pub mod api;
pub mod backup;
pub mod metrics;

mod local;

#[cfg(test)]
mod frozen;

pub use local::{Config, Node, StartError, open};
