//! Applies against documents in memory.

mod drafts;

use std::collections::BTreeMap;

use fleet::program::OwnerChange;
use prost::Message;
use proto::api;
use proto::store::{self, RolloutState};
use proto::uid::Uid;
use tonic::{Code, Status};

use super::apply::{Change, Order, Seen, change};
use super::lent::Lent;
use super::show;
use super::sources::{self, Due};
use crate::api::governance::asked_for;
use crate::control::{BUDGET_KEY, Control, Documents, build_program, revision_key};
use crate::ledger::{Mirror, table};
use crate::manifest::{Manifest, parse};

/// Control documents, and versions as a log would count them.
#[derive(Default)]
struct Fleet {
    control: Control,
    version: u64,
    owned: BTreeMap<String, u64>,
    lent: BTreeMap<String, Lent>,
    /// What agents and collectors say, by family.
    findings: BTreeMap<String, Vec<api::Finding>>,
}

fn family_of(name: &str, precedence: i64, marker: &str) -> String {
    format!(
        "apiVersion: muster/v1
kind: Family
metadata: {{name: {name}, owner: ops}}
spec:
  precedence: {precedence}
  roles:
    - name: agent
      selector: \"*\"
      config: |
        receivers: {{otlp: {{protocols: {{http: {{}}}}}}}}
        exporters: {{debug/{marker}: {{}}}}
        service: {{pipelines: {{logs: {{receivers: [otlp], exporters: [debug/{marker}]}}}}}}
"
    )
}

fn family(name: &str, marker: &str) -> String {
    let precedence = name.bytes().map(i64::from).sum();
    family_of(name, precedence, marker)
}

fn plan(name: &str, soak: &str) -> String {
    format!(
        "apiVersion: muster/v1\nkind: Plan\nmetadata: {{name: {name}}}\nspec: {{waves: [{{size: 1, soak: {soak}}}, {{size: 100%}}]}}\n"
    )
}

fn budget(size: &str) -> String {
    format!(
        "apiVersion: muster/v1\nkind: Budget\nmetadata: {{name: fleet}}\nspec: {{size: {size}}}\n"
    )
}

fn read(yamls: &[String]) -> Vec<Manifest> {
    parse("f.yaml", &yamls.join("---\n"), &BTreeMap::new()).unwrap()
}

fn api_order() -> Order<'static> {
    Order {
        actor: "ann",
        ..Order::default()
    }
}

