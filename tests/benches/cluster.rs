//! What a cluster of real processes does when one of them is lost. `make bench` runs it.
//!
//! `failover ROUNDS` kills a node that leads partitions, while an agent of each of them says something new all the time:
//! how long the longest answer took. `gateways AGENTS` kills every gateway at once under a fleet that polls every 30 s, `power
//! AGENTS` every process: who was asked for full state, who was called lost, and when everybody is in sync again. `rolling
//! AGENTS` restarts every process, one by one, while a rollout runs: what a client would not have retried by itself, and who
//! was offered something twice. `snapshot AGENTS` replaces a node of a cluster whose logs do not reach back, under load: how
//! long it takes until the new one has everything, and what agents notice. Prints JSON.

#![allow(clippy::unwrap_used, reason = "a bench may fail")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use muster_loadtest::bench::{Plan, register};
use muster_loadtest::fleet::Transport;
use muster_loadtest::stats::Sampler;
use muster_loadtest::transport::Endpoint;
use muster_loadtest::{Fleet, FleetConfig};
use prost::Message;
use proto::api::{AgentHistoryRequest, Cluster as View};
use proto::opamp::{AgentToServer, ComponentHealth};
use serde_json::json;
use system_tests::api::Api;
use system_tests::cluster::{Cluster, Described};
use system_tests::manifest::{config, family, plan, role};
use system_tests::metrics::Exposed;
use system_tests::process::{Signal, signal};
use system_tests::raw::{Http, Script, healthy};
use system_tests::wait::{eventually, holds};

const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than any election.
const WINDOW: Duration = Duration::from_secs(12);

const INTERVAL: Duration = Duration::from_secs(30);

/// Whoever was silent for so long is called lost: three intervals, and the time of a look.
const LOST: Duration = Duration::from_secs(100);

/// What registering a large fleet, or copying it, may take on a slow machine.
const LONG: Duration = Duration::from_secs(3600);

/// Agents that poll every second while a snapshot is taken: as many check-ins as of 30,000 that poll every 30 s.
const POLLING: usize = 1_000;

/// How long the usual figures are taken.
const USUAL: Duration = Duration::from_secs(20);

