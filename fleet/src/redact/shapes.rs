//! Secrets that are known by their shape, whatever the key: where they are in one line of masked text.
//!
//! Each search steps forward past what it found, so that a hostile line costs a few passes, not their square.

use super::keys::Class;
use super::{hide, settle};
use std::ops::Range;

/// Prefixes of tokens, with the fewest bytes that follow them.
const PREFIXES: &[(&str, usize)] = &[
    ("AKIA", 16), // AWS, long-lived
    ("ASIA", 16), // AWS, temporary
    ("AIza", 30), // Google
    ("ghp_", 20), // GitHub
    ("gho_", 20),
    ("ghs_", 20),
    ("github_pat_", 20),
    ("glpat-", 15), // GitLab
    ("glsa_", 20),  // Grafana
    ("glc_", 20),
    ("xoxb-", 20), // Slack
    ("xoxp-", 20),
    ("sk_live_", 16), // Stripe
    ("sk-", 32),
    ("hvs.", 20),    // Vault
    ("dt0c01.", 20), // Dynatrace
    ("dt0s01.", 20),
    ("NRAK-", 20), // New Relic
    ("NRII-", 20),
    ("hcaik_", 20), // Honeycomb
    ("hcxik_", 20),
    ("SG.", 40),     // SendGrid
    ("dop_v1_", 30), // DigitalOcean
    ("npm_", 30),
];
/// Words that follow `Bearer` and `Basic` in prose.
const PROSE: &[&str] = &[
    "auth",
    "authentication",
    "authenticator",
    "authorization",
    "credentials",
    "header",
    "is",
    "missing",
    "not",
    "or",
    "realm",
    "scheme",
    "token",
    "tokens",
    "was",
];
/// From this length on, in bytes, a random token is taken for key material.
const MATERIAL_MIN: usize = 20;
/// Longest run without a separator that words and numbers do not reach.
const RUN_MIN: usize = 16;
/// Different characters that a random run has at least.
const DISTINCT_MIN: usize = 8;

/// All secrets in the line. `dsn` tells that the line is a connection string.
pub(super) fn find(line: &str, dsn: bool) -> Vec<Range<usize>> {
    let mut found = strict(line);
    schemes(line, &mut found);
    urls(line, dsn, &mut found);
    accounts(line, dsn, &mut found);
    found
}

/// A map key with secrets of unmistakable shape hidden.
pub(super) fn redact_key(key: &str) -> String {
    settle(key, |key| {
        let opaque = hide::opaque(key);
        let masked = hide::mask(key, &opaque);
        let mut found = strict(&masked);
        urls(&masked, false, &mut found);
        hide::replace(key, &opaque, found)
    })
}

/// True if the whole value is secret for its class: random where that counts, or a connection string without parts.
pub(super) fn is_secret_as_a_whole(line: &str, class: Class) -> bool {
    match class {
        Class::Material => is_material(line),
        Class::Connection => !line.contains(['=', '@']) && !line.contains("://"),
        Class::Secret | Class::Plain => false,
    }
}

/// True for what looks random: a UUID, or a long run of mixed letters and digits.
fn is_material(text: &str) -> bool {
    let text = text.trim();
    let is_token = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "+/=_-.~:".contains(c));
    text.len() >= MATERIAL_MIN
        && is_token
        && !text.starts_with('/')
        && (is_uuid(text) || has_random_run(text))
}

fn is_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

fn has_random_run(text: &str) -> bool {
    text.split(['-', '_', '.', '/', ':', '~']).any(|run| {
        let distinct: std::collections::BTreeSet<char> = run.chars().collect();
        let mixed = run.contains(|c: char| c.is_ascii_digit())
            && run.contains(|c: char| c.is_ascii_alphabetic());
        run.len() >= RUN_MIN && distinct.len() >= DISTINCT_MIN && mixed
    })
}

/// PEM private keys, prefixed tokens, JWTs.
fn strict(line: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    pems(line, &mut found);
    for (prefix, rest) in PREFIXES {
        tokens(
            line,
            prefix,
            |token| token.len() >= prefix.len() + rest,
            &mut found,
        );
    }
    tokens(
        line,
        "eyJ",
        |token| token.len() >= 20 && token.matches('.').count() >= 2,
        &mut found,
    );
    found
}

fn pems(line: &str, found: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while let Some(start) = line[at..].find("-----BEGIN ").map(|offset| at + offset) {
        let title = start + "-----BEGIN ".len();
        let Some(title_end) = line[title..].find("-----").map(|offset| title + offset) else {
            return;
        };
        at = title_end;
        if line[title..title_end].ends_with("PRIVATE KEY") {
            let end = line[title_end..]
                .find("-----END ")
                .map_or(line.len(), |offset| {
                    let end = title_end + offset + "-----END ".len();
                    line[end..]
                        .find("-----")
                        .map_or(line.len(), |offset| end + offset + "-----".len())
                });
            found.push(start..end);
            at = end;
        }
    }
}

/// Tokens that begin with `prefix` at the beginning of a word.
fn tokens(
    line: &str,
    prefix: &str,
    is_secret: impl Fn(&str) -> bool,
    found: &mut Vec<Range<usize>>,
) {
    let mut at = 0;
    while let Some(start) = line[at..].find(prefix).map(|offset| at + offset) {
        at = start + prefix.len();
        if line[..start].ends_with(|c: char| c.is_ascii_alphanumeric()) {
            continue;
        }
        let length = line[start..].find(|c: char| !c.is_ascii_alphanumeric() && !"_-.".contains(c));
        at = length.map_or(line.len(), |length| start + length);
        if is_secret(&line[start..at]) {
            found.push(start..at);
        }
    }
}

