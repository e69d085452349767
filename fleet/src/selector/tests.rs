use super::*;
use proptest::prelude::*;

fn facts<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn parse(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

fn matches<const N: usize>(text: &str, entries: [(&str, &str); N]) -> bool {
    parse(text).matches(&facts(entries))
}

fn error(text: &str) -> (usize, String) {
    let error = Selector::parse(text).unwrap_err();
    (error.at, error.to_string())
}

#[test]
fn all_terms_must_hold() {
    let text = "role = agent, env in (prod, staging)";
    assert!(matches(text, [("role", "agent"), ("env", "prod")]));
    assert!(!matches(text, [("role", "agent"), ("env", "dev")]));
    assert!(!matches(text, [("env", "prod")]));
}

#[test]
fn a_missing_key_does_not_match_equality() {
    assert!(!matches("env = prod", []));
    assert!(!matches("env in (prod)", []));
    assert!(!matches("env = \"\"", []));
}

#[test]
fn a_missing_key_matches_inequality_as_in_kubernetes() {
    assert!(matches("env != prod", []));
    assert!(matches("env notin (prod)", []));
    assert!(!matches("env, env != prod", []));
}

#[test]
fn existence_is_asked_by_the_bare_key() {
    assert!(matches("canary", [("canary", "")]));
    assert!(!matches("!canary", [("canary", "")]));
    assert!(matches("!canary", []));
}

#[test]
fn a_comparison_without_a_key_continues_the_one_before() {
    let text = "service.version >= 0.150, < 0.160";
    assert!(matches(text, [("service.version", "0.150.0")]));
    assert!(matches(text, [("service.version", "v0.159.9")]));
    assert!(!matches(text, [("service.version", "0.160.0")]));
    assert!(!matches(text, [("service.version", "0.150.0-rc1")]));
    assert_eq!(
        parse(text).to_string(),
        "service.version >= 0.150.0, service.version < 0.160.0"
    );
}

#[test]
fn what_is_no_version_matches_no_comparison() {
    for value in ["latest", ""] {
        assert!(!matches("v >= 0", [("v", value)]));
        assert!(!matches("v < 99", [("v", value)]));
    }
    assert!(!matches("v >= 0", []));
}

#[test]
fn the_star_matches_everything_and_stands_alone() {
    assert!(matches("*", []));
    assert_eq!(parse(" * "), Selector::all());
    assert_eq!(error("*, a").0, 1);
    assert!(error("a, *").1.contains("expected * by itself"));
}

#[test]
fn an_empty_selector_says_how_to_match_everything() {
    assert_eq!(
        error("").1,
        "selector \"\": at byte 0, the end: expected a term; to match every agent write *"
    );
    assert!(error("  ").1.ends_with("write *"));
}

#[test]
fn commas_and_spaces_in_quotes_belong_to_the_value() {
    assert!(matches(r#"k = "a, b\"\\""#, [("k", r#"a, b"\"#)]));
    assert!(matches("k in(a,\"b)\")", [("k", "b)")]));
}

#[test]
fn words_of_the_grammar_are_keys_and_values_too() {
    assert!(matches(
        "in in (in), notin = in",
        [("in", "in"), ("notin", "in")]
    ));
    assert!(matches("a==b,c!=d", [("a", "b")]));
}

#[test]
fn errors_name_the_place_and_the_way_out() {
    for (text, at, expected) in [
        ("env in prod", 7, "expected ( and the values"),
        ("env in (prod", 12, "or ) to end them"),
        ("env in ()", 8, "expected a value"),
        ("env prod", 4, "expected =, !=, in"),
        ("a = b c = d", 6, "expected a comma"),
        ("a = b,", 6, "expected a key"),
        ("< 1", 0, "expected a key"),
        ("a >= new", 5, "expected a version"),
        ("a = \"x", 4, "closing"),
        ("a = \"\\n\"", 5, "stands only before"),
        ("a = ö", 4, "expected a value"),
        ("ö", 0, "expected a key"),
        ("a != b, != c", 9, "expected a key"),
    ] {
        let (found, message) = error(text);
        assert_eq!(found, at, "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains('\n'));
    }
}

#[test]
fn the_limits_are_enforced() {
    assert!(
        error(&"a".repeat(TEXT_BYTES_MAX + 1))
            .1
            .contains("at most 4096 bytes")
    );
    assert!(Selector::parse(&vec!["a"; TERMS_MAX].join(",")).is_ok());
    assert!(
        error(&vec!["a"; TERMS_MAX + 1].join(","))
            .1
            .contains("at most 64 terms")
    );
    let values = |count: usize| {
        format!(
            "k in ({})",
            (0..count)
                .map(|n| n.to_string())
                .collect::<Vec<_>>()
                .join(",")
        )
    };
    assert!(Selector::parse(&values(VALUES_MAX)).is_ok());
    assert!(
        error(&values(VALUES_MAX + 1))
            .1
            .contains("at most 256 values")
    );
    let continued = format!("{} > 1{}", "k".repeat(200), ",<9".repeat(40));
    assert!(error(&continued).1.contains("written out in full"));
}

#[test]
fn an_explanation_names_what_decided() {
    let selector = parse("role = agent, env in (staging, prod), service.version >= 0.150");
    let explain = |entries| selector.explain(&facts(entries)).to_string();
    assert_eq!(
        explain([
            ("role", "agent"),
            ("env", "dev"),
            ("service.version", "latest")
        ]),
        "not matched because `env in (prod, staging)` does not hold: env is dev; \
         `service.version >= 0.150.0` does not hold: service.version is latest, which is no version"
    );
    assert_eq!(
        parse("a = b, !c").explain(&facts([("a", "b")])).to_string(),
        "matched because `a = b` holds: a is b; `!c` holds: c is not set"
    );
    assert_eq!(
        Selector::all().explain(&facts([])).to_string(),
        "matched because `*` matches every agent"
    );
}

#[test]
fn keys_come_once_and_sorted() {
    assert_eq!(
        parse("b, a = 1, b != 2").keys().collect::<Vec<_>>(),
        ["a", "b"]
    );
}

fn any_test() -> impl Strategy<Value = Test> {
    let value = || prop_oneof!["[a-c0-2.]{1,3}", "[ -~ö]{0,4}"];
    let values = || prop::collection::btree_set(value(), 1..4);
    let version = "v?[0-9]{1,2}(\\.[0-9]{1,2}){0,3}(-[a-z0-9.-]{1,4})?(\\+[a-z]{1,3})?";
    let order = prop::sample::select(vec![
        Order::Less,
        Order::LessOrEqual,
        Order::Greater,
        Order::GreaterOrEqual,
    ]);
    prop_oneof![
        Just(Test::Exists),
        Just(Test::Missing),
        value().prop_map(Test::Equal),
        value().prop_map(Test::NotEqual),
        values().prop_map(Test::In),
        values().prop_map(Test::NotIn),
        (order, version)
            .prop_map(|(order, text)| Test::Version(order, Version::parse(&text).unwrap())),
    ]
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let term = ("[a-c]|service\\.version|in|notin|x/y-z", any_test())
        .prop_map(|(key, test)| Term { key, test });
    prop::collection::vec(term, 0..6).prop_map(|terms| Selector { terms })
}

proptest! {
    #[test]
    fn canonical_text_parses_back(selector in any_selector()) {
        prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
    }

    #[test]
    fn the_explanation_agrees_with_the_match(
        selector in any_selector(),
        facts in prop::collection::btree_map("[a-c]|service\\.version|in", "[a-c0-2.]{0,3}", 0..5),
    ) {
        prop_assert_eq!(selector.explain(&facts).matched(), selector.matches(&facts));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[abin ()=!<>,*\"\\\\.0-9ö]{0,24}") {
        match Selector::parse(&text) {
            Ok(selector) => prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector)),
            Err(error) => prop_assert!(text.is_char_boundary(error.at), "{}", error),
        }
    }
}

#[test]
fn a_selector_implies_what_follows_from_its_own_terms() {
    let implies = |narrow: &str, wide: &str| {
        let parse = |text| Selector::parse(text).unwrap();
        parse(narrow).implies(&parse(wide))
    };
    for (narrow, wide) in [
        ("role = agent, env = prod", "env = prod"),
        ("env = prod", "env in (prod, staging)"),
        ("env in (prod, staging)", "env"),
        ("env = prod", "env != dev"),
        ("!env", "env notin (dev)"),
        ("env != dev", "env != dev"),
        ("service.version >= 0.150", "service.version"),
        ("role = agent", "*"),
    ] {
        assert!(implies(narrow, wide), "{narrow} implies {wide}");
    }
    for (narrow, wide) in [
        ("role = agent", "env = prod"),
        ("env in (prod, staging)", "env = prod"),
        ("env", "env = prod"),
        ("env != dev", "env = prod"),
        ("env = dev", "env != dev"),
        ("*", "env = prod"),
    ] {
        assert!(!implies(narrow, wide), "{narrow} does not imply {wide}");
    }
}
