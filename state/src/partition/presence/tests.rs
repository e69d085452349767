//! Who is there, who is lost, and who is asked.

use super::budget::{WRITE_EVERY_MS, WRITES};
use super::grace::INTRODUCED_MS;
use super::*;

const TIMING: Timing = Timing {
    interval_ms: 30_000,
    lost_after_ms: 90_000,
};

fn uid(n: u8) -> Uid {
    Uid::from_wire(&[n; 16]).unwrap()
}

/// What a gateway tells of a message of agent 1 that came so long ago.
fn said(number: u64, age_ms: u32) -> Presence {
    Presence {
        instance_uid: vec![1; 16].into(),
        number,
        digest: vec![1; 16].into(),
        age_ms,
        connection: 1,
        closed: false,
    }
}

/// The number of agent 1's last message.
fn last(core: &Core) -> Option<u64> {
    core.last(uid(1)).map(|(number, _)| number)
}

#[test]
fn an_agent_that_never_rests_writes_no_more_than_its_budget_and_owes_the_rest() {
    let mut core = Core::new(TIMING, 0);
    let mut writes = |now_ms| {
        let may = core.may_write(uid(1), now_ms);
        if may {
            core.wrote(uid(1));
        }
        may
    };
    let written = (0..600).filter(|i| writes(i * 100)).count();
    assert_eq!(written as u64, u64::from(WRITES) + 59_900 / WRITE_EVERY_MS);
    assert!(core.may_write(uid(2), 60_000), "others are not disturbed");
    assert_eq!(core.owed(uid(1), 60_000), None, "it has not rested");
    let rested = 60_000 + u64::from(WRITES) * WRITE_EVERY_MS;
    assert_eq!(core.owed(uid(1), rested), Some(600 - written as u64));
    assert_eq!(core.owed(uid(1), rested), None, "it is told once");
    core.rest(rested);
    assert!(core.budgets.is_empty(), "nothing is kept of those who rest");
}

#[test]
fn what_is_tried_again_and_again_and_not_stored_uses_up_no_budget() {
    let mut core = Core::new(TIMING, 0);
    assert!((0..100).all(|i| core.may_write(uid(1), i)));
    core.wrote(uid(1));
    assert!(!core.is_owed(uid(1)));
}

#[test]
fn no_more_agents_are_asked_for_full_state_in_a_second_than_can_be_stored() {
    let mut core = Core::new(TIMING, 0);
    let asked = |core: &mut Core, now_ms| (0..2_000).filter(|_| core.may_ask_full(now_ms)).count();
    assert_eq!(asked(&mut core, 10_000), FULL_ASKS_PER_S as usize);
    assert_eq!(asked(&mut core, 10_000), 0);
    assert_eq!(asked(&mut core, 10_100), FULL_ASKS_PER_S as usize / 10);
    core.postpone_full(uid(1), true);
    assert!(core.is_owed(uid(1)) && core.has_lost(uid(1)));
    core.postpone_full(uid(1), false);
    assert!(!core.is_owed(uid(1)));
    core.postpone_full(uid(2), true);
    core.begin(20_000);
    assert!(
        !core.has_lost(uid(2)),
        "another leader has heard it meanwhile"
    );
}

#[test]
fn nobody_is_lost_before_the_grace_period_ends() {
    let core = Core::new(TIMING, 1_000);
    assert!(!core.is_lost(uid(1), 90_999));
    assert!(core.is_lost(uid(1), 91_000));
}

#[test]
fn nobody_is_lost_for_a_silence_in_which_nobody_could_be_heard() {
    let mut core = Core::new(TIMING, 0);
    core.handled(uid(1), 1, [0; 16], ("a", 1), false, 1_000);
    core.handled(uid(2), 1, [0; 16], ("b", 1), false, 1_000);
    assert!(core.is_lost(uid(1), 91_000));
    // The stream of one gateway ends again and again, and is made again.
    for at in [5_000, 60_000, 120_000] {
        core.gateway_is_here("a", false, at);
        assert!(!core.is_lost(uid(1), at + 5_000));
        core.gateway_is_here("a", true, at + 5_000);
        assert!(!core.is_lost(uid(1), at + 5_000 + INTRODUCED_MS - 1));
    }
    assert!(core.is_lost(uid(1), 125_000 + INTRODUCED_MS));
    assert!(core.is_lost(uid(2), 91_000), "it was heard all the time");
    core.gateway_is_here("a", false, 140_000);
    core.gateway_gone("a", 150_000);
    assert!(!core.is_lost(uid(1), 239_999), "it may come elsewhere");
    assert!(core.is_lost(uid(1), 240_000));
    // This node looked every second, and then stood still.
    core.looks(89_000, 90_000);
    assert!(core.is_lost(uid(2), 91_000));
    core.looks(90_000, 200_000);
    assert!(!core.is_lost(uid(2), 289_999));
    assert!(core.is_lost(uid(2), 290_000));
    // It leads again, after others have led who heard more.
    core.begin(300_000);
    assert!(!core.is_lost(uid(2), 389_999));
    assert!(core.is_lost(uid(2), 390_000));
    assert_eq!(core.age_ms(uid(2), 390_000), 389_000, "that is as it was");
}

