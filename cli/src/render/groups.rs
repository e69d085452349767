//! Agents in groups: how many have each value of a key, and how many report each error.

use proto::api;

use crate::render::table::table;
use crate::render::text::{clean, clean_lines, head, indent, plural, thousands};
use crate::render::{Look, Tone};

/// Lines of an example of an error.
const EXAMPLE_LINES: usize = 6;

/// The table of `agents count`.
pub fn counts(answer: &api::GroupAgentsResponse, by: &str) -> String {
    let header = clean(by).to_uppercase();
    let rows = answer.groups.iter().map(|group| {
        let value = if group.value.is_empty() {
            "(none)".to_owned()
        } else {
            clean(&group.value)
        };
        vec![
            value,
            thousands(group.agents),
            thousands(group.connected),
            thousands(group.healthy),
        ]
    });
    let sum = |of: fn(&api::group_agents_response::Group) -> u64| {
        thousands(answer.groups.iter().map(of).sum())
    };
    let total = vec![
        "total".to_owned(),
        thousands(answer.total),
        sum(|group| group.connected),
        sum(|group| group.healthy),
    ];
    table(
        &[&header, ">AGENTS", ">CONNECTED", ">HEALTHY"],
        rows.chain([total]),
    )
}

/// `agents errors`: each error once, with how many have it and one example in full.
pub fn errors(answer: &api::ListErrorsResponse, look: &Look) -> String {
    if answer.groups.is_empty() {
        return "no agent reports an error\n".to_owned();
    }
    let mut text = String::new();
    for group in &answer.groups {
        let count = look.paint(Tone::Bad, &plural(group.agents, "agent"));
        text += &format!(
            "{count}: {}{}\n",
            clean(&group.error),
            look.names.such_as(&group.examples)
        );
        if !same_words(&group.example_text, &group.error) {
            text += &indent(&head(&clean_lines(&group.example_text), EXAMPLE_LINES), 4);
        }
    }
    text
}

/// The agents that errors are shown with.
pub fn examples(answer: &api::ListErrorsResponse) -> impl Iterator<Item = &str> {
    let groups = answer.groups.iter();
    groups.flat_map(|group| group.examples.iter().map(String::as_str))
}

/// Whether there are agents, and none has a value.
pub fn without_values(answer: &api::GroupAgentsResponse) -> bool {
    let mut groups = answer.groups.iter();
    answer.total > 0 && groups.all(|group| group.value.is_empty())
}

/// Whether an example says nothing that the error did not. Line ends and spaces say nothing.
fn same_words(example: &str, error: &str) -> bool {
    example.is_empty() || example.split_whitespace().eq(error.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_shows_agents_without_the_key_and_the_total() {
        let group = |value: &str, agents| api::group_agents_response::Group {
            value: value.into(),
            agents,
            connected: agents,
            healthy: 1,
        };
        let answer = api::GroupAgentsResponse {
            groups: vec![group("prod", 1_200), group("", 3)],
            total: 1_203,
        };
        assert_eq!(
            counts(&answer, "env"),
            "\
ENV      AGENTS   CONNECTED   HEALTHY
prod      1,200       1,200         1
(none)        3           3         1
total     1,203       1,203         2
"
        );
    }

    #[test]
    fn error_is_shown_once_with_its_count_and_an_example() {
        let group = api::list_errors_response::Group {
            error: "dial tcp ADDR: refused".into(),
            agents: 12,
            examples: vec!["u1".into()],
            example_text: "dial tcp 10.0.0.1:4317: refused".into(),
        };
        let text = errors(
            &api::ListErrorsResponse {
                groups: vec![group],
            },
            &Look::default(),
        );
        assert_eq!(
            text,
            "12 agents: dial tcp ADDR: refused, e.g. u1\n    dial tcp 10.0.0.1:4317: refused\n"
        );
    }

    #[test]
    fn example_that_says_no_more_than_the_error_is_left_out() {
        let group = api::list_errors_response::Group {
            error: "bad  key".into(),
            agents: 1,
            examples: vec![],
            example_text: "bad\n\nkey\n".into(),
        };
        let answer = api::ListErrorsResponse {
            groups: vec![group],
        };
        assert_eq!(errors(&answer, &Look::default()), "1 agent: bad  key\n");
    }
}
