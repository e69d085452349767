//! Simulated OpAMP supervisors: one, or a million, over HTTP or WebSocket, well-behaved or scripted.
//!
//! [`agent`] is the supervisor without I/O; [`transport`] gives it a socket and a clock; [`fleet`] runs many and counts.
//! [`bench`](mod@bench) measures a server's check-in path with as little client as possible.
//! What it is not: a client of the public API; it speaks to a server only as agents do.

pub mod agent;
pub mod bench;
pub mod collector;
mod driver;
pub mod fleet;
pub mod identity;
pub mod report;
pub mod script;
pub mod stats;
pub mod transport;

pub use fleet::{AgentHandle, Fleet, FleetConfig};
pub use script::{Behaviour, Script};
