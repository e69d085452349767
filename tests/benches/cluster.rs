//! What a cluster of real processes does when one of them is lost. `make bench` runs it.
//!
//! `failover ROUNDS` kills a node that leads partitions, while an agent of each of them says something new all the time:
//! how long the longest answer took. `gateways AGENTS` kills every gateway at once under a fleet that polls every 30 s: who
//! was asked for full state, and when everybody is in sync again. Prints JSON.

#![allow(clippy::unwrap_used, reason = "a bench may fail")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster_loadtest::fleet::Transport;
use muster_loadtest::{Fleet, FleetConfig};
use prost::Message;
use proto::api::cluster_service_client::ClusterServiceClient;
use proto::api::{Cluster as View, GetClusterRequest};
use proto::opamp::{AgentToServer, ComponentHealth};
use serde_json::json;
use system_tests::cluster::Cluster;
use system_tests::process::{Signal, signal};
use system_tests::raw::{Http, Script, healthy};
use system_tests::wait::{eventually, holds};

const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than any election.
const WINDOW: Duration = Duration::from_secs(12);

const INTERVAL: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let number = |at: usize, default: usize| {
        words
            .get(at)
            .and_then(|w| w.parse().ok())
            .unwrap_or(default)
    };
    let figures = match words.first().map(String::as_str) {
        Some("failover") => failover(number(1, 5)).await,
        Some("gateways") => gateways(number(1, 10_000)).await,
        _ => panic!("cluster failover ROUNDS | gateways AGENTS"),
    };
    println!("{figures}");
}

async fn view(cluster: &Cluster) -> Result<View, String> {
    let api = cluster.described().gateways[0].api;
    let client = ClusterServiceClient::connect(format!("http://{api}")).await;
    let mut client = client.map_err(|error| error.to_string())?;
    let view = client.get_cluster(GetClusterRequest {}).await;
    view.map(tonic::Response::into_inner)
        .map_err(|status| status.to_string())
}

/// Everybody is there, and no node leads much more than another.
async fn settled(cluster: &Cluster) -> View {
    eventually(
        PATIENCE,
        "a healthy cluster with its leaders spread",
        async || {
            let view = view(cluster).await?;
            let most = view.nodes.iter().map(|node| node.leads).max();
            holds(view.waits_for.is_empty() && most <= Some(4), &view).map(|()| view)
        },
    )
    .await
}

async fn failover(rounds: usize) -> serde_json::Value {
    let cluster = Cluster::start(&[], &[]);
    let mut longest_ms = Vec::new();
    let (mut refused, mut before_ms) = (0, Vec::new());
    for _ in 0..rounds {
        let view = settled(&cluster).await;
        let lost = view
            .groups
            .iter()
            .find(|group| group.name == "inventory-0")
            .unwrap()
            .leader;
        let led: Vec<u16> = (0..8)
            .filter(|n| {
                view.groups
                    .iter()
                    .any(|g| g.name == format!("inventory-{n}") && g.leader == lost)
            })
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let gateway = cluster.described().gateways[1].opamp;
        let probes: Vec<_> = led
            .iter()
            .map(|n| tokio::spawn(probe(gateway, *n, stop.clone())))
            .collect();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let pid = cluster
            .described()
            .nodes
            .iter()
            .find(|node| node.id == lost)
            .unwrap()
            .pid;
        let killed = Instant::now();
        assert!(signal(pid, Signal::KILL));
        tokio::time::sleep(WINDOW).await;
        stop.store(true, Ordering::Relaxed);
        for probe in probes {
            let answers = probe.await.unwrap();
            let (quiet, shaken): (Vec<_>, Vec<_>) =
                answers.into_iter().partition(|a| a.ended < killed);
            refused += shaken.iter().filter(|answer| answer.status != 200).count();
            before_ms.extend(quiet.iter().map(|answer| answer.took.as_secs_f64() * 1e3));
            longest_ms.push(
                shaken
                    .iter()
                    .map(|a| a.took.as_secs_f64() * 1e3)
                    .fold(0.0, f64::max),
            );
        }
    }
    json!({
        "rounds": rounds,
        "partitions": longest_ms.len(),
        "p50_ms": quantile(&mut longest_ms, 0.5),
        "p99_ms": quantile(&mut longest_ms, 0.99),
        "usual_p99_ms": quantile(&mut before_ms, 0.99),
        "not_200": refused,
    })
}

struct Answered {
    ended: Instant,
    took: Duration,
    status: u16,
}

/// An agent of this partition says something new, all the time.
async fn probe(
    gateway: std::net::SocketAddr,
    partition: u16,
    stop: Arc<AtomicBool>,
) -> Vec<Answered> {
    let mut agent = Script::new(&format!("probe-{partition}"));
    let slot = partition * 128 + 7;
    agent.uid[14] = (agent.uid[14] & !0x03) | (slot >> 8) as u8;
    agent.uid[15] = (slot & 0xff) as u8;
    let mut http = Http::connect(gateway).await;
    http.ask(&agent.full()).await;
    let mut answers = Vec::new();
    let mut turn = 0u64;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let labels = AgentToServer {
            agent_description: Some(agent.clone().with("turn", &turn.to_string()).description()),
            health: Some(ComponentHealth {
                status: format!("turn {turn}"),
                ..healthy()
            }),
            ..agent.bare()
        };
        let began = Instant::now();
        let status = loop {
            let answer = http.post(&labels.encode_to_vec()).await;
            if answer.status == 200 {
                break 200;
            }
            // As a client does: the same once more, later. It counts.
            answers.push(Answered {
                ended: Instant::now(),
                took: began.elapsed(),
                status: answer.status,
            });
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        answers.push(Answered {
            ended: Instant::now(),
            took: began.elapsed(),
            status,
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    answers
}

async fn gateways(agents: usize) -> serde_json::Value {
    let cluster = Cluster::start(&["--agent-interval=30s"], &[]);
    let urls = cluster.http_urls();
    let mut config = FleetConfig::fast(urls[0].clone(), 0);
    config.servers = urls;
    config.roles = vec![("agent".to_owned(), agents)];
    config.transport = Transport::Mixed;
    config.ramp = INTERVAL;
    config.options.interval = INTERVAL;
    let fleet = Fleet::start(config).unwrap();
    fleet.connected(2 * INTERVAL).await.unwrap();
    tokio::time::sleep(INTERVAL).await;
    let before = fleet.stats();
    for gateway in cluster.described().gateways {
        assert!(signal(gateway.pid, Signal::KILL));
    }
    let killed = Instant::now();
    let polls = before.check_ins + agents as u64;
    let in_sync = fleet.until(
        "every agent to have checked in again",
        PATIENCE,
        |_, now| now.connected == agents as u64 && now.check_ins >= polls,
    );
    in_sync.await.unwrap();
    let took = killed.elapsed();
    tokio::time::sleep(INTERVAL).await;
    let after = fleet.stats();
    let asked = after.full_state_requests - before.full_state_requests;
    fleet.stop().await;
    json!({
        "agents": agents,
        "interval_s": INTERVAL.as_secs(),
        "full_state_requests": asked,
        "full_state_percent": asked as f64 * 100.0 / agents as f64,
        "in_sync_after_s": took.as_secs_f64(),
    })
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(0.0)
}
