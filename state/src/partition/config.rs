//! The config map that an agent is sent, from the documents.

use std::collections::BTreeMap;

use fleet::family::ConfigMap;
use fleet::program::{Desired, Reason};

use crate::control::{Documents, config_map, role as to_role};

/// The config map of a role at a revision; revision 0: the baseline of the rollout's target.
pub fn delivered_config(
    documents: &Documents,
    family: &str,
    role: &str,
    revision: u64,
    rollout: &str,
) -> Option<ConfigMap> {
    let (number, baseline) = match revision {
        0 => (documents.rollouts.get(rollout)?.value.to, true),
        number => (number, false),
    };
    let revision = documents.revision(family, number)?;
    let role = revision.value.roles.iter().find(|r| r.name == role)?;
    let map = if baseline {
        to_role(role)?.baseline()
    } else {
        config_map(&role.config)
    };
    Some(map)
}

/// The config map of what is desired.
pub fn desired_config(documents: &Documents, desired: &Desired) -> Option<ConfigMap> {
    if desired.reason == Reason::Stopped {
        return Some(ConfigMap::new());
    }
    let (family, role) = desired.owner.as_ref()?;
    let rollout = match &desired.reason {
        Reason::RolledBack { rollout } => rollout.as_str(),
        _ => "",
    };
    delivered_config(
        documents,
        family,
        role,
        desired.revision.map_or(0, |r| r.0),
        rollout,
    )
}

/// The config map as one document, as a supervisor merges it.
pub fn merged_config(config: &ConfigMap) -> Option<fleet::value::Value> {
    let parsed: Result<BTreeMap<_, _>, _> = config
        .iter()
        .map(|(name, file)| proto::yaml::parse(&file.body).map(|value| (name.clone(), value)))
        .collect();
    fleet::merge::merge(&parsed.ok()?).ok()
}
