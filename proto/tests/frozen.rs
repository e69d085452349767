//! The bytes of everything that `muster.store.v1` puts on disk: one value of each form, every field set, as hexadecimal
//! text in `frozen/`.
//!
//! Never edit a line of those files: such bytes stand in databases and snapshots, and have to be read for ever. A field
//! that is added is left empty here; it gets a value, and a file, of its own beside the old one. Where a form has to
//! change otherwise, it gets a new number in `Entry.format`, or the state machine a new `FORMAT`, and a new file; the old
//! file stays for the code that reads it.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use prost::Message;
use proto::store::{self, outcome, policy, size};

/// Bytes in a line of a file.
const LINE: usize = 32;

/// Encodes to what stands in the file, which decodes to the same.
#[track_caller]
fn frozen<M: Message + Default + PartialEq + Debug>(name: &str, message: &M) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen");
    let file = dir.join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let bytes = hex::decode(text.split_whitespace().collect::<String>()).unwrap();
    let lines: Vec<String> = message
        .encode_to_vec()
        .chunks(LINE)
        .map(hex::encode)
        .collect();
    let encoded = lines.join("\n");
    assert_eq!(
        encoded,
        text.trim_end(),
        "{} differs; encoded is\n{encoded}\n",
        file.display()
    );
    assert_eq!(M::decode(bytes.as_slice()).unwrap(), *message);
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().copied().map(text).collect()
}

fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    BTreeMap::from(pairs.map(|(key, value)| (text(key), text(value))))
}

fn owner(family: &str, role: &str) -> store::Owner {
    store::Owner {
        family: text(family),
        role: text(role),
    }
}

fn count(count: u64) -> store::Size {
    store::Size {
        size: Some(size::Size::Count(count)),
    }
}

fn percent(milli: u32) -> store::Size {
    store::Size {
        size: Some(size::Size::PercentMilli(milli)),
    }
}

// === entries ===

fn act() -> store::Act {
    store::Act {
        actor: text("ana"),
        action: text("rollout.halt"),
        object: text("rollout/r1"),
        detail: text("latency"),
        at_ms: 1_700_000_000_000,
    }
}

#[test]
fn entries_of_format_1_are_frozen() {
    let write = store::Write {
        table: 20,
        key: b"edge".to_vec(),
        expect: 300,
        any_version: false,
        value: vec![1, 2, 3],
        delete: false,
        only_compare: false,
        if_absent: false,
    };
    let flags = |any_version, delete, only_compare, if_absent| store::Write {
        any_version,
        delete,
        only_compare,
        if_absent,
        ..store::Write::default()
    };
    let entry = store::Entry {
        format: 1,
        idempotency_key: text("apply k1"),
        epoch: 1_000,
        writes: vec![
            write,
            flags(true, false, false, false),
            flags(false, true, false, false),
            flags(false, false, true, false),
            flags(false, false, false, true),
        ],
        acts: vec![act()],
        raise_floor: 1_001,
    };
    frozen("entry", &entry);
}

#[test]
fn outcomes_are_frozen() {
    let of = |outcome| store::Outcome {
        outcome: Some(outcome),
    };
    let stored = store::Stored { version: 300 };
    frozen("outcome-stored", &of(outcome::Outcome::Stored(stored)));
    let conflict = store::Conflict {
        table: 20,
        key: b"edge".to_vec(),
        expected: 300,
        found: 301,
    };
    frozen(
        "outcome-conflict",
        &of(outcome::Outcome::Conflict(conflict)),
    );
    let stale = store::StaleEpoch {
        epoch: 7,
        floor: 1_001,
    };
    frozen("outcome-stale", &of(outcome::Outcome::StaleEpoch(stale)));
}

#[test]
fn audit_entries_are_frozen() {
    let record = store::ActRecord {
        seq: 300,
        prev: vec![1; 32],
        hash: vec![2; 32],
        act: Some(act()),
    };
    frozen("audit-entry", &record);
}

// === inventory ===

fn delivery() -> store::Delivery {
    store::Delivery {
        hash: vec![3; 32],
        state: store::DeliveryState::RolledBackByAgent.into(),
        family: text("edge"),
        role: text("agent"),
        revision: 4,
        rollout: text("r1"),
        epoch: 1_000,
        offered_ms: 11,
        answered_ms: 12,
        offers: 2,
        was_healthy: true,
        error: text("unknown processor"),
        effective: store::Match::No.into(),
        converged_ms: 13,
        previous: vec![4; 32],
        number: 14,
        owned_since: 900,
        restarts: 1,
        reoffered: true,
        earlier: vec![vec![5; 32], vec![6; 32]],
        asking: vec![],
    }
}

