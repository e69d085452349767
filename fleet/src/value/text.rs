//! A value as one line of flow YAML, for messages and diffs. Reads back as the same value.

use super::{Map, Value};
use std::fmt::{self, Write};

/// Words that YAML 1.1 or 1.2 readers take for something other than a string.
const WORDS: [&str; 12] = [
    "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf", "~",
];

/// Writes `value` in flow style.
pub(super) fn write(value: &Value, f: &mut impl Write) -> fmt::Result {
    match value {
        Value::Null => f.write_str("null"),
        Value::Bool(value) => write!(f, "{value}"),
        Value::Int(value) => write!(f, "{value}"),
        Value::Float(value) => write_float(value.get(), f),
        Value::String(text) => write_string(text, f),
        Value::List(list) => write_list(list, f),
        Value::Map(map) => write_map(map, f),
    }
}

fn write_list(list: &[Value], f: &mut impl Write) -> fmt::Result {
    f.write_char('[')?;
    for (at, item) in list.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { ", " })?;
        write(item, f)?;
    }
    f.write_char(']')
}

fn write_map(map: &Map, f: &mut impl Write) -> fmt::Result {
    f.write_char('{')?;
    for (at, (key, item)) in map.iter().enumerate() {
        f.write_str(if at == 0 { "" } else { ", " })?;
        write_string(key, f)?;
        f.write_str(": ")?;
        write(item, f)?;
    }
    f.write_char('}')
}

fn write_float(value: f64, f: &mut impl Write) -> fmt::Result {
    match value {
        _ if value.is_nan() => f.write_str(".nan"),
        f64::INFINITY => f.write_str(".inf"),
        f64::NEG_INFINITY => f.write_str("-.inf"),
        _ => write!(f, "{value:?}"),
    }
}

fn write_string(text: &str, f: &mut impl Write) -> fmt::Result {
    if is_plain(text) {
        return f.write_str(text);
    }
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control()
                || matches!(
                    c,
                    '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
                ) =>
            {
                write!(f, "\\u{:04x}", u32::from(c))?;
            }
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// True if the text can stand without quotes and still be read as a string.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{list, map};
    use super::super::{Float, Value};

    #[test]
    fn strings_that_read_as_something_else_are_quoted() {
        let value =
            list(["otlp/a", "true", "1", "", "a b", "a\"b\n", "[REDACTED]"].map(Value::from));
        assert_eq!(
            value.to_string(),
            r#"[otlp/a, "true", "1", "", "a b", "a\"b\n", "[REDACTED]"]"#
        );
    }

    #[test]
    fn a_map_is_one_line() {
        let value = map([
            ("b", Value::Float(Float::new(1.0))),
            ("a", list([Value::Null, Value::Bool(true)])),
        ]);
        assert_eq!(value.to_string(), "{a: [null, true], b: 1.0}");
    }
}