fn git(commit: &'static str) -> Order<'static> {
    Order {
        actor: "ci",
        source: Some("git"),
        commit,
        ..Order::default()
    }
}

fn words(change: &Change) -> Vec<String> {
    let word = |r: &api::apply_response::Result| format!("{} {} {}", r.kind, r.name, r.change);
    change.results.iter().map(word).collect()
}

fn acts(change: &Change) -> Vec<String> {
    let text = |act: &store::Act| format!("{} {} {}", act.action, act.object, act.detail);
    change.acts.iter().map(text).collect()
}

// === impl Fleet ===

impl Fleet {
    fn plan(&self, yamls: &[String], order: Order<'_>) -> Result<Change, Status> {
        let manifests = read(yamls);
        let families = manifests.iter().filter_map(|manifest| match manifest {
            Manifest::Family(family) => Some(family.name.clone()),
            _ => None,
        });
        let mut seen = Seen {
            owned: self.owned.clone(),
            lent: self.lent.clone(),
            findings: families.map(|name| (name, vec![])).collect(),
        };
        for (family, found) in &self.findings {
            seen.findings.insert(family.clone(), found.clone());
        }
        change(&self.control.read(), &manifests, &order, &seen)
    }

    fn store(&mut self, change: &Change) {
        self.version += 1;
        let mut mirror = self.control.mirror();
        for write in &change.writes {
            let table = u8::try_from(write.table).unwrap();
            match write.delete {
                true => mirror.delete(table, &write.key),
                false => mirror.put(table, &write.key, self.version, &write.value),
            }
        }
        mirror.publish(0);
    }

    fn apply(&mut self, yamls: &[String], order: Order<'_>) -> Change {
        let change = self.plan(yamls, order).unwrap();
        self.store(&change);
        change
    }

    fn refused(&self, yamls: &[String], order: Order<'_>) -> (Code, String) {
        let status = self.plan(yamls, order).err().unwrap();
        (status.code(), status.message().to_owned())
    }

    fn put(&mut self, table: u8, key: &str, value: &impl Message) {
        let change = Change {
            writes: vec![crate::ledger::put_any(table, key, value)],
            ..Change::default()
        };
        self.store(&change);
    }

    fn rollout(&mut self, id: &str, family: &str, to: u64, state: RolloutState) {
        let rollout = store::Rollout {
            id: id.to_owned(),
            family: family.to_owned(),
            to,
            state: state.into(),
            plan: Some(store::Plan {
                name: "careful".to_owned(),
                ..store::Plan::default()
            }),
            ..store::Rollout::default()
        };
        self.put(table::ROLLOUT, id, &rollout);
        let mut stored = self.family(family);
        stored.rollout = id.to_owned();
        self.put(table::FAMILY, family, &stored);
    }

    fn family(&self, name: &str) -> store::Family {
        store::Family::clone(&self.control.read().families[name].value)
    }

    fn adopt(&mut self, request: &api::AdoptRequest) -> Result<Change, Status> {
        let change = sources::adoption(&self.control.read(), request, "ann")?;
        self.store(&change);
        Ok(change)
    }

    fn leave(&mut self, plan: &str) {
        let set = sources::leave(&self.control.read(), "git", plan, "root").unwrap();
        let (write, act) = set.unwrap();
        let change = Change {
            writes: vec![write],
            acts: vec![act],
            ..Change::default()
        };
        self.store(&change);
    }
}

fn everything() -> [String; 3] {
    [family("web", "a"), plan("careful", "1m"), budget("10%")]
}

#[test]
fn an_apply_creates_changes_and_leaves_alone() {
    let mut fleet = Fleet::default();
    let first = fleet.apply(&everything(), api_order());
    let expected = [
        "Family web created",
        "Plan careful created",
        "Budget fleet created",
    ];
    assert_eq!(words(&first), expected);
    let again = fleet.apply(&everything(), api_order());
    assert!(again.writes.is_empty() && again.acts.is_empty());
    let edited = [family("web", "b"), plan("careful", "2m"), budget("20%")];
    let edited = fleet.apply(&edited, api_order());
    let expected = [
        "Family web new revision",
        "Plan careful changed",
        "Budget fleet changed",
    ];
    assert_eq!(words(&edited), expected);
    assert_eq!(edited.results[0].revision, 2);
}

#[test]
fn settings_are_part_of_a_revision_and_not_in_force_before_it_is_stable() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], api_order());
    let set = family("web", "a") + "  ownerChange: auto\n  versions: {from: 0.150.0, behind: 2}\n";
    let change = fleet.apply(std::slice::from_ref(&set), api_order());
    assert_eq!(words(&change), ["Family web new revision"]);
    let said = acts(&change);
    assert!(
        said[0].ends_with("), with owner change auto instead of ask, versions from 0.150.0, at most 2 releases behind the newest instead of any"),
        "{said:?}"
    );
    assert_eq!(fleet.family("web").settings, None);
    let program = crate::control::build_program(&fleet.control.read());
    let ask = fleet::program::OwnerChange::Ask;
    assert_eq!(program.families[0].owner_change, ask);
    {
        let documents = fleet.control.read();
        let revision = &documents.revision("web", 2).unwrap().value;
        assert!(revision.settings.as_ref().unwrap().owner_change_auto);
    }
    let again = fleet.apply(std::slice::from_ref(&set), api_order());
    assert_eq!(words(&again), ["Family web unchanged"]);
    // A team is the family's, whatever it runs.
    let renamed = set.replace("owner: ops", "owner: sre");
    assert_eq!(
        words(&fleet.apply(&[renamed], api_order())),
        ["Family web changed"]
    );
    assert_eq!(fleet.family("web").latest, 2);
}

#[test]
fn a_family_from_before_revisions_had_settings_keeps_its_own_until_a_revision_says_otherwise() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], api_order());
    let mut revision = {
        let documents = fleet.control.read();
        store::Revision::clone(&documents.revision("web", 1).unwrap().value)
    };
    revision.settings = None;
    let key = revision_key("web", 1);
    let write = crate::ledger::put_any(table::REVISION, key, &revision);
    fleet.store(&Change {
        writes: vec![write],
        ..Change::default()
    });
    let mut stored = fleet.family("web");
    stored.settings = Some(store::FamilySettings {
        drift_re_offer: true,
        ..store::FamilySettings::default()
    });
    fleet.put(table::FAMILY, "web", &stored);
    let set = family("web", "a") + "  drift: re-offer\n";
    for yaml in [set, family("web", "a")] {
        let change = fleet.plan(&[yaml], api_order()).unwrap();
        assert_eq!(words(&change), ["Family web new revision"]);
    }
    assert!(fleet.family("web").settings.unwrap().drift_re_offer);
}

