//! `kind: Plan`.

use fleet::family::check_name;
use fleet::rollout::{Check, CheckSpec, Gate, OnStop, PlanSpec, WaveSpec};
use fleet::selector::Selector;
use fleet::value::{Map, Value};
use fleet::waves::Size;

use super::Manifest;
use super::reader::{Reader, join};
use super::scalar::{duration, flag, limit, size};
use crate::control::BUILT_IN_PLANS;

/// Keys of a check that asks somebody or something, with what is asked.
const ASKING: [&str; 3] = ["promql", "webhook", "person"];

pub(super) fn plan(document: &Map, reader: &mut Reader) -> Option<Manifest> {
    let metadata = reader.field(document, "", "metadata");
    let spec = reader.field(document, "", "spec")?;
    let metadata = metadata?;
    reader.known(metadata, "metadata", &["name"]);
    reader.known(spec, "spec", &["waves", "onStop", "interleave", "urgent"]);
    let name = reader.text(metadata, "metadata", "name")?;
    if let Err(error) = check_name("plan", &name) {
        reader.mistake(error.to_string());
    }
    if BUILT_IN_PLANS.contains(&name.as_str()) {
        reader.mistake(format!(
            "plan `{name}` is built in and cannot be changed: give yours another name"
        ));
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
        urgent: flag(spec, "spec", "urgent", reader),
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
            "maxInFlight",
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
        max_in_flight: in_flight(map, at, reader),
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

/// Offers without an outcome at any time; 0: no limit, which is written by leaving it out.
fn in_flight(map: &Map, at: &str, reader: &mut Reader) -> u32 {
    let Some(value) = map.get("maxInFlight") else {
        return 0;
    };
    let count = match value {
        Value::Int(count) => u32::try_from(*count).ok().filter(|count| *count > 0),
        _ => None,
    };
    count.unwrap_or_else(|| {
        reader.mistake(format!(
            "{} is no count of at least 1: leave it out for no limit",
            join(at, "maxInFlight")
        ));
        0
    })
}

/// `converged` alone, `{check: flow, observe: true}`, or `{promql: EXPR}`.
fn check(value: &Value, at: &str, reader: &mut Reader) -> Option<CheckSpec> {
    let Value::Map(map) = value else {
        let check = word(&reader.word(value, at)?, at, reader)?;
        return Some(CheckSpec {
            check,
            observe: false,
        });
    };
    let keys = ["check", ASKING[0], ASKING[1], ASKING[2]];
    reader.known(map, at, &[&keys[..], &["observe"]].concat());
    let given: Vec<&str> = keys
        .into_iter()
        .filter(|key| map.contains_key(*key))
        .collect();
    let [key] = given.as_slice() else {
        reader.mistake(format!(
            "{at} has {} of {}: give it exactly one",
            given.len(),
            keys.join(", ")
        ));
        return None;
    };
    let text = reader.text(map, at, key)?;
    let check = match *key {
        "promql" => Check::PromQl(text),
        "webhook" => {
            if !text.trim().is_empty() && !is_web(&text) {
                reader.mistake(format!(
                    "{} is `{text}`: use a URL that begins with http:// or https:// and names a host",
                    join(at, key)
                ));
            }
            Check::Webhook(text)
        }
        "person" => Check::Person(text),
        _ => word(&text, at, reader)?,
    };
    Some(CheckSpec {
        check,
        observe: flag(map, at, "observe", reader),
    })
}

/// A check that is named by its word alone.
fn word(word: &str, at: &str, reader: &mut Reader) -> Option<Check> {
    Some(match word {
        "converged" => Check::Converged,
        "healthy" => Check::Healthy,
        "no restart loop" => Check::NoRestartLoop,
        "flow" => Check::Flow,
        "resource regression" => Check::Resources,
        other if ASKING.contains(&other) => {
            reader.mistake(format!(
                "{at} is `{other}`, which asks for something: write {{{other}: …}}"
            ));
            return None;
        }
        other => {
            reader.mistake(format!(
                "{at} is `{other}`: use one of converged, healthy, no restart loop, flow, resource regression, \
                 or {{promql: EXPR}}, {{webhook: URL}}, {{person: WHO}}"
            ));
            return None;
        }
    })
}

fn is_web(url: &str) -> bool {
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with(['/', '?', '#', ':'])
            && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

/// `1`, `10%`.
pub fn size_text(size: Size) -> String {
    match size {
        Size::Count(count) => count.to_string(),
        Size::Percent(percent) => format!("{}%", f64::from(percent) / 1000.0),
    }
}
