//! A person at the agents: relabels them, says that they stay with their owner or go to who claims them, and takes that
//! back.

use std::sync::Arc;

use fleet::program::word;
use proto::store::{self, Entry};
use state::inventory::{Columns, Interner, Row};
use state::ledger::{act, entry, put, put_any, table};
use state::partition::merge::transition;
use state::partition::{history_key, places_of};

use crate::cluster::{Cluster, Process};
use crate::fault::Fault;
use crate::gateway::partition_of;
use crate::invariants::{Fact, Word};
use crate::ledger::{Change, Ledger, Outcome};
use crate::network::Place;
use crate::program::{LABELS, program, uid};
use crate::time::{now_ms, sleep_ms, wall_ms};
use crate::types::CONTROL;

/// A call takes so long at most, and is repeated with the same key.
const CALL_MS: u64 = 4_000;
const CALLS: usize = 3;

/// Tries after a conflicting change.
const TRIES: u32 = 5;

/// What she does to one agent.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Label(&'static str),
    /// It stays with its owner.
    Keep,
    /// It goes to who claims it.
    Accept,
}

/// Speaks of one agent after the other until then.
pub async fn live(cluster: Arc<Cluster>, agents: u32, until_ms: u64) {
    let mut once = 0;
    loop {
        let (pause, agent, deed) = {
            let mut chance = cluster.watch.chance();
            let label = Deed::Label(chance.pick(&LABELS));
            let deed = chance.pick(&[label, label, Deed::Keep, Deed::Accept]);
            let agent = chance.between(1, agents.into());
            (chance.between(100, 800), agent, deed)
        };
        sleep_ms(pause).await;
        if now_ms() >= until_ms {
            return;
        }
        once += 1;
        let agent = u32::try_from(agent).expect("a few");
        give(&cluster, agent, deed, once).await;
    }
}

/// Asks one node after another until one answers, or not for long. What nobody has answered may be done later.
async fn give(cluster: &Arc<Cluster>, agent: u32, deed: Deed, once: u64) {
    for node in cluster
        .node_ids()
        .cycle()
        .take(CALLS * cluster.node_ids().count())
    {
        let there = Arc::clone(cluster);
        let work = async move {
            let process = there.process(node)?;
            let done = carry_out(&there, &process, agent, deed, once).await?;
            process.is_alive().then_some(done)
        };
        let (from, to) = (Place::Outside, Place::Node(node));
        let answer = cluster.network.call_within(CALL_MS, from, to, work).await;
        if answer.is_some() {
            return;
        }
        sleep_ms(100).await;
    }
}

/// Once for `once`. None: not answered. False: there was nothing to do.
async fn carry_out(
    cluster: &Arc<Cluster>,
    process: &Arc<Process>,
    agent: u32,
    deed: Deed,
    once: u64,
) -> Option<bool> {
    let group = partition_of(agent);
    // Who answers operators has just confirmed that it leads, and has read whose the agent is, and which lists it is on.
    process.group(CONTROL).leads_in()?;
    if !cluster.sync(process, CONTROL).await || !cluster.sync(process, group).await {
        return None;
    }
    for _ in 0..TRIES {
        let (control, ledger) = (process.control(), process.group(group).view().1);
        let Some((version, stored)) = ledger.agent(agent) else {
            return Some(false);
        };
        let mut record = stored.clone();
        let said = {
            let columns = process.group(group).index.read();
            deed.write(agent, &mut record, &control, &columns)
        };
        let Some((word, action, detail)) = said else {
            return Some(false);
        };
        if cluster.watch.fault() == Some(Fault::WordWithoutEpoch) {
            record.resolved_epoch = 0;
        }
        let change = Change {
            id: cluster.watch.next_change(),
            entry: Entry {
                idempotency_key: format!("agent-{once}"),
                ..written(agent, version, &record, action, &detail)
            },
        };
        cluster.watch.note(Fact::Says {
            change: change.id,
            agent,
            word,
        });
        match cluster.propose(process, group, change).await {
            Ok(Outcome::Stored(_)) => {
                process.tell_pending(uid(agent));
                return process.is_alive().then_some(true);
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The record as it is now, with its transition and what the audit chain has of it.
fn written(agent: u32, version: u64, record: &store::Agent, action: &str, detail: &str) -> Entry {
    let (uid, now) = (uid(agent), wall_ms());
    let moved = transition(now, action, "", "", detail);
    let history = put_any(table::HISTORY, history_key(uid, now, version, 0), &moved);
    let record = put(table::AGENT, *uid.as_bytes(), version, record);
    let said = act(
        "anna",
        action,
        format!("agent/{uid}"),
        detail.to_owned(),
        now,
    );
    entry(vec![record, history], vec![said])
}

impl Deed {
    /// What it comes to by these documents: a word for the checker, and for the audit chain action and detail. None: there
    /// is nothing to say.
    fn write(
        self,
        agent: u32,
        record: &mut store::Agent,
        control: &Ledger,
        columns: &Columns,
    ) -> Option<(Word, &'static str, String)> {
        let keep = match self {
            Deed::Label(value) => {
                let labels = &mut record.operator_labels;
                let before = labels.insert("family".to_owned(), value.to_owned());
                let word = Word::Labelled(value);
                let is_new = before.as_deref() != Some(value);
                return is_new.then(|| (word, "agent.label", format!("family={value}")));
            }
            Deed::Keep => true,
            Deed::Accept => false,
        };
        let program = program(control);
        let row = Row::new(uid(agent), 0, record, &mut Interner::default());
        let places = places_of(columns, &program, row.uid);
        let said = word::say(keep, row.whose(), &program.claims(&row), &places, &program).ok()?;
        let to = said.granted().map(|(family, role)| store::Owner {
            family: family.to_owned(),
            role: role.to_owned(),
        });
        let of = to.as_ref().map(|to| to.family.clone());
        let epoch = if to.is_some() { program.epoch.0 } else { 0 };
        if (&record.granted, record.resolved_epoch) == (&to, epoch) {
            return None;
        }
        (record.granted, record.resolved_epoch) = (to, epoch);
        let word = Word::Said {
            of,
            epoch: program.epoch.0,
        };
        Some((word, "agent.owner", said.to_string()))
    }
}
