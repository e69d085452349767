//! Connections to the other nodes: made when they are first used, again after they broke.
//!
//! Snapshots have one of their own, so that heartbeats never stand behind them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft::NodeId;
use tonic::transport::{Channel, Endpoint};

/// A node that does not accept within this is not there.
const CONNECT: Duration = Duration::from_secs(1);

/// Silent for so long, a connection is tried by a ping, and given up when that is not answered.
const PING: Duration = Duration::from_secs(2);
const PONG: Duration = Duration::from_secs(3);

/// Connections are made anew after this, with up to a quarter more by chance, so that both ends show their certificates
/// again. What is under way on the old one comes to its end there. Well before the other end asks for it: then a call could
/// meet a connection that is closed just now.
const RENEW: Duration = Duration::from_secs(3600);

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
    renew: Instant,
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
        let Some(made) = self.make(node, address) else {
            tracing::error!(%node, address, "this address cannot be used: the node is not reached");
            return;
        };
        nodes.insert(node, made);
    }

    fn make(&self, node: NodeId, address: &str) -> Option<Node> {
        Some(Node {
            address: address.to_owned(),
            calls: self.channel(node, address)?,
            snapshots: self.channel(node, address)?,
            renew: Instant::now() + RENEW.mul_f64(rand::random_range(1.0..1.25)),
        })
    }

    /// For everything but snapshots.
    pub fn calls(&self, node: NodeId) -> Option<Channel> {
        self.current(node, |node| node.calls.clone())
    }

    /// For snapshots.
    pub fn snapshots(&self, node: NodeId) -> Option<Channel> {
        self.current(node, |node| node.snapshots.clone())
    }

    fn current(&self, id: NodeId, take: impl Fn(&Node) -> Channel) -> Option<Channel> {
        let mut nodes = self.nodes();
        let node = nodes.get_mut(&id)?;
        if Instant::now() >= node.renew
            && let Some(made) = self.make(id, &node.address)
        {
            *node = made;
        }
        Some(take(node))
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

#[cfg(test)]
mod tests {
    use proto::cluster::DescribeRequest;
    use proto::cluster::peer_client::PeerClient;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connections_are_made_anew_after_a_while_and_not_for_each_call() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let channels = Channels::new(None);
        channels.set(NodeId(2), &address);
        // Nobody answers: it is enough to see who connects.
        let call = async || {
            let mut client = PeerClient::new(channels.calls(NodeId(2)).unwrap());
            let called = client.describe(DescribeRequest::default());
            let _unanswered = tokio::time::timeout(Duration::from_millis(300), called).await;
        };
        let connects = || tokio::time::timeout(Duration::from_millis(300), listener.accept());
        call().await;
        let _first = connects().await.unwrap().unwrap();
        call().await;
        assert!(connects().await.is_err(), "it stands");
        channels.nodes().get_mut(&NodeId(2)).unwrap().renew = Instant::now();
        call().await;
        let _second = connects().await.unwrap().unwrap();
        call().await;
        assert!(connects().await.is_err(), "it stands for as long again");
    }
}