#[test]
fn approvals_are_kept_with_the_revision() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], api_order());
    let asking = family("web", "a") + "  approvals: 2\n";
    let change = fleet.apply(&[asking], api_order());
    assert_eq!(words(&change), ["Family web new revision"]);
    let documents = fleet.control.read();
    assert_eq!(documents.revision("web", 2).unwrap().value.approvals, 2);
    assert_eq!(documents.revision("web", 1).unwrap().value.approvals, 0);
}

#[test]
fn a_revision_that_was_rejected_stays_and_is_shown_as_such() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], api_order());
    let stored = fleet
        .control
        .read()
        .revision("web", 1)
        .unwrap()
        .value
        .clone();
    let rejected = store::Revision {
        rejected: "bob: breaks prod".to_owned(),
        ..store::Revision::clone(&stored)
    };
    assert_eq!(show::summary(&stored).state, "validated");
    assert_eq!(show::summary(&rejected).state, "rejected");
    assert_eq!(show::summary(&rejected).rejected, "bob: breaks prod");
}

#[test]
fn two_families_with_one_precedence_are_refused() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family_of("web", 10, "a")], api_order());
    let same = |precedence: i64| fleet.refused(&[family_of("db", precedence, "a")], api_order());
    let (code, text) = same(10);
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("family `db` has precedence 10, which family `web` has already"));
    let both = [family_of("db", 5, "a"), family_of("kv", 5, "a")];
    assert!(fleet.refused(&both, api_order()).1.contains("precedence 5"));
    // A draft will have it once it is active.
    fleet.apply(&[family_of("web", 20, "a")], api_order());
    let (_, text) = fleet.refused(&[family_of("db", 20, "a")], api_order());
    assert!(text.contains("which family `web` has already"), "{text}");
}

#[test]
fn a_name_that_stands_twice_is_refused() {
    let fleet = Fleet::default();
    let (code, text) = fleet.refused(&[plan("p", "1m"), plan("p", "2m")], api_order());
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("plan `p` stands 2 times"), "{text}");
}

#[test]
fn a_source_owns_what_it_writes_and_drafts_have_its_commit() {
    let mut fleet = Fleet::default();
    let change = fleet.apply(&everything(), git("c1"));
    let source = "source.apply source/git 3 created, commit c1";
    assert_eq!(acts(&change).last().unwrap(), source);
    let documents = fleet.control.read();
    assert_eq!(documents.families["web"].value.source, "git");
    assert_eq!(documents.plans["careful"].value.source, "git");
    assert_eq!(documents.budgets[BUDGET_KEY].value.source, "git");
    let revision = &documents.revision("web", 1).unwrap().value;
    assert_eq!(
        (revision.commit.as_str(), revision.author.as_str()),
        ("c1", "ci")
    );
    assert_eq!(show::summary(revision).state, "validated");
    let view = sources::view(&documents, &documents.sources["git"].value);
    assert_eq!((view.plan.as_str(), view.commit.as_str()), ("", "c1"));
    assert_eq!(
        (view.families, view.plans, view.budget),
        (vec!["web".to_owned()], vec!["careful".to_owned()], true)
    );
}

#[test]
fn a_sync_without_a_change_notes_only_another_commit() {
    let mut fleet = Fleet::default();
    fleet.apply(&everything(), git("c1"));
    let again = fleet.apply(&everything(), git("c1"));
    assert!(again.writes.is_empty() && again.acts.is_empty());
    assert!(
        fleet
            .plan(&everything(), git(""))
            .unwrap()
            .writes
            .is_empty()
    );
    let next = fleet.apply(&everything(), git("c2"));
    assert_eq!(
        acts(&next),
        ["source.apply source/git 3 unchanged, commit c2"]
    );
    assert_eq!(next.writes.len(), 1);
    let documents = fleet.control.read();
    assert_eq!(documents.sources["git"].value.commit, "c2");
    assert_eq!(documents.revision("web", 0).unwrap().value.commit, "c1");
}

