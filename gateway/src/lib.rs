//! The stateless edge: OpAMP over plain HTTP and WebSocket for agents, gRPC and gRPC-Web for operators.
//!
//! It answers quiescent agents from memory, hands everything else to the leader of the agent's partition
//! (`Link`), and never evaluates what an agent should run. Losing a gateway loses nothing but time.

pub mod api;
pub mod cluster;
pub mod config;
pub mod limits;
pub mod link;
pub mod metrics;

mod budget;
mod gateway;
mod guard;
mod listen;
mod opamp;
mod session;
mod stream;
mod tls;

#[doc(hidden)]
pub mod fuzzing;

/// What a gateway remembers of each agent, without its shell: for simulations.
#[doc(hidden)]
pub mod sessions {
    pub use crate::opamp::reply::Reply;
    pub use crate::session::table::{Decision, Heard, Noticed, Settled, Table};
    pub use crate::session::turns::Turns;
}

pub use ::tls::Files as TlsFiles;
pub use config::{Config, Listener, StartError};
pub use gateway::{Bound, Gateway};
pub use limits::{Described, LimitError, Limits};
pub use link::{Access, Denied, Link, LinkError, Operator, Role};
pub use metrics::Metrics;
