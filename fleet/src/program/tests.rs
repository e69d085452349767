//! What an agent should run, case by case.

use super::*;
use proptest::prelude::*;

use crate::family::stop_delivery;

mod moves;
mod words;

type Labels = BTreeMap<String, String>;

fn hash(text: &str) -> Digest {
    Digest::of("test", &[text.as_bytes()])
}

fn role(name: &str, selector: &str, delivery: &str) -> ProgramRole {
    ProgramRole {
        name: name.into(),
        selector: Selector::parse(selector).unwrap(),
        delivery: hash(delivery),
        baseline: hash("baseline"),
        needs: Arc::default(),
    }
}

/// Revision 1 is stable, revision 2 the target of whoever opens a rollout.
fn family(name: &str, precedence: i64, selector: &str) -> ProgramFamily {
    let delivery = |revision: u64| format!("{name} {revision}");
    let revisions = [1, 2].map(|n| {
        (
            RevisionNumber(n),
            vec![role("agent", selector, &delivery(n))],
        )
    });
    ProgramFamily {
        name: name.into(),
        precedence,
        stable: Some(RevisionNumber(1)),
        revisions: revisions.into(),
        owner_change: OwnerChange::Ask,
        rollout: None,
    }
}

fn rollout() -> ProgramRollout {
    ProgramRollout {
        id: "ro-1".into(),
        from: Some(RevisionNumber(1)),
        to: RevisionNumber(2),
        running: true,
        open_waves: BTreeMap::from([("agent".to_owned(), 1)]),
        roll_back: None,
        passed: false,
        opened: Epoch(10),
        returning: false,
    }
}

fn program(families: Vec<ProgramFamily>) -> Program {
    Program {
        epoch: Epoch(11),
        families,
        pins: vec![],
    }
}

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn subject<'a>(facts: &'a Labels, owner: Option<&'a str>) -> Subject<'a, Labels> {
    Subject {
        uid: [1; 16],
        facts,
        owner: owner.map(|family| (family, "agent")),
        delivery: owner.map(|family| hash(&format!("{family} 1"))),
        delivered_in: "",
        owned_since: owner.map(|_| Epoch(1)),
        granted: None,
        resolved: None,
        stopped: false,
        components: None,
        place: None,
    }
}

fn place(wave: u32) -> Option<Place<'static>> {
    Some(Place {
        rollout: "ro-1",
        role: "agent",
        wave,
        taken_from: None,
    })
}

#[test]
fn an_unowned_agent_joins_at_stable_and_an_unclaimed_one_is_unassigned() {
    let program = program(vec![family("web", 1, "app = web")]);
    let web = labels("app=web");
    let joins = desired(&subject(&web, None), &program);
    assert_eq!(
        (joins.delivery, joins.offerable),
        (Some(hash("web 1")), true)
    );
    let db = labels("app=db");
    let nobody = desired(&subject(&db, None), &program);
    assert_eq!((nobody.reason, nobody.delivery), (Reason::Unassigned, None));
}

#[test]
fn the_higher_precedence_counts_and_the_other_is_shadowed() {
    let program = program(vec![family("web", 2, "app = web"), family("all", 1, "app")]);
    let web = labels("app=web");
    let joins = desired(&subject(&web, None), &program);
    assert_eq!(joins.owner, Some(("web".into(), "agent".into())));
    let family = "all".to_owned();
    assert_eq!(joins.conditions, [Condition::Shadowed { family }]);
}

#[test]
fn relabelling_never_pushes_until_somebody_or_both_policies_say_so() {
    let mut families = vec![family("web", 2, "app = web"), family("db", 1, "app = db")];
    let db = labels("app=db");
    let moved = subject(&db, Some("web"));
    let asks = desired(&moved, &program(families.clone()));
    assert_eq!((asks.delivery, asks.reason), (None, Reason::Kept));
    let claimed_by = Some("db/agent".to_owned());
    assert_eq!(asks.conditions, [Condition::OwnerChanging { claimed_by }]);
    let granted = Subject {
        granted: Some(("db", "agent")),
        ..moved
    };
    let goes = desired(&granted, &program(families.clone()));
    assert_eq!(goes.delivery, Some(hash("db 1")));
    let stays = Subject {
        granted: Some(("web", "agent")),
        ..moved
    };
    let stays = desired(&stays, &program(families.clone()));
    assert_eq!(
        (stays.delivery, stays.conditions.len()),
        (Some(hash("web 1")), 0)
    );
    families[1].owner_change = OwnerChange::Auto;
    assert_eq!(desired(&moved, &program(families.clone())).delivery, None);
    families[0].owner_change = OwnerChange::Auto;
    assert_eq!(
        desired(&moved, &program(families)).delivery,
        Some(hash("db 1"))
    );
}