#[test]
fn what_a_source_no_longer_has_goes_with_its_revisions_unless_it_is_kept() {
    let mut fleet = Fleet::default();
    let db = family("db", "a");
    fleet.apply(
        &[&everything()[..], std::slice::from_ref(&db)].concat(),
        git("c1"),
    );
    fleet.apply(
        &[&everything()[..], &[family("db", "b")]].concat(),
        git("c2"),
    );
    let keeping = Order {
        keep_gone: true,
        ..git("c3")
    };
    let kept = fleet.plan(&[family("web", "a")], keeping).unwrap();
    assert_eq!(words(&kept), ["Family web unchanged"]);
    let before = fleet.control.read().epoch();
    let change = fleet.apply(&[family("web", "a")], git("c3"));
    let expected = [
        "Family web unchanged",
        "Budget fleet pruned",
        "Family db pruned",
        "Plan careful pruned",
    ];
    assert_eq!(words(&change), expected);
    assert_eq!(
        acts(&change)[1],
        "family.prune family/db gone from source git, commit c3"
    );
    let documents = fleet.control.read();
    assert!(!documents.families.contains_key("db"));
    assert!(documents.revisions.keys().all(|(name, _)| name == "web"));
    assert!(documents.plans.is_empty() && documents.budget().is_none());
    assert!(documents.epoch() > before, "partitions have to hear of it");
}

#[test]
fn what_is_in_use_is_not_pruned_and_then_nothing_changes() {
    let mut fleet = Fleet::default();
    let db = family("db", "a");
    fleet.apply(
        &[family("web", "a"), db.clone(), plan("careful", "1m")],
        git("c1"),
    );
    fleet.owned.insert("db".to_owned(), 12);
    let (code, text) = fleet.refused(&[family("web", "b")], git("c2"));
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(
        text,
        "family db is gone from source git but 12 agents run it or may go back to it: end that first, or apply with --keep-gone"
    );
    fleet.owned.clear();
    fleet.lent.insert("db".to_owned(), lent(1));
    let (_, text) = fleet.refused(&[family("web", "b")], git("c2"));
    assert_eq!(
        text,
        format!(
            "family db is gone from source git but another family's rollout takes 1 of its agents ({}) and may have to give them back: end that first, or apply with --keep-gone",
            uid(1)
        )
    );
    fleet.lent.clear();
    fleet.rollout("ro-1", "db", 1, RolloutState::Paused);
    let (_, text) = fleet.refused(&[family("web", "a")], git("c2"));
    assert!(
        text.contains("family db is gone from source git but rollout ro-1 is paused"),
        "{text}"
    );
    assert!(
        text.contains("plan careful is gone from source git but rollout ro-1 goes by it"),
        "{text}"
    );
    fleet.rollout("ro-1", "db", 1, RolloutState::RolledBack);
    fleet.leave("careful");
    let (_, text) = fleet.refused(&[family("web", "a"), db], git("c2"));
    assert!(
        text.contains("plan careful is gone from source git but source git activates with it"),
        "{text}"
    );
}

#[test]
fn a_family_that_comes_back_goes_on_counting() {
    let mut fleet = Fleet::default();
    let web = family("web", "a");
    fleet.apply(&[web.clone(), family("db", "a")], git("c1"));
    fleet.rollout("ro-1", "db", 1, RolloutState::Completed);
    fleet.apply(std::slice::from_ref(&web), git("c2"));
    let change = fleet.apply(&[web, family("db", "b")], git("c3"));
    assert_eq!(change.results[1].change, "created");
    assert_eq!(
        (change.results[1].revision, fleet.family("db").latest),
        (2, 2)
    );
    let documents = fleet.control.read();
    let request = api::DiffRevisionsRequest {
        family: "db".to_owned(),
        ..Default::default()
    };
    let diff = show::revision_diff(&documents, &request).unwrap();
    assert_eq!((diff.from, diff.to), (0, 2));
}

#[test]
fn a_precedence_is_free_once_its_family_is_pruned_in_the_same_sync() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family_of("old", 10, "a")], git("c1"));
    let change = fleet.apply(&[family_of("new", 10, "a")], git("c2"));
    assert_eq!(words(&change), ["Family new created", "Family old pruned"]);
}

#[test]
fn objects_of_others_are_refused_by_name_all_at_once() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], api_order());
    let other = Order {
        source: Some("other"),
        ..git("c1")
    };
    fleet.apply(&[plan("careful", "1m")], other);
    let (code, text) = fleet.refused(&everything(), git("c1"));
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.contains("family web is owned by the API and console: hand it over with `muster adopt web --source git`"), "{text}");
    assert!(
        text.contains("plan careful is owned by source other"),
        "{text}"
    );
}

