//! What a node does for a person: opens a rollout, and halts, pauses, resumes and rolls it back. Answered when nothing
//! contrary can be sent any more.

use std::sync::Arc;

use fleet::program::Scope;
use fleet::rollout::{Direction, OnStop, PlanSpec, Role, Rollout, State, Transition, WaveSpec};
use fleet::selector::Selector;
use fleet::waves::{self, Candidate, Size, WHOLE};
use futures::future::join_all;

use crate::cluster::{Cluster, Process};
use crate::controller::change;
use crate::leader::{GRANT_LIFE_MS, LEASE_OVER_MS};
use crate::ledger::{Act, Change, Doc, Family, Key, Ledger, Outcome, RolloutDoc, Write};
use crate::network::Place;
use crate::observe::observe;
use crate::program::{ROLE, program, selector, uid};
use crate::time::{now_ms, sleep_ms, within_ms};
use crate::types::{CONTROL, GroupId};

/// A floor is raised at once, or after what an earlier leader may have granted has run out.
const FLOOR_MS: u64 = 8_000;

/// A person's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new revision for everybody.
    Start {
        family: &'static str,
    },
    Verb {
        verb: Verb,
        rollout: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Halt,
    Pause,
    Resume,
    RollBack,
}

/// Carries an order out, once for `once`. None: not answered. False: refused.
pub async fn carry_out(
    cluster: Arc<Cluster>,
    process: Arc<Process>,
    order: Order,
    once: u64,
) -> Option<bool> {
    // Who answers operators has just confirmed that it leads.
    process.group(CONTROL).leads_in()?;
    for _ in 0..3 {
        if !cluster.sync(&process, CONTROL).await {
            return None;
        }
        let control = process.control();
        let change = match &order {
            Order::Start { family } => start(&cluster, &process, &control, family).await?,
            Order::Verb { verb, rollout } => verb.change(&cluster, &process, &control, rollout),
        };
        let Some(change) = change else {
            return Some(false);
        };
        let change = Change { once, ..change };
        match cluster.propose(&process, CONTROL, change).await {
            Ok(Outcome::Stored(epoch)) => {
                fence(cluster, Arc::clone(&process), epoch).await;
                return process.is_alive().then_some(true);
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}

/// Answers when each partition has raised its floor, or no grant of an older program can live any more: in bounded
/// time, also when a partition cannot be reached.
pub async fn fence(cluster: Arc<Cluster>, process: Arc<Process>, epoch: u64) {
    let raised = Cluster::partitions().map(|group| {
        let raise = raise_floor(Arc::clone(&cluster), Arc::clone(&process), group, epoch);
        within_ms(LEASE_OVER_MS + GRANT_LIFE_MS, raise)
    });
    join_all(raised).await;
}

/// Asks whoever leads the partition, until it is done.
async fn raise_floor(cluster: Arc<Cluster>, process: Arc<Process>, group: GroupId, epoch: u64) {
    loop {
        if let Some(leader) = process.group(group).leader() {
            let there = Arc::clone(&cluster);
            let work = async move {
                let process = there.process(leader)?;
                process.raise_floor(group, epoch).await?;
                process.is_alive().then_some(())
            };
            let (from, to) = (Place::Node(process.node), Place::Node(leader));
            let raised = cluster.network.call_within(FLOOR_MS, from, to, work);
            if raised.await.is_some() {
                return;
            }
        }
        sleep_ms(100).await;
    }
}

// === impl Verb ===

impl Verb {
    /// None: the rollout is not in a state for it.
    fn change(
        self,
        cluster: &Cluster,
        process: &Process,
        control: &Ledger,
        id: &str,
    ) -> Option<Change> {
        let (version, doc) = control.rollout(id)?;
        let mut doc = doc.clone();
        let before = doc.moves.state;
        let moved = match self {
            Verb::Halt => doc.moves.set(State::Halted, "halted by anna"),
            Verb::Pause => doc.moves.set(State::Paused, "paused by anna"),
            Verb::RollBack => doc.moves.roll_back(Scope::All, "rolled back by anna"),
            Verb::Resume => {
                let seen = observe(process, &program(control), id, &doc, None);
                doc.moves.resume(&seen, "resumed by anna")
            }
        };
        let said_twice = self.next() == before;
        if moved.is_none() && !said_twice {
            return None;
        }
        let moved: Vec<Transition> = moved.into_iter().collect();
        Some(change(cluster, control, id, version, doc, &moved, "anna"))
    }

    fn next(self) -> State {
        match self {
            Verb::Halt => State::Halted,
            Verb::Pause => State::Paused,
            Verb::Resume => State::Running,
            Verb::RollBack => State::RollingBack,
        }
    }
}

/// Opens a rollout of a new revision over everybody the family claims. Outer none: a partition cannot be read. Inner:
/// one is open, or there is nobody.
async fn start(
    cluster: &Arc<Cluster>,
    process: &Arc<Process>,
    control: &Ledger,
    name: &str,
) -> Option<Option<Change>> {
    let (version, family) = control.family(name);
    let open = family.rollout.as_ref().and_then(|id| control.rollout(id));
    if open.is_some_and(|(_, doc)| !doc.moves.state.is_final()) {
        return Some(None);
    }
    let mut claimed = vec![];
    for group in Cluster::partitions() {
        if !cluster.sync(process, group).await {
            return None;
        }
        let ledger = process.group(group).view().1;
        claimed.extend(matching(&ledger, &selector(name)));
    }
    let (moves, members) = match list(claimed) {
        Some(list) => list,
        None => return Some(None),
    };
    let to = family.latest + 1;
    let id = format!("{name}-{to}");
    let family = Family {
        latest: to,
        rollout: Some(id.clone()),
        stable: family.stable,
    };
    let doc = RolloutDoc {
        family: name.to_owned(),
        from: family.stable,
        to,
        opened: control.changes + 1,
        moves,
        members,
    };
    let write = |key, version, doc| Write { key, version, doc };
    Some(Some(Change {
        id: cluster.watch.next_change(),
        writes: vec![
            write(Key::Family(name.to_owned()), version, Doc::Family(family)),
            write(Key::Rollout(id.clone()), 0, Doc::Rollout(Box::new(doc))),
        ],
        acts: vec![Act {
            actor: "anna".to_owned(),
            action: "rollout.start".to_owned(),
            object: id,
            detail: String::new(),
        }],
        at_ms: now_ms(),
        ..Change::default()
    }))
}

fn matching(ledger: &Ledger, selector: &Selector) -> Vec<u32> {
    let claimed = ledger
        .agents()
        .filter(|(_, _, agent)| selector.matches(&agent.labels));
    claimed.map(|(id, ..)| id).collect()
}

/// The list and its waves.
fn list(claimed: Vec<u32>) -> Option<(Rollout, std::collections::BTreeMap<u32, u32>)> {
    if claimed.is_empty() {
        return None;
    }
    let candidate = |id: u32| Candidate {
        uid: uid(id),
        stratum: String::new(),
        reachable: true,
        ahead: false,
    };
    let ordered = waves::order(claimed.into_iter().map(candidate).collect(), "sim");
    let plan = PlanSpec {
        on_stop: OnStop::Default,
        ..PlanSpec::of(vec![
            WaveSpec::of(Size::Count(1), 1_000),
            WaveSpec::of(Size::Percent(WHOLE / 2), 1_000),
            WaveSpec::of(Size::Percent(WHOLE), 1_000),
        ])
    };
    let assigned = waves::assign(&ordered, &plan.waves, |_: &Candidate, _| true).ok()?;
    let id = |candidate: &Candidate| {
        u32::try_from(u128::from_be_bytes(candidate.uid)).expect("an agent's number")
    };
    let members = ordered.iter().map(id).zip(assigned.waves).collect();
    let role = Role {
        name: ROLE.to_owned(),
        wave_ends: assigned.ends,
        wave_specs: assigned.specs,
        ..Role::default()
    };
    let moves = Rollout {
        state: State::Running,
        direction: Direction::Forward,
        plan,
        roles: vec![role],
        roll_back: None,
        inconclusive_ms: 0,
    };
    Some((moves, members))
}
