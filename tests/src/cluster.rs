//! A `muster local-cluster` of its own: nodes and gateways as real processes on loopback, killed one by one.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proto::api::Cluster as View;
use serde::Deserialize;

use crate::api::Api;
use crate::cli::Cli;
use crate::process::{Signal, signal};
use crate::server::{STOP, binary, free_address, get};
use crate::wait::{eventually_blocking, holds};

/// How long a cluster takes to be ready, on a loaded machine.
const START: Duration = Duration::from_secs(60);

/// What `cluster.json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Described {
    pub nodes: Vec<Node>,
    pub gateways: Vec<Gateway>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub id: u64,
    pub pid: u32,
    pub addr: SocketAddr,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Gateway {
    pub pid: u32,
    pub opamp: SocketAddr,
    pub api: SocketAddr,
}

/// A cluster under test. Dropping it ends its processes; when the test is failing, data and logs stay.
pub struct Cluster {
    directory: Option<tempfile::TempDir>,
    data: PathBuf,
    process: Child,
}

// === impl Cluster ===

impl Cluster {
    /// Three nodes and two gateways with these options, ready.
    pub fn start(node_options: &[&str], gateway_options: &[&str]) -> Self {
        Cluster::start_with(&[], node_options, gateway_options)
    }

    /// As [`Cluster::start`], with options of the whole.
    pub fn start_with(options: &[&str], node_options: &[&str], gateway_options: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("muster-cluster-")
            .tempdir()
            .unwrap();
        let data = directory.path().join("cluster");
        let log = File::create(directory.path().join("cluster.log")).unwrap();
        let process = Command::new(binary())
            .args([
                "local-cluster",
                "--nodes",
                "3",
                "--gateways",
                "2",
                "--data-dir",
            ])
            .arg(&data)
            .args(options)
            .args(
                node_options
                    .iter()
                    .map(|option| format!("--node-arg={option}")),
            )
            .args(
                gateway_options
                    .iter()
                    .map(|option| format!("--gateway-arg={option}")),
            )
            .env_remove("MUSTER_TOKEN")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let cluster = Cluster {
            directory: Some(directory),
            data,
            process,
        };
        eventually_blocking(START, "the cluster to be ready", || {
            cluster
                .read()
                .map(|_| ())
                .ok_or_else(|| cluster.log("cluster"))
        });
        cluster
    }

    fn read(&self) -> Option<Described> {
        let text = std::fs::read_to_string(self.data.join("cluster.json")).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    /// Where everything is now.
    pub fn described(&self) -> Described {
        self.read().expect("the cluster has been ready")
    }

    /// What the cluster says of itself.
    pub async fn view(&self) -> Result<View, tonic::Status> {
        self.operator().cluster().await
    }

    /// The process id of the node that leads a group, once there is one.
    pub async fn leader(&self, group: &str, within: Duration) -> u32 {
        let leader = self.operator().leader(group, within).await;
        let nodes = self.described().nodes;
        nodes.iter().find(|node| node.id == leader).unwrap().pid
    }

    fn operator(&self) -> Api {
        Api::new(self.described().gateways[0].api)
    }

    /// Kills a process of the cluster and waits until another one has taken its place.
    pub fn kill(&self, pid: u32) {
        assert!(signal(pid, Signal::KILL), "process {pid} is gone");
        eventually_blocking(START, "the process to be started again", || {
            let now = self.described();
            let nodes = now.nodes.iter().map(|n| n.pid);
            let pids: Vec<u32> = nodes.chain(now.gateways.iter().map(|g| g.pid)).collect();
            holds(!pids.contains(&pid) && !pids.contains(&0), pids)
        });
    }

    /// Starts a node more, which joins at this address. It ends when it is dropped.
    pub fn join_node(&self, at: &str) -> Extra {
        self.join_node_with(at, &[])
    }

    /// As [`Cluster::join_node`], with these options.
    pub fn join_node_with(&self, at: &str, options: &[&str]) -> Extra {
        let listen = free_address();
        let directory = self.data.join("joined");
        let mut args = vec![
            "node".to_owned(),
            "--cluster=local".to_owned(),
            format!("--join={at}"),
            format!("--listen={listen}"),
            format!("--data-dir={}", directory.display()),
        ];
        args.extend(options.iter().map(|option| (*option).to_owned()));
        self.extra("joined", &args, listen)
    }

    /// Starts a gateway more with these options. It ends when it is dropped.
    pub fn start_gateway(&self, options: &[&str]) -> Extra {
        let (opamp, api) = (free_address(), free_address());
        let nodes: Vec<String> = self
            .described()
            .nodes
            .iter()
            .map(|node| node.addr.to_string())
            .collect();
        let mut args = vec![
            "gateway".to_owned(),
            format!("--nodes={}", nodes.join(",")),
            format!("--opamp-listen={opamp}"),
            format!("--api-listen={api}"),
        ];
        args.extend(options.iter().map(|option| (*option).to_owned()));
        self.extra("extra-gateway", &args, api)
    }

    fn extra(&self, name: &str, args: &[String], ready: SocketAddr) -> Extra {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.data.join(format!("{name}.log")))
            .unwrap();
        let process = Command::new(binary())
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Extra { process, ready }
    }

