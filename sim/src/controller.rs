//! The controller: wherever the control group is led, it observes, asks `fleet` what follows, and proposes that. All it
//! remembers can be lost at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet::rollout::{Rollout, State, Step, Transition, plan};
use futures::future::join_all;
use state::ledger::{act, entry};
use state::partition::counting::{Count, Counted};
use state::partition::quotas::{Given, Rules, quotas};
use state::partition::room::Lane;

use crate::cluster::{Cluster, Process};
use crate::fault::Fault;
use crate::invariants::{Fact, Move};
use crate::leader::{OFFER_TIMEOUT_MS, Older};
use crate::ledger::{Change, Family, Ledger, Outcome, RolloutDoc};
use crate::network::Place;
use crate::observe::{ANEW_MAX, observe};
use crate::orders::fence;
use crate::program::program;
use crate::time::{now_ms, sleep_ms, spawn, wall_ms};
use crate::types::{CONTROL, GroupId};

/// It looks so often.
const LOOK_MS: u64 = 500;

/// What a crash of the controller may lose of its clocks.
const KEEP_MS: u64 = 5_000;

/// A rollout with its clocks, between two writes.
struct Memory {
    version: u64,
    moves: Rollout,
    looked_ms: u64,
    kept_ms: u64,
}

#[derive(Default)]
struct Controller {
    rollouts: BTreeMap<String, Memory>,
    /// When the linearizable read of each partition was sent that succeeded last.
    read_ms: BTreeMap<GroupId, u64>,
}

/// Looks and moves as long as the process lives.
pub async fn run(cluster: Arc<Cluster>, process: Arc<Process>) {
    let mut controller = Controller::default();
    let mut given = Given::nothing(now_ms());
    while process.is_alive() {
        sleep_ms(LOOK_MS).await;
        process.awake().await;
        // Also who has just been elected: it may not have everything yet that was decided before.
        if process.group(CONTROL).leads_in().is_none() || !cluster.sync(&process, CONTROL).await {
            controller = Controller::default();
            continue;
        }
        if let Some(term) = process.group(CONTROL).leads_in() {
            given.leads_in(term, now_ms());
        }
        let began_ms = now_ms();
        let unread = controller.look(&cluster, &process).await;
        divide(&cluster, &process, &mut given, &unread, began_ms).await;
        let control = process.control();
        for (id, version, doc) in control.rollouts() {
            if !doc.moves.state.is_final() {
                controller
                    .step(&cluster, &process, &control, id, version, doc)
                    .await;
            }
        }
    }
}

impl Controller {
    /// Partitions that cannot be read.
    async fn look(&mut self, cluster: &Arc<Cluster>, process: &Arc<Process>) -> BTreeSet<GroupId> {
        let mut unread = BTreeSet::new();
        for group in Cluster::partitions() {
            let sent = now_ms();
            if cluster.sync(process, group).await {
                self.read_ms.insert(group, sent);
            } else {
                unread.insert(group);
            }
        }
        unread
    }

    /// Of the partition that was read longest ago; none: one of them never was.
    fn evidence_age_ms(&self) -> Option<u64> {
        let read = Cluster::partitions().map(|group| self.read_ms.get(&group));
        let oldest = read.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        Some(now_ms() - oldest)
    }

    async fn step(
        &mut self,
        cluster: &Arc<Cluster>,
        process: &Arc<Process>,
        control: &Ledger,
        id: &str,
        version: u64,
        doc: &RolloutDoc,
    ) {
        let now = now_ms();
        let fresh = || Memory {
            version,
            moves: doc.moves.clone(),
            looked_ms: now,
            kept_ms: now,
        };
        let memory = self
            .rollouts
            .remove(id)
            .filter(|memory| memory.version == version);
        let mut memory = memory.unwrap_or_else(fresh);
        let elapsed = now - memory.looked_ms;
        memory.looked_ms = now;
        let seen = RolloutDoc {
            moves: memory.moves.clone(),
            ..doc.clone()
        };
        let program = Arc::new(program(control));
        let observed = observe(
            process,
            &program,
            id,
            &seen,
            self.evidence_age_ms(),
            ANEW_MAX,
        );
        // A pause of our own is no soak.
        let next = plan(&memory.moves, &observed, elapsed.min(4 * LOOK_MS));
        let counts = observed.roles.values().flatten();
        let counted = counts.map(fleet::bucket::Counts::members).sum();
        cluster.watch.note(Fact::Looked {
            rollout: id.to_owned(),
            listed: doc.members.len() as u64,
            counted,
            evidence_age_ms: observed.evidence_age_ms,
            moves: next.steps.iter().map(Move::of).collect(),
        });
        let moved = memory.moves.apply(&next);
        if next.steps.is_empty() && now - memory.kept_ms < KEEP_MS {
            self.rollouts.insert(id.to_owned(), memory);
            return;
        }
        let doc = RolloutDoc {
            moves: memory.moves,
            ..doc.clone()
        };
        let change = change(cluster, control, id, version, doc, &moved, "controller");
        let stored = cluster.propose(process, CONTROL, change).await;
        let stands = |step: &Step| matches!(step, Step::Stop { .. } | Step::Pause { .. });
        if let Ok(Outcome::Stored(epoch)) = stored
            && next.steps.iter().any(stands)
        {
            let _beside = spawn(fence(Arc::clone(cluster), Arc::clone(process), epoch));
        }
    }
}

