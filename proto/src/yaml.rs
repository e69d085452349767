//! YAML text ↔ `fleet`'s values, for config bodies and manifests. JSON is YAML, so it is read too.
//!
//! What it is not: a validator of configs, nor faithful to the text: comments, anchors and key order are lost.
//!
//! Scalars are read as the collector's own reader (Go's yaml.v3) reads them: `yes` and `on` are strings, `0755` is
//! octal, `<<` merges. Keys that are no strings become their text. Integers beyond 64 bits signed stay exact as text.
//!
//! Invariants: what is read is at most 64 deep and as large as a small multiple of 1 MiB, aliases included; a key comes
//! once per map; no message quotes a value, which may be a secret; `parse(to_yaml(v)) == v` for every value
//! whose floats are finite.

use fleet::value::{Float, Map, Value};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Options;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use std::fmt;

/// Longest text, in bytes: no collector config that people maintain is longer, and stored bodies end here too.
pub const TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Deepest nesting of lists and maps; functions over values recurse.
pub const DEPTH_MAX: usize = 64;
/// All scalars together after aliases are replayed, in bytes: what an alias bomb can blow a text up to.
const SCALAR_BYTES_MAX: usize = 4 * 1024 * 1024;
/// All lists, maps and scalars after aliases are replayed. A text of 1 MiB without aliases has at most half as many.
const NODES_MAX: usize = 1024 * 1024;
/// Events replayed for aliases and merge keys.
const REPLAYED_MAX: usize = 100_000;
/// Documents of one text.
const DOCUMENTS_MAX: usize = 1024;

/// The text cannot be read. No message quotes a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the text has {bytes} bytes, at most {TEXT_BYTES_MAX} are read: split it")]
    TooLarge { bytes: usize },
    /// Line and column count from 1.
    #[error("line {line}, column {column}: {message}")]
    At {
        line: u64,
        column: u64,
        message: String,
    },
    #[error("{message}")]
    Nowhere { message: String },
    #[error("the text has {documents} YAML documents where one is expected: remove the others")]
    Documents { documents: usize },
}

/// Reads one document; an empty text is [`Value::Null`].
///
/// # Errors
///
/// [`Error`], also for a text with more than one document, a repeated key, or beyond the limits.
pub fn parse(text: &str) -> Result<Value, Error> {
    let mut documents = parse_all(text)?;
    match documents.len() {
        0 | 1 => Ok(documents.pop().unwrap_or_default()),
        documents => Err(Error::Documents { documents }),
    }
}

/// Reads all documents, in order. Empty ones are left out.
///
/// # Errors
///
/// [`Error`], also for a repeated key, or beyond the limits.
pub fn parse_all(text: &str) -> Result<Vec<Value>, Error> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Error::TooLarge { bytes: text.len() });
    }
    let documents: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options())
        .map_err(|error| Error::of(&error))?;
    Ok(documents.into_iter().map(|Node(value)| value).collect())
}

/// The value as block YAML with sorted keys: the same text for equal values, which ends with a newline.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            flow_nesting_limit: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_events: 3 * NODES_MAX,
            max_total_scalar_bytes: SCALAR_BYTES_MAX,
            max_recorded_anchor_bytes: SCALAR_BYTES_MAX,
            max_documents: DOCUMENTS_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPLAYED_MAX,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        emit_comments: false,
        with_snippet: false,
    }
}

impl Error {
    fn of(error: &serde_saphyr::Error) -> Self {
        let message = error.without_snippet().to_string();
        let Some(place) = error.location().filter(|place| place.line() > 0) else {
            return Self::Nowhere { message };
        };
        let (line, column) = (place.line(), place.column());
        let repeated = format!(" at line {line}, column {column}");
        Self::At {
            line,
            column,
            message: message
                .strip_suffix(&repeated)
                .unwrap_or(&message)
                .to_owned(),
        }
    }
}

/// A value as serde builds it.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor).map(Self)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::String(value.to_string()), Value::Int))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::String(value.to_string()), Value::Int))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or_else(|_| Value::String(value.to_string()), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(Float::new(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Node(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            let Node(value) = entries.next_value()?;
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom(
                    "a key comes twice in this map (once perhaps as another type): remove one",
                ));
            }
        }
        Ok(Value::Map(map))
    }
}

/// A map key as its text; a null key is `null`.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<String>::deserialize(deserializer)
            .map(|key| Self(key.unwrap_or_else(|| "null".to_owned())))
    }
}

/// Writes `value` as lines indented by `indent`. Scalars and empty containers are one line of flow style.
fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Map(map) if !map.is_empty() => {
            for (key, value) in map {
                text.extend(std::iter::repeat_n(' ', indent));
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                child(value, indent, text);
            }
        }
        Value::List(list) if !list.is_empty() => {
            for value in list {
                text.extend(std::iter::repeat_n(' ', indent));
                text.push('-');
                child(value, indent, text);
            }
        }
        value => {
            text.extend(std::iter::repeat_n(' ', indent));
            text.push_str(&value.to_string());
            text.push('\n');
        }
    }
}