/// A replica that lacks no more has what the others have: entries go on being made.
const NEARLY: u64 = 100;

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
        Some("power") => power(number(1, 10_000)).await,
        Some("rolling") => rolling(number(1, 10_000)).await,
        Some("snapshot") => Box::pin(snapshot(number(1, 100_000))).await,
        _ => panic!(
            "cluster failover ROUNDS | gateways AGENTS | power AGENTS | rolling AGENTS | snapshot AGENTS"
        ),
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
    let processes = all(&cluster.described());
    for process in &processes {
        assert!(signal(*process, Signal::TERM));
        eventually(PATIENCE, "the process to be back", async || {
            let now = all(&cluster.described());
            holds(!now.contains(process), &now)
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

/// The process ids of nodes and gateways.
fn all(described: &Described) -> Vec<u32> {
    let nodes = described.nodes.iter().map(|node| node.pid);
    nodes.chain(gateways_of(described)).collect()
}

fn gateways_of(described: &Described) -> impl Iterator<Item = u32> {
    described.gateways.iter().map(|gateway| gateway.pid)
}

async fn gateways(agents: usize) -> serde_json::Value {
    storm(agents, |described| gateways_of(described).collect()).await
}

async fn power(agents: usize) -> serde_json::Value {
    storm(agents, all).await
}

/// Kills these processes at once under a fleet that polls.
async fn storm(agents: usize, lost: impl Fn(&Described) -> Vec<u32>) -> serde_json::Value {
    let cluster = Cluster::start(&["--agent-interval=30s"], &[]);
    let fleet = crowd(&cluster, agents).await;
    settled(&cluster).await;
    // Not when the first and the last of the fleet speak at the same time, which are twice as many as at any other.
    tokio::time::sleep(INTERVAL + INTERVAL / 3).await;
    let before = fleet.stats();
    for process in lost(&cluster.described()) {
        assert!(signal(process, Signal::KILL));
    }
    let killed = tokio::time::Instant::now();
    let polls = before.check_ins + agents as u64;
    let in_sync = fleet.until(
        "every agent to have checked in again",
        PATIENCE,
        |_, now| now.connected == agents as u64 && now.check_ins >= polls,
    );
    in_sync.await.unwrap();
    let took = killed.elapsed();
    // Until whoever was not heard since would be called lost, and has been looked for.
    tokio::time::sleep_until(killed + LOST).await;
    let after = fleet.stats();
    let asked = after.full_state_requests - before.full_state_requests;
    settled(&cluster).await;
    let called_lost = called_lost(&cluster, &fleet).await;
    fleet.stop().await;
    json!({
        "agents": agents,
        "interval_s": INTERVAL.as_secs(),
        "full_state_requests": asked,
        "full_state_percent": asked as f64 * 100.0 / agents as f64,
        "in_sync_after_s": took.as_secs_f64(),
        "called_lost": called_lost,
        "shed": after.shed - before.shed,
        "not_200": after.shed + after.discarded + after.undecodable + after.error_responses
            - before.shed - before.discarded - before.undecodable - before.error_responses,
        "network_errors": after.network_errors - before.network_errors,
    })
}

/// How many agents were ever called lost, by the stored history of each.
async fn called_lost(cluster: &Cluster, fleet: &Fleet) -> usize {
    let api = Api::new(cluster.described().gateways[0].api);
    let asked = futures::stream::iter(fleet.uids()).map(|uid| {
        let (mut agents, uid) = (api.agents.clone(), uid.to_string());
        async move {
            let request = AgentHistoryRequest { uid, limit: 0 };
            let history = agents.agent_history(request).await.unwrap().into_inner();
            history.transitions.iter().any(|step| step.to == "lost")
        }
    });
    let lost = asked
        .buffer_unordered(16)
        .filter(|lost| std::future::ready(*lost));
    lost.count().await
}

async fn snapshot(agents: usize) -> serde_json::Value {
    // Of what is registered in each partition the log keeps an eighth at most: who comes later gets a snapshot.
    let keep_log = format!("--keep-log={}", (agents / 64).max(100));
    // Most of the agents register and say nothing more: none is called lost meanwhile.
    let options = ["--agent-interval=2h", keep_log.as_str()];
    let cluster = Cluster::start(&options, &[]);
    let began = Instant::now();
    register_all(&cluster, agents).await;
    let registered = began.elapsed();
    let fleet = polling(&cluster).await;
    settled(&cluster).await;
    let described = cluster.described();
    let stop = Arc::new(AtomicBool::new(false));
    let gateway = described.gateways[1].opamp;
    let probes: Vec<_> = (0..8)
        .map(|n| tokio::spawn(probe(gateway, n, stop.clone())))
        .collect();
    let mut sampler = Sampler::default();
    sampler.sample(fleet.record());
    tokio::time::sleep(USUAL).await;
    let usual = sampler.sample(fleet.record());

    let fresh = cluster.join_node_with(&described.nodes[0].addr.to_string(), &options);
    let number = joined(&cluster).await;
    let cli = cluster.cli().with_patience(LONG);
    cli.ok(&["cluster", "remove", "3", "--reason", "bench", "--yes"]);
    let began = Instant::now();
    let applying = tokio::task::spawn_blocking(move || cli.run(&["cluster", "apply", "--yes"]));
    eventually(
        LONG,
        "the new node to have what the others have",
        async || {
            let view = cluster.view().await.map_err(|status| status.to_string())?;
            let replicas = view.groups.iter().flat_map(|group| &group.replicas);
            let whole = replicas.filter(|r| r.node == number && r.answers && r.behind <= NEARLY);
            let has = whole.count();
            holds(has == view.groups.len(), (has, &view.groups))
        },
    )
    .await;
    let copied = began.elapsed();
    let meanwhile = sampler.sample(fleet.record());
    let ended = Instant::now();
    let applied = applying.await.unwrap();
    assert_eq!(applied.code, 0, "{applied:?}");
    let moved = began.elapsed();

    stop.store(true, Ordering::Relaxed);
    let (mut usual_ms, mut meanwhile_ms, mut refused) = (Vec::new(), Vec::new(), 0);
    for probe in probes {
        for answer in probe.await.unwrap() {
            let took = answer.took.as_secs_f64() * 1e3;
            refused += usize::from(answer.status != 200);
            if answer.ended < began {
                usual_ms.push(took);
            } else if answer.ended < ended {
                meanwhile_ms.push(took);
            }
        }
    }
    let stats = fleet.stats();
    fleet.stop().await;
    let nodes: Vec<Exposed> = described
        .nodes
        .iter()
        .map(|n| Exposed::at(n.addr))
        .collect();
    let sent = |name: &str| nodes.iter().map(|node| node.total(name)).sum::<f64>();
    json!({
        "agents": agents,
        "registered_in_s": registered.as_secs_f64(),
        "snapshots": Exposed::at(fresh.address()).total("muster_group_snapshots_installed_total"),
        "snapshot_bytes": sent("muster_group_snapshot_sent_bytes_total"),
        "snapshots_failed": sent("muster_group_snapshots_failed_total"),
        "copied_in_s": copied.as_secs_f64(),
        "moved_in_s": moved.as_secs_f64(),
        "polls_per_second": meanwhile.check_ins_per_second,
        "usual_p99_ms": usual.p99_us as f64 / 1e3,
        "meanwhile_p99_ms": meanwhile.p99_us as f64 / 1e3,
        "usual_change_p99_ms": quantile(&mut usual_ms, 0.99),
        "meanwhile_change_p99_ms": quantile(&mut meanwhile_ms, 0.99),
        "not_200": refused as u64 + stats.shed + stats.discarded,
    })
}

/// Registers so many agents that say nothing afterwards.
async fn register_all(cluster: &Cluster, agents: usize) {
    let plan = Plan {
        endpoint: Endpoint::parse(&cluster.http_urls()[0], false).unwrap(),
        token: None,
        agents,
        connections: 256.min(agents),
        duration: LONG,
        seed: 7, // another one than a fleet's
        plain: false,
        cpu_of: None,
        under_way: 1,
    };
    let registered = Box::pin(register(plan)).await.unwrap();
    assert_eq!(registered.checkins, agents as u64, "{registered:?}");
}

/// Agents that poll every second, over HTTP, and are answered from memory.
async fn polling(cluster: &Cluster) -> Fleet {
    let urls = cluster.http_urls();
    let mut config = FleetConfig::fast(urls[0].clone(), POLLING);
    config.servers = urls;
    config.ramp = Duration::from_secs(1);
    config.options.interval = Duration::from_secs(1);
    let fleet = Fleet::start(config).unwrap();
    fleet.connected(PATIENCE).await.unwrap();
    fleet
}

/// The number of the fourth node, once everybody knows it and it has its documents.
async fn joined(cluster: &Cluster) -> u64 {
    eventually(PATIENCE, "the fourth node to be known", async || {
        let view = cluster.view().await.map_err(|status| status.to_string())?;
        let all = view.nodes.len() == 4 && view.nodes.iter().all(|node| node.answers);
        let number = view.nodes.iter().map(|node| node.id).max().unwrap_or(0);
        holds(all, &view.nodes).map(|()| number)
    })
    .await
}

fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(0.0)
}