/// Counts what is in flight in all partitions, divides what is left of the budget, and tells their leaders.
async fn divide(
    cluster: &Arc<Cluster>,
    process: &Arc<Process>,
    given: &mut Given,
    unread: &BTreeSet<GroupId>,
    read_ms: u64,
) {
    let budget = cluster.watch.budget();
    if budget.is_none() {
        return;
    }
    let count = given.count();
    let counting = Cluster::partitions().map(|group| hold_rooms(cluster, process, group, count));
    let counted = join_all(counting).await;
    // Somebody else divides by now.
    if counted
        .iter()
        .any(|counted| matches!(counted, Some(Err(_))))
    {
        return;
    }
    let mut seen = vec![];
    for ((at, group), counted) in Cluster::partitions().enumerate().zip(counted) {
        if let Some(Ok(counted)) = counted {
            seen.push(counted);
            continue;
        }
        // What it has offered is stored here, if it could be read a moment ago.
        let offers_live_ms = if unread.contains(&group) {
            OFFER_TIMEOUT_MS
        } else {
            0
        };
        let may_have = match cluster.watch.fault() {
            Some(Fault::GivenForgotten) => Some(BTreeMap::new()),
            _ => given.to(at, offers_live_ms, read_ms),
        };
        let Some(may_have) = may_have else {
            return;
        };
        seen.push(process.seen_here(group, &may_have));
    }
    let answered: Vec<Option<u64>> = seen.iter().map(|counted| counted.number).collect();
    let (occupied, bounds): (Vec<_>, Vec<_>) =
        seen.into_iter().map(|c| (c.occupancy, c.bounds)).unzip();
    let rules = Rules {
        budget,
        ..Rules::default()
    };
    let quotas = quotas(&rules, &occupied, &bounds);
    given.renew(&answered, &bounds, &quotas, now_ms());
    let told = Cluster::partitions().zip(answered).zip(quotas);
    let told = told.filter_map(|((group, count), quotas)| {
        Some(open_rooms(cluster, process, group, count?, quotas))
    });
    join_all(told).await;
}

/// Has the partition's leader count, and grant nothing until it gets its quotas. None: no answer.
async fn hold_rooms(
    cluster: &Arc<Cluster>,
    process: &Arc<Process>,
    group: GroupId,
    count: Count,
) -> Option<Result<Counted, Older>> {
    let leader = process.group(group).leader()?;
    let there = Arc::clone(cluster);
    let work = async move { there.process(leader)?.hold_rooms(group, count) };
    let (from, to) = (Place::Node(process.node), Place::Node(leader));
    cluster.network.call(from, to, work).await
}

/// Gives the partition's leader its quotas. If they do not arrive, it grants nothing.
async fn open_rooms(
    cluster: &Arc<Cluster>,
    process: &Arc<Process>,
    group: GroupId,
    count: u64,
    quotas: BTreeMap<Lane, u64>,
) -> Option<()> {
    let leader = process.group(group).leader()?;
    let there = Arc::clone(cluster);
    let work = async move { there.process(leader)?.open_rooms(group, count, &quotas) };
    let (from, to) = (Place::Node(process.node), Place::Node(leader));
    cluster.network.call(from, to, work).await
}

/// The entry that stores a rollout as it is now, with what that means for its family.
pub fn change(
    cluster: &Cluster,
    control: &Ledger,
    id: &str,
    version: u64,
    doc: RolloutDoc,
    moved: &[Transition],
    actor: &str,
) -> Change {
    let act = |transition: &Transition| {
        let action = format!("rollout.{}", transition.to.name());
        let (object, detail) = (id.to_owned(), transition.cause.clone());
        act(actor, &action, object, detail, wall_ms())
    };
    let shelf = cluster.watch.shelf();
    let mut writes = vec![];
    if moved
        .iter()
        .any(|transition| transition.to == State::Completed)
    {
        let (version, family) = control.family(&doc.family);
        let family = Family {
            stable: Some(doc.to),
            ..family
        };
        writes.push(shelf.family(&doc.family, version, family));
    }
    writes.push(shelf.rollout(id, version, doc));
    Change {
        id: cluster.watch.next_change(),
        entry: entry(writes, moved.iter().map(act).collect()),
    }
}
