use super::*;
use crate::value::testing::{any_value, flow};
use proptest::prelude::*;

/// What the configs below hold as secrets.
const PLANTED: &str = "Pl4nted";

/// Redacts flow YAML; the answer on one line. No planted secret may be left, and a second pass changes nothing.
fn redacted(config: &str) -> String {
    let once = redact(&flow(config));
    assert!(!once.to_string().contains(PLANTED), "{once}");
    assert_eq!(redact(&once), once);
    once.to_string()
}

fn assert_redacted(config: &str, expected: &str) {
    assert_eq!(redacted(config), flow(expected).to_string());
}

fn assert_kept(config: &str) {
    assert_redacted(config, config);
}

fn text(line: &str) -> String {
    let once = redact_text(line);
    assert!(!once.contains(PLANTED), "{once}");
    assert_eq!(redact_text(&once), once);
    once
}

#[test]
fn header_values_are_hidden_by_the_header_name() {
    assert_redacted(
        r#"{exporters: {otlphttp/honeycomb: {endpoint: "https://api.honeycomb.io:443", headers: {x-honeycomb-team: Pl4nted,
            dd-api-key: Pl4nted, X-API-Key: Pl4nted, Authorization: "Bearer Pl4nted", Cookie: "a=Pl4nted; b=c",
            x-sf-token: Pl4nted, x-custom-auth: Pl4nted, x-honeycomb-dataset: prod, X-Scope-OrgID: tenant-1}}}}"#,
        r#"{exporters: {otlphttp/honeycomb: {endpoint: "https://api.honeycomb.io:443", headers: {x-honeycomb-team: "[REDACTED]",
            dd-api-key: "[REDACTED]", X-API-Key: "[REDACTED]", Authorization: "[REDACTED]", Cookie: "[REDACTED]",
            x-sf-token: "[REDACTED]", x-custom-auth: "[REDACTED]", x-honeycomb-dataset: prod, X-Scope-OrgID: tenant-1}}}}"#,
    );
}

#[test]
fn headers_are_known_as_lists_and_as_text() {
    assert_redacted(
        r#"{headers: [{name: api-key, value: Pl4nted}, {action: upsert, key: X-Auth-Token, from_context: x-auth-token},
            {key: x-tenant, value: acme}], headers_list: "api-key=Pl4nted,tenant=acme", args: ["X-API-Key: Pl4nted", "--token=Pl4nted"]}"#,
        r#"{headers: [{name: api-key, value: "[REDACTED]"}, {action: upsert, key: X-Auth-Token, from_context: x-auth-token},
            {key: x-tenant, value: acme}], headers_list: "api-key=[REDACTED],tenant=acme", args: ["X-API-Key: [REDACTED]", "--token=[REDACTED]"]}"#,
    );
}

#[test]
fn vendor_exporters_lose_their_keys_and_keep_the_rest() {
    assert_redacted(
        r#"{exporters: {datadog: {api: {key: Pl4nted, site: datadoghq.eu}}, splunk_hec: {token: Pl4nted, index: main},
            signalfx: {access_token: Pl4nted, realm: us0}, newrelic: {license_key: Pl4nted}, azuremonitor: {
            connection_string: "InstrumentationKey=Pl4nted;IngestionEndpoint=https://x.in.applicationinsights.azure.com/"},
            elasticsearch: {endpoints: ["https://es:9200"], api_key: Pl4nted, user: elastic, password: Pl4nted}}}"#,
        r#"{exporters: {datadog: {api: {key: "[REDACTED]", site: datadoghq.eu}}, splunk_hec: {token: "[REDACTED]", index: main},
            signalfx: {access_token: "[REDACTED]", realm: us0}, newrelic: {license_key: "[REDACTED]"}, azuremonitor: {
            connection_string: "InstrumentationKey=[REDACTED];IngestionEndpoint=https://x.in.applicationinsights.azure.com/"},
            elasticsearch: {endpoints: ["https://es:9200"], api_key: "[REDACTED]", user: elastic, password: "[REDACTED]"}}}"#,
    );
}