#[test]
fn an_edit_of_what_git_has_is_refused_with_the_patch_to_commit() {
    let mut fleet = Fleet::default();
    fleet.apply(&everything(), git("c1"));
    assert!(
        fleet
            .plan(&everything(), api_order())
            .unwrap()
            .writes
            .is_empty()
    );
    let edited = [family("web", "b"), plan("careful", "2m"), budget("20%")];
    let (code, text) = fleet.refused(&edited, api_order());
    assert_eq!(code, Code::FailedPrecondition);
    for expected in [
        "family web is owned by source git: commit the change there",
        "+++ b/family/web/agent/config.yaml",
        "-exporters: {debug/a: {}}\n",
        "+exporters: {debug/b: {}}\n",
        "plan careful is owned by source git",
        "+++ b/plan/careful.yaml",
        "budget fleet is owned by source git",
    ] {
        assert!(text.contains(expected), "{text}\nlacks: {expected}");
    }
}

#[test]
fn mistakes_of_a_manifest_are_told_before_who_owns_what() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], git("c1"));
    let bad = family("web", "b").replace("receivers: [otlp]", "receivers: [nope]");
    let (code, text) = fleet.refused(&[bad], api_order());
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("family web, role agent:"), "{text}");
}

#[test]
fn what_is_handed_over_is_the_other_ones() {
    let mut fleet = Fleet::default();
    fleet.apply(&everything(), api_order());
    let to_git = api::AdoptRequest {
        families: vec!["web".to_owned(), "web".to_owned()],
        plans: vec!["careful".to_owned()],
        budget: true,
        source: "git".to_owned(),
        ..Default::default()
    };
    let change = fleet.adopt(&to_git).unwrap();
    let expected = [
        "Family web adopted",
        "Plan careful adopted",
        "Budget fleet adopted",
    ];
    assert_eq!(words(&change), expected);
    assert_eq!(
        acts(&change)[0],
        "family.adopt family/web from API and console to source git"
    );
    assert!(fleet.control.read().sources.contains_key("git"));
    let sync = fleet.apply(&everything(), git("c1"));
    assert!(words(&sync).iter().all(|word| word.ends_with("unchanged")));
    let back = api::AdoptRequest {
        source: String::new(),
        ..to_git.clone()
    };
    fleet.adopt(&back).unwrap();
    assert_eq!(fleet.family("web").source, "");
    let again = fleet.adopt(&back).unwrap();
    assert!(again.writes.is_empty());
    assert!(words(&again).contains(&"Family web unchanged".to_owned()));
}

#[test]
fn handing_over_names_what_there_is_not() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], api_order());
    let request = api::AdoptRequest {
        families: vec!["web".to_owned(), "wep".to_owned()],
        plans: vec!["carefull".to_owned()],
        budget: true,
        source: "git".to_owned(),
        ..Default::default()
    };
    let refused = fleet.adopt(&request).err().unwrap();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused
            .message()
            .starts_with("there is no family `wep`, no plan `carefull`, no budget:")
    );
    assert_eq!(fleet.family("web").source, "");
    let nothing = fleet.adopt(&api::AdoptRequest::default()).err().unwrap();
    assert!(nothing.message().starts_with("nothing is named"));
    let bad = api::AdoptRequest {
        source: "Git Hub".to_owned(),
        ..request
    };
    assert_eq!(
        fleet.adopt(&bad).err().unwrap().code(),
        Code::InvalidArgument
    );
}

#[test]
fn a_source_activates_with_a_plan_that_there_is() {
    let mut fleet = Fleet::default();
    let set = |fleet: &Fleet, plan: &str| {
        let set = sources::leave(&fleet.control.read(), "git", plan, "root");
        set.map(|set| set.map(|(_, act)| act.detail))
    };
    let refused = set(&fleet, "careful").err().unwrap();
    assert!(
        refused
            .message()
            .contains("there is no plan `careful` for source git")
    );
    assert_eq!(
        set(&fleet, "default").unwrap().unwrap(),
        "activates with plan default"
    );
    fleet.leave("default");
    assert_eq!(set(&fleet, "default").unwrap(), None);
    assert_eq!(set(&fleet, "").unwrap().unwrap(), "writes drafts only");
    // An apply leaves the plan as it is.
    fleet.apply(&[family("web", "a")], git("c1"));
    assert_eq!(fleet.control.read().sources["git"].value.plan, "default");
}

