//! Manifests as files again: what a person would commit so that a source says the same.
//!
//! What it is not: the author's text. Keys are sorted, comments are gone, and keys that say the default are left out.

use std::collections::{BTreeMap, BTreeSet};

use fleet::budget::Budget;
use fleet::components;
use fleet::drift;
use fleet::family::{ConfigMap, Role};
use fleet::program::OwnerChange;
use fleet::rollout::{Check, CheckSpec, Gate, OnStop, PlanSpec, WaveSpec};
use fleet::validate::{Policy, Rule};
use fleet::value::{Map, Value};
use fleet::waves::Size;

use super::family::CONFIG_NAME;
use super::plan::size_text;
use super::{FamilySpec, Manifest, duration_text};
use crate::control::{BUDGET_KEY, Settings};

/// Lines of a patch around a change.
const CONTEXT: usize = 3;

/// By relative path: the manifest, and the configs that it names.
pub fn files(manifest: &Manifest) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let (kind, name, owner, spec) = match manifest {
        Manifest::Family(spec) => {
            let fields = family(spec, &mut files);
            ("Family", spec.name.as_str(), spec.owner.as_str(), fields)
        }
        Manifest::Plan { name, spec } => ("Plan", name.as_str(), "", plan(spec)),
        Manifest::Budget(spec) => ("Budget", BUDGET_KEY, "", budget(spec)),
    };
    let mut metadata = map([("name", text(name))]);
    if !owner.is_empty() {
        metadata.insert("owner".to_owned(), text(owner));
    }
    let document = map([
        ("apiVersion", text("muster/v1")),
        ("kind", text(kind)),
        ("metadata", Value::Map(metadata)),
        ("spec", Value::Map(spec)),
    ]);
    let body = proto::yaml::to_yaml(&Value::Map(document));
    let path = format!("{}/{name}.yaml", kind.to_lowercase());
    files.insert(path, body);
    files
}

/// The way from one manifest to another as a unified diff of their files; empty: they say the same.
pub fn patch(before: &Manifest, after: &Manifest) -> String {
    let (before, after) = (files(before), files(after));
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let mut patch = String::new();
    for path in paths {
        let body = |files: &BTreeMap<String, String>| files.get(path).cloned().unwrap_or_default();
        let (old, new) = (body(&before), body(&after));
        let diff = similar::TextDiff::from_lines(&old, &new)
            .unified_diff()
            .context_radius(CONTEXT)
            .header(&format!("a/{path}"), &format!("b/{path}"))
            .to_string();
        patch.push_str(&diff);
    }
    patch
}

fn family(spec: &FamilySpec, files: &mut BTreeMap<String, String>) -> Map {
    let FamilySpec {
        name,
        owner: _,
        precedence,
        roles,
        policies,
        approvals,
        settings,
    } = spec;
    let roles = roles.iter().map(|r| role(name, r, files)).collect();
    let mut fields = map([
        ("precedence", Value::Int(*precedence)),
        ("roles", Value::List(roles)),
    ]);
    if !policies.is_empty() {
        let policies = policies.iter().map(policy).collect();
        fields.insert("policies".to_owned(), Value::List(policies));
    }
    if *approvals > 0 {
        fields.insert("approvals".to_owned(), Value::Int(i64::from(*approvals)));
    }
    fields.extend(settings_fields(settings));
    fields
}

fn settings_fields(settings: &Settings) -> Map {
    let Settings {
        owner_change,
        drift,
        versions,
        missing,
    } = settings;
    let mut fields = Map::new();
    if *owner_change == OwnerChange::Auto {
        fields.insert("ownerChange".to_owned(), text("auto"));
    }
    if *drift == drift::Policy::ReOffer {
        fields.insert("drift".to_owned(), text("re-offer"));
    }
    if *missing == components::Policy::Block {
        fields.insert("missingComponents".to_owned(), text("block"));
    }
    let mut range = Map::new();
    let ends = [("from", &versions.from), ("below", &versions.below)];
    for (key, version) in ends {
        if let Some(version) = version {
            range.insert(key.to_owned(), text(&version.to_string()));
        }
    }
    if let Some(behind) = versions.behind_max {
        range.insert("behind".to_owned(), count(behind));
    }
    if !range.is_empty() {
        fields.insert("versions".to_owned(), Value::Map(range));
    }
    fields
}

fn role(family: &str, role: &Role, files: &mut BTreeMap<String, String>) -> Value {
    let Role {
        name,
        selector,
        after,
        config,
        baseline,
    } = role;
    let mut fields = map([
        ("name", text(name)),
        ("selector", text(&selector.to_string())),
    ]);
    if !after.is_empty() {
        let after = after.iter().map(|role| text(role)).collect();
        fields.insert("after".to_owned(), Value::List(after));
    }
    for (key, config) in [("config", config), ("baseline", baseline)] {
        fields.extend(body(&format!("{family}/{name}"), key, config, files));
    }
    Value::Map(fields)
}

