//! The health tree that the collector's status aggregation reports: root, pipelines and extensions, components.

use std::collections::BTreeMap;

use proto::opamp::ComponentHealth;
use serde_json::Value;

use super::Composed;

/// How the collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The process runs, its components have not reported yet.
    Starting,
    Ok,
    /// Runs, with a component in trouble.
    Failing(String),
    /// The process has ended; the text says how.
    Exited(String),
    /// An empty config was taken: nothing runs, on purpose, and a supervisor calls that healthy.
    Stopped,
    /// A new OpAMP client has not heard from the collector yet.
    Unknown,
}

// === impl Health ===

impl Health {
    pub fn healthy(&self) -> bool {
        matches!(self, Health::Ok | Health::Stopped)
    }

    fn status(&self) -> &'static str {
        match self {
            Health::Starting => "StatusStarting",
            Health::Ok => "StatusOK",
            Health::Failing(_) => "StatusRecoverableError",
            Health::Exited(_) | Health::Stopped | Health::Unknown => "",
        }
    }

    fn error(&self) -> &str {
        match self {
            Health::Failing(error) | Health::Exited(error) => error,
            _ => "",
        }
    }
}

/// The report for `health` of a collector running `config` since `started` (nanoseconds since 1970), seen `now`.
pub fn tree(health: &Health, config: &Composed, started: u64, now: u64) -> ComponentHealth {
    let runs = matches!(health, Health::Starting | Health::Ok | Health::Failing(_));
    let node = |children: BTreeMap<String, ComponentHealth>| ComponentHealth {
        healthy: health.healthy(),
        start_time_unix_nano: if runs { started } else { 0 },
        last_error: health.error().to_owned(),
        status: health.status().to_owned(),
        status_time_unix_nano: now,
        component_health_map: children,
        attributes: Vec::new(),
    };
    if !runs {
        return node(BTreeMap::new());
    }
    let leaf = |name: String| {
        (
            name,
            ComponentHealth {
                last_error: String::new(),
                ..node(BTreeMap::new())
            },
        )
    };
    let mut groups = BTreeMap::new();
    let extensions = config.value()["service"]["extensions"]
        .as_array()
        .into_iter()
        .flatten();
    let extensions = names(extensions, "extension").map(leaf).collect();
    groups.insert("extensions".to_owned(), node(extensions));
    for (name, pipeline) in config.value()["service"]["pipelines"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let components = ["receiver", "processor", "exporter"]
            .into_iter()
            .flat_map(|kind| {
                names(
                    pipeline[format!("{kind}s")]
                        .as_array()
                        .into_iter()
                        .flatten(),
                    kind,
                )
            });
        groups.insert(
            format!("pipeline:{name}"),
            node(components.map(leaf).collect()),
        );
    }
    node(groups)
}

fn names<'a>(list: impl Iterator<Item = &'a Value>, kind: &str) -> impl Iterator<Item = String> {
    list.filter_map(move |name| Some(format!("{kind}:{}", name.as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::super::{Composer, config_map};
    use super::*;

    #[test]
    fn pipelines_and_their_components_appear_in_the_tree() {
        let body = "service: { pipelines: { logs/x: { receivers: [otlp], processors: [batch], exporters: [debug] } } }";
        let config = Composer::default().compose(&config_map(body)).unwrap();
        let report = tree(&Health::Ok, &config, 1, 2);
        let logs = &report.component_health_map["pipeline:logs/x"];
        assert!(report.healthy && logs.healthy);
        let names: Vec<_> = logs
            .component_health_map
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            names,
            ["exporter:debug", "processor:batch", "receiver:otlp"]
        );
        assert!(
            report.component_health_map["extensions"]
                .component_health_map
                .contains_key("extension:opamp")
        );
    }

    #[test]
    fn a_process_that_has_ended_reports_no_tree() {
        let noop = Composer::default().noop();
        let report = tree(&Health::Exited("gone".into()), &noop, 1, 2);
        assert!(!report.healthy && report.component_health_map.is_empty());
        assert_eq!(
            (report.start_time_unix_nano, report.last_error.as_str()),
            (0, "gone")
        );
    }
}
