//! Groups, controller, gateways and agents in one simulated world: virtual time, a simulated network and simulated
//! disks, everything from one seed.
//!
//! What decides is the code that decides in the server: openraft, and the functions of `fleet`. What stands around them
//! here is small and its own, since the server's shells are made of sockets and RocksDB. After each event the checker
//! asks whether the invariants of the design hold.

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
mod evaluate;
mod leader;
mod observe;
mod orders;
mod program;

mod agent;
mod gateway;
mod operator;
mod settled;
