//! Is docs/metrics.md what the processes expose? It is a page for people, and this keeps it true.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::collections::{BTreeMap, BTreeSet};

use gateway::cluster::{Cluster, Config};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use system_tests::metrics::{labels, listed};
use tokio_util::sync::CancellationToken;

const MANUAL: &str = include_str!("../../docs/operations.md");

/// What a registry prints, as every process has it before its first agent.
fn exposed() -> String {
    let mut registry = Registry::default();
    node::metrics::Metrics::register(&mut registry);
    gateway::Metrics::default().register(&mut registry);
    let config = Config {
        name: "gateway-test".to_owned(),
        cluster: String::new(),
        nodes: vec![],
        certificates: None,
    };
    Cluster::start(config, CancellationToken::new()).register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

#[tokio::test]
async fn the_manual_lists_every_metric_and_none_that_is_not_there() {
    let text = exposed();
    let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let family = |line: &str| {
        let (name, kind) = line.split_once(' ').unwrap();
        match kind {
            "counter" => (format!("{name}_total"), kind.to_owned()),
            kind => (name.to_owned(), kind.to_owned()),
        }
    };
    let exposed: BTreeMap<String, String> = families.map(family).collect();
    let listed = listed().into_iter().map(|(name, row)| (name, row.kind));
    assert_eq!(
        exposed,
        listed.collect(),
        "left: what is exposed; right: docs/metrics.md"
    );
}

#[tokio::test]
async fn the_manual_lists_the_labels_of_every_metric() {
    let listed = listed();
    let text = exposed();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = labels(series);
        assert_eq!(listed[name].labels, labels, "{line}");
    }
}

#[test]
fn alarms_are_made_of_metrics_that_exist() {
    let listed = listed();
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = MANUAL.split(|c| !is_word(c));
    let named: BTreeSet<&str> = words.filter(|word| word.starts_with("muster_")).collect();
    assert!(named.len() > 10, "the manual has alarms: {named:?}");
    for name in named {
        assert!(listed.contains_key(name), "docs/operations.md names {name}");
    }
}
