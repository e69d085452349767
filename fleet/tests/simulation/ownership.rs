//! Whose an agent is, in the checker's own words: nobody changes hands without a person, a takeover or a policy, and who
//! was taken over goes back to what it had.

use std::collections::BTreeMap;

use fleet::digest::Digest;
use fleet::family::stop_delivery;
use fleet::program::{Desired, OwnerChange, Reason};
use fleet::rollout::State;

use super::Total;
use super::invariants::{Result, hold};
use super::world::{Id, Owner, World, delivery};

#[derive(Default)]
pub struct Ownership {
    /// Whom a person has said it stays with, or goes to.
    granted: BTreeMap<Id, Owner>,
    /// What a person has said last about it, and by which program.
    said: BTreeMap<Id, (Owner, u64)>,
    /// By agent and family that took it: whose it was.
    had: BTreeMap<(Id, String), Owner>,
    /// By agent and family that it went to by a person's word or a policy: whose it was. A list that was made before that
    /// still gives it back there.
    left: BTreeMap<(Id, String), Owner>,
    /// What `had` and `left` said of who is kept by its owner, until a person takes that back.
    aside: BTreeMap<Id, Aside>,
}

#[derive(Default)]
struct Aside {
    /// By whom it is kept.
    family: String,
    had: Option<Owner>,
    left: Option<Owner>,
}

/// What an agent was, before it was sent something or changed hands.
pub type Before = (Option<Owner>, Option<(Digest, String)>);

impl Ownership {
    pub fn resolved(
        &mut self,
        world: &World,
        id: Id,
        from: &Owner,
        to: Option<Owner>,
        total: &mut Total,
    ) {
        let Some(to) = to else {
            self.taken_back(id, total);
            return;
        };
        if *from == to {
            // Whoever had it before, it is here to stay.
            let here = (id, to.0.clone());
            let (had, left) = (self.had.remove(&here), self.left.remove(&here));
            if had.is_some() || left.is_some() {
                let family = to.0.clone();
                self.aside.insert(id, Aside { family, had, left });
            }
            let places = world.places(id, &world.program());
            let from = Some((from.0.as_str(), from.1.as_str()));
            let waits = places.iter().any(|place| place.taken_from == from);
            total.kept_from_a_list += u64::from(waits);
        }
        self.said.insert(id, (to.clone(), world.epoch));
        self.granted.insert(id, to);
    }

    /// As if nobody had said anything.
    fn taken_back(&mut self, id: Id, total: &mut Total) {
        total.words_taken_back += 1;
        self.said.remove(&id);
        self.granted.remove(&id);
        let Some(Aside { family, had, left }) = self.aside.remove(&id) else {
            return;
        };
        let here = (id, family);
        if let Some(had) = had {
            self.had.insert(here.clone(), had);
        }
        if let Some(left) = left {
            self.left.insert(here, left);
        }
    }

    /// What a person has said about it since this rollout was opened.
    pub fn said_since(&self, world: &World, id: Id, rollout: &str) -> Option<&Owner> {
        let (to, at) = self.said.get(&id)?;
        (*at >= world.rollouts[rollout].opened).then_some(to)
    }

    /// Has a person let it go to who claims it, and it has not gone yet, for want of room, say? It does so by itself, outside
    /// of any list.
    pub fn is_let_go(&self, world: &World, id: Id) -> bool {
        let to = self.granted.get(&id);
        to.is_some_and(|to| {
            world.agents[&id].owner.as_ref() != Some(to) && claim(world, id).as_ref() == Some(to)
        })
    }

    /// What a family has completed it has for good.
    pub fn completed(&mut self, family: &str) {
        self.had.retain(|(_, taker), _| taker != family);
        self.aside.retain(|_, aside| aside.family != family);
    }

    /// It was sent something, or is somebody else's without being sent anything.
    pub fn sent(
        &mut self,
        world: &World,
        id: Id,
        desired: &Desired,
        before: &Before,
        total: &mut Total,
    ) -> Result {
        let Some(to) = &desired.owner else {
            return Ok(());
        };
        match &before.0 {
            None => Ok(()),
            Some(from) if from == to => self.stays(world, id, to, desired, before, total),
            Some(from) => {
                let moved = self.moves(world, id, (from, to), desired, total);
                moved.map_err(|why| format!("it went from {from:?} to {to:?}, {why}"))
            }
        }
    }

