//! Makes a planned rollout's lists: every partition names its members, waves are assigned over all of them, every
//! partition stores its list, and only then does the program name the rollout. Idempotent at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet::components;
use fleet::family::order;
use fleet::governance::supersede::{self, How};
use fleet::program::Epoch;
use fleet::rollout::{Direction, OutOfStep, PlanSpec, Role, Rollout, State, Waiting, WaveSpec};
use fleet::selector::Facts;
use fleet::waves::{self, Assigned};
use proto::store::{self, Member};
use proto::uid::Uid;

use super::verbs::abort;
use super::{aside, ended_counts, observe, set_state, window};
use crate::api::start::supersede_with;
use crate::control::{
    Doc, Documents, failures_since, plan_spec, revision_key, revision_settings, role, rollout_state,
};
use crate::inventory::Columns;
use crate::ledger::{ProposeError, act, entry, now_ms, put, table};
use crate::local::Node;
use crate::partition::Candidate;

/// A start is bound to a preview that was made just before it. After this long, it is held against the fleet once more:
/// after a crash in between, or when it has waited for approvals.
const BOUND_MS: u64 = 5_000;

pub(super) async fn prepare(
    node: &Arc<Node>,
    version: u64,
    mut stored: store::Rollout,
) -> Result<(), ProposeError> {
    let found = {
        let documents = node.control.read();
        let family = documents.families.get(&stored.family).cloned();
        let revision = documents.revision(&stored.family, stored.to);
        family.zip(revision.map(|r| r.value.clone()))
    };
    let Some((family, revision)) = found else {
        let why = "its family or its revision is gone";
        return abort(node, version, stored, "controller", why, "").await;
    };
    if !revision.rejected.is_empty() {
        let why = format!("revision {} was rejected {}", stored.to, revision.rejected);
        return abort(node, version, stored, "controller", &why, "").await;
    }
    if let Some(why) = is_unbound(node, &stored).await {
        return abort(node, version, stored, "controller", &why, "").await;
    }
    if is_going_back(node, &stored) {
        return Ok(()); // what it replaces is rolling back: afterwards
    }
    if !can_read_all(node, &stored.id).await {
        return Ok(()); // its members would be missing from the list
    }
    // Whatever a person has said of whose an agent is since the rollout was started is younger than its lists, however
    // long they take, or approvals: nobody can tell when exactly they are made.
    let opening = Epoch::new(node.control.read().incarnation(), version);
    let words = words(node);
    let families = node.control.read().families.clone();
    let drawn = aside({
        let (node, stored) = (node.clone(), stored.clone());
        let (family, revision) = (family.value.clone(), revision.clone());
        move || draw(&node, &stored, &family, &revision)
    });
    let drawn = match drawn.await {
        Some(Ok(drawn)) => drawn,
        Some(Err(NotDrawn::Unfit(why))) => {
            return abort(node, version, stored, "controller", &why, "").await;
        }
        Some(Err(NotDrawn::Unreadable(error))) => {
            tracing::warn!(rollout = stored.id, error = %crate::partition::chain(&error), "the inventory cannot be read; tried again");
            return Ok(());
        }
        None => return Ok(()), // the node stops
    };
    let as_drawn = lenders(&drawn.lists, &stored.family, &families);
    for (partition, members) in node.partitions.iter().zip(drawn.lists) {
        partition.drop_list(&stored.id).await?;
        partition.store_list(&stored.id, members).await?;
    }
    // Once more, now that they are complete: who owes an agent a way back was told by what a person had said of it.
    if !can_read_all(node, &stored.id).await || any_taken_back(node, &words) {
        return Ok(()); // they are drawn again
    }
    enter(&mut stored, &revision, &drawn.roles);
    if stored.continues {
        take_over(node, &mut stored);
    }
    // What it replaces may have been completed while this one waited for its approvals.
    stored.from = node.control.read().last_stable(&family.value);
    let figures = {
        let (node, replaced) = (node.clone(), stored.supersedes.clone());
        aside(move || last_figures(&node, &replaced)).await
    };
    let Some(figures) = figures else {
        return Ok(()); // the node stops
    };
    let (writes, mut acts) = {
        let documents = node.control.read();
        stored.opening_epoch = opening.0;
        let next = store::Family {
            rollout: stored.id.clone(),
            target: stored.to,
            ..store::Family::clone(&family.value)
        };
        // What it replaces has gone on until now, and its lists go with this: where its members stand is kept.
        let replaced = documents.rollouts.get(&stored.supersedes);
        let replaced = replaced.filter(|r| !rollout_state(r.value.state()).is_final());
        let since = replaced.map(|r| failures_since(&r.value));
        // What has failed by the program before this one is a refusal.
        stored.failures_since = supersede::since(documents.epoch().next(), since).0;
        let mut writes = vec![
            put(table::ROLLOUT, stored.id.as_str(), version, &stored),
            put(table::FAMILY, stored.family.as_str(), family.version, &next),
        ];
        writes.extend(validated(&documents, &stored, drawn.versions));
        writes.extend(as_drawn);
        let replaced = replaced
            .zip(figures)
            .map(|(found, (ended_counts, window))| {
                let open = Doc {
                    version: found.version,
                    value: Arc::new(store::Rollout {
                        ended_counts,
                        window: Some(window),
                        ..store::Rollout::clone(&found.value)
                    }),
                };
                supersede_with(&open, State::Superseded, &stored, &stored.actor)
            });
        let (replaced, act): (Vec<_>, Vec<_>) = replaced.into_iter().unzip();
        writes.extend(replaced);
        (writes, act)
    };
    let replaces = !acts.is_empty();
    let members: u64 = stored.roles.iter().map(|r| r.members).sum();
    acts.push(act(
        "controller",
        "rollout.open",
        format!("rollout/{}", stored.id),
        format!(
            "its lists are complete: {}",
            super::number(members, "member")
        ),
    ));
    let change = entry(writes, acts);
    node.control_ledger.propose(change).await?;
    if replaces {
        node.fence().await?;
    }
    drop_old_lists(node, &stored).await
}

