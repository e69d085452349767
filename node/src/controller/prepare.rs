//! Makes a planned rollout's lists: every partition names its members, waves are assigned over all of them, every
//! partition stores its list, and only then does the program name the rollout. Idempotent at each step.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::rollout::{PlanSpec, State};
use fleet::waves;
use proto::store::{self, Member};
use proto::uid::Uid;

use super::set_state;
use crate::control::plan_spec;
use crate::ledger::{ProposeError, act, entry, now_ms, put, table};
use crate::local::Node;
use crate::partition::Candidate;

pub(super) async fn prepare(
    node: &Arc<Node>,
    version: u64,
    mut stored: store::Rollout,
) -> Result<(), ProposeError> {
    let Some((revision, precedence)) = ({
        let documents = node.control.read();
        let family = documents
            .families
            .get(&stored.family)
            .map(|f| f.value.precedence);
        documents
            .revision(&stored.family, stored.to)
            .map(|r| r.value.clone())
            .zip(family)
    }) else {
        return Ok(());
    };
    let candidates = match crate::preview::candidates(node, &stored.family, precedence, &revision) {
        Ok((candidates, _)) => candidates,
        Err(error) => {
            tracing::warn!(rollout = stored.id, error = %crate::partition::chain(&error), "the inventory cannot be read; tried again");
            return Ok(());
        }
    };
    let plan = stored
        .plan
        .as_ref()
        .map_or_else(fleet::rollout::default_plan, plan_spec);
    let (placed, ends) = assign(&candidates, &revision, &plan);
    for (partition, candidates) in node.partitions.iter().zip(&candidates) {
        let members = candidates
            .iter()
            .filter_map(|c| member(c, &placed, &ends))
            .collect();
        partition.drop_list(&stored.id).await?;
        partition.store_list(&stored.id, members).await?;
    }
    for role in &mut stored.roles {
        let index = revision
            .roles
            .iter()
            .position(|r| r.name == role.role)
            .unwrap_or(usize::MAX);
        role.wave_ends = ends.get(index).cloned().unwrap_or_default();
        let belongs = |c: &&Candidate| c.role.is_some_and(|r| r as usize == index);
        role.members = candidates.iter().flatten().filter(belongs).count() as u64;
    }
    stored.prepared = true;
    stored.started_ms = now_ms();
    let members: u64 = stored.roles.iter().map(|r| r.members).sum();
    set_state(&mut stored, State::Running, "its lists are complete");
    let done = act(
        "controller",
        "rollout.open",
        format!("rollout/{}", stored.id),
        super::number(members, "member"),
    );
    node.control_ledger
        .propose(entry(
            vec![put(table::ROLLOUT, stored.id.as_str(), version, &stored)],
            vec![done],
        ))
        .await?;
    Ok(())
}

/// Wave of each changed member, and the wave ends of each role. The order is drawn by family and revision, so that a
/// preview names the canaries that the rollout will have.
pub fn assign(
    candidates: &[Vec<Candidate>],
    revision: &store::Revision,
    plan: &PlanSpec,
) -> (BTreeMap<Uid, u32>, Vec<Vec<u64>>) {
    let seed = format!("{}/{}", revision.family, revision.number);
    let sizes: Vec<_> = plan.waves.iter().map(|wave| wave.size).collect();
    let mut placed = BTreeMap::new();
    let mut all_ends = Vec::new();
    for role in 0..revision.roles.len() {
        let changed = candidates
            .iter()
            .flatten()
            .filter(|c| c.role.is_some_and(|r| r as usize == role) && !c.unchanged);
        let ordered = waves::order(changed.map(Candidate::for_waves).collect(), &seed);
        // The sizes were checked when the rollout was started; a fleet that shrank to one wave since is one wave.
        let ends = waves::ends(ordered.len() as u64, &sizes)
            .unwrap_or_else(|_| vec![ordered.len() as u64]);
        for (position, candidate) in ordered.iter().enumerate() {
            if let Ok(uid) = Uid::from_wire(&candidate.uid) {
                placed.insert(uid, waves::wave_at(&ends, position as u64));
            }
        }
        all_ends.push(ends);
    }
    (placed, all_ends)
}

/// Members that do not change count with the last wave: they are nobody's canary.
fn member(candidate: &Candidate, placed: &BTreeMap<Uid, u32>, ends: &[Vec<u64>]) -> Option<Member> {
    let waves = ends.get(candidate.role? as usize).map_or(0, Vec::len);
    let last = u32::try_from(waves.saturating_sub(1)).unwrap_or(0);
    Some(Member {
        uid: candidate.uid.as_bytes().to_vec(),
        role: candidate.role?,
        wave: placed.get(&candidate.uid).copied().unwrap_or(last),
        unchanged: candidate.unchanged,
        unreachable: !candidate.reachable,
    })
}
