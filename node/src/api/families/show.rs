//! Families, revisions and plans as people see them.

use std::collections::{BTreeMap, BTreeSet};

use fleet::family::delivery_hash;
use proto::api;
use proto::store::{self, RevisionState};
use tonic::Status;

use super::super::Api;
use crate::checks;
use crate::control::{
    BUILT_IN_PLANS, Documents, built_in_plan, plan_spec, policy, rollout_state, settings,
    settings_in_force,
};
use crate::inventory::List;
use crate::manifest::{
    drift_word, duration_text, missing_word, owner_change_word, policy_text, settings_text,
    versions_text,
};
use crate::partition::{merged_config, state_of};

impl Api {
    pub(super) fn family_view(&self, stored: &store::Family) -> api::Family {
        let settings = settings_in_force(stored);
        let mut view = api::Family {
            name: stored.name.clone(),
            owner: stored.owner.clone(),
            precedence: stored.precedence,
            stable: stored.stable,
            target: stored.target,
            latest: stored.latest,
            source: stored.source.clone(),
            owner_change: owner_change_word(settings.owner_change).to_owned(),
            drift_policy: drift_word(settings.drift).to_owned(),
            version_policy: versions_text(&settings.versions),
            missing_components: missing_word(settings.missing).to_owned(),
            ..api::Family::default()
        };
        let open = {
            let documents = self.node.control.read();
            if let Some(latest) = documents.revision(&stored.name, 0) {
                let roles = latest.value.roles.iter();
                view.roles = roles.map(|role| role.name.clone()).collect();
                view.approvals = latest.value.approvals;
            }
            let rollout = documents.rollouts.get(&stored.rollout);
            rollout
                .filter(|r| !rollout_state(r.value.state()).is_final())
                .map(|r| r.value.id.clone())
        };
        view.rollout = open.unwrap_or_default();
        for partition in self.node.partitions.iter() {
            let program = partition.program();
            let columns = partition.index().read();
            for row in columns
                .rows
                .values()
                .filter(|row| row.owner().is_some_and(|(family, _)| family == stored.name))
            {
                let place = crate::partition::place_of(&columns, &program, row.uid, row.whose());
                let desired = crate::partition::desired_of(row, place, &program);
                // Who an open rollout does not change is converged all the same.
                let state = state_of(row, &desired, false);
                view.owned += 1;
                view.converged += u64::from(state == "converged");
                view.failed += u64::from(matches!(
                    state,
                    "failed" | "rolled back" | "no answer" | "refused"
                ));
            }
        }
        let drift = crate::drift::of_family(&self.node, &stored.name);
        view.versions = drift.versions;
        view.outside_versions = drift.outside;
        view.drift = drift.kinds;
        view
    }

    pub(super) fn revision_view(&self, stored: &store::Revision) -> api::Revision {
        let roles = stored.roles.iter().map(|r| {
            let config = crate::control::config_map(&r.config);
            let selector = fleet::selector::Selector::parse(&r.selector).ok();
            let matches = |row: &&crate::inventory::Row| {
                !row.alias && selector.as_ref().is_some_and(|s| s.matches(*row))
            };
            let matched = self
                .node
                .partitions
                .iter()
                .map(|p| p.index().read().rows.values().filter(matches).count() as u64)
                .sum();
            let file = |(name, f): (&String, &store::ConfigFile)| api::ConfigFile {
                name: name.clone(),
                body: f.body.clone(),
                content_type: f.content_type.clone(),
                note: String::new(),
            };
            api::Role {
                name: r.name.clone(),
                selector: r.selector.clone(),
                after: r.after.clone(),
                config: r.config.iter().map(file).collect(),
                delivery_hash: delivery_hash(&config).to_hex(),
                matched,
            }
        });
        let policies = stored.policies.iter().filter_map(policy);
        api::Revision {
            number: stored.number,
            hash: hex::encode(&stored.hash),
            state: state_word(stored).to_owned(),
            author: stored.author.clone(),
            created_ms: stored.created_ms,
            roles: roles.collect(),
            policies: policies.map(|p| policy_text(&p)).collect(),
            note: stored.note.clone(),
            approvals: stored.approvals,
            given: stored.given.iter().map(approval).collect(),
            rejected: stored.rejected.clone(),
            commit: stored.commit.clone(),
            findings: checks::found(stored),
            settings: stored
                .settings
                .as_ref()
                .map_or_else(String::new, |own| settings_text(&settings(Some(own)))),
        }
    }

