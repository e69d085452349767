use fleet::components;
use fleet::drift;
use fleet::program::OwnerChange;
use fleet::rollout::{Check, CheckSpec, Gate, OnStop};
use fleet::selector::Version;
use fleet::versions;
use fleet::waves::Size;

use super::*;

const FAMILY: &str = "apiVersion: muster/v1
kind: Family
metadata: {name: pii-redaction, owner: platform-security}
spec:
  precedence: 100
  roles:
    - name: gateway
      selector: \"role = gateway\"
      configFile: gateway.yaml
    - name: agent
      after: [gateway]
      selector: \"role = agent, env in (prod, staging)\"
      config: |
        receivers: {nop: {}}
  policies: [{require: {pipeline: logs, processor: redaction}}]
---
apiVersion: muster/v1
kind: Plan
metadata: {name: careful}
spec:
  waves:
    - {size: 1, soak: 2m}
    - {size: 10%, soak: 10m, gate: {success: 99%, maxFailures: 1%, minSample: 20}}
    - {size: 100%}
  onStop: hold
";

fn files() -> BTreeMap<String, String> {
    BTreeMap::from([(
        "gateway.yaml".to_owned(),
        "receivers: {otlp: {}}".to_owned(),
    )])
}

fn mistakes(yaml: &str) -> String {
    let mistakes = parse("f.yaml", yaml, &files()).unwrap_err();
    mistakes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_documented_manifests_are_read() {
    let manifests = parse("f.yaml", FAMILY, &files()).unwrap();
    let [Manifest::Family(family), Manifest::Plan { name, spec }] = manifests.as_slice() else {
        panic!()
    };
    assert_eq!(
        (family.name.as_str(), family.precedence, family.roles.len()),
        ("pii-redaction", 100, 2)
    );
    assert_eq!(
        family.roles[0].config.values().next().unwrap().body,
        "receivers: {otlp: {}}"
    );
    assert_eq!(family.roles[1].after, ["gateway"]);
    assert_eq!((name.as_str(), spec.on_stop), ("careful", OnStop::Hold));
    assert_eq!(spec.waves[1].size, Size::Percent(10_000));
    assert_eq!(spec.waves[0].soak_ms, 120_000);
    assert_eq!(spec.waves[1].gate.max_failures, Some(Size::Percent(1_000)));
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let text = mistakes(&FAMILY.replace("precedence: 100", "precedence: 100\n  presedence: 1"));
    assert!(
        text.contains("spec has an unknown key `presedence`"),
        "{text}"
    );
}

#[test]
fn a_config_file_that_was_not_sent_is_named() {
    let text = mistakes(&FAMILY.replace("configFile: gateway.yaml", "configFile: other.yaml"));
    assert!(
        text.contains("configFile `other.yaml` was not found"),
        "{text}"
    );
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = mistakes(
        "apiVersion: muster/v1\nkind: Family\nmetadata: {name: x}\nspec: {roles: [{name: a, selector: \"a ==\", config: 1}]}",
    );
    assert!(
        text.contains("precedence") && text.contains("selector") && text.contains("config"),
        "{text}"
    );
}

#[test]
fn percent_of_nothing_and_bad_durations_are_refused() {
    let text = mistakes(
        &FAMILY
            .replace("size: 10%", "size: 0%")
            .replace("soak: 2m", "soak: soon"),
    );
    assert!(text.contains("0 %") && text.contains("`soon`"), "{text}");
}

const SETTINGS: &str = "
  approvals: 2
  ownerChange: auto
  drift: re-offer
  missingComponents: block
  versions: {from: '0.150', below: 0.160.0, behind: 2}
  policies:";

/// A rule with a condition.
const CONDITION: (&str, &str) = (
    "processor: redaction}}]",
    "processor: redaction}, where: 'env = prod'}]",
);

/// The documented family with everything that a family may say.
fn whole() -> String {
    FAMILY.replace("\n  policies:", SETTINGS)
}

fn family(yaml: &str) -> FamilySpec {
    let manifests = parse("f.yaml", yaml, &files()).unwrap();
    let mut families = manifests.into_iter().filter_map(|manifest| match manifest {
        Manifest::Family(family) => Some(family),
        _ => None,
    });
    families.next_back().unwrap()
}

fn plan(spec: &str) -> String {
    format!("apiVersion: muster/v1\nkind: Plan\nmetadata: {{name: p}}\nspec: {spec}\n")
}

fn budget(spec: &str) -> String {
    format!("apiVersion: muster/v1\nkind: Budget\nmetadata: {{name: fleet}}\nspec: {spec}\n")
}

/// A wave with this check.
fn check(check: &str) -> String {
    plan(&format!(
        "{{waves: [{{size: 1, gate: {{checks: [converged, {check}]}}}}, {{size: 100%}}]}}"
    ))
}

/// Every case is refused with a text that contains what stands beside it.
fn refused(cases: &[(String, &str)]) {
    for (yaml, expected) in cases {
        let text = mistakes(yaml);
        assert!(
            text.contains(expected),
            "{text}\nlacks: {expected}\nof:\n{yaml}"
        );
    }
}

#[test]
fn a_familys_settings_and_approvals_are_read() {
    let spec = family(&whole());
    let expected = Settings {
        owner_change: OwnerChange::Auto,
        drift: drift::Policy::ReOffer,
        versions: versions::Policy {
            from: Version::parse("0.150"),
            below: Version::parse("0.160"),
            behind_max: Some(2),
        },
        missing: components::Policy::Block,
    };
    assert_eq!((spec.approvals, spec.settings), (2, expected));
    let plain = family(FAMILY);
    assert_eq!((plain.approvals, plain.settings), (0, Settings::default()));
}

#[test]
fn approvals_and_settings_are_part_of_the_revision() {
    let plain = family(FAMILY);
    let asking = family(&FAMILY.replace("precedence: 100", "precedence: 100\n  approvals: 1"));
    let set = family(&FAMILY.replace("precedence: 100", "precedence: 100\n  drift: re-offer"));
    let none = family(&FAMILY.replace("precedence: 100", "precedence: 100\n  approvals: 0"));
    assert_ne!(plain.revision_hash(), asking.revision_hash());
    assert_ne!(plain.revision_hash(), set.revision_hash());
    assert_eq!(plain.revision_hash(), none.revision_hash());
    let policies: Vec<String> = plain.policies.iter().map(policy_text).collect();
    let before = fleet::family::revision_hash(plain.precedence, &plain.roles, &policies);
    assert_eq!(plain.revision_hash(), before);
}

#[test]
fn a_policy_may_be_about_some_agents_only_and_that_is_part_of_the_revision() {
    let with = |rule: &str| {
        let rule = format!("policies: [{rule}, ");
        family(&FAMILY.replace("policies: [", &rule))
    };
    let always = with("{forbid: {kind: exporter, component: debug}}");
    let prod = with("{forbid: {kind: exporter, component: debug}, where: 'env = prod'}");
    assert_eq!(
        policy_text(&prod.policies[0]),
        "no `debug` exporter where env = prod"
    );
    assert_eq!(always.policies[0].only, None);
    assert_ne!(always.revision_hash(), prod.revision_hash());
    let stored = crate::control::policy_to_store(&prod.policies[0]);
    assert_eq!(
        crate::control::policy(&stored).as_ref(),
        prod.policies.first()
    );
    refused(&[
        (
            FAMILY.replace("redaction}}", "redaction}, where: 'env =='}"),
            "spec.policies[0].where `env ==`",
        ),
        (
            FAMILY.replace(
                "{require: {pipeline: logs, processor: redaction}}",
                "{where: 'env = prod'}",
            ),
            "spec.policies[0] is no rule",
        ),
    ]);
}

#[test]
fn a_setting_that_is_none_is_refused_with_what_may_stand_there() {
    let with = |from: &str, to: &str| whole().replace(from, to);
    refused(&[
        (
            with("approvals: 2", "approvals: 11"),
            "spec.approvals is no whole number from 0 to 10",
        ),
        (
            with("approvals: 2", "approvals: -1"),
            "spec.approvals is no whole number",
        ),
        (
            with("approvals: 2", "approvals: two"),
            "spec.approvals is no whole number",
        ),
        (
            with("ownerChange: auto", "ownerChange: never"),
            "spec.ownerChange is `never`: use `ask`",
        ),
        (
            with("drift: re-offer", "drift: heal"),
            "spec.drift is `heal`: use `report`",
        ),
        (
            with("missingComponents: block", "missingComponents: ignore"),
            "spec.missingComponents is `ignore`: use `exclude`",
        ),
        (
            with("from: '0.150'", "from: 0.150"),
            "spec.versions.from is a number, in which 0.150 and 0.15 are the same",
        ),
        (
            with("from: '0.150'", "from: latest"),
            "spec.versions.from is `latest`, which is no version",
        ),
        (
            with("behind: 2", "behind: -2"),
            "spec.versions.behind is no count",
        ),
        (
            with("behind: 2", "ahead: 2"),
            "spec.versions has an unknown key `ahead`",
        ),
        (
            with("from: '0.150'", "from: 0.170.0"),
            "version policy of family pii-redaction allows nothing: 0.170.0 is not below 0.160.0",
        ),
        (
            with(
                "versions: {from: '0.150', below: 0.160.0, behind: 2}",
                "versions: new",
            ),
            "spec.versions is a string: a map is needed",
        ),
    ]);
}

#[test]
fn checks_that_ask_somebody_are_read() {
    let checks = "{promql: 'up == 1'}, {webhook: 'https://gate.example/ok', observe: true}, {person: sre}, {check: flow, observe: true}";
    let manifests = parse("p.yaml", &check(checks), &BTreeMap::new()).unwrap();
    let [Manifest::Plan { spec, .. }] = manifests.as_slice() else {
        panic!()
    };
    let expected = [
        (Check::Converged, false),
        (Check::PromQl("up == 1".to_owned()), false),
        (Check::Webhook("https://gate.example/ok".to_owned()), true),
        (Check::Person("sre".to_owned()), false),
        (Check::Flow, true),
    ];
    let expected = expected.map(|(check, observe)| CheckSpec { check, observe });
    assert_eq!(spec.waves[0].gate.checks, expected);
}

#[test]
fn a_check_that_asks_nothing_or_nobody_is_refused() {
    let cases = [
        (
            "promql",
            "is `promql`, which asks for something: write {promql: …}",
        ),
        ("magic", "is `magic`: use one of converged, healthy"),
        ("{promql: ''}", "wave 1: check `promql` has no query"),
        (
            "{person: ' '}",
            "wave 1: check `person` has no person or team",
        ),
        ("{webhook: ''}", "wave 1: check `webhook` has no URL"),
        (
            "{webhook: 'ftp://gate'}",
            "checks[1].webhook is `ftp://gate`: use a URL that begins with http://",
        ),
        (
            "{webhook: 'https://'}",
            "use a URL that begins with http://",
        ),
        ("{webhook: 'https:///ok'}", "names a host"),
        (
            "{webhook: 'https://gate /ok'}",
            "use a URL that begins with http://",
        ),
        (
            "{promql: up, person: sre}",
            "has 2 of check, promql, webhook, person: give it exactly one",
        ),
        (
            "{observe: true}",
            "has 0 of check, promql, webhook, person: give it exactly one",
        ),
        (
            "{person: sre, observe: maybe}",
            "observe is neither true nor false",
        ),
        ("{person: sre, when: now}", "has an unknown key `when`"),
        ("[person]", "a text is needed"),
    ];
    refused(&cases.map(|(written, expected)| (check(written), expected)));
}

#[test]
fn an_urgent_plan_has_a_canary_and_one_wave_more() {
    let sound = plan("{urgent: true, waves: [{size: 1, soak: 30s, maxInFlight: 5}, {size: 100%}]}");
    let manifests = parse("p.yaml", &sound, &BTreeMap::new()).unwrap();
    let [Manifest::Plan { spec, .. }] = manifests.as_slice() else {
        panic!()
    };
    assert!(spec.urgent);
    assert_eq!(
        (spec.waves[0].max_in_flight, spec.waves[1].max_in_flight),
        (5, 0)
    );
    refused(&[
        (
            plan("{urgent: true, waves: [{size: 100%}]}"),
            "an urgent plan has 1 waves: give it a canary wave and one for everything else",
        ),
        (
            plan("{urgent: yes please, waves: [{size: 1}, {size: 100%}]}"),
            "spec.urgent is neither true nor false",
        ),
        (
            plan("{waves: [{size: 1, maxInFlight: 0}]}"),
            "spec.waves[0].maxInFlight is no count of at least 1: leave it out for no limit",
        ),
        (
            plan("{waves: [{size: 1, maxInFlight: 10%}]}"),
            "maxInFlight is no count",
        ),
    ]);
}

#[test]
fn plans_that_are_built_in_cannot_be_written() {
    for name in ["default", "urgent", "rollback"] {
        let yaml = plan("{waves: [{size: 100%}]}").replace("name: p", &format!("name: {name}"));
        let text = mistakes(&yaml);
        assert!(
            text.contains(&format!("plan `{name}` is built in and cannot be changed")),
            "{text}"
        );
    }
}

#[test]
fn a_budget_is_read_and_what_it_leaves_out_is_the_default() {
    let read = |spec: &str| {
        let manifests = parse("b.yaml", &budget(spec), &BTreeMap::new()).unwrap();
        let [Manifest::Budget(budget)] = manifests.as_slice() else {
            panic!()
        };
        budget.clone()
    };
    assert_eq!(read("{}"), Budget::default());
    let expected = Budget {
        label: "cluster".to_owned(),
        size: Size::Count(3),
        urgent: Size::Percent(40_000),
    };
    assert_eq!(read("{label: cluster, size: 3, urgent: 40%}"), expected);
}

#[test]
fn a_budget_of_nothing_is_refused() {
    refused(&[
        (
            budget("{size: 0%}"),
            "spec.size is no share of a failure domain",
        ),
        (
            budget("{size: 0}"),
            "spec.size is no share of a failure domain",
        ),
        (
            budget("{urgent: 101%}"),
            "spec.urgent is no share of a failure domain",
        ),
        (
            budget("{size: some}"),
            "spec.size is no share of a failure domain",
        ),
        (
            budget("{size: 60%}"),
            "spec.urgent is 50%, less than the 60% of spec.size",
        ),
        (budget("{label: ''}"), "spec.label is empty"),
        (budget("{zone: a}"), "spec has an unknown key `zone`"),
        (
            budget("{}").replace("name: fleet", "name: mine"),
            "metadata.name is `mine`: there is one budget, name it `fleet`",
        ),
        (
            budget("{}").replace("kind: Budget", "kind: Fleet"),
            "kind is `Fleet`: use `Family`, `Plan` or `Budget`",
        ),
    ]);
}

#[test]
fn a_manifest_that_is_written_says_what_was_read() {
    let rich = plan(
        "{interleave: true, onStop: roll back all, waves: [{size: 2, zone: a, selector: 'env = prod', soak: 90s, \
         maxInFlight: 5, maxUnreachable: 5%, unreachableWait: 1m, deadline: 1h, gate: {success: 97.5%, maxFailures: 2, \
         minSample: 5, checks: [converged, {check: flow, observe: true}, {person: sre}]}}, {size: 100%}]}",
    );
    let several = FAMILY.replace(
        "configFile: gateway.yaml",
        "config: {a.yaml: 'x: 1', b.yaml: 'y: 1'}",
    );
    let conditional = FAMILY.replace(CONDITION.0, CONDITION.1);
    let yamls = [
        whole(),
        conditional,
        several,
        rich,
        budget("{size: 3, urgent: 4}"),
    ];
    for yaml in yamls {
        for manifest in parse("f.yaml", &yaml, &files()).unwrap() {
            let mut written = super::files(&manifest);
            let path = written
                .keys()
                .find(|path| path.matches('/').count() == 1)
                .cloned();
            let body = path.and_then(|path| written.remove(&path));
            let bodies = written.into_iter();
            let bodies = bodies.map(|(path, body)| (path.replacen("family/", "", 1), body));
            let again = parse("f.yaml", &body.unwrap(), &bodies.collect()).unwrap();
            assert_eq!(again, [manifest]);
        }
    }
}

#[test]
fn a_patch_shows_what_differs_and_nothing_else() {
    let before = family(FAMILY);
    let mut after = before.clone();
    after.settings.owner_change = OwnerChange::Auto;
    let config = after.roles[0].config.values_mut().next().unwrap();
    config.body = "receivers: {nop: {}}".to_owned();
    let (before, after) = (Manifest::Family(before), Manifest::Family(after));
    let text = patch(&before, &after);
    for expected in [
        "--- a/family/pii-redaction.yaml\n+++ b/family/pii-redaction.yaml\n",
        "+  ownerChange: auto\n",
        "--- a/family/pii-redaction/gateway/config.yaml\n",
        "-receivers: {otlp: {}}\n",
        "+receivers: {nop: {}}\n",
    ] {
        assert!(text.contains(expected), "{text}\nlacks: {expected}");
    }
    assert!(!text.contains("agent/config.yaml\n+++"), "{text}");
    assert_eq!(patch(&after, &after), "");
}

#[test]
fn a_gate_that_says_the_defaults_is_not_written() {
    let manifests = parse("f.yaml", FAMILY, &files()).unwrap();
    let [_, Manifest::Plan { spec, .. }] = manifests.as_slice() else {
        panic!()
    };
    assert_eq!(spec.waves[0].gate, Gate::default());
    let text = super::files(&manifests[1])
        .into_values()
        .collect::<String>();
    assert_eq!(text.matches("gate").count(), 1, "{text}");
}

#[test]
fn every_manifest_in_the_documentation_is_read() {
    let page = include_str!("../../../docs/manifests.md");
    let blocks = page.split("```yaml\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    let whole: Vec<&str> = blocks.filter(|block| !block.contains('…')).collect();
    assert_eq!(whole.len(), 3);
    let config = || "receivers: {otlp: {}}".to_owned();
    let files = ["gateway.yaml", "agent.yaml"].map(|path| (path.to_owned(), config()));
    for yaml in whole {
        let read = parse("docs", yaml, &BTreeMap::from(files.clone()));
        assert_eq!(read.map(|manifests| manifests.len()), Ok(1), "{yaml}");
    }
}
