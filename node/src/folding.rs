//! Folds error texts so that identical errors of many agents count as one: ids, numbers and addresses go.

use std::collections::BTreeMap;

use fleet::bucket::Bucket;
use proto::store::ErrorGroup;

use crate::partition::MemberView;

/// Uids named as examples.
const EXAMPLES: usize = 5;

/// Failed members by kind and folded error, most agents first.
pub fn error_groups(members: &[MemberView]) -> Vec<ErrorGroup> {
    let mut groups: BTreeMap<(&str, String), ErrorGroup> = BTreeMap::new();
    for member in members {
        let Bucket::Failed(failure) = member.bucket else {
            continue;
        };
        let group = groups
            .entry((failure.name(), fold(&member.error)))
            .or_insert_with(|| ErrorGroup {
                kind: failure.name().to_owned(),
                error: member.error.clone(),
                ..ErrorGroup::default()
            });
        group.agents += 1;
        if group.examples.len() < EXAMPLES {
            group.examples.push(member.uid.as_bytes().to_vec());
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.agents));
    groups
}

/// The text with everything that differs from agent to agent replaced by `#`.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len().min(400));
    let mut word = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        if c.is_alphanumeric() || c == '-' || c == '_' {
            word.push(c);
            continue;
        }
        folded.push_str(if varies(&word) { "#" } else { &word });
        word.clear();
        folded.push(if c.is_whitespace() { ' ' } else { c });
        if folded.len() > 400 {
            break;
        }
    }
    folded.trim().to_owned()
}

/// Numbers, hex ids and anything else with digits in most places.
fn varies(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let hex = word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    digits > 0 && (hex || digits * 2 >= word.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_differ_in_ids_only_are_one() {
        let a = fold("Agent process PID=9077 exited unexpectedly, exit code=1 at 10.0.0.7:4317");
        let b = fold("Agent process PID=15 exited unexpectedly, exit code=2 at 10.1.0.9:4318");
        assert_eq!(a, b);
        assert!(a.contains("exited unexpectedly"));
    }

    #[test]
    fn names_of_components_stay() {
        assert_eq!(
            fold("unknown type: \"redaction\" for id otlp_http"),
            "unknown type: \"redaction\" for id otlp_http"
        );
    }
}