#[test]
fn a_call_that_makes_no_sense_for_a_source_is_refused() {
    let manifest = api::Manifest::default();
    let sound = api::ApplyRequest {
        manifests: vec![manifest],
        source: "git".to_owned(),
        commit: "c1".to_owned(),
        ..Default::default()
    };
    assert!(sources::check_request(&sound).is_ok());
    assert!(sources::check_request(&api::ApplyRequest::default()).is_ok());
    let with = |change: fn(&mut api::ApplyRequest), expected: &str| {
        let mut request = sound.clone();
        change(&mut request);
        let refused = sources::check_request(&request).unwrap_err();
        assert!(refused.message().contains(expected), "{refused}");
    };
    with(|r| r.manifests.clear(), "so that all it owns would go");
    with(|r| r.source.clear(), "commit c1 is of no source");
    with(
        |r| r.source = "Git".to_owned(),
        "source `Git` is not a name",
    );
    with(
        |r| r.commit = "a\nb".to_owned(),
        "the commit of source git is no name of one",
    );
    with(
        |r| r.commit = "a".repeat(201),
        "the commit of source git is no name of one",
    );
    with(
        |r| {
            r.source.clear();
            r.keep_gone = true;
        },
        "only a source has something that is gone",
    );
}

#[test]
fn an_apply_starts_what_is_new_or_was_never_tried_and_repeats_nothing() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], git("c1"));
    let due = |fleet: &Fleet, is_new| sources::due(&fleet.control.read(), "web", is_new);
    assert_eq!(due(&fleet, true), Due::Start);
    assert_eq!(
        due(&fleet, false),
        Due::Start,
        "its start was refused before"
    );
    fleet.rollout("ro-1", "web", 1, RolloutState::Running);
    assert_eq!(due(&fleet, false), Due::No);
    fleet.rollout("ro-1", "web", 1, RolloutState::RolledBack);
    let Due::Not(why) = due(&fleet, false) else {
        panic!()
    };
    assert!(
        why.contains("rollout ro-1 is rolled back: start it again with `muster rollout start web`"),
        "{why}"
    );
    let mut stable = fleet.family("web");
    stable.stable = 1;
    fleet.put(table::FAMILY, "web", &stable);
    assert_eq!(due(&fleet, false), Due::No);
    assert_eq!(sources::due(&Documents::default(), "web", false), Due::No);
}

#[test]
fn plans_that_are_built_in_are_listed_first() {
    let mut fleet = Fleet::default();
    fleet.apply(&[plan("careful", "1m")], git("c1"));
    let plans = show::plans(&fleet.control.read());
    let names: Vec<&str> = plans.iter().map(|plan| plan.name.as_str()).collect();
    assert_eq!(names, ["default", "urgent", "rollback", "careful"]);
    assert!(plans[1].urgent && !plans[2].urgent);
    assert_eq!(
        (plans[0].source.as_str(), plans[3].source.as_str()),
        ("", "git")
    );
    assert!(plans.iter().all(|plan| plan.hash.len() == 64));
}

#[test]
fn a_pruned_revision_is_deleted_at_the_version_that_was_read() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a"), family("db", "a")], git("c1"));
    let change = fleet.plan(&[family("web", "a")], git("c2")).unwrap();
    let write = change
        .writes
        .iter()
        .find(|write| write.key == revision_key("db", 1))
        .unwrap();
    assert!(write.delete && !write.any_version);
    assert_eq!(write.expect, fleet.version);
}

fn uid(number: u8) -> Uid {
    Uid::from_wire(&[number; 16]).unwrap()
}

fn lent(agents: u8) -> Lent {
    Lent {
        agents: u64::from(agents),
        named: (1..=agents).map(uid).collect(),
    }
}

fn delete(fleet: &mut Fleet, name: &str) -> Result<Change, Status> {
    let request = api::DeleteFamilyRequest {
        name: name.to_owned(),
        reason: "moved".to_owned(),
        ..api::DeleteFamilyRequest::default()
    };
    let owned = fleet.owned.get(name).copied().unwrap_or(0);
    let change = sources::deletion(
        &fleet.control.read(),
        &request,
        "ann",
        (owned, Lent::default()),
    )?;
    fleet.store(&change);
    Ok(change)
}

#[test]
fn a_family_is_deleted_and_its_agents_keep_what_they_run() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a"), family("db", "a")], api_order());
    fleet.apply(&[family("web", "b")], api_order());
    let pin = store::Pin {
        name: "legacy".to_owned(),
        family: "web".to_owned(),
        until_ms: u64::MAX,
        ..store::Pin::default()
    };
    fleet.put(table::PIN, "legacy", &pin);
    fleet.owned.insert("web".to_owned(), 12);
    let before = fleet.control.read().epoch();
    let change = delete(&mut fleet, "web").unwrap();
    assert_eq!(
        acts(&change),
        [
            "family.delete family/web 12 agents keep what they run: moved",
            "pin.remove pin/legacy family web is gone",
        ]
    );
    assert_eq!(
        (change.results[0].change.as_str(), change.results[0].keep),
        ("deleted", 12)
    );
    {
        let documents = fleet.control.read();
        assert!(!documents.families.contains_key("web"));
        assert!(documents.revisions.keys().all(|(name, _)| name == "db"));
        assert!(documents.pins["legacy"].value.ended);
        assert!(documents.epoch() > before, "partitions have to hear of it");
    }
    let back = fleet.apply(&[family("web", "c")], api_order());
    assert_eq!(
        (back.results[0].change.as_str(), back.results[0].revision),
        ("created", 3),
        "agents still speak of revisions 1 and 2"
    );
}

