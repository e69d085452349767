//! The control group's documents in memory, in the domain's types: families, revisions, rollouts, plans, tokens.

mod convert;
mod program;

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::program::Epoch;
use fleet::rollout::State;
use prost::Message;
use proto::cluster_id::ClusterId;
use proto::store;

pub use convert::{
    BUDGET_KEY, BUILT_IN_PLANS, Settings, approval, budget_to_store, built_in_plan, config_map,
    digest, freeze, pin, plan_spec, plan_to_store, policy, policy_to_store, revision_settings,
    role, role_to_store, rollout, rollout_state, scope, settings, settings_in_force,
    settings_to_store, stored_rollout_state,
};
pub use program::{build as build_program, failures_since, needs};

use crate::ledger::table;

/// Key of the one [`store::Identity`].
pub const IDENTITY_KEY: &str = "cluster";

/// A document with its version.
#[derive(Clone, Debug)]
pub struct Doc<T> {
    /// For compare-and-store.
    pub version: u64,
    /// As stored.
    pub value: Arc<T>,
}

/// Everything the control group holds, at one applied position.
#[derive(Clone, Default)]
pub struct Documents {
    /// By name.
    pub families: BTreeMap<String, Doc<store::Family>>,
    /// By family and number.
    pub revisions: BTreeMap<(String, u64), Doc<store::Revision>>,
    /// By name.
    pub plans: BTreeMap<String, Doc<store::Plan>>,
    /// By id; ids grow with time.
    pub rollouts: BTreeMap<String, Doc<store::Rollout>>,
    /// By id.
    pub previews: BTreeMap<String, Doc<store::Preview>>,
    /// By name.
    pub tokens: BTreeMap<String, Doc<store::Token>>,
    /// By name.
    pub freezes: BTreeMap<String, Doc<store::Freeze>>,
    /// By name.
    pub pins: BTreeMap<String, Doc<store::Pin>>,
    /// The fleet's, under [`BUDGET_KEY`].
    pub budgets: BTreeMap<String, Doc<store::Budget>>,
    /// By name.
    pub sources: BTreeMap<String, Doc<store::Source>>,
    /// Families that were deleted or pruned, by name.
    pub gone: BTreeMap<String, Doc<store::GoneFamily>>,
    /// Of the cluster, by id.
    pub nodes: BTreeMap<u64, Doc<store::ClusterNode>>,
    /// What this cluster is, under [`IDENTITY_KEY`]; none before its first node has registered, nor, in a process alone,
    /// before its first backup.
    pub identity: BTreeMap<String, Doc<store::Identity>>,
    /// Version of the newest change of families, rollouts, pins or sources: the counter of the program's epoch. A family
    /// that goes leaves no version behind, and the document that it is gone does.
    program_version: u64,
}

/// Tables of which [`Documents`] are made.
pub const TABLES: &[u8] = &[
    table::FAMILY,
    table::REVISION,
    table::PLAN,
    table::ROLLOUT,
    table::PREVIEW,
    table::TOKEN,
    table::FREEZE,
    table::PIN,
    table::BUDGET,
    table::SOURCE,
    table::GONE,
    table::NODE,
    table::IDENTITY,
];

// === impl Documents ===