/// The families from which agents are taken, as they were when the lists were drawn. They are stored as they are, so that
/// neither this nor a deactivation that has not seen the lists goes through after the other: a family that is deactivated
/// has nothing to give back.
fn lenders(
    lists: &[Vec<Member>],
    own: &str,
    families: &BTreeMap<String, Doc<store::Family>>,
) -> Vec<store::Write> {
    let taken = lists.iter().flatten().filter_map(|m| m.taken_from.as_ref());
    let lenders: BTreeSet<&str> = taken.map(|owner| owner.family.as_str()).collect();
    let foreign = lenders.into_iter().filter(|name| *name != own);
    let as_it_is = |name: &str| {
        let family = families.get(name)?;
        Some(put(table::FAMILY, name, family.version, &*family.value))
    };
    foreign.filter_map(as_it_is).collect()
}

/// Are all partitions here as their leaders have them? If not, that is what the rollout waits for.
async fn can_read_all(node: &Node, rollout: &str) -> bool {
    let unreadable = node.look().await;
    if !unreadable.is_empty() {
        let why = format!("{} cannot be read at the moment", unreadable.join(", "));
        node.waiting.write(rollout, vec![Waiting::Evidence { why }]);
    }
    unreadable.is_empty()
}

/// Agents of which a person has said whose they are, and has not taken it back; by partition.
fn words(node: &Node) -> Vec<BTreeSet<Uid>> {
    let partitions = node.partitions.iter();
    partitions.map(|p| spoken_of(&p.index().read())).collect()
}

fn spoken_of(columns: &Columns) -> BTreeSet<Uid> {
    let spoken_of = columns.rows.values().filter(|row| row.resolved != 0);
    spoken_of.map(|row| row.uid).collect()
}

/// Has anything been taken back of what had been said? A list that was drawn before that lacks the way back that the agent
/// is owed again. What is said anew needs no other list: it goes before any.
fn any_taken_back(node: &Node, before: &[BTreeSet<Uid>]) -> bool {
    let now = words(node);
    before
        .iter()
        .zip(&now)
        .any(|(then, now)| !then.is_subset(now))
}

/// A rollout's lists, before they are stored.
struct Drawn {
    /// By partition, in uid order.
    lists: Vec<Vec<Member>>,
    /// By role of the revision: its waves, and how many members it has.
    roles: Vec<(Assigned, u64)>,
    /// Versions of the collectors that the config was held against.
    versions: BTreeSet<String>,
}

/// Why no lists were drawn.
enum NotDrawn {
    /// A body cannot be read.
    Unreadable(raft::Fatal),
    /// The fleet is not what it was when the start was checked. Nothing was offered: a person looks again.
    Unfit(String),
}

