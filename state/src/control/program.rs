//! The program that partitions decide by, from the control group's documents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fleet::components::Used;
use fleet::digest::Digest;
use fleet::family::{ConfigMap, Role, delivery_hash};
use fleet::program::{
    Epoch, Program, ProgramFamily, ProgramRole, ProgramRollout, RevisionNumber, RollBack,
};
use proto::store::{self, RolloutState};

use super::{Documents, convert};
use crate::partition::merged_config;

/// Configs of which it is kept what they use. Programs name fewer.
const KNOWN_MAX: usize = 4_096;

/// What configs use, by delivery hash: a program is made with every change of a document, and a config is read once.
static KNOWN: Mutex<BTreeMap<Digest, Arc<Used>>> = Mutex::new(BTreeMap::new());

/// The program as the documents stand, stamped with the version of their newest change.
pub fn build(documents: &Documents) -> Program {
    let mut families: Vec<ProgramFamily> = documents
        .families
        .values()
        .map(|f| family(documents, &f.value))
        .collect();
    families.sort_by_key(|family| std::cmp::Reverse(family.precedence));
    Program {
        epoch: documents.epoch(),
        families,
        pins: documents
            .pins
            .values()
            .filter(|pin| !pin.value.ended)
            .filter_map(|pin| convert::pin(&pin.value))
            .map(|pin| pin.held)
            .collect(),
    }
}

fn family(documents: &Documents, stored: &store::Family) -> ProgramFamily {
    let rollout = documents
        .rollouts
        .get(&stored.rollout)
        .map(|r| &*r.value)
        .filter(|r| r.prepared);
    let stable = number(stored.stable);
    let needed = [
        stable,
        rollout.and_then(|r| number(r.from)),
        rollout.and_then(|r| number(r.to)),
    ];
    let pinned = documents.pins.values().map(|pin| &pin.value);
    let pinned = pinned
        .filter(|pin| !pin.ended && pin.family == stored.name)
        .map(|pin| number(pin.revision));
    let revisions: BTreeMap<RevisionNumber, Vec<ProgramRole>> = needed
        .into_iter()
        .chain(pinned)
        .flatten()
        .filter_map(|n| Some((n, roles(&documents.revision(&stored.name, n.0)?.value))))
        .collect();
    ProgramFamily {
        name: stored.name.clone(),
        precedence: stored.precedence,
        stable,
        revisions,
        owner_change: convert::settings_in_force(stored).owner_change,
        rollout: rollout.map(program_rollout),
    }
}

/// From which program on a failure counts in this rollout: see [`fleet::governance::supersede::since`].
pub fn failures_since(stored: &store::Rollout) -> Epoch {
    Epoch(match stored.failures_since {
        0 => stored.opening_epoch,
        since => since,
    })
}

fn number(stored: u64) -> Option<RevisionNumber> {
    (stored != 0).then_some(RevisionNumber(stored))
}

fn roles(revision: &store::Revision) -> Vec<ProgramRole> {
    let role = |role: Role| {
        let delivery = delivery_hash(&role.config);
        ProgramRole {
            delivery,
            baseline: delivery_hash(&role.baseline()),
            needs: needs(delivery, &role.config),
            name: role.name,
            selector: role.selector,
        }
    };
    revision
        .roles
        .iter()
        .filter_map(convert::role)
        .map(role)
        .collect()
}

/// The components that the config of this delivery hash uses; one that cannot be read uses none.
pub fn needs(delivery: Digest, config: &ConfigMap) -> Arc<Used> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(needs) = known.get(&delivery) {
        return Arc::clone(needs);
    }
    if known.len() == KNOWN_MAX {
        known.clear();
    }
    let used = merged_config(config).map(|config| Used::by(&config));
    let needs = Arc::new(used.unwrap_or_default());
    known.insert(delivery, Arc::clone(&needs));
    needs
}

fn program_rollout(stored: &store::Rollout) -> ProgramRollout {
    let back = |b: &store::RollBack| RollBack {
        scope: convert::scope(b),
        open_roles: b.open_roles.clone(),
    };
    ProgramRollout {
        id: stored.id.clone(),
        from: number(stored.from),
        to: RevisionNumber(stored.to),
        running: stored.state() == RolloutState::Running,
        open_waves: stored
            .roles
            .iter()
            .map(|r| (r.role.clone(), r.open_waves))
            .collect(),
        roll_back: stored.roll_back.as_ref().map(back),
        passed: stored.roles.iter().all(|role| role.done),
        opened: Epoch(stored.opening_epoch),
        returning: matches!(
            stored.state(),
            RolloutState::RollingBack | RolloutState::RolledBack
        ),
    }
}

#[cfg(test)]
mod tests {
    use fleet::family::ConfigFile;

    use super::*;

    #[test]
    fn a_config_is_read_once_for_what_it_uses() {
        let file = |body: &str| ConfigFile {
            body: body.into(),
            content_type: "text/yaml".into(),
        };
        let body = "processors:\n  redaction/pii:\n  batch:\n";
        let config = ConfigMap::from([(String::new(), file(body))]);
        let hash = delivery_hash(&config);
        let first = needs(hash, &config);
        assert_eq!(
            first.processors,
            ["batch", "redaction"].map(str::to_owned).into()
        );
        assert!(Arc::ptr_eq(&first, &needs(hash, &config)));
        let broken = ConfigMap::from([(String::new(), file("{"))]);
        assert_eq!(*needs(delivery_hash(&broken), &broken), Used::default());
    }
}