#[test]
fn losing_its_owner_leaves_the_last_config_running() {
    let web = labels("app=web");
    let orphan = desired(&subject(&web, Some("gone")), &program(vec![]));
    assert_eq!((orphan.reason, orphan.delivery), (Reason::Kept, None));
    assert_eq!(orphan.owner, Some(("gone".into(), "agent".into())));
}

#[test]
fn a_family_without_a_stable_revision_claims_nobody_and_holds_nobody() {
    let inactive = || ProgramFamily {
        stable: None,
        owner_change: OwnerChange::Auto,
        ..family("web", 2, "app = web")
    };
    let facts = labels("app=web");
    let new = desired(&subject(&facts, None), &program(vec![inactive()]));
    assert_eq!((new.reason, new.delivery), (Reason::Unassigned, None));
    let gone = desired(&subject(&facts, Some("web")), &program(vec![]));
    let left = desired(&subject(&facts, Some("web")), &program(vec![inactive()]));
    assert_eq!(left, gone, "as if it were deleted");
    let other = family("other", 1, "app = web");
    let claimed = desired(
        &subject(&facts, Some("web")),
        &program(vec![inactive(), other]),
    );
    assert!(
        matches!(&claimed.conditions[..], [Condition::OwnerChanging { claimed_by: Some(by) }] if by == "other/agent"),
        "{claimed:?}"
    );
    assert_eq!(claimed.delivery, None, "a person decides");
}

#[test]
fn an_agent_that_comes_to_match_two_roles_keeps_what_it_runs() {
    let mut web = family("web", 1, "app = web");
    let roles = web.revisions.get_mut(&RevisionNumber(1)).unwrap();
    roles.push(role("gateway", "gw", "web gw"));
    let both = labels("app=web,gw=yes");
    let ambiguous = desired(&subject(&both, Some("web")), &program(vec![web]));
    assert_eq!(ambiguous.delivery, None);
    assert!(matches!(
        &ambiguous.conditions[0],
        Condition::AmbiguousRole { roles, .. } if roles.len() == 2
    ));
}

#[test]
fn a_member_that_comes_to_match_two_roles_before_its_wave_keeps_what_it_runs() {
    let mut web = family("web", 1, "app = web");
    web.rollout = Some(rollout());
    let target = web.revisions.get_mut(&RevisionNumber(2)).unwrap();
    target.push(role("gateway", "gw", "web gw"));
    let both = labels("app=web,gw=yes");
    let member = Subject {
        place: place(0),
        ..subject(&both, Some("web"))
    };
    let program = program(vec![web]);
    let kept = desired(&member, &program);
    assert_eq!((kept.delivery, kept.reason), (None, Reason::Kept));
    assert!(
        matches!(&kept.conditions[..], [Condition::AmbiguousRole { roles, .. }] if roles.len() == 2),
        "{:?}",
        kept.conditions
    );
    // What it was offered is not taken back by a label.
    let touched = Subject {
        delivered_in: "ro-1",
        ..member
    };
    assert_eq!(desired(&touched, &program).delivery, Some(hash("web 2")));
}

#[test]
fn only_an_order_to_stop_delivers_the_empty_config() {
    let web = labels("app=web");
    let stopped = Subject {
        stopped: true,
        ..subject(&web, Some("web"))
    };
    let desired = desired(&stopped, &program(vec![family("web", 1, "app = web")]));
    assert_eq!(desired.delivery, Some(stop_delivery()));
    assert_eq!((desired.reason, desired.offerable), (Reason::Stopped, true));
}

