use proptest::prelude::*;
use proto::opamp::{AgentRemoteConfig, ServerToAgent};

use super::*;

fn uid(n: u8) -> Uid {
    Uid::from_wire(&[n; 16]).unwrap()
}

fn heard(agent: u8, number: u64) -> Heard {
    let mut digest = [agent; 16];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    Heard {
        uid: uid(agent),
        number,
        digest,
        capabilities: 0x2845,
        bare: true,
        speaker: 0,
        connection: 1,
        websocket: false,
        in_contact: true,
    }
}

fn settled(heard: &Heard, pending: bool, sent: ServerToAgent) -> Settled {
    Settled {
        session: edge::Session {
            number: heard.number,
            digest: heard.digest.to_vec().into(),
            pending,
            capabilities: heard.capabilities,
            lost: false,
        },
        speaker: heard.speaker,
        connection: heard.connection,
        sent: Some(vec![Reply::of(&heard.uid, sent)]),
        noticed: Noticed::default(),
    }
}

/// A table that knows agent 1, last number 7, answered plainly.
fn known() -> Table {
    let mut table = Table::new(10);
    table.settle(
        uid(1),
        settled(&heard(1, 7), false, ServerToAgent::default()),
        0,
    );
    table
}

fn is_report(decision: Decision) -> bool {
    matches!(decision, Decision::Report(_))
}

#[test]
fn a_session_is_small() {
    assert!(
        size_of::<(Uid, Session)>() <= 104,
        "{}",
        size_of::<(Uid, Session)>()
    );
}

#[test]
fn an_unknown_agent_is_reported_without_a_session() {
    assert_eq!(Table::new(10).hear(&heard(1, 7), 0), Decision::Report(None));
}

#[test]
fn the_next_idle_message_is_answered_from_memory() {
    let mut table = known();
    assert_eq!(table.hear(&heard(1, 8), 0), Decision::Plain);
    assert_eq!(
        table.hear(
            &Heard {
                capabilities: 0,
                ..heard(1, 9)
            },
            0
        ),
        Decision::Plain
    );
}

#[test]
fn numbers_wrap() {
    let mut table = Table::new(10);
    table.settle(
        uid(1),
        settled(&heard(1, u64::MAX), false, ServerToAgent::default()),
        0,
    );
    assert_eq!(table.hear(&heard(1, 0), 0), Decision::Plain);
}

#[test]
fn whatever_is_new_is_reported_with_what_the_session_knew() {
    let news = [
        heard(1, 9),
        heard(1, 6),
        Heard {
            bare: false,
            ..heard(1, 8)
        },
        Heard {
            capabilities: 1,
            ..heard(1, 8)
        },
        Heard {
            digest: [9; 16],
            ..heard(1, 7)
        },
        Heard {
            speaker: 5,
            ..heard(1, 8)
        },
        Heard {
            speaker: 5,
            ..heard(1, 7)
        },
        Heard {
            websocket: true,
            connection: 2,
            ..heard(1, 8)
        },
        Heard {
            in_contact: false,
            ..heard(1, 8)
        },
    ];
    for news in news {
        let Decision::Report(Some(session)) = known().hear(&news, 0) else {
            panic!("{news:?} was not reported");
        };
        assert_eq!(session.number, 7);
    }
}

#[test]
fn a_report_without_an_answer_does_not_advance_the_number() {
    let mut table = known();
    assert!(is_report(table.hear(
        &Heard {
            bare: false,
            ..heard(1, 8)
        },
        0
    )));
    assert_eq!(table.known(&uid(1)).unwrap().number, 7);
    assert!(is_report(table.hear(
        &Heard {
            bare: false,
            ..heard(1, 8)
        },
        0
    )));
}

#[test]
fn an_agent_with_something_pending_is_reported() {
    let mut table = known();
    assert!(table.set_pending(&uid(1)));
    assert!(is_report(table.hear(&heard(1, 8), 0)));
    assert!(!table.set_pending(&uid(2)));
}

#[test]
fn a_retry_gets_the_identical_answer_unless_it_carried_an_offer() {
    let flags = ServerToAgent {
        flags: 1,
        ..ServerToAgent::default()
    };
    let offer = ServerToAgent {
        remote_config: Some(AgentRemoteConfig::default()),
        ..ServerToAgent::default()
    };
    let mut table = known();
    assert_eq!(table.hear(&heard(1, 7), 0), Decision::Plain);
    table.settle(uid(1), settled(&heard(1, 8), false, flags.clone()), 0);
    let expected = Decision::Repeat(Arc::new(vec![Reply::of(&uid(1), flags)]));
    assert_eq!(table.hear(&heard(1, 8), 0), expected);
    assert_eq!(table.hear(&heard(1, 8), 0), expected);
    table.recall(&uid(1));
    assert!(is_report(table.hear(&heard(1, 8), 0)));
    table.settle(uid(1), settled(&heard(1, 9), false, offer), 0);
    assert!(is_report(table.hear(&heard(1, 9), 0)));
    assert_eq!(table.hear(&heard(1, 10), 0), Decision::Plain);
}

