//! The drift of one agent in full: which keys differ, where they come from, and what follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::digest::Digest;
use fleet::drift::{Content, Difference, Drift, Subject, content, drift};
use fleet::family::delivery_hash;
use fleet::offer::State;
use fleet::program::{Desired, RevisionNumber};
use fleet::redact::redact;
use fleet::value::Value;
use proto::api;
use proto::store;

use crate::api::Api;
use crate::control::config_map;
use crate::drift::{Norms, Seen};
use crate::inventory::{Delivery, Row};
use crate::partition::{delivered_config, merged_config};

/// Revisions of a family that are looked through, newest first, for what an agent says it runs.
const REVISIONS: usize = 100;

impl Api {
    /// Every drift of an agent that reports this effective config.
    pub(super) fn drift(
        &self,
        row: &Row,
        desired: &Desired,
        effective: &[api::ConfigFile],
    ) -> Vec<api::Drift> {
        let norms = match row.owner() {
            Some((family, _)) => crate::drift::norms_of(&self.node, family),
            None => Norms::default(),
        };
        let seen = Seen::of(row);
        let content = self.content(row, effective);
        let found = drift(&Subject {
            content: content.as_ref(),
            reported_revision: self.reported_revision(row),
            version: norms.violation(row),
            ..seen.subject(desired)
        });
        let policy = norms.policy(row);
        let told = |drift: &Drift| api::Drift {
            kind: drift.kind().to_owned(),
            text: text(drift),
            differences: differences(drift),
            answer: seen.answer(drift, desired, policy).to_string(),
        };
        found.iter().map(told).collect()
    }

    /// What it runs against what it applied, both redacted; none: one of them is not known.
    fn content(&self, row: &Row, effective: &[api::ConfigFile]) -> Option<Content> {
        let applied = |d: &&Delivery| d.state == State::Applied;
        let delivery = row.delivery.as_ref().filter(applied)?;
        let delivered = delivered_config(
            &self.node.control.read(),
            &delivery.family,
            &delivery.role,
            delivery.revision,
            &delivery.rollout,
        );
        let delivered = delivered.filter(|config| delivery_hash(config) == delivery.hash)?;
        let delivered = redact(&merged_config(&delivered)?);
        Some(content(&delivered, &merged(effective)?, &[]))
    }

    /// The revision of its family in which its role has what it says it runs.
    fn reported_revision(&self, row: &Row) -> Option<RevisionNumber> {
        let (hash, _) = row.reported?;
        let (family, role) = row.owner()?;
        let revisions: Vec<Arc<store::Revision>> = {
            let documents = self.node.control.read();
            let all = documents
                .revisions
                .range((family.to_owned(), 0)..=(family.to_owned(), u64::MAX));
            let newest = all.rev().take(REVISIONS);
            newest.map(|(_, revision)| revision.value.clone()).collect()
        };
        let has_it = |revision: &&Arc<store::Revision>| delivers(revision, role, hash);
        let found = revisions.iter().find(has_it);
        found.map(|revision| RevisionNumber(revision.number))
    }
}

fn delivers(revision: &store::Revision, role: &str, hash: Digest) -> bool {
    let role = revision.roles.iter().find(|known| known.name == role);
    role.is_some_and(|role| delivery_hash(&config_map(&role.config)) == hash)
}

/// What an agent reports to run as one document; none: some of it was not kept, or is no YAML.
fn merged(effective: &[api::ConfigFile]) -> Option<Value> {
    let is_lacking = |file: &api::ConfigFile| !file.note.is_empty() || file.body.trim().is_empty();
    if effective.is_empty() || effective.iter().any(is_lacking) {
        return None;
    }
    let parse = |file: &api::ConfigFile| {
        let value = proto::yaml::parse(&file.body).ok()?;
        Some((file.name.clone(), value))
    };
    let files: Option<BTreeMap<String, Value>> = effective.iter().map(parse).collect();
    fleet::merge::merge(&files?).ok()
}

/// In one line, without its kind.
fn text(drift: &Drift) -> String {
    match drift {
        Drift::Content(differences) if differences.len() > 1 => {
            format!("{} keys are not as delivered", differences.len())
        }
        drift => {
            let text = drift.to_string();
            let prefix = format!("{}: ", drift.kind());
            text.strip_prefix(&prefix).unwrap_or(&text).to_owned()
        }
    }
}

fn differences(drift: &Drift) -> Vec<String> {
    match drift {
        Drift::Content(differences) => differences.iter().map(Difference::to_string).collect(),
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    use fleet::drift::Identity;

    use super::*;

    fn file(body: &str, note: &str) -> api::ConfigFile {
        api::ConfigFile {
            body: body.to_owned(),
            note: note.to_owned(),
            ..api::ConfigFile::default()
        }
    }

    fn found(sent: &str, runs: &str) -> Drift {
        let sent = proto::yaml::parse(sent).unwrap();
        let runs = merged(&[file(runs, "")]).unwrap();
        let content = content(&redact(&sent), &runs, &[]);
        Drift::Content(content.differences().cloned().collect())
    }

    #[test]
    fn one_key_is_told_in_the_line_and_many_are_counted() {
        let one = found(
            "exporters: {otlp: {endpoint: a}}",
            "exporters: {otlp: {endpoint: b}}",
        );
        assert_eq!(
            text(&one),
            "exporters.otlp.endpoint is b instead of a, from an unknown origin"
        );
        let two = found("receivers: {a: {}, b: {x: 1}}", "receivers: {c: {y: 1}}");
        assert_eq!(
            text(&two),
            format!("{} keys are not as delivered", differences(&two).len())
        );
        assert!(differences(&two).len() > 1);
    }

    #[test]
    fn a_secret_that_was_delivered_is_not_told() {
        let secret = found(
            "exporters: {otlp: {headers: {api-key: s3cr3t-value-42}}}",
            "exporters: {otlp: {headers: {api-key: plain}, endpoint: x}}",
        );
        let told = format!("{} {:?}", text(&secret), differences(&secret));
        assert!(!told.contains("s3cr3t"), "{told}");
    }

    #[test]
    fn a_config_that_was_not_kept_is_not_compared() {
        assert_eq!(merged(&[]), None);
        assert_eq!(merged(&[file("", "too large to keep")]), None);
        assert_eq!(merged(&[file("a: [", "")]), None);
    }

    #[test]
    fn a_line_does_not_repeat_its_kind() {
        let twice = Drift::Identity(Identity::Duplicate);
        assert_eq!(text(&twice), "two agents speak with one uid");
    }
}
