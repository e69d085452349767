//! `muster serve`: every group, the partition leaders, the controller and a gateway in one process.

mod access;
mod link;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gateway::{Gateway, Limits, Listener, TlsFiles};
use node::controller::ask;
use node::{Config, Node, otelcol, partition};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::observe;

/// What closing the store may take; with the gateway's drain before it this stays below the 10 s after which service
/// managers kill.
const STOP: Duration = Duration::from_millis(3500);

/// Is this ready, and if not, why.
type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// How often the health service looks.
const HEALTH: Duration = Duration::from_secs(1);

/// How often the gauges read the fleet.
const GAUGES: Duration = Duration::from_secs(5);

/// Options of `muster serve`.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {
    /// Where everything is kept. Created if it is not there
    #[arg(long, env = "MUSTER_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,

    /// Where collectors' supervisors connect (OpAMP over HTTP and WebSocket)
    #[arg(
        long,
        default_value = "127.0.0.1:4320",
        env = "MUSTER_OPAMP_LISTEN",
        value_name = "ADDRESS"
    )]
    opamp_listen: SocketAddr,

    /// Path of the OpAMP endpoint; all others are 404
    #[arg(long, default_value = gateway::config::OPAMP_PATH, value_name = "PATH", value_parser = gateway::config::opamp_path)]
    opamp_path: String,

    /// Where operators connect (gRPC, gRPC-Web, /healthz, /readyz, /metrics)
    #[arg(
        long,
        default_value = "127.0.0.1:4321",
        env = "MUSTER_API_LISTEN",
        value_name = "ADDRESS"
    )]
    api_listen: SocketAddr,

    /// Certificate chain (PEM) for both listeners; read again when the file changes
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key (PEM) of the certificate; read again when the file changes
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Ask every agent and operator for a token. The first admin token is written to DIR/admin.token
    #[arg(long)]
    require_tokens: bool,

    /// Allow a public address without TLS or tokens. Only for networks where everyone may do everything
    #[arg(long)]
    insecure_public: bool,

    /// Browser origin that may call the API, besides loopback ones. Can be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    /// Expected time between two messages of an agent
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    agent_interval: Duration,

    /// An agent that was silent for so many intervals is lost
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100))]
    lost_after: u32,

    /// A config that was not answered for so long counts as "no answer". Longer than poll, validate and apply together
    #[arg(long, default_value = "3m", value_name = "DURATION", value_parser = humantime::parse_duration)]
    offer_timeout: Duration,

    /// How long each agent's transitions are kept
    #[arg(long, default_value = "30d", value_name = "DURATION", value_parser = humantime::parse_duration)]
    keep_history: Duration,

    /// The largest message an agent may send, in MiB, also after inflation
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_message_mib: u32,

    /// Set a limit of the edge, as body_timeout=30s. Can be given several times; `--limit help` lists all
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_limit)]
    limit: Vec<(String, String)>,

    /// Prometheus that the PromQL checks of gates are asked of, as http://prometheus:9090
    #[arg(long, env = "MUSTER_PROMETHEUS", value_name = "URL")]
    prometheus: Option<ask::Prometheus>,

    /// Hosts that the webhooks of gates may be on, as HOST or HOST:PORT; no others are asked
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    webhook_hosts: Vec<ask::Host>,

    /// Collector whose `validate` a config has to pass before it is stored, for agents that report this service.name,
    /// or for all others. Can be given several times
    #[arg(long, value_name = "[DISTRIBUTION=]PATH")]
    otelcol: Vec<otelcol::Binary>,

    /// Send Muster's own traces and metrics there (OTLP over gRPC)
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,

    /// How to log: text or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    log_format: observe::Format,
}

/// Runs until SIGTERM or SIGINT, then drains.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let telemetry = observe::start(args.log_format, args.otlp_endpoint.as_deref())?;
    let stop = CancellationToken::new();
    tokio::spawn(signals(stop.clone()));
    let served = serve(args, stop).await;
    telemetry.stop();
    served
}

async fn serve(args: ServeArgs, stop: CancellationToken) -> anyhow::Result<()> {
    // What is wrong with the flags is said before anything is made on disk.
    for address in [args.opamp_listen, args.api_listen] {
        args.listener(address).check(args.require_tokens)?;
    }
    let mut directory = std::fs::DirBuilder::new();
    // Configs stand in it as their authors wrote them: nobody else's to read.
    std::os::unix::fs::DirBuilderExt::mode(&mut directory, 0o700);
    directory
        .recursive(true)
        .create(&args.data_dir)
        .with_context(|| {
            format!(
                "cannot create the data directory {}",
                args.data_dir.display()
            )
        })?;
    let node = Node::start(Config {
        data_dir: args.data_dir.clone(),
        partition: args.partition(),
        group: raft::GroupConfig::default(),
        ask: ask::Config {
            prometheus: args.prometheus.clone(),
            webhook_hosts: args.webhook_hosts.clone(),
        },
        otelcol: args.otelcol.clone(),
    })
    .await?;
    let access = access::Tokens::new(node.control.clone(), args.require_tokens);
    if args.require_tokens {
        access::first_admin(&node, &args.data_dir).await?;
    }
    let ended = listen(&args, &node, access, stop).await;
    if tokio::time::timeout(STOP, node.stop()).await.is_err() {
        tracing::error!("the store did not close in time; the next start recovers it");
    }
    ended
}

