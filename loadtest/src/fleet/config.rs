//! What a fleet is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::agent::{Options, Wire};
use crate::script::ScriptFile;

/// Which transport the agents use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    #[default]
    Http,
    Ws,
    /// Even indices HTTP, odd ones WebSocket.
    Mixed,
}

/// All there is to say about a fleet before it starts.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// URLs of http, https, ws or wss; agent `i` starts at the `i`-th and moves on when a connection fails.
    pub servers: Vec<String>,
    pub transport: Transport,
    /// Name and number; indices are given in this order.
    pub roles: Vec<(String, usize)>,
    /// Decides uids and attributes.
    pub seed: u64,
    pub options: Options,
    /// The starts are spread evenly over this.
    pub ramp: Duration,
    pub scripts: ScriptFile,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<String>,
    /// Instead of `token`, by role.
    pub role_tokens: BTreeMap<String, String>,
    /// PEM file of the certificates to trust over https and wss.
    pub ca: Option<PathBuf>,
    /// Servers that are not loopback are refused without this.
    pub allow_remote: bool,
}

// === impl Transport ===

impl Transport {
    pub(super) fn wire(self, index: usize) -> Wire {
        match self {
            Transport::Http => Wire::Http,
            Transport::Ws => Wire::Ws,
            Transport::Mixed if index.is_multiple_of(2) => Wire::Http,
            Transport::Mixed => Wire::Ws,
        }
    }
}

// === impl FleetConfig ===

impl FleetConfig {
    /// `agents` agents in the role `agent`, over HTTP, with the real supervisor's times.
    pub fn new(server: impl Into<String>, agents: usize) -> Self {
        FleetConfig {
            servers: vec![server.into()],
            transport: Transport::Http,
            roles: vec![("agent".to_owned(), agents)],
            seed: 1,
            options: Options::default(),
            ramp: Duration::ZERO,
            scripts: ScriptFile::default(),
            token: None,
            role_tokens: BTreeMap::new(),
            ca: None,
            allow_remote: false,
        }
    }

    /// As [`FleetConfig::new`], with times for tests ([`Options::fast`]).
    pub fn fast(server: impl Into<String>, agents: usize) -> Self {
        FleetConfig {
            options: Options::fast(),
            ..FleetConfig::new(server, agents)
        }
    }

    /// How many agents in all.
    pub fn agents(&self) -> usize {
        self.roles.iter().map(|(_, count)| count).sum()
    }
}
