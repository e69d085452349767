//! Redaction of what agents report, before it is stored: secrets become [`REDACTED`].
//!
//! What it is not: proof that nothing secret is left. It knows names and shapes; a secret under an innocent name, in a
//! shape of its own, passes. When in doubt it hides, since a hidden value costs a comparison and a shown one a rotation.
//!
//! The rules:
//! - **by key** (`keys`): password, secret, token, api key, credentials, authorization, cookie, connection string and
//!   their kin, in any spelling (`apiKey`, `API_KEY`, `api-key`), header names under `headers`, `{name, value}` pairs;
//!   a list or map under such a key is hidden leaf by leaf. Numbers are hidden only under the plain words (`password:
//!   123456`); booleans and nulls never.
//! - **by value** (`shapes`, `pairs`), under any key: private keys in PEM, AWS access key ids, JWTs, tokens with a
//!   vendor's prefix, `Bearer …`, `Basic …`, the password in a URL or DSN, `password=…` in connection strings, queries,
//!   headers and arguments; and long random tokens under keys that end with `key`.
//! - **what stays**: references (`${env:X}`, not the default in `${env:X:-default}`), names of files, types, ids and
//!   the like (`key_file`, `token_url`, `secret_name`), component ids, `auth: {authenticator: x}`, and the rules of
//!   the `redaction` processor, which name secrets but are none.
//!
//! Invariants: never panics; `redact` of something redacted changes nothing; only strings, numbers and keys change, the
//! shape of the tree stays.

use crate::value::{Map, Value};
use keys::Class;
use place::Place;

mod hide;
mod keys;
mod pairs;
mod place;
mod shapes;
mod text;

pub use text::redact_text;

/// What stands in the place of a secret; the collector's own `configopaque` writes the same.
pub const REDACTED: &str = "[REDACTED]";
/// What other software writes for a secret: Prometheus.
const FOREIGN_MARKER: &str = "<secret>";
/// Passes until a text has to be stable. Two are usual: one that changes it, one that finds nothing.
const PASSES_MAX: usize = 8;

/// Settings of the `redaction` processor that hold rules.
const RULE_KEYS: [&str; 10] = [
    "allowed_keys",
    "ignored_keys",
    "ignored_key_patterns",
    "blocked_key_patterns",
    "blocked_values",
    "allowed_values",
    "redact_keys",
    "hash_function",
    "url_sanitizer",
    "db_sanitizer",
];

/// The document without its secrets. Depth is bounded by the parser: this recurses.
pub fn redact(document: &Value) -> Value {
    match document {
        Value::String(text) => Value::String(redact_string(text, Class::Plain)),
        other => walk(other, &Place::root()),
    }
}

/// True if something in the text was redacted, here or by the agent.
pub fn is_marked(text: &str) -> bool {
    text.contains(REDACTED) || text.contains(FOREIGN_MARKER)
}

/// True if two texts, of which at least one is marked, can be the same text: what stands before the first marker and
/// behind the last agrees.
pub fn may_agree(one: &str, other: &str) -> bool {
    let ((head, tail), (other_head, other_tail)) = (visible(one), visible(other));
    (head.starts_with(other_head) || other_head.starts_with(head))
        && (tail.ends_with(other_tail) || other_tail.ends_with(tail))
}

/// The text before the first marker and behind the last; twice the whole text if there is none.
fn visible(text: &str) -> (&str, &str) {
    let markers = [REDACTED, FOREIGN_MARKER];
    let head = markers
        .iter()
        .filter_map(|marker| text.find(marker))
        .min()
        .unwrap_or(text.len());
    let tail = markers
        .iter()
        .filter_map(|marker| text.rfind(marker).map(|at| at + marker.len()))
        .max()
        .unwrap_or(0);
    (&text[..head], &text[tail..])
}

fn walk(node: &Value, place: &Place) -> Value {
    match node {
        Value::Map(map) => walk_map(map, place),
        Value::List(list) => {
            Value::List(list.iter().map(|item| walk(item, &place.item())).collect())
        }
        Value::String(text) => Value::String(redact_string(text, place.class())),
        Value::Int(_) | Value::Float(_) if place.hides_numbers() => Value::from(REDACTED),
        other => other.clone(),
    }
}

fn walk_map(map: &Map, place: &Place) -> Value {
    let mut redacted = Map::new();
    let named = name_of(map);
    let under = |key: &str, value: &Value| {
        if place.is_redaction_processor() && RULE_KEYS.contains(&key) {
            value.clone()
        } else if let Some(name) = named.filter(|_| is_value_key(key)) {
            walk(value, &place.key_named(key, name))
        } else {
            walk(value, &place.key(key))
        }
    };
    for (key, value) in map {
        let shown = shapes::redact_key(key);
        let mut value = under(key, value);
        // A key that was redacted itself may say more about its value than before: whoever reads it next sees that one.
        if shown != *key {
            value = under(&shown, &value);
        }
        redacted.insert(free_key(&redacted, shown), value);
    }
    Value::Map(redacted)
}

/// The name in a map that is a named value: `{name: x-api-key, value: …}`.
fn name_of(map: &Map) -> Option<&str> {
    let named = map.keys().any(|key| is_value_key(key));
    ["name", "key", "header"]
        .iter()
        .find_map(|key| map.get(*key)?.as_str())
        .filter(|_| named)
}

fn is_value_key(key: &str) -> bool {
    matches!(key, "value" | "values" | "default_value" | "string_value")
}

/// `key`, or with its place behind it if another key was redacted to the same text.
fn free_key(taken: &Map, key: String) -> String {
    let numbered = (taken.len() + 1..).map(|number| format!("{key} ({number})"));
    std::iter::once(key.clone())
        .chain(numbered)
        .find(|key| !taken.contains_key(key))
        .unwrap_or(key)
}

fn redact_string(text: &str, class: Class) -> String {
    if class == Class::Secret {
        return hide::hide(text);
    }
    settle(text, |text| {
        if text.contains('\n') {
            text::pass(text)
        } else {
            pass(text, class)
        }
    })
}

/// One pass over one line.
fn pass(text: &str, class: Class) -> String {
    let opaque = hide::opaque(text);
    let masked = hide::mask(text, &opaque);
    let mut found = shapes::find(&masked, class == Class::Connection);
    found.extend(pairs::find(&masked, pairs::Mode::Value));
    if shapes::is_secret_as_a_whole(&masked, class) {
        found.push(0..text.len());
    }
    hide::replace(text, &opaque, found)
}

/// Repeats `pass` until it finds nothing more, which makes redaction idempotent.
fn settle(text: &str, pass: impl Fn(&str) -> String) -> String {
    let mut settled = text.to_owned();
    for _ in 0..PASSES_MAX {
        let next = pass(&settled);
        if next == settled {
            return settled;
        }
        settled = next;
    }
    REDACTED.to_owned()
}

#[cfg(test)]
mod tests;
