//! Manifests: YAML documents of `apiVersion: muster/v1` to domain types. Unknown keys are errors, all mistakes are told.

mod budget;
mod family;
mod plan;
mod reader;
mod scalar;
mod settings;
mod write;

use std::collections::BTreeMap;

use fleet::budget::Budget;
use fleet::digest::Digest;
pub use fleet::duration::duration_text;
use fleet::family::Role;
use fleet::rollout::PlanSpec;
use fleet::validate::Policy;

pub use family::policy_text;
pub use plan::size_text;
pub use settings::{
    drift_word, missing_word, owner_change_word, settings_change, settings_text, versions_text,
};
pub use write::{files, patch};

use crate::control::Settings;

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
    /// The fleet's budget.
    Budget(Budget),
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
    /// Others that have to approve a rollout of it.
    pub approvals: u32,
    /// What it does by itself.
    pub settings: Settings,
}

// === impl FamilySpec ===

impl FamilySpec {
    /// Of everything that decides a revision's outcome. Approvals and settings are among it: who changes them makes a new
    /// revision, and whoever approves that has seen them.
    pub fn revision_hash(&self) -> Digest {
        let mut lines: Vec<String> = self.policies.iter().map(policy_text).collect();
        if self.approvals > 0 {
            lines.push(format!("needs {} approvals", self.approvals));
        }
        // The defaults are not named, as in revisions from before there were settings.
        if self.settings != Settings::default() {
            lines.push(settings_text(&self.settings));
        }
        fleet::family::revision_hash(self.precedence, &self.roles, &lines)
    }
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
        "Budget" => budget::budget(map, reader).map(Manifest::Budget),
        kind => {
            reader.mistake(format!(
                "kind is `{kind}`: use `Family`, `Plan` or `Budget`"
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests;
