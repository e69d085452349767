//! Manifests as text, for the fleets of the tests.

use std::fmt::Write;

/// A whole collector config that differs from others in `marker` only.
pub fn config(marker: &str) -> String {
    format!(
        "receivers: {{otlp: {{protocols: {{http: {{endpoint: '127.0.0.1:4318'}}}}}}}}\n\
         processors: {{batch: {{}}}}\n\
         exporters: {{debug/{marker}: {{}}}}\n\
         service: {{pipelines: {{logs: {{receivers: [otlp], processors: [batch], exporters: [debug/{marker}]}}}}}}\n"
    )
}

/// One role of a family.
#[derive(Clone, Copy, Debug)]
pub struct Role<'a> {
    pub name: &'a str,
    pub selector: &'a str,
    pub after: &'a [&'a str],
    pub config: &'a str,
}

/// A role named as what its selector asks of the attribute `role`.
pub fn role<'a>(name: &'a str, selector: &'a str, config: &'a str) -> Role<'a> {
    Role {
        name,
        selector,
        after: &[],
        config,
    }
}

/// `kind: Family`.
pub fn family(name: &str, precedence: i64, roles: &[Role<'_>]) -> String {
    let mut out = format!(
        "apiVersion: muster/v1\nkind: Family\nmetadata: {{name: {name}, owner: tests}}\nspec:\n  precedence: {precedence}\n  roles:\n"
    );
    for role in roles {
        let after = role.after.join(", ");
        let _ = writeln!(
            out,
            "    - name: {}\n      selector: \"{}\"\n      after: [{after}]\n      config: |",
            role.name, role.selector
        );
        for line in role.config.lines() {
            let _ = writeln!(out, "        {line}");
        }
    }
    out
}

/// `kind: Plan`; each wave is its size, soak and further keys in flow style: `size: 1, soak: 1s`. `on_stop` may be empty.
pub fn plan(name: &str, waves: &[&str], on_stop: &str) -> String {
    let mut out = format!("apiVersion: muster/v1\nkind: Plan\nmetadata: {{name: {name}}}\nspec:\n");
    if !on_stop.is_empty() {
        let _ = writeln!(out, "  onStop: {on_stop}");
    }
    out.push_str("  waves:\n");
    for wave in waves {
        let _ = writeln!(out, "    - {{{wave}}}");
    }
    out
}
