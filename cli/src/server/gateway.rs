//! `muster gateway`: the stateless edge in front of a state cluster.

use std::sync::Arc;

use gateway::cluster::{Cluster, Config, proxy};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::listeners::{Behind, listen};
use super::options::{Certificates, Edge, Log};
use super::with_telemetry;

const EXAMPLES: &str = "\
Example:
  muster gateway --cluster prod --nodes 127.0.0.1:5001,127.0.0.1:5002,127.0.0.1:5003

Any number of gateways, behind any load balancer. They keep nothing: start and stop them as you like.";

/// Options of `muster gateway`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct GatewayArgs {
    /// Name of the cluster. Nodes of another one are not talked to
    #[arg(long, env = "MUSTER_CLUSTER", value_name = "NAME")]
    cluster: String,

    /// Some of its nodes, as HOST:PORT; they name the others
    #[arg(long, env = "MUSTER_NODES", value_delimiter = ',', required = true, value_name = "ADDRESS", value_parser = super::options::node_address)]
    nodes: Vec<String>,

    #[command(flatten)]
    certificates: Certificates,
    #[command(flatten)]
    edge: Edge,
    #[command(flatten)]
    log: Log,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(args: GatewayArgs) -> anyhow::Result<()> {
    let log = args.log.clone();
    with_telemetry(&log, |stop| serve(args, stop)).await
}

async fn serve(args: GatewayArgs, stop: CancellationToken) -> anyhow::Result<()> {
    args.edge.check()?;
    // Another one each time, so that nobody takes this process for an earlier one.
    let name = format!("gateway-{:08x}", rand::random::<u32>());
    let config = Config {
        name: name.clone(),
        cluster: args.cluster.clone(),
        nodes: args.nodes.clone(),
        certificates: args.certificates.load(&args.cluster)?,
    };
    // The last word to the leaders is said while draining, so the lines end after it.
    let ended = CancellationToken::new();
    let cluster = Cluster::start(config, ended.clone());
    let readiness = cluster.clone();
    let mut registry = Registry::default();
    cluster.register(&mut registry);
    let behind = Behind {
        name,
        access: cluster.access(args.edge.require_tokens),
        api: proxy(cluster.clone()),
        link: cluster,
        registry,
        ready: Arc::new(move || readiness.ready()),
    };
    let served = listen(&args.edge, behind, stop).await;
    ended.cancel();
    served
}
