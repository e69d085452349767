//! What a row and a family's policy say about drift.

use fleet::program::RevisionNumber;
use proto::store::{Attribute, ConfigState, ConfigStatus, Delivery, DeliveryState};
use proto::uid::Uid;

use super::*;
use crate::inventory::Interner;

fn hash(text: &str) -> Digest {
    Digest::of("test", &[text.as_bytes()])
}

fn bytes(text: &str) -> Vec<u8> {
    hash(text).as_bytes().to_vec()
}

/// Owned by family web, with revision 3 applied.
fn agent() -> store::Agent {
    store::Agent {
        attributes: vec![Attribute {
            key: "service.version".into(),
            value: "0.150.0".into(),
            identifying: true,
        }],
        status: Some(ConfigStatus {
            hash: bytes("r3"),
            state: ConfigState::Applied.into(),
            ..ConfigStatus::default()
        }),
        delivery: Some(Delivery {
            hash: bytes("r3"),
            state: DeliveryState::Applied.into(),
            family: "web".into(),
            role: "agent".into(),
            revision: 3,
            effective: Match::Yes.into(),
            ..Delivery::default()
        }),
        ..store::Agent::default()
    }
}

fn with(change: impl FnOnce(&mut store::Agent, &mut Delivery)) -> Row {
    let mut agent = agent();
    let mut delivery = agent.delivery.take().unwrap();
    change(&mut agent, &mut delivery);
    agent.delivery = Some(delivery);
    let uid = Uid::from_wire(&[7; 16]).unwrap();
    Row::new(uid, 1, &agent, &mut Interner::default())
}

fn reports(agent: &mut store::Agent, text: &str, state: ConfigState) {
    agent.status = Some(ConfigStatus {
        hash: bytes(text),
        state: state.into(),
        ..ConfigStatus::default()
    });
}

fn stable() -> Desired {
    Desired {
        owner: Some(("web".into(), "agent".into())),
        revision: Some(RevisionNumber(3)),
        delivery: Some(hash("r3")),
        offerable: true,
        reason: Reason::Stable,
        conditions: vec![],
    }
}

fn norms(versions: versions::Policy) -> Norms {
    let norm = Norm {
        versions,
        spread: Spread::of(["0.150.0", "0.152.0"]),
        ..Norm::default()
    };
    Norms(BTreeMap::from([("web".to_owned(), norm)]))
}

fn kinds(row: &Row, desired: &Desired) -> Vec<&'static str> {
    let found = norms(versions::Policy::default()).drift(row, desired);
    found.iter().map(Drift::kind).collect()
}

#[test]
fn an_agent_that_runs_what_it_applied_has_no_drift() {
    assert_eq!(kinds(&with(|_, _| {}), &stable()), [""; 0]);
}

#[test]
fn an_effective_config_that_contradicts_is_content_drift_once_it_is_applied() {
    let contradicts = |state: DeliveryState| {
        with(|_, delivery| {
            delivery.effective = Match::No.into();
            delivery.state = state.into();
        })
    };
    assert_eq!(
        kinds(&contradicts(DeliveryState::Applied), &stable()),
        ["content"]
    );
    assert_eq!(
        kinds(&contradicts(DeliveryState::Applying), &stable()),
        [""; 0]
    );
}

#[test]
fn an_agent_that_runs_an_earlier_delivery_again_was_put_back_and_is_shown_as_that() {
    let put_back = |earlier: Vec<Vec<u8>>, previous: Vec<u8>| {
        with(|agent, delivery| {
            reports(agent, "r1", ConfigState::Applied);
            (delivery.earlier, delivery.previous) = (earlier, previous);
        })
    };
    let row = put_back(vec![bytes("r2"), bytes("r1")], bytes("r2"));
    assert_eq!(kinds(&row, &stable()), ["identity"]);
    let subject = Seen::of(&row).subject(&stable());
    let reverted = Identity::Reverted {
        runs: hash("r1"),
        applied: hash("r3"),
    };
    assert_eq!(subject.identity, Some(reverted));
    assert!(
        heals(&Seen::of(&row), &stable()),
        "where the family says so"
    );
    // A record from before earlier deliveries were kept.
    assert_eq!(
        kinds(&put_back(vec![], bytes("r1")), &stable()),
        ["identity"]
    );
    // It never got that.
    assert_eq!(kinds(&put_back(vec![], vec![]), &stable()), ["assignment"]);
}