/// Who is a member, and in which wave. Looks at every agent.
fn draw(
    node: &Node,
    stored: &store::Rollout,
    family: &store::Family,
    revision: &store::Revision,
) -> Result<Drawn, NotDrawn> {
    let found = crate::preview::candidates(node, &stored.family, family.precedence, revision);
    let (mut candidates, _) = found.map_err(NotDrawn::Unreadable)?;
    let missing = revision_settings(family, revision).missing;
    if missing == components::Policy::Block
        && !stored.back
        && let Some(lacking) = crate::preview::lacking(node, &candidates)
    {
        return Err(NotDrawn::Unfit(lacking));
    }
    if stored.continues {
        put_ahead(node, &stored.supersedes, &mut candidates);
    }
    let plan = stored
        .plan
        .as_ref()
        .map_or_else(fleet::rollout::default_plan, plan_spec);
    let assignment = assign(node, &candidates, revision, &plan, stored.back).map_err(|error| {
        let why = format!("the fleet has changed: {}", crate::partition::chain(&error));
        NotDrawn::Unfit(why)
    })?;
    let versions = versions(node, &candidates);
    let list = |of: Vec<Candidate>| of.iter().filter_map(|c| member(c, &assignment)).collect();
    let lists: Vec<Vec<Member>> = candidates.into_iter().map(list).collect();
    let mut sizes = vec![0; assignment.roles.len()];
    for member in lists.iter().flatten() {
        if let Some(size) = sizes.get_mut(member.role as usize) {
            *size += 1;
        }
    }
    Ok(Drawn {
        lists,
        roles: assignment.roles.into_iter().zip(sizes).collect(),
        versions,
    })
}

/// Is the rollout that this one replaces on its way back?
fn is_going_back(node: &Node, stored: &store::Rollout) -> bool {
    let documents = node.control.read();
    let replaced = documents.rollouts.get(&stored.supersedes);
    replaced.is_some_and(|r| rollout_state(r.value.state()) == State::RollingBack)
}

/// What is different from the preview that the start was bound to; none: nothing, or it was bound just now.
async fn is_unbound(node: &Arc<Node>, stored: &store::Rollout) -> Option<String> {
    if now_ms().saturating_sub(stored.created_ms) < BOUND_MS {
        return None;
    }
    let before = crate::preview::kept(&node.control.read(), &stored.preview);
    let Some(before) = before else {
        return Some(format!("its preview {} is gone", stored.preview));
    };
    let (shared, family) = (node.clone(), stored.family.clone());
    let (to, back) = (stored.to, stored.back);
    let plan = stored.plan.clone().unwrap_or_default();
    let made = tokio::task::spawn_blocking(move || {
        crate::preview::make_with(&shared, &family, to, plan_spec(&plan), back)
    });
    match made.await {
        Ok(Ok(now)) if !now.against.is_empty() && !stored.back => Some(format!(
            "revision {} is against the rules for agents that it has now: {}",
            stored.to,
            now.against.join("; ")
        )),
        Ok(Ok(now)) => {
            let differences = crate::preview::differences(&before, &now.kept);
            (!differences.is_empty()).then(|| {
                format!(
                    "the fleet is not what preview {} showed: {}",
                    before.id,
                    differences.join("; ")
                )
            })
        }
        Ok(Err(error)) => Some(crate::partition::chain(&error)),
        // The task was stopped with the node: whoever comes next looks again.
        Err(_) => None,
    }
}

/// Sets the state and the waves of each role.
fn enter(stored: &mut store::Rollout, revision: &store::Revision, roles: &[(Assigned, u64)]) {
    for role in &mut stored.roles {
        let index = revision.roles.iter().position(|r| r.name == role.role);
        let drawn = index.and_then(|index| roles.get(index));
        role.members = drawn.map_or(0, |(_, members)| *members);
        if let Some((assigned, _)) = drawn {
            role.wave_ends.clone_from(&assigned.ends);
            role.wave_specs.clone_from(&assigned.specs);
        }
    }
    stored.prepared = true;
    stored.started_ms = now_ms();
    set_state(stored, State::Running, "its lists are complete");
}

/// Role index and wave of those that the replaced rollout has passed.
fn passed(node: &Node, replaced: &str) -> BTreeSet<(u32, u32)> {
    let documents = node.control.read();
    let Some(old) = documents.rollouts.get(replaced) else {
        return BTreeSet::new();
    };
    let revision = documents.revision(&old.value.family, old.value.to);
    let roles = revision.map(|r| r.value.roles.as_slice());
    let roles = roles.unwrap_or_default();
    let waves = |r: &store::RoleProgress| {
        let passed = r.open_waves - u32::from(!r.done && r.open_waves > 0);
        let index = roles.iter().position(|role| role.name == r.role);
        let index = index.and_then(|index| u32::try_from(index).ok());
        let waves = index.map(|index| (0..passed).map(move |wave| (index, wave)));
        waves.into_iter().flatten()
    };
    old.value.roles.iter().flat_map(waves).collect()
}

