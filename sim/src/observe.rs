//! What the replicas of a process show of a rollout's members.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::bucket::Counts;
use fleet::program::Program;
use fleet::rollout::{Observed, Signs};

use crate::cluster::{Cluster, Process};
use crate::leader::{OFFER_TIMEOUT_MS, TIMING};
use crate::ledger::RolloutDoc;
use crate::program::{ROLE, stored};
use crate::time::{now_ms, wall_ms};

/// Counts by wave, with evidence of this age.
pub fn observe(
    process: &Process,
    program: &Arc<Program>,
    id: &str,
    doc: &RolloutDoc,
    evidence_age_ms: Option<u64>,
) -> Observed {
    let ends = doc
        .moves
        .roles
        .first()
        .map_or(0, |role| role.wave_ends.len());
    let mut counts = vec![Counts::default(); ends.max(1)];
    let mut signs = vec![Signs::default(); counts.len()];
    let rollout = stored(id, doc);
    for group in Cluster::partitions() {
        let mut verdicts = process.leaders.take_verdicts(group, id);
        let due = {
            let columns = process.group(group).index.read();
            verdicts.look(&columns, &rollout, program, (now_ms(), wall_ms()))
        };
        let heard = process.leaders.heard_at(group, &due);
        verdicts.heard(&heard, 2 * TIMING.interval_ms);
        for ((_, wave), (here, seen)) in verdicts.count() {
            if let (Some(counts), Some(signs)) =
                (counts.get_mut(wave as usize), signs.get_mut(wave as usize))
            {
                counts.merge(&here);
                signs.unhealthy += seen.unhealthy;
                signs.restart_loops += seen.restart_loops;
            }
        }
        process.leaders.keep_verdicts(group, id, verdicts);
    }
    Observed {
        roles: BTreeMap::from([(ROLE.to_owned(), counts)]),
        signs: BTreeMap::from([(ROLE.to_owned(), signs)]),
        evidence_age_ms,
        offer_timeout_ms: OFFER_TIMEOUT_MS,
        ..Observed::default()
    }
}
