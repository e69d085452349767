//! Agents that go from one owner to another, and back.

use super::*;

fn taken(from: (&'static str, &'static str)) -> Option<Place<'static>> {
    Some(Place {
        taken_from: Some(from),
        ..place(0).unwrap()
    })
}

fn returning(stable: Option<u64>) -> ProgramFamily {
    ProgramFamily {
        stable: stable.map(RevisionNumber),
        rollout: Some(ProgramRollout {
            from: stable.map(RevisionNumber),
            running: false,
            returning: true,
            roll_back: Some(RollBack {
                scope: Scope::All,
                open_roles: vec!["agent".into()],
            }),
            ..rollout()
        }),
        ..family("web", 2, "app = web")
    }
}

#[test]
fn on_two_lists_the_owner_decides_until_the_wave_that_takes_it_over_is_open() {
    let (mut web, mut db) = (family("web", 2, "app = web"), family("db", 1, "app"));
    let places = |program: &Program, owner| {
        let of_db = Place {
            rollout: "ro-2",
            ..place(0).unwrap()
        };
        let places = [taken(("db", "agent")).unwrap(), of_db];
        let whose = Whose {
            owner,
            ..Whose::default()
        };
        let place = program.place_that_counts(whose, &places);
        place.map(|place| place.rollout)
    };
    db.rollout = Some(ProgramRollout {
        id: "ro-2".into(),
        ..rollout()
    });
    web.rollout = Some(rollout());
    let of_db = Some(("db", "agent"));
    let both = program(vec![web.clone(), db.clone()]);
    assert_eq!(places(&both, of_db), Some("ro-1"));
    assert_eq!(places(&both, Some(("web", "agent"))), Some("ro-1"));
    assert_eq!(places(&both, Some(("gone", "agent"))), None);
    web.rollout.as_mut().unwrap().open_waves.clear();
    let waits = program(vec![web.clone(), db.clone()]);
    assert_eq!(places(&waits, of_db), Some("ro-2"));
    // Where its owner has no rollout, the family's stable revision decides until then.
    db.rollout = None;
    assert_eq!(places(&program(vec![web, db]), of_db), None);
}

#[test]
fn who_a_person_lets_go_does_not_wait_for_the_rollout_of_the_family_it_leaves() {
    let (mut web, db) = (family("web", 2, "app = web"), family("db", 1, "app = db"));
    web.rollout = Some(rollout());
    let program = program(vec![web, db]);
    let facts = labels("app=db");
    let member = Subject {
        place: place(0),
        ..subject(&facts, Some("web"))
    };
    assert_eq!(desired(&member, &program).reason, Reason::Kept);
    let granted = Subject {
        granted: Some(("db", "agent")),
        ..member
    };
    assert_eq!(desired(&granted, &program).delivery, Some(hash("db 1")));
    // Relabelled back: nobody else claims it any more, and what was said about that is void.
    let facts = labels("app=web");
    let back = Subject {
        facts: &facts,
        ..granted
    };
    assert_eq!(desired(&back, &program).delivery, Some(hash("web 2")));
}

#[test]
fn a_list_moves_nobody_to_another_role_unless_it_says_so() {
    let mut web = family("web", 2, "app = web");
    web.rollout = Some(rollout());
    let program = program(vec![web]);
    let facts = labels("app=web");
    // A person has let it go to another role since the list was made.
    let moved = Subject {
        owner: Some(("web", "gateway")),
        place: place(0),
        ..subject(&facts, Some("web"))
    };
    let found = desired(&moved, &program);
    assert_eq!((found.reason, found.delivery), (Reason::Kept, None));
    let listed = Subject {
        place: taken(("web", "gateway")),
        ..moved
    };
    assert_eq!(desired(&listed, &program).delivery, Some(hash("web 2")));
}

#[test]
fn a_rollout_that_stands_still_takes_nothing_back_from_who_came_late() {
    let mut web = family("web", 1, "app = web");
    web.rollout = Some(ProgramRollout {
        passed: true,
        ..rollout()
    });
    let facts = labels("app=web");
    let late = Subject {
        owned_since: Some(Epoch(12)),
        delivery: Some(hash("web 2")),
        ..subject(&facts, Some("web"))
    };
    let runs = desired(&late, &program(vec![web.clone()]));
    assert_eq!((runs.delivery, runs.offerable), (Some(hash("web 2")), true));
    web.rollout.as_mut().unwrap().running = false;
    let stands = desired(&late, &program(vec![web.clone()]));
    assert_eq!(
        (stands.delivery, stands.offerable),
        (Some(hash("web 2")), false)
    );
    web.rollout.as_mut().unwrap().returning = true;
    let back = desired(&late, &program(vec![web]));
    assert_eq!((back.delivery, back.offerable), (Some(hash("web 1")), true));
}

