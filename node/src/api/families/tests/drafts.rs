//! Drafts, and the checks that agents answer.

use super::*;
use crate::checks;

/// A family that names a receiver which it does not define.
fn undefined() -> String {
    family("web", "a").replace("receivers: [otlp]", "receivers: [nope]")
}

fn drafting() -> Order<'static> {
    Order {
        draft: true,
        ..api_order()
    }
}

fn stored(fleet: &Fleet, number: u64) -> store::Revision {
    let documents = fleet.control.read();
    store::Revision::clone(&documents.revision("web", number).unwrap().value)
}

#[test]
fn what_does_not_pass_is_refused_unless_it_may_be_a_draft() {
    let mut fleet = Fleet::default();
    let (code, _) = fleet.refused(&[undefined()], api_order());
    assert_eq!(code, Code::InvalidArgument);
    let change = fleet.apply(&[undefined()], drafting());
    assert!(change.results[0].draft);
    assert!(
        acts(&change)[0].ends_with("), a draft"),
        "{:?}",
        acts(&change)
    );
    let draft = stored(&fleet, 1);
    let shown = show::summary(&draft);
    assert_eq!(shown.state, "draft");
    assert!(shown.findings[0].message.contains("nope"));
    let why = checks::draft_refusal(&draft).unwrap();
    assert!(
        why.starts_with("web revision 1 is a draft: family web, role agent: "),
        "{why}"
    );
    assert!(
        why.ends_with("`muster families validate web --revision 1`"),
        "{why}"
    );
    // What is sound is no draft, whatever was said.
    let change = fleet.apply(&[family("web", "a")], drafting());
    assert!(!change.results[0].draft);
    assert_eq!(show::summary(&stored(&fleet, 2)).state, "validated");
    assert_eq!(checks::draft_refusal(&stored(&fleet, 2)), None);
}

#[test]
fn what_agents_say_against_a_family_is_told_with_everything_else() {
    let mut fleet = Fleet::default();
    let overlap = checks::error("", "roles a and b match the same agent".to_owned());
    let refuses = checks::error("agent", "/otelcol refuses its config".to_owned());
    fleet
        .findings
        .insert("web".to_owned(), vec![overlap, refuses]);
    let (_, text) = fleet.refused(&[undefined()], api_order());
    for part in [
        "nope",
        "roles a and b match the same agent",
        "family web, role agent: /otelcol refuses its config",
    ] {
        assert!(text.contains(part), "{text}\nlacks: {part}");
    }
    let change = fleet.apply(&[family("web", "a")], drafting());
    assert!(change.results[0].draft);
    assert_eq!(stored(&fleet, 1).findings.len(), 2);
}

#[test]
fn a_draft_that_is_applied_again_is_validated_once_its_cause_has_gone() {
    let mut fleet = Fleet::default();
    let overlap = checks::error("", "roles a and b match the same agent".to_owned());
    fleet.findings.insert("web".to_owned(), vec![overlap]);
    fleet.apply(&[family("web", "a")], drafting());
    let again = fleet.plan(&[family("web", "a")], drafting()).unwrap();
    assert!(again.writes.is_empty() && again.results[0].draft);
    let (_, text) = fleet.refused(&[family("web", "a")], api_order());
    assert!(text.contains("match the same agent"), "{text}");

    fleet.findings.clear();
    let change = fleet.apply(&[family("web", "a")], api_order());
    assert_eq!(words(&change), ["Family web validated"]);
    assert_eq!(
        acts(&change),
        ["revision.validate family/web revision 1 passes every check"]
    );
    assert_eq!(show::summary(&stored(&fleet, 1)).state, "validated");
    assert_eq!(fleet.family("web").latest, 1);
}

#[test]
fn agents_that_changed_later_refuse_no_apply_of_the_same() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family("web", "a")], git("c1"));
    let overlap = checks::error("", "roles a and b match the same agent".to_owned());
    fleet.findings.insert("web".to_owned(), vec![overlap]);
    let change = fleet.apply(&[family("web", "a")], git("c2"));
    assert_eq!(words(&change), ["Family web unchanged"]);
}

#[test]
fn a_draft_claims_no_precedence() {
    let mut fleet = Fleet::default();
    fleet.apply(&[family_of("web", 10, "a")], api_order());
    let change = fleet.apply(&[family_of("db", 10, "a")], drafting());
    assert!(change.results[0].draft);
    // Its owner goes on, and may even move there and back.
    fleet.apply(&[family_of("web", 10, "b")], api_order());
    // A draft of a family that never was stable leaves nothing in force.
    let change = fleet.apply(&[family_of("db", 11, "a")], api_order());
    assert!(!change.results[0].draft);
    assert_eq!(fleet.family("db").precedence, 11);
}

#[test]
fn a_draft_may_be_of_a_source_and_is_never_started_with_the_apply() {
    let mut fleet = Fleet::default();
    let order = Order {
        draft: true,
        ..git("c1")
    };
    let change = fleet.apply(&[undefined()], order);
    assert!(change.results[0].draft);
    assert_eq!(stored(&fleet, 1).commit, "c1");
    let request = api::ApplyRequest {
        draft: true,
        activate: true,
        source: "git".to_owned(),
        manifests: vec![api::Manifest::default()],
        ..Default::default()
    };
    let refused = sources::check_request(&request).unwrap_err();
    assert!(refused.message().contains("a draft is not started"));
}

#[test]
fn an_apply_that_was_overtaken_is_refused_and_not_stored_unchecked() {
    let fleet = Fleet::default();
    let seen = Seen::default();
    let manifests = read(&[family("web", "a")]);
    let refused = change(&fleet.control.read(), &manifests, &api_order(), &seen);
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(refused.message().contains("apply again"), "{refused}");
}
