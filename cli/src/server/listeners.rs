//! The two listeners of whoever serves agents and operators: `muster serve` and `muster gateway`.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use gateway::{Access, Gateway, Link};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::options::Edge;
use crate::observe;

/// Is this ready, and if not, why.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// How often the health service looks.
const HEALTH: Duration = Duration::from_secs(1);

/// How often what is exported is read anew.
const GAUGES: Duration = Duration::from_secs(5);

/// What stands behind the listeners.
pub struct Behind<L, A> {
    /// Of this process in reports and logs.
    pub name: String,
    /// The way to the partition leaders.
    pub link: Arc<L>,
    /// Who may speak.
    pub access: A,
    /// The operators' services, without reflection and health.
    pub api: axum::Router,
    /// What is counted besides the edge.
    pub registry: Registry,
    /// Can this process do its work?
    pub ready: Ready,
}

/// Listens until told to stop, then drains. `told` is called once both addresses are taken.
pub async fn listen<L: Link, A: Access + Clone>(
    options: &Edge,
    behind: Behind<L, A>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let limits = options.limits()?;
    let opamp = gateway::Config {
        name: behind.name,
        listener: options.listener(options.opamp_listen),
        path: options.opamp_path.clone(),
        limits: limits.clone(),
    };
    let bound = Gateway::bind(opamp, behind.link, behind.access.clone())?;
    let mut registry = behind.registry;
    bound.metrics().register(&mut registry);
    let registry = Arc::new(registry);
    let figures = observe::figures::Figures::new(registry.clone());
    let exporting = tokio::spawn(export(figures, stop.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    let reporting = tokio::spawn(report_health(reporter, behind.ready.clone(), stop.clone()));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the API's descriptors")?;
    let own = tonic::service::Routes::new(reflection).add_service(health);
    let services = gateway::api::Services {
        router: own
            .prepare()
            .into_axum_router()
            .fallback_service(behind.api),
        open_paths: vec![],
        registry,
        ready: behind.ready,
    };
    let listener = options.listener(options.api_listen);
    let api = gateway::api::bind(&listener, limits, Arc::new(behind.access), services)?;
    tracing::info!(opamp = %bound.address(), api = %api.address(), "muster is ready");
    if !options.require_tokens {
        tracing::warn!(
            "no tokens are required: whoever reaches these addresses may do everything; --require-tokens changes that"
        );
    }
    tokio::join!(bound.run(stop.clone()), api.run(stop.clone()));
    stop.cancel();
    let (_ended, _too) = tokio::join!(exporting, reporting);
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

/// Sends what is measured to the OTLP endpoint, if there is one.
pub(super) async fn export(mut figures: observe::figures::Figures, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(GAUGES);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        figures.refresh();
    }
}
