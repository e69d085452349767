//! A node in a temporary directory, with a family of two roles, and agents made by numbers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet::family::{ConfigFile, ConfigMap, delivery_hash};
use fleet::selector::Selector;
use node::ledger::{entry, now_ms, put, table};
use node::{Config, Node, control, partition};
use proto::opamp::AgentCapabilities;
use proto::store;
use proto::uid::Uid;

/// The family.
pub const FAMILY: &str = "bench";

/// One in so many agents is a gateway.
const GATEWAYS: usize = 20;

/// Nobody falls silent and no offer runs out while it is measured.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// An empty node.
pub async fn start(dir: &std::path::Path) -> Arc<Node> {
    let partition = partition::Config {
        agent_interval: NEVER,
        offer_timeout: NEVER,
        ..partition::Config::default()
    };
    let config = Config {
        store: node::open(dir).await.expect("a store"),
        cluster: None,
        partition,
        group: raft::GroupConfig::default(),
        ask: node::controller::ask::Config::default(),
        otelcol: vec![],
    };
    Node::start(config).await.expect("a node")
}

/// The config of a role at a revision.
pub fn config(role: &str, revision: u64) -> ConfigMap {
    let body = format!(
        "receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpoint: 0.0.0.0:{}\nprocessors:\n  batch:\n    \
         timeout: {revision}s\n    send_batch_size: 512\n  memory_limiter:\n    limit_mib: 400\n    check_interval: 1s\n\
         exporters:\n  otlp:\n    endpoint: {role}.example.com:4317\nservice:\n  pipelines:\n    logs:\n      receivers: \
         [otlp]\n      processors: [memory_limiter, batch]\n      exporters: [otlp]\n",
        4317
    );
    let content_type = "text/yaml".to_owned();
    BTreeMap::from([(String::new(), ConfigFile { body, content_type })])
}

/// Which role agent `i` has.
pub fn role(i: usize) -> (u32, &'static str) {
    match i.is_multiple_of(GATEWAYS) {
        true => (0, "gateway"),
        false => (1, "agent"),
    }
}

/// Its uid, as evenly spread over the slots as drawn ones.
pub fn uid(i: usize) -> Uid {
    let drawn = blake3::hash(&i.to_le_bytes());
    Uid::from_wire(&drawn.as_bytes()[..16]).expect("16 bytes")
}

/// What agent `i` had applied of this revision.
pub fn delivery(i: usize, revision: u64, rollout: &str) -> store::Delivery {
    let role = role(i).1;
    store::Delivery {
        hash: hash(role, revision),
        state: store::DeliveryState::Applied.into(),
        family: FAMILY.into(),
        role: role.into(),
        revision,
        rollout: rollout.into(),
        offered_ms: now_ms(),
        answered_ms: now_ms(),
        converged_ms: now_ms(),
        offers: 1,
        was_healthy: true,
        effective: store::Match::Yes.into(),
        owned_since: 1,
        ..store::Delivery::default()
    }
}

fn hash(role: &str, revision: u64) -> Vec<u8> {
    delivery_hash(&config(role, revision)).as_bytes().to_vec()
}

/// A healthy agent that runs this delivery.
pub fn agent(i: usize, delivery: Option<store::Delivery>) -> store::Agent {
    let attribute = |key: &str, value: String| store::Attribute {
        key: key.into(),
        value,
        identifying: key.starts_with("service"),
    };
    let status = delivery.as_ref().map(|d| store::ConfigStatus {
        hash: d.hash.clone(),
        state: store::ConfigState::Applied.into(),
        ..store::ConfigStatus::default()
    });
    let attributes = vec![
        attribute(
            "env",
            if i.is_multiple_of(3) {
                "staging"
            } else {
                "prod"
            }
            .into(),
        ),
        attribute(
            "host.arch",
            if i.is_multiple_of(4) {
                "arm64"
            } else {
                "amd64"
            }
            .into(),
        ),
        attribute("host.id", format!("{i:032x}")),
        attribute("host.name", format!("host-{i}.example.com")),
        attribute("os.description", "Ubuntu 24.04.2 LTS".into()),
        attribute("os.type", "linux".into()),
        attribute("role", role(i).1.into()),
        attribute("service.instance.id", uid(i).to_string()),
        attribute("service.name", "io.opentelemetry.collector".into()),
        attribute("service.version", format!("0.{}.0", 150 + i % 5)),
        attribute("zone", format!("zone-{}", i % 3)),
    ];
    store::Agent {
        uid: uid(i).as_bytes().to_vec(),
        first_seen_ms: now_ms(),
        attributes,
        token: "bench".into(),
        capabilities: AgentCapabilities::AcceptsRemoteConfig as u64
            | AgentCapabilities::ReportsRemoteConfig as u64
            | AgentCapabilities::ReportsEffectiveConfig as u64
            | AgentCapabilities::ReportsHealth as u64,
        health: Some(store::HealthState {
            healthy: true,
            status: "StatusOK".into(),
            since_ms: 1,
            ..store::HealthState::default()
        }),
        status,
        delivery,
        link: store::Link::Connected.into(),
        transport: "http".into(),
        last_seen_ms: now_ms(),
        ..store::Agent::default()
    }
}

/// The family with revisions 1, which is stable, and 2.
pub async fn family(node: &Node) {
    let role = |name: &str, after: &[&str], revision: u64| fleet::family::Role {
        name: name.into(),
        selector: Selector::parse(&format!("role = {name}, env in (prod, staging)"))
            .expect("a selector"),
        after: after.iter().map(|after| (*after).to_owned()).collect(),
        config: config(name, revision),
        baseline: BTreeMap::new(),
    };
    let revision = |number: u64| store::Revision {
        family: FAMILY.into(),
        number,
        hash: vec![u8::try_from(number).unwrap_or(0); 32],
        roles: [
            role("gateway", &[], number),
            role("agent", &["gateway"], number),
        ]
        .iter()
        .map(control::role_to_store)
        .collect(),
        state: store::RevisionState::Validated.into(),
        ..store::Revision::default()
    };
    let stored = store::Family {
        name: FAMILY.into(),
        stable: 1,
        target: 1,
        latest: 2,
        precedence: 100,
        ..store::Family::default()
    };
    let writes = vec![
        put(table::FAMILY, FAMILY, 0, &stored),
        put(
            table::REVISION,
            control::revision_key(FAMILY, 1),
            0,
            &revision(1),
        ),
        put(
            table::REVISION,
            control::revision_key(FAMILY, 2),
            0,
            &revision(2),
        ),
    ];
    let stored = node.control_ledger.propose(entry(writes, vec![])).await;
    stored.expect("a family");
}
