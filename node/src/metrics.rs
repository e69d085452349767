//! What a node measures, under the names that docs/metrics.md lists.
//!
//! Nothing is counted for this that is not there anyway: values are read from memory when somebody asks. Only what takes
//! a look at every agent is read beforehand, by [`Metrics::refresh`]. Labels are groups, nodes and words of our own,
//! never what an agent or an operator has named.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use proto::store::Link;
use raft::{DiskUse, GroupCounts, GroupId, GroupStatus, Progress, Role};

use crate::controller::tally::{Counts, STEPS};
use crate::edge::Streams;
use crate::local::{Node, PARTITIONS};
use crate::partition::{Partition, Room};

/// A member that was heard within this answers: a leader speaks to each of them four times a second.
const LATELY: Duration = Duration::from_secs(5);

/// What is measured. Cloning shares it.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// None until it runs; then everything is 0 or not there.
    node: Weak<Node>,
    agents: BTreeMap<&'static str, u64>,
    rollouts: BTreeMap<&'static str, u64>,
}

/// Everything at one moment.
#[derive(Default)]
struct Seen {
    agents: BTreeMap<&'static str, u64>,
    rollouts: BTreeMap<&'static str, u64>,
    waiting: BTreeMap<&'static str, u64>,
    groups: Vec<OneGroup>,
    partitions: Vec<OnePartition>,
    disk: DiskUse,
    streams: Streams,
    notices: usize,
    controller: Counts,
    asks: usize,
    answers: BTreeMap<&'static str, u64>,
    validations: usize,
}

struct OneGroup {
    name: String,
    status: GroupStatus,
    progress: Option<Vec<Progress>>,
    counts: GroupCounts,
}

struct OnePartition {
    name: String,
    leads: bool,
    lease: bool,
    evidence_age_ms: u64,
    recalls: (u64, u64),
    full_asks_postponed: u64,
    room: Option<Room>,
}

// === impl Metrics ===

