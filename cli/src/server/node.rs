//! `muster node`: one node of the state cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use node::Node;
use node::api::{Actor, Role};
use node::cluster::{Cluster, Config, Door, Identity, RESUME_ABOVE, join, may_found};
use node::edge::{AGE, EdgeDoor};
use prometheus_client::registry::Registry;
use proto::edge::{ACTOR_HEADER, NOT_LEADER_HEADER, ROLE_HEADER};
use raft::NodeId;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tower::ServiceExt;

use super::listeners::export;
use super::options::{Certificates, Log, State, private_dir};
use super::serve::gauge;
use super::{access, operators, places, ready, with_telemetry};
use crate::observe::figures::Figures;

/// What closing the store may take, below the 10 s after which service managers kill.
const STOP: Duration = Duration::from_secs(5);

/// What calls that are under way may take at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Tells where everything stands, also when nothing can be confirmed any more.
const ALWAYS_ANSWERED: &str = "/muster.v1.ClusterService/GetCluster";

/// Dead connections are looked for so often.
const PING: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Three nodes found a cluster; each is given the same founders, itself among them:
  muster node --cluster prod --id 1 --listen 127.0.0.1:5001 --data-dir n1 \\
      --founders 1=127.0.0.1:5001,2=127.0.0.1:5002,3=127.0.0.1:5003
Another one joins, and gets its part of the data:
  muster node --cluster prod --join 127.0.0.1:5001 --listen 127.0.0.1:5004 --data-dir n4
  muster cluster plan      what would be moved
  muster cluster apply
A gateway in front of them:
  muster gateway --cluster prod --nodes 127.0.0.1:5001,127.0.0.1:5002,127.0.0.1:5003
All of it on this machine, to try it:
  muster local-cluster --data-dir ./cluster";

/// Options of `muster node`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct NodeArgs {
    /// Name of the cluster. Nodes and gateways of another one are refused
    #[arg(long, env = "MUSTER_CLUSTER", value_name = "NAME")]
    cluster: String,

    /// Number of this founder. It belongs to this data directory for good: a node that lost its data joins as a new one
    #[arg(long, env = "MUSTER_NODE_ID", value_name = "N", requires = "founders", value_parser = clap::value_parser!(u64).range(1..))]
    id: Option<u64>,

    /// Where other nodes and gateways connect
    #[arg(
        long,
        default_value = "127.0.0.1:4322",
        env = "MUSTER_NODE_LISTEN",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,

    /// The nodes that found the cluster, as ID=HOST:PORT; an odd number, the same on each of them
    #[arg(long, value_delimiter = ',', requires = "id", required_unless_present = "join", value_name = "ID=ADDRESS", value_parser = founder)]
    founders: Vec<(u64, String)>,

    /// Join a cluster that is there, by some of its nodes (HOST:PORT): it gives this node its number
    #[arg(long, value_delimiter = ',', conflicts_with = "founders", value_name = "ADDRESS", value_parser = super::options::node_address)]
    join: Vec<String>,

    /// Where other nodes and gateways reach this one, if that is not --listen. Founders have it in --founders
    #[arg(long, conflicts_with = "founders", value_name = "ADDRESS", value_parser = super::options::node_address)]
    advertise: Option<String>,

    /// How often the replicas of each group that this node leads are compared; each reads all of its data for it
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    compare_every: Duration,

    /// Write the first admin token to DIR/admin.token, once, on the node that leads the control group then
    #[arg(long)]
    require_tokens: bool,

    /// Listen on a public address without certificates. Who reaches it may do everything
    #[arg(long)]
    insecure_public: bool,

    #[command(flatten)]
    certificates: Certificates,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    log: Log,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    let log = args.log.clone();
    with_telemetry(&log, |stop| serve(args, stop)).await
}

