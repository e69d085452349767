//! What the replicas of a process show of a rollout's members.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::bucket::Counts;
use fleet::program::Program;
use fleet::rollout::{Observed, Signs};
use state::partition::stand::verdicts::Pace;

use crate::cluster::{Cluster, Process};
use crate::leader::{OFFER_TIMEOUT_MS, TIMING};
use crate::ledger::RolloutDoc;
use crate::program::{ROLE, stored};
use crate::time::{now_ms, wall_ms};

/// Members of whom one look finds anew where they stand, if it has to of all: fewer than there are, so that it takes
/// several looks here, too.
pub const ANEW_MAX: usize = 6;

/// Counts by wave, with evidence of this age, if it is of all members: where all have to be found anew, so many are.
pub fn observe(
    process: &Process,
    program: &Arc<Program>,
    id: &str,
    doc: &RolloutDoc,
    evidence_age_ms: Option<u64>,
    anew_max: usize,
) -> Observed {
    let ends = doc
        .moves
        .roles
        .first()
        .map_or(0, |role| role.wave_ends.len());
    let mut counts = vec![Counts::default(); ends.max(1)];
    let mut signs = vec![Signs::default(); counts.len()];
    let rollout = stored(id, doc);
    let mut is_whole = true;
    let mut pace = Pace::of(anew_max);
    for group in Cluster::partitions() {
        let mut verdicts = process.leaders.take_verdicts(group, id);
        let due = {
            let columns = process.group(group).index.read();
            let now_ms = (now_ms(), wall_ms());
            verdicts.look(&columns, &rollout, program, now_ms, &mut pace)
        };
        let heard = process.leaders.heard_at(group, &due);
        verdicts.heard(&heard, 2 * TIMING.interval_ms);
        is_whole &= verdicts.is_whole();
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
        evidence_age_ms: evidence_age_ms.filter(|_| is_whole),
        offer_timeout_ms: OFFER_TIMEOUT_MS,
        ..Observed::default()
    }
}
