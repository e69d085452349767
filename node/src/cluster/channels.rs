//! Connections to the other nodes: made when they are first used, again after they broke.
//!
//! Snapshots have one of their own, so that heartbeats never stand behind them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raft::NodeId;
use tonic::transport::{Channel, Endpoint};

/// A node that does not accept within this is not there.
const CONNECT: Duration = Duration::from_secs(1);

/// Silent for so long, a connection is tried by a ping, and given up when that is not answered.
const PING: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(3);

/// To every node that is known.
pub struct Channels {
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    /// None: connections are not encrypted.
    certificates: Option<Arc<tls::Mutual>>,
}

struct Node {
    address: String,
    calls: Channel,
    snapshots: Channel,
}

impl Channels {
    /// To nobody yet.
    pub fn new(certificates: Option<Arc<tls::Mutual>>) -> Self {
        Channels {
            nodes: Mutex::default(),
            certificates,
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node is at this address from now on. An address that makes no sense is nobody's.
    pub fn set(&self, node: NodeId, address: &str) {
        let mut nodes = self.nodes();
        if nodes
            .get(&node)
            .is_some_and(|known| known.address == address)
        {
            return;
        }
        let channel = || self.channel(node, address);
        let (Some(calls), Some(snapshots)) = (channel(), channel()) else {
            tracing::error!(%node, address, "this address cannot be used: the node is not reached");
            return;
        };
        let address = address.to_owned();
        nodes.insert(
            node,
            Node {
                address,
                calls,
                snapshots,
            },
        );
    }

    /// For everything but snapshots.
    pub fn calls(&self, node: NodeId) -> Option<Channel> {
        let nodes = self.nodes();
        nodes.get(&node).map(|node| node.calls.clone())
    }

    /// For snapshots.
    pub fn snapshots(&self, node: NodeId) -> Option<Channel> {
        let nodes = self.nodes();
        nodes.get(&node).map(|node| node.snapshots.clone())
    }

    /// Where each node is.
    pub fn addresses(&self) -> BTreeMap<NodeId, String> {
        let nodes = self.nodes();
        let address = |(id, node): (&NodeId, &Node)| (*id, node.address.clone());
        nodes.iter().map(address).collect()
    }

    fn channel(&self, node: NodeId, address: &str) -> Option<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true);
        match &self.certificates {
            None => Some(endpoint.connect_lazy()),
            Some(certificates) => {
                let connector = certificates.connector(tls::Name::Node(node.0)).ok()?;
                Some(endpoint.connect_with_connector_lazy(connector))
            }
        }
    }
}