#[test]
fn a_connection_that_has_ended_is_not_open_for_being_told_of() {
    let mut core = Core::new(TIMING, 0);
    let told = |agent: u8, closed| Presence {
        instance_uid: vec![agent; 16].into(),
        number: 3,
        digest: vec![3; 16].into(),
        age_ms: 0,
        connection: 1,
        closed,
    };
    core.heard("a", &[told(1, false), told(2, true)], true, 1_000);
    assert!(core.is_open(uid(1)));
    assert!(!core.is_open(uid(2)));
    assert_eq!(core.last(uid(2)), Some((3, [3; 16])));
}

#[test]
fn what_a_gateway_says_late_of_an_agent_that_has_moved_on_is_no_news() {
    let mut core = Core::new(TIMING, 0);
    core.handled(uid(1), 5, [5; 16], ("b", 2), false, 1_000);
    let said = |number: u8, age_ms| Presence {
        instance_uid: vec![1; 16].into(),
        number: number.into(),
        digest: vec![number; 16].into(),
        age_ms,
        connection: 1,
        closed: false,
    };
    // Said before, and so long under way that it looks later.
    core.heard("a", &[said(4, 0)], true, 1_200);
    assert_eq!(core.last(uid(1)), Some((5, [5; 16])));
    assert_eq!(core.holder(uid(1), "b"), None);
    core.heard("a", &[said(6, 0)], true, 1_300);
    assert_eq!(core.last(uid(1)), Some((6, [6; 16])), "it has come back");
    assert_eq!(core.holder(uid(1), "b").as_deref(), Some("a"));
}

#[test]
fn an_agent_that_repeats_a_message_elsewhere_was_there() {
    let mut core = Core::new(TIMING, 0);
    core.handled(uid(1), 5, [5; 16], ("b", 2), false, 1_000);
    // The answer was lost, and gateway `a` still knew the conversation.
    let again = Presence {
        instance_uid: vec![1; 16].into(),
        number: 5,
        digest: vec![5; 16].into(),
        age_ms: 0,
        connection: 1,
        closed: false,
    };
    assert_eq!(core.heard("a", &[again], true, 9_000), []);
    assert_eq!(core.age_ms(uid(1), 9_000), 0);
    assert_eq!(core.holder(uid(1), "a").as_deref(), Some("b"));
}

#[test]
fn a_client_that_began_anew_at_another_gateway_is_heard_by_replicas_that_do_not_lead() {
    let mut core = Core::new(TIMING, 0);
    core.heard("a", &[said(400, 0)], false, 1_000);
    // Only the leader has handled its first message.
    core.heard("b", &[said(2, 0)], false, 1_000 + UNDER_WAY_MS);
    assert_eq!(last(&core), Some(2));
    assert_eq!(core.age_ms(uid(1), 7_000), 1_000);
}

#[test]
fn and_by_who_leads_only_since_then() {
    let mut core = Core::new(TIMING, 0);
    core.heard("a", &[said(400, 0)], false, 1_000);
    // The leader before has handled its first message.
    core.begin(3_000);
    core.heard("b", &[said(2, 0)], true, 1_000 + UNDER_WAY_MS);
    assert_eq!(last(&core), Some(2));
    // What is handled here is known here.
    core.handled(uid(1), 3, [3; 16], ("a", 2), false, 10_000);
    core.heard("b", &[said(2, 0)], true, 10_000 + UNDER_WAY_MS);
    assert_eq!(core.holder(uid(1), "b").as_deref(), Some("a"));
}

