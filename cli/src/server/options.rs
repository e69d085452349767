//! Options that the servers share: what the fleet is like, where agents and operators connect, what is logged.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use gateway::{Limits, Listener, TlsFiles};
use node::cluster::Cluster;
use node::controller::ask;
use node::{Config, otelcol, partition};

use crate::observe;

/// Of whoever keeps the fleet's state.
#[derive(clap::Args, Clone, Debug)]
pub struct State {
    /// Where everything is kept. Created if it is not there
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Entries of each group's log that are kept. A snapshot is taken after as many more, and a node that lacks more than
    /// is kept gets one
    #[arg(long, default_value_t = 50_000, value_name = "ENTRIES", value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    pub keep_log: u64,

    #[command(flatten)]
    pub fleet: Fleet,
}

/// What the fleet is like, and who may be asked about it.
#[derive(clap::Args, Clone, Debug)]
pub struct Fleet {
    /// Expected time between two messages of an agent
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub agent_interval: Duration,

    /// An agent that was silent for so many intervals is lost
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100))]
    pub lost_after: u32,

    /// A config that was not answered for so long counts as "no answer". Longer than poll, validate and apply together
    #[arg(long, default_value = "3m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub offer_timeout: Duration,

    /// How long each agent's transitions are kept
    #[arg(long, default_value = "30d", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub keep_history: Duration,

    /// Prometheus that the PromQL checks of gates are asked of, as http://prometheus:9090
    #[arg(long, env = "MUSTER_PROMETHEUS", value_name = "URL")]
    pub prometheus: Option<ask::Prometheus>,

    /// Hosts that the webhooks of gates may be on, as HOST or HOST:PORT; no others are asked
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    pub webhook_hosts: Vec<ask::Host>,

    /// Collector whose `validate` a config has to pass before it is stored, for agents that report this service.name,
    /// or for all others. Can be given several times
    #[arg(long, value_name = "[DISTRIBUTION=]PATH")]
    pub otelcol: Vec<otelcol::Binary>,
}

/// Where agents and operators connect.
#[derive(clap::Args, Clone, Debug)]
pub struct Edge {
    /// Where collectors' supervisors connect (OpAMP over HTTP and WebSocket)
    #[arg(
        long,
        default_value = "127.0.0.1:4320",
        env = "MUSTER_OPAMP_LISTEN",
        value_name = "ADDRESS"
    )]
    pub opamp_listen: SocketAddr,

    /// Path of the OpAMP endpoint; all others are 404
    #[arg(long, default_value = gateway::config::OPAMP_PATH, value_name = "PATH", value_parser = gateway::config::opamp_path)]
    pub opamp_path: String,

    /// Where operators connect (gRPC, gRPC-Web, /healthz, /readyz, /metrics)
    #[arg(
        long,
        default_value = "127.0.0.1:4321",
        env = "MUSTER_API_LISTEN",
        value_name = "ADDRESS"
    )]
    pub api_listen: SocketAddr,

    /// Certificate chain (PEM) for both listeners; read again when the file changes
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM) of the certificate; read again when the file changes
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Ask every agent and operator for a token. The first admin token is written to DIR/admin.token
    #[arg(long)]
    pub require_tokens: bool,

    /// Allow a public address without TLS or tokens. Only for networks where everyone may do everything
    #[arg(long)]
    pub insecure_public: bool,

    /// Browser origin that may call the API, besides loopback ones. Can be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,

    /// The largest message an agent may send, in MiB, also after inflation
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_message_mib: u32,

    /// Set a limit of the edge, as body_timeout=30s. Can be given several times; `--limit help` lists all
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_limit)]
    pub limit: Vec<(String, String)>,
}

/// What nodes and gateways show each other.
#[derive(clap::Args, Clone, Debug)]
pub struct Certificates {
    /// Own certificate (PEM) towards nodes and gateways, of `muster certs issue`; read again when it changes
    #[arg(long, requires = "peer_key", requires = "peer_ca", value_name = "FILE")]
    pub peer_cert: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, requires = "peer_cert", value_name = "FILE")]
    pub peer_key: Option<PathBuf>,

    /// Certificate (PEM) of the cluster's authority
    #[arg(long, requires = "peer_cert", value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,
}

