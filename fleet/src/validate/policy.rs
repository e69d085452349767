//! Policies: what an organisation demands of every config of a family.
//!
//! A policy names a component by its type (`redaction`, every named instance and its deprecated names count) or by its
//! full id (`redaction/pii`, only that one counts).

use super::{Finding, Severity};
use crate::components::{Kind, is_same_type, type_of};
use crate::selector::Selector;
use crate::value::{Map, Path, Value};
use std::fmt;

/// A rule, and the agents that it is about. Which roles have such agents is [`crate::census`]'s to say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    pub rule: Rule,
    /// It counts for roles with such agents; none: for every role.
    pub only: Option<Selector>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Every pipeline of that signal (`logs`), or the one of that id (`logs/audit`), has the processor.
    RequireProcessor { pipeline: String, processor: String },
    /// No component of that kind and type is defined, used or not.
    ForbidComponent { kind: Kind, component: String },
}

/// What in `config` is against `policies`: one finding per policy and place. A config without a pipeline of the signal
/// has nothing that would need the processor. Shapes that are no pipelines are `validate`'s to name.
pub fn check_policies(config: &Value, policies: &[Policy]) -> Vec<Finding> {
    policies
        .iter()
        .flat_map(|policy| policy.check(config))
        .collect()
}

impl Policy {
    fn check(&self, config: &Value) -> Vec<Finding> {
        match &self.rule {
            Rule::RequireProcessor {
                pipeline,
                processor,
            } => self.require(config, pipeline, processor),
            Rule::ForbidComponent { kind, component } => self.forbid(config, *kind, component),
        }
    }

    fn require(&self, config: &Value, pipeline: &str, processor: &str) -> Vec<Finding> {
        let concerned = |id: &str| {
            if pipeline.contains('/') {
                id == pipeline
            } else {
                type_of(id) == pipeline
            }
        };
        let mut findings = Vec::new();
        for (id, body) in entries(config, &["service", "pipelines"]).filter(|(id, _)| concerned(id))
        {
            let processors = body
                .at(&["processors"])
                .and_then(Value::as_list)
                .unwrap_or_default();
            let named = |item: &Value| {
                item.as_str()
                    .is_some_and(|id| names(Kind::Processor, processor, id))
            };
            if !processors.iter().any(named) {
                let path = Path::of(["service", "pipelines", id, "processors"]);
                let message = format!(
                    "{path} has no `{processor}`, but policy says: {self}: add it to the pipeline"
                );
                findings.push(Finding {
                    severity: Severity::Error,
                    path,
                    message,
                });
            }
        }
        findings
    }

    fn forbid(&self, config: &Value, kind: Kind, component: &str) -> Vec<Finding> {
        let section = kind.section();
        let forbidden = entries(config, &[section]).filter(|(id, _)| names(kind, component, id));
        let finding = |(id, _): (&str, &Value)| {
            let path = Path::of([section, id]);
            let message = format!("{path} is defined, but policy says: {self}: remove it");
            Finding {
                severity: Severity::Error,
                path,
                message,
            }
        };
        forbidden.map(finding).collect()
    }
}

impl Rule {
    /// The rule for every role.
    pub const fn always(self) -> Policy {
        Policy {
            rule: self,
            only: None,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::RequireProcessor {
                pipeline,
                processor,
            } => write!(f, "{pipeline} pipelines contain the {processor} processor")?,
            Rule::ForbidComponent { kind, component } => write!(f, "no {component} {kind}")?,
        }
        match &self.only {
            None => Ok(()),
            Some(only) => write!(f, " where {only}"),
        }
    }
}

fn entries<'a>(
    config: &'a Value,
    keys: &[&str],
) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
    let map = config.at(keys).and_then(Value::as_map);
    map.into_iter()
        .flat_map(Map::iter)
        .map(|(id, body)| (id.as_str(), body))
}

fn names(kind: Kind, policy: &str, id: &str) -> bool {
    if policy.contains('/') {
        id == policy
    } else {
        is_same_type(kind, policy, type_of(id))
    }
}