    /// How many agents each family owns, or had when an open rollout took them and may have to give them back.
    pub(super) fn owned(&self) -> BTreeMap<String, u64> {
        let open: BTreeSet<String> = {
            let documents = self.node.control.read();
            let rollouts = documents.rollouts.values();
            let open = rollouts.filter(|r| !rollout_state(r.value.state()).is_final());
            open.map(|r| r.value.id.clone()).collect()
        };
        let mut owned = BTreeMap::new();
        let mut count = |family: &str| match owned.get_mut(family) {
            Some(agents) => *agents += 1,
            None => {
                owned.insert(family.to_owned(), 1);
            }
        };
        for partition in self.node.partitions.iter() {
            let columns = partition.index().read();
            // Who speaks with another uid now is counted by that.
            let rows = columns.rows.values().filter(|row| !row.alias);
            for (family, _) in rows.filter_map(|row| row.owner()) {
                count(family);
            }
            let lists = open.iter().filter_map(|id| columns.lists.get(id));
            for (uid, member) in lists.flat_map(List::iter) {
                let row = columns.rows.get(uid);
                let owner = row.and_then(|row| row.owner());
                if row.is_some_and(|row| row.alias) {
                    continue;
                }
                if let Some(taken) = &member.taken_from
                    && owner.is_none_or(|(family, _)| *family != *taken.0)
                {
                    count(&taken.0);
                }
            }
        }
        owned
    }
}

/// A revision in short.
pub(in crate::api) fn summary(stored: &store::Revision) -> api::RevisionSummary {
    api::RevisionSummary {
        number: stored.number,
        hash: hex::encode(&stored.hash),
        state: state_word(stored).to_owned(),
        author: stored.author.clone(),
        created_ms: stored.created_ms,
        note: stored.note.clone(),
        approvals: stored.approvals,
        given: stored.given.iter().map(approval).collect(),
        commit: stored.commit.clone(),
        rejected: stored.rejected.clone(),
        findings: checks::found(stored),
    }
}

fn approval(given: &store::Approval) -> api::Approval {
    api::Approval {
        by: given.by.clone(),
        plan: given.plan_name.clone(),
        at_ms: given.at_ms,
        reason: given.reason.clone(),
        plan_hash: hex::encode(&given.plan),
    }
}

fn state_word(revision: &store::Revision) -> &'static str {
    match revision.state() {
        _ if !revision.rejected.is_empty() => "rejected",
        RevisionState::Unspecified | RevisionState::Draft => "draft",
        RevisionState::Validated => "validated",
        RevisionState::Approved => "approved",
        RevisionState::Active => "active",
        RevisionState::Superseded => "superseded",
        RevisionState::Rejected => "rejected",
    }
}

/// The plans that are always there, then those that were applied.
pub(super) fn plans(documents: &Documents) -> Vec<api::Plan> {
    let built_in = BUILT_IN_PLANS
        .iter()
        .filter_map(|name| Some(plan_view(name, &built_in_plan(name)?, "")));
    let stored = documents
        .plans
        .iter()
        .map(|(name, plan)| plan_view(name, &plan_spec(&plan.value), &plan.value.source));
    built_in.chain(stored).collect()
}

fn plan_view(name: &str, plan: &fleet::rollout::PlanSpec, source: &str) -> api::Plan {
    let wave = |w: &fleet::rollout::WaveSpec| {
        format!(
            "{} soak {}",
            crate::manifest::size_text(w.size),
            duration_text(w.soak_ms)
        )
    };
    api::Plan {
        name: name.to_owned(),
        waves: plan.waves.iter().map(wave).collect(),
        on_stop: on_stop_word(plan.on_stop).to_owned(),
        interleave: plan.interleave,
        urgent: plan.urgent,
        source: source.to_owned(),
        hash: plan.hash().to_hex(),
    }
}

