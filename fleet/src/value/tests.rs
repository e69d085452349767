use super::testing::{any_value, list, map};
use super::*;
use proptest::prelude::*;

#[test]
fn a_nan_equals_itself_and_zero_has_a_sign() {
    let float = |value| Value::Float(Float::new(value));
    assert_eq!(float(f64::NAN), float(f64::NAN));
    assert_ne!(float(0.0), float(-0.0));
    assert_ne!(float(1.0), Value::Int(1));
}

#[test]
fn leaves_come_with_paths_that_lead_back() {
    let value = map([("a.b", list([Value::Int(1), map([])])), ("c", Value::Null)]);
    let leaves = value.leaves();
    let paths: Vec<String> = leaves.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(paths, [r#""a.b"[0]"#, r#""a.b"[1]"#, "c"]);
    assert!(
        leaves
            .iter()
            .all(|(path, leaf)| value.get(path) == Some(leaf))
    );
}

#[test]
fn depth_counts_containers() {
    assert_eq!(Value::Null.depth(), 0);
    assert_eq!(map([]).depth(), 1);
    assert_eq!(map([("a", list([map([])]))]).depth(), 3);
}

#[test]
fn at_goes_from_map_to_map() {
    let value = map([("service", map([("extensions", list([]))]))]);
    assert_eq!(value.at(&["service", "extensions"]), Some(&list([])));
    assert_eq!(value.at(&["service", "pipelines"]), None);
    assert_eq!(value.at(&[]), Some(&value));
}

#[test]
fn canonical_bytes_are_frozen() {
    let value = map([(
        "k",
        list([Value::Null, Value::Bool(true), Value::Int(-1), "s".into()]),
    )]);
    assert_eq!(
        value.canonical_bytes(),
        [
            &[6, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'k'][..],
            &[
                5, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 255, 255, 255, 255, 255, 255, 255, 255
            ],
            &[4, 1, 0, 0, 0, 0, 0, 0, 0, b's'],
        ]
        .concat()
    );
}

proptest! {
    #[test]
    fn canonical_bytes_are_equal_exactly_for_equal_values(a in any_value(), b in any_value()) {
        prop_assert_eq!(a == b, a.canonical_bytes() == b.canonical_bytes());
        prop_assert_eq!(a.clone().canonical_bytes(), a.canonical_bytes());
    }
}
