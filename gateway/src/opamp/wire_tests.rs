use proptest::prelude::*;
use prost::Message;
use proto::opamp::{
    AgentConfigMap, AgentConfigObject, AgentDescription, AgentDisconnect, AgentToServer, AnyValue,
    ArrayValue, AvailableComponents, ComponentDetails, ComponentHealth, CustomMessage,
    EffectiveConfig, KeyValue, KeyValueList, RemoteConfigStatus, any_value,
};
use proto::sequence::is_idle;

use super::*;

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        ".{0,8}".prop_map(any_value::Value::StringValue),
        any::<bool>().prop_map(any_value::Value::BoolValue),
        any::<i64>().prop_map(any_value::Value::IntValue),
        any::<f64>().prop_map(any_value::Value::DoubleValue),
        any::<Vec<u8>>().prop_map(any_value::Value::BytesValue),
    ];
    let leaf = leaf.prop_map(|value| AnyValue { value: Some(value) });
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|values| any_value::Value::ArrayValue(ArrayValue { values })),
            prop::collection::vec((".{0,4}", prop::option::of(inner)), 0..3).prop_map(|values| {
                let values = values
                    .into_iter()
                    .map(|(key, value)| KeyValue { key, value })
                    .collect();
                any_value::Value::KvlistValue(KeyValueList { values })
            }),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn key_values() -> impl Strategy<Value = Vec<KeyValue>> {
    prop::collection::vec((".{0,8}", prop::option::of(any_value())), 0..4).prop_map(|list| {
        list.into_iter()
            .map(|(key, value)| KeyValue { key, value })
            .collect()
    })
}

fn health() -> impl Strategy<Value = ComponentHealth> {
    let leaf = (any::<bool>(), any::<u64>(), ".{0,8}", key_values()).prop_map(
        |(healthy, start_time_unix_nano, status, attributes)| ComponentHealth {
            healthy,
            start_time_unix_nano,
            status,
            attributes,
            ..ComponentHealth::default()
        },
    );
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop::collection::btree_map(".{0,4}", inner, 0..3).prop_map(|component_health_map| {
            ComponentHealth {
                component_health_map,
                ..ComponentHealth::default()
            }
        })
    })
}

fn components() -> impl Strategy<Value = ComponentDetails> {
    let leaf = key_values().prop_map(|metadata| ComponentDetails {
        metadata,
        ..ComponentDetails::default()
    });
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop::collection::btree_map(".{0,4}", inner, 0..3).prop_map(|sub_component_map| {
            ComponentDetails {
                sub_component_map,
                ..ComponentDetails::default()
            }
        })
    })
}

fn config() -> impl Strategy<Value = EffectiveConfig> {
    prop::collection::btree_map(".{0,4}", any::<Vec<u8>>(), 0..3).prop_map(|files| {
        let object = |body| AgentConfigObject {
            body,
            content_type: "text/yaml".into(),
            role: String::new(),
        };
        let config_map = files
            .into_iter()
            .map(|(name, body)| (name, object(body)))
            .collect();
        EffectiveConfig {
            config_map: Some(AgentConfigMap { config_map }),
        }
    })
}

fn message() -> impl Strategy<Value = AgentToServer> {
    let parts = (
        prop::option::weighted(0.3, key_values()),
        prop::option::weighted(0.3, health()),
        prop::option::weighted(0.3, config()),
        prop::option::weighted(0.3, components()),
        prop::option::weighted(0.2, ".{0,9}"),
        prop::option::weighted(0.2, any::<Vec<u8>>()),
        any::<bool>(),
    );
    (
        any::<[u8; 16]>(),
        any::<u64>(),
        any::<u64>(),
        0u64..3,
        parts,
    )
        .prop_map(
            |(
                uid,
                sequence_num,
                capabilities,
                flags,
                (description, health, config, components, status, custom, leave),
            )| {
                AgentToServer {
                    instance_uid: uid.to_vec().into(),
                    sequence_num,
                    capabilities,
                    flags,
                    agent_description: description.map(|identifying_attributes| AgentDescription {
                        identifying_attributes,
                        non_identifying_attributes: Vec::new(),
                    }),
                    health,
                    effective_config: config,
                    available_components: components.map(|details| AvailableComponents {
                        components: [("receivers".to_owned(), details)].into(),
                        hash: vec![1],
                    }),
                    remote_config_status: status.map(|error_message| RemoteConfigStatus {
                        error_message,
                        ..RemoteConfigStatus::default()
                    }),
                    custom_message: custom.map(|data| CustomMessage {
                        data,
                        ..CustomMessage::default()
                    }),
                    agent_disconnect: (leave && capabilities % 3 == 0)
                        .then_some(AgentDisconnect {}),
                    ..AgentToServer::default()
                }
            },
        )
}

