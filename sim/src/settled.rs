//! What a world looks like when nothing has been broken for a while (invariant 10).

use std::sync::Arc;

use fleet::offer::State as Offer;
use fleet::rollout::State;

use crate::cluster::{Cluster, Process};
use crate::evaluate::OFFER_TIMEOUT_MS;
use crate::program::{program, wants};
use crate::time::now_ms;
use crate::types::CONTROL;

/// An agent that sleeps, and then waits for an answer, is heard after so long.
pub const ANSWERED_WITHIN_MS: u64 = 30_000;

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
    agents(&process).or_else(|| rollouts(&process))
}

fn agents(process: &Process) -> Option<String> {
    let control = process.control();
    let program = program(&control);
    for group in Cluster::partitions() {
        for (id, _, agent) in process.group(group).view().1.agents() {
            let wants = wants(&control, &program, id, agent);
            let last = agent.delivery.as_ref();
            let is_open = |state| matches!(state, Offer::Offered | Offer::Applying);
            let overdue = last.is_some_and(|last| {
                is_open(last.state)
                    && now_ms() > last.offered_ms + OFFER_TIMEOUT_MS + ANSWERED_WITHIN_MS
            });
            if overdue {
                return Some(format!(
                    "the offer of agent {id} is open for ever: {last:?}"
                ));
            }
            let due = wants
                .delivery
                .filter(|hash| wants.offerable && !agent.refused.contains(hash));
            // While rollouts go on, something is always on its way.
            let moving = control
                .rollouts()
                .any(|(_, _, doc)| matches!(doc.moves.state, State::Running | State::RollingBack));
            if !moving && due.is_some() && due != last.map(|last| last.hash) {
                return Some(format!(
                    "agent {id} has {last:?} and should have {due:?}: {:?}",
                    wants.reason
                ));
            }
        }
    }
    None
}

/// Whatever still runs has members that failed: only those keep a rollout from its end, until it is paused for them.
fn rollouts(process: &Process) -> Option<String> {
    let control = process.control();
    let mut running = control
        .rollouts()
        .filter(|(_, _, doc)| doc.moves.state == State::Running);
    running.find_map(|(id, _, doc)| {
        let failed = doc.members.keys().any(|agent| {
            let ledger = process.group(crate::gateway::partition_of(*agent)).view().1;
            let last = ledger
                .agent(*agent)
                .1
                .and_then(|agent| agent.delivery.as_ref());
            last.is_none_or(|last| !matches!(last.state, Offer::Applied))
        });
        (!failed).then(|| format!("{id} runs for ever, though every member has applied its config"))
    })
}
