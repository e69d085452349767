//! What a process exposes at `/metrics`, and whether the manual lists it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::server::get;

const PAGE: &str = include_str!("../../docs/metrics.md");

/// What a process exposes now.
pub struct Exposed(String);

impl Exposed {
    /// Asks the process that listens there.
    pub fn at(address: SocketAddr) -> Self {
        let (status, text) = get(address, "/metrics").unwrap();
        assert_eq!(status, 200, "{text}");
        Exposed(text)
    }

    /// All samples of this name together.
    pub fn total(&self, name: &str) -> f64 {
        let of_name = self.samples().filter(|(found, ..)| *found == name);
        of_name.map(|(_, _, value)| value).sum()
    }

    /// Samples that docs/metrics.md does not have under this name with these labels.
    pub fn unlisted(&self) -> BTreeSet<String> {
        let listed = listed();
        let unlisted = self
            .samples()
            .filter(|(name, labels, _)| listed.get(*name) != Some(labels));
        unlisted
            .map(|(name, labels, _)| format!("{name}{labels:?}"))
            .collect()
    }

    /// Name, names of the labels, and value.
    fn samples(&self) -> impl Iterator<Item = (&str, BTreeSet<String>, f64)> {
        let lines = self.0.lines().filter(|line| line.starts_with("muster_"));
        lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            // `key="value",key="value"}`: a key stands before each `="`.
            let (before, _) = labels.rsplit_once("=\"").unwrap_or_default();
            let keys = before
                .split("=\"")
                .filter_map(|part| part.rsplit(',').next());
            let keys = keys.filter(|key| !key.is_empty()).map(str::to_owned);
            (name, keys.collect(), value.parse().unwrap())
        })
    }
}

/// Labels by the name of the metric.
fn listed() -> BTreeMap<String, BTreeSet<String>> {
    let quoted = |text: &str| -> Vec<String> {
        let quoted = text.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect()
    };
    let rows = PAGE.lines().filter(|line| line.starts_with("| `muster_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let labels = quoted(cells[2]).into_iter().collect();
        (quoted(cells[0]).remove(0), labels)
    };
    rows.map(row).collect()
}