/// `Bearer x` and `Basic x` anywhere; other schemes where they and one token are the whole value.
fn schemes(line: &str, found: &mut Vec<Range<usize>>) {
    let mut next = 0;
    let place = |word| {
        let at = next;
        next += str::len(word) + 1;
        (at, word)
    };
    let words = line
        .split([' ', '\t', '"', '\'', ',', ';', ':', '='])
        .map(place);
    let words: Vec<(usize, &str)> = words.filter(|(_, word)| !word.is_empty()).collect();
    for pair in words.windows(2) {
        let ((at, scheme), (start, first)) = (pair[0], pair[1]);
        if !hide::is_scheme(scheme) {
            continue;
        }
        let spaced = line[at + scheme.len()..start]
            .chars()
            .all(|c| c == ' ' || c == '\t');
        let rest = &line[start..];
        let end = start
            + rest
                .find(|c: char| c.is_whitespace() || "\"',;`)}".contains(c))
                .unwrap_or(rest.len());
        let token = &line[start..end];
        let whole = at == 0 && end == line.len();
        let secret = if scheme.eq_ignore_ascii_case("bearer") {
            !PROSE.contains(&first)
        } else if scheme.eq_ignore_ascii_case("basic") {
            token.len() >= 6
                && token
                    .contains(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase() || c == '=')
        } else {
            whole && token.len() >= 8 && token.contains(|c: char| c.is_ascii_digit())
        };
        if spaced && secret {
            found.push(start..end);
        }
    }
}

/// The password in `scheme://user:password@host`, or the user where it is the secret (`https://key@host`).
fn urls(line: &str, dsn: bool, found: &mut Vec<Range<usize>>) {
    let mut at = 0;
    for token in line.split(|c: char| c.is_whitespace() || "\"'`<>".contains(c)) {
        let (start, end) = (at, at + token.len());
        at = end + line[end..].chars().next().map_or(0, char::len_utf8);
        // Everything that is looked up behind a scheme is looked up once per token.
        let last_at = token.rfind('@').map(|at| start + at);
        let path_end = start + token.find('?').unwrap_or(token.len());
        let last_at_in_path = line[start..path_end].rfind('@').map(|at| start + at);
        let mut from = start;
        while let Some(colon) = line[from..end].find("://").map(|offset| from + offset) {
            from = colon + 3;
            let web = ["http", "https", "ws", "wss"]
                .iter()
                .any(|scheme| line[start..colon].ends_with(scheme));
            let authority = from + line[from..end].find(['/', '?', '#']).unwrap_or(end - from);
            let sign = line[from..authority].rfind('@').map(|at| from + at);
            let sign = match sign {
                Some(sign) if !web => last_at_in_path.filter(|last| *last > sign).or(Some(sign)),
                // No `@` and no port: the password itself holds a `/`, `?` or `#`.
                None if !has_port(&line[from..authority]) => {
                    last_at.filter(|last| *last > authority)
                }
                sign => sign,
            };
            if let Some(sign) = sign.filter(|sign| *sign > from) {
                userinfo(line, from..sign, web || dsn, found);
                from = sign;
            }
        }
    }
}

/// True for `host`, `host:4317`, `[::1]:4317` and where nothing can be told.
fn has_port(authority: &str) -> bool {
    match authority.rsplit_once(':') {
        Some((_, port)) => {
            let masked = port.bytes().all(|byte| byte == hide::MASK);
            let digits = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
            masked || digits || authority.starts_with('[')
        }
        None => true,
    }
}

fn userinfo(line: &str, range: Range<usize>, key_alone: bool, found: &mut Vec<Range<usize>>) {
    match line[range.clone()].find(':') {
        Some(colon) => found.push(range.start + colon + 1..range.end),
        None if key_alone || is_material(&line[range.clone()]) => found.push(range),
        None => {}
    }
}

/// The password in `user:password@tcp(host)` and, without a scheme, `user:password@host`.
fn accounts(line: &str, dsn: bool, found: &mut Vec<Range<usize>>) {
    if line.contains("://") && !line.contains('(') {
        return;
    }
    let names_network = |sign: &usize| {
        line[sign + 1..]
            .trim_start_matches(|c: char| c.is_ascii_alphanumeric())
            .starts_with('(')
    };
    let network = line
        .match_indices('@')
        .map(|(sign, _)| sign)
        .rfind(names_network);
    let Some(sign) = network.or(line.rfind('@')) else {
        return;
    };
    let host = &line[sign + 1..];
    let start = line[..sign].rfind(|c: char| c.is_whitespace() || "\"'`".contains(c));
    let start = start.filter(|_| !dsn).map_or(0, |at| {
        at + line[at..].chars().next().map_or(1, char::len_utf8)
    });
    let account = &line[start..sign];
    let separator = account
        .find(':')
        .or_else(|| account.find('/').filter(|_| dsn));
    let Some(separator) = separator.map(|offset| start + offset) else {
        return;
    };
    let is_user =
        !line[start..separator].is_empty() && !line[start..separator].contains(['/', '=']);
    let is_host =
        host.starts_with(|c: char| c.is_ascii_alphanumeric()) && !host.starts_with("sha256:");
    let named = line[start..separator].contains('=');
    if network.is_some() || !named && (dsn || is_user && is_host) {
        found.push(separator + 1..sign);
    }
}
