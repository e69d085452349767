use super::*;
use crate::value::testing::map;

fn config() -> Value {
    map([
        (
            "receivers",
            map([
                ("otlp/a", Value::Null),
                ("otlp/b", Value::Null),
                ("hostmetrics", Value::Null),
            ]),
        ),
        ("processors", map([("redaction", Value::Null)])),
        ("exporters", map([("otlphttp", Value::Null)])),
    ])
}

#[test]
fn named_instances_are_one_type() {
    let used = Used::by(&config());
    assert_eq!(
        used.receivers.iter().collect::<Vec<_>>(),
        ["hostmetrics", "otlp"]
    );
    assert!(used.connectors.is_empty());
}

#[test]
fn what_the_build_lacks_is_missing() {
    let pairs = [
        ("receivers", "otlp"),
        ("receivers", "hostmetrics"),
        ("processors", "batch"),
        ("exporters", "otlp_http"),
    ];
    let available = Available::from_report(pairs);
    assert_eq!(
        missing(&Used::by(&config()), &available),
        [(Kind::Processor, "redaction".to_owned())]
    );
}

#[test]
fn an_agent_that_reports_nothing_is_unknown_and_misses_nothing() {
    let available = Available::from_report([("something", "else")]);
    assert!(available.is_unknown());
    assert_eq!(missing(&Used::by(&config()), &available), []);
}

#[test]
fn an_old_build_does_not_know_a_new_name() {
    let used = Used {
        exporters: ["otlp_http".to_owned()].into(),
        ..Used::default()
    };
    let old = Available::from_report([("exporters", "otlphttp")]);
    assert_eq!(
        missing(&used, &old),
        [(Kind::Exporter, "otlp_http".to_owned())]
    );
}

#[test]
fn a_rename_of_one_kind_says_nothing_about_another() {
    assert!(is_same_type(Kind::Exporter, "otlp", "otlp_grpc"));
    assert!(!is_same_type(Kind::Receiver, "otlp", "otlp_grpc"));
}