async fn serve(args: NodeArgs, stop: CancellationToken) -> anyhow::Result<()> {
    args.check()?;
    private_dir(&args.state.data_dir)?;
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let certificates = args.certificates.load(&args.cluster)?;
    let store = node::open(&args.state.data_dir).await?;
    let fresh = Identity::read(&args.state.data_dir)?.is_none();
    let (config, identity) = args.config(store.id().0, certificates.as_deref()).await?;
    let id = config.node.0;
    let known = identity
        .nodes
        .iter()
        .map(|(id, at)| (NodeId(*id), at.clone()))
        .collect();
    let cluster = Arc::new(Cluster::new(config, &known, certificates.clone()));
    let door = Door::new(cluster.clone(), store.clone(), fresh);
    let mut registry = Registry::default();
    let gauges = node::metrics::Metrics::register(&mut registry);
    // Others are answered until everything here has ended.
    let ended = CancellationToken::new();
    let _ends = ended.clone().drop_guard();
    let registry = Arc::new(registry);
    let figures = Figures::new(registry.clone());
    tokio::spawn(export(figures, ended.clone()));
    let serving = tokio::spawn(answer(
        routes(&door, registry),
        listener,
        certificates,
        ended.clone(),
    ));
    if fresh && !cluster.config.founders.is_empty() {
        let founding = stop.run_until_cancelled(may_found(&cluster)).await;
        match founding {
            Some(founding) => founding.map_err(|why| anyhow::anyhow!(why))?,
            None => return Ok(()),
        }
    }
    // Not before: what is written down is never asked again.
    identity.write(&args.state.data_dir)?;
    let node = Node::start(args.state.config(store, Some(cluster))).await?;
    door.open(node.clone());
    let gauging = tokio::spawn(gauge(node.clone(), gauges, stop.clone()));
    if args.require_tokens {
        tokio::spawn(first_admin(
            node.clone(),
            args.state.data_dir.clone(),
            stop.clone(),
        ));
    }
    tracing::info!(
        node = id, cluster = args.cluster, listen = %args.listen,
        data_dir = %args.state.data_dir.display(), "the node runs"
    );
    let registering = node.register();
    let refused = tokio::select! {
        refused = async { registering.await.err() } => match refused {
            Some(why) => Some(why),
            None => { stop.cancelled().await; None }
        },
        () = stop.cancelled() => None,
    };
    stop.cancel();
    let _ended = gauging.await;
    if tokio::time::timeout(STOP, node.stop()).await.is_err() {
        tracing::error!("the store did not close in time; the next start recovers it");
    }
    ended.cancel();
    if let Some(why) = refused {
        anyhow::bail!("{why}");
    }
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(Ok(ended)) => ended.context("the listener of nodes and gateways"),
        // Streams of operators that watch end with the process.
        _ => Ok(()),
    }
}

impl NodeArgs {
    /// What is wrong with the options, said before anything is made on disk.
    fn check(&self) -> anyhow::Result<()> {
        let founders: BTreeMap<u64, &String> =
            self.founders.iter().map(|(id, at)| (*id, at)).collect();
        anyhow::ensure!(
            founders.len() == self.founders.len(),
            "--founders names a node twice: each has its own number"
        );
        anyhow::ensure!(
            founders.is_empty() || founders.len() % 2 == 1,
            "--founders names {} nodes: an odd number, 3 or 5, survives the loss of a minority",
            founders.len()
        );
        if let Some(id) = self.id {
            anyhow::ensure!(
                founders.contains_key(&id),
                "--founders does not name this node: add {id}=HOST:PORT"
            );
        }
        anyhow::ensure!(
            self.listen.ip().is_loopback()
                || self.insecure_public
                || self.certificates.peer_cert.is_some(),
            "{} is not a loopback address, and without certificates who reaches it may do everything: give --peer-cert, --peer-key and --peer-ca (`muster certs` makes them), listen on 127.0.0.1, or say --insecure-public if this network is trusted",
            self.listen
        );
        Ok(())
    }

    /// Which node this is, and where others are: as it is written in the data directory, as founders are told, or as
    /// the cluster says that it joins.
    async fn config(
        &self,
        disk: [u8; 16],
        certificates: Option<&tls::Mutual>,
    ) -> anyhow::Result<(Config, Identity)> {
        let dir = &self.state.data_dir;
        let founders: BTreeMap<NodeId, String> = self
            .founders
            .iter()
            .map(|(id, address)| (NodeId(*id), address.clone()))
            .collect();
        let own = self
            .advertise
            .clone()
            .unwrap_or_else(|| self.listen.to_string());
        let identity = match (self.id, Identity::read(dir)?) {
            (Some(node), _) => {
                let nodes = founders.iter().map(|(id, at)| (id.0, at.clone())).collect();
                let (cluster, node) = (self.cluster.clone(), node);
                Identity {
                    cluster,
                    node,
                    nodes,
                }
            }
            (None, Some(found)) if found.cluster == self.cluster => found,
            (None, found) => {
                if let Some(found) = found {
                    Identity {
                        cluster: self.cluster.clone(),
                        ..found
                    }
                    .check(dir)?;
                }
                let joined = join(&self.cluster, disk, &own, &self.join, certificates).await;
                let joined = joined.map_err(|why| {
                    anyhow::anyhow!("cannot join cluster `{}`: {why}", self.cluster)
                })?;
                tracing::info!(node = joined.node, "this node has its number");
                Identity {
                    cluster: self.cluster.clone(),
                    node: joined.node,
                    nodes: joined
                        .nodes
                        .into_iter()
                        .map(|n| (n.node, n.address))
                        .collect(),
                }
            }
        };
        identity.check(dir)?;
        let node = NodeId(identity.node);
        let address = founders.get(&node).cloned().unwrap_or(own);
        let config = Config {
            name: self.cluster.clone(),
            node,
            address,
            founders,
            disk,
            compare_every: self.compare_every,
            resume_above: RESUME_ABOVE,
        };
        Ok((config, identity))
    }
}

/// `ID=HOST:PORT`.
fn founder(text: &str) -> Result<(u64, String), String> {
    let wrong = || "a node is named as ID=HOST:PORT, as 1=10.0.0.1:4322".to_owned();
    let (id, address) = text.split_once('=').ok_or_else(wrong)?;
    let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
    Ok((id, super::options::node_address(address)?))
}

