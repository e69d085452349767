//! This node among others: who they are, how they are reached, and what they ask of each other.
//!
//! `channels` knows addresses, `peers` carries what replicas say, `remote` asks leaders elsewhere, `door` answers,
//! `arrivals` takes snapshots in, `compare` asks whether replicas are the same. A process alone has none of this.

mod arrivals;
mod channels;
pub(crate) mod compare;
mod door;
pub(crate) mod group;
mod identity;
pub(crate) mod members;
mod peers;
pub(crate) mod plan;
mod remote;
pub(crate) mod rooms;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use proto::cluster::Caller;
use proto::cluster_id::ClusterId;
use raft::NodeId;

use crate::control::Documents;

pub use channels::Channels;
pub use door::{Door, MESSAGE_BYTES_MAX};
pub use identity::{Identity, IdentityError};
pub use members::may_found;
pub use peers::Wires;
pub use remote::join;

/// Of a snapshot above 1 GiB, 16 s of sending, only the rest is sent when its stream broke: below it is sent anew.
pub const RESUME_ABOVE: u64 = 1 << 30;

/// Where this node stands.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of the cluster: nodes of another name are refused.
    pub name: String,
    /// This node. An id is one disk's for good.
    pub node: NodeId,
    /// `host:port` where other nodes and gateways reach this one.
    pub address: String,
    /// The nodes that found the cluster, the same on each of them. A node that has joined has none.
    pub founders: BTreeMap<NodeId, String>,
    /// Drawn when this node's data directory was made.
    pub disk: [u8; 16],
    /// How often the replicas of each group that is led here are compared.
    pub compare_every: Duration,
    /// A snapshot of more bytes that broke off is gone on with: [`RESUME_ABOVE`].
    pub resume_above: u64,
}

/// This node, and the way to the others.
pub struct Cluster {
    /// Where this node stands.
    pub config: Config,
    /// Where the others are.
    pub channels: Channels,
    /// As the documents say it; a cluster never gets another one.
    id: OnceLock<ClusterId>,
    /// What other nodes have refused this one for.
    refusals: Told,
    /// How fast snapshots leave this node.
    pace: peers::Pace,
    /// Do the processes of this cluster show certificates?
    secured: bool,
}

impl Cluster {
    /// Knows the founders and `known`; others become known by the control group's documents. Without certificates everybody who
    /// reaches a node is believed.
    pub fn new(
        config: Config,
        known: &BTreeMap<NodeId, String>,
        certificates: Option<Arc<tls::Mutual>>,
    ) -> Self {
        let secured = certificates.is_some();
        let channels = Channels::new(certificates);
        for (node, address) in config.founders.iter().chain(known) {
            channels.set(*node, address);
        }
        Cluster {
            config,
            channels,
            id: OnceLock::new(),
            refusals: Told::default(),
            pace: peers::Pace::default(),
            secured,
        }
    }

    /// Which cluster of its name this is; none before the documents say it.
    pub fn id(&self) -> Option<ClusterId> {
        self.id.get().copied()
    }

    /// The documents may say by now which cluster this is.
    pub(crate) fn learn(&self, documents: &Documents) {
        if let Some(id) = documents.cluster_id() {
            // It is told again at each change, and is the same each time.
            let _known = self.id.set(id);
        }
    }

    /// May the other end of a connection speak under this name?
    pub fn believes(&self, peer: &tls::Peer, name: tls::Name) -> bool {
        !self.secured || peer.is(name, &self.config.name)
    }

    /// This node, as it presents itself to another one.
    fn caller(&self, to: NodeId) -> Option<Caller> {
        let id = self.id();
        Some(Caller {
            cluster: self.config.name.clone(),
            from: self.config.node.0,
            to: to.0,
            from_disk: self.config.disk.to_vec().into(),
            protocol: proto::protocol::LOWEST,
            protocol_highest: proto::protocol::HIGHEST,
            cluster_id: id.map(ClusterId::bytes).unwrap_or_default(),
            incarnation: id.map_or(0, ClusterId::incarnation),
        })
    }
}

/// What was said about nodes, so that what goes on being so is logged once. Numbers of nodes are the other end's word, so
/// there is a limit.
#[derive(Default)]
struct Told(Mutex<BTreeMap<u64, String>>);

const TOLD_MAX: usize = 64;

impl Told {
    fn is_news(&self, node: u64, what: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(&node).is_some_and(|last| last == what)
            || (told.len() >= TOLD_MAX && !told.contains_key(&node))
        {
            return false;
        }
        told.insert(node, what.to_owned());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_being_so_is_told_once_and_numbers_are_not_kept_without_end() {
        let told = Told::default();
        assert!(told.is_news(1, "a") && !told.is_news(1, "a"));
        assert!(told.is_news(1, "b") && told.is_news(2, "b"));
        let news = (0..10_000).filter(|node| told.is_news(*node, "c"));
        assert_eq!(news.count(), TOLD_MAX);
    }
}