fn child(value: &Value, indent: usize, text: &mut String) {
    let nested = match value {
        Value::Map(map) => !map.is_empty(),
        Value::List(list) => !list.is_empty(),
        _ => false,
    };
    if nested {
        text.push('\n');
        block(value, indent + 2, text);
    } else {
        text.push(' ');
        block(value, 0, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(text: &str) -> String {
        parse(text).unwrap().to_string()
    }

    #[test]
    fn scalars_are_read_as_the_collector_reads_them() {
        assert_eq!(
            flow("[yes, on, true, ~, 0755, 0x10, 1_000, 1.50, .nan, 30s, 2026-11-22, \"1\"]"),
            r#"["yes", "on", true, null, 493, 16, 1000, 1.5, .nan, "30s", "2026-11-22", "1"]"#
        );
        assert_eq!(
            flow("[18446744073709551615, -9223372036854775808]"),
            r#"["18446744073709551615", -9223372036854775808]"#
        );
    }

    #[test]
    fn keys_become_text_and_merge_keys_are_expanded() {
        assert_eq!(
            flow("{1: a, true: b, ~: c, 8.5: d}"),
            r#"{"1": a, "8.5": d, "null": c, "true": b}"#
        );
        assert_eq!(
            flow("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}"),
            r#"{a: {x: 1, "y": 2}, b: {x: 1, "y": 3}}"#
        );
    }

    #[test]
    fn a_repeated_key_is_an_error_with_its_place() {
        let Err(Error::At { line, column, .. }) = parse("a: 1\nb: 2\na: 3\n") else {
            panic!("no place")
        };
        assert_eq!((line, column), (3, 1));
        assert!(parse("1: a\n\"1\": b").is_err());
    }

    #[test]
    fn a_syntax_error_has_a_place_and_does_not_quote_the_text() {
        let error = parse("exporters:\n  x: {password: hunter2\n").unwrap_err();
        assert!(matches!(error, Error::At { line: 2.., .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn an_empty_text_is_null_and_two_documents_are_one_too_many() {
        for text in ["", "\n# nothing\n", "---\n"] {
            assert_eq!(parse(text), Ok(Value::Null), "{text:?}");
        }
        assert_eq!(
            parse("a: 1\n---\nb: 2\n"),
            Err(Error::Documents { documents: 2 })
        );
        assert_eq!(parse_all("a: 1\n---\n---\nb: 2\n").unwrap().len(), 2);
    }

    #[test]
    fn depth_is_limited_in_either_style_and_behind_aliases() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(parse(&nested(DEPTH_MAX)).unwrap().depth(), DEPTH_MAX);
        assert!(parse(&nested(DEPTH_MAX + 1)).is_err());
        let block: String = (0..DEPTH_MAX + 1)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect();
        assert!(parse(&block).is_err());
        let chained = format!(
            "a: &a {0}1{1}\nb: &b {0}*a {1}\nc: {0}*b {1}\n",
            "[".repeat(30),
            "]".repeat(30)
        );
        assert!(parse(&chained).is_err());
    }

    #[test]
    fn alias_bombs_are_refused() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
            laughs += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert!(parse(&laughs).is_err());
        let long = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(500_000),
            vec!["*a"; 100_000].join(", ")
        );
        assert!(parse(&long).is_err());
        assert!(parse("a: &a [*a]").is_err());
    }

    #[test]
    fn a_text_beyond_the_limit_is_refused_by_size() {
        let text = format!("a: {}", "x".repeat(TEXT_BYTES_MAX));
        assert_eq!(
            parse(&text),
            Err(Error::TooLarge {
                bytes: TEXT_BYTES_MAX + 3
            })
        );
        assert!(parse(&format!("a: [{}]", "1,".repeat(500_000))).is_ok());
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = "a:\n  - {b: [], c: {}, \"\": \"x\\ty\\n# z\"}\n  - [1, [2, \"~\"]]\nd: -0.0\n\"- e\": \"it's: é \\u2028 \\x7f \\uffff\"\nn: ~\n";
        let value = parse(text).unwrap();
        let written = to_yaml(&value);
        assert_eq!(parse(&written).unwrap(), value, "{written}");
        assert_eq!(to_yaml(&parse(&written).unwrap()), written);
        assert_eq!(
            to_yaml(&parse("b: {y: [1, {k: ~}]}\na: []").unwrap()),
            "a: []\nb:\n  \"y\":\n    - 1\n    -\n      k: null\n"
        );
    }

    #[test]
    fn a_value_on_one_line_reads_back_too() {
        let value =
            parse("a: [1.0, 1e300, .inf, null, \"null\", {b c: /d}, \"\\u0001\\\\\"]").unwrap();
        assert_eq!(parse(&value.to_string()).unwrap(), value);
    }
}
