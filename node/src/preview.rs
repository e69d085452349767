//! What activating a revision would do, exactly: members, waves, grouped diffs against what each agent runs, who is
//! left out and why. An activation is bound to one.

mod matrix;

use std::cell::OnceCell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet::components;
use fleet::diff::{Change, Kind, diff};
use fleet::digest::Digest;
use fleet::drift::{Difference, Sort, content};
use fleet::family::{ConfigMap, Role, delivery_hash};
use fleet::membership::reach_limit;
use fleet::rollout::{PlanSpec, Rollout};
use fleet::validate::Policy;
use fleet::value::Value;
use fleet::waves::Size;
use prost::Message;
use proto::api;
use proto::store;
use proto::uid::Uid;

use crate::checks;
use crate::control::{
    self, Documents, built_in_plan, config_map, plan_spec, plan_to_store, policy,
    revision_settings, role, rollout_state,
};
use crate::controller::prepare::{Assignment, Unassignable, assign};
use crate::ledger::{entry, now_ms, put, table};
use crate::local::Node;
use crate::manifest::{duration_text, settings_change, size_text};
use crate::partition::{Candidate, body, merged_config};
pub use matrix::{candidates, lacking};

/// Uids named as examples.
const EXAMPLES: usize = 3;

/// A person cannot weigh more conflicts than this; the number is told in full.
const CONFLICTS_SHOWN: usize = 20;

/// No letters that look like digits.
const ID_LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Members in one document: 2 MiB of 4.
const PART: usize = 100_000;

/// Members in all previews that are kept, at most: 64 MiB of memory. The oldest previews go first.
const KEPT_MEMBERS: usize = 4_000_000;

/// Previews that are kept, at most.
const KEPT: usize = 1_000;