/// What follows a stop, in words.
pub(in crate::api) fn on_stop_word(on_stop: fleet::rollout::OnStop) -> &'static str {
    match on_stop {
        fleet::rollout::OnStop::Default => {
            "first wave rolls back, later ones hold; crashes roll back all"
        }
        fleet::rollout::OnStop::Hold => "hold",
        fleet::rollout::OnStop::RollBackWave => "roll back the wave",
        fleet::rollout::OnStop::RollBackAll => "roll back all",
    }
}

/// What differs between two revisions of a family, role by role.
pub(super) fn revision_diff(
    documents: &Documents,
    request: &api::DiffRevisionsRequest,
) -> Result<api::DiffRevisionsResponse, Status> {
    let name = &request.family;
    let unknown = || {
        Status::not_found(format!(
            "there is no family `{name}`: list them with `muster families list`"
        ))
    };
    let family = &documents.families.get(name).ok_or_else(unknown)?.value;
    let to = if request.to == 0 {
        family.latest
    } else {
        request.to
    };
    let last = documents.last_stable(family);
    let from = match request.from {
        0 if last != to => last,
        0 => before(documents, name, to),
        from => from,
    };
    let (old, new) = (
        roles_of(documents, family, from)?,
        roles_of(documents, family, to)?,
    );
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let roles = names
        .into_iter()
        .map(|name| role_diff(name, old.get(name), new.get(name)))
        .collect();
    Ok(api::DiffRevisionsResponse { from, to, roles })
}

/// The revision before this one; 0: it is the first. A family that was gone for a while does not begin with 1.
fn before(documents: &Documents, family: &str, number: u64) -> u64 {
    let earlier = (family.to_owned(), 0)..(family.to_owned(), number);
    let last = documents.revisions.range(earlier).next_back();
    last.map_or(0, |((_, number), _)| *number)
}

fn roles_of(
    documents: &Documents,
    family: &store::Family,
    number: u64,
) -> Result<BTreeMap<String, store::Role>, Status> {
    if number == 0 {
        return Ok(BTreeMap::new());
    }
    let missing = || {
        Status::not_found(format!(
            "family {} has no revision {number}: its latest is {}",
            family.name, family.latest
        ))
    };
    let revision = documents
        .revision(&family.name, number)
        .ok_or_else(missing)?;
    let roles = revision.value.roles.iter();
    Ok(roles
        .map(|role| (role.name.clone(), role.clone()))
        .collect())
}

fn role_diff(
    name: &str,
    before: Option<&store::Role>,
    after: Option<&store::Role>,
) -> api::diff_revisions_response::RoleDiff {
    let text = |role: Option<&store::Role>| {
        let Some(role) = role else {
            return String::new();
        };
        let mut text = format!(
            "selector: {}\nafter: [{}]\n",
            role.selector,
            role.after.join(", ")
        );
        for (file, config) in &role.config {
            text.push_str(&format!("--- {file}\n{}", config.body));
            if !config.body.ends_with('\n') {
                text.push('\n');
            }
        }
        text
    };
    let (old, new) = (text(before), text(after));
    let unified = similar::TextDiff::from_lines(&old, &new)
        .unified_diff()
        .context_radius(3)
        .to_string();
    let value = |role: Option<&store::Role>| {
        role.and_then(|r| merged_config(&crate::control::config_map(&r.config)))
            .unwrap_or(fleet::value::Value::Null)
    };
    let changes = fleet::diff::diff(&value(before), &value(after))
        .changes()
        .iter()
        .map(ToString::to_string)
        .collect();
    api::diff_revisions_response::RoleDiff {
        role: name.to_owned(),
        text: unified,
        changes,
    }
}
