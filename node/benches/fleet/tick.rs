//! One look of the controller at a running rollout: counting its members in all partitions, and [`plan`]. And one count
//! of what a budget limits, which is due as often.
//!
//! Between two looks, and two counts, one agent in a hundred says something new, as in the middle of a large wave.
//! `anew`: nothing that was found before holds, as after the opening of a wave. Looks and counts then come in parts: the
//! longest look is measured, and counts of which each is the first part of all.
//!
//! The members are in memory as the node has them: rows and lists come in through the mirrors that the state machines
//! write through, only the log before them is left out. Twice: with the last wave open and members spread over the
//! buckets, and with the first wave open, when hardly anybody was offered anything and selectors decide.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fleet::rollout::plan;
use node::Node;
use node::controller::{observe, observe_at_a_pace};
use node::inventory::IndexMirror;
use node::inventory::chunk;
use node::ledger::{Mirror, entry, now_ms, put, table};
use prost::Message;
use proto::edge::Presence;
use proto::store;
use state::partition::room::Limits;

use super::world::{self, FAMILY};
use super::{figure, ms};

const ROLLOUT: &str = "ro-bench";

/// Documents that one publish makes visible.
const BATCH: usize = 10_000;

/// One agent in so many says something between two looks.
const SPEAKS: usize = 100;

/// How far the rollout is.
#[derive(Clone, Copy)]
enum Stage {
    FirstWave,
    LastWave,
}

/// Measures this many looks at a rollout of so many agents.
pub async fn run(agents: usize, rounds: usize) -> serde_json::Value {
    let mut figures = serde_json::json!({"agents": agents});
    for (name, stage) in [
        ("first_wave", Stage::FirstWave),
        ("last_wave", Stage::LastWave),
    ] {
        figures[name] = measure(agents, rounds, stage).await;
    }
    figures
}

async fn measure(agents: usize, rounds: usize, stage: Stage) -> serde_json::Value {
    let dir = tempfile::tempdir().expect("a directory");
    let node = world::start(dir.path()).await;
    world::family(&node).await;
    let mut mirrors = fill(&node, agents, stage).await;
    let stored = open(&node, agents, stage).await;
    let rollout = node.control.read().domain(&stored);
    let mut planned = Vec::new();
    let mut buckets = serde_json::Value::Null;
    let mut speak = |round: usize| {
        for i in (round % SPEAKS..agents).step_by(SPEAKS) {
            write(&node, &mut mirrors, i, stage);
        }
        mirrors.iter_mut().for_each(|mirror| mirror.publish(0));
    };
    let looks = timed(rounds, &mut speak, || {
        let observed = observe(&node, &stored);
        let counted = cpu_time();
        let next = plan(&rollout, &observed, 500);
        planned.push(ms(cpu_time() - counted));
        assert!(next.steps.is_empty(), "the rollout waits: {:?}", next.steps);
        let counts = observed.roles.values().flatten();
        let members: u64 = counts.map(fleet::bucket::Counts::members).sum();
        assert_eq!(members, agents as u64, "every member is counted");
        buckets = shown(&observed);
    });
    let (anew, anew_looks) = found_anew(&node, stored, rounds);
    limit(&node).await;
    let count = || {
        let seen = node.partitions.iter().map(|p| p.occupancy());
        let domains = seen.flat_map(|seen| seen.domains.into_values());
        let counted: u64 = domains.map(|domain| domain.agents).sum();
        assert_eq!(counted, agents as u64, "every agent is in a domain");
    };
    let counts = timed(rounds, &mut speak, count);
    let back = |round: usize| {
        // All findings rest on it. No agent has anything of these rollouts.
        let back: BTreeSet<String> = [format!("ro-bench-{round}")].into();
        for partition in node.partitions.iter() {
            let limits = partition.rooms().limits();
            let back = BTreeSet::clone(&back);
            partition.rooms().follow(Limits { back, ..limits });
        }
    };
    let counts_anew = timed(rounds, back, count);
    node.stop().await;
    serde_json::json!({
        "look": looks,
        "anew": anew,
        "anew_looks": anew_looks,
        "plan_ms": figure(planned),
        "budget": counts,
        "budget_anew": counts_anew,
        "buckets": buckets,
    })
}

