//! What a person may say of whose an agent is, when, and what holds then.

use super::*;
use crate::program::word::{Contest, Unsaid, Word, say};

const DB: (&str, &str) = ("db", "agent");
const WEB: (&str, &str) = ("web", "agent");

/// Family db has an agent that a rollout of family web, which has no stable revision yet, takes over from it; so many
/// waves of that are open.
fn takeover(open: u32) -> Program {
    let (mut web, db) = (family("web", 2, "app = web"), family("db", 1, "app"));
    web.stable = None;
    web.rollout = Some(ProgramRollout {
        from: None,
        open_waves: BTreeMap::from([("agent".to_owned(), open)]),
        ..rollout()
    });
    program(vec![web, db])
}

fn web(program: &mut Program) -> &mut ProgramFamily {
    let mut families = program.families.iter_mut();
    families.find(|family| family.name == "web").unwrap()
}

fn taken() -> Place<'static> {
    Place {
        taken_from: Some(DB),
        ..place(0).unwrap()
    }
}

/// As the record of an agent keeps what was said of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Said {
    granted: Option<(&'static str, &'static str)>,
    resolved: Option<Epoch>,
}

/// Owned by this family; the word that is stored, and its text.
fn said(
    program: &Program,
    owner: (&'static str, &'static str),
    before: Said,
    facts: &str,
    places: &[Place<'static>],
    keep: bool,
) -> Result<(Said, String), Unsaid> {
    let facts = labels(facts);
    let whose = Whose {
        owner: Some(owner),
        granted: before.granted,
        resolved: before.resolved,
    };
    let word = say(keep, whose, &program.claims(&facts), places, program)?;
    let known = |granted| [DB, WEB].into_iter().find(|known| *known == granted);
    let granted = word.granted().and_then(known);
    let said = Said {
        granted,
        resolved: granted.map(|_| program.epoch),
    };
    Ok((said, word.to_string()))
}

/// What the agent, owned by db, should run by this program.
fn wanted(program: &Program, said: Said) -> Option<Digest> {
    let facts = labels("app=web");
    let agent = Subject {
        granted: said.granted,
        resolved: said.resolved,
        ..subject(&facts, Some("db"))
    };
    let place = program.place_that_counts(agent.whose(), &[taken()]);
    desired(&Subject { place, ..agent }, program).delivery
}

#[test]
fn keep_can_be_said_before_the_wave_that_takes_an_agent_over_is_open_and_holds_then() {
    let (before, after) = (takeover(0), takeover(1));
    let nothing = Said::default();
    assert_eq!(wanted(&after, nothing), Some(hash("web 2")));
    let (kept, text) = said(&before, DB, nothing, "app=web", &[taken()], true).unwrap();
    assert_eq!(
        text,
        "stays with db/agent; rollout ro-1 does not take it over to web/agent"
    );
    for program in [&before, &after] {
        assert_eq!(wanted(program, kept), Some(hash("db 1")));
    }
    // Taken back, before the wave or after: it is the list's again.
    for program in [&before, &after] {
        let (back, text) = said(program, DB, kept, "app=web", &[taken()], false).unwrap();
        assert_eq!(
            text,
            "what was said of db/agent is taken back; rollout ro-1 takes it over to web/agent with its wave"
        );
        assert_eq!(wanted(&after, back), Some(hash("web 2")));
        let again = said(program, DB, back, "app=web", &[taken()], true).unwrap();
        assert_eq!(wanted(&after, again.0), Some(hash("db 1")));
    }
}

#[test]
fn a_word_that_is_taken_back_leaves_an_agent_to_the_rollback_that_gives_it_back() {
    let program = takeover(1);
    let nothing = Said::default();
    let (kept, text) = said(&program, WEB, nothing, "app=web", &[taken()], true).unwrap();
    assert_eq!(
        text,
        "stays with web/agent; a rollback of ro-1 does not give it back to db/agent"
    );
    let whose = |said: Said| Whose {
        owner: Some(WEB),
        granted: said.granted,
        resolved: said.resolved,
    };
    let (_, rollout) = program.rollout("ro-1").unwrap();
    assert!(whose(kept).settles(rollout, WEB));
    let (back, text) = said(&program, WEB, kept, "app=web", &[taken()], false).unwrap();
    assert!(
        text.ends_with("; a rollback of ro-1 gives it back to db/agent"),
        "{text}"
    );
    assert!(!whose(back).settles(rollout, WEB));
}

#[test]
fn where_no_list_has_it_an_agent_that_was_kept_goes_to_who_claims_it_at_once() {
    let program = program(vec![family("web", 2, "app = web"), family("db", 1, "app")]);
    let nothing = Said::default();
    let (kept, text) = said(&program, DB, nothing, "app=web", &[], true).unwrap();
    assert_eq!(
        (kept.granted, text.as_str()),
        (Some(DB), "stays with db/agent")
    );
    let (goes, text) = said(&program, DB, kept, "app=web", &[], false).unwrap();
    assert_eq!(
        (goes.granted, text.as_str()),
        (Some(WEB), "goes to web/agent")
    );
    // And the other way round, while it has not gone yet.
    let (kept, _) = said(&program, DB, goes, "app=web", &[], true).unwrap();
    assert_eq!(kept.granted, Some(DB));
}

#[test]
fn what_was_said_of_an_agent_that_only_its_owner_claims_any_more_is_taken_back() {
    let program = program(vec![family("web", 2, "app = web"), family("db", 1, "app")]);
    let goes = Said {
        granted: Some(WEB),
        resolved: Some(Epoch(3)),
    };
    let stays = Said {
        granted: Some(DB),
        ..goes
    };
    for (before, keep, earlier) in [(goes, true, "web/agent"), (stays, false, "db/agent")] {
        let (after, text) = said(&program, DB, before, "app=db", &[], keep).unwrap();
        assert_eq!((after.granted, after.resolved), (None, None));
        assert_eq!(text, format!("what was said of {earlier} is taken back"));
    }
}

#[test]
fn nobody_goes_before_its_wave_or_a_rollback_for_having_it_said_twice() {
    // Both families have a stable revision, so that both claim it; the list of web's rollout takes it over.
    let mut program = takeover(0);
    web(&mut program).stable = Some(RevisionNumber(1));
    let (kept, _) = said(&program, DB, Said::default(), "app=web", &[taken()], true).unwrap();
    let (back, _) = said(&program, DB, kept, "app=web", &[taken()], false).unwrap();
    assert_eq!(back.granted, None);
    let agreed = said(&program, DB, back, "app=web", &[taken()], false);
    assert!(matches!(agreed, Err(Unsaid::Agreed { .. })), "{agreed:?}");
    // A canary that was taken over from who claims it still: the rollback gives it back, and nothing else.
    let canary = said(
        &takeover(1),
        WEB,
        Said::default(),
        "app=web",
        &[taken()],
        false,
    );
    assert!(matches!(canary, Err(Unsaid::Agreed { .. })), "{canary:?}");
}

#[test]
fn a_rollout_that_has_gone_back_takes_nobody_over_and_holds_nobody_up() {
    let mut program = takeover(1);
    web(&mut program).stable = Some(RevisionNumber(1));
    web(&mut program).rollout.as_mut().unwrap().returning = true;
    let (kept, text) = said(&program, DB, Said::default(), "app=web", &[taken()], true).unwrap();
    assert_eq!(text, "stays with db/agent");
    let (goes, text) = said(&program, DB, kept, "app=web", &[taken()], false).unwrap();
    assert_eq!(
        (goes.granted, text.as_str()),
        (Some(WEB), "goes to web/agent")
    );
}

#[test]
fn a_list_that_has_an_agent_from_somebody_else_contests_nothing() {
    let program = takeover(0);
    let elsewhere = Place {
        taken_from: Some(("gone", "agent")),
        ..taken()
    };
    let nothing = said(&program, DB, Said::default(), "app=web", &[elsewhere], true);
    assert_eq!(nothing, Err(Unsaid::Uncontested("db/agent".into())));
}

#[test]
fn who_can_say_nothing_is_told_why_and_the_way_out() {
    let program = takeover(0);
    let why = |facts, places: &[Place<'static>], keep| {
        let said = said(&program, DB, Said::default(), facts, places, keep);
        said.err().unwrap().to_string()
    };
    assert_eq!(
        why("app=web", &[], true),
        "db/agent owns it and claims it, and no open rollout takes it over: there is nothing to resolve until one does"
    );
    assert_eq!(
        why("app=web", &[taken()], false),
        "db/agent owns it, and rollout ro-1 takes it over to web/agent with its wave: there is nothing to resolve, unless it is to --keep its owner"
    );
    assert_eq!(
        why("env=lab", &[], false),
        "nobody claims it: label it, or let it --keep its owner"
    );
    let nobodys = say(true, Whose::default(), &[], &[], &program);
    assert_eq!(
        nobodys.unwrap_err().to_string(),
        "nobody owns it: it goes to who claims it by itself"
    );
    let two = [Claim {
        family: "web",
        roles: vec!["agent", "gateway"],
    }];
    let whose = Whose {
        owner: Some(DB),
        ..Whose::default()
    };
    assert_eq!(
        say(false, whose, &two, &[], &program)
            .unwrap_err()
            .to_string(),
        "it matches agent and gateway of web: make the selectors exclude each other"
    );
    assert_eq!(
        say(true, whose, &two, &[taken()], &program).unwrap(),
        Word::Stays {
            with: DB,
            instead_of: Some(Contest::Takes {
                rollout: "ro-1",
                to: WEB
            })
        }
    );
}
