//! Flags, commands, identification, settings, capability gating.

use std::time::Duration;

use proto::opamp::{
    AgentIdentification, ConnectionSettingsOffers, Header, Headers, OpAmpConnectionSettings,
    ServerErrorResponse, ServerToAgent, ServerToAgentCommand, ServerToAgentFlags as Flag,
    TelemetryConnectionSettings,
};

use super::rig::{GOOD, Rig, offer};
use crate::agent::{Generation, Note, Options, Timer, capability};
use crate::script::{Behaviour, Script};

fn settings(endpoint: &str, heartbeat: u64, headers: &[(&str, &str)]) -> ServerToAgent {
    let headers = headers
        .iter()
        .map(|(k, v)| Header {
            key: (*k).into(),
            value: (*v).into(),
        })
        .collect();
    let opamp = OpAmpConnectionSettings {
        destination_endpoint: endpoint.into(),
        headers: Some(Headers { headers }),
        heartbeat_interval_seconds: heartbeat,
        ..Default::default()
    };
    let offers = ConnectionSettingsOffers {
        hash: b"settings".to_vec(),
        opamp: Some(opamp),
        ..Default::default()
    };
    ServerToAgent {
        connection_settings: Some(offers),
        ..Default::default()
    }
}

fn accepting_settings() -> Options {
    let capabilities = capability::MANAGED | capability::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
    Options {
        capabilities,
        ..Options::default()
    }
}

#[test]
fn full_state_is_told_immediately_when_asked_for() {
    let mut rig = Rig::idle(Script::default());
    let number = rig.agent.next_sequence_num();
    rig.reply(ServerToAgent {
        flags: Flag::ReportFullState as u64,
        ..Default::default()
    });
    let message = rig.last();
    assert_eq!(message.sequence_num, number);
    assert!(
        message.agent_description.is_some()
            && message.health.is_some()
            && message.effective_config.is_some()
    );
    assert!(message.remote_config_status.is_some());
    assert!(message.available_components.unwrap().components.is_empty());
}

#[test]
fn the_list_of_components_is_told_immediately_when_asked_for() {
    let mut rig = Rig::idle(Script::default());
    rig.reply(ServerToAgent {
        flags: Flag::ReportAvailableComponents as u64,
        ..Default::default()
    });
    let message = rig.last();
    assert!(
        message.available_components.unwrap().components["receivers"]
            .sub_component_map
            .contains_key("otlp")
    );
    assert!(message.agent_description.is_none());
}

#[test]
fn a_restart_command_turns_health_false_then_true_and_hides_the_rest_of_its_message() {
    let mut rig = Rig::idle(Script::default());
    let message = ServerToAgent {
        command: Some(ServerToAgentCommand::default()),
        ..offer("a", GOOD)
    };
    rig.reply(message);
    rig.settle();
    rig.advance_secs(1);
    let health: Vec<_> = rig
        .new_messages()
        .into_iter()
        .map(|message| message.health.unwrap().healthy)
        .collect();
    assert_eq!(health, [false, true]);
    assert!(
        !rig.notes
            .iter()
            .any(|note| matches!(note, Note::Offered { .. }))
    );
}

#[test]
fn without_the_capability_a_command_is_dropped_and_the_rest_is_read() {
    let capabilities = capability::MANAGED & !capability::ACCEPTS_RESTART_COMMAND;
    let mut rig = Rig::idle_with(
        Options {
            capabilities,
            ..Options::default()
        },
        Script::default(),
    );
    rig.reply(ServerToAgent {
        command: Some(ServerToAgentCommand::default()),
        ..offer("a", GOOD)
    });
    assert!(rig.notes.contains(&Note::Ignored("command")));
    assert!(
        rig.notes
            .iter()
            .any(|note| matches!(note, Note::Offered { .. }))
    );
}

#[test]
fn without_the_capability_a_config_is_dropped() {
    let capabilities = capability::MANAGED & !capability::ACCEPTS_REMOTE_CONFIG;
    let mut rig = Rig::idle_with(
        Options {
            capabilities,
            ..Options::default()
        },
        Script::default(),
    );
    let before = rig.agent.effective_config();
    rig.offer("a", GOOD);
    assert_eq!(rig.agent.effective_config(), before);
    assert_eq!(rig.new_messages(), []);
}

