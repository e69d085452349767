//! Drift, kind by kind.

use super::*;
use crate::selector::Version;
use crate::value::testing::flow;

fn hash(text: &str) -> Digest {
    Digest::of("test", &[text.as_bytes()])
}

fn quiet() -> Subject<'static> {
    Subject {
        content: None,
        contradicts: false,
        should: Some((RevisionNumber(3), hash("r3"))),
        reported: Some((hash("r3"), Reported::Applied)),
        reported_revision: Some(RevisionNumber(3)),
        went_back_from: None,
        version: None,
        identity: None,
    }
}

fn said(subject: &Subject<'_>) -> Vec<String> {
    drift(subject).iter().map(Drift::to_string).collect()
}

fn lines(content: &Content) -> Vec<String> {
    content.all().iter().map(Difference::to_string).collect()
}

#[test]
fn what_the_supervisor_and_components_add_is_named_and_no_drift() {
    let delivered =
        flow("{receivers: {otlp: {}}, service: {pipelines: {logs: {receivers: [otlp]}}}}");
    let effective = flow(
        "{receivers: {otlp: {protocols: {grpc: {endpoint: here}}}}, extensions: {opamp: {server: x}}, \
         service: {extensions: [opamp], telemetry: {metrics: {level: none}}, pipelines: {logs: {receivers: [otlp]}}}}",
    );
    let content = content(&delivered, &effective, &[]);
    assert!(!content.is_drift());
    assert_eq!(
        lines(&content),
        [
            "extensions.opamp was not delivered, from the supervisor",
            "receivers.otlp.protocols was not delivered, from the component's defaults",
            "service.extensions was not delivered, from the supervisor",
            "service.telemetry was not delivered, from the supervisor",
        ]
    );
}

#[test]
fn each_differing_key_is_told_with_its_origin() {
    let delivered = flow(
        "{exporters: {otlp: {endpoint: a, timeout: 1m}}, processors: {redaction: {}}, \
         service: {extensions: [health], pipelines: {logs: {processors: [redaction, batch]}}}}",
    );
    let effective = flow(
        "{exporters: {otlp: {endpoint: b, timeout: 1m0s}, debug: {verbosity: basic}}, \
         service: {extensions: [pprof], pipelines: {logs: {processors: [batch]}, traces: {receivers: [x]}}}}",
    );
    let local = Layer {
        name: "/etc/otel/local.yaml".into(),
        document: flow("{exporters: {debug: {verbosity: basic}}, service: {extensions: [pprof]}}"),
    };
    let content = content(&delivered, &effective, &[local]);
    assert_eq!(
        lines(&content),
        [
            "exporters.debug was not delivered, from /etc/otel/local.yaml",
            "exporters.otlp.endpoint is b instead of a, from an unknown origin",
            "processors was delivered and is missing",
            "service.extensions was delivered and is missing",
            "service.extensions was not delivered, from /etc/otel/local.yaml",
            "service.pipelines.logs.processors is [batch] instead of [redaction, batch], from an unknown origin",
            "service.pipelines.traces was not delivered, from an unknown origin",
        ]
    );
    assert_eq!(content.differences().count(), 5);
}

#[test]
fn a_section_that_is_gone_is_missing_and_an_empty_one_is_nothing() {
    let delivered =
        flow("{exporters: {otlp: {endpoint: a}}, receivers: {nop: {}}, service: {pipelines: {}}}");
    let effective = flow("{receivers: {nop: null}, service: {pipelines: text}}");
    assert_eq!(
        lines(&content(&delivered, &effective, &[])),
        [
            "exporters was delivered and is missing",
            "service.pipelines is text instead of {}, from an unknown origin",
        ]
    );
}

#[test]
fn redacted_and_resolved_values_cannot_be_compared() {
    let delivered = flow(
        "{exporters: {otlp: {headers: {api-key: secret}, endpoint: \"${env:HOST}\", url: \"http://a\"}}}",
    );
    let effective = flow(
        "{exporters: {otlp: {headers: {api-key: \"[REDACTED]\"}, endpoint: x, url: \"https://[REDACTED]\"}}}",
    );
    let content = content(&delivered, &effective, &[]);
    assert_eq!(
        lines(&content),
        [
            "exporters.otlp.endpoint cannot be compared",
            "exporters.otlp.headers.api-key cannot be compared",
            "exporters.otlp.url is \"https://[REDACTED]\" instead of \"http://a\", from an unknown origin",
        ]
    );
    assert_eq!(content.differences().count(), 1);
}

#[test]
fn an_agent_as_it_should_be_has_no_drift() {
    assert_eq!(said(&quiet()), [""; 0]);
}

#[test]
fn a_contradiction_is_drift_also_where_its_keys_are_not_known() {
    let contradicts = Subject {
        contradicts: true,
        ..quiet()
    };
    assert_eq!(
        said(&contradicts),
        ["content: what it runs contradicts what was delivered, in keys that are not known"]
    );
    let sent = flow("{exporters: {otlp: {endpoint: a}}}");
    let content = content(&sent, &flow("{exporters: {otlp: {endpoint: b}}}"), &[]);
    let known = Subject {
        content: Some(&content),
        ..contradicts
    };
    assert_eq!(
        said(&known),
        ["content: exporters.otlp.endpoint is b instead of a, from an unknown origin"]
    );
}

