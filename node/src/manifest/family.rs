//! `kind: Family`.

use std::collections::BTreeMap;

use fleet::family::{self, ConfigFile, ConfigMap, Role};
use fleet::program::OwnerChange;
use fleet::selector::{Selector, Version};
use fleet::validate::{Policy, Rule};
use fleet::value::{Map, Value};
use fleet::{components, drift, versions};

use super::FamilySpec;
use super::reader::{Reader, join};
use crate::control::Settings;

/// Most approvals that a family may ask for: more people than that do not look.
const APPROVALS_MAX: u32 = 10;

/// Name of a config in the map that a supervisor gets when the author names none.
pub(super) const CONFIG_NAME: &str = "collector.yaml";

const CONTENT_TYPE: &str = "text/yaml";

pub(super) fn family(
    document: &Map,
    files: &BTreeMap<String, String>,
    reader: &mut Reader,
) -> Option<FamilySpec> {
    let metadata = reader.field(document, "", "metadata");
    let spec = reader.field(document, "", "spec")?;
    let metadata = metadata?;
    reader.known(metadata, "metadata", &["name", "owner"]);
    let keys = [
        "precedence",
        "roles",
        "policies",
        "approvals",
        "ownerChange",
        "drift",
        "versions",
        "missingComponents",
    ];
    reader.known(spec, "spec", &keys);
    let name = reader.text(metadata, "metadata", "name")?;
    let owner = reader
        .optional(metadata, "metadata", "owner")
        .unwrap_or_default();
    let precedence = precedence(spec, reader);
    let approvals = approvals(spec, reader);
    let settings = settings(&name, spec, reader);
    let roles: Vec<Option<Role>> = reader
        .list(spec, "spec", "roles")
        .iter()
        .enumerate()
        .map(|(i, value)| role(value, &format!("spec.roles[{i}]"), files, reader))
        .collect();
    let policies: Vec<Policy> = reader
        .list(spec, "spec", "policies")
        .iter()
        .enumerate()
        .filter_map(|(i, value)| policy(value, &format!("spec.policies[{i}]"), reader))
        .collect();
    // Only whole roles can be judged together; a role with a mistake has told it already.
    let roles: Vec<Role> = roles.into_iter().collect::<Option<_>>()?;
    for error in family::check(&name, &roles) {
        reader.mistake(error.to_string());
    }
    Some(FamilySpec {
        name,
        owner,
        precedence: precedence?,
        roles,
        policies,
        approvals,
        settings,
    })
}

fn precedence(spec: &Map, reader: &mut Reader) -> Option<i64> {
    match spec.get("precedence") {
        Some(Value::Int(number)) => Some(*number),
        Some(other) => {
            reader.mistake(format!(
                "spec.precedence is {}: a whole number is needed, one that no other family has",
                other.kind()
            ));
            None
        }
        None => {
            reader.mistake("spec.precedence is missing: give a whole number that no other family has; the higher one's claim counts");
            None
        }
    }
}

fn approvals(spec: &Map, reader: &mut Reader) -> u32 {
    let count = match spec.get("approvals") {
        None => Some(0),
        Some(Value::Int(count)) => u32::try_from(*count).ok(),
        Some(_) => None,
    };
    count
        .filter(|count| *count <= APPROVALS_MAX)
        .unwrap_or_else(|| {
            reader.mistake(format!(
                "spec.approvals is no whole number from 0 to {APPROVALS_MAX}: say how many others have to approve a revision"
            ));
            0
        })
}