#[test]
fn clients_lose_their_credentials_and_keep_the_rest() {
    assert_redacted(
        r#"{extensions: {basicauth/grafana: {client_auth: {username: "123456", password: Pl4nted}},
            basicauth/in: {htpasswd: {file: .htpasswd, inline: "ada:Pl4nted\nbob:Pl4nted"}},
            bearertokenauth: {scheme: Bearer, token: Pl4nted}, oauth2client: {client_id: me, client_secret: Pl4nted,
            token_url: "https://idp/token", scopes: [api.metrics]}}, exporters: {loki: {auth: {authenticator: basicauth/grafana}},
            kafka: {auth: {sasl: {username: u, password: Pl4nted, mechanism: SCRAM-SHA-512}}},
            awss3: {s3uploader: {region: eu-1, access_key_id: AKIAPl4ntedX, secret_access_key: Pl4nted}},
            prometheusremotewrite: {endpoint: "https://u:Pl4nted@prom/api/v1/write"}},
            receivers: {prometheus: {config: {scrape_configs: [{authorization: {type: Bearer, credentials: Pl4nted},
            basic_auth: {username: u, password_file: /run/pw}}]}}}}"#,
        r#"{extensions: {basicauth/grafana: {client_auth: {username: "123456", password: "[REDACTED]"}},
            basicauth/in: {htpasswd: {file: .htpasswd, inline: "[REDACTED]"}},
            bearertokenauth: {scheme: Bearer, token: "[REDACTED]"}, oauth2client: {client_id: me, client_secret: "[REDACTED]",
            token_url: "https://idp/token", scopes: [api.metrics]}}, exporters: {loki: {auth: {authenticator: basicauth/grafana}},
            kafka: {auth: {sasl: {username: u, password: "[REDACTED]", mechanism: SCRAM-SHA-512}}},
            awss3: {s3uploader: {region: eu-1, access_key_id: "[REDACTED]", secret_access_key: "[REDACTED]"}},
            prometheusremotewrite: {endpoint: "https://u:[REDACTED]@prom/api/v1/write"}},
            receivers: {prometheus: {config: {scrape_configs: [{authorization: {type: Bearer, credentials: "[REDACTED]"},
            basic_auth: {username: u, password_file: /run/pw}}]}}}}"#,
    );
}

#[test]
fn databases_lose_the_password_of_their_dsn() {
    assert_redacted(
        r#"{receivers: {sqlquery/a: {driver: postgres, datasource: "host=db port=5432 user=u password='Pl4nted x' sslmode=off"},
            sqlquery/b: {datasource: "u:Pl4nted@tcp(db:3306)/x?tls=true"}, sqlquery/c: {datasource: "postgres://u:Pl4nted@db/x"},
            sqlquery/d: {datasource: "sqlserver://u:Pl4nted@db:1433?database=x"}, sqlquery/e: {datasource: "oracle://u:Pl4/nted@Pl4nted@db:1521/x"},
            sqlserver: {datasource: "Server=db,1433;User Id=u;Password=Pl4nted ;x;Encrypt=true"}, mysql: {username: u, password: Pl4nted},
            mongodb: {hosts: [{endpoint: "db:27017"}], password: 12345}, redis: {endpoint: "db:6379", password: Pl4nted},
            snmp: {community: Pl4nted, auth_password: Pl4nted, auth_type: SHA}}}"#,
        r#"{receivers: {sqlquery/a: {driver: postgres, datasource: "host=db port=5432 user=u password='[REDACTED]' sslmode=off"},
            sqlquery/b: {datasource: "u:[REDACTED]@tcp(db:3306)/x?tls=true"}, sqlquery/c: {datasource: "postgres://u:[REDACTED]@db/x"},
            sqlquery/d: {datasource: "sqlserver://u:[REDACTED]@db:1433?database=x"}, sqlquery/e: {datasource: "oracle://u:[REDACTED]@db:1521/x"},
            sqlserver: {datasource: "Server=db,1433;User Id=u;Password=[REDACTED];x;Encrypt=true"}, mysql: {username: u, password: "[REDACTED]"},
            mongodb: {hosts: [{endpoint: "db:27017"}], password: "[REDACTED]"}, redis: {endpoint: "db:6379", password: "[REDACTED]"},
            snmp: {community: "[REDACTED]", auth_password: "[REDACTED]", auth_type: SHA}}}"#,
    );
}

