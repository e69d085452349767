use super::*;
use crate::value::testing::{any_value, list, map, names};
use proptest::prelude::*;

fn lines(before: &Value, after: &Value) -> Vec<String> {
    diff(before, after)
        .changes()
        .iter()
        .map(Change::to_string)
        .collect()
}

#[test]
fn a_diff_reads_by_path() {
    let before = map([
        ("processors", map([("batch", Value::Null)])),
        (
            "service",
            map([("p", names(["batch"])), ("level", "info".into())]),
        ),
    ]);
    let after = map([
        (
            "processors",
            map([
                ("batch", Value::Null),
                ("redaction", map([("allow_all_keys", Value::Bool(true))])),
            ]),
        ),
        ("service", map([("p", names(["redaction", "batch"]))])),
    ]);
    assert_eq!(
        lines(&before, &after),
        [
            "+ processors.redaction: {allow_all_keys: true}",
            "- service.level",
            "~ service.p: [batch] → [redaction, batch]",
        ]
    );
}

#[test]
fn lists_of_maps_are_compared_item_by_item() {
    let item = |value| list([map([("a", Value::Int(1)), ("b", Value::Int(value))])]);
    assert_eq!(lines(&item(2), &item(3)), ["~ [0].b: 2 → 3"]);
    assert_eq!(
        lines(&item(2), &list([])),
        ["~ (root): [{a: 1, b: 2}] → []"]
    );
}

#[test]
fn a_redacted_value_is_neither_equal_nor_different() {
    let redacted = map([("k", redact::REDACTED.into())]);
    for other in [
        &redacted,
        &map([("k", "plain".into())]),
        &map([("k", map([]))]),
    ] {
        let found = diff(&redacted, other);
        assert_eq!(found.changes()[0].kind, Kind::NotComparable);
        assert!(!found.is_certain());
    }
    assert_eq!(lines(&redacted, &map([])), ["- k"]);
    assert_eq!(
        lines(&redacted, &redacted),
        ["? k: redacted, cannot be compared"]
    );
}

#[test]
fn what_is_visible_around_a_redaction_counts() {
    let url = |text: &str| map([("url", text.into())]);
    let stored = url("postgres://u:[REDACTED]@db1/x");
    assert!(!diff(&stored, &url("postgres://u:hunter2@db1/x")).is_certain());
    assert!(diff(&stored, &url("postgres://u:hunter2@db2/x")).is_certain());
}

#[test]
fn a_redacted_item_of_a_list_is_named() {
    let found = lines(&names(["a", redact::REDACTED]), &names(["b", "c"]));
    assert_eq!(
        found,
        ["~ [0]: a → b", "? [1]: redacted, cannot be compared"]
    );
}

#[test]
fn a_diff_is_not_applied_to_another_document() {
    let found = diff(&map([("a", Value::Int(1))]), &map([("a", Value::Int(2))]));
    let refused = found.apply(&map([("a", Value::Int(3))]));
    assert_eq!(
        refused,
        Err(Error::OtherBase {
            path: Path::of(["a"])
        })
    );
}

#[test]
fn the_digest_is_frozen() {
    let found = diff(
        &map([("a", Value::Int(1)), ("b", Value::Null)]),
        &map([("a", Value::Int(2)), ("c", list([]))]),
    );
    assert_eq!(
        found.digest().to_hex(),
        "c95169a0cf7964b0492b082c5aac615251ce8d0830c2551fe0d2dd28f86968f8"
    );
}

proptest! {
    #[test]
    fn the_diff_of_a_document_with_itself_is_empty(a in any_value()) {
        prop_assert!(diff(&a, &a).is_empty());
    }

    #[test]
    fn applying_the_diff_gives_the_other_document(a in any_value(), b in any_value()) {
        prop_assert_eq!(diff(&a, &b).apply(&a), Ok(b));
    }

    #[test]
    fn digests_are_equal_exactly_for_equal_diffs(a in any_value(), b in any_value(), c in any_value()) {
        let (one, other) = (diff(&a, &b), diff(&a, &c));
        prop_assert_eq!(one == other, one.digest() == other.digest());
    }

    #[test]
    fn paths_are_ordered_and_unique(a in any_value(), b in any_value()) {
        let found = diff(&a, &b);
        prop_assert!(found.changes().windows(2).all(|pair| pair[0].path < pair[1].path));
    }
}
