//! Manifests: YAML documents of `apiVersion: muster/v1` to domain types. Unknown keys are errors, all mistakes are told.

mod family;
mod plan;
mod reader;

use std::collections::BTreeMap;

use fleet::family::Role;
use fleet::rollout::PlanSpec;
use fleet::validate::Policy;

pub use family::policy_text;
pub use plan::duration_text;

/// One manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// A family as its author wants it.
    Family(FamilySpec),
    /// A plan.
    Plan {
        /// Unique name.
        name: String,
        /// Waves and what follows a stop.
        spec: PlanSpec,
    },
}

/// A family as written.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilySpec {
    /// Unique name.
    pub name: String,
    /// Team.
    pub owner: String,
    /// Unique; the higher one's claim counts.
    pub precedence: i64,
    /// At least one.
    pub roles: Vec<Role>,
    /// Rules its configs keep.
    pub policies: Vec<Policy>,
}

/// One mistake in one document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}, document {document}: {message}")]
pub struct Mistake {
    /// File.
    pub path: String,
    /// Number from 1.
    pub document: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// Reads all documents of a file. `files` are the contents that `configFile` keys name.
pub fn parse(
    path: &str,
    yaml: &str,
    files: &BTreeMap<String, String>,
) -> Result<Vec<Manifest>, Vec<Mistake>> {
    let mistake = |document: usize, message: String| Mistake {
        path: path.to_owned(),
        document,
        message,
    };
    let documents =
        proto::yaml::parse_all(yaml).map_err(|error| vec![mistake(1, error.to_string())])?;
    let mut manifests = Vec::new();
    let mut mistakes = Vec::new();
    for (i, document) in documents.iter().enumerate().filter(|(_, d)| !d.is_null()) {
        let mut reader = reader::Reader::default();
        let manifest = one(document, files, &mut reader);
        mistakes.extend(
            reader
                .mistakes
                .into_iter()
                .map(|message| mistake(i + 1, message)),
        );
        manifests.extend(manifest);
    }
    if manifests.is_empty() && mistakes.is_empty() {
        mistakes.push(mistake(
            1,
            "there is no manifest in it: a document begins with `apiVersion: muster/v1`".to_owned(),
        ));
    }
    if mistakes.is_empty() {
        Ok(manifests)
    } else {
        Err(mistakes)
    }
}

fn one(
    document: &fleet::value::Value,
    files: &BTreeMap<String, String>,
    reader: &mut reader::Reader,
) -> Option<Manifest> {
    let map = reader.map(document, "the document")?;
    reader.known(
        map,
        "the document",
        &["apiVersion", "kind", "metadata", "spec"],
    );
    let version = reader.text(map, "", "apiVersion")?;
    if version != "muster/v1" {
        reader.mistake(format!(
            "apiVersion is `{version}`: this server knows `muster/v1`"
        ));
        return None;
    }
    match reader.text(map, "", "kind")?.as_str() {
        "Family" => family::family(map, files, reader).map(Manifest::Family),
        "Plan" => plan::plan(map, reader),
        kind => {
            reader.mistake(format!("kind is `{kind}`: use `Family` or `Plan`"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet::rollout::OnStop;
    use fleet::waves::Size;

    const FAMILY: &str = "apiVersion: muster/v1
kind: Family
metadata: {name: pii-redaction, owner: platform-security}
spec:
  precedence: 100
  roles:
    - name: gateway
      selector: \"role = gateway\"
      configFile: gateway.yaml
    - name: agent
      after: [gateway]
      selector: \"role = agent, env in (prod, staging)\"
      config: |
        receivers: {nop: {}}
  policies: [{require: {pipeline: logs, processor: redaction}}]
---
apiVersion: muster/v1
kind: Plan
metadata: {name: careful}
spec:
  waves:
    - {size: 1, soak: 2m}
    - {size: 10%, soak: 10m, gate: {success: 99%, maxFailures: 1%, minSample: 20}}
    - {size: 100%}
  onStop: hold
";

    fn files() -> BTreeMap<String, String> {
        BTreeMap::from([(
            "gateway.yaml".to_owned(),
            "receivers: {otlp: {}}".to_owned(),
        )])
    }

    fn mistakes(yaml: &str) -> String {
        let mistakes = parse("f.yaml", yaml, &files()).unwrap_err();
        mistakes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_documented_manifests_are_read() {
        let manifests = parse("f.yaml", FAMILY, &files()).unwrap();
        let [Manifest::Family(family), Manifest::Plan { name, spec }] = manifests.as_slice() else {
            panic!()
        };
        assert_eq!(
            (family.name.as_str(), family.precedence, family.roles.len()),
            ("pii-redaction", 100, 2)
        );
        assert_eq!(
            family.roles[0].config.values().next().unwrap().body,
            "receivers: {otlp: {}}"
        );
        assert_eq!(family.roles[1].after, ["gateway"]);
        assert_eq!((name.as_str(), spec.on_stop), ("careful", OnStop::Hold));
        assert_eq!(spec.waves[1].size, Size::Percent(10_000));
        assert_eq!(spec.waves[0].soak_ms, 120_000);
        assert_eq!(spec.waves[1].gate.max_failures, Some(Size::Percent(1_000)));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let text = mistakes(&FAMILY.replace("precedence: 100", "precedence: 100\n  presedence: 1"));
        assert!(
            text.contains("spec has an unknown key `presedence`"),
            "{text}"
        );
    }

    #[test]
    fn a_config_file_that_was_not_sent_is_named() {
        let text = mistakes(&FAMILY.replace("configFile: gateway.yaml", "configFile: other.yaml"));
        assert!(
            text.contains("configFile `other.yaml` was not found"),
            "{text}"
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = mistakes(
            "apiVersion: muster/v1\nkind: Family\nmetadata: {name: x}\nspec: {roles: [{name: a, selector: \"a ==\", config: 1}]}",
        );
        assert!(
            text.contains("precedence") && text.contains("selector") && text.contains("config"),
            "{text}"
        );
    }

    #[test]
    fn percent_of_nothing_and_bad_durations_are_refused() {
        let text = mistakes(
            &FAMILY
                .replace("size: 10%", "size: 0%")
                .replace("soak: 2m", "soak: soon"),
        );
        assert!(text.contains("0 %") && text.contains("`soon`"), "{text}");
    }
}