#[test]
fn a_member_of_an_open_wave_gets_the_target_and_one_behind_it_waits() {
    let mut web = family("web", 1, "app = web");
    web.rollout = Some(rollout());
    let facts = labels("app=web");
    let member = |wave| Subject {
        place: place(wave),
        ..subject(&facts, Some("web"))
    };
    let program = program(vec![web]);
    let open = desired(&member(0), &program);
    assert_eq!((open.delivery, open.offerable), (Some(hash("web 2")), true));
    let waits = desired(&member(1), &program);
    assert_eq!(
        (waits.delivery, waits.offerable),
        (Some(hash("web 1")), false)
    );
    let other = labels("app=other");
    let relabelled = Subject {
        facts: &other,
        ..member(0)
    };
    let rollout = "ro-1".to_owned();
    assert_eq!(
        desired(&relabelled, &program).conditions,
        [Condition::Relabelled { rollout }]
    );
}

#[test]
fn late_joiners_get_stable_until_the_last_wave_has_passed() {
    let mut web = family("web", 1, "app = web");
    web.rollout = Some(rollout());
    let facts = labels("app=web");
    let late = desired(&subject(&facts, None), &program(vec![web.clone()]));
    assert_eq!(late.delivery, Some(hash("web 1")));
    let id = "ro-1".to_owned();
    assert_eq!(late.conditions, [Condition::Late { rollout: id }]);
    web.rollout.as_mut().unwrap().passed = true;
    let joined = Subject {
        owned_since: Some(Epoch(12)),
        ..subject(&facts, Some("web"))
    };
    let now = desired(&joined, &program(vec![web.clone()]));
    assert_eq!(now.delivery, Some(hash("web 2")));
    let left_out = subject(&facts, Some("web"));
    let stays = desired(&left_out, &program(vec![web]));
    assert_eq!(
        (stays.delivery, stays.conditions.len()),
        (Some(hash("web 1")), 0)
    );
}

#[test]
fn a_first_rollout_claims_late_joiners_only_when_it_has_passed() {
    let mut web = family("web", 1, "app = web");
    web.stable = None;
    web.rollout = Some(ProgramRollout {
        from: None,
        ..rollout()
    });
    let facts = labels("app=web");
    let early = desired(&subject(&facts, None), &program(vec![web.clone()]));
    assert_eq!(early.reason, Reason::Unassigned);
    web.rollout.as_mut().unwrap().passed = true;
    let late = desired(&subject(&facts, None), &program(vec![web]));
    assert_eq!(late.delivery, Some(hash("web 2")));
}

#[test]
fn a_rollback_gives_a_taken_agent_back_to_its_family() {
    let (mut web, db) = (family("web", 2, "app = web"), family("db", 1, "app"));
    web.rollout = Some(ProgramRollout {
        running: false,
        returning: true,
        roll_back: Some(RollBack {
            scope: Scope::All,
            open_roles: vec!["agent".into()],
        }),
        ..rollout()
    });
    let facts = labels("app=web");
    let taken = Subject {
        place: Some(Place {
            taken_from: Some(("db", "agent")),
            ..place(0).unwrap()
        }),
        delivered_in: "ro-1",
        delivery: Some(hash("web 2")),
        ..subject(&facts, Some("web"))
    };
    let back = desired(&taken, &program(vec![web.clone(), db]));
    assert_eq!(back.owner, Some(("db".into(), "agent".into())));
    assert_eq!(back.delivery, Some(hash("db 1")));
    // Its family is gone: there is nothing to go back to but the baseline.
    let nowhere = desired(&taken, &program(vec![web]));
    assert_eq!(nowhere.delivery, Some(hash("baseline")));
}

#[test]
fn a_takeover_offers_across_families_and_a_list_without_one_does_not() {
    let (mut web, db) = (family("web", 2, "app = web"), family("db", 1, "app"));
    web.rollout = Some(rollout());
    let program = program(vec![web, db]);
    let facts = labels("app=web");
    let foreign = Subject {
        place: place(0),
        ..subject(&facts, Some("db"))
    };
    assert_eq!(desired(&foreign, &program).reason, Reason::Kept);
    let taken = Subject {
        place: Some(Place {
            taken_from: Some(("db", "agent")),
            ..place(0).unwrap()
        }),
        ..foreign
    };
    assert_eq!(desired(&taken, &program).delivery, Some(hash("web 2")));
}

