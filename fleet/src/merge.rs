//! How a supervisor merges the bodies of a config map into the one config that its collector gets.
//!
//! What it is not: the supervisor's whole composition. Own telemetry, local files and the opamp extension come before the
//! remote config; [`over`] merges them one step at a time where they are known. References (`${env:X}`) stay as they are:
//! the collector resolves them.
//!
//! The rules, as the supervisor's `confmap.go` has them (reference: opamp.md §3.4):
//! - bodies by name, sorted by bytes, except that "" comes last and so wins;
//! - maps merge deeply; everything else is replaced, lists too, and a null replaces a map;
//! - `service.extensions` is the union, the earlier ones first, so that no body can drop one;
//! - an empty body is an empty map; any other body that is no map makes the supervisor refuse the whole config.

use crate::value::{Map, Value};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "config body {name:?} is {found}, but a supervisor accepts only maps: it would report FAILED at once"
    )]
    NotAMap { name: String, found: &'static str },
}

/// The merged config of a config map, given as name → parsed body. No bodies give an empty map.
///
/// # Errors
///
/// [`Error::NotAMap`] for the first body, in merge order, whose root is neither a map nor empty.
pub fn merge(bodies: &BTreeMap<String, Value>) -> Result<Value, Error> {
    let mut merged = Map::new();
    for name in order(bodies.keys().map(String::as_str)) {
        match &bodies[name] {
            Value::Null => {}
            Value::Map(body) => merged = over(merged, body),
            other => {
                return Err(Error::NotAMap {
                    name: name.to_owned(),
                    found: other.kind(),
                });
            }
        }
    }
    Ok(Value::Map(merged))
}

/// The order in which bodies are merged: sorted, "" last.
pub fn order<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable_by_key(|name| (name.is_empty(), *name));
    names
}

/// `top` merged over `base`.
pub fn over(base: Map, top: &Map) -> Map {
    let extensions = union(extensions(&base), extensions(top));
    let mut merged = deep(base, top);
    if let (Some(extensions), Some(Value::Map(service))) = (extensions, merged.get_mut("service")) {
        service.insert("extensions".to_owned(), Value::List(extensions));
    }
    merged
}

fn deep(mut base: Map, top: &Map) -> Map {
    for (key, upper) in top {
        let merged = match (base.remove(key), upper) {
            (Some(Value::Map(lower)), Value::Map(upper)) => Value::Map(deep(lower, upper)),
            _ => upper.clone(),
        };
        base.insert(key.clone(), merged);
    }
    base
}

fn extensions(config: &Map) -> Option<Vec<Value>> {
    config
        .get("service")?
        .as_map()?
        .get("extensions")?
        .as_list()
        .map(<[Value]>::to_vec)
}

/// The union where both sides have a list; where only one has, the plain merge has done what is right.
fn union(base: Option<Vec<Value>>, top: Option<Vec<Value>>) -> Option<Vec<Value>> {
    let mut all = base?;
    for extension in top? {
        if !all.contains(&extension) {
            all.push(extension);
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::testing::{any_map, list, map, names};
    use proptest::prelude::*;

    fn bodies<const N: usize>(entries: [(&str, Value); N]) -> BTreeMap<String, Value> {
        entries
            .into_iter()
            .map(|(name, body)| (name.to_owned(), body))
            .collect()
    }

    #[test]
    fn the_empty_name_comes_last_and_wins() {
        let merged = merge(&bodies([
            ("", map([("a", Value::Int(0))])),
            ("b", map([("a", Value::Int(2)), ("b", Value::Int(2))])),
            ("a", map([("b", Value::Int(1))])),
        ]));
        assert_eq!(
            merged,
            Ok(map([("a", Value::Int(0)), ("b", Value::Int(2))]))
        );
    }

    #[test]
    fn maps_merge_and_lists_are_replaced() {
        let merged = merge(&bodies([
            (
                "1",
                map([("p", map([("x", names(["a"])), ("y", Value::Int(1))]))]),
            ),
            ("2", map([("p", map([("x", names(["b"]))]))])),
        ]));
        assert_eq!(
            merged,
            Ok(map([(
                "p",
                map([("x", names(["b"])), ("y", Value::Int(1))])
            )]))
        );
    }

    #[test]
    fn a_null_replaces_a_map() {
        let merged = merge(&bodies([
            ("1", map([("p", map([]))])),
            ("2", map([("p", Value::Null)])),
        ]));
        assert_eq!(merged, Ok(map([("p", Value::Null)])));
    }

    #[test]
    fn service_extensions_are_united() {
        let service = |extensions| map([("service", map([("extensions", extensions)]))]);
        let merged = merge(&bodies([
            ("1", service(names(["opamp", "zpages"]))),
            ("2", service(names(["pprof", "opamp"]))),
        ]));
        assert_eq!(merged, Ok(service(names(["opamp", "zpages", "pprof"]))));
    }

    #[test]
    fn an_empty_body_counts_as_an_empty_map_and_a_list_is_refused() {
        assert_eq!(merge(&bodies([("1", Value::Null)])), Ok(map([])));
        let refused = merge(&bodies([("x", list([]))]));
        assert_eq!(
            refused,
            Err(Error::NotAMap {
                name: "x".into(),
                found: "a list"
            })
        );
    }

    proptest! {
        #[test]
        fn merging_a_config_over_itself_changes_nothing(a in any_map()) {
            let Value::Map(a) = a else { return Ok(()) };
            let once = over(a.clone(), &a);
            prop_assert_eq!(over(once.clone(), &a), once);
        }

        #[test]
        fn the_last_body_is_in_the_result(a in any_map(), b in any_map()) {
            let (Value::Map(a), Value::Map(b)) = (a, b) else { return Ok(()) };
            let merged = Value::Map(over(a, &b));
            for (path, leaf) in Value::Map(b).leaves() {
                let extension = path.to_string().starts_with("service.extensions");
                prop_assert!(extension || !leaf.is_container() && merged.get(&path) == Some(leaf)
                    || leaf.is_container() && merged.get(&path).is_some());
            }
        }
    }
}