    /// Its owner sends it something: who was relabelled is pushed nothing.
    fn stays(
        &mut self,
        world: &World,
        id: Id,
        owner: &Owner,
        desired: &Desired,
        (_, last): &Before,
        total: &mut Total,
    ) -> Result {
        let kept = self.granted.get(&id) == Some(owner);
        match &desired.reason {
            Reason::Stable => {
                let stopped = last.as_ref().is_some_and(|(h, _)| *h == stop_delivery());
                let claimed = claim(world, id).as_ref() == Some(owner);
                if claimed || kept {
                    self.had.remove(&(id, owner.0.clone()));
                    self.aside.remove(&id);
                }
                hold(claimed || kept || stopped, || {
                    "it was relabelled, and pushed what its owner has now".into()
                })
            }
            Reason::Wave { rollout } => {
                let touched = last.as_ref().is_some_and(|(_, within)| within == rollout);
                // A person has it try again what it was sent before.
                let again = last.as_ref().map(|(hash, _)| *hash) == desired.delivery;
                hold(touched || again || matches(world, id, owner), || {
                    "it was relabelled, and pushed what a wave brings".into()
                })
            }
            Reason::RolledBack { rollout } => {
                let member = world.rollouts[rollout].members.get(&id);
                let taken = member.is_some_and(|member| member.taken_from.is_some());
                let said = self.said_since(world, id, rollout) == Some(owner);
                total.left_where_put += u64::from(taken && said);
                let had = self.had.get(&(id, owner.0.clone()));
                hold(had.is_none(), || {
                    format!("it was {had:?}'s, and was not given back")
                })
            }
            Reason::Pinned => {
                // When the pin is gone, the list may bring it back to where the pin took it from.
                let taken = (id, owner.0.clone());
                if let Some(from) = self.had.remove(&taken) {
                    self.left.insert(taken, from);
                }
                if let Some(aside) = self.aside.get_mut(&id) {
                    aside.left = aside.had.take().or(aside.left.take());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn moves(
        &mut self,
        world: &World,
        id: Id,
        (from, to): (&Owner, &Owner),
        desired: &Desired,
        total: &mut Total,
    ) -> Result {
        let taken = (id, from.0.clone());
        self.aside.remove(&id);
        match &desired.reason {
            Reason::Wave { rollout } => {
                let doc = &world.rollouts[rollout];
                let listed = doc.members.get(&id).and_then(|m| m.taken_from.as_ref());
                hold(listed == Some(from) && doc.family == to.0, || {
                    "and no list takes it over".into()
                })?;
                let of = |owner: &Owner| world.families[&owner.0].precedence;
                hold(of(to) >= of(from), || "down".into())?;
                let said = self.said_since(world, id, rollout);
                hold(said.is_none_or(|said| said == to), || {
                    format!("and a person has said {said:?} since its list was made")
                })?;
                if said.is_none() {
                    self.had.entry((id, to.0.clone())).or_insert(from.clone());
                }
                self.granted.remove(&id);
                total.taken += 1;
                let lists = world.families.values().filter_map(|f| f.rollout.as_ref());
                let lists = lists.map(|rollout| &world.rollouts[rollout]);
                let open = lists.filter(|d| !d.kept.state.is_final());
                total.on_two_lists +=
                    u64::from(open.filter(|d| d.members.contains_key(&id)).count() > 1);
                Ok(())
            }
            Reason::RolledBack { rollout } => {
                hold(self.said_since(world, id, rollout) != Some(from), || {
                    "and a person has said since the list was made that it stays".into()
                })?;
                let had = self.had.remove(&taken);
                let had = had.or_else(|| self.left.remove(&taken));
                total.given_back += 1;
                hold(had.as_ref() == Some(to), || {
                    format!("and had been {had:?}'s")
                })?;
                let stable = world.families[&to.0].stable;
                // Only its own family takes it from a role that has nothing to go back to yet.
                let gives = delivery(&to.0, &to.1, stable.unwrap_or(0));
                let has_some = stable.is_some() || from.0 == to.0;
                hold(has_some && desired.delivery == Some(gives), || {
                    "and not to what that gives everybody".into()
                })
            }
            _ if self.granted.get(&id) == Some(to) => {
                self.had.remove(&taken);
                self.left.insert((id, to.0.clone()), from.clone());
                self.granted.remove(&id);
                total.granted += 1;
                Ok(())
            }
            _ => {
                let auto = |owner: &Owner| world.families[&owner.0].owner_change;
                let both = [from, to].map(auto) == [OwnerChange::Auto; 2];
                hold(both && claim(world, id).as_ref() == Some(to), || {
                    format!("{:?}, and nobody has said so", desired.reason)
                })?;
                self.had.remove(&taken);
                self.left.insert((id, to.0.clone()), from.clone());
                total.by_policy += 1;
                Ok(())
            }
        }
    }

    /// When all is quiet, whoever was taken over in a rollout that was taken back is its owner's again.
    pub fn settled(&self, world: &World) -> Result {
        for ((id, taker), owner) in &self.had {
            let agent = &world.agents[id];
            let rollout = world.families[taker].rollout.as_ref();
            let rollout = rollout.map(|rollout| &world.rollouts[rollout].kept);
            let back = rollout.is_some_and(|r| r.state == State::RolledBack);
            let there = !(agent.deleted || agent.left || agent.duplicate || agent.stopped);
            let has = agent.owner.as_ref().map(|(family, _)| family) == Some(taker);
            let stable = world.families[&owner.0].stable;
            let gives = stable.map(|revision| delivery(&owner.0, &owner.1, revision));
            let refused = gives.is_some_and(|hash| agent.refused.contains(&hash));
            let in_it = agent.delivery.as_ref().is_some_and(|d| {
                let newest = world.families[taker].rollout.as_ref();
                let listed =
                    newest.is_some_and(|newest| world.rollouts[newest].members.contains_key(id));
                Some(&d.rollout) == newest || d.hash == stop_delivery() && listed
            });
            hold(!(back && there && has && in_it) || refused, || {
                format!("agent {id} was taken from {owner:?} and is still {taker}'s")
            })?;
        }
        for (id, to) in &self.granted {
            let agent = &world.agents[id];
            let there = !(agent.deleted || agent.left || agent.duplicate);
            let sound = agent.told_healthy && agent.refused.is_empty() && !agent.is_in_flight();
            let waits = agent.owner.as_ref() != Some(to) && claim(world, *id).as_ref() == Some(to);
            // Where an agent is sick there may never be room.
            let crowded = world.rooms.sick.contains_key(&world.domain_of(agent));
            hold(!(there && sound && waits) || crowded, || {
                format!("agent {id} was to go to {to:?}, which claims it, and is not there")
            })?;
        }
        Ok(())
    }
}

/// Does the role that it has still match it?
fn matches(world: &World, id: Id, (family, role): &Owner) -> bool {
    let roles = &world.families[family].roles;
    let found = roles.iter().find(|(name, ..)| name == role);
    found.is_some_and(|(_, selector, _)| selector.matches(&world.agents[&id].labels))
}

/// Who claims it: the one role of the highest family that matches it and lets new agents in.
fn claim(world: &World, id: Id) -> Option<Owner> {
    let lets_in = |name: &&String| {
        let family = &world.families[*name];
        let rollout = family.rollout.as_ref().map(|id| &world.rollouts[id].kept);
        let passed = rollout.is_some_and(|r| r.state == State::Running && r.has_passed());
        family.stable.is_some() || passed
    };
    let claims = |name: &&String| {
        let roles = &world.families[*name].roles;
        let mut roles = roles.iter();
        roles.any(|(_, selector, _)| selector.matches(&world.agents[&id].labels))
    };
    let families = world.families.keys().filter(lets_in).filter(claims);
    let highest = families.max_by_key(|name| world.families[*name].precedence)?;
    let roles = world.families[highest].roles.iter();
    let owners: Vec<Owner> = roles
        .map(|(role, ..)| (highest.clone(), role.clone()))
        .filter(|owner| matches(world, id, owner))
        .collect();
    match owners.as_slice() {
        [owner] => Some(owner.clone()),
        _ => None,
    }
}