#[test]
fn a_pin_holds_a_selection_and_brings_a_named_agent() {
    let mut web = family("web", 1, "app = web");
    web.rollout = Some(rollout());
    let mut program = program(vec![web]);
    let facts = labels("app=web");
    let member = Subject {
        place: place(0),
        ..subject(&facts, Some("web"))
    };
    let pin = |target| ProgramPin {
        family: "web".into(),
        target,
        revision: RevisionNumber(1),
    };
    program.pins = vec![pin(PinTarget::Selected(Selector::parse("app").unwrap()))];
    let held = desired(&member, &program);
    assert_eq!((held.reason, held.offerable), (Reason::Pinned, false));
    assert_eq!(held.delivery, Some(hash("web 1")));
    program.pins.push(pin(PinTarget::Agent([1; 16])));
    assert!(desired(&member, &program).offerable);
    let unowned = subject(&facts, None);
    assert_eq!(desired(&unowned, &program).reason, Reason::Stable);
}

/// A family whose rollout is over: it was rolled back.
fn rolled_back() -> ProgramFamily {
    ProgramFamily {
        rollout: Some(ProgramRollout {
            running: false,
            returning: true,
            roll_back: Some(RollBack {
                scope: Scope::All,
                open_roles: vec!["agent".into()],
            }),
            ..rollout()
        }),
        ..family("web", 1, "role = web")
    }
}

#[test]
fn who_a_rolled_back_rollout_did_not_touch_is_governed_by_it_no_more() {
    let program = program(vec![rolled_back()]);
    let facts = labels("role=web");
    let stopped_once = Subject {
        delivery: Some(stop_delivery()),
        place: place(3),
        ..subject(&facts, Some("web"))
    };
    let wants = desired(&stopped_once, &program);
    assert_eq!(
        (wants.delivery, wants.offerable),
        (Some(hash("web 1")), true)
    );
    let moved = labels("role=db");
    let relabelled = Subject {
        delivered_in: "ro-0",
        place: place(3),
        ..subject(&moved, Some("web"))
    };
    let conditions = desired(&relabelled, &program).conditions;
    assert!(matches!(conditions[..], [Condition::OwnerChanging { .. }]));
    let left_by_another = Subject {
        delivery: Some(hash("web 7")),
        delivered_in: "ro-0",
        place: place(3),
        ..subject(&facts, Some("web"))
    };
    assert!(!desired(&left_by_another, &program).offerable);
}

#[test]
fn a_stop_that_is_taken_back_ends_also_behind_a_wave_that_has_not_begun() {
    let mut web = family("web", 1, "role = web");
    web.rollout = Some(ProgramRollout {
        running: false,
        ..rollout()
    });
    let program = program(vec![web]);
    let facts = labels("role=web");
    let started = Subject {
        delivery: Some(stop_delivery()),
        place: place(3),
        ..subject(&facts, Some("web"))
    };
    let wants = desired(&started, &program);
    assert_eq!(
        (wants.delivery, wants.offerable),
        (Some(hash("web 1")), true)
    );
    let settled = Subject {
        delivery: Some(hash("web 1")),
        ..started
    };
    assert!(!desired(&settled, &program).offerable);
}

#[test]
fn who_is_only_held_by_a_pin_goes_back_with_the_rollback() {
    let pin = |target| ProgramPin {
        family: "web".into(),
        target,
        revision: RevisionNumber(1),
    };
    let facts = labels("role=web");
    let touched = Subject {
        delivery: Some(hash("web 2")),
        delivered_in: "ro-1",
        place: place(0),
        ..subject(&facts, Some("web"))
    };
    let mut program = program(vec![rolled_back()]);
    program.pins = vec![pin(PinTarget::Selected(
        Selector::parse("role = web").unwrap(),
    ))];
    let wants = desired(&touched, &program);
    assert!(matches!(wants.reason, Reason::RolledBack { .. }) && wants.offerable);
    program.pins = vec![pin(PinTarget::Agent([1; 16]))];
    assert_eq!(desired(&touched, &program).reason, Reason::Pinned);
}

