//! What is refused says which object, what is wrong, and the way out. One line for each refusal.

use system_tests::manifest::{Role, config, family, plan, role};
use system_tests::scene::Scene;

/// What is tried, and what the refusal has to say.
struct Refusal {
    args: &'static [&'static str],
    says: &'static [&'static str],
}

const COMMANDS: &[Refusal] = &[
    // names
    Refusal {
        args: &["preview", "nosuch"],
        says: &["there is no family `nosuch`", "muster families list"],
    },
    Refusal {
        args: &["preview", "edge", "--revision", "9"],
        says: &["family edge has no revision 9", "its latest is 1"],
    },
    Refusal {
        args: &["preview", "edge", "--plan", "nosuch"],
        says: &["there is no plan `nosuch`", "leave --plan out"],
    },
    Refusal {
        args: &["rollout", "start", "edge", "--plan", "nosuch", "--yes"],
        says: &["there is no plan `nosuch`"],
    },
    Refusal {
        args: &["rollout", "start", "edge", "--preview", "pv-nosuch"],
        says: &[
            "there is no preview `pv-nosuch` any more",
            "muster preview edge",
        ],
    },
    Refusal {
        args: &["rollout", "get", "ro-nosuch"],
        says: &["there is no rollout `ro-nosuch`", "muster rollout list"],
    },
    Refusal {
        args: &["rollout", "halt", "ro-nosuch"],
        says: &["there is no rollout `ro-nosuch`"],
    },
    Refusal {
        args: &["agents", "get", "nosuch"],
        says: &["there is no agent `nosuch`", "muster agents list"],
    },
    Refusal {
        args: &["freeze", "end", "nosuch"],
        says: &["there is no freeze `nosuch`", "muster freeze list"],
    },
    Refusal {
        args: &["pin", "remove", "nosuch"],
        says: &["there is no pin `nosuch`", "muster pin list"],
    },
    Refusal {
        args: &["families", "get", "nosuch"],
        says: &["there is no family `nosuch`"],
    },
    Refusal {
        args: &["tokens", "revoke", "nosuch"],
        says: &["there is no token `nosuch`"],
    },
    // selectors
    Refusal {
        args: &["agents", "list", "-l", "role =="],
        says: &["selector `role ==`"],
    },
    Refusal {
        args: &["agents", "label", "-l", "role in (", "a=b"],
        says: &["selector `role in (`"],
    },
    Refusal {
        args: &["agents", "list", "--state", "sleepy"],
        says: &["sleepy", "converged"],
    },
    Refusal {
        args: &["agents", "list", "--rollout", "edge", "--bucket", "nosuch"],
        says: &["there is no bucket `nosuch`", "not reached"],
    },
    // rollouts, in the states that they are in
    Refusal {
        args: &["rollout", "resume", "edge"],
        says: &["is completed", "cannot be resumed"],
    },
    Refusal {
        args: &["rollout", "rollback", "edge"],
        says: &["is completed", "cannot be rolled back"],
    },
    Refusal {
        args: &["rollout", "pass", "edge"],
        says: &["is completed"],
    },
    Refusal {
        args: &["rollout", "review", "edge", "--note", "fine"],
        says: &["owes no review", "--unreviewed"],
    },
    Refusal {
        args: &["rollout", "back", "edge", "1", "--yes"],
        says: &[
            "family edge is at revision 1 already",
            "name an earlier one",
        ],
    },
    Refusal {
        args: &["rollout", "back", "edge", "7", "--yes"],
        says: &["family edge has no revision 7"],
    },
    Refusal {
        args: &["rollout", "back", "other", "1", "--yes"],
        says: &[
            "family other has no stable revision",
            "revision 1 never was",
            "muster rollout start",
        ],
    },
    Refusal {
        args: &["families", "deactivate", "other", "--yes"],
        says: &["family other is not active", "muster rollout start other"],
    },
    Refusal {
        args: &["families", "deactivate", "nosuch", "--yes"],
        says: &["there is no family `nosuch`", "muster families list"],
    },
    Refusal {
        args: &["rollout", "start", "other", "--yes", "--plan", "quick"],
        says: &["there is nobody to roll out to", "no agent matches"],
    },
    Refusal {
        args: &["rollout", "start", "twice", "--yes", "--plan", "quick"],
        says: &[
            "twice revision 1 is a draft",
            "roles agent and also of family `twice` match the same agents",
            "make their selectors exclude each other",
            "muster families validate twice --revision 1",
        ],
    },
    Refusal {
        args: &["families", "validate", "twice"],
        says: &[
            "twice revision 1 is a draft",
            "match the same agents",
            "apply it again",
        ],
    },
    Refusal {
        args: &["families", "validate", "nosuch"],
        says: &["there is no family `nosuch`"],
    },
    Refusal {
        args: &["families", "validate", "edge", "--revision", "9"],
        says: &["family edge has no revision 9"],
    },
    Refusal {
        args: &[
            "rollout", "start", "edge", "--yes", "--plan", "quick", "--reach", "77",
        ],
        says: &[
            "--reach 77 is not what the preview of family edge shows",
            "say --reach 4",
        ],
    },
    Refusal {
        args: &["preview", "step", "--plan", "in-step"],
        says: &[
            "wave 1 of role agent would go before 1 members of role gateway",
            "give the waves zones or selectors",
            "leave `interleave` out",
        ],
    },
    // governance
    Refusal {
        args: &["approve", "edge"],
        says: &[
            "edge revision 1 needs no approval",
            "start it with `muster rollout start`",
        ],
    },
    Refusal {
        args: &["approve", "nosuch"],
        says: &["there is no family `nosuch`"],
    },
    Refusal {
        args: &["approve", "edge", "--plan", "nosuch"],
        says: &["there is no plan `nosuch`"],
    },
    Refusal {
        args: &["reject", "edge", "--reason", "late"],
        says: &[
            "edge revision 1 runs or has run",
            "muster rollout back edge",
        ],
    },
    Refusal {
        args: &["reject", "edge", "--reason", ""],
        says: &["a rejection has a reason"],
    },
    Refusal {
        args: &["freeze", "set", "f", "--reason", "", "--for", "1h"],
        says: &["freeze f has no reason"],
    },
    Refusal {
        args: &[
            "freeze",
            "set",
            "f",
            "--reason",
            "x",
            "--until",
            "2020-01-01T00:00:00Z",
        ],
        says: &["freeze f"],
    },
    Refusal {
        args: &[
            "freeze", "set", "f", "--reason", "x", "--for", "1h", "--family", "nosuch",
        ],
        says: &["there is no family `nosuch`"],
    },
    Refusal {
        args: &[
            "pin",
            "set",
            "p",
            "--family",
            "edge",
            "-l",
            "role = agent",
            "--reason",
            "",
            "--for",
            "1h",
        ],
        says: &["pin p has no reason"],
    },
    Refusal {
        args: &[
            "pin",
            "set",
            "p",
            "--family",
            "edge",
            "-l",
            "role = agent",
            "--reason",
            "x",
            "--for",
            "99d",
        ],
        says: &["pin p has to end between now and 90 days from now"],
    },
    Refusal {
        args: &[
            "pin",
            "set",
            "p",
            "--family",
            "edge",
            "-l",
            "role = agent",
            "--revision",
            "5",
            "--reason",
            "x",
            "--for",
            "1h",
        ],
        says: &["family edge has no revision 5"],
    },
    Refusal {
        args: &[
            "pin",
            "set",
            "p",
            "--family",
            "nosuch",
            "-l",
            "role = agent",
            "--reason",
            "x",
            "--for",
            "1h",
        ],
        says: &["there is no family `nosuch`"],
    },
    Refusal {
        args: &[
            "approve",
            "edge",
            "--plan",
            "quick",
            "--hash",
            "0123456789ab",
        ],
        says: &[
            "edge revision 1 has hash",
            "not 0123456789ab: look at it again and approve what you saw",
        ],
    },
    Refusal {
        args: &["agents", "owner", "-l", "role = agent", "--accept", "--yes"],
        says: &["there is nothing to resolve"],
    },
    Refusal {
        args: &[
            "agents",
            "stop",
            "-l",
            "role = agent",
            "--yes",
            "--reason",
            "",
        ],
        says: &["needs a reason"],
    },
    Refusal {
        args: &[
            "tokens", "create", "t", "--kind", "operator", "--role", "king",
        ],
        says: &["king"],
    },
    Refusal {
        args: &["sources", "set", "repo", "--plan", "nosuch"],
        says: &["there is no plan `nosuch`"],
    },
    Refusal {
        args: &["sources", "delete", "nosuch", "--yes"],
        says: &["there is no source `nosuch`", "muster sources list"],
    },
    Refusal {
        args: &["adopt", "nosuch", "--source", "repo"],
        says: &["nosuch"],
    },
];