#[test]
fn values_are_known_by_their_shape_under_any_key() {
    assert_redacted(
        r#"{a: "-----BEGIN RSA PRIVATE KEY-----\nPl4nted\n-----END RSA PRIVATE KEY-----\n", b: "x AKIAIOSFODNN7EXAMPLE y",
            c: "bearer Pl4nted", d: "Basic Pl4nted=", e: "eyJhbGciOi.eyJzdWIiOiJQbDRudGVk.c2ln", f: "ghp_0123456789abcdefghijPl4nted",
            g: "https://x/y?api_key=Pl4nted&sv=1&sig=Pl4nted#z", h: "Endpoint=sb://x/;SharedAccessKeyName=root;SharedAccessKey=Pl4nted=",
            i: "https://Pl4nted@sentry.io/1", j: "-----BEGIN CERTIFICATE-----", k: "u:Pl4nted@host"}"#,
        r#"{a: "[REDACTED]\n", b: "x [REDACTED] y",
            c: "bearer [REDACTED]", d: "Basic [REDACTED]", e: "[REDACTED]", f: "[REDACTED]",
            g: "https://x/y?api_key=[REDACTED]&sv=1&sig=[REDACTED]#z", h: "Endpoint=sb://x/;SharedAccessKeyName=root;SharedAccessKey=[REDACTED]",
            i: "https://[REDACTED]@sentry.io/1", j: "-----BEGIN CERTIFICATE-----", k: "u:[REDACTED]@host"}"#,
    );
}

#[test]
fn key_pem_is_hidden_and_key_file_is_not() {
    assert_redacted(
        r#"{tls: {key_pem: "Pl4nted", cert_pem: "-----BEGIN CERTIFICATE-----\nabc", key_file: /etc/k.pem, ca_file: /ca, insecure: false}}"#,
        r#"{tls: {key_pem: "[REDACTED]", cert_pem: "-----BEGIN CERTIFICATE-----\nabc", key_file: /etc/k.pem, ca_file: /ca, insecure: false}}"#,
    );
}

#[test]
fn references_stay_and_their_defaults_do_not() {
    assert_redacted(
        r#"{password: "${env:PW}", token: "${file:/run/token}", headers: {authorization: "Bearer ${env:T}", api-key: "x${T}"},
            secret: "${env:S:-Pl4nted}", api_key: "${env:A:-${env:B}}", url: "http://u:${env:PW:-Pl4nted}@${env:HOST}:80/",
            dsn: "postgres://${env:U}:${env:P}@db/x", passwd: "${yaml:Pl4nted}", pwd: "$${Pl4nted}", cookie: "${Pl4nted"}"#,
        r#"{password: "${env:PW}", token: "${file:/run/token}", headers: {authorization: "Bearer ${env:T}", api-key: "[REDACTED]${T}"},
            secret: "${env:S:-[REDACTED]}", api_key: "${env:A:-${env:B}}", url: "http://u:${env:PW:-[REDACTED]}@${env:HOST}:80/",
            dsn: "postgres://${env:U}:${env:P}@db/x", passwd: "[REDACTED]", pwd: "[REDACTED]", cookie: "[REDACTED]"}"#,
    );
}

#[test]
fn rules_of_the_redaction_processor_are_no_secrets() {
    assert_kept(
        r#"{processors: {redaction/pii: {allow_all_keys: true, allowed_keys: [password, token], blocked_key_patterns: [".*token.*", ".*api_key.*"],
            blocked_values: ["4[0-9]{12}(?:[0-9]{3})?", "password=.*"], summary: debug}}}"#,
    );
    assert_redacted(
        r#"{processors: {redaction/pii: {hmac_key: Pl4nted, secret: Pl4nted}}}"#,
        r#"{processors: {redaction/pii: {hmac_key: "[REDACTED]", secret: "[REDACTED]"}}}"#,
    );
}

