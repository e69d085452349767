//! The story Muster is for: personal data in the logs, one command, no more personal data in the logs.

use serde_json::Value;

use crate::fleet::{COLLECTOR, FAMILY, Fleet, Transport};
use crate::logs::{MASKED, PERSONAL};

#[test]
fn redaction_rolls_out_over_websocket_and_every_new_record_is_masked() {
    redaction_rolls_out(Transport::Ws);
}

#[test]
fn redaction_rolls_out_over_http_and_every_new_record_is_masked() {
    redaction_rolls_out(Transport::Http);
}

fn redaction_rolls_out(transport: Transport) {
    let fleet = Fleet::start(transport, 3);
    is_in_inventory(&fleet, transport);

    fleet.deliver("gateway", "agent");
    runs_what_was_sent(&fleet, 1);
    let before = fleet.sink.after(0, &fleet.send("before", 3));
    PERSONAL
        .iter()
        .for_each(|personal| assert!(before.contains(personal), "{personal} is not in {before}"));

    let manifests = fleet.manifest("gateway-redacted", "agent-redacted");
    let written = fleet
        .alice
        .run(&["apply", "-f", manifests.to_str().unwrap()]);
    assert_eq!(written.code, 6, "an approver may not write: {written:#?}");
    fleet.bob.apply(&manifests);
    is_previewed(&fleet.alice.json(&["preview", FAMILY, "--plan", "quick"]));
    let rollout = fleet.roll_out();
    rollout.completed();
    assert_eq!(rollout.rollout["total"]["converged"], 4, "{rollout:#?}");
    runs_what_was_sent(&fleet, 2);

    let offset = fleet.sink.len();
    let after = fleet.sink.after(offset, &fleet.send("after", 10));
    PERSONAL
        .iter()
        .for_each(|personal| assert!(!after.contains(personal), "{personal} is in {after}"));
    MASKED
        .iter()
        .for_each(|masked| assert!(after.contains(masked), "{masked} is not in {after}"));

    is_audited(&fleet, rollout.rollout["id"].as_str().unwrap());
}

/// Version, OS, health tree, components and effective config of every collector, before anything was delivered.
fn is_in_inventory(fleet: &Fleet, transport: Transport) {
    let word = match transport {
        Transport::Http => "http",
        Transport::Ws => "websocket",
    };
    let listed = fleet.alice.json(&[
        "agents",
        "list",
        "-l",
        "env = interop, role in (agent, gateway)",
    ]);
    assert_eq!(listed["total"], 4, "{listed:#}");
    for agent in listed["agents"].as_array().unwrap() {
        assert_eq!(agent["version"], COLLECTOR, "{agent:#}");
        assert_eq!(agent["service"], "otelcol-test", "{agent:#}");
        assert_eq!(agent["os"], "linux", "{agent:#}");
        assert_eq!(agent["transport"], word, "{agent:#}");
        assert_eq!(agent["state"], "unassigned", "{agent:#}");
        assert_eq!(agent["healthy"], true, "{agent:#}");
    }
    for supervisor in fleet.supervisors() {
        let detail = fleet.agent(&supervisor.name);
        assert_eq!(detail["token_labels"]["env"], "interop", "{detail:#}");
        let health = &detail["health"];
        assert_eq!(health["status"], "StatusOK", "{health:#}");
        assert!(
            names(&health["components"]).contains(&"extensions"),
            "{health:#}"
        );
        let kinds = detail["components"].as_array().unwrap();
        let processors = kinds
            .iter()
            .find(|kind| kind["kind"] == "processors")
            .unwrap();
        assert!(
            processors["components"]
                .as_array()
                .unwrap()
                .contains(&"redaction".into()),
            "{processors:#}"
        );
        assert!(effective(&detail).contains("opamp:"), "{detail:#}");
    }
}

/// Each collector runs the configuration of this revision, all of its pipelines are healthy, and its effective config,
/// as the collector resolved it, says so.
fn runs_what_was_sent(fleet: &Fleet, revision: u64) {
    for supervisor in fleet.supervisors() {
        let detail = fleet.agent(&supervisor.name);
        let agent = &detail["agent"];
        assert_eq!(agent["state"], "converged", "{detail:#}");
        assert_eq!(agent["revision"], revision, "{agent:#}");
        assert_eq!(agent["delivery_hash"], agent["reported_hash"], "{agent:#}");
        assert_eq!(detail["delivery"]["offers"], 1, "{detail:#}");
        assert!(
            names(&detail["health"]["components"]).contains(&"pipeline:logs"),
            "{detail:#}"
        );
        let effective = effective(&detail);
        assert!(
            effective.contains(&supervisor.otlp.to_string()),
            "{effective}"
        );
        assert_eq!(
            effective.contains("redaction"),
            revision == 2,
            "{effective}"
        );
    }
}

/// Gateway first, everyone changed, and the change is shown.
fn is_previewed(preview: &Value) {
    assert_eq!(
        (&preview["members"], &preview["changed"]),
        (&4.into(), &4.into()),
        "{preview:#}"
    );
    let roles: Vec<_> = preview["roles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|role| &role["role"])
        .collect();
    assert_eq!(roles, ["gateway", "agent"], "{preview:#}");
    for group in preview["groups"].as_array().unwrap() {
        assert!(
            group["diff"].as_str().unwrap().contains("redaction"),
            "{group:#}"
        );
        assert!(
            group["against"].as_str().unwrap().contains("r1"),
            "{group:#}"
        );
    }
}

/// Who did what, and the proof.
fn is_audited(fleet: &Fleet, rollout: &str) {
    let all = fleet.alice.json(&["audit", "list", "--limit", "1000"]);
    let entries = all["entries"].as_array().unwrap();
    let by = |actor: &str, action: &str, object: &str| {
        let matching = |entry: &&Value| {
            entry["actor"].as_str().unwrap().contains(actor)
                && entry["action"].as_str().unwrap().starts_with(action)
                && entry["object"].as_str().unwrap().contains(object)
        };
        entries.iter().filter(matching).count()
    };
    assert_eq!(by("bob", "family.apply", FAMILY), 2, "{all:#}");
    assert_eq!(by("alice", "rollout.start", rollout), 1, "{all:#}");
    assert_eq!(by("", "agent.register", "agent/"), 4, "{all:#}");
    assert_eq!(by("admin", "token.create", "alice"), 1, "{all:#}");
    fleet.alice.ok(&["audit", "verify"]);
}

fn names(components: &Value) -> Vec<&str> {
    components
        .as_array()
        .unwrap()
        .iter()
        .map(|component| component["name"].as_str().unwrap())
        .collect()
}

fn effective(detail: &Value) -> &str {
    detail["effective"][0]["body"]
        .as_str()
        .unwrap_or_else(|| panic!("no effective config: {detail:#}"))
}
