//! What a person does.

use std::collections::BTreeMap;

use fleet::governance::supersede::{self, How};
use fleet::membership::{Reach, check_reach};
use fleet::program::{Program, Scope, matching};
use fleet::rollout::{Direction, PlanSpec, Role, Rollout, State};
use fleet::waves::{self, Candidate};

use super::{Doc, Event, Family, Id, Member, World, delivery, uid};

/// A start as it is asked for.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    pub family: &'a str,
    pub plan: PlanSpec,
    pub reach: Option<u64>,
    pub supersede: Option<How>,
    /// Go to this revision instead of a new one.
    pub to: Option<u64>,
    pub direction: Direction,
}

impl World {
    /// Opens a rollout; its id, or why not.
    pub fn start(&mut self, start: &Start<'_>) -> Result<String, String> {
        let family = self
            .families
            .get(start.family)
            .ok_or("no such family")?
            .clone();
        let roles = family.draft.clone().unwrap_or_else(|| family.roles.clone());
        let family = Family { roles, ..family };
        if let Some(mistake) = start.plan.check().first() {
            return Err(mistake.to_string());
        }
        let open = family
            .rollout
            .as_ref()
            .map(|id| (id.clone(), self.rollouts[id].kept.state));
        let mut replaced = None;
        if let Some((id, state)) = &open {
            let next = supersede::check(start.family, id, *state, start.supersede);
            replaced = next
                .map_err(|refused| refused.to_string())?
                .map(|to| (id.clone(), to));
        }
        let to = start.to.unwrap_or(family.latest + 1);
        let program = self.program();
        let members = self.claimed(start.family, &family, &program);
        let reach = Reach {
            family: start.family.to_owned(),
            owned: self.owned(start.family),
            members: members.len() as u64,
            takeovers: vec![],
        };
        check_reach(&reach, start.reach).map_err(|refused| refused.to_string())?;
        let id = format!("ro-{}", self.rollouts.len() + 1);
        let (mut rollout, list) = self.place_members(start, &family, to, &members)?;
        if let Some((old, _)) = &replaced {
            let how = start.supersede.unwrap_or_default();
            supersede::take_over(&self.rollouts[old].kept, &mut rollout, how);
        }
        if let Some((old, next)) = replaced {
            let moved = {
                let doc = self.rollouts.get_mut(&old).expect("it is there");
                let moved = doc.memory.set(next, "replaced by a newer revision");
                doc.kept = doc.memory.clone();
                moved
            };
            if let Some(moved) = moved {
                self.moved(&old, "anna", moved.to, &moved.cause);
            }
        }
        let record = self.families.get_mut(start.family).expect("it is there");
        record.roles.clone_from(&family.roles);
        record.draft = None;
        record.latest = record.latest.max(to);
        record.rollout = Some(id.clone());
        self.epoch += 1;
        let doc = Doc {
            family: start.family.to_owned(),
            from: family.stable,
            to,
            opened: self.epoch,
            kept: rollout.clone(),
            memory: rollout,
            kept_at_ms: self.now_ms,
            members: list,
            waiting: vec![],
        };
        self.rollouts.insert(id.clone(), doc);
        self.order(&id, "anna", |rollout, _| {
            rollout.set(State::Running, "started")
        });
        Ok(id)
    }

    /// Agents that this family's roles claim, one role each, and that nobody else owns.
    fn claimed(&self, name: &str, family: &Family, program: &Program) -> Vec<(Id, String)> {
        let mut claimed = Vec::new();
        for (id, agent) in self
            .agents
            .iter()
            .filter(|(_, a)| !a.deleted && !a.duplicate)
        {
            let matches = |role: &&(String, fleet::selector::Selector, Vec<String>)| {
                role.1.matches(&agent.labels)
            };
            let roles: Vec<_> = family.roles.iter().filter(matches).collect();
            let foreign = agent.owner.as_ref().is_some_and(|(owner, _)| owner != name);
            let other_role = |role: &str| agent.owner.as_ref().is_some_and(|(_, r)| r != role);
            let higher = program.families.iter().any(|other| {
                other.precedence > family.precedence
                    && !matching(
                        other.joins_at().map_or(&[], |n| other.roles(n)),
                        &agent.labels,
                    )
                    .is_empty()
            });
            if let [(role, ..)] = roles[..]
                && !foreign
                && !higher
                && !other_role(role)
            {
                claimed.push((*id, role.clone()));
            }
        }
        claimed
    }

    fn owned(&self, family: &str) -> u64 {
        let owners = self
            .agents
            .values()
            .filter_map(|agent| agent.owner.as_ref());
        owners.filter(|(owner, _)| owner == family).count() as u64
    }