/// CPU and wall time of the longest look of each round, in which the controller finds all members anew; and in how many
/// looks, at most.
fn found_anew(
    node: &Node,
    mut stored: store::Rollout,
    rounds: usize,
) -> (serde_json::Value, usize) {
    let (mut cpu, mut wall, mut most) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds {
        // All verdicts rest on it.
        stored.failures_since += 1;
        let (mut looks, mut longest, mut is_whole) = (0, (0.0f64, 0.0f64), false);
        while !is_whole {
            let (began, used) = (Instant::now(), cpu_time());
            is_whole = observe_at_a_pace(node, &stored).evidence_age_ms.is_some();
            let took = (ms(cpu_time() - used), ms(began.elapsed()));
            longest = (longest.0.max(took.0), longest.1.max(took.1));
            looks += 1;
            assert!(looks < 100, "a rollout is looked at to its end");
        }
        cpu.push(longest.0);
        wall.push(longest.1);
        most = most.max(looks);
    }
    let figures = serde_json::json!({"cpu_ms": figure(cpu), "wall_ms": figure(wall)});
    (figures, most)
}

/// CPU and wall time of so many rounds, and of one before them, which finds cold caches and nothing remembered.
/// `between` is not measured.
fn timed(
    rounds: usize,
    mut between: impl FnMut(usize),
    mut round: impl FnMut(),
) -> serde_json::Value {
    let (mut cpu, mut wall) = (Vec::new(), Vec::new());
    for number in 0..=rounds {
        between(number);
        let (began, used) = (Instant::now(), cpu_time());
        round();
        cpu.push(ms(cpu_time() - used));
        wall.push(ms(began.elapsed()));
    }
    serde_json::json!({
        "first_cpu_ms": figure(cpu[..1].to_vec())["median"],
        "cpu_ms": figure(cpu.split_off(1)),
        "wall_ms": figure(wall.split_off(1)),
    })
}

/// A budget, so that what is in flight has to be counted.
async fn limit(node: &Node) {
    let budget = store::Budget {
        label: "zone".into(),
        ..store::Budget::default()
    };
    let write = put(table::BUDGET, node::control::BUDGET_KEY, 0, &budget);
    let stored = node.control_ledger.propose(entry(vec![write], vec![]));
    stored.await.expect("a budget");
    for partition in node.partitions.iter() {
        partition.take_program();
    }
}

/// Writes an agent's record.
fn write(node: &Node, mirrors: &mut [IndexMirror], i: usize, stage: Stage) {
    let uid = world::uid(i);
    let mirror = &mut mirrors[node.partition_index(uid)];
    let agent = agent(i, stage).encode_to_vec();
    mirror.put(table::AGENT, uid.as_bytes(), 1, &agent);
}

/// Puts agents and their list into the partitions' memory.
async fn fill(node: &Node, agents: usize, stage: Stage) -> Vec<IndexMirror> {
    let mut mirrors: Vec<_> = node
        .partitions
        .iter()
        .map(|partition| partition.index().mirror())
        .collect();
    let mut lists: Vec<Vec<store::Member>> = vec![vec![]; mirrors.len()];
    let mut heard: Vec<Vec<Presence>> = vec![vec![]; mirrors.len()];
    for i in 0..agents {
        let uid = world::uid(i);
        let at = node.partition_index(uid);
        let key = uid.as_bytes();
        write(node, &mut mirrors, i, stage);
        lists[at].push(store::Member {
            uid: key.to_vec(),
            role: world::role(i).0,
            wave: wave(i),
            ..store::Member::default()
        });
        heard[at].push(Presence {
            instance_uid: key.to_vec().into(),
            number: 1,
            ..Presence::default()
        });
        if i % BATCH == 0 {
            mirrors.iter_mut().for_each(|mirror| mirror.publish(0));
        }
    }
    for (at, mirror) in mirrors.iter_mut().enumerate() {
        for (i, members) in lists[at].chunks(BATCH).enumerate() {
            let list = store::MemberChunk {
                members: members.to_vec(),
            };
            let key = chunk(ROLLOUT, u32::try_from(i).expect("few chunks"));
            mirror.put(table::MEMBERS, &key, 1, &list.encode_to_vec());
        }
        mirror.publish(0);
        let back = node.partitions[at].heard("bench", &heard[at]);
        node.partitions[at].note(back).await;
    }
    mirrors
}

