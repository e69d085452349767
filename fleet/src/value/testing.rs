//! Builders and strategies for the tests of this crate.

use super::{Float, Value};
use proptest::prelude::*;

pub(crate) fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(
        entries
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

pub(crate) fn list<const N: usize>(items: [Value; N]) -> Value {
    Value::List(items.into())
}

/// A list of strings.
pub(crate) fn names<const N: usize>(items: [&str; N]) -> Value {
    Value::List(items.into_iter().map(Value::from).collect())
}

/// Any tree, small in each direction, over few keys so that two trees have something in common.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-3_i64..3).prop_map(Value::Int),
        any::<f64>().prop_map(|value| Value::Float(Float::new(value))),
        "[a-c]{0,2}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::btree_map("[a-d]|service|extensions", inner, 0..4)
                .prop_map(Value::Map),
        ]
    })
}

/// Any tree whose root is a map, as a config has.
pub(crate) fn any_map() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]|service", any_value(), 0..5).prop_map(Value::Map)
}

/// Reads flow YAML of the plainest kind, for documents that are too large for the builders: `{a: 1, b: ["x", y]}`.
/// Bare words are strings unless they are integers, `true`, `false` or `null`; quoted text knows `\n`, `\"`, `\\`.
pub(crate) fn flow(text: &str) -> Value {
    let mut rest = text;
    let value = flow_value(&mut rest);
    assert_eq!(rest.trim(), "", "unread");
    value
}

fn flow_value(rest: &mut &str) -> Value {
    *rest = rest.trim_start();
    match rest.chars().next() {
        Some('{') => {
            let mut map = super::Map::new();
            flow_items(rest, '}', |rest| {
                let key = flow_text(rest);
                *rest = rest.trim_start().strip_prefix(':').unwrap();
                map.insert(key, flow_value(rest));
            });
            Value::Map(map)
        }
        Some('[') => {
            let mut list = Vec::new();
            flow_items(rest, ']', |rest| list.push(flow_value(rest)));
            Value::List(list)
        }
        Some('"') => Value::String(flow_text(rest)),
        _ => match flow_text(rest).as_str() {
            "null" | "" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            word => word.parse().map_or_else(|_| word.into(), Value::Int),
        },
    }
}

fn flow_items(rest: &mut &str, close: char, mut item: impl FnMut(&mut &str)) {
    *rest = &rest[1..];
    loop {
        *rest = rest.trim_start_matches([' ', '\n', ',']);
        if let Some(behind) = rest.strip_prefix(close) {
            *rest = behind;
            return;
        }
        item(rest);
    }
}

fn flow_text(rest: &mut &str) -> String {
    *rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('"') {
        let mut end = inner.find('"').unwrap();
        while inner[..end].ends_with('\\') {
            end += 1 + inner[end + 1..].find('"').unwrap();
        }
        *rest = &inner[end + 1..];
        return inner[..end]
            .replace("\\n", "\n")
            .replace("\\\"", "\"")
            .replace("\\\\", "\\");
    }
    let end = rest
        .char_indices()
        .find(|(at, c)| ",]}".contains(*c) || *c == ':' && rest[at + 1..].starts_with([' ', '\n']));
    let (text, behind) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
    *rest = behind;
    text.trim().to_owned()
}