/// What it does by itself.
fn settings(family: &str, spec: &Map, reader: &mut Reader) -> Settings {
    let owner_change = match reader.optional(spec, "spec", "ownerChange").as_deref() {
        None | Some("ask") => OwnerChange::Ask,
        Some("auto") => OwnerChange::Auto,
        Some(other) => {
            reader.mistake(format!(
                "spec.ownerChange is `{other}`: use `ask` (a person resolves it) or `auto` (agents go to who claims them)"
            ));
            OwnerChange::Ask
        }
    };
    let drift = match reader.optional(spec, "spec", "drift").as_deref() {
        None | Some("report") => drift::Policy::Report,
        Some("re-offer") => drift::Policy::ReOffer,
        Some(other) => {
            reader.mistake(format!(
                "spec.drift is `{other}`: use `report` (it is shown) or `re-offer` (the config is sent once more)"
            ));
            drift::Policy::Report
        }
    };
    let missing = match reader
        .optional(spec, "spec", "missingComponents")
        .as_deref()
    {
        None | Some("exclude") => components::Policy::Exclude,
        Some("block") => components::Policy::Block,
        Some(other) => {
            reader.mistake(format!(
                "spec.missingComponents is `{other}`: use `exclude` (agents whose build lacks a component are left out) \
                 or `block` (no rollout starts while there are any)"
            ));
            components::Policy::Exclude
        }
    };
    Settings {
        owner_change,
        drift,
        versions: versions(family, spec, reader).unwrap_or_default(),
        missing,
    }
}

fn versions(family: &str, spec: &Map, reader: &mut Reader) -> Option<versions::Policy> {
    let at = "spec.versions";
    let map = reader.map(spec.get("versions")?, at)?;
    reader.known(map, at, &["from", "below", "behind"]);
    let behind_max = match map.get("behind") {
        None => None,
        Some(Value::Int(count)) if u32::try_from(*count).is_ok() => Some(count.unsigned_abs()),
        Some(_) => {
            reader.mistake(
                "spec.versions.behind is no count: say how many releases an agent may be behind the newest of the family",
            );
            None
        }
    };
    let policy = versions::Policy {
        from: version(map, at, "from", reader),
        below: version(map, at, "below", reader),
        behind_max,
    };
    if let Err(empty) = policy.check(family) {
        reader.mistake(empty.to_string());
    }
    Some(policy)
}

fn version(map: &Map, at: &str, key: &str, reader: &mut Reader) -> Option<Version> {
    if let Some(Value::Float(_)) = map.get(key) {
        reader.mistake(format!(
            "{} is a number, in which 0.150 and 0.15 are the same: write the version in quotes",
            join(at, key)
        ));
        return None;
    }
    let text = reader.optional(map, at, key)?;
    let version = Version::parse(&text);
    if version.is_none() {
        reader.mistake(format!(
            "{} is `{text}`, which is no version: use one like 0.150.0",
            join(at, key)
        ));
    }
    version
}

fn role(
    value: &Value,
    at: &str,
    files: &BTreeMap<String, String>,
    reader: &mut Reader,
) -> Option<Role> {
    let map = reader.map(value, at)?;
    let keys = [
        "name",
        "selector",
        "after",
        "config",
        "configFile",
        "baseline",
        "baselineFile",
    ];
    reader.known(map, at, &keys);
    let name = reader.text(map, at, "name");
    let selector = selector(map, at, "selector", reader);
    let after = reader
        .list(map, at, "after")
        .iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    let config = body(map, at, "config", files, reader);
    let baseline = body(map, at, "baseline", files, reader);
    if config.is_none() && !map.contains_key("config") && !map.contains_key("configFile") {
        reader.mistake(format!(
            "{at} has no config: give `config` (inline text) or `configFile` (a relative path)"
        ));
    }
    Some(Role {
        name: name?,
        selector: selector?,
        after,
        config: config?,
        baseline: baseline.unwrap_or_default(),
    })
}

fn selector(map: &Map, at: &str, key: &str, reader: &mut Reader) -> Option<Selector> {
    let text = reader.text(map, at, key)?;
    match Selector::parse(&text) {
        Ok(selector) => Some(selector),
        Err(error) => {
            reader.mistake(format!("{} `{text}`: {error}", join(at, key)));
            None
        }
    }
}

