//! What a world looks like when nothing has been broken for a while (invariant 10).

use std::sync::Arc;

use fleet::offer::State as Offer;
use fleet::rollout::State;
use state::partition::{desired_of, place_of};

use crate::cluster::{Cluster, Process};
use crate::leader::OFFER_TIMEOUT_MS;
use crate::program::program;
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
    agents(&process).or_else(|| rollouts(&process))
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
            let group = process.group(crate::gateway::partition_of(*agent));
            let columns = group.index.read();
            let row = columns.rows.get(&crate::program::uid(*agent));
            let last = row.and_then(|row| row.delivery.as_ref());
            // One that has its config since just now still soaks.
            last.is_none_or(|last| {
                !matches!(last.state, Offer::Applied)
                    || wall_ms() < last.offered_ms + ANSWERED_WITHIN_MS
            })
        });
        (!goes_on)
            .then(|| format!("{id} runs for ever, though every member has applied its config"))
    })
}
