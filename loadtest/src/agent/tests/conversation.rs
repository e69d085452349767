//! Numbers, polls, retries, reconnects.

use std::time::Duration;

use proptest::prelude::*;
use proto::opamp::{AgentToServer, ServerToAgent, ServerToAgentFlags};

use super::rig::{BAD, GOOD, Rig, offer};
use crate::agent::{Event, Note, Options, Order, Timer, Wire, capability};
use crate::script::{Behaviour, Script};

fn refused(status: u16, retry_after: Option<u64>) -> Event {
    Event::HttpError {
        status,
        retry_after: retry_after.map(Duration::from_secs),
    }
}

#[test]
fn the_first_message_has_number_0_full_state_and_only_the_hash_of_the_components() {
    let mut rig = Rig::with(Wire::Http, Options::default(), Script::default());
    rig.event(Event::Start);
    let first = rig.last();
    assert_eq!((first.sequence_num, first.capabilities), (0, 0x7c07));
    assert!(first.agent_description.is_some() && first.effective_config.is_some());
    assert!(
        !first.health.unwrap().healthy,
        "the first health is always false"
    );
    let components = first.available_components.unwrap();
    assert!(components.components.is_empty() && components.hash.len() == 32);
}

#[test]
fn a_poll_is_uid_number_and_capabilities() {
    let mut rig = Rig::idle(Script::default());
    let number = rig.agent.next_sequence_num();
    rig.advance_secs(30);
    let expected = AgentToServer {
        instance_uid: rig.agent.uid().as_bytes().to_vec().into(),
        sequence_num: number,
        capabilities: capability::MANAGED,
        ..AgentToServer::default()
    };
    assert_eq!(rig.new_messages(), [expected]);
}

#[test]
fn one_request_is_in_flight_and_the_rest_waits_for_the_answer() {
    let mut rig = Rig::with(Wire::Http, Options::default(), Script::default());
    rig.event(Event::Start);
    rig.expire(Timer::CollectorUp);
    assert_eq!(rig.new_messages().len(), 1);
    rig.reply(ServerToAgent::default());
    assert!(
        rig.last().health.unwrap().healthy,
        "and is sent at once when it comes"
    );
}

#[test]
fn identical_bytes_are_retried_after_503() {
    let mut rig = Rig::idle(Script::default());
    rig.expire(Timer::Poll);
    let sent = rig.raw.last().unwrap().clone();
    for _ in 0..3 {
        rig.event(refused(503, None));
        rig.expire(Timer::Retry);
        assert_eq!(rig.raw.last().unwrap(), &sent);
    }
    rig.event(Event::NetworkError);
    rig.expire(Timer::Retry);
    assert_eq!(rig.raw.last().unwrap(), &sent);
}

#[test]
fn a_longer_retry_after_wins_over_the_backoff_and_a_shorter_one_does_not() {
    let mut rig = Rig::idle(Script::default());
    rig.expire(Timer::Poll);
    rig.event(refused(429, Some(40)));
    assert_eq!(rig.timer(Timer::Retry), Some(Duration::from_secs(40)));
    rig.expire(Timer::Retry);
    rig.event(refused(503, Some(0)));
    assert!(rig.timer(Timer::Retry).unwrap() >= Duration::from_millis(250));
}

#[test]
fn the_backoff_grows_with_jitter_to_a_minute_at_most() {
    let mut rig = Rig::idle(Script::default());
    rig.expire(Timer::Poll);
    let mut base = 0.5;
    for _ in 0..30 {
        rig.event(Event::NetworkError);
        let after = rig.timer(Timer::Retry).unwrap().as_secs_f64();
        assert!(
            after >= f64::min(base, 60.0) * 0.5 && after <= f64::min(base * 1.5, 60.0),
            "{after} at {base}"
        );
        rig.expire(Timer::Retry);
        base *= 1.5;
    }
}

#[test]
fn a_400_discards_the_message_and_leaves_a_gap() {
    let mut rig = Rig::idle(Script::default());
    rig.event(Event::Order(Order::Relabel {
        key: "env".into(),
        value: "moved".into(),
    }));
    let lost = rig.last();
    assert!(lost.agent_description.is_some());
    rig.event(refused(400, None));
    assert!(rig.notes.contains(&Note::Discarded { status: 400 }));
    rig.advance_secs(30);
    let next = rig.last();
    assert_eq!(next.sequence_num, lost.sequence_num + 1);
    assert!(next.agent_description.is_none(), "its content is lost");
}