impl Metrics {
    /// Names everything in the registry.
    pub fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register_collector(Box::new(metrics.clone()));
        metrics
    }

    /// Looks at every agent and rollout of the node, and shows this node from now on. Call it every few seconds.
    pub fn refresh(&self, node: &Arc<Node>) {
        let mut agents = BTreeMap::from(["connected", "lost", "left"].map(|link| (link, 0)));
        for partition in node.partitions.iter() {
            let columns = partition.index().read();
            for row in columns.rows.values().filter(|row| !row.alias) {
                let link = match row.link {
                    Link::Connected => "connected",
                    Link::Lost | Link::Unspecified => "lost",
                    Link::Left => "left",
                };
                *agents.entry(link).or_default() += 1;
            }
        }
        let mut rollouts = BTreeMap::new();
        for rollout in node.control.read().rollouts.values() {
            let state = crate::control::rollout_state(rollout.value.state());
            *rollouts.entry(state.name()).or_default() += 1;
        }
        *self.known() = Known {
            node: Arc::downgrade(node),
            agents,
            rollouts,
        };
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Seen {
        let (node, agents, rollouts) = {
            let known = self.known();
            let (agents, rollouts) = (known.agents.clone(), known.rollouts.clone());
            (known.node.upgrade(), agents, rollouts)
        };
        // After its end the last look at the fleet still stands: what is exported last must not say that nobody is there.
        let Some(node) = node else {
            return Seen {
                agents,
                rollouts,
                ..Seen::default()
            };
        };
        let mut controller = node.tally.counts();
        for step in STEPS {
            controller.steps.entry(step).or_default();
        }
        Seen {
            agents,
            rollouts,
            // Of another node's rollouts this one may remember what they waited for once.
            waiting: match node.leads() {
                true => node.waiting.kinds(),
                false => BTreeMap::new(),
            },
            groups: (0..=PARTITIONS)
                .filter_map(|id| OneGroup::of(&node, GroupId(id)))
                .collect(),
            partitions: node
                .partitions
                .iter()
                .map(|p| OnePartition::of(p))
                .collect(),
            disk: node.disk_use(),
            streams: node.gateways.streams(),
            notices: node.notices_waiting(),
            controller,
            asks: node.asker.under_way(),
            answers: node.asker.answers(),
            validations: node.otelcol.under_way(),
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut print = Printer(encoder);
        let seen = self.look();
        seen.fleet(&mut print)?;
        seen.groups(&mut print)?;
        seen.snapshots(&mut print)?;
        seen.disk(&mut print)?;
        seen.partitions(&mut print)?;
        seen.streams(&mut print)?;
        seen.controller(&mut print)
    }
}

// === impl OneGroup ===

impl OneGroup {
    fn of(node: &Node, id: GroupId) -> Option<Self> {
        let name = match id.0 {
            0 => node.control_ledger.name(),
            _ => node.of_group(id)?.ledger.name(),
        };
        let group = node.group(id)?;
        Some(OneGroup {
            name: name.to_owned(),
            status: group.status(),
            progress: group.progress(),
            counts: group.counts(),
        })
    }
}

// === impl OnePartition ===

impl OnePartition {
    fn of(partition: &Partition) -> Self {
        OnePartition {
            name: partition.ledger.name().to_owned(),
            leads: partition.leads(),
            lease: partition.has_lease(),
            evidence_age_ms: partition.evidence_age_ms(),
            recalls: partition.recalls(),
            full_asks_postponed: partition.full_asks_postponed(),
            room: partition.room(),
        }
    }
}

// === impl Seen ===

impl Seen {
    fn fleet(&self, print: &mut Printer<'_>) -> fmt::Result {
        print.gauges(
            "muster_agents",
            "Agents by link state: connected, lost, left",
            self.agents
                .iter()
                .map(|(state, n)| ([("state", *state)], *n)),
        )?;
        print.gauges(
            "muster_rollouts",
            "Rollouts by state",
            self.rollouts
                .iter()
                .map(|(state, n)| ([("state", *state)], *n)),
        )?;
        print.gauges(
            "muster_rollouts_waiting",
            "Open rollouts by what they wait for, on the node that moves them",
            self.waiting.iter().map(|(what, n)| ([("for", *what)], *n)),
        )
    }

    fn groups(&self, print: &mut Printer<'_>) -> fmt::Result {
        let each = |value: fn(&GroupStatus) -> u64| {
            let of =
                move |group: &OneGroup| ([("group", group.name.clone())], value(&group.status));
            self.groups.iter().map(of)
        };
        print.gauges(
            "muster_group_leads",
            "Whether this node leads the group",
            each(|s| u64::from(s.leadership.role == Role::Leader)),
        )?;
        print.gauges(
            "muster_group_has_leader",
            "Whether this node knows a leader of the group",
            each(|s| u64::from(s.leadership.leader.is_some())),
        )?;
        print.gauges(
            "muster_group_stopped",
            "Whether the group has stopped on this node",
            each(|s| u64::from(s.stopped.is_some())),
        )?;
        print.gauges(
            "muster_group_term",
            "Term of the group as this node knows it",
            each(|s| s.leadership.term),
        )?;
        print.gauges(
            "muster_group_voters",
            "Voters of the group as this node knows them",
            each(|s| s.voters.len() as u64),
        )?;
        print.gauges(
            "muster_group_last_log_index",
            "Index of the last log entry of the group on this node",
            each(|s| s.last_log.unwrap_or(0)),
        )?;
        print.gauges(
            "muster_group_applied_index",
            "Last applied log index of each group",
            each(|s| s.applied.unwrap_or(0)),
        )?;
        print.gauges(
            "muster_group_proposals",
            "Entries that were proposed to the group here and have no answer yet",
            self.counted(|c| c.proposals),
        )?;
        print.gauges(
            "muster_group_quorum_silent_seconds",
            "Time since a majority of the group's voters was heard, on its leader",
            self.groups.iter().filter_map(|group| {
                let silent = quorum_silence(group.progress.as_deref()?)?;
                Some(([("group", group.name.clone())], silent.as_secs_f64()))
            }),
        )?;
        print.gauges(
            "muster_group_replica_behind_entries",
            "Log entries that a member lacks, on the group's leader",
            self.followers()
                .map(|(labels, member)| (labels, member.behind)),
        )?;
        print.gauges(
            "muster_group_replica_answers",
            "Whether a member was heard lately, on the group's leader",
            self.followers().map(|(labels, member)| {
                let lately = member.heard.is_some_and(|heard| heard < LATELY);
                (labels, u64::from(lately))
            }),
        )?;
        print.gauges(
            "muster_group_replica_silent_seconds",
            "Time since a member was heard, on the group's leader",
            self.followers().filter_map(|(labels, member)| {
                let heard = member.heard?;
                Some((labels, heard.as_secs_f64()))
            }),
        )
    }

    fn snapshots(&self, print: &mut Printer<'_>) -> fmt::Result {
        print.gauges(
            "muster_group_snapshots_sending",
            "Snapshots of the group that this node sends now",
            self.counted(|c| c.snapshots_sending),
        )?;
        print.counters(
            "muster_group_snapshots_sent",
            "Snapshots of the group that were sent and taken",
            self.counted(|c| c.snapshots_sent),
        )?;
        print.counters(
            "muster_group_snapshot_sent_bytes",
            "Bytes of the snapshots that were sent and taken",
            self.counted(|c| c.snapshot_bytes_sent),
        )?;
        print.counters(
            "muster_group_snapshots_failed",
            "Snapshots that were begun to be sent and not taken",
            self.counted(|c| c.snapshots_failed),
        )?;
        print.counters(
            "muster_group_snapshots_installed",
            "Snapshots of other nodes that were installed",
            self.counted(|c| c.snapshots_installed),
        )
    }

    fn disk(&self, print: &mut Printer<'_>) -> fmt::Result {
        let DiskUse {
            queued_bytes,
            queue_bytes_max,
            syncs,
            sync_time,
        } = self.disk;
        print.gauge(
            "muster_log_queue_bytes",
            "Bytes of log of all groups that wait for the disk",
            queued_bytes,
        )?;
        print.gauge(
            "muster_log_queue_max_bytes",
            "How many may wait before entries are held back",
            queue_bytes_max,
        )?;
        print.counter("muster_log_syncs", "Fsyncs of the log", syncs)?;
        print.counter(
            "muster_log_sync_seconds",
            "Time that fsyncs of the log took, all together",
            sync_time.as_secs_f64(),
        )
    }

    fn partitions(&self, print: &mut Printer<'_>) -> fmt::Result {
        let led = || self.partitions.iter().filter(|partition| partition.leads);
        let room = |value: fn(&Room) -> u64| {
            self.partitions.iter().filter_map(move |partition| {
                let room = partition.room.as_ref()?;
                Some((partition.label(), value(room)))
            })
        };
        print.gauges(
            "muster_partition_evidence_age_seconds",
            "Age of what this node knows of a partition's agents",
            self.partitions
                .iter()
                .map(|p| (p.label(), seconds(p.evidence_age_ms))),
        )?;
        print.gauges(
            "muster_partition_may_offer",
            "Whether the partition's leader has a confirmed program, on that leader",
            led().map(|p| (p.label(), u64::from(p.lease))),
        )?;
        print.counters(
            "muster_partition_recalls",
            "Conversations that other gateways were asked for",
            self.partitions.iter().map(|p| (p.label(), p.recalls.0)),
        )?;
        print.counters(
            "muster_partition_recalls_unanswered",
            "Conversations that no gateway knew of in time: full state was asked for",
            self.partitions.iter().map(|p| (p.label(), p.recalls.1)),
        )?;
        print.gauges(
            "muster_partition_full_state_waiting_agents",
            "Agents that have lost a message and are asked for full state when it is their turn, on the leader",
            led().map(|p| (p.label(), p.full_asks_postponed)),
        )?;
        print.gauges(
            "muster_quota_agents",
            "Agents that may be in flight where a budget or a wave limits them",
            room(|r| r.quota),
        )?;
        print.gauges(
            "muster_quota_in_flight_agents",
            "Upper bound of the limited agents that are in flight",
            room(|r| r.in_flight),
        )?;
        print.gauges(
            "muster_quota_waiting_agents",
            "Limited agents that something is due for",
            room(|r| r.wanted),
        )
    }

    fn streams(&self, print: &mut Printer<'_>) -> fmt::Result {
        let Streams {
            streams,
            reports,
            answers,
            messages,
            shed,
            missed,
        } = self.streams;
        print.gauge(
            "muster_edge_streams",
            "Streams of gateways to this node",
            streams,
        )?;
        print.gauge(
            "muster_edge_reports",
            "Reports of gateways that are under way here",
            reports,
        )?;
        print.gauge(
            "muster_edge_answers_queued",
            "Answers to gateways that wait to be sent",
            answers,
        )?;
        print.gauge(
            "muster_edge_messages_queued",
            "Messages that gateways have yet to take",
            messages,
        )?;
        print.counter(
            "muster_edge_reports_shed",
            "Reports refused because their gateway had too many under way here",
            shed,
        )?;
        print.gauge(
            "muster_edge_notices_queued",
            "Batches of notices that the slowest gateway has yet to take",
            self.notices,
        )?;
        print.counter(
            "muster_edge_notices_missed",
            "Batches of notices that gateways were too slow for: what is pending was named anew",
            missed,
        )
    }

    fn controller(&self, print: &mut Printer<'_>) -> fmt::Result {
        let counts = &self.controller;
        print.counter(
            "muster_controller_looks",
            "Looks at all open rollouts, on the node that moves them",
            counts.looks,
        )?;
        print.counter(
            "muster_controller_look_seconds",
            "Time that these looks took, all together",
            counts.looking.as_secs_f64(),
        )?;
        print.counters(
            "muster_controller_unread",
            "Looks in which the partition could not be read: gates that need it are inconclusive",
            self.partitions.iter().map(|p| {
                let unread = counts.unread.get(&p.name).copied().unwrap_or(0);
                (p.label(), unread)
            }),
        )?;
        print.counter(
            "muster_controller_steps_failed",
            "Rollouts that were not moved because of an error; they are tried again",
            counts.failed,
        )?;
        print.counters(
            "muster_rollout_steps",
            "Steps of rollouts that were stored",
            counts.steps.iter().map(|(step, n)| ([("step", *step)], *n)),
        )?;
        let gates = counts.gates;
        let verdicts = [
            ("pass", gates.pass),
            ("fail", gates.fail),
            ("inconclusive", gates.inconclusive),
        ];
        print.gauges(
            "muster_gates",
            "Gates that decide now, by what they said at the last look",
            verdicts.map(|(verdict, n)| ([("verdict", verdict)], n)),
        )?;
        print.gauges(
            "muster_checks",
            "Outside checks that are asked now, by their newest answer",
            self.answers
                .iter()
                .map(|(answer, n)| ([("answer", *answer)], *n)),
        )?;
        print.gauge(
            "muster_checks_asking",
            "Asks of outside checks that are under way",
            self.asks,
        )?;
        print.gauge(
            "muster_validations",
            "Configs that are being tried with a collector",
            self.validations,
        )
    }

    fn counted(
        &self,
        value: fn(&GroupCounts) -> u64,
    ) -> impl Iterator<Item = ([(&'static str, String); 1], u64)> {
        let of = move |group: &OneGroup| ([("group", group.name.clone())], value(&group.counts));
        self.groups.iter().map(of)
    }

    /// Members of the groups that are led here, without this node itself.
    fn followers(&self) -> impl Iterator<Item = ([(&'static str, String); 2], &Progress)> {
        self.groups.iter().flat_map(|group| {
            let members = group.progress.iter().flatten();
            let others = members.filter(|member| member.node != group.status.node);
            others.map(|member| {
                let node = member.node.0.to_string();
                ([("group", group.name.clone()), ("node", node)], member)
            })
        })
    }
}

impl OnePartition {
    fn label(&self) -> [(&'static str, String); 1] {
        [("group", self.name.clone())]
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

/// How long ago a majority of the voters was heard. None: it was not, since this node leads.
fn quorum_silence(members: &[Progress]) -> Option<Duration> {
    let voters = members.iter().filter(|member| member.voter);
    let mut heard: Vec<_> = voters.map(|v| v.heard.unwrap_or(Duration::MAX)).collect();
    heard.sort();
    let silent = heard.get(heard.len() / 2).copied();
    silent.filter(|silent| *silent < Duration::MAX)
}

/// Writes metrics under their names, also those that have no value now.
struct Printer<'a>(DescriptorEncoder<'a>);

impl Printer<'_> {
    fn gauge<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: V) -> fmt::Result {
        let value = ConstGauge::new(value);
        let to = self
            .0
            .encode_descriptor(name, help, None, value.metric_type())?;
        value.encode(to)
    }

    fn counter<V: EncodeCounterValue>(&mut self, name: &str, help: &str, value: V) -> fmt::Result {
        let value = ConstCounter::new(value);
        let to = self
            .0
            .encode_descriptor(name, help, None, value.metric_type())?;
        value.encode(to)
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.family(
            (name, help),
            samples.into_iter().map(|(l, v)| (l, ConstGauge::new(v))),
            MetricType::Gauge,
        )
    }

    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.family(
            (name, help),
            samples.into_iter().map(|(l, v)| (l, ConstCounter::new(v))),
            MetricType::Counter,
        )
    }

    fn family<L: EncodeLabelSet, M: EncodeMetric>(
        &mut self,
        (name, help): (&str, &str),
        samples: impl Iterator<Item = (L, M)>,
        kind: MetricType,
    ) -> fmt::Result {
        let mut to = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            value.encode(to.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft::NodeId;

    use super::*;

    fn member(node: u64, voter: bool, heard_ms: Option<u64>) -> Progress {
        Progress {
            node: NodeId(node),
            voter,
            matched: Some(7),
            behind: node,
            heard: heard_ms.map(Duration::from_millis),
        }
    }

    #[test]
    fn a_quorum_is_as_silent_as_the_last_voter_that_makes_it_one() {
        let ms = |ms| Some(Duration::from_millis(ms));
        let silent = [
            member(1, true, Some(0)),
            member(2, true, Some(40)),
            member(3, true, None),
            member(4, false, Some(9_000)),
        ];
        assert_eq!(quorum_silence(&silent), ms(40));
        assert_eq!(quorum_silence(&silent[..1]), ms(0), "a lone voter is one");
        let cut_off = [silent[0].clone(), silent[2].clone(), member(5, true, None)];
        assert_eq!(quorum_silence(&cut_off), None);
    }

    #[test]
    fn a_node_that_does_not_run_yet_has_every_name_and_no_group() {
        let mut registry = Registry::default();
        Metrics::register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("# TYPE muster_group_leads gauge"), "{text}");
        assert!(text.contains("muster_edge_reports_shed_total 0"), "{text}");
        assert!(!text.contains("group="), "{text}");
    }
}