fn agent() -> store::Agent {
    let file = store::EffectiveFile {
        name: text("main.yaml"),
        body: vec![7; 32],
        dropped: text("too large to keep"),
        size: 2_000_000,
        substitutions: texts(&["host-17"]),
    };
    store::Agent {
        uid: (1..=16).collect(),
        first_seen_ms: 1_700_000_000_000,
        attributes: vec![store::Attribute {
            key: text("host.name"),
            value: text("host-17"),
            identifying: true,
        }],
        operator_labels: map([("env", "prod"), ("zone", "a")]),
        token_labels: map([("team", "pay")]),
        token: text("fleet"),
        capabilities: 0x1867,
        health: Some(store::HealthState {
            healthy: true,
            status: text("StatusOK"),
            last_error: text("none"),
            started_unix_nano: 1_700_000_000_000_000_000,
            tree: vec![8; 32],
            since_ms: 21,
        }),
        status: Some(store::ConfigStatus {
            hash: vec![3; 32],
            state: store::ConfigState::Failed.into(),
            error: text("unknown processor"),
            since_ms: 22,
        }),
        delivery: Some(delivery()),
        refused: vec![store::Refusal {
            hash: vec![3; 32],
            why: text("it failed"),
            at_ms: 23,
            epoch: 0,
        }],
        effective: Some(store::EffectiveConfig {
            files: vec![file],
            at_ms: 24,
        }),
        components: Some(store::ComponentList {
            hash: vec![9; 32],
            body: vec![10; 32],
        }),
        number: 25,
        digest: vec![11; 16],
        link: store::Link::Lost.into(),
        link_since_ms: 26,
        duplicate: true,
        alias_of: vec![12; 16],
        custom_capabilities: texts(&["org.example"]),
        restart_pending: true,
        restart_sent_ms: 27,
        transport: text("websocket"),
        peer: text("10.0.0.1:4000"),
        last_seen_ms: 28,
        started_ms: 29,
        restarts: 3,
        full_asked: true,
        reassigned_to: vec![13; 16],
        granted: Some(owner("edge", "agent")),
        stopped: true,
        heard_in: 0,
        conflict: vec![],
        resolved_epoch: 0,
    }
}

#[test]
fn agents_are_frozen() {
    frozen("agent", &agent());
}

#[test]
fn what_a_restore_leaves_open_about_an_agent_is_frozen() {
    let in_doubt = store::Agent {
        uid: vec![1; 16],
        heard_in: 2,
        conflict: vec![14; 32],
        ..store::Agent::default()
    };
    frozen("agent-in-doubt", &in_doubt);
}

#[test]
fn askings_without_a_word_of_the_agent_are_frozen() {
    let delivery = store::Delivery {
        hash: vec![3; 32],
        asking: vec![15; 16],
        ..store::Delivery::default()
    };
    frozen("delivery-asked-for", &delivery);
}

#[test]
fn by_which_program_an_agent_was_resolved_and_failed_is_frozen() {
    let agent = store::Agent {
        uid: vec![1; 16],
        refused: vec![store::Refusal {
            hash: vec![3; 32],
            epoch: 1_000,
            ..store::Refusal::default()
        }],
        resolved_epoch: 1_001,
        ..store::Agent::default()
    };
    frozen("agent-by-program", &agent);
}

#[test]
fn bodies_of_format_1_are_frozen() {
    let body = store::Body {
        format: 1,
        zstd: vec![0x28, 0xb5, 0x2f, 0xfd],
        size: 1_000,
    };
    frozen("body", &body);
}

#[test]
fn transitions_are_frozen() {
    let transition = store::Transition {
        at_ms: 1_700_000_000_000,
        kind: text("healthy"),
        from: text("unhealthy"),
        to: text("healthy"),
        detail: text("after a restart"),
    };
    frozen("transition", &transition);
}

#[test]
fn member_lists_are_frozen() {
    let member = store::Member {
        uid: vec![1; 16],
        role: 1,
        wave: 2,
        unchanged: true,
        unreachable: true,
        taken_from: Some(owner("web", "agent")),
    };
    let plain = store::Member {
        uid: vec![2; 16],
        ..store::Member::default()
    };
    let chunk = store::MemberChunk {
        members: vec![member, plain],
    };
    frozen("member-chunk", &chunk);
}

#[test]
fn the_numbers_of_a_clean_stop_are_frozen() {
    let number = store::Number {
        uid: vec![1; 16],
        number: 300,
        digest: vec![2; 16],
        seen_ms: 1_700_000_000_000,
    };
    let numbers = store::Numbers {
        numbers: vec![number],
    };
    frozen("numbers", &numbers);
}