/// Previews are kept for a day.
pub const KEPT_MS: u64 = 24 * 3600 * 1000;

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such family.
    #[error("there is no family `{0}`: list them with `muster families list`")]
    Family(String),
    /// No such revision.
    #[error("family {family} has no revision {revision}: its latest is {latest}")]
    Revision {
        /// Which.
        family: String,
        /// As given.
        revision: u64,
        /// What there is.
        latest: u64,
    },
    /// No such plan.
    #[error("there is no plan `{0}`: apply one, or leave --plan out for the default plan")]
    Plan(String),
    /// The plan does not fit the fleet.
    #[error(transparent)]
    Unassignable(#[from] Unassignable),
    /// A body cannot be read.
    #[error("the inventory cannot be read")]
    Read(#[source] raft::Fatal),
    /// Not stored.
    #[error("the preview was not stored")]
    Store(#[source] crate::ledger::ProposeError),
}

/// A preview, for people and for the binding.
pub struct Preview {
    /// For people.
    pub shown: api::PreviewResponse,
    /// Agents that it takes, by the family that has them.
    pub takeovers: Vec<(String, u64)>,
    /// Why its family does not let it start: agents that lack components; none: it does.
    pub blocked: Option<String>,
    /// The rollout that it would be.
    pub rollout: Rollout,
    /// What is against the revision by the agents that there are now; empty: nothing.
    pub against: Vec<String>,
    /// What is kept of it.
    pub kept: store::Preview,
}

/// The plan of this name; the default one for an empty name.
pub fn plan_of(documents: &Documents, name: &str) -> Result<PlanSpec, Error> {
    let name = if name.is_empty() { "default" } else { name };
    if let Some(plan) = built_in_plan(name) {
        return Ok(plan);
    }
    documents
        .plans
        .get(name)
        .map(|plan| plan_spec(&plan.value))
        .ok_or_else(|| Error::Plan(name.to_owned()))
}

/// Makes a preview; revision 0 is the latest, an empty plan the default one. `back`: its roles go against their order.
pub fn make(
    node: &Arc<Node>,
    family: &str,
    revision: u64,
    plan: &str,
    back: bool,
) -> Result<Preview, Error> {
    let plan = plan_of(&node.control.read(), plan)?;
    make_with(node, family, revision, plan, back)
}

/// Makes a preview with this plan.
pub fn make_with(
    node: &Arc<Node>,
    family: &str,
    revision: u64,
    plan: PlanSpec,
    back: bool,
) -> Result<Preview, Error> {
    let (stored, precedence, before, settings) = {
        let documents = node.control.read();
        let stored = documents
            .families
            .get(family)
            .ok_or_else(|| Error::Family(family.to_owned()))?;
        let found = documents.revision(family, revision);
        let unknown = || Error::Revision {
            family: family.to_owned(),
            revision,
            latest: stored.value.latest,
        };
        let found = found.ok_or_else(unknown)?.value.clone();
        let settings = revision_settings(&stored.value, &found);
        let before = control::settings_in_force(&stored.value);
        (found, stored.value.precedence, before, settings)
    };
    let plan_hash = Digest::of(
        "muster.preview.plan.v1",
        &[&plan_to_store("", &plan).encode_to_vec()],
    );
    let plan_hash = plan_hash.as_bytes().to_vec();
    let (candidates, unknown) =
        candidates(node, family, precedence, &stored).map_err(Error::Read)?;
    let roles: Vec<Role> = stored.roles.iter().filter_map(role).collect();
    let mut maker = Maker {
        node,
        roles: &roles,
        configs: BTreeMap::new(),
        deliveries: OnceCell::new(),
        shown: api::PreviewResponse::default(),
    };
    if unknown > 0 {
        let message = format!(
            "{unknown} agents do not report their components: whether they can run this is unknown"
        );
        maker.shown.findings.push(api::Finding {
            severity: "warning".to_owned(),
            message,
            ..api::Finding::default()
        });
    }
    let members = candidates.iter().flatten().filter(|c| c.role.is_some());
    let members = members.map(|c| c.uid);
    let outside = crate::drift::outside(node, family, &settings.versions, members);
    maker.shown.findings.extend(outside);
    let change = settings_change(&before, &settings);
    if !change.is_empty() {
        let message = format!("once it is complete, the family has {change}");
        maker.shown.findings.push(checks::warning("", message));
    }
    // Agents have changed since it was applied, and who matches two roles is a conflict.
    let policies: Vec<Policy> = stored.policies.iter().filter_map(policy).collect();
    let conditional: Vec<Policy> = policies.into_iter().filter(|p| p.only.is_some()).collect();
    let forbidden = match conditional.as_slice() {
        // What its checks have found, these rules among it.
        _ if checks::is_draft(&stored) => checks::found(&stored),
        [] => vec![],
        some => checks::conditional(&roles, &checks::census(node, &roles, some)),
    };
    let against = checks::errors(family, &forbidden);
    maker.shown.findings.extend(forbidden);
    let assignment = assign(node, &candidates, &stored, &plan, back)?;
    maker.roles(&candidates, &plan, &assignment);
    maker.groups(&candidates)?;
    maker.left_out(&candidates);
    maker.sums(&candidates);
    let takeovers = takeovers(&candidates);
    let blocked = match settings.missing {
        components::Policy::Exclude => None,
        components::Policy::Block => lacking(node, &candidates),
    };
    let mut shown = maker.shown;
    let taken = takeovers.iter();
    shown.takeovers = taken
        .map(|(from, agents)| match agents {
            1 => format!("1 agent from family {from}"),
            agents => format!("{agents} agents from family {from}"),
        })
        .collect();
    let pinned = candidates.iter().flatten().filter(|c| c.pinned).count();
    if pinned > 0 {
        shown.findings.push(api::Finding {
            severity: "warning".to_owned(),
            message: format!("{pinned} members are held by pins: see `muster pin list`"),
            ..api::Finding::default()
        });
    }
    shown.id = format!("pv-{}", short_id());
    shown.family = family.to_owned();
    shown.revision = stored.number;
    shown.revision_hash = crate::control::digest(&stored.hash).to_string();
    let members = candidates.iter().flatten().filter(|c| c.role.is_some());
    let mut uids: Vec<Vec<u8>> = members.map(|c| c.uid.as_bytes().to_vec()).collect();
    uids.sort_unstable();
    let kept = store::Preview {
        id: shown.id.clone(),
        family: family.to_owned(),
        revision: stored.number,
        revision_hash: stored.hash.clone(),
        created_ms: now_ms(),
        diff_groups: shown
            .groups
            .iter()
            .filter_map(|group| hex::decode(&group.digest).ok())
            .collect(),
        members: uids,
        takeovers: takeovers
            .iter()
            .map(|(family, agents)| format!("{family} {agents}"))
            .collect(),
        conflicts: shown.conflicts.clone(),
        plan_hash,
        parts: 0,
    };
    Ok(Preview {
        shown,
        takeovers,
        blocked,
        rollout: assignment.rollout,
        against,
        kept,
    })
}

/// Keeps a preview so that an activation can be bound to it; old ones go.
pub async fn keep(node: &Arc<Node>, preview: &store::Preview) -> Result<(), Error> {
    let old: Vec<store::Write> = {
        let documents = node.control.read();
        let mut newest: Vec<_> = documents.previews.values().map(|p| &p.value).collect();
        newest.sort_by_key(|p| std::cmp::Reverse(p.created_ms));
        let mut members = preview.members.len();
        let old = newest.into_iter().enumerate().filter(|(i, p)| {
            members += p.members.len();
            *i >= KEPT || members > KEPT_MEMBERS || p.created_ms + KEPT_MS < now_ms()
        });
        // A rollout that waits for its approvals is held against its preview before it begins.
        let open = documents.rollouts.values().map(|r| &r.value);
        let open = open.filter(|r| !rollout_state(r.state()).is_final() && !r.prepared);
        let bound: BTreeSet<&str> = open.map(|r| r.preview.as_str()).collect();
        let old = old.filter(|(_, p)| !bound.contains(p.id.split('/').next().unwrap_or("")));
        old.map(|(_, p)| crate::ledger::delete_any(table::PREVIEW, p.id.as_str()))
            .collect()
    };
    let mut parts = preview.members.chunks(PART);
    let first = store::Preview {
        members: parts.next().unwrap_or_default().to_vec(),
        parts: u32::try_from(parts.len()).unwrap_or(u32::MAX),
        ..preview.clone()
    };
    let rest = parts.enumerate().map(|(i, members)| store::Preview {
        id: part_id(&preview.id, i + 1),
        created_ms: preview.created_ms,
        members: members.to_vec(),
        ..store::Preview::default()
    });
    // The document that names the parts comes last.
    let documents: Vec<store::Preview> = rest.chain([first]).collect();
    let mut writes = old;
    for document in documents {
        writes.push(put(table::PREVIEW, document.id.as_str(), 0, &document));
        node.control_ledger
            .propose(entry(std::mem::take(&mut writes), vec![]))
            .await
            .map_err(Error::Store)?;
    }
    Ok(())
}

/// A kept preview with all its members; none: it is not there any more, or not whole.
pub fn kept(documents: &Documents, id: &str) -> Option<store::Preview> {
    let first = &documents
        .previews
        .get(id)
        .filter(|_| !id.contains('/'))?
        .value;
    let mut whole = store::Preview::clone(first);
    for part in 1..=whole.parts as usize {
        let part = documents.previews.get(&part_id(id, part))?;
        whole.members.extend_from_slice(&part.value.members);
    }
    Some(whole)
}

fn part_id(id: &str, part: usize) -> String {
    format!("{id}/{part}")
}

/// Does the fleet still look as it did? If not, what is different, in words.
pub fn differences(before: &store::Preview, now: &store::Preview) -> Vec<String> {
    let mut differences = Vec::new();
    if before.plan_hash != now.plan_hash {
        differences.push("the plan is another one".to_owned());
    }
    if before.revision_hash != now.revision_hash {
        differences.push(format!(
            "the revision is another one (previewed {}, now {})",
            before.revision, now.revision
        ));
    }
    let fresh = |now: &[String], before: &[String]| {
        now.iter()
            .filter(|item| !before.contains(item))
            .cloned()
            .collect::<Vec<_>>()
    };
    let groups = now
        .diff_groups
        .iter()
        .filter(|group| !before.diff_groups.contains(group))
        .count();
    if groups > 0 {
        differences.push(format!(
            "{groups} new group(s) of diffs: agents would get a change that nobody has seen"
        ));
    }
    differences.extend(new_takeovers(&before.takeovers, &now.takeovers));
    differences.extend(
        fresh(&now.conflicts, &before.conflicts)
            .into_iter()
            .map(|c| format!("new role conflict: {c}")),
    );
    let gone = before
        .members
        .iter()
        .filter(|uid| now.members.binary_search(uid).is_err())
        .count();
    let joined = now
        .members
        .iter()
        .filter(|uid| before.members.binary_search(uid).is_err())
        .count();
    if gone + joined > (before.members.len() / 100).max(1) {
        differences.push(format!(
            "{joined} members joined and {gone} left, of {}",
            before.members.len()
        ));
    }
    differences
}

/// Agents that nobody has said may be taken: from a family that lost none, or more of them than were shown.
fn new_takeovers(before: &[String], now: &[String]) -> Vec<String> {
    fn split(text: &str) -> (&str, u64) {
        let (family, agents) = text.rsplit_once(' ').unwrap_or((text, "0"));
        (family, agents.parse().unwrap_or(0))
    }
    let shown: BTreeMap<&str, u64> = before.iter().map(|text| split(text)).collect();
    let now = now.iter().map(|text| split(text));
    let more = now.filter(|(family, agents)| shown.get(family).is_none_or(|n| agents > n));
    more.map(|(family, agents)| {
        let before = shown.get(family).copied().unwrap_or(0);
        format!("it takes {agents} agents from family {family}, {before} were shown")
    })
    .collect()
}

/// Members that another family owns now, by family. Who only changes its role is nobody's loss.
fn takeovers(candidates: &[Vec<Candidate>]) -> Vec<(String, u64)> {
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    let members = candidates.iter().flatten().filter(|c| c.role.is_some());
    let foreign = members.filter(|c| !c.owned);
    for (family, _) in foreign.filter_map(|c| c.taken_from.as_ref()) {
        *taken.entry(family.clone()).or_default() += 1;
    }
    taken.into_iter().collect()
}

/// Against what a delivery is compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Base {
    /// Family, role, revision and rollout of what it applied.
    Delivered((String, String, u64, String)),
    /// Bodies of what it reports, in this partition.
    Reported {
        partition: usize,
        effective: Arc<str>,
        /// Why it is not what was delivered last; none: nothing was.
        why: Option<String>,
    },
}

#[derive(Clone)]
struct Compared {
    digest: Digest,
    text: String,
    same: bool,
    against: String,
}

fn nothing() -> Value {
    Value::Map(fleet::value::Map::new())
}

/// What changes for an agent that runs this now. Keys that its supervisor or its components add by themselves stay, and
/// what is redacted cannot be compared: neither is named.
fn from_running(running: &Value, to: &Value) -> Vec<Change> {
    let content = content(to, running, &[]);
    let change = |d: &Difference| Change {
        path: d.path.clone(),
        kind: match d.sort {
            Sort::Missing => Kind::Added,
            Sort::Extra => Kind::Removed,
            Sort::Changed => Kind::Changed,
            Sort::NotComparable => Kind::NotComparable,
        },
        before: d.effective.clone(),
        after: d.delivered.clone(),
    };
    content.differences().map(change).collect()
}

/// Family, role and revision.
type Delivered = (String, String, u64);

/// What makes two changes one group: whatever they are compared with, they are seen as one change of one role.
fn group_digest(role: &str, diff: &str) -> Digest {
    Digest::of(
        "muster.preview.group.v2",
        &[role.as_bytes(), diff.as_bytes()],
    )
}

/// Family, role and revision of each delivery; the newest where several are the same.
fn delivered(
    revisions: &BTreeMap<(String, u64), control::Doc<store::Revision>>,
) -> BTreeMap<Digest, Delivered> {
    let mut all = BTreeMap::new();
    for ((family, number), revision) in revisions {
        for role in &revision.value.roles {
            let delivery = delivery_hash(&config_map(&role.config));
            all.insert(delivery, (family.clone(), role.name.clone(), *number));
        }
    }
    all
}

struct Maker<'a> {
    node: &'a Arc<Node>,
    roles: &'a [Role],
    /// Merged configs by family, role, revision: what agents run now.
    configs: BTreeMap<(String, String, u64, String), Option<Arc<Value>>>,
    /// Every delivery that there is a revision of, once somebody asks.
    deliveries: OnceCell<BTreeMap<Digest, Delivered>>,
    shown: api::PreviewResponse,
}