#[test]
fn an_older_revision_is_assignment_drift_outside_of_rollouts_only() {
    let older = with(|agent, _| reports(agent, "r2", ConfigState::Applied));
    assert_eq!(kinds(&older, &stable()), ["assignment"]);
    let member = Desired {
        reason: Reason::Wave {
            rollout: "ro-1".into(),
        },
        ..stable()
    };
    assert_eq!(kinds(&older, &member), [""; 0]);
}

#[test]
fn what_is_on_its_way_is_no_drift_and_what_was_refused_is() {
    let behind = |refused: &[&str]| {
        with(|agent, delivery| {
            reports(agent, "r2", ConfigState::Applied);
            delivery.hash = bytes("r2");
            let refusal = |text: &&str| store::Refusal {
                hash: bytes(text),
                ..store::Refusal::default()
            };
            agent.refused = refused.iter().map(refusal).collect();
        })
    };
    assert_eq!(kinds(&behind(&[]), &stable()), [""; 0]);
    assert_eq!(kinds(&behind(&["r3"]), &stable()), ["assignment"]);
    let held = Desired {
        offerable: false,
        reason: Reason::Pinned,
        ..stable()
    };
    assert_eq!(kinds(&behind(&[]), &held), ["assignment"]);
}

#[test]
fn who_failed_and_runs_something_older_has_fallen_back() {
    let failed = |effective: Match, state: DeliveryState| {
        with(|agent, delivery| {
            reports(agent, "r3", ConfigState::Failed);
            delivery.state = state.into();
            delivery.effective = effective.into();
        })
    };
    let fell_back = ["fallback"];
    let no_drift = [""; 0];
    assert_eq!(
        kinds(&failed(Match::No, DeliveryState::Failed), &stable()),
        fell_back
    );
    assert_eq!(
        kinds(
            &failed(Match::Unknown, DeliveryState::RolledBackByAgent),
            &stable()
        ),
        fell_back
    );
    assert_eq!(
        kinds(&failed(Match::Unknown, DeliveryState::Failed), &stable()),
        no_drift
    );
}

#[test]
fn a_duplicate_is_judged_by_nothing_else() {
    let twice = with(|agent, delivery| {
        agent.duplicate = true;
        delivery.effective = Match::No.into();
    });
    assert_eq!(kinds(&twice, &stable()), ["identity"]);
    assert!(!heals(&Seen::of(&twice), &stable()));
}

#[test]
fn a_version_outside_of_the_family_s_policy_is_drift() {
    let row = with(|_, _| {});
    let behind = norms(versions::Policy {
        behind_max: Some(0),
        ..versions::Policy::default()
    });
    let said: Vec<String> = behind
        .drift(&row, &stable())
        .iter()
        .map(Drift::to_string)
        .collect();
    assert_eq!(
        said,
        ["version: 1 releases behind 0.152.0, the newest that the family runs: upgrade it"]
    );
    let stranger = with(|_, delivery| delivery.family = "db".into());
    assert_eq!(behind.violation(&stranger), None);
}

#[test]
fn a_drifted_agent_is_offered_once_more_and_never_again() {
    let drifted = |reoffered: bool, refused: bool| {
        with(|agent, delivery| {
            delivery.effective = Match::No.into();
            delivery.reoffered = reoffered;
            let refusal = store::Refusal {
                hash: bytes("r3"),
                ..store::Refusal::default()
            };
            agent.refused = refused.then_some(refusal).into_iter().collect();
        })
    };
    let heals = |row: &Row| super::heals(&Seen::of(row), &stable());
    assert!(heals(&drifted(false, false)));
    assert!(!heals(&drifted(true, false)));
    assert!(!heals(&drifted(false, true)));
    assert!(!heals(&with(|_, _| {})));
}