async fn listen(
    args: &ServeArgs,
    node: &Arc<Node>,
    access: access::Tokens,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let link = Arc::new(link::Embedded::new(node.clone()));
    let mut limits = Limits {
        receive_bytes: args.max_message_mib as usize * 1024 * 1024,
        ..Limits::default()
    };
    for (name, value) in &args.limit {
        limits.set(name, value)?;
    }
    let opamp = gateway::Config {
        name: "serve".to_owned(),
        listener: args.listener(args.opamp_listen),
        path: args.opamp_path.clone(),
        limits: limits.clone(),
    };
    let bound = Gateway::bind(opamp, link, access.clone())?;
    let mut registry = Registry::default();
    bound.metrics().register(&mut registry);
    let gauges = node::metrics::Metrics::register(&mut registry);
    let registry = Arc::new(registry);
    let figures = observe::figures::Figures::new(registry.clone());
    let gauging = tokio::spawn(gauge(node.clone(), gauges, figures, stop.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    let reporting = tokio::spawn(report_health(reporter, ready(node.clone()), stop.clone()));
    let services = gateway::api::Services {
        router: routes(node, health)?,
        open_paths: vec![],
        registry,
        ready: ready(node.clone()),
    };
    let api = gateway::api::bind(
        &args.listener(args.api_listen),
        limits,
        Arc::new(access),
        services,
    )?;
    tracing::info!(
        opamp = %bound.address(),
        api = %api.address(),
        data_dir = %args.data_dir.display(),
        "muster is ready"
    );
    if !args.require_tokens {
        tracing::warn!(
            "no tokens are required: whoever reaches these addresses may do everything; --require-tokens changes that"
        );
    }
    tokio::join!(bound.run(stop.clone()), api.run(stop.clone()));
    stop.cancel();
    let (_ended, _too) = tokio::join!(gauging, reporting);
    Ok(())
}

/// Keeps what gRPC's health service says true: serving while this is ready, and no more once it drains.
async fn report_health(
    reporter: tonic_health::server::HealthReporter,
    ready: Ready,
    stop: CancellationToken,
) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let mut ticks = tokio::time::interval(HEALTH);
    loop {
        let draining = stop.run_until_cancelled(ticks.tick()).await.is_none();
        let serving = !draining && ready().is_ok();
        let status = if serving { Serving } else { NotServing };
        for service in [""].into_iter().chain(node::api::SERVICES) {
            reporter.set_service_status(service, status).await;
        }
        if draining {
            return;
        }
    }
}

async fn gauge(
    node: Arc<Node>,
    gauges: node::metrics::Metrics,
    mut figures: observe::figures::Figures,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(GAUGES);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        gauges.refresh(&node);
        figures.refresh();
    }
}

/// Every gRPC service, with reflection and health.
fn routes<H: tonic_health::pb::health_server::Health>(
    node: &Arc<Node>,
    health: tonic_health::pb::health_server::HealthServer<H>,
) -> anyhow::Result<axum::Router> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the API's descriptors")?;
    let routes = node::api::Api::new(node.clone())
        .routes()
        .add_service(reflection)
        .add_service(health);
    Ok(routes
        .prepare()
        .into_axum_router()
        .layer(axum::middleware::map_request(access::name_actor)))
}

fn ready(node: Arc<Node>) -> Ready {
    Arc::new(move || {
        let stopped = |name: &str, status: raft::GroupStatus| match status.stopped {
            Some(why) => Err(format!("group {name} has stopped: {why}")),
            None if status.leadership.leader.is_none() => {
                Err(format!("group {name} has no leader"))
            }
            None => Ok(()),
        };
        stopped("control", node.control_ledger.group().status())?;
        let mut partitions = node.partitions.iter();
        partitions.try_for_each(|p| stopped(p.ledger.name(), p.ledger.group().status()))
    })
}

impl ServeArgs {
    fn listener(&self, address: SocketAddr) -> Listener {
        let tls = self.tls_cert.clone().zip(self.tls_key.clone());
        Listener {
            address,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            insecure_public: self.insecure_public,
            origins: self.allow_origin.clone(),
        }
    }

    fn partition(&self) -> partition::Config {
        partition::Config {
            agent_interval: self.agent_interval,
            lost_after_intervals: self.lost_after,
            offer_timeout: self.offer_timeout,
            history: self.keep_history,
        }
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

async fn signals(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!(
            "signals cannot be received: stop the process with SIGKILL; the next start recovers"
        );
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("draining");
    stop.cancel();
}
