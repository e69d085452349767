//! Agents by the names people know them by. The API names examples and objects by uid.

use std::collections::BTreeMap;

use crate::render::text::clean;

/// Characters of a uid's end that are shown beside a name. Uids of one minute begin alike; their ends are random.
const UID_END: usize = 8;

/// What is known of the names behind uids.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<String, String>);

// === impl Names ===

impl Names {
    /// Remembers the name of an agent.
    pub fn learn(&mut self, uid: String, name: String) {
        self.0.insert(uid, name);
    }

    /// Whether the name is known.
    pub fn know(&self, uid: &str) -> bool {
        self.0.contains_key(uid)
    }

    /// `web-1 (…1d3b5f70)`; the uid alone where there is no name to it.
    pub fn of(&self, uid: &str) -> String {
        match self.0.get(uid) {
            Some(name) if !name.is_empty() && name != uid => {
                let end = uid.len().saturating_sub(UID_END);
                let end = uid.get(end..).unwrap_or(uid);
                format!("{} (…{})", clean(name), clean(end))
            }
            _ => clean(uid),
        }
    }

    /// `, e.g. a, b`; nothing without examples.
    pub fn such_as(&self, examples: &[String]) -> String {
        if examples.is_empty() {
            return String::new();
        }
        let examples: Vec<String> = examples.iter().map(|uid| self.of(uid)).collect();
        format!(", e.g. {}", examples.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_stands_before_the_end_of_the_uid_and_an_unknown_uid_stands_whole() {
        let mut names = Names::default();
        let uid = "019a0000-0000-72bb-bd85-b5b5176c3ee3";
        assert_eq!(names.of(uid), uid);
        names.learn(uid.into(), "web-1".into());
        assert_eq!(
            names.such_as(&[uid.into(), "u2".into()]),
            ", e.g. web-1 (…176c3ee3), u2"
        );
    }

    #[test]
    fn agent_that_is_called_by_its_uid_is_named_once() {
        let mut names = Names::default();
        names.learn("u1".into(), "u1".into());
        assert_eq!(names.of("u1"), "u1");
    }
}