// === control ===

fn settings() -> store::FamilySettings {
    store::FamilySettings {
        owner_change_auto: true,
        drift_re_offer: true,
        versions: Some(store::VersionPolicy {
            from: text("0.149.0"),
            below: text("0.156.0"),
            behind_max: 2,
            limits_behind: true,
        }),
        missing_blocks: true,
    }
}

#[test]
fn families_are_frozen() {
    let family = store::Family {
        name: text("edge"),
        owner: text("team"),
        precedence: -10,
        stable: 3,
        target: 4,
        latest: 5,
        rollout: text("r1"),
        created_ms: 1_700_000_000_000,
        settings: Some(settings()),
        source: text("git"),
    };
    frozen("family", &family);
    let gone = store::GoneFamily {
        latest: 5,
        gone_ms: 1_700_000_000_000,
        by: text("ana"),
        approvals: 2,
    };
    frozen("gone-family", &gone);
}

fn role() -> store::Role {
    let file = |body: &str| store::ConfigFile {
        body: text(body),
        content_type: text("text/yaml"),
    };
    store::Role {
        name: text("agent"),
        selector: text("role = agent"),
        after: texts(&["gateway"]),
        config: BTreeMap::from([
            (text("a.yaml"), file("receivers: {}")),
            (text("b.yaml"), file("exporters: {}")),
        ]),
        baseline: BTreeMap::from([(text(""), file("service: {}"))]),
    }
}

#[test]
fn revisions_are_frozen() {
    let require = store::RequireProcessor {
        pipeline: text("logs"),
        processor: text("redaction"),
    };
    let forbid = store::ForbidComponent {
        kind: text("exporter"),
        component: text("debug"),
    };
    let policy = |only: &str, rule| store::Policy {
        only: text(only),
        rule: Some(rule),
    };
    let revision = store::Revision {
        family: text("edge"),
        number: 4,
        hash: vec![1; 32],
        roles: vec![role()],
        author: text("ana"),
        created_ms: 1_700_000_000_000,
        note: text("mask mails"),
        state: store::RevisionState::Rejected.into(),
        policies: vec![
            policy("env = prod", policy::Rule::Require(require)),
            policy("", policy::Rule::Forbid(forbid)),
        ],
        precedence: 10,
        owner: text("team"),
        approvals: 2,
        given: vec![store::Approval {
            by: text("ben"),
            revision: vec![1; 32],
            plan: vec![2; 32],
            plan_name: text("careful"),
            at_ms: 31,
            reason: text("looked at it"),
        }],
        rejected: text("by cleo: no"),
        versions: texts(&["0.155.0"]),
        commit: text("abc123"),
        findings: vec![store::Finding {
            severity: text("error"),
            path: text("roles.agent"),
            message: text("unknown processor"),
            role: text("agent"),
        }],
        settings: Some(settings()),
    };
    frozen("revision", &revision);
}

fn plan() -> store::Plan {
    let check = store::Check {
        kind: text("promql"),
        text: text("up == 1"),
        observe: true,
    };
    let wave = store::Wave {
        size: Some(percent(10_000)),
        soak_ms: 60_000,
        gate: Some(store::Gate {
            success_percent_milli: 99_000,
            max_failures: Some(count(0)),
            min_sample: 5,
            checks: vec![check],
        }),
        max_in_flight: 20,
        selector: text("env = prod"),
        zone: text("a"),
        max_unreachable: Some(count(3)),
        unreachable_ms: 120_000,
        deadline_ms: 3_600_000,
    };
    store::Plan {
        name: text("careful"),
        waves: vec![wave],
        on_stop: text("roll-back-wave"),
        interleave: true,
        urgent: true,
        source: text("git"),
    }
}

#[test]
fn plans_are_frozen() {
    frozen("plan", &plan());
}

