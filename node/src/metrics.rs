//! Names and meanings of what the node measures. Values are read from memory when they are asked for.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::store::Link;

use crate::local::Node;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByGroup {
    group: String,
}

/// The gauges.
#[derive(Clone, Default)]
pub struct Metrics {
    agents: Family<ByState, Gauge>,
    rollouts: Family<ByState, Gauge>,
    applied: Family<ByGroup, Gauge>,
}

// === impl Metrics ===

impl Metrics {
    /// Names them in the registry.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "muster_agents",
            "Agents by link state: connected, lost, left",
            metrics.agents.clone(),
        );
        registry.register(
            "muster_rollouts",
            "Rollouts by state",
            metrics.rollouts.clone(),
        );
        registry.register(
            "muster_group_applied_index",
            "Last applied log index of each group",
            metrics.applied.clone(),
        );
        metrics
    }

    /// Reads everything anew. Scans the index: call it once per scrape.
    pub fn refresh(&self, node: &Arc<Node>) {
        let mut links = [("connected", 0i64), ("lost", 0), ("left", 0)];
        for partition in node.partitions.iter() {
            for row in partition
                .index()
                .read()
                .rows
                .values()
                .filter(|row| !row.alias)
            {
                let at = match row.link {
                    Link::Connected => 0,
                    Link::Lost | Link::Unspecified => 1,
                    Link::Left => 2,
                };
                links[at].1 += 1;
            }
            self.set_applied(
                partition.ledger.name(),
                partition.ledger.group().status().applied,
            );
        }
        self.set_applied(
            node.control_ledger.name(),
            node.control_ledger.group().status().applied,
        );
        for (state, agents) in links {
            self.agents
                .get_or_create(&ByState {
                    state: state.to_owned(),
                })
                .set(agents);
        }
        self.rollouts.clear();
        for rollout in node.control.read().rollouts.values() {
            let state = crate::control::rollout_state(rollout.value.state())
                .name()
                .to_owned();
            self.rollouts.get_or_create(&ByState { state }).inc();
        }
    }

    fn set_applied(&self, group: &str, applied: Option<u64>) {
        let index = i64::try_from(applied.unwrap_or(0)).unwrap_or(i64::MAX);
        self.applied
            .get_or_create(&ByGroup {
                group: group.to_owned(),
            })
            .set(index);
    }
}