/// One file under the usual name stands beside the manifest; several stand in it, as they have no other form.
fn body(
    folder: &str,
    key: &str,
    config: &ConfigMap,
    files: &mut BTreeMap<String, String>,
) -> Option<(String, Value)> {
    if config.is_empty() {
        return None;
    }
    if let (1, Some(file)) = (config.len(), config.get(CONFIG_NAME)) {
        // The manifest's path is `family/NAME.yaml`, and files are read relative to it.
        let path = format!("{folder}/{key}.yaml");
        files.insert(format!("family/{path}"), file.body.clone());
        return Some((format!("{key}File"), text(&path)));
    }
    let named = config
        .iter()
        .map(|(name, file)| (name.clone(), text(&file.body)));
    Some((key.to_owned(), Value::Map(named.collect())))
}

fn policy(policy: &Policy) -> Value {
    let Policy { rule, only } = policy;
    let (key, rule) = match rule {
        Rule::RequireProcessor {
            pipeline,
            processor,
        } => {
            let rule = map([("pipeline", text(pipeline)), ("processor", text(processor))]);
            ("require", rule)
        }
        Rule::ForbidComponent { kind, component } => {
            let kind = text(&kind.to_string());
            (
                "forbid",
                map([("kind", kind), ("component", text(component))]),
            )
        }
    };
    let only = only.as_ref().map(|only| text(&only.to_string()));
    given([(key, Some(Value::Map(rule))), ("where", only)])
}

fn plan(spec: &PlanSpec) -> Map {
    let PlanSpec {
        waves,
        on_stop,
        interleave,
        urgent,
    } = spec;
    let waves = waves.iter().map(wave).collect();
    let mut fields = map([("waves", Value::List(waves))]);
    let on_stop = match on_stop {
        OnStop::Default => None,
        OnStop::Hold => Some("hold"),
        OnStop::RollBackWave => Some("roll back the wave"),
        OnStop::RollBackAll => Some("roll back all"),
    };
    if let Some(on_stop) = on_stop {
        fields.insert("onStop".to_owned(), text(on_stop));
    }
    for (key, flag) in [("interleave", *interleave), ("urgent", *urgent)] {
        if flag {
            fields.insert(key.to_owned(), Value::Bool(true));
        }
    }
    fields
}

fn wave(wave: &WaveSpec) -> Value {
    let WaveSpec {
        size,
        selector,
        zone,
        soak_ms,
        max_in_flight,
        max_unreachable,
        unreachable_ms,
        deadline_ms,
        gate,
    } = wave;
    let duration = |ms: u64| (ms > 0).then(|| text(&duration_text(ms)));
    let selector = selector
        .as_ref()
        .map(|selector| text(&selector.to_string()));
    let max_in_flight = (*max_in_flight > 0).then(|| Value::Int(i64::from(*max_in_flight)));
    let gate = (*gate != Gate::default()).then(|| gate_fields(gate));
    let fields = [
        ("size", Some(size_value(*size))),
        ("selector", selector),
        ("zone", zone.as_deref().map(text)),
        ("soak", duration(*soak_ms)),
        ("maxInFlight", max_in_flight),
        ("maxUnreachable", max_unreachable.map(size_value)),
        ("unreachableWait", duration(*unreachable_ms)),
        ("deadline", deadline_ms.and_then(duration)),
        ("gate", gate),
    ];
    given(fields)
}

fn gate_fields(gate: &Gate) -> Value {
    let Gate {
        success,
        max_failures,
        min_sample,
        checks,
    } = gate;
    let default = Gate::default();
    let success = (*success != default.success).then(|| size_value(Size::Percent(*success)));
    let min_sample = (*min_sample != default.min_sample).then(|| count(*min_sample));
    let checks = (*checks != default.checks).then(|| checks.iter().map(check).collect());
    given([
        ("success", success),
        ("maxFailures", max_failures.map(size_value)),
        ("minSample", min_sample),
        ("checks", checks.map(Value::List)),
    ])
}

fn check(spec: &CheckSpec) -> Value {
    let CheckSpec { check, observe } = spec;
    let (key, asked) = match check {
        Check::PromQl(asked) | Check::Webhook(asked) | Check::Person(asked) => {
            (check.name(), asked.as_str())
        }
        word if !observe => return text(word.name()),
        word => ("check", word.name()),
    };
    let observe = observe.then_some(Value::Bool(true));
    given([(key, Some(text(asked))), ("observe", observe)])
}

fn budget(budget: &Budget) -> Map {
    let Budget {
        label,
        size,
        urgent,
    } = budget;
    map([
        ("label", text(label)),
        ("size", size_value(*size)),
        ("urgent", size_value(*urgent)),
    ])
}

fn size_value(size: Size) -> Value {
    match size {
        Size::Count(number) => count(number),
        percent => text(&size_text(percent)),
    }
}

fn count(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Map {
    Map::from(fields.map(|(key, value)| (key.to_owned(), value)))
}

/// Only the fields that are there.
fn given<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let fields = fields.into_iter();
    let given = fields.filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Map(given.collect())
}