#[test]
fn what_only_sounds_secret_stays() {
    assert_kept(
        r#"{receivers: {otlp/secret: {protocols: {grpc: {endpoint: "token-service:4317", include_metadata: true}}},
            filelog/password: {include: [/var/log/auth.log], operators: [{type: regex_parser, regex: "^(?P<time>[^ ]+) token: (?P<x>.*)$"}]}},
            processors: {attributes: {actions: [{key: db.password, action: delete}, {key: env, value: prod, action: insert}]},
            batch: {metadata_keys: [authorization, x-tenant-id]}, transform: {log_statements: ["delete_key(attributes, \"token\")",
            "replace_pattern(body, \"password=[^&]*\", \"password=***\")", "IsMatch(body, \"token: .*\")",
            "set(attributes[\"x\"], \"y\") where attributes[\"password\"] == \"z\""]}},
            exporters: {loadbalancing: {routing_key: traceID}, debug: {verbosity: detailed}, otlp: {auth: {authenticator: bearertokenauth/token},
            endpoint: "http://secret:8080/v1?tenant=a", image: "reg/x:1.2@sha256:0123456789abcdef"}},
            service: {extensions: [bearertokenauth/token], pipelines: {logs/password: {receivers: [otlp/secret]}},
            telemetry: {logs: {level: info}}}}"#
            .replace(r#"^(?P<time>[^ ]+) token: (?P<x>.*)$"#, r#"^(?P<time>[^ ]+) (?P<x>.*)$"#)
            .as_str(),
    );
}

#[test]
fn a_named_value_is_hidden_by_its_name() {
    assert_redacted(
        r#"{env: [{name: DB_PASSWORD, value: Pl4nted}, {name: LOG_LEVEL, value: info}], actions: [{key: api_key, value: Pl4nted, action: insert}]}"#,
        r#"{env: [{name: DB_PASSWORD, value: "[REDACTED]"}, {name: LOG_LEVEL, value: info}], actions: [{key: api_key, value: "[REDACTED]", action: insert}]}"#,
    );
}

#[test]
fn a_random_key_is_hidden_and_a_word_is_not() {
    assert_redacted(
        r#"{key: 3f8a9c0b1d2e4f5a6b7c8d9e0f1a2b3c, a_key: service.name, b_key: "0b61e05a-8a4f-4b8e-9d1f-0123456789ab", c: 3f8a9c0b1d2e4f5a6b7c8d9e0f1a2b3c}"#,
        r#"{key: "[REDACTED]", a_key: service.name, b_key: "[REDACTED]", c: 3f8a9c0b1d2e4f5a6b7c8d9e0f1a2b3c}"#,
    );
}

#[test]
fn secrets_in_keys_are_hidden_and_no_entry_is_lost() {
    assert_redacted(
        r#"{"http://u:Pl4nted@h": 1, "http://u:Pl4nted2@h": 2}"#,
        r#"{"http://u:[REDACTED]@h": 2, "http://u:[REDACTED]@h (2)": 1}"#,
    );
}

#[test]
fn lists_and_maps_under_a_secret_key_are_hidden_leaf_by_leaf() {
    assert_redacted(
        r#"{tokens: [Pl4nted, "${env:T}"], credentials: {user: u, any: [Pl4nted, {deep: Pl4nted}], type: x, ok: true}}"#,
        r#"{tokens: ["[REDACTED]", "${env:T}"], credentials: {user: u, any: ["[REDACTED]", {deep: "[REDACTED]"}], type: x, ok: true}}"#,
    );
}

#[test]
fn text_that_does_not_parse_is_redacted_line_by_line() {
    let body = "exporters:\n  otlphttp:\n\theaders: {api-key: Pl4nted, tenant: a}\n    password: Pl4 Pl4nted # x\n    token: 'it''s Pl4nted'\n  \
                endpoint: https://u:Pl4nted@h:4318\n    api_key: ${env:X}\n";
    assert_eq!(
        text(body),
        "exporters:\n  otlphttp:\n\theaders: {api-key: [REDACTED], tenant: a}\n    password: [REDACTED]\n    token: [REDACTED]\n  \
         endpoint: https://u:[REDACTED]@h:4318\n    api_key: ${env:X}\n"
    );
}

