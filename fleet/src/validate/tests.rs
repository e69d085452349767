use super::*;
use crate::value::testing::{any_value, map, names};
use proptest::prelude::*;

fn components<const N: usize>(ids: [&str; N]) -> Value {
    map(ids.map(|id| (id, Value::Null)))
}

fn pipeline<const R: usize, const P: usize, const E: usize>(
    r: [&str; R],
    p: [&str; P],
    e: [&str; E],
) -> Value {
    map([
        ("receivers", names(r)),
        ("processors", names(p)),
        ("exporters", names(e)),
    ])
}

fn config<const N: usize>(pipelines: [(&str, Value); N]) -> Value {
    map([
        ("receivers", components(["otlp"])),
        ("processors", components(["batch"])),
        ("exporters", components(["debug"])),
        ("service", map([("pipelines", map(pipelines))])),
    ])
}

/// `config` with the node at a section replaced.
fn with(config: Value, section: &str, value: Value) -> Value {
    let Value::Map(mut root) = config else {
        return config;
    };
    root.insert(section.to_owned(), value);
    Value::Map(root)
}

fn good() -> Value {
    config([("logs", pipeline(["otlp"], ["batch"], ["debug"]))])
}

fn messages(config: &Value) -> Vec<String> {
    validate(config).iter().map(Finding::to_string).collect()
}

#[test]
fn a_complete_config_has_no_findings() {
    assert_eq!(messages(&good()), [""; 0]);
}

#[test]
fn a_name_without_a_definition_is_an_error_with_a_way_out() {
    let found = messages(&config([(
        "logs",
        pipeline(["otlp"], ["batch", "redaction"], ["debug"]),
    )]));
    assert_eq!(
        found,
        [
            "error: service.pipelines.logs.processors names `redaction`, but processors.redaction is not defined: \
          define it or remove it from the pipeline"
        ]
    );
}

#[test]
fn all_mistakes_come_at_once() {
    let found = messages(&config([
        ("logs", pipeline([], ["x"], ["y"])),
        ("log", pipeline(["otlp"], ["batch"], ["debug"])),
    ]));
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn a_pipeline_needs_a_receiver_and_an_exporter() {
    let found = messages(&config([(
        "logs",
        map([
            ("receivers", names(["otlp"])),
            ("processors", names(["batch"])),
        ]),
    )]));
    assert_eq!(
        found[0],
        "error: service.pipelines.logs.exporters is empty: a pipeline needs at least one exporter"
    );
    assert_eq!(
        found[1],
        "warning: exporters.debug is defined but not in any pipeline: use it or remove it"
    );
}

#[test]
fn an_opamp_extension_would_cut_the_agent_off() {
    let service = map([
        ("extensions", names(["opamp"])),
        (
            "pipelines",
            map([("logs", pipeline(["otlp"], ["batch"], ["debug"]))]),
        ),
    ]);
    let config = with(
        with(good(), "service", service),
        "extensions",
        components(["opamp/mine"]),
    );
    let found = validate(&config);
    let paths: Vec<String> = found
        .iter()
        .map(|finding| finding.path.to_string())
        .collect();
    assert_eq!(paths, ["extensions.opamp/mine", "service.extensions[0]"]);
    assert!(!is_valid(&found));
}

#[test]
fn an_extension_has_to_be_defined_and_should_be_listed() {
    let service = map([
        ("extensions", names(["zpages"])),
        (
            "pipelines",
            map([("logs", pipeline(["otlp"], ["batch"], ["debug"]))]),
        ),
    ]);
    let config = with(
        with(good(), "service", service),
        "extensions",
        components(["pprof"]),
    );
    assert_eq!(
        messages(&config),
        [
            "error: service.extensions names `zpages`, but extensions.zpages is not defined: define it or remove it from service.extensions",
            "warning: extensions.pprof is defined but not in service.extensions: use it or remove it",
        ]
    );
}

#[test]
fn a_connector_is_exporter_of_one_pipeline_and_receiver_of_another() {
    let joined = config([
        ("traces", pipeline(["otlp"], ["batch"], ["count"])),
        ("metrics", pipeline(["count"], [], ["debug"])),
    ]);
    assert_eq!(
        messages(&with(joined, "connectors", components(["count"]))),
        [""; 0]
    );
    let dangling = config([("traces", pipeline(["otlp"], ["batch"], ["count", "debug"]))]);
    assert_eq!(
        messages(&with(dangling, "connectors", components(["count"]))),
        [
            "error: connectors.count is an exporter of traces, but a receiver of no pipeline: add it to the receivers of one"
        ]
    );
}

#[test]
fn connectors_may_not_lead_round() {
    let round = config([
        (
            "logs/a",
            pipeline(["otlp", "forward/b"], ["batch"], ["forward/a"]),
        ),
        (
            "logs/b",
            pipeline(["forward/a"], [], ["forward/b", "debug"]),
        ),
        ("logs/c", pipeline(["forward/b"], [], ["debug"])),
    ]);
    let found = messages(&with(
        round,
        "connectors",
        components(["forward/a", "forward/b"]),
    ));
    assert_eq!(
        found,
        [
            "error: connectors lead round in a circle through the pipelines logs/a, logs/b: take one of them out"
        ]
    );
}

#[test]
fn an_id_of_two_kinds_is_ambiguous() {
    let found = messages(&with(good(), "connectors", components(["debug"])));
    assert!(
        found[0].starts_with("error: `debug` is defined under connectors and under exporters"),
        "{found:?}"
    );
}

#[test]
fn ids_have_the_syntax_of_the_collector() {
    for id in ["otlp", "otlp/2", "otlp/a.b-c", "file_log/x/y"] {
        assert_eq!(check_id(id), Ok(()), "{id}");
    }
    for id in ["", "/", "otlp/", "2x", "o-t", "otlp/a b", "ö"] {
        assert!(check_id(id).is_err(), "{id}");
    }
}

#[test]
fn a_section_of_the_wrong_shape_is_named() {
    let found = messages(&with(
        with(good(), "receivers", names(["otlp"])),
        "extra",
        Value::Null,
    ));
    assert!(
        found.contains(&"error: receivers is a list, not a map of component ids".to_owned()),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|message| message.starts_with("error: extra is no section")),
        "{found:?}"
    );
    assert_eq!(
        messages(&names([])),
        ["error: the config is a list, not a map of sections"]
    );
    assert!(!is_valid(&validate(&Value::Null)));
}

