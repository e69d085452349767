//! What the control group publishes of this world, and what follows from it for an agent.

use std::collections::BTreeSet;

use fleet::digest::Digest;
use fleet::program::{
    Desired, Epoch, Place, Program, ProgramFamily, ProgramRole, ProgramRollout, RevisionNumber,
    Subject, Whose, desired,
};
use fleet::rollout::State;

use super::{Family, FamilyRole, Id, Owner, World};

impl World {
    pub fn program(&self) -> Program {
        let mut families: Vec<ProgramFamily> = self
            .families
            .iter()
            .map(|(name, family)| self.program_family(name, family))
            .collect();
        families.sort_by_key(|family| std::cmp::Reverse(family.precedence));
        Program {
            epoch: Epoch(self.epoch),
            families,
            pins: self.pins.clone(),
        }
    }

    fn program_family(&self, name: &str, family: &Family) -> ProgramFamily {
        let roles = |revision: u64| -> Vec<ProgramRole> {
            let role = |(role, selector, _): &FamilyRole| ProgramRole {
                name: role.clone(),
                selector: selector.clone(),
                delivery: delivery(name, role, revision),
                baseline: delivery(name, role, 0),
                needs: std::sync::Arc::default(),
            };
            family.roles.iter().map(role).collect()
        };
        let rollout = family.rollout.as_ref().and_then(|id| {
            let doc = &self.rollouts[id];
            let rollout = &doc.kept;
            let gone = matches!(
                rollout.state,
                State::Completed | State::Aborted | State::Superseded
            );
            let open = |role: &fleet::rollout::Role| (role.name.clone(), role.open_waves);
            (!gone).then(|| ProgramRollout {
                id: id.clone(),
                from: doc.from.map(RevisionNumber),
                to: RevisionNumber(doc.to),
                running: rollout.state == State::Running,
                open_waves: rollout.roles.iter().map(open).collect(),
                roll_back: rollout.roll_back.clone(),
                passed: rollout.has_passed(),
                opened: Epoch(doc.opened),
                returning: matches!(rollout.state, State::RollingBack | State::RolledBack),
            })
        });
        ProgramFamily {
            name: name.to_owned(),
            precedence: family.precedence,
            stable: family.stable.map(RevisionNumber),
            revisions: self
                .needed(name, family)
                .into_iter()
                .map(|n| (RevisionNumber(n), roles(n)))
                .collect(),
            owner_change: family.owner_change,
            rollout,
        }
    }

    /// Revisions that decisions need.
    fn needed(&self, name: &str, family: &Family) -> BTreeSet<u64> {
        let doc = family.rollout.as_ref().map(|id| &self.rollouts[id]);
        let ends = doc.map(|doc| [doc.from, Some(doc.to)]).unwrap_or_default();
        let pins = self.pins.iter().filter(|pin| pin.family == name);
        let mut needed: BTreeSet<u64> = pins.map(|pin| pin.revision.0).collect();
        needed.extend(ends.into_iter().flatten().chain(family.stable));
        needed
    }

    /// What this agent should run.
    pub fn desired(&self, id: Id, program: &Program) -> Desired {
        let places = self.places(id, program);
        let place = program.place_that_counts(self.whose(id), &places);
        self.desired_at(id, place, program)
    }

    /// Its places in all rollouts that the program names.
    pub fn places(&self, id: Id, program: &Program) -> Vec<Place<'_>> {
        let named = program.families.iter().filter_map(|f| f.rollout.as_ref());
        let places = named.filter_map(|named| self.place_in(id, &named.id));
        places.collect()
    }

    pub fn whose(&self, id: Id) -> Whose<'_> {
        let agent = &self.agents[&id];
        Whose {
            owner: borrowed(agent.owner.as_ref()),
            granted: borrowed(agent.granted.as_ref()),
            resolved: agent.resolved.map(Epoch),
        }
    }

    /// Its place on the list of this rollout.
    pub fn place_in(&self, id: Id, rollout: &str) -> Option<Place<'_>> {
        let (rollout, doc) = self.rollouts.get_key_value(rollout)?;
        let member = doc.members.get(&id)?;
        Some(Place {
            rollout,
            role: &member.role,
            wave: member.wave,
            taken_from: borrowed(member.taken_from.as_ref()),
        })
    }

    /// What it should run if this place decides.
    pub fn desired_at(&self, id: Id, place: Option<Place<'_>>, program: &Program) -> Desired {
        let agent = &self.agents[&id];
        let last = agent.delivery.as_ref();
        let whose = self.whose(id);
        desired(
            &Subject {
                uid: uid(id),
                facts: &agent.labels,
                owner: whose.owner,
                delivery: last.map(|d| d.hash),
                delivered_in: last.map_or("", |d| &d.rollout),
                owned_since: agent.owned_since.map(Epoch),
                granted: whose.granted,
                resolved: whose.resolved,
                stopped: agent.stopped,
                components: None,
                place,
            },
            program,
        )
    }
}

/// Family and role, as the domain takes them.
pub fn borrowed(owner: Option<&Owner>) -> Option<(&str, &str)> {
    owner.map(|(family, role)| (family.as_str(), role.as_str()))
}

/// What a role is sent in a revision. Gateways change with every other revision only.
pub fn delivery(family: &str, role: &str, revision: u64) -> Digest {
    let content = match role {
        "gateway" => revision / 2,
        _ => revision,
    };
    let kind: &[u8] = if revision == 0 {
        b"baseline"
    } else {
        b"config"
    };
    Digest::of(
        "world",
        &[
            family.as_bytes(),
            role.as_bytes(),
            kind,
            &content.to_le_bytes(),
        ],
    )
}

pub fn uid(id: Id) -> [u8; 16] {
    u128::from(id).to_be_bytes()
}

pub fn name(id: Id) -> String {
    format!("host-{id:02}")
}