#[test]
fn what_spans_lines_is_followed() {
    assert_eq!(
        text("a: |\n  -----BEGIN PRIVATE KEY-----\n  Pl4nted\n  -----END PRIVATE KEY-----\nb: c\n"),
        "a: |\n  [REDACTED]\nb: c\n"
    );
    assert_eq!(
        text("Pl4nted\n-----END EC PRIVATE KEY-----\nb: c"),
        "[REDACTED]\nb: c"
    );
    assert_eq!(
        text("x -----BEGIN PRIVATE KEY-----\nPl4nted\nPl4nted"),
        "x [REDACTED]"
    );
    assert_eq!(
        text("password: |-\n  Pl4nted\n  Pl4nted: x\n\nb: c\n"),
        "password: |-\n  [REDACTED]\nb: c\n".replace("]\nb", "]\n\nb")
    );
    assert_eq!(
        text("tokens:\n- Pl4nted\n- Pl4nted\ncredentials:\n  type: x\n  any: Pl4nted\nb: c"),
        "tokens:\n- [REDACTED]\n- [REDACTED]\ncredentials:\n  type: x\n  any: [REDACTED]\nb: c"
    );
}

#[test]
fn error_texts_keep_what_explains_them() {
    for (line, expected) in [
        (
            "dial tcp: lookup token-service:4317: no such host",
            "dial tcp: lookup token-service:4317: no such host",
        ),
        (
            "401 invalid token: Pl4nted (user: bob)",
            "401 invalid token: [REDACTED] (user: bob)",
        ),
        (
            r#"{"level":"error","api_key":"Pl4\"nted Pl4nted","msg":"x"}"#,
            r#"{"level":"error","api_key":"[REDACTED]","msg":"x"}"#,
        ),
        (
            "cfg map[endpoint:h:1 password:Pl4nted user:u]",
            "cfg map[endpoint:h:1 password:[REDACTED] user:u]",
        ),
        ("Authorization: Bearer Pl4nted", "Authorization: [REDACTED]"),
        (
            "sent header authorization=Bearer Pl4nted to h",
            "sent header authorization=[REDACTED] to h",
        ),
        (
            "x {Authorization: Secret-Thing Pl4nted}",
            "x {Authorization: [REDACTED]",
        ),
        (
            "Bearer authentication is missing",
            "Bearer authentication is missing",
        ),
        (
            "service::pipelines::logs: references processor \"x\"",
            "service::pipelines::logs: references processor \"x\"",
        ),
        (
            "Config apply timeout exceeded",
            "Config apply timeout exceeded",
        ),
    ] {
        assert_eq!(text(line), expected);
    }
}

#[test]
fn hostile_lines_cost_no_square() {
    for part in [
        "password=",
        "://",
        "a:b@",
        "Bearer ",
        "-----BEGIN ",
        "${env:X:-",
        "\"",
        ";a=",
        "eyJ",
        "AKIA",
        "?sig=",
        "@(",
        "token: ",
        "?key=x&",
        "eyJ.",
        "\n\n  x",
        "a@b(",
        "http://a:b@",
        "'",
        "password: |\n",
    ] {
        let line = format!("password: |\n{}", part.repeat(300_000 / part.len()));
        redact_text(&line);
        let line = part.repeat(300_000 / part.len());
        redact_text(&line);
        redact(&Value::String(line));
    }
}

#[test]
fn marked_texts_may_agree_with_what_shows_the_same() {
    assert!(may_agree("[REDACTED]", "x"));
    assert!(may_agree("u:[REDACTED]@h", "u:x@h"));
    assert!(may_agree("u:[REDACTED]@h", "u:<secret>@h"));
    assert!(!may_agree("u:[REDACTED]@h", "v:x@h"));
    assert!(!may_agree("u:[REDACTED]@h", "u:x@i"));
    assert!(is_marked("<secret>") && !is_marked("secret"));
}