impl Maker<'_> {
    fn roles(&mut self, candidates: &[Vec<Candidate>], plan: &PlanSpec, assignment: &Assignment) {
        let Assignment {
            placed,
            roles,
            rollout,
        } = assignment;
        for name in rollout.roles.iter().map(|role| &role.name) {
            let Some(i) = self.roles.iter().position(|r| r.name == *name) else {
                continue;
            };
            let role = &self.roles[i];
            let mut shown = api::RolePreview {
                role: role.name.clone(),
                selector: role.selector.to_string(),
                matched: members(candidates, i).count() as u64,
                ..api::RolePreview::default()
            };
            let mut before = 0;
            for (wave, (end, spec)) in roles[i].ends.iter().zip(&roles[i].specs).enumerate() {
                let spec = plan.waves.get(*spec as usize);
                let uids = members(candidates, i)
                    .filter(|c| !c.unchanged && placed.get(&c.uid) == Some(&(wave as u32)));
                shown.waves.push(api::WavePreview {
                    agents: end - before,
                    size: spec.map(|w| size_text(w.size)).unwrap_or_default(),
                    gate: spec
                        .map(|spec| gate_text(spec, wave == 0))
                        .unwrap_or_default(),
                    examples: examples(uids.map(|c| c.uid)),
                });
                before = *end;
            }
            shown.why = self.why(candidates, i, role);
            self.shown.roles.push(shown);
        }
    }

    fn why(&self, candidates: &[Vec<Candidate>], i: usize, role: &Role) -> String {
        let Some(uid) = members(candidates, i).next().map(|c| c.uid) else {
            return String::new();
        };
        let columns = self.node.partition(uid).index().read();
        columns
            .rows
            .get(&uid)
            .map(|row| format!("{}: {}", row.name(), role.selector.explain(row)))
            .unwrap_or_default()
    }

    /// Identical diffs count as one.
    fn groups(&mut self, candidates: &[Vec<Candidate>]) -> Result<(), Error> {
        let mut known: BTreeMap<(usize, Base), Compared> = BTreeMap::new();
        let mut groups: BTreeMap<(usize, Digest), api::DiffGroup> = BTreeMap::new();
        for (i, role) in self.roles.iter().enumerate() {
            let to = merged_config(&role.config).unwrap_or_else(nothing);
            for candidate in members(candidates, i) {
                let base = self.base(candidate)?;
                let Compared {
                    digest,
                    text,
                    same,
                    against,
                } = match known.entry((i, base)) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => {
                        let compared = self.compare(&role.name, &new.key().1, &to)?;
                        new.insert(compared).clone()
                    }
                };
                let group = groups.entry((i, digest)).or_insert_with(|| api::DiffGroup {
                    role: role.name.clone(),
                    digest: digest.to_hex(),
                    diff: text,
                    unchanged: same || candidate.unchanged,
                    against,
                    ..api::DiffGroup::default()
                });
                group.agents += 1;
                if group.examples.len() < EXAMPLES {
                    group.examples.push(candidate.uid.to_string());
                }
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.agents));
        self.shown.groups = groups;
        Ok(())
    }

    /// What an agent runs now: what it said it applied, unless it has drifted from that, else what it reports to run.
    fn base(&self, candidate: &Candidate) -> Result<Base, Error> {
        let delivery = candidate.delivery.as_ref();
        let name = |d: &store::Delivery| {
            (
                d.family.clone(),
                d.role.clone(),
                d.revision,
                d.rollout.clone(),
            )
        };
        // Who is sent nothing is no change that somebody has to see.
        let drifted = candidate.drifted && !candidate.unchanged;
        if let Some(delivery) = delivery.filter(|_| candidate.applied && !drifted) {
            return Ok(Base::Delivered(name(delivery)));
        }
        // What is offered to it, or has failed with it, is not what it runs.
        if let Some((family, role, revision)) = self.before_offer(candidate)? {
            return Ok(Base::Delivered((family, role, revision, String::new())));
        }
        let why = |d: &store::Delivery| {
            let delivered = format!("{}/{} r{}", d.family, d.role, d.revision);
            match candidate.applied {
                true => format!("it has drifted from {delivered}"),
                false => format!("{delivered} was offered and is not applied"),
            }
        };
        Ok(Base::Reported {
            partition: self.node.partition_index(candidate.uid),
            effective: candidate.effective.clone(),
            why: delivery.map(why),
        })
    }

    /// Family, role and revision of what an agent had applied before it was offered something that it has not applied;
    /// none: nothing that there is a revision of.
    fn before_offer(&self, candidate: &Candidate) -> Result<Option<Delivered>, Error> {
        if candidate.applied || candidate.delivery.is_none() {
            return Ok(None);
        }
        let view = self.node.partition(candidate.uid).ledger.view();
        let view = view.map_err(Error::Read)?;
        let stored: Option<(u64, store::Agent)> = view
            .get(table::AGENT, candidate.uid.as_bytes())
            .map_err(Error::Read)?;
        let delivery = stored.and_then(|(_, agent)| agent.delivery);
        let before = delivery.and_then(|d| Digest::from_slice(d.earlier.first()?));
        // Everybody waits for who holds the documents: they are hashed without.
        let all = || {
            let revisions = self.node.control.read().revisions.clone();
            delivered(&revisions)
        };
        Ok(before.and_then(|hash| self.deliveries.get_or_init(all).get(&hash).cloned()))
    }

    fn compare(&mut self, role: &str, base: &Base, to: &Value) -> Result<Compared, Error> {
        let (against, changes) = match base {
            Base::Delivered(key) => {
                let (family, role, revision, _) = key;
                let before = self.config(key);
                let against = match (&before, revision) {
                    (None, _) => "what it runs is not known any more".to_owned(),
                    (Some(_), 0) => format!("{family}/{role} baseline"),
                    (Some(_), revision) => format!("{family}/{role} r{revision}"),
                };
                let empty = nothing();
                let before = before.as_deref().unwrap_or(&empty);
                (against, diff(before, to).changes().to_vec())
            }
            Base::Reported {
                partition,
                effective,
                why,
            } => {
                let running = self.running(*partition, effective)?;
                let what = match &running {
                    Some(_) => "what it runs now",
                    None => "nothing: it does not say what it runs",
                };
                let against = match why {
                    Some(why) => format!("{what}; {why}"),
                    None => what.to_owned(),
                };
                let changes = match &running {
                    Some(running) => from_running(running, to),
                    None => diff(&nothing(), to).changes().to_vec(),
                };
                (against, changes)
            }
        };
        let text: String = changes.iter().map(|change| format!("{change}\n")).collect();
        Ok(Compared {
            digest: group_digest(role, &text),
            same: changes.is_empty(),
            text,
            against,
        })
    }

    /// The merged effective config of agents that report these bodies; none: it is not kept, or no YAML.
    fn running(&self, partition: usize, effective: &str) -> Result<Option<Value>, Error> {
        let view = self.node.partitions[partition].ledger.view();
        let view = view.map_err(Error::Read)?;
        let mut files = BTreeMap::new();
        for (i, address) in effective.split(',').enumerate() {
            let address = hex::decode(address).unwrap_or_default();
            let kept: Option<(u64, store::Body)> =
                view.get(table::BODY, &address).map_err(Error::Read)?;
            let text = kept.and_then(|(_, kept)| String::from_utf8(body::open(&kept)?).ok());
            let Some(Ok(parsed)) = text.map(|t| proto::yaml::parse(&body::anonymous(t))) else {
                return Ok(None);
            };
            files.insert(format!("{i:04}"), parsed);
        }
        Ok(fleet::merge::merge(&files).ok())
    }

    fn config(&self, key: &(String, String, u64, String)) -> Option<Arc<Value>> {
        if let Some(found) = self.configs.get(key) {
            return found.clone();
        }
        let (family, role_name, revision, rollout) = key;
        let documents = self.node.control.read();
        let (number, baseline) = if *revision == 0 {
            (documents.rollouts.get(rollout)?.value.to, true)
        } else {
            (*revision, false)
        };
        let stored = documents
            .revision(family, number)?
            .value
            .roles
            .iter()
            .find(|r| r.name == *role_name)?
            .clone();
        let map: ConfigMap = if baseline {
            role(&stored)?.baseline()
        } else {
            config_map(&stored.config)
        };
        merged_config(&map).map(Arc::new)
    }

    fn left_out(&mut self, candidates: &[Vec<Candidate>]) {
        let mut reasons: BTreeMap<String, api::LeftOut> = BTreeMap::new();
        for candidate in candidates.iter().flatten() {
            let Some(why) = &candidate.left_out else {
                continue;
            };
            let group = reasons.entry(why.clone()).or_insert_with(|| api::LeftOut {
                why: why.clone(),
                ..api::LeftOut::default()
            });
            group.agents += 1;
            if group.examples.len() < EXAMPLES {
                group.examples.push(candidate.uid.to_string());
            }
        }
        self.shown.left_out = reasons.into_values().collect();
        let conflicts = candidates
            .iter()
            .flatten()
            .filter_map(|c| Some((c.uid, c.conflict.as_ref()?)));
        let conflicts: Vec<String> = conflicts
            .map(|(uid, roles)| format!("{uid} matches {}", roles.join(" and ")))
            .collect();
        self.shown.conflicts = conflicts.into_iter().take(CONFLICTS_SHOWN).collect();
    }

    fn sums(&mut self, candidates: &[Vec<Candidate>]) {
        let all = || candidates.iter().flatten();
        self.shown.members = all().filter(|c| c.role.is_some()).count() as u64;
        self.shown.changed = all().filter(|c| c.role.is_some() && !c.unchanged).count() as u64;
        self.shown.owned = all().filter(|c| c.owned).count() as u64;
        self.shown.reach_limit = reach_limit(self.shown.owned);
    }
}