    /// What a node has on disk is gone; it runs on until it is killed.
    pub fn lose_data(&self, node: u64) {
        std::fs::remove_dir_all(self.data.join(format!("node-{node}"))).unwrap();
    }

    /// The command line of an operator, at the first gateway.
    pub fn cli(&self) -> Cli {
        Cli::new(format!("http://{}", self.described().gateways[0].api))
    }

    /// Where supervisors poll, one URL for each gateway.
    pub fn http_urls(&self) -> Vec<String> {
        let url = |gateway: &Gateway| format!("http://{}/v1/opamp", gateway.opamp);
        self.described().gateways.iter().map(url).collect()
    }

    /// What a process has logged: `node-1`, `gateway-2`, or `cluster`.
    pub fn log(&self, process: &str) -> String {
        let name = format!("{process}.log");
        let dir = match process {
            "cluster" => self.data.parent().unwrap().to_owned(),
            _ => self.data.clone(),
        };
        std::fs::read_to_string(dir.join(name)).unwrap_or_default()
    }

    /// A file of this name beside the data, for manifests.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.data.parent().unwrap().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// SIGTERM; everything must have ended within the time of a clean stop.
    pub fn stop(mut self) {
        let pids: Vec<u32> = crate::process::children(self.process.id());
        assert!(
            signal(self.process.id(), Signal::TERM),
            "the cluster is gone"
        );
        let status = eventually_blocking(STOP, "the cluster to stop", || {
            let ended = self.process.try_wait().unwrap();
            holds(ended.is_some(), "still running").map(|()| ended.unwrap())
        });
        assert_eq!(status.code(), Some(0), "{}", self.log("cluster"));
        let left: Vec<u32> = pids
            .into_iter()
            .filter(|pid| signal(*pid, Signal::CONT))
            .collect();
        assert_eq!(
            left,
            Vec::<u32>::new(),
            "processes that outlive the cluster"
        );
    }
}

/// A process beside those that the cluster keeps.
pub struct Extra {
    process: Child,
    ready: SocketAddr,
}

impl Extra {
    /// Where a node listens; of a gateway, where operators connect.
    pub fn address(&self) -> SocketAddr {
        self.ready
    }

    /// Does it stay unready for so long?
    pub fn never_ready(&self, within: Duration) -> bool {
        let until = std::time::Instant::now() + within;
        while std::time::Instant::now() < until {
            if get(self.ready, "/readyz").is_ok_and(|(status, _)| status == 200) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGTERM, so that it ends its own processes; they are bound to it in any case.
        if signal(self.process.id(), Signal::TERM) {
            let deadline = std::time::Instant::now() + STOP;
            while matches!(self.process.try_wait(), Ok(None))
                && std::time::Instant::now() < deadline
            {
                std::thread::yield_now();
            }
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!(
                "data and logs of the cluster are kept in {}",
                directory.keep().display()
            );
        }
    }
}