    fn place_members(
        &self,
        start: &Start<'_>,
        family: &Family,
        to: u64,
        members: &[(Id, String)],
    ) -> Result<(Rollout, BTreeMap<Id, Member>), String> {
        let (mut roles, mut list) = (Vec::new(), BTreeMap::new());
        let old = family.rollout.as_ref().map(|id| &self.rollouts[id]);
        let old = old.filter(|_| start.supersede == Some(How::Continue));
        let ahead = |id: Id| {
            let member = old.and_then(|doc| Some((doc, doc.members.get(&id)?)));
            member.is_some_and(|(doc, member)| {
                let role = doc.kept.roles.iter().find(|role| role.name == member.role);
                role.is_some_and(|role| role.done || member.wave + 1 < role.open_waves)
            })
        };
        for (name, _, after) in &family.roles {
            let target = delivery(start.family, name, to);
            let of_role = members.iter().filter(|(_, role)| role == name);
            let runs = |id: &Id| {
                let agent = &self.agents[id];
                let settled = agent.delivery.as_ref().map(|d| (d.hash, d.state));
                settled == Some((target, fleet::offer::State::Applied))
            };
            let (same, changed): (Vec<Id>, Vec<Id>) =
                of_role.map(|(id, _)| *id).partition(|id| runs(id));
            let candidate = |id: &Id| Candidate {
                uid: uid(*id),
                stratum: self.agents[id]
                    .labels
                    .get("version")
                    .cloned()
                    .unwrap_or_default(),
                reachable: !self.agents[id].is_lost(self.now_ms),
                ahead: ahead(*id),
            };
            let ordered = waves::order(changed.iter().map(candidate).collect(), "seed");
            let may = |candidate: &Candidate, wave: usize| {
                let id = Id::try_from(u128::from_be_bytes(candidate.uid)).expect("an id");
                waves::takes(&start.plan.waves[wave], &self.agents[&id].labels)
            };
            let assigned = waves::assign(&ordered, &start.plan.waves, may)
                .map_err(|error| format!("role {name}: {error}"))?;
            for (candidate, wave) in ordered.iter().zip(&assigned.waves) {
                let id = Id::try_from(u128::from_be_bytes(candidate.uid)).expect("an id");
                let member = Member {
                    role: name.clone(),
                    wave: *wave,
                    unchanged: false,
                };
                list.insert(id, member);
            }
            let last = u32::try_from(assigned.ends.len().saturating_sub(1)).expect("few waves");
            for id in same {
                let member = Member {
                    role: name.clone(),
                    wave: last,
                    unchanged: true,
                };
                list.insert(id, member);
            }
            roles.push(Role {
                name: name.clone(),
                after: after.clone(),
                wave_ends: assigned.ends,
                wave_specs: assigned.specs,
                ..Role::default()
            });
        }
        let rollout = Rollout {
            state: State::Planned,
            direction: start.direction,
            plan: start.plan.clone(),
            roles,
            roll_back: None,
            inconclusive_ms: 0,
        };
        Ok((rollout, list))
    }

    /// A person's order: stored, written down, and in force at once. False if its life cycle has no such move.
    pub fn order(
        &mut self,
        id: &str,
        actor: &str,
        verb: impl FnOnce(&mut Rollout, &fleet::rollout::Observed) -> Option<fleet::rollout::Transition>,
    ) -> bool {
        let (observed, _) = self.observe(id, &self.program());
        let doc = self.rollouts.get_mut(id).expect("a rollout");
        let Some(moved) = verb(&mut doc.memory, &observed) else {
            return false;
        };
        doc.kept = doc.memory.clone();
        self.epoch += 1;
        self.moved(id, actor, moved.to, &moved.cause);
        true
    }

    pub fn pause(&mut self, id: &str) -> bool {
        self.order(id, "anna", |r, _| r.set(State::Paused, "paused by anna"))
    }

    pub fn halt(&mut self, id: &str) -> bool {
        self.order(id, "anna", |r, _| r.set(State::Halted, "halted by anna"))
    }

    pub fn resume(&mut self, id: &str) -> bool {
        self.order(id, "anna", |r, seen| r.resume(seen, "resumed by anna"))
    }

    pub fn roll_back(&mut self, id: &str) -> bool {
        self.order(id, "anna", |r, _| {
            r.roll_back(Scope::All, "rolled back by anna")
        })
    }

    /// A person asks one agent again.
    pub fn retry(&mut self, id: Id) {
        let agent = self.agents.get_mut(&id).expect("an agent");
        agent.refused.clear();
        agent.duplicate = false;
        if let Some(delivery) = &mut agent.delivery
            && matches!(
                delivery.state,
                fleet::offer::State::Failed
                    | fleet::offer::State::RolledBackByAgent
                    | fleet::offer::State::NoAnswer
            )
        {
            delivery.state = fleet::offer::State::Withdrawn;
        }
        self.act("anna", "agent.retry", &super::name(id), "");
        self.events.push(Event::Retried { agent: id });
    }
}