#[test]
fn rollouts_are_frozen() {
    let progress = store::RoleProgress {
        role: text("agent"),
        wave_ends: vec![1, 300],
        open_waves: 2,
        soaked_ms: 41,
        done: true,
        members: 300,
        open_ms: 42,
        forgiven: vec![0, 2],
        wave_specs: vec![0, 1],
        continue_at: 1,
        quiet_ms: 43,
        outcomes: 299,
    };
    let rollout = store::Rollout {
        id: text("r1"),
        family: text("edge"),
        from: 3,
        to: 4,
        plan: Some(plan()),
        state: store::RolloutState::RollingBack.into(),
        cause: text("the gate did not pass"),
        actor: text("ana"),
        roles: vec![progress],
        preview: text("p1"),
        created_ms: 44,
        started_ms: 45,
        ended_ms: 46,
        prepared: true,
        opening_epoch: 1_000,
        roll_back: Some(store::RollBack {
            all: true,
            role: text("agent"),
            wave: 1,
            open_roles: texts(&["gateway"]),
        }),
        stopped_by: text("rejected"),
        waiting: texts(&["approvals"]),
        inconclusive_ms: 47,
        ended_counts: vec![store::WaveCounts {
            role: text("agent"),
            wave: 1,
            members: vec![0, 1, 300],
        }],
        back: true,
        stopped_errors: vec![store::ErrorGroup {
            kind: text("rejected"),
            error: text("unknown processor"),
            agents: 2,
            examples: vec![vec![1; 16], vec![2; 16]],
        }],
        supersedes: text("r0"),
        continues: true,
        debt: Some(store::Debt {
            actor: text("ana"),
            reason: text("outage"),
            missing: text("1 approval"),
            reviewed_by: text("ben"),
            reviewed_ms: 48,
            note: text("fine"),
        }),
        answers: vec![store::PersonAnswer {
            role: text("agent"),
            wave: 1,
            who: text("oncall"),
            by: text("cleo"),
            pass: true,
            at_ms: 49,
            reason: text("looks good"),
        }],
        reach: 300,
        window: Some(store::Window {
            p50_ms: 51,
            p99_ms: 52,
            last_ms: 53,
            converged: 298,
            open: 2,
            last: vec![3; 16],
        }),
        approvals: 2,
        start_key: text("k1"),
        failures_since: 0,
    };
    frozen("rollout", &rollout);
}

#[test]
fn since_when_failures_count_in_a_rollout_is_frozen() {
    let rollout = store::Rollout {
        id: text("r1"),
        failures_since: 900,
        ..store::Rollout::default()
    };
    frozen("rollout-failures-since", &rollout);
}

#[test]
fn previews_are_frozen() {
    let preview = store::Preview {
        id: text("p1"),
        family: text("edge"),
        revision: 4,
        revision_hash: vec![1; 32],
        created_ms: 61,
        diff_groups: vec![vec![2; 32]],
        members: vec![vec![1; 16], vec![2; 16]],
        takeovers: texts(&["12 agents from family web"]),
        conflicts: texts(&["host-17"]),
        plan_hash: vec![3; 32],
        parts: 2,
    };
    frozen("preview", &preview);
}

#[test]
fn tokens_are_frozen() {
    let token = store::Token {
        name: text("fleet"),
        secret_hash: vec![1; 32],
        labels: map([("env", "prod"), ("team", "pay")]),
        kind: text("operator"),
        role: text("approver"),
        created_ms: 71,
        expires_ms: 72,
        revoked_ms: 73,
        created_by: text("ana"),
    };
    frozen("token", &token);
}

#[test]
fn freezes_pins_budgets_and_sources_are_frozen() {
    let freeze = store::Freeze {
        name: text("xmas"),
        reason: text("shop"),
        from_ms: 81,
        until_ms: 82,
        families: texts(&["edge", "web"]),
        created_by: text("ana"),
        created_ms: 83,
    };
    frozen("freeze", &freeze);
    let pin = store::Pin {
        name: text("old-kernel"),
        family: text("edge"),
        uid: vec![1; 16],
        selector: text("kernel = 4"),
        revision: 3,
        reason: text("crashes"),
        owner: text("ben"),
        until_ms: 84,
        created_by: text("ana"),
        created_ms: 85,
        ended: true,
    };
    frozen("pin", &pin);
    let budget = store::Budget {
        label: text("zone"),
        size: Some(percent(25_000)),
        urgent: Some(count(50)),
        source: text("git"),
    };
    frozen("budget", &budget);
    let source = store::Source {
        name: text("git"),
        plan: text("careful"),
        commit: text("abc123"),
        applied_ms: 86,
        applied_by: text("ci"),
    };
    frozen("source", &source);
}

#[test]
fn what_a_cluster_is_is_frozen() {
    let identity = store::Identity {
        id: (1..=16).collect(),
        incarnation: 2,
        restored_from: vec![2; 16],
        backup_ms: 92,
        restored_ms: 93,
    };
    frozen("identity", &identity);
}

#[test]
fn nodes_of_a_cluster_are_frozen() {
    let node = store::ClusterNode {
        id: 3,
        address: text("10.0.0.3:4322"),
        disk: (1..=16).collect(),
        joined_ms: 91,
        version: text("0.1.0"),
        removed: true,
        gone: false,
    };
    frozen("cluster-node", &node);
    let gone = store::ClusterNode { gone: true, ..node };
    frozen("cluster-node-gone", &gone);
}