fn members(candidates: &[Vec<Candidate>], role: usize) -> impl Iterator<Item = &Candidate> {
    candidates
        .iter()
        .flatten()
        .filter(move |c| c.role.is_some_and(|r| r as usize == role))
}

fn examples(uids: impl Iterator<Item = Uid>) -> Vec<String> {
    uids.take(EXAMPLES).map(|uid| uid.to_string()).collect()
}

/// A wave's gate in words.
pub fn gate_text(wave: &fleet::rollout::WaveSpec, first: bool) -> String {
    let failures = match wave.gate.max_failures {
        None if first => "1 failure".to_owned(),
        None => "1% failures".to_owned(),
        Some(Size::Count(1)) => "1 failure".to_owned(),
        Some(size) => format!("{} failures", size_text(size)),
    };
    format!(
        "{}% converged for {}, stop at {failures}",
        f64::from(wave.gate.success) / 1000.0,
        duration_text(wave.soak_ms)
    )
}

/// Eight characters that are unlikely to have been used.
pub fn short_id() -> String {
    use rand::Rng;
    let mut rng = rand::rng();
    (0..8)
        .map(|_| char::from(ID_LETTERS[rng.random_range(0..ID_LETTERS.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a hundred members and more.
    fn shown(members: std::ops::Range<u16>) -> store::Preview {
        store::Preview {
            members: members.map(|n| n.to_be_bytes().to_vec()).collect(),
            diff_groups: vec![vec![1], vec![2]],
            takeovers: vec!["base 3".into()],
            conflicts: vec!["agent 1".into()],
            ..store::Preview::default()
        }
    }

    #[test]
    fn what_nobody_has_seen_is_named_whatever_it_is() {
        let before = shown(0..100);
        let change = |change: fn(&mut store::Preview)| {
            let mut now = before.clone();
            change(&mut now);
            differences(&before, &now)
        };
        assert_eq!(change(|_| {}), Vec::<String>::new());
        assert_eq!(
            change(|now| now.diff_groups.push(vec![3])),
            ["1 new group(s) of diffs: agents would get a change that nobody has seen"]
        );
        assert_eq!(
            change(|now| now.conflicts.push("agent 2".into())),
            ["new role conflict: agent 2"]
        );
        assert_eq!(
            change(|now| now.takeovers = vec!["base 4".into(), "edge 1".into()]),
            [
                "it takes 4 agents from family base, 3 were shown",
                "it takes 1 agents from family edge, 0 were shown"
            ]
        );
        assert_eq!(
            change(|now| now.plan_hash = vec![1]),
            ["the plan is another one"]
        );
        // What is no more asks for no second look.
        let less = change(|now| {
            now.diff_groups.clear();
            now.takeovers.clear();
            now.conflicts.clear();
        });
        assert_eq!(less, Vec::<String>::new());
    }

    #[test]
    fn one_percent_of_the_members_may_join_or_leave_and_one_in_any_case() {
        let moved = |before: std::ops::Range<u16>, now| differences(&shown(before), &shown(now));
        assert_eq!(moved(0..200, 2..200), Vec::<String>::new());
        assert_eq!(moved(0..200, 1..201), Vec::<String>::new());
        assert_eq!(
            moved(0..200, 1..202),
            ["2 members joined and 1 left, of 200"]
        );
        assert_eq!(moved(0..3, 0..4), Vec::<String>::new());
        assert_eq!(moved(0..3, 0..5), ["2 members joined and 0 left, of 3"]);
    }

    #[test]
    fn a_delivery_is_known_by_its_hash_and_a_group_by_its_role_and_its_diff() {
        let control = control::Control::default();
        let mut mirror = control.mirror();
        let file = store::ConfigFile {
            body: "a: 1".into(),
            ..store::ConfigFile::default()
        };
        let role = store::Role {
            name: "agent".into(),
            selector: "*".into(),
            config: [(String::new(), file)].into(),
            ..store::Role::default()
        };
        let delivery = delivery_hash(&config_map(&role.config));
        for number in [1, 2] {
            let revision = store::Revision {
                family: "edge".into(),
                number,
                roles: vec![role.clone()],
                ..store::Revision::default()
            };
            let key = control::revision_key("edge", number);
            let value = revision.encode_to_vec();
            crate::ledger::Mirror::put(&mut mirror, table::REVISION, &key, number, &value);
        }
        crate::ledger::Mirror::publish(&mut mirror, 0);
        let known = delivered(&control.read().revisions);
        assert_eq!(known[&delivery], ("edge".into(), "agent".into(), 2));
        assert_eq!(group_digest("agent", "+ a"), group_digest("agent", "+ a"));
        assert_ne!(group_digest("agent", "+ a"), group_digest("gateway", "+ a"));
        assert_ne!(group_digest("agent", "+ a"), group_digest("agent", "+ b"));
    }
}
