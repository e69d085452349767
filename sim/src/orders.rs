//! What a node does for a person: opens a rollout, and halts, pauses, resumes and rolls it back. Answered when nothing
//! contrary can be sent any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::membership::enlist::{Applicant, enlist};
use fleet::program::{OwnerChange, Program, Scope};
use fleet::rollout::{Direction, OnStop, PlanSpec, Role, Rollout, State, Transition, WaveSpec};
use fleet::waves::{self, Candidate, Size, WHOLE};
use futures::future::join_all;
use proto::opamp::AgentCapabilities;
use proto::store::{self, Member, MemberChunk};
use proto::uid::Uid;
use state::inventory::{Columns, chunk};
use state::ledger::{act, entry, put_any, table};
use state::partition::millis;
use state::partition::place::came_from;
use state::partition::timing::{GRANT_LIFE, LEASE_OVER};

use crate::cluster::{Cluster, Process};
use crate::controller::change;
use crate::gateway::partition_of;
use crate::ledger::{Change, Family, Ledger, Listed, Outcome, RolloutDoc};
use crate::network::Place;
use crate::observe::observe;
use crate::program::{FAMILIES, ROLE, number, program, selector, uid};
use crate::time::{sleep_ms, wall_ms, within_ms};
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
    /// A family whose first revision is stable from the beginning.
    Found {
        family: &'static str,
    },
    /// Whether the family's agents go to who claims them by themselves.
    Policy {
        family: &'static str,
        owner_change: OwnerChange,
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
            Order::Found { family } => found(&cluster, &control, family),
            Order::Policy {
                family,
                owner_change,
            } => Some(policy(&cluster, &control, family, *owner_change)),
        };
        let Some(mut change) = change else {
            return Some(false);
        };
        change.entry.idempotency_key = format!("{once}");
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
        within_ms(millis(LEASE_OVER + GRANT_LIFE), raise)
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
                let seen = observe(
                    process,
                    &Arc::new(program(control)),
                    id,
                    &doc,
                    None,
                    usize::MAX,
                );
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
    let program = program(control);
    let mut listed = BTreeMap::new();
    for group in Cluster::partitions() {
        if !cluster.sync(process, group).await {
            return None;
        }
        listed.extend(enlisted(&process.group(group).index.read(), &program, name));
    }
    let (moves, members) = match list(listed) {
        Some(list) => list,
        None => return Some(None),
    };
    // No two tries have the same number: what one has left behind in partitions is not the other's.
    let to = cluster.watch.next_change();
    let id = format!("{name}-{to}");
    for group in Cluster::partitions() {
        store_list(cluster, process, group, &id, &members).await?;
    }
    let family = Family {
        latest: to,
        rollout: Some(id.clone()),
        ..family
    };
    let doc = RolloutDoc {
        family: name.to_owned(),
        from: family.stable,
        to,
        opened: 0,
        moves,
        members,
    };
    let shelf = cluster.watch.shelf();
    let writes = vec![
        shelf.family(name, version, family),
        shelf.rollout(&id, 0, doc),
    ];
    let opened = act("anna", "rollout.start", id, String::new(), wall_ms());
    Some(Some(Change {
        id: cluster.watch.next_change(),
        entry: entry(writes, vec![opened]),
    }))
}

/// The list stands in a partition before the program names its rollout. None: that is not known.
async fn store_list(
    cluster: &Arc<Cluster>,
    process: &Arc<Process>,
    group: GroupId,
    id: &str,
    members: &BTreeMap<u32, Listed>,
) -> Option<()> {
    let of_group = members
        .iter()
        .filter(|(agent, _)| partition_of(**agent) == group);
    let owner = |family: &String| store::Owner {
        family: family.clone(),
        role: ROLE.to_owned(),
    };
    let member = |(agent, listed): (&u32, &Listed)| Member {
        uid: uid(*agent).as_bytes().to_vec(),
        wave: listed.wave,
        taken_from: listed.taken_from.as_ref().map(owner),
        ..Member::default()
    };
    let list = MemberChunk {
        members: of_group.map(member).collect(),
    };
    let write = put_any(table::MEMBERS, chunk(id, 0), &list);
    let change = Change {
        id: cluster.watch.next_change(),
        entry: entry(vec![write], vec![]),
    };
    let stored = cluster.propose(process, group, change).await;
    matches!(stored, Ok(Outcome::Stored(_))).then_some(())
}