/// At the last wave two in three have converged; of the others some apply, and some have not picked it up. At the first
/// one its members apply. One in a hundred of who was offered nothing is lost.
fn agent(i: usize, stage: Stage) -> store::Agent {
    let applying = || store::Delivery {
        state: store::DeliveryState::Applying.into(),
        ..world::delivery(i, 2, ROLLOUT)
    };
    match (stage, i % 100) {
        (Stage::FirstWave, _) if wave(i) == 0 => world::agent(i, Some(applying())),
        (Stage::LastWave, 0..66) => world::agent(i, Some(world::delivery(i, 2, ROLLOUT))),
        (Stage::LastWave, 66..76) => world::agent(i, Some(applying())),
        (_, 99) => store::Agent {
            link: store::Link::Lost.into(),
            ..world::agent(i, Some(world::delivery(i, 1, "")))
        },
        _ => world::agent(i, Some(world::delivery(i, 1, ""))),
    }
}

fn wave(i: usize) -> u32 {
    match i % 1_000 {
        0..10 => 0,
        10..100 => 1,
        100..500 => 2,
        _ => 3,
    }
}

/// The rollout with its first wave open, or all of them.
async fn open(node: &Node, agents: usize, stage: Stage) -> store::Rollout {
    let progress = |role: &str, index: u32| {
        let mut sizes = [0u64; 4];
        for i in (0..agents).filter(|i| world::role(*i).0 == index) {
            sizes[wave(i) as usize] += 1;
        }
        let mut end = 0;
        let ends = sizes.map(|size| {
            end += size;
            end
        });
        store::RoleProgress {
            role: role.into(),
            wave_ends: ends.to_vec(),
            wave_specs: vec![0, 1, 2, 3],
            open_waves: match stage {
                Stage::FirstWave => 1,
                Stage::LastWave => 4,
            },
            members: end,
            ..store::RoleProgress::default()
        }
    };
    let stored = store::Rollout {
        id: ROLLOUT.into(),
        family: FAMILY.into(),
        from: 1,
        to: 2,
        state: store::RolloutState::Running.into(),
        prepared: true,
        started_ms: now_ms(),
        roles: vec![progress("gateway", 0), progress("agent", 1)],
        ..store::Rollout::default()
    };
    let (version, family) = {
        let documents = node.control.read();
        let family = &documents.families[FAMILY];
        let next = store::Family {
            target: 2,
            rollout: ROLLOUT.into(),
            ..store::Family::clone(&family.value)
        };
        (family.version, next)
    };
    let writes = vec![
        put(table::ROLLOUT, ROLLOUT, 0, &stored),
        put(table::FAMILY, FAMILY, version, &family),
    ];
    let opened = node.control_ledger.propose(entry(writes, vec![])).await;
    opened.expect("a rollout");
    for partition in node.partitions.iter() {
        partition.take_program();
    }
    stored
}

/// Members by bucket, so that it is seen what was counted.
fn shown(observed: &fleet::rollout::Observed) -> serde_json::Value {
    let mut total = fleet::bucket::Counts::default();
    for counts in observed.roles.values().flatten() {
        total.merge(counts);
    }
    let named = fleet::bucket::ALL.iter().filter(|b| total.of(**b) > 0);
    named
        .map(|b| (b.name().to_owned(), serde_json::json!(total.of(*b))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// CPU time of this thread: others work beside it.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let ns = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("nanoseconds on a CPU"))
}
