//! Families and roles, case by case.

use super::*;

fn role(name: &str, after: &[&str]) -> Role {
    let file = ConfigFile {
        body: "a: 1".into(),
        content_type: "text/yaml".into(),
    };
    Role {
        name: name.into(),
        selector: Selector::parse("*").unwrap(),
        after: after.iter().map(|s| (*s).to_owned()).collect(),
        config: ConfigMap::from([(String::new(), file)]),
        baseline: ConfigMap::new(),
    }
}

#[test]
fn roles_go_after_those_they_name() {
    let roles = [
        role("agent", &["gateway"]),
        role("gateway", &[]),
        role("cluster", &[]),
    ];
    let names: Vec<_> = order("f", &roles)
        .unwrap()
        .into_iter()
        .map(|r| r.name.as_str())
        .collect();
    assert_eq!(names, ["gateway", "cluster", "agent"]);
}

#[test]
fn a_circle_is_refused_by_name() {
    let roles = [role("a", &["b"]), role("b", &["a"])];
    let error = order("f", &roles).unwrap_err().to_string();
    assert!(error.contains("circle through a, b"), "{error}");
}

#[test]
fn every_mistake_is_reported() {
    let roles = [
        role("Agent", &["nobody"]),
        Role {
            config: ConfigMap::new(),
            ..role("x", &[])
        },
        role("x", &[]),
    ];
    let errors = check("f", &roles);
    assert_eq!(errors.len(), 4, "{errors:?}");
}

#[test]
fn the_delivery_hash_covers_names_bodies_and_types() {
    let base = role("a", &[]).config;
    let mut renamed = ConfigMap::new();
    renamed.insert("b".into(), base[""].clone());
    assert_ne!(delivery_hash(&base), delivery_hash(&renamed));
    assert_eq!(delivery_hash(&base), delivery_hash(&base.clone()));
}

#[test]
fn the_default_baseline_is_never_empty() {
    assert!(
        default_baseline()
            .values()
            .all(|file| !file.body.is_empty())
    );
}

#[test]
fn every_refusal_of_a_family_names_the_object_and_the_way_out() {
    let said = |family: &str, roles: &[Role]| -> Vec<String> {
        check(family, roles).iter().map(Error::to_string).collect()
    };
    assert_eq!(
        said("Web", &[]),
        [
            "family `Web` is not a name: use 1 to 63 lower-case letters, digits and hyphens, beginning with a letter",
            "family `Web` has no roles: give it at least one, with a selector and a config",
        ]
    );
    let empty = Role {
        config: ConfigMap::new(),
        ..role("a", &["b"])
    };
    assert_eq!(
        said("web", &[empty, role("a", &[])]),
        [
            "role `a` of family `web` has an empty config, which would stop its collectors: give it a body",
            "role `a` stands twice in family `web`: rename one",
            "role `a` goes after `b`, which is no role of family `web`: define it or remove it from `after`",
        ]
    );
    let many: Vec<Role> = (0..33).map(|n| role(&format!("r{n}"), &[])).collect();
    assert_eq!(
        said("web", &many),
        ["family `web` has 33 roles, 32 are the most: split the family"]
    );
}

#[test]
fn a_precedence_that_is_taken_is_refused() {
    let others = [("web", 1), ("db", 7)];
    assert_eq!(check_precedence("web", 1, others), Ok(()));
    assert_eq!(
        check_precedence("web", 7, others).unwrap_err().to_string(),
        "family `web` has precedence 7, which family `db` has already: choose another number"
    );
}

#[test]
fn a_role_without_a_baseline_has_the_default_one() {
    assert_eq!(role("a", &[]).baseline(), default_baseline());
    let own = Role {
        baseline: role("a", &[]).config,
        ..role("a", &[])
    };
    assert_eq!(own.baseline(), own.config);
    assert_ne!(stop_delivery(), delivery_hash(&default_baseline()));
}

/// They stand in databases and on agents: a line is never edited, a change is a new domain beside this one.
#[test]
fn the_hashes_of_deliveries_and_revisions_are_frozen() {
    let agent = role("agent", &["gateway", "cluster"]);
    assert_eq!(
        delivery_hash(&agent.config).to_hex(),
        "2f9344179350ad3f1154510f02056dc89b15842812acb5be3dc0cea9e12f8ca1"
    );
    assert_eq!(
        stop_delivery().to_hex(),
        "384c7f2e50e9c1dd1b573f75a7c6961a960a33da0013ca186ede4e111b6f7618"
    );
    assert_eq!(
        delivery_hash(&default_baseline()).to_hex(),
        "4fd78d31abd37c8c8b8bec71de02827db8034bd59fe5b7357b61bf74a914a99a"
    );
    let policies = ["require redaction".to_owned()];
    assert_eq!(
        revision_hash(-10, &[agent, role("gateway", &[])], &policies).to_hex(),
        "1de68294103adb82b201338e0651855cd9b02ad9ae635df8f91566b51ca772f6"
    );
}
