//! What the control group publishes of its documents, and what follows from it for an agent.

use std::collections::BTreeMap;

use fleet::digest::Digest;
use fleet::program::{
    Desired, Epoch, OwnerChange, Place, Program, ProgramFamily, ProgramRole, ProgramRollout,
    RevisionNumber, Subject, Whose, desired,
};
use fleet::rollout::State;
use fleet::selector::Selector;

use crate::ledger::{AgentDoc, Ledger, Owner, RolloutDoc};

/// Name, precedence and whom its only role claims. Nobody is claimed by both: ownership has its own simulation.
pub const FAMILIES: [(&str, i64, &str); 2] =
    [("base", 1, "family = base"), ("edge", 2, "family = edge")];

/// Name of that role.
pub const ROLE: &str = "agent";

/// The program of these documents.
pub fn program(control: &Ledger) -> Program {
    let mut families: Vec<ProgramFamily> = FAMILIES
        .iter()
        .map(|(name, precedence, _)| family(control, name, *precedence))
        .collect();
    families.sort_by_key(|family| std::cmp::Reverse(family.precedence));
    Program {
        epoch: Epoch(control.changes),
        families,
        pins: vec![],
    }
}

fn family(control: &Ledger, name: &str, precedence: i64) -> ProgramFamily {
    let (_, family) = control.family(name);
    let found = family.rollout.as_ref().and_then(|id| control.rollout(id));
    let ends = found.map(|(_, doc)| [doc.from, Some(doc.to)]);
    let needed = ends.into_iter().flatten().chain([family.stable]).flatten();
    let roles = |number: u64| {
        let role = ProgramRole {
            name: ROLE.to_owned(),
            selector: selector(name),
            delivery: delivery(name, number),
            baseline: delivery(name, 0),
        };
        (RevisionNumber(number), vec![role])
    };
    ProgramFamily {
        name: name.to_owned(),
        precedence,
        stable: family.stable.map(RevisionNumber),
        revisions: needed.map(roles).collect(),
        owner_change: OwnerChange::default(),
        rollout: family
            .rollout
            .zip(found)
            .and_then(|(id, (_, doc))| rollout(id, doc)),
    }
}

fn rollout(id: String, doc: &RolloutDoc) -> Option<ProgramRollout> {
    let moves = &doc.moves;
    let gone = matches!(
        moves.state,
        State::Completed | State::Aborted | State::Superseded
    );
    let open = moves
        .roles
        .iter()
        .map(|role| (role.name.clone(), role.open_waves));
    let open_waves: BTreeMap<String, u32> = open.collect();
    (!gone).then(|| ProgramRollout {
        id,
        from: doc.from.map(RevisionNumber),
        to: RevisionNumber(doc.to),
        running: moves.state == State::Running,
        open_waves,
        roll_back: moves.roll_back.clone(),
        passed: moves.has_passed(),
        opened: Epoch(doc.opened),
        returning: matches!(moves.state, State::RollingBack | State::RolledBack),
    })
}

/// Whom the family claims.
pub fn selector(family: &str) -> Selector {
    let found = FAMILIES.iter().find(|(name, ..)| *name == family);
    let (_, _, text) = found.expect("there are no others");
    Selector::parse(text).expect("it is one")
}

/// An agent's place on the list of this rollout.
pub fn place<'a>(id: &'a str, doc: &RolloutDoc, agent: u32) -> Option<Place<'a>> {
    Some(Place {
        rollout: id,
        role: ROLE,
        wave: *doc.members.get(&agent)?,
        taken_from: None,
    })
}

/// What this agent should run.
pub fn wants(control: &Ledger, program: &Program, id: u32, agent: &AgentDoc) -> Desired {
    let named = program
        .families
        .iter()
        .filter_map(|family| family.rollout.as_ref());
    let places: Vec<Place<'_>> = named
        .filter_map(|named| place(&named.id, control.rollout(&named.id)?.1, id))
        .collect();
    let place = program.place_that_counts(
        Whose {
            owner: borrowed(agent.owner.as_ref()),
            ..Whose::default()
        },
        &places,
    );
    wants_at(program, id, agent, place)
}

/// What it should run if this place decides.
pub fn wants_at(program: &Program, id: u32, agent: &AgentDoc, place: Option<Place<'_>>) -> Desired {
    let last = agent.delivery.as_ref();
    let subject = Subject {
        uid: uid(id),
        facts: &agent.labels,
        owner: borrowed(agent.owner.as_ref()),
        delivery: last.map(|last| last.hash),
        delivered_in: last.map_or("", |last| &last.rollout),
        owned_since: agent.owned_since.map(Epoch),
        granted: None,
        resolved: None,
        stopped: false,
        place,
    };
    desired(&subject, program)
}

/// Family and role, as the domain takes them.
pub fn borrowed(owner: Option<&Owner>) -> Option<(&str, &str)> {
    owner.map(|(family, role)| (family.as_str(), role.as_str()))
}

/// What a family's agents are sent at a revision; 0: its baseline.
pub fn delivery(family: &str, revision: u64) -> Digest {
    Digest::of("sim", &[family.as_bytes(), &revision.to_le_bytes()])
}

/// The config map without a config: what only a person's order to stop collectors may send.
pub fn empty() -> Digest {
    Digest::of("sim", &[])
}

pub fn uid(id: u32) -> [u8; 16] {
    u128::from(id).to_be_bytes()
}
