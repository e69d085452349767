//! What a cluster of real processes does when one of them is lost. `make bench` runs it.
//!
//! `failover ROUNDS` kills a node that leads partitions, while an agent of each of them says something new all the time:
//! how long the longest answer took. `gateways AGENTS` kills every gateway at once under a fleet that polls every 30 s: who
//! was asked for full state, and when everybody is in sync again. `rolling AGENTS` restarts every process, one by one, while
//! a rollout runs: what a client would not have retried by itself, and who was offered something twice. Prints JSON.

#![allow(clippy::unwrap_used, reason = "a bench may fail")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster_loadtest::fleet::Transport;
use muster_loadtest::{Fleet, FleetConfig};
use prost::Message;
use proto::api::Cluster as View;
use proto::opamp::{AgentToServer, ComponentHealth};
use serde_json::json;
use system_tests::api::Api;
use system_tests::cluster::Cluster;
use system_tests::manifest::{config, family, plan, role};
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
        Some("rolling") => rolling(number(1, 10_000)).await,
        _ => panic!("cluster failover ROUNDS | gateways AGENTS | rolling AGENTS"),
    };
    println!("{figures}");
}

/// Everybody is there, and no node leads much more than another.
async fn settled(cluster: &Cluster) -> View {
    eventually(
        PATIENCE,
        "a healthy cluster with its leaders spread",
        async || {
            let view = cluster.view().await.map_err(|status| status.to_string())?;
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

/// So many agents that poll every 30 s, half of them over WebSocket, connected.
async fn crowd(cluster: &Cluster, agents: usize) -> Fleet {
    let urls = cluster.http_urls();
    let mut config = FleetConfig::fast(urls[0].clone(), 0);
    config.servers = urls;
    config.roles = vec![("agent".to_owned(), agents)];
    config.transport = Transport::Mixed;
    config.ramp = INTERVAL;
    config.options.interval = INTERVAL;
    let fleet = Fleet::start(config).unwrap();
    fleet.connected(3 * INTERVAL).await.unwrap();
    fleet
}

async fn rolling(agents: usize) -> serde_json::Value {
    let cluster = Cluster::start(&["--agent-interval=30s"], &[]);
    let fleet = crowd(&cluster, agents).await;
    settled(&cluster).await;
    // The last wave opens while processes go and come back.
    let waves = ["size: 1%, soak: 5s", "size: 40%, soak: 20s", "size: 100%"];
    let manifests = [
        family("edge", 10, &[role("agent", "role = agent", &config("one"))]),
        plan("rolling", &waves, ""),
    ];
    let file = cluster.write("edge.yaml", &manifests.join("---\n"));
    cluster.cli().apply(&file);
    let api = Api::new(cluster.described().gateways[0].api);
    let id = api.start("edge", "rolling").await.unwrap().id;
    let hash = api.delivery_hash("edge", "agent").await;
    let before = fleet.stats();
    let began = Instant::now();
    let described = cluster.described();
    let nodes = described.nodes.iter().map(|node| node.pid);
    let processes: Vec<u32> = nodes
        .chain(described.gateways.iter().map(|gateway| gateway.pid))
        .collect();
    for process in &processes {
        assert!(signal(*process, Signal::TERM));
        eventually(PATIENCE, "the process to be back", async || {
            let described = cluster.described();
            let nodes = described.nodes.iter().map(|node| node.pid);
            let mut now = nodes.chain(described.gateways.iter().map(|gateway| gateway.pid));
            holds(now.all(|now| now != *process), &described)
        })
        .await;
        // As docs/operations.md has it: the next one when nothing is waited for.
        eventually(PATIENCE, "a cluster that waits for nothing", async || {
            let view = cluster.view().await.map_err(|status| status.to_string())?;
            holds(view.waits_for.is_empty(), &view.waits_for)
        })
        .await;
    }
    let restarted = began.elapsed();
    let completed = eventually(10 * INTERVAL, "the rollout to complete", async || {
        let rollout = api.try_rollout(&id).await;
        let rollout = rollout.map_err(|status| status.to_string())?;
        let seen = (&rollout.state, &rollout.cause, &rollout.total);
        holds(rollout.state == "completed", seen).map(|()| rollout)
    });
    let completed = completed.await;
    let after = fleet.stats();
    let repeated = fleet.record().repeated_offers().len();
    let offered = fleet.offers().iter().filter(|o| o.hash == hash).count();
    fleet.stop().await;
    let total = completed.total.unwrap_or_default();
    json!({
        "agents": agents,
        "processes": processes.len(),
        "restarted_in_s": restarted.as_secs_f64(),
        "completed_in_s": began.elapsed().as_secs_f64(),
        "converged": total.converged,
        "offered": offered,
        "offered_twice": repeated,
        "check_ins": after.check_ins - before.check_ins,
        "not_retried": after.discarded + after.undecodable + after.error_responses
            - before.discarded - before.undecodable - before.error_responses,
        "shed": after.shed - before.shed,
        "network_errors": after.network_errors - before.network_errors,
        "full_state_requests": after.full_state_requests - before.full_state_requests,
    })
}

async fn gateways(agents: usize) -> serde_json::Value {
    let cluster = Cluster::start(&["--agent-interval=30s"], &[]);
    let fleet = crowd(&cluster, agents).await;
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
