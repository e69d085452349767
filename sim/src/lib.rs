//! Groups, controller, gateways and agents in one simulated world: virtual time, a simulated network and simulated
//! disks, everything from one seed.
//!
//! What decides is the code that decides in the server: openraft, the functions of `fleet`, the cores of `state`, and the
//! session table of `gateway`. The shells around them here are small and their own, since the server's are made of
//! sockets and RocksDB. After each event the checker asks whether the invariants of the design hold.

pub mod fault;
pub mod invariants;
pub mod trouble;
pub mod world;

mod chance;
mod time;

mod disk;
mod ledger;
mod network;
mod peers;
mod store;
mod types;

mod cluster;
mod controller;
mod leader;
mod line;
mod members;
mod observe;
mod orders;
mod program;

mod agent;
mod gateway;
mod message;
mod operator;
mod owners;
mod settled;
