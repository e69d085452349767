//! `muster serve`: every group, the partition leaders, the controller and a gateway in one process.

use std::sync::Arc;
use std::time::Duration;

use node::Node;
use node::cluster::Identity;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::listeners::{Behind, listen};
use super::options::{Edge, Log, State, private_dir};
use super::{access, link, operators, ready, with_telemetry};

/// What closing the store may take; with the gateway's drain before it this stays below the 10 s after which service
/// managers kill.
const STOP: Duration = Duration::from_millis(3500);

/// Of the gateway in this process.
pub const NAME: &str = "serve";

/// How often the gauges read the fleet.
const GAUGES: Duration = Duration::from_secs(5);

/// Options of `muster serve`.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    edge: Edge,
    #[command(flatten)]
    log: Log,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let log = args.log.clone();
    with_telemetry(&log, |stop| serve(args, stop)).await
}

async fn serve(args: ServeArgs, stop: CancellationToken) -> anyhow::Result<()> {
    args.edge.check()?;
    private_dir(&args.state.data_dir)?;
    if let Some(found) = Identity::read(&args.state.data_dir)? {
        anyhow::bail!(
            "{} belongs to node {} of cluster `{}`: start it with `muster node`",
            args.state.data_dir.display(),
            found.node,
            found.cluster
        );
    }
    let store = node::open(&args.state.data_dir).await?;
    let node = Node::start(args.state.config(store, None)).await?;
    let required = args.edge.require_tokens;
    if required {
        access::first_admin(&node, &args.state.data_dir).await?;
    }
    let mut registry = Registry::default();
    let gauges = node::metrics::Metrics::register(&mut registry);
    let gauging = tokio::spawn(gauge(node.clone(), gauges, stop.clone()));
    let behind = Behind {
        name: NAME.to_owned(),
        link: Arc::new(link::Embedded::new(node.clone())),
        access: access::Tokens::new(node.control.clone(), required),
        api: operators(&node).layer(axum::middleware::map_request(access::name_actor)),
        registry,
        ready: ready(node.clone()),
    };
    tracing::info!(data_dir = %args.state.data_dir.display(), "the store is open");
    let ended = listen(&args.edge, behind, stop.clone()).await;
    stop.cancel();
    let _ended = gauging.await;
    if tokio::time::timeout(STOP, node.stop()).await.is_err() {
        tracing::error!("the store did not close in time; the next start recovers it");
    }
    ended
}

/// Keeps what is counted of the fleet true.
pub async fn gauge(node: Arc<Node>, gauges: node::metrics::Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(GAUGES);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        gauges.refresh(&node);
    }
}
