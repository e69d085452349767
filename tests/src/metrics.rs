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
        let unlisted = self.samples().filter(|(name, labels, _)| {
            let row = listed.get(*name);
            row.is_none_or(|row| row.labels != *labels)
        });
        unlisted
            .map(|(name, labels, _)| format!("{name}{labels:?}"))
            .collect()
    }

    /// Name, names of the labels, and value.
    fn samples(&self) -> impl Iterator<Item = (&str, BTreeSet<String>, f64)> {
        let lines = self.0.lines().filter(|line| line.starts_with("muster_"));
        lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = labels(series);
            (name, labels, value.parse().unwrap())
        })
    }
}

/// The name of a series and the names of its labels.
pub fn labels(series: &str) -> (&str, BTreeSet<String>) {
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    // `key="value",key="value"}`: a key stands before each `="`.
    let (before, _) = labels.rsplit_once("=\"").unwrap_or_default();
    let keys = before
        .split("=\"")
        .filter_map(|part| part.rsplit(',').next());
    let keys = keys.filter(|key| !key.is_empty()).map(str::to_owned);
    (name, keys.collect())
}

/// What the manual says of a metric.
pub struct Listed {
    /// gauge, counter, …
    pub kind: String,
    pub labels: BTreeSet<String>,
}

/// The rows of the tables of docs/metrics.md, by the name that samples have.
pub fn listed() -> BTreeMap<String, Listed> {
    let quoted = |text: &str| -> Vec<String> {
        let quoted = text.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect()
    };
    let rows = PAGE.lines().filter(|line| line.starts_with("| `muster_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "six columns: {line}");
        let listed = Listed {
            kind: cells[1].to_owned(),
            labels: quoted(cells[2]).into_iter().collect(),
        };
        (quoted(cells[0]).remove(0), listed)
    };
    let rows: Vec<_> = rows.map(row).collect();
    let many = rows.len();
    let listed = BTreeMap::from_iter(rows);
    assert_eq!(listed.len(), many, "a metric stands on the page twice");
    listed
}