/// Who has passed in the replaced rollout comes first, so that the same agents are judged first.
fn put_ahead(node: &Node, replaced: &str, candidates: &mut [Vec<Candidate>]) {
    let passed = passed(node, replaced);
    for (partition, candidates) in node.partitions.iter().zip(candidates) {
        let columns = partition.index().read();
        let Some(list) = columns.lists.get(replaced) else {
            continue;
        };
        for candidate in candidates {
            let member = list.get(&candidate.uid);
            candidate.ahead = member.is_some_and(|m| passed.contains(&(m.role, m.wave)));
        }
    }
}

/// Where the members of the replaced rollout stand, and how long they took.
fn last_figures(node: &Node, replaced: &str) -> Option<(Vec<store::WaveCounts>, store::Window)> {
    let old = node.control.read().rollouts.get(replaced).cloned()?;
    let counts = ended_counts(&observe(node, &old.value));
    Some((counts, window::of(node, &old.value)))
}

/// Which waves open at once, by what the replaced rollout has passed.
fn take_over(node: &Node, stored: &mut store::Rollout) {
    let documents = node.control.read();
    let Some(old) = documents.rollouts.get(&stored.supersedes) else {
        return;
    };
    let old = documents.domain(&old.value);
    let mut new = documents.domain(stored);
    supersede::take_over(&old, &mut new, How::Continue);
    for (role, stored) in new.roles.iter().zip(&mut stored.roles) {
        stored.continue_at = role.continue_at;
    }
}

/// The revision with the versions of the collectors that it was checked against.
fn validated(
    documents: &Documents,
    stored: &store::Rollout,
    versions: BTreeSet<String>,
) -> Option<store::Write> {
    let found = documents.revision(&stored.family, stored.to)?;
    let known: BTreeSet<String> = found.value.versions.iter().cloned().collect();
    let all: BTreeSet<String> = known.union(&versions).cloned().collect();
    if all == known {
        return None;
    }
    let next = store::Revision {
        versions: all.into_iter().collect(),
        ..store::Revision::clone(&found.value)
    };
    let key = revision_key(&stored.family, stored.to);
    Some(put(table::REVISION, key, found.version, &next))
}

/// Versions of those members whose build was held against the config.
fn versions(node: &Node, candidates: &[Vec<Candidate>]) -> BTreeSet<String> {
    let mut versions = BTreeSet::new();
    for (partition, candidates) in node.partitions.iter().zip(candidates) {
        let columns = partition.index().read();
        let known = candidates
            .iter()
            .filter(|c| c.role.is_some() && c.build.is_some());
        let rows = known.filter_map(|c| columns.rows.get(&c.uid));
        versions.extend(rows.filter_map(|row| Some(row.get("service.version")?.to_owned())));
    }
    versions
}

/// The family's earlier lists have told where their members stand until now; the new one decides for them.
async fn drop_old_lists(node: &Node, stored: &store::Rollout) -> Result<(), ProposeError> {
    let old: Vec<String> = {
        let documents = node.control.read();
        let all = documents.rollouts.values().map(|r| &r.value);
        let old = all.filter(|r| r.family == stored.family && r.id != stored.id);
        old.map(|r| r.id.clone()).collect()
    };
    for partition in node.partitions.iter() {
        for id in &old {
            partition.drop_list(id).await?;
        }
    }
    Ok(())
}

/// Who is in which wave.
pub struct Assignment {
    /// Wave of each changed member.
    pub placed: BTreeMap<Uid, u32>,
    /// By role of the revision: where its waves end, and which of the plan's they are.
    pub roles: Vec<Assigned>,
    /// What such a rollout would be.
    pub rollout: Rollout,
}

