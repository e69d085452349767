//! A preview over agents that are stored in RocksDB, in groups: most run the stable revision, some a baseline or nothing
//! of Muster, with configs of their own; some lack a component.

use std::collections::BTreeMap;
use std::time::Instant;

use node::Node;
use node::ledger::{entry, put, table};
use node::partition::body::{Remembered, address};
use prost::Message;
use proto::opamp::{AvailableComponents, ComponentDetails};
use proto::store;

use super::world::{self, FAMILY};
use super::{figure, ms};

/// Agents in one entry: half a MiB.
const BATCH: usize = 500;

/// Configs that agents report which were never sent anything.
const OWN_CONFIGS: usize = 20;

/// Measures so many previews of this many agents.
pub async fn run(agents: usize, rounds: usize) -> serde_json::Value {
    let dir = tempfile::tempdir().expect("a directory");
    let node = world::start(dir.path()).await;
    world::family(&node).await;
    fill(&node, agents).await;
    let (mut made, mut kept) = (Vec::new(), Vec::new());
    let mut groups = 0;
    let mut left_out = 0;
    for _ in 0..=rounds {
        let began = Instant::now();
        let of = node.clone();
        let preview =
            tokio::task::spawn_blocking(move || node::preview::make(&of, FAMILY, 2, "", false))
                .await;
        let preview = preview.expect("no panic").expect("a preview");
        made.push(ms(began.elapsed()));
        let stored = node::preview::keep(&node, &preview.kept).await;
        stored.expect("a kept preview");
        kept.push(ms(began.elapsed()));
        groups = preview.shown.groups.len();
        left_out = preview.shown.left_out.iter().map(|l| l.agents).sum();
        let shown = preview.shown.members + left_out;
        assert_eq!(shown, agents as u64, "every agent is in the preview");
    }
    node.stop().await;
    serde_json::json!({
        "agents": agents,
        "groups": groups,
        "left_out": left_out,
        "make_ms": figure(made.split_off(1)),
        "wall_ms": figure(kept.split_off(1)),
    })
}

async fn fill(node: &Node, agents: usize) {
    let bodies = Remembered::default();
    let mut bytes: Vec<Vec<u8>> = (0..OWN_CONFIGS)
        .map(|i| own_config(i).into_bytes())
        .collect();
    let lists = [components(true), components(false)];
    bytes.extend(lists.iter().cloned());
    let mut agents_of: Vec<Vec<store::Write>> = vec![vec![]; node.partitions.len()];
    for i in 0..agents {
        let uid = world::uid(i);
        let write = put(table::AGENT, *uid.as_bytes(), 0, &agent(i, &lists));
        agents_of[node.partition_index(uid)].push(write);
    }
    for (partition, agents) in node.partitions.iter().zip(agents_of) {
        let bodies = bytes.iter().filter_map(|bytes| bodies.write(bytes));
        let mut entries = vec![entry(bodies.collect(), vec![])];
        entries.extend(
            agents
                .chunks(BATCH)
                .map(|part| entry(part.to_vec(), vec![])),
        );
        for stored in partition.ledger.propose_many(&entries).await {
            stored.expect("agents");
        }
    }
}

fn agent(i: usize, lists: &[Vec<u8>; 2]) -> store::Agent {
    let delivery = match i % 100 {
        0..70 => Some(world::delivery(i, 1, "")),
        70..75 => Some(world::delivery(i, 2, "")),
        75..80 => Some(store::Delivery {
            state: store::DeliveryState::Failed.into(),
            error: "unknown exporter".into(),
            ..world::delivery(i, 1, "")
        }),
        _ => None,
    };
    let list = &lists[usize::from(i % 100 == 99)];
    let file = store::EffectiveFile {
        body: address(own_config(i % OWN_CONFIGS).as_bytes())
            .as_bytes()
            .to_vec(),
        ..store::EffectiveFile::default()
    };
    store::Agent {
        components: Some(store::ComponentList {
            hash: blake3::hash(list).as_bytes().to_vec(),
            body: address(list).as_bytes().to_vec(),
        }),
        effective: Some(store::EffectiveConfig {
            files: vec![file],
            at_ms: 1,
        }),
        ..world::agent(i, delivery)
    }
}

/// The stable config with something of its own.
fn own_config(i: usize) -> String {
    let stable = &world::config("agent", 1)[""].body;
    format!(
        "extensions:\n  health_check:\n    endpoint: 127.0.0.1:{}\n{stable}",
        13_133 + i
    )
}

/// A list of what a build has: everything, or no `batch` processor.
fn components(whole: bool) -> Vec<u8> {
    let kind = |names: &[&str]| {
        let details = |name: &&str| ((*name).to_owned(), ComponentDetails::default());
        ComponentDetails {
            sub_component_map: names.iter().map(details).collect(),
            ..ComponentDetails::default()
        }
    };
    let processors: &[&str] = match whole {
        true => &["batch", "memory_limiter"],
        false => &["memory_limiter"],
    };
    let components = BTreeMap::from([
        ("receivers".to_owned(), kind(&["otlp"])),
        ("processors".to_owned(), kind(processors)),
        ("exporters".to_owned(), kind(&["otlp"])),
        ("extensions".to_owned(), kind(&["health_check"])),
    ]);
    let list = AvailableComponents {
        components: components.into_iter().collect(),
        ..AvailableComponents::default()
    };
    list.encode_to_vec()
}
