//! OpAMP as agents speak it: one port, one path, plain HTTP and WebSocket.

pub mod body;
pub mod boundary;
pub mod frame;
pub mod http;
pub mod inflate;
pub mod meter;
pub mod negotiate;
pub mod pace;
pub mod reply;
pub mod wire;
pub mod ws;

use crate::budget::Budget;
use crate::guard::Guard;
use crate::session::exchange::Exchange;

/// What all requests of agents share.
pub struct Edge<L, A> {
    pub exchange: Exchange<L>,
    pub access: A,
    pub guard: Guard,
    pub path: String,
    pub budget: Budget,
}