impl Documents {
    /// A document was stored, with this version and value, or removed.
    pub fn take(&mut self, table: u8, key: &[u8], document: Option<(u64, Vec<u8>)>) {
        if table == table::NODE {
            if let Ok(id) = key.try_into() {
                set(&mut self.nodes, u64::from_be_bytes(id), document);
            }
            return;
        }
        let Ok(name) = std::str::from_utf8(key).map(str::to_owned) else {
            return self.take_revision(key, document);
        };
        if let Some((version, _)) = &document
            && matches!(
                table,
                table::FAMILY | table::ROLLOUT | table::PIN | table::SOURCE | table::GONE
            )
        {
            self.program_version = self.program_version.max(*version);
        }
        match table {
            table::FAMILY => set(&mut self.families, name, document),
            table::REVISION => self.take_revision(key, document),
            table::PLAN => set(&mut self.plans, name, document),
            table::ROLLOUT => set(&mut self.rollouts, name, document),
            table::PREVIEW => set(&mut self.previews, name, document),
            table::TOKEN => set(&mut self.tokens, name, document),
            table::FREEZE => set(&mut self.freezes, name, document),
            table::PIN => set(&mut self.pins, name, document),
            table::BUDGET => set(&mut self.budgets, name, document),
            table::SOURCE => set(&mut self.sources, name, document),
            table::GONE => set(&mut self.gone, name, document),
            table::IDENTITY => set(&mut self.identity, name, document),
            _ => {}
        }
    }

    fn take_revision(&mut self, key: &[u8], document: Option<(u64, Vec<u8>)>) {
        if let Some(at) = key.len().checked_sub(9)
            && let Ok(family) = std::str::from_utf8(&key[..at])
            && let Ok(number) = key[at + 1..].try_into()
        {
            set(
                &mut self.revisions,
                (family.to_owned(), u64::from_be_bytes(number)),
                document,
            );
        }
    }

    /// Stamp of the program that these documents make.
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.incarnation(), self.program_version)
    }

    /// Which cluster of its name this is.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        let identity = &self.identity.get(IDENTITY_KEY)?.value;
        ClusterId::of(&identity.id, identity.incarnation)
    }

    /// How often the cluster was restored from a backup.
    pub fn incarnation(&self) -> u16 {
        let identity = self.identity.get(IDENTITY_KEY);
        identity.map_or(0, |doc| {
            u16::try_from(doc.value.incarnation).unwrap_or(u16::MAX)
        })
    }

    /// The rollout by id. For a family's name the one that moves, else one that waits for approvals, else its newest:
    /// who halts a family means what reaches its agents.
    pub fn find_rollout(&self, id: &str) -> Option<&Doc<store::Rollout>> {
        let rank = |rollout: &store::Rollout| match (is_open(rollout), rollout.prepared) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
        // The first of equals is the newest.
        let of_family = self.of_family(id).min_by_key(|r| rank(&r.value));
        self.rollouts.get(id).or(of_family)
    }

    /// A family's rollouts, newest first.
    pub fn of_family(&self, family: &str) -> impl Iterator<Item = &Doc<store::Rollout>> {
        let all = self.rollouts.values().rev();
        all.filter(move |rollout| rollout.value.family == family)
    }

    /// The revision that a family is on its way to once this rollout has ended: that of its newest open one, else stable.
    pub fn target(&self, family: &store::Family, ended: &str) -> u64 {
        let mut open = self.of_family(&family.name).map(|r| &r.value);
        let open = open.find(|r| r.id != ended && is_open(r));
        open.map_or(family.stable, |rollout| rollout.to)
    }

    /// The revision that a family has brought its agents to last: the stable one or, once it is deactivated, the one that
    /// was; 0: none. Its agents run that, so a rollout that follows has it to go back to.
    pub fn last_stable(&self, family: &store::Family) -> u64 {
        if family.stable != 0 {
            return family.stable;
        }
        let completed =
            |r: &&Doc<store::Rollout>| rollout_state(r.value.state()) == State::Completed;
        let last = self.of_family(&family.name).find(completed);
        let last = last.map_or(0, |rollout| rollout.value.to);
        // A family of this name that was deleted has left its rollouts, and no revisions.
        match self.revisions.contains_key(&(family.name.clone(), last)) {
            true => last,
            false => 0,
        }
    }

    /// The fleet's budget; none: nobody has set one.
    pub fn budget(&self) -> Option<fleet::budget::Budget> {
        let stored = self.budgets.get(BUDGET_KEY);
        stored.map(|budget| convert::budget(&budget.value))
    }

    /// The freeze that keeps this rollout's next wave from starting now, in words.
    pub fn freeze(
        &self,
        family: &str,
        rollout: &fleet::rollout::Rollout,
        now_ms: u64,
    ) -> Option<String> {
        if self.freezes.is_empty() {
            return None;
        }
        let freezes: Vec<_> = self.freezes.values().map(|f| freeze(&f.value)).collect();
        fleet::governance::freeze::blocks(&freezes, family, rollout, now_ms)
    }

    /// A stored rollout in the domain's types, with the order of its target revision.
    pub fn domain(&self, stored: &store::Rollout) -> fleet::rollout::Rollout {
        let revision = self
            .revision(&stored.family, stored.to)
            .map(|r| r.value.clone());
        rollout(stored, |role| {
            let roles = revision
                .as_ref()
                .map(|r| r.roles.as_slice())
                .unwrap_or_default();
            roles
                .iter()
                .find(|r| r.name == role)
                .map(|r| r.after.clone())
                .unwrap_or_default()
        })
    }

    /// A family's revision; number 0 names the latest.
    pub fn revision(&self, family: &str, number: u64) -> Option<&Doc<store::Revision>> {
        let number = if number == 0 {
            self.families.get(family)?.value.latest
        } else {
            number
        };
        self.revisions.get(&(family.to_owned(), number))
    }
}