/// Serves until told to stop.
async fn answer(
    routes: axum::Router,
    listener: tokio::net::TcpListener,
    certificates: Option<Arc<tls::Mutual>>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(PING))
        .http2_adaptive_window(Some(true))
        .max_concurrent_streams(None)
        .max_connection_age(AGE)
        .accept_http1(true)
        .add_routes(routes.into());
    let stopped = stop.cancelled_owned();
    let incoming = places::accept(listener);
    match certificates {
        None => {
            let incoming = incoming.map(|accepted| accepted.map(|(stream, _)| stream));
            server.serve_with_incoming_shutdown(incoming, stopped).await
        }
        Some(certificates) => {
            let incoming = certificates.accept(incoming);
            server.serve_with_incoming_shutdown(incoming, stopped).await
        }
    }
}

/// Nodes and gateways, operators' calls that gateways pass on, health and metrics.
fn routes(door: &Door, registry: Arc<Registry>) -> axum::Router {
    let mut services = tonic::service::Routes::builder();
    services.add_service(door.service());
    services.add_service(EdgeDoor::new(door.clone()).service());
    let operators = Operators {
        door: door.clone(),
        services: Arc::default(),
    };
    let asked = door.clone();
    services
        .routes()
        .prepare()
        .into_axum_router()
        .route("/healthz", axum::routing::get(|| async { "ok\n" }))
        .route(
            "/readyz",
            axum::routing::get(move || async move {
                let ready = match asked.node() {
                    Some(node) => ready(node.clone())(),
                    None => Err("the node starts".to_owned()),
                };
                match ready {
                    Ok(()) => (axum::http::StatusCode::OK, "ready\n".to_owned()),
                    Err(why) => {
                        let unready = axum::http::StatusCode::SERVICE_UNAVAILABLE;
                        (unready, format!("not ready: {why}\n"))
                    }
                }
            }),
        )
        .route(
            "/metrics",
            axum::routing::get(move || async move {
                let mut text = String::new();
                match prometheus_client::encoding::text::encode(&mut text, &registry) {
                    Ok(()) => {
                        let kind = (axum::http::header::CONTENT_TYPE, gateway::api::OPEN_METRICS);
                        ([kind], text).into_response()
                    }
                    Err(_) => {
                        let failed = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
                        (failed, "metrics cannot be printed\n").into_response()
                    }
                }
            }),
        )
        .fallback(move |request| {
            let operators = operators.clone();
            async move { operators.answer(request).await }
        })
}

/// Answers operators' calls where the control group is led. A node may think so and be wrong: frozen for a while, cut off,
/// or elected a moment ago and not yet at the end of what was stored before. So each call begins with a linearizable
/// read, after which everything that anybody has been answered is here.
#[derive(Clone)]
struct Operators {
    door: Door,
    /// Made when the node runs.
    services: Arc<OnceLock<axum::Router>>,
}

impl Operators {
    async fn answer(&self, request: Request) -> Response {
        // Whom a call names as its operator is the gateway's word.
        let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let shown = info.and_then(TlsConnectInfo::peer_certs);
        if !self
            .door
            .admits_gateway(&tls::Peer::of(shown.as_deref().map(Vec::as_slice)))
        {
            return Status::permission_denied("operators connect to a gateway").into_http::<Body>();
        }
        let Some(node) = self.door.node().filter(|node| node.leads()) else {
            return elsewhere();
        };
        let confirmed = async { node.control_ledger.group().linearize().await.is_ok() };
        if request.uri().path() != ALWAYS_ANSWERED && !confirmed.await {
            return elsewhere();
        }
        let services = self.services.get_or_init(|| operators(node)).clone();
        match services.oneshot(name_actor(request)).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

/// Nothing happens here, and the gateway is told so.
fn elsewhere() -> Response {
    let status = Status::unavailable("the control group is not led here");
    let mut answer = status.into_http::<Body>();
    let yes = axum::http::HeaderValue::from_static("1");
    answer.headers_mut().insert(NOT_LEADER_HEADER, yes);
    answer
}

/// The operator that the gateway has let in.
fn name_actor(mut request: Request) -> Request {
    let text = |name: &str| {
        request
            .headers()
            .get(name)?
            .to_str()
            .ok()
            .map(str::to_owned)
    };
    if let (Some(name), Some(role)) = (text(ACTOR_HEADER), text(ROLE_HEADER)) {
        let role = Role::parse(&role).unwrap_or(Role::Viewer);
        request.extensions_mut().insert(Actor { name, role });
    }
    request
}

/// Makes the first admin token once this node leads and there is none.
async fn first_admin(node: Arc<Node>, dir: std::path::PathBuf, stop: CancellationToken) {
    let mut leadership = node.control_ledger.group().leadership();
    loop {
        if node.leads() && node.control_ledger.sync().await.is_ok() {
            match access::first_admin(&node, &dir).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "the first admin token was not made; it is tried again")
                }
            }
        }
        let changed = tokio::time::timeout(Duration::from_secs(5), leadership.changed());
        if stop.run_until_cancelled(changed).await.is_none() {
            return;
        }
    }
}
