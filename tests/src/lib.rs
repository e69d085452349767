//! What the whole-system tests share: a real `muster serve` process, its command line, its API, and raw OpAMP clients.
//!
//! Everything here fails by panicking: it is test code, and its panics name what was waited for and where the logs are.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

pub mod api;
pub mod cli;
pub mod cluster;
pub mod manifest;
pub mod process;
pub mod raw;
pub mod scene;
pub mod server;
pub mod wait;