/// Two roles for the same agents.
fn overlapping() -> String {
    let body = config("x");
    let agent = role("agent", "role = agent", &body);
    let also = role("also", "role in (agent, other)", &body);
    family("new", 77, &[agent, also])
}

/// A manifest, and what its refusal has to say.
fn manifests() -> Vec<(String, &'static [&'static str])> {
    let edge = |selector: &str| family("new", 77, &[role("agent", selector, &config("x"))]);
    let good = || edge("role = nobody");
    let spec = |more: &str| {
        good().replace(
            "  precedence: 77\n",
            &format!("  precedence: 77\n  {more}\n"),
        )
    };
    let after = |after: &str| good().replace("after: []", &format!("after: [{after}]"));
    vec![
        (edge("role =="), &["spec.roles[0].selector `role ==`"]),
        (good().replace("precedence: 77", "precedence: 10"), &["has precedence 10, which family `edge` has already", "choose another number"]),
        (good().replace("precedence: 77", "presedence: 77"), &["unknown key `presedence`"]),
        (overlapping(), &["roles agent and also of family `new` match the same agents", "make their selectors exclude each other"]),
        (spec("policies: [{forbid: {kind: exporter, component: debug}, where: 'role =='}]"), &["spec.policies[0].where `role ==`"]),
        (edge("role = agent").replace("  precedence: 77\n", "  precedence: 77\n  policies: [{forbid: {kind: exporter, component: debug}, where: role = agent}]\n"), &["no debug exporter where role = agent", "is such an agent"]),
        (after("gateway"), &["gateway"]),
        (after("agent"), &["agent"]),
        (spec("approvals: many"), &["approvals"]),
        (spec("approvals: 99"), &["approvals"]),
        (spec("ownerChange: sometimes"), &["ownerChange", "ask", "auto"]),
        (spec("drift: heal"), &["drift", "report", "re-offer"]),
        (spec("versions: {from: 0.160.0, below: 0.150.0}"), &["allows nothing", "0.160.0 is not below 0.150.0"]),
        (good().replace("batch]", "batch, nosuch]"), &["nosuch"]),
        (good().replace("    config: |", "    config: 1\n      ignored: |"), &["config"]),
        (plan("p", &[], ""), &["0 waves", "1 to 32"]),
        (plan("p", &["size: 0%"], ""), &["0 %"]),
        (plan("p", &["size: 120%"], ""), &["120"]),
        (plan("p", &["size: 50%", "size: 10%"], ""), &["wave 2 is smaller than wave 1"]),
        (plan("p", &["size: 1, soak: soon"], ""), &["`soon`", "30s"]),
        (plan("p", &["size: 1, soak: 10m, deadline: 5m"], ""), &["its deadline of 300 s is over before its soak of 600 s"]),
        (plan("p", &["size: 1, gate: {success: 0%}"], ""), &["success"]),
        (plan("p", &["size: 1, gate: {maxFailures: 0}"], ""), &["maxFailures is 0"]),
        (plan("p", &["size: 1, gate: {checks: [{check: converged, observe: true}]}"], ""), &["every check only observes"]),
        (plan("p", &["size: 1, gate: {checks: [shiny]}"], ""), &["`shiny`", "converged"]),
        (plan("p", &["size: 1, gate: {checks: [converged, {promql: ''}]}"], ""), &["promql"]),
        (plan("p", &["size: 1, gate: {checks: [converged, {webhook: 'ftp://x'}]}"], ""), &["http"]),
        (plan("p", &["size: 1"], "explode"), &["`explode`", "hold"]),
        (plan("p", &["size: 1", "size: 10%", "size: 100%"], "").replace("spec:\n", "spec:\n  urgent: true\n"), &["an urgent plan has 3 waves"]),
        (plan("default", &["size: 1"], ""), &["default"]),
        ("apiVersion: muster/v1\nkind: Budget\nmetadata: {name: fleet}\nspec: {label: zone, size: 0%}\n".to_owned(), &["size"]),
        ("apiVersion: muster/v1\nkind: Budget\nmetadata: {name: other}\nspec: {label: zone}\n".to_owned(), &["fleet"]),
        ("apiVersion: muster/v1\nkind: Famly\nmetadata: {name: x}\nspec: {}\n".to_owned(), &["kind is `Famly`", "Family"]),
        ("apiVersion: muster/v9\nkind: Plan\n".to_owned(), &["apiVersion is `muster/v9`", "muster/v1"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_names_the_object_and_the_way_out() {
    let scene = Scene::of(4).await;
    scene.stable("one").await;
    let body = config("twice");
    let twice = [
        role("agent", "role = agent", &body),
        role("also", "role in (agent, other)", &body),
    ];
    let tiers = ["gateway", "gateway", "leaf", "leaf"].map(|tier| format!("tier={tier}"));
    for (agent, tier) in tiers.iter().enumerate() {
        let uid = scene.fleet.agent(agent).uid().to_string();
        scene.cli.ok(&["agents", "label", &uid, tier]);
    }
    let step = [
        role("gateway", "tier = gateway", &body),
        Role {
            after: &["gateway"],
            ..role("agent", "tier = leaf", &body)
        },
    ];
    let in_step = plan("in-step", &["size: 1", "size: 100%"], "")
        .replace("spec:\n", "spec:\n  interleave: true\n");
    let elsewhere = config("other");
    let other = role("agent", "role = nobody", &elsewhere);
    let others = [
        family("other", 3, &[other]),
        family("step", 40, &step),
        in_step,
    ];
    scene.apply(&others.join("---\n"));
    let file = scene
        .server
        .write("twice.yaml", &family("twice", 30, &twice));
    scene
        .cli
        .ok(&["apply", "-f", file.to_str().unwrap_or_default(), "--draft"]);
    let mut wrong = Vec::new();
    let mut check = |what: String, said: String, says: &[&str]| {
        let missing: Vec<_> = says.iter().filter(|part| !said.contains(**part)).collect();
        if !missing.is_empty() {
            wrong.push(format!("{what}\n  lacks {missing:?}\n  says: {said}"));
        }
    };
    for Refusal { args, says } in COMMANDS {
        let tried = scene.cli.run(args);
        let said = match tried.code {
            0 => format!("it was done: {}", tried.stdout),
            _ => tried
                .stderr
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        };
        check(args.join(" "), said, says);
    }
    for (text, says) in manifests() {
        let file = scene.server.write("refused.yaml", &text);
        let tried = scene
            .cli
            .run(&["apply", "-f", file.to_str().unwrap_or_default()]);
        let said = match tried.code {
            0 => "it was taken".to_owned(),
            _ => tried
                .stderr
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        };
        check(text, said, says);
    }
    assert!(
        wrong.is_empty(),
        "{} of them:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    scene.nobody_is_offered_anything().await;
}
