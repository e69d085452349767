//! What the server shows of itself: structured logs, and traces and metrics over OTLP when an endpoint is given.

pub mod figures;

use std::io::IsTerminal;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::operator::output::colours_on;

/// How log lines look.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What has to be flushed at the end.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

/// Logs go to stderr, in colours on a terminal only; RUST_LOG chooses what. With an endpoint, spans and metrics go there, too.
pub fn start(format: Format, otlp: Option<&str>) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=error,opentelemetry=warn"));
    let text = matches!(format, Format::Text).then(|| {
        tracing_subscriber::fmt::layer()
            .with_ansi(colours_on(std::io::stderr().is_terminal()))
            .with_writer(std::io::stderr)
    });
    let json = matches!(format, Format::Json).then(|| {
        tracing_subscriber::fmt::layer()
            .json()
            .with_writer(std::io::stderr)
    });
    let resource = Resource::builder()
        .with_service_name("muster")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let traces = otlp
        .map(|endpoint| traces(endpoint, resource.clone()))
        .transpose()?;
    let metrics = otlp
        .map(|endpoint| metrics(endpoint, resource))
        .transpose()?;
    let spans = traces
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("muster")));
    tracing_subscriber::registry()
        .with(filter)
        .with(text)
        .with(json)
        .with(spans)
        .try_init()
        .context("logs")?;
    if let Some(provider) = &metrics {
        global::set_meter_provider(provider.clone());
    }
    Ok(Telemetry { traces, metrics })
}

fn traces(endpoint: &str, resource: Resource) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("cannot send traces to {endpoint}"))?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

fn metrics(endpoint: &str, resource: Resource) -> anyhow::Result<SdkMeterProvider> {
    let exporter = opentelemetry_otlp::MetricExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .with_context(|| format!("cannot send metrics to {endpoint}"))?;
    Ok(SdkMeterProvider::builder()
        .with_periodic_exporter(exporter)
        .with_resource(resource)
        .build())
}

// === impl Telemetry ===

impl Telemetry {
    /// Sends what has not been sent.
    pub fn stop(self) {
        let ended = self.traces.map(|traces| traces.shutdown());
        if let Some(Err(error)) = ended {
            eprintln!("traces were not flushed: {error}");
        }
        let ended = self.metrics.map(|metrics| metrics.shutdown());
        if let Some(Err(error)) = ended {
            eprintln!("metrics were not flushed: {error}");
        }
    }
}
