//! A cluster whose processes live apart: each has a network of its own, and each node a disk that can be made to fail.

use std::ffi::OsStr;
use std::ops::Deref;

use crate::crowd::{Crowd, NODE, PATIENCE};
use crate::disk::Disk;
use crate::network::Network;
use crate::server::get;
use crate::wait::{eventually, holds};

pub const NODES: [u8; 3] = [1, 2, 3];
pub const FIVE_NODES: [u8; 5] = [1, 2, 3, 4, 5];
pub const GATEWAYS: [u8; 2] = [11, 12];
const PEERS: u16 = 4322;
const OPAMP: u16 = 4320;
const API: u16 = 4321;

/// Three nodes, or five, and two gateways; the fleet and its operator reach the gateways. Only inside of
/// [`crate::network::in_own_network`].
pub struct Apart {
    pub network: Network,
    nodes: Vec<u8>,
    directory: tempfile::TempDir,
    disks: Vec<Disk>,
    crowd: Option<Crowd>,
}

impl Apart {
    pub async fn of(agents: usize) -> Self {
        Apart::with(&NODES, agents).await
    }

    /// As [`Apart::of`], with these nodes; they are numbered from 1 on.
    pub async fn with(nodes: &[u8], agents: usize) -> Self {
        let mut directory = tempfile::Builder::new();
        let mut scene = Apart {
            network: Network::start(),
            nodes: nodes.to_vec(),
            disks: vec![],
            directory: directory.prefix("muster-network-").tempdir().unwrap(),
            crowd: None,
        };
        scene.disks = Disk::several(scene.directory.path(), nodes.len());
        for node in nodes {
            scene.start_node(*node);
        }
        for gateway in GATEWAYS {
            scene.start_gateway(gateway);
        }
        for gateway in GATEWAYS {
            let api = Network::address(gateway, API);
            eventually(PATIENCE, "a gateway to be ready", async || {
                let ready = get(api, "/readyz");
                holds(matches!(ready, Ok((200, _))), ready)
            })
            .await;
        }
        let url = |gateway| format!("http://{}/v1/opamp", Network::address(gateway, OPAMP));
        let urls = GATEWAYS.map(url).to_vec();
        let crowd = Crowd::of(agents, urls, Network::address(GATEWAYS[0], API)).await;
        scene.crowd = Some(crowd);
        scene
    }

    pub fn start_node(&self, node: u8) {
        let address = |node| Network::address(node, PEERS);
        let founders = self.nodes.iter();
        let founders = founders.map(|node| format!("{node}={}", address(*node)));
        let founders: Vec<String> = founders.collect();
        let own = [
            "node".to_owned(),
            format!("--id={node}"),
            format!("--listen={}", address(node)),
            format!("--founders={}", founders.join(",")),
            format!("--data-dir={}", self.file(&format!("node-{node}"))),
        ];
        let args = [&own[..], &NODE.map(str::to_owned)].concat();
        self.start(node, args, &self.disk(node).variables());
    }

    fn start_gateway(&self, gateway: u8) {
        let nodes = self.nodes.iter();
        let nodes = nodes.map(|node| Network::address(*node, PEERS).to_string());
        let nodes: Vec<String> = nodes.collect();
        let own = [
            "gateway".to_owned(),
            format!("--nodes={}", nodes.join(",")),
            format!("--opamp-listen={}", Network::address(gateway, OPAMP)),
            format!("--api-listen={}", Network::address(gateway, API)),
        ];
        self.start(gateway, own.to_vec(), &[]);
    }

    /// What this node's data lies on.
    pub fn disk(&self, node: u8) -> &Disk {
        &self.disks[usize::from(node - NODES[0])]
    }

    fn start(&self, host: u8, mut args: Vec<String>, env: &[(&str, &OsStr)]) {
        args.extend(["--cluster=net", "--insecure-public"].map(str::to_owned));
        let log = self.directory.path().join(format!("host-{host}.log"));
        self.network.run(host, &args, env, &log);
    }

    fn file(&self, name: &str) -> String {
        let path = self.directory.path().join(name);
        path.to_str().unwrap().to_owned()
    }

    pub async fn store(&self, marker: &str) -> Vec<u8> {
        let file = self.directory.path().join("edge.yaml");
        self.crowd().store(&file, marker).await
    }

    fn crowd(&self) -> &Crowd {
        self.crowd.as_ref().unwrap()
    }

    pub async fn leader(&self, group: &str) -> u8 {
        self.api.leader(group, PATIENCE).await.try_into().unwrap()
    }

    /// The nodes beside this one.
    pub fn others(&self, node: u8) -> impl Iterator<Item = u8> {
        let nodes = self.nodes.iter().copied();
        nodes.filter(move |other| *other != node)
    }

    /// What has to be true afterwards, whatever was cut.
    pub async fn ends_well(self, hash: &[u8]) {
        self.assert_offered_once_to_everybody(hash);
        self.cluster_is_whole().await;
        self.assert_nobody_is_lost().await;
        self.assert_audit_verifies();
        self.stop().await;
    }

    pub async fn stop(mut self) {
        self.crowd.take().unwrap().fleet.stop().await;
    }
}

impl Deref for Apart {
    type Target = Crowd;

    fn deref(&self) -> &Crowd {
        self.crowd()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in self.nodes.iter().copied().chain(GATEWAYS) {
                let log = self.file(&format!("host-{host}.log"));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let from = log.len().saturating_sub(3_000);
                eprintln!("--- host {host}\n{}", log.get(from..).unwrap_or(&log));
            }
        }
    }
}
