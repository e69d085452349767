//! Makes a planned rollout's lists: every partition names its members, waves are assigned over all of them, every
//! partition stores its list, and only then does the program name the rollout. Idempotent at each step.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::rollout::{PlanSpec, State};
use fleet::waves::{self, Assigned};
use proto::store::{self, Member};
use proto::uid::Uid;

use super::set_state;
use super::verbs::abort;
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
    let assignment = match assign(node, &candidates, &revision, &plan) {
        Ok(assignment) => assignment,
        // The fleet is not what it was when the plan was checked. Nothing was offered: a person looks again.
        Err((role, error)) => {
            let whom = if role.is_empty() { "the fleet" } else { &role };
            let why = format!("the plan does not fit {whom} any more: {error}");
            return abort(node, version, stored, "controller", &why, "").await;
        }
    };
    for (partition, candidates) in node.partitions.iter().zip(&candidates) {
        let members = candidates
            .iter()
            .filter_map(|c| member(c, &assignment))
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
        if let Some(assigned) = assignment.roles.get(index) {
            role.wave_ends.clone_from(&assigned.ends);
            role.wave_specs.clone_from(&assigned.specs);
        }
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

/// Who is in which wave.
pub struct Assignment {
    /// Wave of each changed member.
    pub placed: BTreeMap<Uid, u32>,
    /// By role of the revision: where its waves end, and which of the plan's they are.
    pub roles: Vec<Assigned>,
}

/// Why there is no assignment: the role, and what is wrong.
pub type Unassignable = (String, waves::Error);

/// Puts the changed members of each role into waves. The order is drawn by family and revision, so that a preview names
/// the canaries that the rollout will have.
pub fn assign(
    node: &Node,
    candidates: &[Vec<Candidate>],
    revision: &store::Revision,
    plan: &PlanSpec,
) -> Result<Assignment, Unassignable> {
    let seed = format!("{}/{}", revision.family, revision.number);
    let takes = |uid: &[u8; 16], wave: usize| {
        let Ok(uid) = Uid::from_wire(uid) else {
            return false;
        };
        let columns = node.partition(uid).index().read();
        let row = columns.rows.get(&uid);
        row.is_some_and(|row| waves::takes(&plan.waves[wave], row))
    };
    let mut found = vec![false; plan.waves.len()];
    let mut all = Assignment {
        placed: BTreeMap::new(),
        roles: Vec::new(),
    };
    for (role, stored) in revision.roles.iter().enumerate() {
        let ordered = changed(candidates, role, &seed);
        let assigned = waves::assign(&ordered, &plan.waves, |c, wave| takes(&c.uid, wave));
        let assigned = assigned.map_err(|error| (stored.name.clone(), error))?;
        for (candidate, wave) in ordered.iter().zip(&assigned.waves) {
            if let Ok(uid) = Uid::from_wire(&candidate.uid) {
                all.placed.insert(uid, *wave);
            }
        }
        for (wave, found) in found.iter_mut().enumerate() {
            *found = *found || ordered.iter().any(|c| takes(&c.uid, wave));
        }
        all.roles.push(assigned);
    }
    waves::check_everybody(&plan.waves, &found).map_err(|error| (String::new(), error))?;
    Ok(all)
}

fn changed(candidates: &[Vec<Candidate>], role: usize, seed: &str) -> Vec<waves::Candidate> {
    let changed = candidates
        .iter()
        .flatten()
        .filter(|c| c.role.is_some_and(|r| r as usize == role) && !c.unchanged && !c.pinned);
    waves::order(changed.map(Candidate::for_waves).collect(), seed)
}

/// Members that do not change count with the last wave: they are nobody's canary.
fn member(candidate: &Candidate, assignment: &Assignment) -> Option<Member> {
    let role = assignment.roles.get(candidate.role? as usize);
    let waves = role.map_or(0, |role| role.ends.len());
    let last = u32::try_from(waves.saturating_sub(1)).unwrap_or(0);
    Some(Member {
        uid: candidate.uid.as_bytes().to_vec(),
        role: candidate.role?,
        wave: assignment
            .placed
            .get(&candidate.uid)
            .copied()
            .unwrap_or(last),
        unchanged: candidate.unchanged,
        unreachable: !candidate.reachable,
        taken_from: candidate
            .taken_from
            .clone()
            .map(|(family, role)| store::Owner { family, role }),
    })
}