/// `config: |` text, `config: {name: text}`, or `configFile: path`.
fn body(
    map: &Map,
    at: &str,
    key: &str,
    files: &BTreeMap<String, String>,
    reader: &mut Reader,
) -> Option<ConfigMap> {
    let file_key = format!("{key}File");
    let file = |body: &str| ConfigFile {
        body: body.to_owned(),
        content_type: CONTENT_TYPE.to_owned(),
    };
    match (map.get(key), reader.optional(map, at, &file_key)) {
        (Some(_), Some(_)) => {
            reader.mistake(format!("{at} has both {key} and {file_key}: use one"));
            None
        }
        (None, None) => None,
        (None, Some(path)) => match files.get(&path) {
            Some(body) => Some(ConfigMap::from([(CONFIG_NAME.to_owned(), file(body))])),
            None => {
                reader.mistake(format!(
                    "{file_key} `{path}` was not found: it is read relative to the manifest"
                ));
                None
            }
        },
        (Some(Value::String(text)), None) => {
            Some(ConfigMap::from([(CONFIG_NAME.to_owned(), file(text))]))
        }
        (Some(Value::Map(named)), None) => {
            let mut config = ConfigMap::new();
            for (name, value) in named {
                match value.as_str() {
                    Some(text) => {
                        config.insert(name.clone(), file(text));
                    }
                    None => reader.mistake(format!(
                        "{}.{name} is {}: the text of a config is needed (use `|`)",
                        join(at, key),
                        value.kind()
                    )),
                }
            }
            Some(config)
        }
        (Some(other), None) => {
            reader.mistake(format!(
                "{} is {}: the text of a config is needed (use `|`)",
                join(at, key),
                other.kind()
            ));
            None
        }
    }
}

fn policy(value: &Value, at: &str, reader: &mut Reader) -> Option<Policy> {
    let map = reader.map(value, at)?;
    reader.known(map, at, &["require", "forbid", "where"]);
    let only = match map.contains_key("where") {
        false => None,
        true => Some(selector(map, at, "where", reader)?),
    };
    let rule = rule(map, at, reader)?;
    Some(Policy { rule, only })
}

fn rule(map: &Map, at: &str, reader: &mut Reader) -> Option<Rule> {
    if map.contains_key("require") {
        let rule = reader.field(map, at, "require")?;
        let at = join(at, "require");
        reader.known(rule, &at, &["pipeline", "processor"]);
        let (pipeline, processor) = (
            reader.text(rule, &at, "pipeline"),
            reader.text(rule, &at, "processor"),
        );
        return Some(Rule::RequireProcessor {
            pipeline: pipeline?,
            processor: processor?,
        });
    }
    if map.contains_key("forbid") {
        let rule = reader.field(map, at, "forbid")?;
        let at = join(at, "forbid");
        reader.known(rule, &at, &["kind", "component"]);
        let (kind, component) = (
            reader.text(rule, &at, "kind")?,
            reader.text(rule, &at, "component")?,
        );
        let Some(kind) = fleet::components::Kind::of_section(&format!("{kind}s"))
            .or_else(|| fleet::components::Kind::of_section(&kind))
        else {
            reader.mistake(format!(
                "{at}.kind is `{kind}`: use receiver, processor, exporter, extension or connector"
            ));
            return None;
        };
        return Some(Rule::ForbidComponent { kind, component });
    }
    reader.mistake(format!(
        "{at} is no rule: use `require: {{pipeline, processor}}` or `forbid: {{kind, component}}`"
    ));
    None
}

/// A rule in words; also what the revision hash covers.
pub fn policy_text(policy: &Policy) -> String {
    let rule = match &policy.rule {
        Rule::RequireProcessor {
            pipeline,
            processor,
        } => format!("{pipeline} pipelines contain a `{processor}` processor"),
        Rule::ForbidComponent { kind, component } => {
            format!("no `{component}` {kind:?}").to_lowercase()
        }
    };
    match &policy.only {
        None => rule,
        Some(only) => format!("{rule} where {only}"),
    }
}