/// Its config uses the processor `redaction`.
fn redacting(role: &mut ProgramRole) {
    let needs = Used {
        processors: ["redaction".to_owned()].into(),
        ..Used::default()
    };
    role.needs = Arc::new(needs);
}

#[test]
fn who_lacks_a_component_of_what_its_role_gets_keeps_what_it_runs_under_that_name() {
    let lacks = Available::from_report([("processors", "batch")]);
    let has = Available::from_report([("processors", "batch"), ("processors", "redaction")]);
    let silent = Available::from_report([("receivers", "otlp")]);
    let mut web = family("web", 1, "app = web");
    let stable = web.revisions.get_mut(&RevisionNumber(1)).unwrap();
    redacting(&mut stable[0]);
    let program = program(vec![web]);
    let facts = labels("app=web");
    let with = |components, owner: Option<&str>, delivery: &str| {
        let subject = Subject {
            components,
            delivery: owner.map(|_| hash(delivery)),
            ..subject(&facts, owner)
        };
        desired(&subject, &program)
    };
    let kept = [Condition::LacksComponents {
        family: "web".into(),
        components: "processor redaction".into(),
    }];
    for owner in [None, Some("web")] {
        let wants = with(Some(&lacks), owner, "web 0");
        assert_eq!(
            (wants.delivery, wants.offerable, &wants.reason),
            (None, false, &Reason::Kept),
            "{owner:?}"
        );
        assert_eq!(wants.conditions, kept);
        // Who says nothing of its processors may have them.
        for unknown in [None, Some(&silent), Some(&has)] {
            let wants = with(unknown, owner, "web 0");
            assert_eq!(
                (wants.delivery, wants.offerable, wants.conditions),
                (Some(hash("web 1")), true, vec![])
            );
        }
    }
    let runs_it = with(Some(&lacks), Some("web"), "web 1");
    assert_eq!(
        (runs_it.delivery, runs_it.conditions),
        (Some(hash("web 1")), vec![])
    );
}

#[test]
fn who_lacks_a_component_is_given_it_neither_by_a_wave_nor_after_the_last_one() {
    let lacks = Available::from_report([("processors", "batch")]);
    let facts = labels("app=web");
    let mut web = family("web", 1, "app = web");
    let target = web.revisions.get_mut(&RevisionNumber(2)).unwrap();
    redacting(&mut target[0]);
    web.rollout = Some(ProgramRollout {
        passed: true,
        ..rollout()
    });
    let program = program(vec![web]);
    let with = |owner, place| {
        let subject = Subject {
            components: Some(&lacks),
            place,
            ..subject(&facts, owner)
        };
        desired(&subject, &program)
    };
    for (owner, place) in [(Some("web"), place(0)), (None, place(0)), (None, None)] {
        let wants = with(owner, place);
        assert_eq!((wants.delivery, wants.offerable), (None, false));
        let lacks = |c: &Condition| matches!(c, Condition::LacksComponents { .. });
        // Who is given nothing has not joined late, either.
        assert!(matches!(&wants.conditions[..], [one] if lacks(one)));
    }
    // Before its wave nothing is asked of it.
    let waits = with(Some("web"), place(3));
    assert!(matches!(waits.reason, Reason::Waiting { .. }));
    // Its config can be given back to it all the same.
    let mut back = program;
    back.families[0] = rolled_back();
    let target = back.families[0].revisions.get_mut(&RevisionNumber(1));
    redacting(&mut target.unwrap()[0]);
    let touched = Subject {
        components: Some(&lacks),
        delivery: Some(hash("web 2")),
        delivered_in: "ro-1",
        place: place(0),
        ..subject(&facts, Some("web"))
    };
    let wants = desired(&touched, &back);
    assert!(matches!(wants.reason, Reason::RolledBack { .. }) && wants.offerable);
}

#[test]
fn a_claim_names_its_family_and_every_role_that_matches() {
    let program = program(vec![family("web", 1, "app = web")]);
    let claims = program.claims(&labels("app=web"));
    assert_eq!(claims[0].only(), Some(("web", "agent")));
    assert!(program.rollout("ro-1").is_none());
    assert_eq!(program.claims(&labels("app=db")), []);
}