#[test]
fn a_family_is_not_deleted_under_a_rollout_or_a_source_or_twice() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], api_order());
    fleet.rollout("ro-1", "web", 1, RolloutState::AwaitingApproval);
    let refused = delete(&mut fleet, "web").err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused
            .message()
            .contains("while rollout ro-1 is awaiting approval"),
        "{refused}"
    );
    fleet.rollout("ro-1", "web", 1, RolloutState::Aborted);
    let request = api::DeleteFamilyRequest {
        name: "web".to_owned(),
        ..api::DeleteFamilyRequest::default()
    };
    let lent = sources::deletion(&fleet.control.read(), &request, "ann", (5, lent(2)));
    let lent = lent.err().unwrap();
    let uid = format!("takes 2 of its agents ({}, ", uid(1));
    assert!(lent.message().contains(&uid), "{lent}");
    for way_out in ["retry UID", "owner UID --keep", "forget UID"] {
        let way_out = format!("`muster agents {way_out}`");
        assert!(lent.message().contains(&way_out), "{lent}");
    }
    delete(&mut fleet, "web").unwrap();
    let gone = delete(&mut fleet, "web").err().unwrap();
    assert_eq!(gone.code(), Code::NotFound);
    fleet.apply(&[family("db", "a")], git("c1"));
    let refused = delete(&mut fleet, "db").err().unwrap();
    assert!(
        refused.message().contains("muster adopt db --to-api"),
        "{refused}"
    );
}

fn deactivate(fleet: &mut Fleet, name: &str, lent: u8) -> Result<Change, Status> {
    let request = api::DeactivateFamilyRequest {
        name: name.to_owned(),
        reason: "not needed".to_owned(),
        ..api::DeactivateFamilyRequest::default()
    };
    let owned = fleet.owned.get(name).copied().unwrap_or(0);
    let change = sources::deactivation(
        &fleet.control.read(),
        &request,
        "ann",
        (owned, self::lent(lent)),
    )?;
    fleet.store(&change);
    Ok(change)
}

/// A family whose revision is stable, and which asks for approvals and lets its agents go.
fn active(fleet: &mut Fleet, name: &str) {
    let yaml = family(name, "a") + "  approvals: 2\n  ownerChange: auto\n";
    fleet.apply(&[yaml], api_order());
    fleet.rollout("ro-1", name, 1, RolloutState::Completed);
    let settings = store::FamilySettings {
        owner_change_auto: true,
        ..store::FamilySettings::default()
    };
    let stable = store::Family {
        stable: 1,
        target: 1,
        settings: Some(settings),
        ..fleet.family(name)
    };
    fleet.put(table::FAMILY, name, &stable);
    let revision = {
        let documents = fleet.control.read();
        store::Revision {
            state: store::RevisionState::Active.into(),
            ..store::Revision::clone(&documents.revision(name, 1).unwrap().value)
        }
    };
    let write = crate::ledger::put_any(table::REVISION, revision_key(name, 1), &revision);
    fleet.store(&Change {
        writes: vec![write],
        ..Change::default()
    });
}

