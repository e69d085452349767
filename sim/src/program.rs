//! What the control group publishes of its documents, and what agents are sent by it.

use std::collections::BTreeMap;

use fleet::digest::Digest;
use fleet::family::{ConfigFile, ConfigMap, delivery_hash};
use fleet::program::{
    Desired, Epoch, Program, ProgramFamily, ProgramRole, ProgramRollout, RevisionNumber,
};
use fleet::rollout::State;
use fleet::selector::Selector;
use proto::store;
use proto::uid::Uid;
use state::control::stored_rollout_state;

use crate::ledger::{Ledger, RolloutDoc};

/// Name, precedence and whom its only role claims: both want who is labelled so.
pub const FAMILIES: [(&str, i64, &str); 2] = [
    ("base", 1, "family in (base, both)"),
    ("edge", 2, "family in (edge, both)"),
];

/// What agents are labelled with, where they are relabelled.
pub const LABELS: [&str; 4] = ["base", "edge", "both", "none"];

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
        epoch: Epoch(control.epoch),
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
            needs: std::sync::Arc::default(),
        };
        (RevisionNumber(number), vec![role])
    };
    ProgramFamily {
        name: name.to_owned(),
        precedence,
        stable: family.stable.map(RevisionNumber),
        revisions: needed.map(roles).collect(),
        owner_change: family.owner_change,
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

/// A rollout as partitions are asked about it.
pub fn stored(id: &str, doc: &RolloutDoc) -> store::Rollout {
    store::Rollout {
        id: id.to_owned(),
        family: doc.family.clone(),
        from: doc.from.unwrap_or(0),
        to: doc.to,
        state: stored_rollout_state(doc.moves.state).into(),
        opening_epoch: doc.opened,
        ..store::Rollout::default()
    }
}

/// Whom the family claims.
pub fn selector(family: &str) -> Selector {
    let found = FAMILIES.iter().find(|(name, ..)| *name == family);
    let (_, _, text) = found.expect("there are no others");
    Selector::parse(text).expect("it is one")
}

/// The config map of a family at a revision; 0: its baseline.
pub fn config(family: &str, revision: u64) -> ConfigMap {
    let file = ConfigFile {
        body: format!("exporters:\n  otlp:\n    endpoint: {family}-{revision}\n"),
        content_type: "text/yaml".to_owned(),
    };
    ConfigMap::from([(String::new(), file)])
}

/// The config map of what an agent should run.
pub fn desired_config(desired: &Desired) -> Option<ConfigMap> {
    let (family, _) = desired.owner.as_ref()?;
    Some(config(
        family,
        desired.revision.map_or(0, |revision| revision.0),
    ))
}

/// What a family's agents are sent at a revision; 0: its baseline.
pub fn delivery(family: &str, revision: u64) -> Digest {
    delivery_hash(&config(family, revision))
}

/// The config map without a config: what only a person's order to stop collectors may send.
pub fn empty() -> Digest {
    delivery_hash(&ConfigMap::new())
}

pub fn uid(id: u32) -> Uid {
    Uid::from_wire(&u128::from(id).to_be_bytes()).expect("numbers begin with 1")
}

pub fn number(uid: Uid) -> u32 {
    u32::try_from(u128::from_be_bytes(*uid.as_bytes())).expect("an agent's number")
}
