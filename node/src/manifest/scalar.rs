//! Sizes, durations and flags as people write them.

use fleet::value::{Map, Value};
use fleet::waves::Size;

use super::reader::{Reader, join};

/// True or false; absent: false.
pub(super) fn flag(map: &Map, at: &str, key: &str, reader: &mut Reader) -> bool {
    match map.get(key) {
        None => false,
        Some(Value::Bool(flag)) => *flag,
        Some(_) => {
            reader.mistake(format!("{} is neither true nor false", join(at, key)));
            false
        }
    }
}

/// A count or a percentage; none: it is not given.
pub(super) fn limit(map: &Map, at: &str, key: &str, reader: &mut Reader) -> Option<Size> {
    let value = map.get(key)?;
    let limit = size(value);
    if limit.is_none() {
        reader.mistake(format!(
            "{} is no limit: use a count (1) or a percentage (1%)",
            join(at, key)
        ));
    }
    limit
}

/// Milliseconds; none: it is not given, or a mistake, which refuses the manifest in the end.
pub(super) fn duration(map: &Map, at: &str, key: &str, reader: &mut Reader) -> Option<u64> {
    let text = reader.optional(map, at, key)?;
    let ms = duration_ms(&text);
    if ms.is_none() {
        reader.mistake(format!(
            "{} is `{text}`: use a duration like 30s, 10m or 2h",
            join(at, key)
        ));
    }
    ms
}

/// `1` or `10%`.
pub(super) fn size(value: &Value) -> Option<Size> {
    match value {
        Value::Int(count) => u64::try_from(*count).ok().map(Size::Count),
        Value::String(text) => {
            let percent: f64 = text.trim().strip_suffix('%')?.trim().parse().ok()?;
            let milli = (percent * 1000.0).round();
            // The check of sizes refuses 0 and more than 100 % by name.
            (0.0..=1e9)
                .contains(&milli)
                .then_some(Size::Percent(milli as u32))
        }
        _ => None,
    }
}

/// `90s`, `10m`, `2h`, `500ms`, `1h30m`; a bare number is refused.
fn duration_ms(text: &str) -> Option<u64> {
    let mut total = 0u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let factor = match &rest[..unit] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = &rest[unit..];
    }
    Some(total)
}
