//! How a supervisor merges config bodies: written from the reference, apart from the server's own code, so that each
//! is a check on the other.
//!
//! Names sorted with "" last; maps merge deeply; everything else is replaced, except that `service.extensions` is
//! the union.

use std::collections::BTreeMap;

use proto::opamp::AgentConfigObject;
use serde_json::{Map, Value};

/// The bodies in the order in which they are merged.
pub fn in_order(
    bodies: &BTreeMap<String, AgentConfigObject>,
) -> impl Iterator<Item = (&String, &AgentConfigObject)> {
    let named = bodies.iter().filter(|(name, _)| !name.is_empty());
    named.chain(bodies.iter().filter(|(name, _)| name.is_empty()))
}

/// A body as a tree; an empty body is an empty map.
pub fn parse(body: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    match serde_saphyr::from_str::<Value>(text).map_err(|error| error.to_string())? {
        Value::Null => Ok(Value::Object(Map::new())),
        map @ Value::Object(_) => Ok(map),
        other => Err(format!("expected a map, found {}", kind(&other))),
    }
}

/// `top` merged over `base`.
pub fn over(base: &mut Value, top: Value) {
    let union = union(extensions(base), extensions(&top));
    deep(base, top);
    if let (Some(union), Some(service)) = (
        union,
        base.get_mut("service").and_then(Value::as_object_mut),
    ) {
        service.insert("extensions".to_owned(), Value::Array(union));
    }
}

fn deep(base: &mut Value, top: Value) {
    match (base, top) {
        (Value::Object(base), Value::Object(top)) => {
            for (key, value) in top {
                deep(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, top) => *base = top,
    }
}

fn extensions(config: &Value) -> Option<Vec<Value>> {
    config
        .get("service")?
        .get("extensions")?
        .as_array()
        .cloned()
}

fn union(base: Option<Vec<Value>>, top: Option<Vec<Value>>) -> Option<Vec<Value>> {
    let mut all = base?;
    for extension in top? {
        if !all.contains(&extension) {
            all.push(extension);
        }
    }
    Some(all)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "a list",
        Value::String(_) => "a string",
        _ => "a scalar",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn maps_merge_lists_are_replaced_and_extensions_are_united() {
        let mut base =
            json!({ "a": { "x": 1, "l": [1, 2] }, "service": { "extensions": ["opamp"] } });
        over(
            &mut base,
            json!({ "a": { "y": 2, "l": [3] }, "service": { "extensions": ["zpages", "opamp"] } }),
        );
        let expected = json!({ "a": { "x": 1, "y": 2, "l": [3] }, "service": { "extensions": ["opamp", "zpages"] } });
        assert_eq!(base, expected);
    }

    #[test]
    fn the_nameless_body_is_merged_last() {
        let bodies = ["", "z", "a"]
            .map(|name| (name.to_owned(), AgentConfigObject::default()))
            .into();
        assert_eq!(
            in_order(&bodies)
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            ["a", "z", ""]
        );
    }
}