/// Any family, rollout state, owner, delivery, label and place.
#[derive(Debug, Clone)]
struct Case {
    rollout: Option<ProgramRollout>,
    owner: Option<&'static str>,
    delivery: Option<&'static str>,
    delivered_in: &'static str,
    label: &'static str,
    wave: Option<u32>,
}

fn any_rollout() -> impl Strategy<Value = ProgramRollout> {
    let scope = prop_oneof![
        Just(None),
        Just(Some(Scope::All)),
        (0u32..3).prop_map(|wave| Some(Scope::Wave {
            role: "agent".into(),
            wave
        })),
    ];
    (any::<[bool; 4]>(), 0u32..3, scope).prop_map(|(flags, open, scope)| {
        let [running, returning, passed, turn] = flags;
        ProgramRollout {
            running: running && !returning,
            returning,
            passed,
            open_waves: BTreeMap::from([("agent".to_owned(), open)]),
            roll_back: scope.map(|scope| RollBack {
                scope,
                open_roles: if turn { vec!["agent".into()] } else { vec![] },
            }),
            ..rollout()
        }
    })
}

fn any_case() -> impl Strategy<Value = Case> {
    let owners = [None, Some("web"), Some("base"), Some("gone")];
    let deliveries = [
        None,
        Some("web 1"),
        Some("web 2"),
        Some("base 1"),
        Some("x"),
    ];
    (
        proptest::option::of(any_rollout()),
        proptest::sample::select(owners.to_vec()),
        proptest::sample::select(deliveries.to_vec()),
        proptest::sample::select(&["", "ro-1"][..]),
        proptest::sample::select(&["app=web", "app=base", "app=other", "app=web,tier=x"][..]),
        proptest::option::of(0u32..3),
    )
        .prop_map(
            |(rollout, owner, delivery, delivered_in, label, wave)| Case {
                rollout,
                owner,
                delivery,
                delivered_in,
                label,
                wave,
            },
        )
}

proptest! {
    #[test]
    fn whatever_the_case_nobody_is_offered_what_is_not_theirs_now(case in any_case()) {
        let mut web = family("web", 2, "app = web");
        web.rollout.clone_from(&case.rollout);
        let program = program(vec![web, family("base", 1, "app in (base, web)")]);
        let facts = labels(case.label);
        let subject = Subject {
            delivery: case.delivery.map(hash),
            delivered_in: case.delivered_in,
            place: case.wave.and_then(place),
            ..subject(&facts, case.owner)
        };
        let wanted = desired(&subject, &program);
        prop_assert_eq!(&wanted, &desired(&subject, &program));
        prop_assert_ne!(wanted.delivery, Some(stop_delivery()), "nobody ordered a stop");
        let offered = wanted.delivery.filter(|_| wanted.offerable);
        let at = subject.place.as_ref().zip(case.rollout.as_ref());
        if offered == Some(hash("web 2")) {
            let (place, rollout) = at.map_or((None, case.rollout.as_ref()), |(p, r)| (Some(p), Some(r)));
            let moves = rollout.is_some_and(|r| r.running);
            prop_assert!(moves, "a rollout that stands still offers its target");
            let open = place.is_none_or(|p| rollout.is_some_and(|r| r.is_open(p)));
            prop_assert!(open || rollout.is_some_and(|r| r.passed), "before its wave");
        }
        if let (Some((place, rollout)), Some("web") | None) = (at, case.owner)
            && case.delivered_in == rollout.id
            && rollout.takes_back(place)
        {
            prop_assert_eq!(wanted.delivery, Some(hash("web 1")), "what it had before");
        }
        if let Some(owner @ ("base" | "gone")) = case.owner {
            let foreign = [hash("web 1"), hash("web 2")];
            prop_assert!(!offered.is_some_and(|hash| foreign.contains(&hash)), "taken from {}", owner);
        }
    }
}

#[test]
fn a_restored_cluster_is_ahead_of_everything_in_its_own_past() {
    let past = Epoch::new(0, (1 << 48) - 1);
    let restored = Epoch::new(1, 7);
    assert!(past < restored);
    assert_eq!((past.incarnation(), restored.incarnation()), (0, 1));
    assert_eq!(Epoch::new(0, 7), Epoch(7));
    assert_eq!(Epoch::new(u16::MAX, 7).incarnation(), u16::MAX);
}
