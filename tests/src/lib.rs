//! What the whole-system tests share: real `muster` processes, their command line and API, fleets, and raw OpAMP clients.
//!
//! Everything here fails by panicking: it is test code, and its panics name what was waited for and where the logs are.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

pub mod apart;
pub mod api;
pub mod by_hand;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod crowd;
pub mod disk;
pub mod grants;
pub mod history;
pub mod manifest;
pub mod metrics;
pub mod network;
pub mod otlp;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod scene;
pub mod server;
mod shim;
pub mod wait;