fn agrees(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(outline) = scan(bytes, &Limits::default()) else {
        return Ok(());
    };
    let decoded = AgentToServer::decode(bytes);
    prop_assert!(
        decoded.is_ok(),
        "the scanner let through what the decoder refuses: {decoded:?}"
    );
    let decoded = decoded.unwrap();
    prop_assert_eq!(&decoded.instance_uid[..], outline.instance_uid);
    prop_assert_eq!(decoded.sequence_num, outline.sequence_num);
    prop_assert_eq!(decoded.capabilities, outline.capabilities);
    prop_assert_eq!(decoded.agent_disconnect.is_some(), outline.disconnect);
    prop_assert_eq!(is_idle(&decoded, decoded.capabilities), outline.bare);
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_what_passes_decodes(bytes in any::<Vec<u8>>()) {
        agrees(&bytes)?;
    }

    #[test]
    fn valid_messages_within_the_limits_pass_and_agree_with_the_decoder(message in message()) {
        let bytes = message.encode_to_vec();
        prop_assert!(scan(&bytes, &Limits::default()).is_ok());
        agrees(&bytes)?;
    }

    #[test]
    fn damaged_messages_never_panic_and_what_passes_decodes(
        message in message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = message.encode_to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
        }
        agrees(&bytes)?;
    }
}

fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// A health tree of `depth` levels.
fn tree(depth: usize) -> Vec<u8> {
    let innermost = Vec::new();
    let root = (1..depth).fold(innermost, |inner, _| field(6, &field(2, &inner)));
    field(5, &root)
}

#[test]
fn health_of_32_levels_passes_and_one_more_is_refused_by_name() {
    let limits = Limits::default();
    assert!(scan(&tree(32), &limits).is_ok());
    assert!(AgentToServer::decode(&tree(32)[..]).is_ok());
    let refused = scan(&tree(33), &limits).unwrap_err();
    assert_eq!(refused, WireError::Depth(32));
    assert!(refused.to_string().contains("limit depth"));
    assert_eq!(scan(&tree(2000), &limits), Err(WireError::Depth(32)));
}

#[test]
fn the_deepest_attribute_that_passes_still_decodes() {
    let value = (1..32).fold(field(1, b"x"), |inner, _| {
        field(6, &field(1, &field(2, &inner)))
    });
    let bytes = field(3, &field(1, &field(2, &value)));
    assert!(scan(&bytes, &Limits::default()).is_ok());
    assert!(AgentToServer::decode(&bytes[..]).is_ok());
}

#[test]
fn fields_strings_and_entries_have_limits_that_are_named() {
    let limits = Limits {
        fields: 10,
        string_bytes: 4,
        map_entries: 3,
        ..Limits::default()
    };
    assert_eq!(
        scan(&field(99, b"").repeat(11), &limits),
        Err(WireError::Fields(10))
    );
    assert_eq!(
        scan(&field(5, &field(3, b"12345")), &limits),
        Err(WireError::String(4))
    );
    let entry = field(6, &field(1, b"k"));
    assert_eq!(
        scan(&field(5, &entry.repeat(4)), &limits),
        Err(WireError::Entries(3))
    );
    assert!(scan(&field(5, &entry.repeat(3)), &limits).is_ok());
}

#[test]
fn unknown_fields_and_bits_are_ignored_and_groups_are_not_read() {
    let mut bytes = AgentToServer {
        capabilities: 0x8000_0001,
        ..AgentToServer::default()
    }
    .encode_to_vec();
    bytes.extend(field(99, b"later"));
    assert!(scan(&bytes, &Limits::default()).unwrap().bare);
    assert_eq!(
        scan(&[0x0b, 0x0c], &Limits::default()),
        Err(WireError::Field)
    );
}