fn is_open(rollout: &store::Rollout) -> bool {
    !rollout_state(rollout.state()).is_final()
}

fn set<K: Ord, T: Message + Default>(
    map: &mut BTreeMap<K, Doc<T>>,
    key: K,
    document: Option<(u64, Vec<u8>)>,
) {
    match document {
        Some((version, bytes)) => {
            // Bytes that do not decode were written by a newer version: better unknown than half known.
            if let Ok(value) = T::decode(bytes.as_slice()) {
                map.insert(
                    key,
                    Doc {
                        version,
                        value: Arc::new(value),
                    },
                );
            }
        }
        None => {
            map.remove(&key);
        }
    }
}

/// Key of a revision: family, a zero byte, number.
pub fn revision_key(family: &str, number: u64) -> Vec<u8> {
    let mut key = family.as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use proto::store::RolloutState;

    use super::*;

    /// Family web with revisions 4 and 5.
    fn documents(rollouts: &[(&str, u64, RolloutState)]) -> Documents {
        let mut documents = Documents::default();
        let mut put =
            |table, key: &[u8], value: Vec<u8>| documents.take(table, key, Some((1, value)));
        for number in [4, 5] {
            let revision = store::Revision {
                family: "web".into(),
                number,
                ..store::Revision::default()
            };
            let key = revision_key("web", number);
            put(table::REVISION, &key, revision.encode_to_vec());
        }
        for (id, to, state) in rollouts {
            let rollout = store::Rollout {
                id: (*id).into(),
                family: "web".into(),
                to: *to,
                state: (*state).into(),
                ..store::Rollout::default()
            };
            put(table::ROLLOUT, id.as_bytes(), rollout.encode_to_vec());
        }
        documents
    }

    #[test]
    fn a_family_without_a_stable_revision_goes_on_from_where_its_last_complete_rollout_brought_it()
    {
        let web = |stable| store::Family {
            name: "web".into(),
            stable,
            ..store::Family::default()
        };
        use RolloutState::{Completed, RolledBack};
        let ran = documents(&[
            ("ro-1", 5, Completed),
            ("ro-2", 4, Completed),
            ("ro-3", 5, RolledBack),
        ]);
        assert_eq!(ran.last_stable(&web(5)), 5, "one that is stable is");
        assert_eq!(ran.last_stable(&web(0)), 4);
        assert_eq!(documents(&[]).last_stable(&web(0)), 0);
        let before_it_was_deleted = documents(&[("ro-1", 3, Completed)]);
        assert_eq!(before_it_was_deleted.last_stable(&web(0)), 0);
    }
}