#[test]
fn without_the_capability_no_message_has_a_status() {
    let mut rig = Rig::idle(Script::new([Behaviour::NoConfigStatus]));
    rig.offer("a", GOOD);
    rig.reply(ServerToAgent {
        flags: Flag::ReportFullState as u64,
        ..Default::default()
    });
    rig.settle();
    rig.advance_secs(10);
    assert!(
        rig.new_messages()
            .iter()
            .all(|message| message.remote_config_status.is_none())
    );
    assert_eq!(rig.agent.capabilities(), 0x6c07);
}

#[test]
fn a_new_uid_of_16_bytes_is_adopted_and_the_numbers_go_on() {
    let mut rig = Rig::idle(Script::default());
    let (old, number) = (rig.agent.uid(), rig.agent.next_sequence_num());
    let named = |bytes: Vec<u8>| ServerToAgent {
        agent_identification: Some(AgentIdentification {
            new_instance_uid: bytes,
        }),
        ..Default::default()
    };
    rig.reply(named(vec![7; 15]));
    assert_eq!(rig.agent.uid(), old);
    rig.reply(named(vec![7; 16]));
    let message = rig.last();
    assert_eq!(
        (&message.instance_uid[..], message.sequence_num),
        (&[7; 16][..], number)
    );
    assert!(message.agent_description.is_some());
    assert!(rig.agent.effective_config().contains("07070707-0707"));
    assert_eq!(rig.agent.disk().uid.as_bytes(), &[7; 16]);
}

#[test]
fn accepted_settings_start_a_new_client_with_the_headers_of_the_offer_alone() {
    let mut rig = Rig::idle_with(accepting_settings(), Script::default());
    rig.reply(settings(
        "http://127.0.0.1:1/v1/opamp",
        5,
        &[("authorization", "Bearer new")],
    ));
    let taken = rig.reconnects.last().unwrap().clone().unwrap();
    assert_eq!(
        taken.headers,
        [("authorization".to_owned(), "Bearer new".to_owned())]
    );
    let first = rig.last();
    assert_eq!(first.sequence_num, 0);
    assert!(first.agent_description.is_some());
    assert!(
        !first.health.unwrap().healthy,
        "unhealthy until the next change"
    );
    rig.settle();
    assert_eq!(rig.timer(Timer::Poll), Some(Duration::from_secs(5)));
}

#[test]
fn settings_without_an_endpoint_are_ignored() {
    let mut rig = Rig::idle_with(accepting_settings(), Script::default());
    rig.reply(settings("", 30, &[]));
    assert!(rig.reconnects.is_empty() && rig.new_messages().is_empty());
}

#[test]
fn the_heartbeat_interval_is_taken_without_accepting_settings_but_not_0_over_http() {
    let mut rig = Rig::idle(Script::default());
    rig.reply(settings("http://127.0.0.1:1", 7, &[]));
    assert!(rig.reconnects.is_empty());
    assert_eq!(rig.timer(Timer::Poll), Some(Duration::from_secs(7)));
    rig.reply(settings("", 0, &[]));
    assert_eq!(rig.timer(Timer::Poll), Some(Duration::from_secs(7)));
}

#[test]
fn only_the_newer_generation_skips_settings_it_has_taken() {
    for (generation, restarts) in [(Generation::V0_23, 2), (Generation::Main, 1)] {
        let mut rig = Rig::idle_with(
            Options {
                generation,
                ..accepting_settings()
            },
            Script::default(),
        );
        rig.reply(settings("http://127.0.0.1:1", 30, &[]));
        rig.settle();
        rig.reply(settings("http://127.0.0.1:1", 30, &[]));
        assert_eq!(rig.reconnects.len(), restarts, "{generation:?}");
    }
}

#[test]
fn telemetry_offers_are_dropped_without_their_capability() {
    let mut rig = Rig::idle(Script::default());
    let own_metrics = Some(TelemetryConnectionSettings::default());
    let offers = ConnectionSettingsOffers {
        own_metrics,
        ..Default::default()
    };
    rig.reply(ServerToAgent {
        connection_settings: Some(offers),
        ..Default::default()
    });
    assert!(
        rig.notes
            .iter()
            .any(|note| matches!(note, Note::Ignored(_)))
    );
    assert_eq!(rig.new_messages(), []);
}

#[test]
fn an_error_response_is_logged_and_the_other_fields_are_read() {
    let mut rig = Rig::idle(Script::default());
    let error = ServerErrorResponse {
        error_message: "no".into(),
        ..Default::default()
    };
    rig.reply(ServerToAgent {
        error_response: Some(error),
        ..offer("a", GOOD)
    });
    assert!(rig.notes.contains(&Note::ErrorResponse("no".into())));
    assert!(
        rig.notes
            .iter()
            .any(|note| matches!(note, Note::Offered { .. }))
    );
}