/// Why there is no assignment.
#[derive(Debug, thiserror::Error)]
pub enum Unassignable {
    /// A role has not the agents that its waves ask for.
    #[error("the plan does not fit role {role}")]
    Role {
        /// Which.
        role: String,
        /// Why.
        source: waves::Error,
    },
    /// A wave takes nobody of any role.
    #[error("the plan does not fit the fleet")]
    Nobody(#[source] waves::Error),
    /// Somebody would go before those that have to go first.
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
}

/// Puts the changed members of each role into waves. The order is drawn by family and revision, so that a preview names
/// the canaries that the rollout will have.
pub fn assign(
    node: &Node,
    candidates: &[Vec<Candidate>],
    revision: &store::Revision,
    plan: &PlanSpec,
    back: bool,
) -> Result<Assignment, Unassignable> {
    let takes = |uid: Uid, spec: &WaveSpec| {
        let columns = node.partition(uid).index().read();
        let row = columns.rows.get(&uid);
        row.is_some_and(|row| waves::takes(spec, row))
    };
    place(candidates, revision, plan, back, takes)
}

/// As [`assign`]; `takes` says whether the selector and zone of a wave take an agent.
fn place(
    candidates: &[Vec<Candidate>],
    revision: &store::Revision,
    plan: &PlanSpec,
    back: bool,
    takes: impl Fn(Uid, &WaveSpec) -> bool,
) -> Result<Assignment, Unassignable> {
    let seed = format!("{}/{}", revision.family, revision.number);
    let may = |uid: &[u8; 16], wave: usize| {
        Uid::from_wire(uid).is_ok_and(|uid| takes(uid, &plan.waves[wave]))
    };
    let mut found = vec![false; plan.waves.len()];
    let mut placed = BTreeMap::new();
    let mut roles = Vec::new();
    for (role, stored) in revision.roles.iter().enumerate() {
        let ordered = changed(candidates, role).map(Candidate::for_waves);
        let ordered = waves::order(ordered.collect(), &seed);
        let assigned = waves::assign(&ordered, &plan.waves, |c, wave| may(&c.uid, wave));
        let assigned = assigned.map_err(|source| Unassignable::Role {
            role: stored.name.clone(),
            source,
        })?;
        for (candidate, wave) in ordered.iter().zip(&assigned.waves) {
            if let Ok(uid) = Uid::from_wire(&candidate.uid) {
                placed.insert(uid, *wave);
            }
        }
        for (wave, found) in found.iter_mut().enumerate() {
            *found = *found || ordered.iter().any(|c| may(&c.uid, wave));
        }
        roles.push(assigned);
    }
    waves::check_everybody(&plan.waves, &found).map_err(Unassignable::Nobody)?;
    let rollout = planned(revision, plan, back, &roles);
    rollout.check_in_step(|before, from, spec| {
        let index = revision.roles.iter().position(|r| r.name == before.name);
        let members = changed(candidates, index.unwrap_or(usize::MAX));
        let later = members.filter(|c| placed.get(&c.uid).is_some_and(|w| *w as usize >= from));
        later.filter(|c| takes(c.uid, spec)).count() as u64
    })?;
    Ok(Assignment {
        placed,
        roles,
        rollout,
    })
}

/// The rollout that would have these waves, its roles in their order.
fn planned(
    revision: &store::Revision,
    plan: &PlanSpec,
    back: bool,
    assigned: &[Assigned],
) -> Rollout {
    let roles: Vec<fleet::family::Role> = revision.roles.iter().filter_map(role).collect();
    let ordered = order(&revision.family, &roles).unwrap_or_else(|_| roles.iter().collect());
    let entered = |role: &fleet::family::Role| {
        let index = revision.roles.iter().position(|r| r.name == role.name);
        let assigned = index.and_then(|index| assigned.get(index));
        let (wave_ends, wave_specs) = assigned
            .map(|assigned| (assigned.ends.clone(), assigned.specs.clone()))
            .unwrap_or_default();
        Role {
            name: role.name.clone(),
            after: role.after.clone(),
            wave_ends,
            wave_specs,
            ..Role::default()
        }
    };
    Rollout {
        state: State::Planned,
        direction: match back {
            false => Direction::Forward,
            true => Direction::Back,
        },
        plan: plan.clone(),
        roles: ordered.into_iter().map(entered).collect(),
        roll_back: None,
        inconclusive_ms: 0,
    }
}

/// Members of a role that get something, as far as no pin holds them.
fn changed(candidates: &[Vec<Candidate>], role: usize) -> impl Iterator<Item = &Candidate> {
    candidates.iter().flatten().filter(move |c| {
        c.role.is_some_and(|index| index as usize == role) && !c.unchanged && !c.pinned
    })
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

#[cfg(test)]
mod tests {
    use fleet::waves::Size;
    use prost::Message;

    use super::*;
    use crate::inventory::Index;
    use crate::ledger::Mirror;

    fn candidate(role: u32, number: u8) -> Candidate {
        Candidate {
            uid: Uid::from_wire(&[number; 16]).unwrap(),
            role: Some(role),
            left_out: None,
            lacks: None,
            conflict: None,
            unchanged: false,
            reachable: true,
            stratum: String::new(),
            delivery: None,
            applied: false,
            drifted: false,
            effective: Arc::default(),
            build: None,
            owned: true,
            ahead: false,
            pinned: false,
            taken_from: None,
        }
    }

    #[test]
    fn lists_are_drawn_again_when_a_word_was_taken_back_meanwhile_and_not_when_one_was_said() {
        let said = |agents: &[(u8, u64)]| {
            let index = Index::default();
            let mut mirror = index.mirror();
            for (number, resolved_epoch) in agents {
                let agent = store::Agent {
                    resolved_epoch: *resolved_epoch,
                    ..store::Agent::default()
                };
                mirror.put(table::AGENT, &[*number; 16], 1, &agent.encode_to_vec());
            }
            mirror.publish(0);
            spoken_of(&index.read())
        };
        let before = said(&[(1, 7), (2, 0), (3, 9)]);
        let more = said(&[(1, 7), (2, 11), (3, 12)]);
        assert!(before.is_subset(&more), "two words more");
        let taken_back = said(&[(1, 0), (2, 11), (3, 9)]);
        assert!(!before.is_subset(&taken_back));
    }

    /// Agents of the odd numbers are in zone a, the others in b; role "agent" goes after "gateway".
    fn tried(zones: &[Option<&str>], back: bool) -> Result<Assignment, String> {
        let stored = |name: &str, after: &[&str]| store::Role {
            name: name.into(),
            selector: "*".into(),
            after: after.iter().map(|role| (*role).to_owned()).collect(),
            ..store::Role::default()
        };
        let revision = store::Revision {
            family: "web".into(),
            number: 2,
            roles: vec![stored("agent", &["gateway"]), stored("gateway", &[])],
            ..store::Revision::default()
        };
        let wave = |(at, zone): (usize, &Option<&str>)| WaveSpec {
            size: match at + 1 == zones.len() {
                true => Size::Percent(waves::WHOLE),
                false => Size::Percent(waves::WHOLE / 2),
            },
            zone: zone.map(str::to_owned),
            ..WaveSpec::default()
        };
        let plan = PlanSpec {
            waves: zones.iter().enumerate().map(wave).collect(),
            interleave: true,
            ..fleet::rollout::default_plan()
        };
        let takes = |uid: Uid, spec: &WaveSpec| {
            let zone = if uid.as_bytes()[0] % 2 == 1 { "a" } else { "b" };
            spec.zone.as_deref().is_none_or(|wanted| wanted == zone)
        };
        let members = (1..=4).map(|n| candidate(0, n));
        let members = members.chain((5..=8).map(|n| candidate(1, n))).collect();
        let placed = place(&[members], &revision, &plan, back, takes);
        placed.map_err(|error| error.to_string())
    }

    #[test]
    fn interleaved_waves_that_would_go_before_their_gateways_are_refused() {
        let refused = tried(&[None, None], false).err().unwrap();
        assert!(
            refused.contains(
                "wave 1 of role agent would go before 2 members of role gateway that share its part of the fleet"
            ),
            "{refused}"
        );
        let back = tried(&[None, None], true).err().unwrap();
        assert!(
            back.contains("wave 1 of role gateway would go before 2 members of role agent"),
            "{back}"
        );
        assert!(tried(&[Some("a"), Some("b")], false).is_ok());
    }

    #[test]
    fn a_planned_rollout_has_its_roles_in_their_order_with_the_waves_that_they_got() {
        let Ok(assignment) = tried(&[Some("a"), Some("b")], true) else {
            panic!("it fits");
        };
        let rollout = assignment.rollout;
        let roles: Vec<_> = rollout
            .roles
            .iter()
            .map(|r| {
                (
                    r.name.as_str(),
                    r.after.len(),
                    &r.wave_ends[..],
                    &r.wave_specs[..],
                )
            })
            .collect();
        let (ends, specs) = (&[2, 4][..], &[0, 1][..]);
        assert_eq!(
            roles,
            [("gateway", 0, ends, specs), ("agent", 1, ends, specs)]
        );
        assert_eq!(rollout.direction, Direction::Back);
    }
}