/// None: it has been started before.
fn found(cluster: &Cluster, control: &Ledger, name: &str) -> Option<Change> {
    let (version, family) = control.family(name);
    let family = Family {
        stable: Some(1),
        latest: 1,
        ..family
    };
    let write = cluster.watch.shelf().family(name, version, family);
    let founded = act(
        "anna",
        "family.found",
        name.to_owned(),
        String::new(),
        wall_ms(),
    );
    (version == 0).then(|| Change {
        id: cluster.watch.next_change(),
        entry: entry(vec![write], vec![founded]),
    })
}

/// A family that was never started has the policy, too.
fn policy(cluster: &Cluster, control: &Ledger, name: &str, owner_change: OwnerChange) -> Change {
    let (version, family) = control.family(name);
    let family = Family {
        owner_change,
        ..family
    };
    let detail = format!("{owner_change:?}");
    let said = act("anna", "family.policy", name.to_owned(), detail, wall_ms());
    let write = cluster.watch.shelf().family(name, version, family);
    Change {
        id: cluster.watch.next_change(),
        entry: entry(vec![write], vec![said]),
    }
}

/// Whom a rollout of this family lists in a partition, and whom it takes each from.
fn enlisted(columns: &Columns, program: &Program, name: &str) -> Vec<(u32, Option<String>)> {
    let of_name = FAMILIES.iter().find(|(family, ..)| *family == name);
    let (_, precedence, _) = of_name.expect("there are no others");
    let selector = selector(name);
    // A completed one is not named any more.
    let last = program.family(name).and_then(|f| f.rollout.as_ref());
    let last = last.and_then(|rollout| Some((rollout.opened, columns.lists.get(&rollout.id)?)));
    let rows = columns.rows.values().filter(|row| !row.alias);
    let listed = rows.filter_map(|row| {
        let applicant = Applicant {
            owner: row.owner(),
            roles: selector.matches(row).then_some(ROLE).into_iter().collect(),
            claims: program.claims(row),
            duplicate: row.duplicate,
            many_collectors: row.many_collectors(),
            accepts: row.can(AgentCapabilities::AcceptsRemoteConfig),
            stopped: row.stopped,
        };
        let listed = enlist(name, *precedence, &applicant, program).ok()?;
        let taken_from = listed.taken_from.or_else(|| came_from(row, last));
        Some((
            number(row.uid),
            taken_from.map(|(family, _)| family.to_owned()),
        ))
    });
    listed.collect()
}

/// The list, by whom each is taken from, and its waves.
fn list(mut enlisted: BTreeMap<u32, Option<String>>) -> Option<(Rollout, BTreeMap<u32, Listed>)> {
    if enlisted.is_empty() {
        return None;
    }
    let candidate = |id: u32| Candidate {
        uid: *uid(id).as_bytes(),
        stratum: String::new(),
        reachable: true,
        ahead: false,
    };
    let ordered = waves::order(enlisted.keys().copied().map(candidate).collect(), "sim");
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
        let uid = Uid::from_wire(&candidate.uid);
        number(uid.expect("an agent's"))
    };
    let placed = ordered.iter().map(id).zip(assigned.waves);
    let mut line = |(id, wave)| {
        let taken_from = enlisted.remove(&id).flatten();
        (id, Listed { wave, taken_from })
    };
    let members = placed.map(&mut line).collect();
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
