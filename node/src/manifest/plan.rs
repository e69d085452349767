//! `kind: Plan`.

use fleet::family::check_name;
use fleet::rollout::{Check, CheckSpec, Gate, OnStop, PlanSpec, WaveSpec};
use fleet::selector::Selector;
use fleet::value::{Map, Value};
use fleet::waves::Size;

use super::Manifest;
use super::reader::{Reader, join};

pub(super) fn plan(document: &Map, reader: &mut Reader) -> Option<Manifest> {
    let metadata = reader.field(document, "", "metadata");
    let spec = reader.field(document, "", "spec")?;
    let metadata = metadata?;
    reader.known(metadata, "metadata", &["name"]);
    reader.known(spec, "spec", &["waves", "onStop", "interleave"]);
    let name = reader.text(metadata, "metadata", "name")?;
    if let Err(error) = check_name("plan", &name) {
        reader.mistake(error.to_string());
    }
    let listed = reader.list(spec, "spec", "waves");
    let waves: Vec<Option<WaveSpec>> = listed
        .iter()
        .enumerate()
        .map(|(i, value)| wave(value, &format!("spec.waves[{i}]"), reader))
        .collect();
    let on_stop = match reader.optional(spec, "spec", "onStop").as_deref() {
        None => OnStop::Default,
        Some("hold") => OnStop::Hold,
        Some("roll back the wave" | "roll-back-wave") => OnStop::RollBackWave,
        Some("roll back all" | "roll-back-all") => OnStop::RollBackAll,
        Some(other) => {
            reader.mistake(format!(
                "spec.onStop is `{other}`: use `hold`, `roll back the wave` or `roll back all`"
            ));
            return None;
        }
    };
    let plan = PlanSpec {
        waves: waves.into_iter().collect::<Option<_>>()?,
        on_stop,
        interleave: flag(spec, "spec", "interleave", reader),
        urgent: false,
    };
    for error in plan.check() {
        reader.mistake(format!("spec.waves: {error}"));
    }
    Some(Manifest::Plan { name, spec: plan })
}

fn wave(value: &Value, at: &str, reader: &mut Reader) -> Option<WaveSpec> {
    let map = reader.map(value, at)?;
    reader.known(
        map,
        at,
        &[
            "size",
            "selector",
            "zone",
            "soak",
            "maxUnreachable",
            "unreachableWait",
            "deadline",
            "gate",
        ],
    );
    let Some(size) = map.get("size").and_then(size) else {
        reader.mistake(format!(
            "{} is no size: use a count (1) or a percentage (10%)",
            join(at, "size")
        ));
        return None;
    };
    let selector = match reader.optional(map, at, "selector") {
        None => None,
        Some(text) => match Selector::parse(&text) {
            Ok(selector) => Some(selector),
            Err(error) => {
                reader.mistake(format!("{}: {error}", join(at, "selector")));
                return None;
            }
        },
    };
    let gate = match map.get("gate") {
        None => Gate::default(),
        Some(value) => gate(value, &join(at, "gate"), reader)?,
    };
    Some(WaveSpec {
        size,
        selector,
        zone: reader.optional(map, at, "zone"),
        soak_ms: duration(map, at, "soak", reader).unwrap_or(0),
        max_in_flight: 0,
        max_unreachable: limit(map, at, "maxUnreachable", reader),
        unreachable_ms: duration(map, at, "unreachableWait", reader).unwrap_or(0),
        deadline_ms: duration(map, at, "deadline", reader),
        gate,
    })
}

fn gate(value: &Value, at: &str, reader: &mut Reader) -> Option<Gate> {
    let map = reader.map(value, at)?;
    reader.known(map, at, &["success", "maxFailures", "minSample", "checks"]);
    let mut gate = Gate::default();
    if let Some(value) = map.get("success") {
        match size(value) {
            Some(Size::Percent(percent)) if percent > 0 => gate.success = percent,
            _ => reader.mistake(format!(
                "{} is no percentage above 0: use one like 99%",
                join(at, "success")
            )),
        }
    }
    gate.max_failures = limit(map, at, "maxFailures", reader);
    match map.get("minSample") {
        None => {}
        Some(Value::Int(number)) if *number >= 0 => gate.min_sample = number.unsigned_abs(),
        Some(_) => reader.mistake(format!("{} is no count", join(at, "minSample"))),
    }
    if map.get("checks").is_some() {
        let listed = reader.list(map, at, "checks");
        let at = join(at, "checks");
        let checks = listed
            .iter()
            .enumerate()
            .filter_map(|(i, value)| check(value, &format!("{at}[{i}]"), reader));
        gate.checks = checks.collect();
    }
    Some(gate)
}

/// `{check: flow, observe: true}`; also `converged` alone.
fn check(value: &Value, at: &str, reader: &mut Reader) -> Option<CheckSpec> {
    let (kind, observe) = match value {
        Value::String(kind) => (kind.clone(), false),
        value => {
            let map = reader.map(value, at)?;
            reader.known(map, at, &["check", "observe"]);
            let kind = reader.text(map, at, "check")?;
            (kind, flag(map, at, "observe", reader))
        }
    };
    let check = match kind.as_str() {
        "converged" => Check::Converged,
        "healthy" => Check::Healthy,
        "no restart loop" => Check::NoRestartLoop,
        "flow" => Check::Flow,
        "resource regression" => Check::Resources,
        other => {
            reader.mistake(format!(
                "{at} is `{other}`: use one of converged, healthy, no restart loop, flow, resource regression"
            ));
            return None;
        }
    };
    Some(CheckSpec { check, observe })
}

fn flag(map: &Map, at: &str, key: &str, reader: &mut Reader) -> bool {
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
fn limit(map: &Map, at: &str, key: &str, reader: &mut Reader) -> Option<Size> {
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
fn duration(map: &Map, at: &str, key: &str, reader: &mut Reader) -> Option<u64> {
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

fn size(value: &Value) -> Option<Size> {
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

/// The largest unit that says it whole.
pub fn duration_text(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}
