//! What the lines to the nodes hold, under the names that docs/metrics.md lists. Read when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Cluster;

/// What one line holds now, or all lines to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// Node at the other end, when it was reached last; 0: never.
    pub node: u64,
    pub connected: bool,
    /// When the node said something last, on the gateway's clock; 0: not since the line was made.
    pub heard_ms: u64,
    /// Reports that wait to be sent, and other messages that do.
    pub reports_queued: usize,
    pub messages_queued: usize,
    /// Reports that wait for an answer, queued ones among them.
    pub unanswered: usize,
    /// How often it broke.
    pub breaks: u64,
}

impl Held {
    /// Together with another line to the same node.
    fn and(self, other: Held) -> Held {
        Held {
            node: self.node,
            connected: self.connected || other.connected,
            heard_ms: self.heard_ms.max(other.heard_ms),
            reports_queued: self.reports_queued + other.reports_queued,
            messages_queued: self.messages_queued + other.messages_queued,
            unanswered: self.unanswered + other.unanswered,
            breaks: self.breaks + other.breaks,
        }
    }
}

/// By the number of the node; nodes that were never reached are one.
fn by_node(lines: impl Iterator<Item = Held>) -> Vec<(String, Held)> {
    let mut nodes: BTreeMap<u64, Held> = BTreeMap::new();
    for line in lines {
        let before = nodes.get(&line.node).copied();
        let all = before.map_or(line, |before| before.and(line));
        nodes.insert(line.node, all);
    }
    let name = |node: u64| match node {
        0 => "unknown".to_owned(),
        node => node.to_string(),
    };
    nodes.into_iter().map(|(n, held)| (name(n), held)).collect()
}

impl Cluster {
    /// Names everything in the registry.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Lines(self.clone())));
    }
}

struct Lines(Arc<Cluster>);

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

impl Collector for Lines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Lines(cluster) = self;
        let lines = by_node(cluster.lines().values().map(|line| line.held()));
        let now = cluster.now_ms();
        let mut each = |name, help, kind, value: &dyn Fn(&Held) -> Option<f64>| -> fmt::Result {
            let mut to = encoder.encode_descriptor(name, help, None, kind)?;
            for (node, held) in &lines {
                let Some(value) = value(held) else { continue };
                let labels = [("node", node.as_str())];
                let to = to.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => ConstCounter::new(value).encode(to)?,
                    _ => ConstGauge::new(value).encode(to)?,
                }
            }
            Ok(())
        };
        let count = |n: usize| Some(n as f64);
        each(
            "muster_gateway_line_connected",
            "Whether the line to the node stands",
            MetricType::Gauge,
            &|held| Some(f64::from(u8::from(held.connected))),
        )?;
        each(
            "muster_gateway_line_silent_seconds",
            "Time since the node said something, while the line stands",
            MetricType::Gauge,
            &|held| {
                let silent = Duration::from_millis(now.saturating_sub(held.heard_ms));
                held.connected.then_some(silent.as_secs_f64())
            },
        )?;
        each(
            "muster_gateway_line_reports_queued",
            "Reports that wait to be sent to the node",
            MetricType::Gauge,
            &|held| count(held.reports_queued),
        )?;
        each(
            "muster_gateway_line_messages_queued",
            "Other messages that wait to be sent to the node",
            MetricType::Gauge,
            &|held| count(held.messages_queued),
        )?;
        each(
            "muster_gateway_line_unanswered_reports",
            "Reports that wait for the node's answer, queued ones among them",
            MetricType::Gauge,
            &|held| count(held.unanswered),
        )?;
        each(
            "muster_gateway_line_breaks",
            "Times that the line to the node broke",
            MetricType::Counter,
            &|held| Some(held.breaks as f64),
        )?;
        let mut one = |name, help, kind, value: u64| -> fmt::Result {
            let to = encoder.encode_descriptor(name, help, None, kind)?;
            match kind {
                MetricType::Counter => ConstCounter::new(value).encode(to),
                _ => ConstGauge::new(value).encode(to),
            }
        };
        one(
            "muster_gateway_groups_unreached",
            "Groups whose leader this gateway does not reach",
            MetricType::Gauge,
            u64::from(cluster.unreached()),
        )?;
        one(
            "muster_gateway_notices_queued",
            "Batches of notices of nodes that wait for this gateway",
            MetricType::Gauge,
            (cluster.notices.max_capacity() - cluster.notices.capacity()) as u64,
        )?;
        one(
            "muster_gateway_reports_held",
            "Reports that had to wait for a leader",
            MetricType::Counter,
            cluster.held.load(Ordering::Relaxed),
        )?;
        one(
            "muster_gateway_reports_asked_again",
            "Reports sent again because the first answer did not come or came from no leader",
            MetricType::Counter,
            cluster.asked_again.load(Ordering::Relaxed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lines_to_one_node_are_one_series_and_strangers_are_another() {
        let line = |node, connected, unanswered| Held {
            node,
            connected,
            unanswered,
            ..Held::default()
        };
        let lines = [
            line(2, true, 3),
            line(0, false, 0),
            line(2, false, 1),
            line(0, false, 0),
        ];
        let expected = [
            ("unknown".to_owned(), line(0, false, 0)),
            ("2".to_owned(), line(2, true, 4)),
        ];
        assert_eq!(by_node(lines.into_iter()), expected);
    }
}
