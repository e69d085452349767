//! `kind: Plan`.

use fleet::family::check_name;
use fleet::rollout::{Gate, OnStop, PlanSpec, WaveSpec};
use fleet::value::{Map, Value};
use fleet::waves::{self, Size};

use super::Manifest;
use super::reader::{Reader, join};

const WAVES_MAX: usize = 32;

pub(super) fn plan(document: &Map, reader: &mut Reader) -> Option<Manifest> {
    let metadata = reader.field(document, "", "metadata");
    let spec = reader.field(document, "", "spec")?;
    let metadata = metadata?;
    reader.known(metadata, "metadata", &["name"]);
    reader.known(spec, "spec", &["waves", "onStop"]);
    let name = reader.text(metadata, "metadata", "name")?;
    if let Err(error) = check_name("plan", &name) {
        reader.mistake(error.to_string());
    }
    let listed = reader.list(spec, "spec", "waves");
    let sizes: Vec<Size> = listed
        .iter()
        .filter_map(|wave| size(wave.as_map()?.get("size")?))
        .collect();
    if let Err(error) = waves::check(&sizes) {
        reader.mistake(error.to_string());
    }
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
    let waves: Vec<WaveSpec> = waves.into_iter().collect::<Option<_>>()?;
    if waves.is_empty() || waves.len() > WAVES_MAX {
        reader.mistake(format!(
            "spec.waves has {} waves: give 1 to {WAVES_MAX}",
            waves.len()
        ));
        return None;
    }
    Some(Manifest::Plan {
        name,
        spec: PlanSpec { waves, on_stop },
    })
}

fn wave(value: &Value, at: &str, reader: &mut Reader) -> Option<WaveSpec> {
    let map = reader.map(value, at)?;
    reader.known(map, at, &["size", "soak", "gate"]);
    let Some(size) = map.get("size").and_then(size) else {
        reader.mistake(format!(
            "{} is no size: use a count (1) or a percentage (10%)",
            join(at, "size")
        ));
        return None;
    };
    let soak_ms = match reader.optional(map, at, "soak") {
        None => 0,
        Some(text) => match duration_ms(&text) {
            Some(ms) => ms,
            None => {
                reader.mistake(format!(
                    "{} is `{text}`: use a duration like 30s, 10m or 2h",
                    join(at, "soak")
                ));
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
        soak_ms,
        max_in_flight: 0,
        gate,
    })
}

fn gate(value: &Value, at: &str, reader: &mut Reader) -> Option<Gate> {
    let map = reader.map(value, at)?;
    reader.known(map, at, &["success", "maxFailures", "minSample"]);
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
    if let Some(value) = map.get("maxFailures") {
        gate.max_failures = size(value);
        if gate.max_failures.is_none() {
            reader.mistake(format!(
                "{} is no limit: use a count (1) or a percentage (1%)",
                join(at, "maxFailures")
            ));
        }
    }
    match map.get("minSample") {
        None => {}
        Some(Value::Int(number)) if *number >= 0 => gate.min_sample = number.unsigned_abs(),
        Some(_) => reader.mistake(format!("{} is no count", join(at, "minSample"))),
    }
    Some(gate)
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