#[test]
fn a_rollback_gives_an_agent_back_to_the_role_that_it_had() {
    let facts = labels("app=web");
    let moved = Subject {
        place: taken(("web", "gateway")),
        delivered_in: "ro-1",
        delivery: Some(hash("web 2")),
        ..subject(&facts, Some("web"))
    };
    let gateway = |mut family: ProgramFamily| {
        for roles in family.revisions.values_mut() {
            roles.push(role("gateway", "app = gw", "web gw"));
        }
        program(vec![family])
    };
    let back = desired(&moved, &gateway(returning(Some(1))));
    assert_eq!(back.owner, Some(("web".into(), "gateway".into())));
    assert_eq!(back.delivery, Some(hash("web gw")));
    let first = desired(&moved, &gateway(returning(None)));
    assert_eq!(first.owner, Some(("web".into(), "gateway".into())));
    assert_eq!(first.delivery, Some(hash("baseline")));
}

#[test]
fn who_was_taken_over_and_stopped_goes_back_when_it_is_started() {
    let program = program(vec![returning(None), family("db", 1, "app")]);
    let facts = labels("app=web");
    let started = Subject {
        place: taken(("db", "agent")),
        delivery: Some(stop_delivery()),
        ..subject(&facts, Some("web"))
    };
    let back = desired(&started, &program);
    assert_eq!(back.owner, Some(("db".into(), "agent".into())));
    assert_eq!((back.delivery, back.offerable), (Some(hash("db 1")), true));
}

/// Taken over from family db by rollout `ro-1`, which was opened by program 10; a person has spoken then.
fn spoken(facts: &Labels, resolved: u64) -> Subject<'_, Labels> {
    Subject {
        place: taken(("db", "agent")),
        delivered_in: "ro-1",
        delivery: Some(hash("web 2")),
        resolved: Some(Epoch(resolved)),
        ..subject(facts, Some("web"))
    }
}

#[test]
fn a_rollback_leaves_an_agent_where_a_person_has_put_it_since_the_list() {
    let facts = labels("app=web");
    let back = |subject: &Subject<'_, Labels>, stable| {
        let program = program(vec![returning(stable), family("db", 1, "app")]);
        let found = desired(subject, &program);
        (found.owner.unwrap().0, found.delivery.unwrap())
    };
    let before = spoken(&facts, 9);
    assert_eq!(back(&before, Some(1)), ("db".into(), hash("db 1")));
    // Let go to the family, or kept by it: it goes back to what that gave before, or to the role's baseline.
    let let_go = spoken(&facts, 10);
    let kept = Subject {
        granted: Some(("web", "agent")),
        ..let_go
    };
    for stays in [&let_go, &kept] {
        assert_eq!(back(stays, Some(1)), ("web".into(), hash("web 1")));
        assert_eq!(back(stays, None), ("web".into(), hash("baseline")));
    }
    // Told to go elsewhere, and still here: nobody has put it here.
    let leaves = Subject {
        granted: Some(("other", "agent")),
        ..let_go
    };
    assert_eq!(back(&leaves, Some(1)), ("db".into(), hash("db 1")));
}

#[test]
fn a_list_takes_nobody_over_whom_a_person_has_said_since_to_stay() {
    let (mut web, mut db) = (family("web", 2, "app = web"), family("db", 1, "app"));
    web.rollout = Some(rollout());
    db.rollout = Some(ProgramRollout {
        id: "ro-2".into(),
        ..rollout()
    });
    let program = program(vec![web, db]);
    let facts = labels("app=web");
    let of_db = Place {
        rollout: "ro-2",
        ..place(0).unwrap()
    };
    let wanted = |resolved, granted| {
        let agent = Subject {
            granted,
            ..subject(&facts, Some("db"))
        };
        let agent = Subject {
            resolved: Some(Epoch(resolved)),
            ..agent
        };
        let places = [taken(("db", "agent")).unwrap(), of_db];
        let place = program.place_that_counts(agent.whose(), &places);
        desired(&Subject { place, ..agent }, &program).delivery
    };
    let stays = Some(("db", "agent"));
    assert_eq!(wanted(9, stays), Some(hash("web 2")));
    assert_eq!(wanted(10, stays), Some(hash("db 2")));
    assert_eq!(wanted(10, None), Some(hash("db 2")));
    // Its wave has not waited for the word to be carried out.
    let goes = Some(("web", "agent"));
    assert_eq!(wanted(9, goes), wanted(10, goes));
}