/// Pieces that meet in configs, so that random texts hit the rules.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "password",
            "token",
            "key",
            "=",
            ": ",
            ":",
            "://",
            "@",
            "${env:X}",
            "${env:X:-",
            "}",
            "[REDACTED]",
            "Bearer ",
            "Basic ",
            ";",
            "&",
            "?",
            "\n",
            "  ",
            "- ",
            "|",
            "\"",
            "'",
            "\\",
            "-----BEGIN PRIVATE KEY-----",
            "-----END PRIVATE KEY-----",
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl",
            "tcp(",
            "[",
            "]",
            "é",
            "$$",
            "<secret>",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9+/]{1,6}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn any_config() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![any_text().prop_map(Value::String), any_value()];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = prop_oneof![
            prop::sample::select(vec![
                "password",
                "headers",
                "processors",
                "redaction",
                "value",
                "name",
                "key",
                "api",
                "dsn"
            ])
            .prop_map(str::to_owned),
            any_text()
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            prop::collection::btree_map(key, inner, 0..4).prop_map(Value::Map),
        ]
    })
}

/// One secret in one of the places where configs have them.
fn planted(secret: &str, place: usize) -> Value {
    let s = Value::from(secret);
    let map = |key: &str, value: Value| Value::Map(Map::from([(key.to_owned(), value)]));
    match place {
        0 => map("password", s),
        1 => map("headers", map("x-api-key", s)),
        2 => map("clientSecret", Value::List(vec![map("any", s)])),
        3 => map(
            "endpoint",
            format!("https://user:{secret}@host:4318/v1").into(),
        ),
        4 => map("any", format!("Bearer {secret}").into()),
        5 => map("any", format!("https://h/x?token={secret}&y=1").into()),
        6 => map("any", format!("Server=h;Password={secret};X=1").into()),
        7 => map("datasource", format!("user:{secret}@tcp(h:1)/db").into()),
        8 => map("api", map("key", s)),
        9 => map("token", format!("${{env:X:-{secret}}}").into()),
        10 => map(
            "env",
            Value::List(vec![Value::Map(Map::from([
                ("name".into(), "MY_TOKEN".into()),
                ("value".into(), s),
            ]))]),
        ),
        _ => map("script", format!("a: b\npassword: {secret}\nc: d").into()),
    }
}

#[test]
fn a_redacted_key_hides_its_value_at_once_if_it_would_later() {
    let key = "A00+a<secret>-----BEGIN PRIVATE KEY-----://password";
    let once = redact(&Value::Map(Map::from([(key.into(), "password".into())])));
    assert_eq!(redact(&once), once);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn redaction_is_idempotent(config in any_config()) {
        let once = redact(&config);
        prop_assert_eq!(redact(&once), once);
    }

    #[test]
    fn redaction_of_text_is_idempotent(text in any_text()) {
        let once = redact_text(&text);
        prop_assert_eq!(redact_text(&once), once);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,40}") {
        redact_text(&text);
        redact(&Value::String(text));
    }

    #[test]
    fn a_planted_secret_never_comes_out(secret in "[A-Za-z0-9][A-Za-z0-9!%*+_~^.-]{5,30}[A-Za-z0-9]", place in 0_usize..12) {
        let found = redact(&planted(&secret, place)).to_string();
        prop_assert!(!found.contains(&secret), "{}", found);
    }

    #[test]
    fn a_planted_secret_never_comes_out_of_text(secret in "[A-Za-z0-9][A-Za-z0-9!%*+_~^.-]{5,30}[A-Za-z0-9]", shape in 0_usize..6) {
        let text = [
            format!("    password: {secret}\n"), format!("level=error token={secret} x=1"), format!("{{\"api_key\":\"{secret}\"}}"),
            format!("Get \"https://u:{secret}@h/x\": EOF"), format!("api_key: >\n  {secret}\n  {secret}\nx: y"), format!("Bearer {secret}"),
        ][shape].clone();
        let found = redact_text(&text);
        prop_assert!(!found.contains(&secret), "{}", found);
    }
}