#[test]
fn and_at_once_where_its_number_is_too_low_to_be_late() {
    let mut core = Core::new(TIMING, 0);
    core.heard("a", &[said(16, 0)], false, 23_000);
    core.heard("b", &[said(16 - UNDER_WAY_MAX, 0)], false, 24_000);
    assert_eq!(last(&core), Some(16), "it was said before");
    core.heard("b", &[said(1, 2_000)], false, 24_000);
    assert_eq!(last(&core), Some(16), "and so was this");
    // Another node leads, and has handled its first message.
    core.heard("b", &[said(1, 0)], false, 24_000);
    core.begin(25_000);
    core.heard("b", &[said(3, 0)], true, 26_000);
    assert_eq!(last(&core), Some(3));
    assert_eq!(core.holder(uid(1), "b"), None, "its session counts");
    // Whoever handles messages itself knows better.
    core.handled(uid(1), 16, [1; 16], ("a", 2), false, 27_000);
    core.heard("b", &[said(4, 0)], true, 27_500);
    assert_eq!(last(&core), Some(16));
}

#[test]
fn of_two_messages_in_one_moment_the_one_with_the_higher_number_is_the_later() {
    let mut core = Core::new(TIMING, 0);
    core.begin(0);
    core.handled(uid(1), 71, [1; 16], ("a", 1), false, 1_000);
    core.heard("b", &[said(73, 1)], true, 1_000);
    assert_eq!(last(&core), Some(73));
    // Who has begun anew since has a low number, and what came before it is late.
    core.handled(uid(1), 1, [1; 16], ("a", 2), false, 2_000);
    core.heard("b", &[said(75, 5)], true, 2_000);
    assert_eq!(last(&core), Some(1));
}

#[test]
fn connections_of_a_gateway_that_is_gone_are_closed_and_those_of_others_are_not() {
    let mut core = Core::new(TIMING, 0);
    core.handled(uid(1), 1, [0; 16], ("a", 1), false, 0);
    core.handled(uid(2), 1, [0; 16], ("b", 1), false, 0);
    assert_eq!(core.holder(uid(1), "b").as_deref(), Some("a"));
    assert_eq!(core.holder(uid(1), "a"), None);
    core.gateway_gone("a", 0);
    assert!(!core.is_open(uid(1)));
    assert!(core.is_open(uid(2)));
    core.handled(uid(1), 2, [0; 16], ("b", 2), false, 1_000);
    assert!(core.is_open(uid(1)), "it has come elsewhere");
    assert_eq!(core.holder(uid(1), "b"), None);
}

#[test]
fn late_news_do_not_undo_newer_ones() {
    let mut core = Core::new(TIMING, 0);
    core.handled(uid(1), 8, [8; 16], ("g", 1), false, 5_000);
    let old = Presence {
        instance_uid: vec![1; 16].into(),
        number: 7,
        digest: vec![7; 16].into(),
        age_ms: 3_000,
        connection: 1,
        closed: false,
    };
    assert_eq!(
        core.heard("g", &[old], true, 6_000),
        [],
        "an agent that has left since is not back"
    );
    let goodbye = Presence {
        instance_uid: vec![1; 16].into(),
        number: 8,
        digest: vec![8; 16].into(),
        age_ms: 0,
        connection: 1,
        closed: false,
    };
    assert_eq!(
        core.heard("g", &[goodbye], true, 6_000),
        [],
        "nor by its goodbye"
    );
    assert_eq!(core.last(uid(1)), Some((8, [8; 16])));
}

#[test]
fn two_streams_with_one_uid_are_seen_at_their_second_step_back() {
    let mut core = Core::new(TIMING, 0);
    core.handled(uid(1), 50, [0; 16], ("g", 1), false, 0);
    assert!(!core.sees_double(uid(1), 3, 2, false, 1_000));
    core.handled(uid(1), 3, [1; 16], ("g", 2), false, 1_000);
    assert!(!core.sees_double(uid(1), 51, 1, false, 2_000));
    core.handled(uid(1), 51, [2; 16], ("g", 1), false, 2_000);
    assert!(core.sees_double(uid(1), 4, 2, false, 3_000));
}

#[test]
fn one_agent_that_starts_anew_is_not_double() {
    let mut core = Core::new(TIMING, 0);
    core.handled(uid(1), 50, [0; 16], ("g", 1), false, 0);
    for at in 1..5 {
        assert!(!core.sees_double(uid(1), 0, 2 + at, true, at * 1_000));
        core.handled(uid(1), 0, [1; 16], ("g", 2 + at), false, at * 1_000);
        core.handled(uid(1), 40, [1; 16], ("g", 2 + at), false, at * 1_000);
    }
}