#[test]
fn an_undecodable_answer_is_dropped_silently_over_http() {
    let mut rig = Rig::idle(Script::default());
    rig.expire(Timer::Poll);
    rig.event(Event::Undecodable);
    rig.new_messages();
    rig.advance_secs(30);
    assert_eq!(rig.new_messages().len(), 1);
}

#[test]
fn a_websocket_reconnect_is_compressed_and_goes_on_counting() {
    let mut rig = Rig::with(Wire::Ws, Options::default(), Script::default());
    rig.event(Event::Start);
    assert_eq!(rig.reconnects.len(), 1);
    rig.event(Event::Connected);
    assert!(rig.last().agent_description.is_some());
    rig.advance_secs(1);
    rig.new_messages();
    let number = rig.agent.next_sequence_num();
    rig.event(Event::NetworkError);
    assert_eq!(
        rig.timer(Timer::Retry),
        Some(Duration::ZERO),
        "the first reconnect is immediate"
    );
    rig.expire(Timer::Retry);
    rig.event(Event::NetworkError);
    assert!(rig.timer(Timer::Retry).unwrap() > Duration::ZERO);
    rig.expire(Timer::Retry);
    rig.event(Event::Connected);
    let message = rig.last();
    assert_eq!(message.sequence_num, number);
    assert!(message.agent_description.is_none() && message.health.is_none());
}

#[test]
fn a_websocket_agent_says_goodbye_and_an_http_agent_does_not() {
    let mut rig = Rig::idle(Script::default());
    rig.event(Event::Stop);
    assert!(rig.closed && rig.new_messages().is_empty());
    let mut rig = Rig::with(Wire::Ws, Options::default(), Script::default());
    rig.event(Event::Start);
    rig.event(Event::Connected);
    rig.event(Event::Stop);
    assert!(rig.closed && rig.last().agent_disconnect.is_some());
}

#[test]
fn a_suspended_machine_is_silent_and_catches_up_when_it_wakes() {
    let (from, length) = (Duration::from_secs(10), Duration::from_secs(120));
    let mut rig = Rig::idle(Script::new([Behaviour::Sleeps { from, length }]));
    rig.advance_secs(119);
    assert_eq!(rig.new_messages(), []);
    rig.advance_secs(12);
    assert_eq!(rig.new_messages().len(), 1);
}

#[derive(Clone, Debug)]
enum Happening {
    Answer,
    Config(bool),
    FullState,
    Lost,
    Busy,
    Discard,
    Crash,
    Relabel,
    Time(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => Just(Happening::Answer),
        1 => any::<bool>().prop_map(Happening::Config),
        1 => Just(Happening::FullState),
        1 => Just(Happening::Lost),
        1 => Just(Happening::Busy),
        1 => Just(Happening::Discard),
        1 => Just(Happening::Crash),
        1 => Just(Happening::Relabel),
        3 => (1..40_u64).prop_map(Happening::Time),
    ]
}

proptest! {
    #[test]
    fn each_new_message_has_the_number_after_the_last(
        happenings in proptest::collection::vec(happening(), 1..60), rollback in any::<bool>(),
    ) {
        let script = Script::crashing("broken", Duration::from_secs(2));
        let mut rig = Rig::idle(if rollback { script.and(Behaviour::Rollback) } else { script });
        for happening in happenings {
            match happening {
                Happening::Answer => rig.reply(ServerToAgent::default()),
                Happening::Config(good) => rig.reply(if good { offer("a", GOOD) } else { offer("b", BAD) }),
                Happening::FullState => {
                    let flags = ServerToAgentFlags::ReportFullState as u64;
                    rig.reply(ServerToAgent { flags, ..ServerToAgent::default() });
                }
                Happening::Lost => rig.event(Event::NetworkError),
                Happening::Busy => rig.event(refused(503, None)),
                Happening::Discard => rig.event(refused(400, None)),
                Happening::Crash => rig.event(Event::Order(Order::Crash)),
                Happening::Relabel => {
                    rig.event(Event::Order(Order::Relabel { key: "k".into(), value: "v".into() }));
                }
                Happening::Time(seconds) => rig.advance_secs(seconds),
            }
        }
        rig.raw.dedup();
        let all = std::mem::take(&mut rig.raw);
        for (number, bytes) in all.iter().enumerate() {
            let message = <AgentToServer as prost::Message>::decode(bytes.clone()).unwrap();
            prop_assert_eq!(message.sequence_num, number as u64);
        }
    }
}
