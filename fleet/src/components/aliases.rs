//! Component types that upstream renamed.

use super::Kind;

/// A type that upstream renamed. Builds since then know both names, builds before only the deprecated one.
struct Alias {
    kind: Kind,
    deprecated: &'static str,
    name: &'static str,
}

const fn alias(kind: Kind, deprecated: &'static str, name: &'static str) -> Alias {
    Alias {
        kind,
        deprecated,
        name,
    }
}

/// The renames to `lower_snake_case` of 2026 (opentelemetry-collector#14396, opentelemetry-collector-contrib#45339).
/// Explicit, since `otlp` shows that no rule covers them; a rename that is missing here makes a config with the old name
/// look incomplete only for builds that report new names alone.
const ALIASES: [Alias; 16] = [
    alias(Kind::Exporter, "otlp", "otlp_grpc"), // core v0.144 (#14403)
    alias(Kind::Exporter, "otlphttp", "otlp_http"), // core v0.144 (#14397)
    alias(Kind::Exporter, "loadbalancing", "load_balancing"), // contrib v0.153 (#48533)
    alias(
        Kind::Exporter,
        "prometheusremotewrite",
        "prometheus_remote_write",
    ), // contrib v0.154
    alias(Kind::Receiver, "hostmetrics", "host_metrics"),
    alias(Kind::Receiver, "filelog", "file_log"), // contrib v0.149 (#46750)
    alias(
        Kind::Receiver,
        "prometheusremotewrite",
        "prometheus_remote_write",
    ), // contrib #46726
    alias(Kind::Receiver, "fluentforward", "fluent_forward"), // contrib #47930
    alias(Kind::Receiver, "namedpipe", "named_pipe"), // contrib #47291
    alias(Kind::Receiver, "envoyals", "envoy_als"), // contrib #47519
    alias(Kind::Processor, "k8sattributes", "k8s_attributes"), // contrib v0.146 (#45901)
    alias(Kind::Processor, "resourcedetection", "resource_detection"), // contrib v0.153
    alias(Kind::Processor, "logdedup", "log_dedup"), // contrib v0.151
    alias(Kind::Processor, "metricstransform", "metrics_transform"),
    alias(Kind::Connector, "spanmetrics", "span_metrics"),
    alias(Kind::Connector, "servicegraph", "service_graph"),
];

/// The name a type has now; itself if it was never renamed.
pub(super) fn current_name(kind: Kind, name: &str) -> &str {
    ALIASES
        .iter()
        .find(|alias| alias.kind == kind && alias.deprecated == name)
        .map_or(name, |alias| alias.name)
}