#[test]
fn a_reference_cannot_be_checked_and_is_warned_about() {
    let found = validate(&with(good(), "receivers", "${file:receivers.yaml}".into()));
    assert!(is_valid(&found), "{found:?}");
    assert_eq!(found.len(), 1);
}

#[test]
fn an_empty_section_is_a_warning() {
    let found = messages(&with(good(), "connectors", Value::Null));
    assert_eq!(
        found,
        ["warning: connectors is empty: fill it or remove it"]
    );
}

#[test]
fn a_processor_named_twice_is_refused_by_the_collector() {
    let found = messages(&config([(
        "logs",
        pipeline(["otlp"], ["batch", "batch"], ["debug"]),
    )]));
    assert_eq!(
        found,
        ["error: service.pipelines.logs.processors names `batch` twice: remove one"]
    );
}

#[test]
fn a_required_processor_counts_under_any_name() {
    let policy = Rule::RequireProcessor {
        pipeline: "logs".into(),
        processor: "batch".into(),
    }
    .always();
    let config = config([
        ("logs", pipeline(["otlp"], ["batch/big"], ["debug"])),
        ("logs/audit", pipeline(["otlp"], [], ["debug"])),
        ("traces", pipeline(["otlp"], [], ["debug"])),
    ]);
    let found = check_policies(&config, &[policy]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].message,
        "service.pipelines.logs/audit.processors has no `batch`, but policy says: logs pipelines contain the batch \
         processor: add it to the pipeline"
    );
}

#[test]
fn a_forbidden_component_is_found_under_its_old_name() {
    let policy = Rule::ForbidComponent {
        kind: Kind::Exporter,
        component: "otlp_http".into(),
    }
    .always();
    let config = with(
        good(),
        "exporters",
        components(["otlphttp/x", "otlp", "debug"]),
    );
    let found = check_policies(&config, std::slice::from_ref(&policy));
    assert_eq!(
        found
            .iter()
            .map(|finding| finding.path.to_string())
            .collect::<Vec<_>>(),
        ["exporters.otlphttp/x"]
    );
    assert_eq!(policy.to_string(), "no otlp_http exporter");
}

proptest! {
    #[test]
    fn no_document_makes_it_panic(value in any_value(), section in "receivers|connectors|service|exporters") {
        validate(&value);
        let config = with(good(), &section, value);
        validate(&config);
        check_policies(&config, &[Rule::RequireProcessor { pipeline: "logs".into(), processor: "x".into() }.always()]);
    }
}