impl Certificates {
    /// Reads them; none: connections between the processes of the cluster are not encrypted.
    pub fn load(&self, cluster: &str) -> anyhow::Result<Option<std::sync::Arc<tls::Mutual>>> {
        let own = self.peer_cert.clone().zip(self.peer_key.clone());
        let Some(((certificate, key), authority)) = own.zip(self.peer_ca.clone()) else {
            return Ok(None);
        };
        tls::is_cluster_name(cluster)?;
        let files = tls::MutualFiles {
            own: TlsFiles { certificate, key },
            authority,
        };
        Ok(Some(std::sync::Arc::new(tls::Mutual::load(
            cluster, files,
        )?)))
    }
}

/// What the process shows of itself.
#[derive(clap::Args, Clone, Debug)]
pub struct Log {
    /// Send Muster's own traces and metrics there (OTLP over gRPC)
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// How to log: text or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub log_format: observe::Format,
}

// === impl State ===

impl State {
    /// Settings of each group.
    fn group(&self) -> raft::GroupConfig {
        let usual = raft::GroupConfig::default();
        raft::GroupConfig {
            log_keep_entries: self.keep_log,
            snapshot_entries: self.keep_log,
            purge_entries_min: self.keep_log.min(usual.purge_entries_min),
            ..usual
        }
    }

    /// Settings of a node, alone or in a cluster.
    pub fn config(&self, store: raft::Store, cluster: Option<std::sync::Arc<Cluster>>) -> Config {
        let fleet = &self.fleet;
        Config {
            store,
            partition: partition::Config {
                agent_interval: fleet.agent_interval,
                lost_after_intervals: fleet.lost_after,
                offer_timeout: fleet.offer_timeout,
                history: fleet.keep_history,
            },
            group: self.group(),
            ask: ask::Config {
                prometheus: fleet.prometheus.clone(),
                webhook_hosts: fleet.webhook_hosts.clone(),
            },
            otelcol: fleet.otelcol.clone(),
            cluster,
        }
    }
}

/// Makes a directory where configs stand as their authors wrote them: nobody else's to read.
pub fn private_dir(dir: &Path) -> anyhow::Result<()> {
    let mut directory = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut directory, 0o700);
    let created = directory.recursive(true).create(dir);
    created.with_context(|| format!("cannot create the data directory {}", dir.display()))
}

// === impl Edge ===

impl Edge {
    /// What is wrong with the addresses, said before anything is made on disk.
    pub fn check(&self) -> Result<(), gateway::StartError> {
        [self.opamp_listen, self.api_listen]
            .into_iter()
            .try_for_each(|address| self.listener(address).check(self.require_tokens))
    }

    /// One of the two listeners.
    pub fn listener(&self, address: SocketAddr) -> Listener {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        Listener {
            address,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            insecure_public: self.insecure_public,
            origins: self.allow_origin.clone(),
        }
    }

    /// The limits as they were set.
    pub fn limits(&self) -> anyhow::Result<Limits> {
        let mut limits = Limits {
            receive_bytes: self.max_message_mib as usize * 1024 * 1024,
            ..Limits::default()
        };
        for (name, value) in &self.limit {
            limits.set(name, value)?;
        }
        Ok(limits)
    }
}

/// One `--limit`, tried out so that a mistake is one of usage. `help` is answered here, as `--help` is by clap: it needs
/// no other option.
fn read_limit(text: &str) -> Result<(String, String), String> {
    if text == "help" {
        for limit in Limits::described() {
            println!("{}={}\n    {}", limit.name, limit.default, limit.meaning);
        }
        std::process::exit(0);
    }
    let (name, value) = text
        .split_once('=')
        .ok_or("a limit is set as NAME=VALUE; `--limit help` lists all")?;
    Limits::default()
        .set(name, value)
        .map_err(|error| error.to_string())?;
    Ok((name.to_owned(), value.to_owned()))
}

/// `HOST:PORT` of a node.
pub fn node_address(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is no address of a node: give HOST:PORT, as 10.0.0.1:4322");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host =
        !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@?#".contains(c));
    (is_port && is_host)
        .then(|| text.to_owned())
        .ok_or_else(wrong)
}