#[test]
fn a_deactivated_family_claims_nobody_and_keeps_the_rest() {
    let mut fleet = Fleet::default();
    active(&mut fleet, "web");
    let pin = store::Pin {
        name: "legacy".to_owned(),
        family: "web".to_owned(),
        revision: 1,
        uid: vec![7; 16],
        until_ms: u64::MAX,
        ..store::Pin::default()
    };
    fleet.put(table::PIN, "legacy", &pin);
    fleet.owned.insert("web".to_owned(), 1);
    let before = fleet.control.read().epoch();
    let change = deactivate(&mut fleet, "web", 0).unwrap();
    assert_eq!(
        acts(&change),
        [
            "family.deactivate family/web 1 agent keeps what it runs: not needed",
            "pin.remove pin/legacy family web is deactivated",
        ]
    );
    assert_eq!(words(&change), ["Family web deactivated"]);
    let stored = fleet.family("web");
    assert_eq!((stored.stable, stored.target, stored.latest), (0, 0, 1));
    let documents = fleet.control.read();
    assert!(documents.epoch() > before, "partitions have to hear of it");
    let revision = &documents.revision("web", 1).unwrap().value;
    assert_eq!(revision.state(), store::RevisionState::Superseded);
    assert_eq!(asked_for(&documents, "web"), 2, "approvals are not escaped");
    assert_eq!(documents.last_stable(&stored), 1, "its agents run that");
    let program = build_program(&documents);
    let web = program.family("web").unwrap();
    assert_eq!((web.stable, web.owner_change), (None, OwnerChange::Ask));
    assert_eq!(web.precedence, stored.precedence);
    assert!(program.pins.is_empty());
    let agent = BTreeMap::from([("role".to_owned(), "any".to_owned())]);
    assert!(program.claims(&agent).is_empty());
}

#[test]
fn a_rolled_back_rollout_of_a_deactivated_family_decides_no_more() {
    let mut fleet = Fleet::default();
    active(&mut fleet, "web");
    fleet.rollout("ro-2", "web", 1, RolloutState::RolledBack);
    assert_eq!(fleet.family("web").rollout, "ro-2");
    deactivate(&mut fleet, "web", 0).unwrap();
    assert_eq!(fleet.family("web").rollout, "");
    assert_eq!(
        sources::due(&fleet.control.read(), "web", false),
        Due::Not(
            "revision 1 of family web was rolled out before and rollout ro-2 is rolled back: start it again with \
             `muster rollout start web`, or commit a change"
                .to_owned()
        ),
        "an apply of the same content does not activate it"
    );
}

#[test]
fn a_family_is_not_deactivated_under_a_rollout_or_a_source_or_twice() {
    let mut fleet = Fleet::default();
    active(&mut fleet, "web");
    let lent = deactivate(&mut fleet, "web", 3).err().unwrap();
    assert!(lent.message().contains("takes 3 of its agents"), "{lent}");
    fleet.rollout("ro-2", "web", 1, RolloutState::Planned);
    let open = deactivate(&mut fleet, "web", 0).err().unwrap();
    assert_eq!(open.code(), Code::FailedPrecondition);
    assert!(
        open.message()
            .contains("not deactivated while rollout ro-2 is planned"),
        "{open}"
    );
    fleet.rollout("ro-2", "web", 1, RolloutState::Aborted);
    let at_git = store::Family {
        source: "git".to_owned(),
        ..fleet.family("web")
    };
    fleet.put(table::FAMILY, "web", &at_git);
    let owned = deactivate(&mut fleet, "web", 0).err().unwrap();
    assert!(
        owned
            .message()
            .contains("owned by source git: take it back with `muster adopt web --to-api`"),
        "{owned}"
    );
    let back = store::Family {
        source: String::new(),
        ..at_git
    };
    fleet.put(table::FAMILY, "web", &back);
    deactivate(&mut fleet, "web", 0).unwrap();
    let again = deactivate(&mut fleet, "web", 0).err().unwrap();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(
        again.message().contains("not active") && again.message().contains("rollout start web"),
        "{again}"
    );
    let unknown = deactivate(&mut fleet, "nosuch", 0).err().unwrap();
    assert_eq!(unknown.code(), Code::NotFound);
}

#[test]
fn a_source_goes_when_it_owns_nothing_or_what_it_owns_is_handed_over() {
    let mut fleet = Fleet::default();
    fleet.apply(&everything(), git("c1"));
    let request = |orphan| api::DeleteSourceRequest {
        name: "git".to_owned(),
        orphan,
        ..api::DeleteSourceRequest::default()
    };
    let deletion = |fleet: &Fleet, orphan| {
        sources::source_deletion(&fleet.control.read(), &request(orphan), "root")
    };
    let refused = deletion(&fleet, false).err().unwrap();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused
            .message()
            .contains("while it owns budget/fleet, web, plan/careful"),
        "{refused}"
    );
    let change = deletion(&fleet, true).unwrap();
    fleet.store(&change);
    assert_eq!(words(&change).last().unwrap(), "Source git deleted");
    assert_eq!(
        acts(&change).last().unwrap(),
        "source.delete source/git 3 of its objects are those of API and console now"
    );
    assert_eq!(fleet.family("web").source, "");
    assert!(fleet.control.read().sources.is_empty());
    let gone = deletion(&fleet, true).err().unwrap();
    assert_eq!(gone.code(), Code::NotFound);
}
