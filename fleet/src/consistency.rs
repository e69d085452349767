//! Does what runs agree with what was sent, as far as redaction lets one tell?

use crate::value::Value;

/// The answer for one pair of configs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Everything that was sent and can be compared is there.
    Agrees,
    /// At least one thing that was sent is missing or different.
    Contradicts,
    /// Nothing could be compared.
    Unknown,
}

/// Looks for each leaf of `sent` in `effective`, both merged documents.
///
/// What cannot be compared is passed over: references that the collector resolves (`${…}`), and values that it
/// redacts. What the supervisor adds is no contradiction, and neither is what it changes by rule: it joins
/// `service.extensions` and owns `service.telemetry`.
///
/// Inside the section of a component a collector prints what it has decoded, not what it read: keys that it decodes by
/// itself are gone (`hostmetrics.scrapers`), shorthands are written out (`transform.log_statements`), words, numbers
/// and durations have their normal form. There a value has to differ in what it says; being absent, or of another
/// shape, says nothing.
pub fn compare(sent: &Value, effective: &Value) -> Consistency {
    let mut compared = 0usize;
    if !agrees(sent, Some(effective), &mut Vec::new(), &mut compared) {
        Consistency::Contradicts
    } else if compared == 0 {
        Consistency::Unknown
    } else {
        Consistency::Agrees
    }
}

fn agrees<'a>(
    sent: &'a Value,
    found: Option<&Value>,
    path: &mut Vec<&'a str>,
    compared: &mut usize,
) -> bool {
    if path.as_slice() == ["service", "telemetry"] {
        return true;
    }
    match (sent, found) {
        (Value::Map(map), Some(Value::Map(there))) => map.iter().all(|(key, value)| {
            path.push(key);
            let fine = match there.get(key) {
                // `nop:` may come back as nothing at all under its key, but the key has to be there.
                None => in_component(path),
                some => agrees(value, some, path, compared),
            };
            path.pop();
            fine
        }),
        (Value::Map(map), Some(Value::Null)) => map.is_empty() || in_component(path),
        (Value::Null, Some(_)) => {
            *compared += 1;
            true
        }
        (Value::List(list), Some(Value::List(there)))
            if path.as_slice() == ["service", "extensions"] =>
        {
            list.iter().all(|item| there.contains(item))
        }
        (Value::List(list), Some(Value::List(there)))
            if list.iter().chain(there).all(|item| scalar(item).is_some()) =>
        {
            list.len() == there.len()
                && list
                    .iter()
                    .zip(there)
                    .all(|(a, b)| agrees(a, Some(b), path, compared))
        }
        (sent, Some(found)) => {
            let (Some(sent), Some(found)) = (scalar(sent), scalar(found)) else {
                return in_component(path);
            };
            if sent.contains("${") || found.contains("REDACTED") {
                return true;
            }
            *compared += 1;
            sent == found || in_component(path) && normal(&sent) == normal(&found)
        }
        (_, None) => false,
    }
}

/// Whether this is the path of something inside one component: `receivers`, `otlp`, `protocols`, …
pub(crate) fn in_component(path: &[&str]) -> bool {
    path.len() > 2 && path[0] != "service"
}

/// How a collector prints a word, a number or a duration (`1m` as `1m0s`).
pub(crate) fn normal(text: &str) -> String {
    let number = text.parse::<f64>().ok().or_else(|| seconds(text));
    number.map_or_else(|| text.to_lowercase(), |number| number.to_string())
}

fn seconds(mut text: &str) -> Option<f64> {
    let mut total = 0.0;
    while !text.is_empty() {
        let digits = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let unit = text[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(text.len(), |at| digits + at);
        let scale = match &text[digits..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += text[..digits].parse::<f64>().ok()? * scale;
        text = &text[unit..];
    }
    Some(total)
}

pub(crate) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(b) => Some(b.to_string()),
        Value::Int(i) => Some(i.to_string()),
        Value::Float(f) => Some(format!("{f:?}")),
        Value::String(s) => Some(s.clone()),
        Value::Null | Value::List(_) | Value::Map(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, Value)]) -> Value {
        Value::Map(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
        )
    }

    fn text(s: &str) -> Value {
        Value::String(s.to_owned())
    }

    #[test]
    fn additions_of_the_supervisor_are_no_contradiction() {
        let sent = map(&[("receivers", map(&[("nop", Value::Null)]))]);
        let found = map(&[
            ("receivers", map(&[("nop", map(&[]))])),
            ("extensions", map(&[("opamp", Value::Null)])),
        ]);
        assert_eq!(compare(&sent, &found), Consistency::Agrees);
    }

    #[test]
    fn a_missing_or_different_value_contradicts() {
        let sent = map(&[("a", text("1")), ("b", text("x"))]);
        assert_eq!(
            compare(&sent, &map(&[("a", text("1"))])),
            Consistency::Contradicts
        );
        assert_eq!(
            compare(&sent, &map(&[("a", text("2")), ("b", text("x"))])),
            Consistency::Contradicts
        );
    }

    #[test]
    fn what_a_component_decodes_in_its_own_way_is_no_contradiction() {
        let component = |pairs: &[(&str, Value)]| map(&[("receivers", map(&[("x", map(pairs))]))]);
        let sent = component(&[
            ("scrapers", map(&[("load", Value::Null)])),
            ("log_statements", Value::List(vec![text("a"), text("b")])),
            ("interval", text("1m")),
            ("verbosity", text("detailed")),
            ("factor", text("2.0")),
        ]);
        let found = component(&[
            (
                "log_statements",
                Value::List(vec![map(&[("context", text("log"))])]),
            ),
            ("interval", text("1m0s")),
            ("verbosity", text("Detailed")),
            ("factor", Value::Int(2)),
        ]);
        assert_eq!(compare(&sent, &found), Consistency::Agrees);
        assert_eq!(
            compare(&sent, &component(&[("interval", text("2m"))])),
            Consistency::Contradicts
        );
        assert_eq!(
            compare(&sent, &map(&[("receivers", map(&[]))])),
            Consistency::Contradicts
        );
        let statements =
            |statement| component(&[("statements", Value::List(vec![text(statement)]))]);
        assert_eq!(
            compare(&statements("a"), &statements("b")),
            Consistency::Contradicts
        );
    }

    #[test]
    fn redacted_and_resolved_values_are_passed_over() {
        let sent = map(&[("key", text("secret")), ("url", text("${env:URL}"))]);
        let found = map(&[("key", text("[REDACTED]")), ("url", text("http://x"))]);
        assert_eq!(compare(&sent, &found), Consistency::Unknown);
    }
}
