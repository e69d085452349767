//! Where the walk through a document is, as far as it matters for what is secret there.

use super::keys::{Class, HEADER_WORDS, classify, is_about, qualifies, words};

/// Where the walk through a document is, as far as it matters.
#[derive(Debug, Clone)]
pub(super) struct Place {
    class: Class,
    numbers: bool,
    /// Inside a list or map under a secret key.
    suspect: bool,
    /// Inside `headers`.
    headers: bool,
    /// A list item, where `key` and `name` are settings and no header names.
    item: bool,
    redaction_processor: bool,
    parent: String,
    depth: usize,
    section: String,
}

// === impl Place ===

impl Place {
    pub(super) fn root() -> Self {
        Self {
            class: Class::Plain,
            numbers: false,
            suspect: false,
            headers: false,
            item: false,
            redaction_processor: false,
            parent: String::new(),
            depth: 0,
            section: String::new(),
        }
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    pub(super) fn hides_numbers(&self) -> bool {
        self.numbers
    }

    pub(super) fn is_redaction_processor(&self) -> bool {
        self.redaction_processor
    }

    /// The place of a list item: what holds for the list holds for it.
    pub(super) fn item(&self) -> Self {
        Self {
            depth: self.depth + 1,
            item: true,
            ..self.clone()
        }
    }

    /// The place under a key.
    pub(super) fn key(&self, key: &str) -> Self {
        if self.names_components() {
            return self.under(key, Class::Plain, false);
        }
        self.judge(key, key, self.headers && !self.item)
    }

    /// The place of the value in `{name: …, value: …}`.
    pub(super) fn key_named(&self, key: &str, name: &str) -> Self {
        self.judge(key, name, self.headers)
    }

    fn judge(&self, key: &str, name: &str, is_header: bool) -> Self {
        let words = words(name);
        let (mut class, mut numbers) = classify(&words);
        if class == Class::Material && qualifies(&self.parent) {
            (class, numbers) = (Class::Secret, true);
        }
        if is_header && class != Class::Secret {
            let secret = words.iter().any(|word| HEADER_WORDS.contains(word));
            (class, numbers) = (
                if secret {
                    Class::Secret
                } else {
                    Class::Material
                },
                secret,
            );
        }
        if self.suspect && !is_about(&words) {
            class = Class::Secret;
        }
        self.under(key, class, numbers)
    }

    fn under(&self, key: &str, class: Class, numbers: bool) -> Self {
        let is_processor = self.depth == 1 && self.section == "processors";
        Self {
            class,
            numbers,
            suspect: class == Class::Secret,
            headers: words(key).last().is_some_and(|word| word == "headers"),
            item: false,
            redaction_processor: is_processor && key.split('/').next() == Some("redaction"),
            parent: key.to_owned(),
            depth: self.depth + 1,
            section: if self.depth == 0 {
                key.to_owned()
            } else {
                self.section.clone()
            },
        }
    }

    /// True where the keys are component or pipeline ids, which say nothing about what is under them.
    fn names_components(&self) -> bool {
        let sections = [
            "receivers",
            "processors",
            "exporters",
            "connectors",
            "extensions",
        ];
        self.depth == 1 && sections.contains(&self.section.as_str())
            || self.depth == 2 && self.section == "service" && self.parent == "pipelines"
    }
}