#[test]
fn a_notice_that_overtakes_an_answer_wins() {
    let plain = || settled(&heard(1, 8), false, ServerToAgent::default());
    let mut table = known();
    table.settle(
        uid(1),
        Settled {
            noticed: Noticed {
                pending: true,
                ..Noticed::default()
            },
            ..plain()
        },
        0,
    );
    assert!(is_report(table.hear(&heard(1, 9), 0)));
    table.settle(
        uid(1),
        Settled {
            noticed: Noticed {
                dropped: true,
                ..Noticed::default()
            },
            ..plain()
        },
        0,
    );
    assert_eq!(table.known(&uid(1)), None);
    table.settle(
        uid(1),
        Settled {
            noticed: Noticed {
                recalled: true,
                ..Noticed::default()
            },
            ..plain()
        },
        0,
    );
    assert!(is_report(table.hear(&heard(1, 8), 0)));
}

#[test]
fn presence_names_each_agent_that_spoke_once() {
    let mut table = known();
    let mut batch = Vec::new();
    table.presence(5, &mut batch);
    batch.clear();
    table.presence(5, &mut batch);
    assert!(batch.is_empty());
    table.hear(&heard(1, 8), 10);
    table.hear(&heard(1, 9), 20);
    table.presence(50, &mut batch);
    assert_eq!(batch.len(), 1);
    assert_eq!((batch[0].number, batch[0].age_ms), (9, 30));
}

#[test]
fn who_repeats_a_message_has_spoken() {
    let mut table = known();
    table.presence(5, &mut Vec::new());
    assert_eq!(table.hear(&heard(1, 7), 10), Decision::Plain);
    let mut batch = Vec::new();
    table.presence(50, &mut batch);
    assert_eq!(
        batch.len(),
        1,
        "its leader may have heard nothing of it for long"
    );
    assert_eq!((batch[0].number, batch[0].age_ms), (7, 40));
}

#[test]
fn unused_sessions_are_swept_and_a_full_table_gives_up_the_longest_unused() {
    let mut table = Table::new(3);
    for agent in 1..=4 {
        table.settle(
            uid(agent),
            settled(&heard(agent, 1), false, ServerToAgent::default()),
            u64::from(agent),
        );
    }
    assert_eq!(table.len(), 3);
    assert_eq!(table.known(&uid(1)), None);
    assert_eq!(table.take_evicted(), 1);
    table.sweep(4);
    assert_eq!(table.len(), 1);
}

proptest! {
    /// Polls and retries in any mixture, from any number on: nothing is reported.
    #[test]
    fn a_quiescent_agent_is_never_reported(start in any::<u64>(), retries in prop::collection::vec(0u8..3, 0..50)) {
        let mut table = Table::new(10);
        table.settle(uid(1), settled(&heard(1, start), false, ServerToAgent::default()), 0);
        let mut number = start;
        for retries in retries {
            number = number.wrapping_add(1);
            for _ in 0..=retries {
                prop_assert_eq!(table.hear(&heard(1, number), 0), Decision::Plain);
            }
        }
    }

    /// Two agents interleaved in any order behave as each alone.
    #[test]
    fn any_interleaving_of_two_agents_keeps_them_apart(steps in prop::collection::vec((1u8..3, 0u8..5), 0..80)) {
        let mut together = Table::new(10);
        let mut alone = [Table::new(10), Table::new(10)];
        let mut numbers = [0u64; 2];
        for (agent, what) in steps {
            let i = usize::from(agent - 1);
            numbers[i] += u64::from(what != 4);
            let message = Heard { bare: what != 3, ..heard(agent, numbers[i]) };
            let decisions = [together.hear(&message, 0), alone[i].hear(&message, 0)];
            prop_assert_eq!(&decisions[0], &decisions[1]);
            if is_report(decisions[0].clone()) {
                let answer = ServerToAgent { flags: u64::from(what & 1), ..ServerToAgent::default() };
                for table in [&mut together, &mut alone[i]] {
                    table.settle(uid(agent), settled(&message, what == 2, answer.clone()), 0);
                }
            }
            prop_assert_eq!(together.known(&uid(agent)), alone[i].known(&uid(agent)));
        }
    }
}

#[test]
fn all_conversations_can_be_told_of_whoever_spoke_last() {
    let mut table = known();
    table.presence(5, &mut Vec::new());
    let all: Vec<_> = table.all(50).collect();
    assert_eq!(all.len(), 1);
    let (agent, stands) = &all[0];
    assert_eq!((**agent, stands.number, stands.age_ms), (uid(1), 7, 50));
    let mut spoke = Vec::new();
    table.presence(60, &mut spoke);
    assert_eq!(spoke, [], "who was told of has not spoken");
}
