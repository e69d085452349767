//! What a person does.

use std::collections::BTreeMap;

use fleet::governance::supersede::{self, How};
use fleet::membership::enlist::{Applicant, enlist};
use fleet::membership::{Reach, check_reach};
use fleet::program::{Epoch, Place, Scope, word};
use fleet::rollout::{Check, Direction, PlanSpec, Role, Rollout, State, WaveSpec};
use fleet::waves::{self, Candidate};

use super::{Doc, Event, Family, Id, Member, Owner, World, borrowed, delivery, uid};

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
            let next = supersede::check(start.family, id, (*state, true), start.supersede);
            replaced = next
                .map_err(|refused| refused.to_string())?
                .map(|to| (id.clone(), to));
        }
        let to = start.to.unwrap_or(family.latest + 1);
        let members = self.members_of(start.family);
        let mut takeovers: BTreeMap<String, u64> = BTreeMap::new();
        let foreign = members.iter().filter_map(|(_, m)| m.taken_from.clone());
        for (from, _) in foreign.filter(|(from, _)| from != start.family) {
            *takeovers.entry(from).or_default() += 1;
        }
        let reach = Reach {
            family: start.family.to_owned(),
            owned: self.owned(start.family),
            members: members.len() as u64,
            takeovers: takeovers.into_iter().collect(),
        };
        check_reach(&reach, start.reach).map_err(|refused| refused.to_string())?;
        let id = format!("ro-{}", self.rollouts.len() + 1);
        let (mut rollout, list) = self.place_members(start, &family, to, &members)?;
        self.in_step(&rollout, &list)?;
        if let Some((old, _)) = &replaced {
            let how = start.supersede.unwrap_or_default();
            supersede::take_over(&self.rollouts[old].kept, &mut rollout, how);
        }
        let mut since = None;
        if let Some((old, next)) = replaced {
            // What was planned only has offered nothing, and nothing of it goes on.
            since = (next == State::Superseded).then(|| Epoch(self.rollouts[&old].since));
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
            since: supersede::since(Epoch(self.epoch), since).0,
            kept: rollout.clone(),
            memory: rollout,
            kept_at_ms: self.now_ms,
            members: list,
            waiting: vec![],
            answers: BTreeMap::new(),
        };
        self.rollouts.insert(id.clone(), doc);
        self.order(&id, "anna", |rollout, _| {
            rollout.set(State::Running, "started")
        });
        Ok(id)
    }

    /// Whom a rollout of this family would list now.
    pub fn members_of(&self, name: &str) -> Vec<(Id, Member)> {
        let family = &self.families[name];
        let roles = family.draft.as_ref().unwrap_or(&family.roles);
        let program = self.program();
        let live = self.agents.iter().filter(|(_, agent)| !agent.deleted);
        let listed = live.filter_map(|(id, agent)| {
            let matches = roles.iter().filter(|(_, s, _)| s.matches(&agent.labels));
            let applicant = Applicant {
                owner: borrowed(agent.owner.as_ref()),
                roles: matches.map(|(role, ..)| role.as_str()).collect(),
                claims: program.claims(&agent.labels),
                duplicate: agent.duplicate,
                many_collectors: false,
                accepts: true,
                stopped: agent.stopped,
            };
            let listed = enlist(name, family.precedence, &applicant, &program).ok()?;
            let owned = |(family, role): (&str, &str)| (family.to_owned(), role.to_owned());
            let member = Member {
                role: listed.role.to_owned(),
                wave: 0,
                unchanged: false,
                taken_from: listed
                    .taken_from
                    .map(owned)
                    .or_else(|| self.came_from(*id, family)),
            };
            Some((*id, member))
        });
        listed.collect()
    }

    /// Whom the family's last rollout took it from, if that one was not completed: it still owes the agent its way back.
    fn came_from(&self, id: Id, family: &Family) -> Option<Owner> {
        let last = &self.rollouts[family.rollout.as_ref()?];
        let delivery = self.agents[&id].delivery.as_ref();
        let by_rollout = delivery.is_some_and(|d| !d.rollout.is_empty());
        // A person has said since whose it is.
        let said = self.agents[&id]
            .resolved
            .is_some_and(|at| at >= last.opened);
        let owes = last.kept.state != State::Completed && by_rollout && !said;
        let member = last.members.get(&id).filter(|_| owes)?;
        member.taken_from.clone()
    }

    /// Does nobody go before the gateways that it may use?
    fn in_step(&self, rollout: &Rollout, list: &BTreeMap<Id, Member>) -> Result<(), String> {
        let late = |before: &Role, from: usize, spec: &WaveSpec| {
            let waits = |(id, member): &(&Id, &Member)| {
                member.role == before.name
                    && !member.unchanged
                    && member.wave as usize >= from
                    && waves::takes(spec, &self.agents[id].labels)
            };
            list.iter().filter(waits).count() as u64
        };
        rollout
            .check_in_step(late)
            .map_err(|error| error.to_string())
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
        members: &[(Id, Member)],
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
            let of_role = members.iter().filter(|(_, member)| member.role == *name);
            let runs = |(id, member): &&(Id, Member)| {
                let agent = &self.agents[id];
                let settled = agent.delivery.as_ref().map(|d| (d.hash, d.state));
                settled == Some((target, fleet::offer::State::Applied))
                    && member.taken_from.is_none()
            };
            let (same, changed): (Vec<_>, Vec<_>) = of_role.partition(runs);
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
            let ordered = waves::order(
                changed.iter().map(|(id, _)| candidate(id)).collect(),
                "seed",
            );
            let may = |candidate: &Candidate, wave: usize| {
                let id = Id::try_from(u128::from_be_bytes(candidate.uid)).expect("an id");
                waves::takes(&start.plan.waves[wave], &self.agents[&id].labels)
            };
            let assigned = waves::assign(&ordered, &start.plan.waves, may)
                .map_err(|error| format!("role {name}: {error}"))?;
            for (candidate, wave) in ordered.iter().zip(&assigned.waves) {
                let id = Id::try_from(u128::from_be_bytes(candidate.uid)).expect("an id");
                let found = changed.iter().find(|(listed, _)| *listed == id);
                let (_, member) = found.expect("it was ordered");
                let member = Member {
                    wave: *wave,
                    ..member.clone()
                };
                list.insert(id, member);
            }
            let last = u32::try_from(assigned.ends.len().saturating_sub(1)).expect("few waves");
            for (id, member) in same {
                let member = Member {
                    wave: last,
                    unchanged: true,
                    ..member.clone()
                };
                list.insert(*id, member);
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

    /// A person says pass or fail where the open waves ask for it. It stands in the record at once, also while nothing
    /// moves; whom it is for.
    pub fn answer(&mut self, id: &str, pass: bool) -> Option<String> {
        let doc = self.rollouts.get_mut(id).expect("a rollout");
        let rollout = &doc.memory;
        if !rollout.state.takes_answers() {
            return None;
        }
        let waves = rollout.roles.iter();
        let waves = waves.flat_map(|role| role.judged().map(move |wave| (role, wave)));
        let asked = waves.filter_map(|(role, wave)| {
            let checks = rollout.wave(role, wave).gate.checks;
            let who = checks.into_iter().find_map(|spec| match spec.check {
                Check::Person(who) => Some(who),
                _ => None,
            })?;
            Some(((role.name.clone(), wave), (who, pass)))
        });
        let answers: Vec<_> = asked.collect();
        let who = answers.first().map(|(_, (who, _))| who.clone())?;
        doc.answers.extend(answers);
        let word = if pass { "pass" } else { "fail" };
        self.act("ben", "check.answer", id, &format!("for {who}: {word}"));
        Some(who)
    }

    /// What has failed until now is accepted: before the look, so that nobody is forgiven who does not count any more.
    pub fn resume(&mut self, id: &str) -> bool {
        let now = self.epoch + 1;
        let since = |world: &mut Self, since| {
            let doc = world.rollouts.get_mut(id).expect("a rollout");
            std::mem::replace(&mut doc.since, since)
        };
        let before = since(self, now);
        let state = self.rollouts[id].memory.state;
        let resumed = self.order(id, "anna", |r, seen| r.resume(seen, "resumed by anna"));
        if !resumed {
            since(self, before);
        } else if !state.keeps_a_no() {
            let doc = self.rollouts.get_mut(id).expect("a rollout");
            doc.answers.retain(|_, (_, pass)| *pass);
        }
        resumed
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
        agent.refusals.clear();
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
            delivery.grants = 0;
        }
        self.act("anna", "agent.retry", &super::name(id), "");
        self.events.push(Event::Retried { agent: id });
    }

    /// Would a rollback of its owner's rollout give it back to somebody else?
    pub fn is_taken(&self, id: Id) -> bool {
        let owner = borrowed(self.agents[&id].owner.as_ref());
        let program = self.program();
        let places = self.places(id, &program);
        places.iter().any(|place| {
            let here = (self.rollouts[place.rollout].family.as_str(), place.role);
            place.taken_from.is_some() && owner == Some(here)
        })
    }

    /// Is it on the list of a rollout that takes it over?
    pub fn is_to_be_taken(&self, id: Id) -> bool {
        let owner = borrowed(self.agents[&id].owner.as_ref());
        let program = self.program();
        let places = self.places(id, &program);
        let takes = |place: &Place<'_>| owner.is_some() && place.taken_from == owner;
        places.iter().any(takes)
    }

    /// A person says that an agent stays, or that it goes to who claims it, or takes back what was said. False: there is
    /// nothing to resolve.
    pub fn resolve(&mut self, id: Id, keep: bool) -> bool {
        let program = self.program();
        let (places, agent) = (self.places(id, &program), &self.agents[&id]);
        let claims = program.claims(&agent.labels);
        let word = word::say(keep, self.whose(id), &claims, &places, &program);
        let Ok(word) = word else {
            return false;
        };
        let owned = |(family, role): (&str, &str)| (family.to_owned(), role.to_owned());
        let (to, text) = (word.granted().map(owned), word.to_string());
        let epoch = self.epoch;
        let agent = self.agents.get_mut(&id).expect("an agent");
        agent.granted.clone_from(&to);
        agent.resolved = to.is_some().then_some(epoch);
        let from = agent.owner.clone().expect("somebody owns it");
        self.act("anna", "agent.owner", &super::name(id), &text);
        self.events.push(Event::Resolved {
            agent: id,
            from,
            to,
        });
        true
    }
}