#[test]
fn every_kind_of_drift_is_told_by_name() {
    let sent = flow("{exporters: {otlp: {endpoint: a}}}");
    let runs = flow("{exporters: {otlp: {endpoint: b}}}");
    let content = content(&sent, &runs, &[]);
    let subject = Subject {
        content: Some(&content),
        reported: Some((hash("r2"), Reported::Applied)),
        reported_revision: Some(RevisionNumber(2)),
        version: Some(Violation::TooLow(Version::parse("0.1").unwrap())),
        ..quiet()
    };
    assert_eq!(
        said(&subject),
        [
            "content: exporters.otlp.endpoint is b instead of a, from an unknown origin",
            "assignment: runs revision 2, should run 3",
            "version: 0.1.0 is below the family's range: upgrade it",
        ]
    );
    let stranger = Subject {
        reported_revision: None,
        content: None,
        version: None,
        ..subject.clone()
    };
    assert_eq!(
        said(&stranger),
        ["assignment: runs a config of no known revision, should run revision 3"]
    );
    let fallback = Subject {
        went_back_from: Some(hash("r3")),
        ..stranger.clone()
    };
    let expected = format!(
        "fallback: {} failed, it runs its last good config {}",
        hash("r3"),
        hash("r2")
    );
    assert_eq!(said(&fallback), [expected]);
    let put_back = Identity::Reverted {
        runs: hash("r2"),
        applied: hash("r3"),
    };
    let text = format!(
        "identity: its machine was put back to an older snapshot: it runs {} again, which it got before {}",
        hash("r2"),
        hash("r3")
    );
    for (identity, text) in [
        (
            Identity::Duplicate,
            "identity: two agents speak with one uid",
        ),
        (put_back, text.as_str()),
    ] {
        let cloned = Subject {
            identity: Some(identity),
            ..subject.clone()
        };
        assert_eq!(said(&cloned), [text]);
    }
}

#[test]
fn a_re_offer_obeys_refusals_budget_and_goes_once() {
    let assignment = Drift::Assignment {
        runs: None,
        should: RevisionNumber(3),
    };
    let heal = |refused, tried, room| answer(&assignment, Policy::ReOffer, refused, tried, room);
    assert_eq!(heal(false, false, true), Answer::ReOffer);
    assert_eq!(
        heal(true, false, true).to_string(),
        "reported: it failed with that config, only a person retries"
    );
    assert_eq!(heal(true, false, true), Answer::Report(Why::Refused));
    assert_eq!(heal(false, true, true), Answer::Report(Why::TriedBefore));
    assert_eq!(heal(false, false, false), Answer::Report(Why::NoRoom));
    let identity = Drift::Identity(Identity::Duplicate);
    assert_eq!(
        answer(&identity, Policy::ReOffer, false, false, true),
        Answer::Report(Why::NotByConfig)
    );
    assert_eq!(
        answer(&assignment, Policy::Report, false, false, true),
        Answer::Report(Why::Policy)
    );
    let put_back = Drift::Identity(Identity::Reverted {
        runs: hash("r2"),
        applied: hash("r3"),
    });
    let heal = |policy, refused| answer(&put_back, policy, refused, false, true);
    assert_eq!(heal(Policy::ReOffer, false), Answer::ReOffer);
    assert_eq!(heal(Policy::ReOffer, true), Answer::Report(Why::Refused));
    assert_eq!(heal(Policy::Report, false), Answer::Report(Why::Policy));
}

#[test]
fn an_agent_that_runs_an_earlier_delivery_again_without_an_offer_was_put_back() {
    let earlier = [hash("r2"), hash("r1")];
    let seen = |state, runs: &str, reported| {
        let reported = Some((hash(runs), reported));
        reverted(Some((hash("r3"), state)), &earlier, reported)
    };
    for runs in ["r2", "r1"] {
        let put_back = Identity::Reverted {
            runs: hash(runs),
            applied: hash("r3"),
        };
        assert_eq!(
            seen(State::Applied, runs, Reported::Applied),
            Some(put_back)
        );
    }
    let others = [
        (State::Applied, "r3", Reported::Applied, "it runs the last"),
        (State::Applied, "x", Reported::Applied, "it never got that"),
        (State::Applied, "r2", Reported::Failed, "it does not run it"),
        (State::Offered, "r2", Reported::Applied, "the last may come"),
        (State::Failed, "r2", Reported::Applied, "it fell back"),
        (
            State::RolledBackByAgent,
            "r2",
            Reported::Applied,
            "it went back by itself",
        ),
    ];
    for (state, runs, reported, why) in others {
        assert_eq!(seen(state, runs, reported), None, "{why}");
    }
    assert_eq!(reverted(None, &earlier, None), None);
}
