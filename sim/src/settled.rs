//! What a world looks like when nothing has been broken for a while (invariant 10).

use std::sync::Arc;

use fleet::offer::State as Offer;
use fleet::program::Program;
use fleet::rollout::State;
use state::partition::{desired_of, place_of};

use crate::cluster::{Cluster, Process};
use crate::gateway::partition_of;
use crate::leader::OFFER_TIMEOUT_MS;
use crate::ledger::{Listed, RolloutDoc};
use crate::observe::observe;
use crate::program::{delivery, program, uid};
use crate::time::wall_ms;
use crate::types::CONTROL;

/// An agent that sleeps, and then waits for an answer, is heard after so long.
pub const ANSWERED_WITHIN_MS: u64 = 30_000;

/// Its next message may be that far away, and one agent is asked twice in a minute at most.
const ASKED_WITHIN_MS: u64 = 70_000;

/// What is not as it should be.
pub fn unsettled(cluster: &Arc<Cluster>) -> Option<String> {
    let down = cluster
        .node_ids()
        .find(|node| cluster.process(*node).is_none());
    if let Some(node) = down {
        return Some(format!("node {node} is down"));
    }
    let mut processes = cluster.node_ids().filter_map(|node| cluster.process(node));
    let leads = |process: &Arc<Process>| process.group(CONTROL).leads_in().is_some();
    let Some(process) = processes.find(leads) else {
        return Some("nobody leads the control group".to_owned());
    };
    let silent = cluster.watch.unanswered(ANSWERED_WITHIN_MS);
    if !silent.is_empty() {
        return Some(format!("agents {silent:?} are not answered"));
    }
    let unasked = cluster.watch.unasked(ASKED_WITHIN_MS);
    if !unasked.is_empty() {
        return Some(format!(
            "agents {unasked:?} have lost a message and were not asked"
        ));
    }
    agents(&process)
        .or_else(|| rollouts(&process))
        .or_else(|| cluster.watch.owed())
}

fn agents(process: &Process) -> Option<String> {
    let control = process.control();
    let program = program(&control);
    // While rollouts go on, something is always on its way, and some time after that.
    let open = control
        .rollouts()
        .any(|(_, _, doc)| matches!(doc.moves.state, State::Running | State::RollingBack));
    let moving = open || process.watch.moved_within(ANSWERED_WITHIN_MS);
    for group in Cluster::partitions() {
        let columns = process.group(group).index.read();
        for row in columns.rows.values() {
            let (agent, last) = (row.uid, row.delivery.as_ref());
            let is_open = |state| matches!(state, Offer::Offered | Offer::Applying);
            let overdue = last.is_some_and(|last| {
                is_open(last.state)
                    && wall_ms() > last.offered_ms + OFFER_TIMEOUT_MS + ANSWERED_WITHIN_MS
            });
            if overdue {
                return Some(format!(
                    "the offer of agent {agent} is open for ever: {last:?}"
                ));
            }
            let place = place_of(&columns, &program, row.uid, row.whose());
            let wants = desired_of(row, place, &program);
            let due = wants
                .delivery
                .filter(|hash| wants.offerable && !row.refused.contains(hash));
            if !moving && due.is_some() && due != last.map(|last| last.hash) {
                return Some(format!(
                    "agent {agent} has {last:?} and should have {due:?}: {:?}",
                    wants.reason
                ));
            }
        }
    }
    None
}

/// Whatever still runs has members that failed, or have just got their config: only those keep a rollout from its end.
fn rollouts(process: &Process) -> Option<String> {
    let control = process.control();
    let mut running = control
        .rollouts()
        .filter(|(_, _, doc)| doc.moves.state == State::Running);
    running.find_map(|(id, _, doc)| {
        let goes_on = doc.members.keys().any(|agent| {
            let group = process.group(partition_of(*agent));
            let columns = group.index.read();
            let row = columns.rows.get(&uid(*agent));
            let last = row.and_then(|row| row.delivery.as_ref());
            // One that has its config since just now still soaks.
            last.is_none_or(|last| {
                !matches!(last.state, Offer::Applied)
                    || wall_ms() < last.offered_ms + ANSWERED_WITHIN_MS
            })
        });
        let program = Arc::new(program(&control));
        (!goes_on && !is_deserted(process, &program, doc)).then(|| {
            let seen = observe(process, &program, id, doc, None, usize::MAX);
            let (roles, counts) = (&doc.moves.roles, seen.roles);
            format!(
                "{id} runs for ever, though every member has applied its config: {counts:?} of {roles:?}"
            )
        })
    })
}

/// Has everybody in its newest wave gone elsewhere? Such a wave proves nothing, and what comes after it waits for a person.
fn is_deserted(process: &Process, program: &Program, doc: &RolloutDoc) -> bool {
    let open = doc.moves.roles.first().map_or(0, |role| role.open_waves);
    let listed = doc.members.iter();
    let mut newest = listed
        .filter(|(_, listed)| listed.wave + 1 == open)
        .peekable();
    let target = delivery(&doc.family, doc.to);
    let is_empty = newest.peek().is_none();
    let stays = |(agent, _): (&u32, &Listed)| {
        let group = process.group(partition_of(*agent));
        let columns = group.index.read();
        let Some(row) = columns.rows.get(&uid(*agent)) else {
            return false;
        };
        let place = place_of(&columns, program, row.uid, row.whose());
        let has_it = row
            .delivery
            .as_ref()
            .is_some_and(|last| last.hash == target);
        has_it || desired_of(row, place, program).delivery == Some(target)
    };
    !is_empty && !newest.any(stays)
}
