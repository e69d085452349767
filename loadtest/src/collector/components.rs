//! The components built into a collector distribution, as the bootstrap run reports them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use proto::opamp::{AnyValue, AvailableComponents, ComponentDetails, KeyValue, any_value};
use serde::Deserialize;

/// Which collector binary a supervisor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// otelcol: the core components.
    Core,
    /// otelcol-contrib: everything.
    #[default]
    Contrib,
    /// otelcol-k8s: what a cluster needs.
    K8s,
}

/// Kind, Go module prefix, and names; the core list, then what contrib adds, then what k8s adds.
type Kind = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const KINDS: [Kind; 5] = [
    (
        "receivers",
        "receiver",
        &[
            "otlp",
            "nop",
            "hostmetrics",
            "filelog",
            "prometheus",
            "kafka",
            "jaeger",
            "zipkin",
        ],
        &[
            "journald",
            "syslog",
            "windowseventlog",
            "redis",
            "postgresql",
            "mysql",
            "docker_stats",
            "kubeletstats",
        ],
        &["k8s_cluster", "k8s_events", "k8sobjects", "kubeletstats"],
    ),
    (
        "processors",
        "processor",
        &[
            "batch",
            "memory_limiter",
            "attributes",
            "resource",
            "filter",
            "span",
            "probabilistic_sampler",
        ],
        &[
            "redaction",
            "transform",
            "tail_sampling",
            "groupbyattrs",
            "resourcedetection",
            "metricstransform",
            "cumulativetodelta",
        ],
        &["k8sattributes", "resourcedetection", "transform"],
    ),
    (
        "exporters",
        "exporter",
        &[
            "otlp",
            "otlphttp",
            "debug",
            "nop",
            "file",
            "kafka",
            "prometheus",
            "prometheusremotewrite",
        ],
        &[
            "loadbalancing",
            "elasticsearch",
            "clickhouse",
            "loki",
            "awss3",
            "splunk_hec",
            "googlecloud",
        ],
        &["loadbalancing"],
    ),
    (
        "extensions",
        "extension",
        &["opamp", "health_check", "pprof", "zpages", "memory_limiter"],
        &[
            "file_storage",
            "basicauth",
            "bearertokenauth",
            "oauth2client",
            "oidc",
        ],
        &["k8s_observer", "file_storage"],
    ),
    (
        "connectors",
        "connector",
        &["forward", "count", "spanmetrics"],
        &["routing", "failover", "servicegraph"],
        &["routing"],
    ),
];

// === impl Distribution ===

impl Distribution {
    /// The name of the binary, also `service.name`.
    pub fn binary(self) -> &'static str {
        match self {
            Distribution::Core => "otelcol",
            Distribution::Contrib => "otelcol-contrib",
            Distribution::K8s => "otelcol-k8s",
        }
    }

    /// The full list, with its hash.
    pub fn components(self) -> &'static AvailableComponents {
        static LISTS: [OnceLock<AvailableComponents>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        LISTS[self as usize].get_or_init(|| list(self))
    }

    /// What the first message carries: the hash without the list.
    pub fn components_hash(self) -> AvailableComponents {
        AvailableComponents {
            components: BTreeMap::new(),
            hash: self.components().hash.clone(),
        }
    }
}

fn list(distribution: Distribution) -> AvailableComponents {
    let mut hasher = blake3::Hasher::new();
    let mut components = BTreeMap::new();
    for (kind, module, core, contrib, k8s) in KINDS {
        let added = match distribution {
            Distribution::Core => &[],
            Distribution::Contrib => contrib,
            Distribution::K8s => k8s,
        };
        let own = core
            .iter()
            .map(|name| (*name, "go.opentelemetry.io/collector", "v0.161.0"));
        let added = added.iter().map(|name| {
            (
                *name,
                "github.com/open-telemetry/opentelemetry-collector-contrib",
                "v0.161.0",
            )
        });
        let mut of_kind = BTreeMap::new();
        for (name, root, version) in own.chain(added) {
            let module = format!(
                "{root}/{module}/{}{module} {version}",
                name.replace('_', "")
            );
            hasher.update(module.as_bytes());
            of_kind.insert(name.to_owned(), details(module));
        }
        components.insert(
            kind.to_owned(),
            ComponentDetails {
                metadata: Vec::new(),
                sub_component_map: of_kind,
            },
        );
    }
    AvailableComponents {
        components,
        hash: hasher.finalize().as_bytes().to_vec(),
    }
}

fn details(module: String) -> ComponentDetails {
    let value = AnyValue {
        value: Some(any_value::Value::StringValue(module)),
    };
    ComponentDetails {
        metadata: vec![KeyValue {
            key: "code.namespace".to_owned(),
            value: Some(value),
        }],
        sub_component_map: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_differ_in_list_and_hash_and_stay_the_same() {
        let contrib = Distribution::Contrib.components();
        assert!(
            contrib.components["processors"]
                .sub_component_map
                .contains_key("redaction")
        );
        assert!(
            !Distribution::Core.components().components["processors"]
                .sub_component_map
                .contains_key("redaction")
        );
        assert_ne!(contrib.hash, Distribution::Core.components().hash);
        assert_eq!(contrib.hash.len(), 32);
        assert_eq!(list(Distribution::Contrib), *contrib);
    }
}
