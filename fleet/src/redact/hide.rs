//! Hiding a part of a text: all of it but references and what is hidden already.
//!
//! A reference names where a secret is and stays readable: `${env:X}`, `${X}`, `${file:/run/token}`. The default in
//! `${env:X:-default}` is a literal like any other. `${yaml:…}` is inline content and no reference, neither is `$${X}`,
//! which the collector does not expand, nor anything with white space or an `@`.

use super::REDACTED;
use std::ops::Range;

/// Stands for each byte of a reference or marker in a masked text: belongs to a value, is no separator.
pub(super) const MASK: u8 = 1;
/// Longest reference head, in bytes; longer is a literal.
const HEAD_MAX: usize = 512;
/// Words before a credential that tell nothing.
const SCHEMES: [&str; 11] = [
    "bearer",
    "basic",
    "token",
    "apikey",
    "api-token",
    "splunk",
    "digest",
    "negotiate",
    "api-key",
    "secret-key",
    "key",
];

pub(super) fn is_scheme(word: &str) -> bool {
    SCHEMES
        .iter()
        .any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// The text with all that is literal hidden; empty stays empty.
pub(super) fn hide(text: &str) -> String {
    let whole = 0..text.len();
    replace(text, &opaque(text), vec![whole])
}

/// Where references and markers are, in order: of a reference with a default only what surrounds the default.
pub(super) fn opaque(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut found, mut open, mut at) = (Vec::new(), 0_usize, 0);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'[' if text[at..].starts_with(REDACTED) => at + REDACTED.len(),
            b'$' if bytes.get(at + 1) == Some(&b'$') => {
                at += 2;
                continue;
            }
            b'$' => match head(&text[at..]) {
                Some((length, has_default)) => {
                    open += usize::from(has_default);
                    at + length
                }
                None => at,
            },
            b'}' if open > 0 => {
                open -= 1;
                at + 1
            }
            _ => at,
        };
        if end > at {
            found.push(at..end);
        }
        at = end.max(at + 1);
    }
    found
}

/// Length of the reference that the text begins with: up to its `}`, or up to its `:-` (then true).
fn head(text: &str) -> Option<(usize, bool)> {
    let inner = text.strip_prefix("${")?;
    let mut limit = HEAD_MAX.min(inner.len());
    while !inner.is_char_boundary(limit) {
        limit -= 1;
    }
    let end = inner[..limit].find('}');
    let default = inner[..limit]
        .find(":-")
        .filter(|default| end.is_none_or(|end| *default < end));
    let name = &inner[..default.or(end)?];
    is_name(name).then(|| match default {
        Some(default) => (2 + default + 2, true),
        None => (2 + name.len() + 1, false),
    })
}

fn is_name(name: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_.+-".contains(c))
    };
    match name.split_once(':') {
        None => is_word(name),
        Some((scheme, rest)) => {
            let is_plain = !rest.is_empty()
                && !rest.contains(|c: char| c.is_whitespace() || "@{}$".contains(c));
            is_word(scheme) && scheme != "yaml" && is_plain
        }
    }
}

/// The text with each byte of an opaque range replaced, so that what looks for shapes steps over it. Same length.
pub(super) fn mask(text: &str, opaque: &[Range<usize>]) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    for range in opaque {
        masked.push_str(&text[at..range.start]);
        masked.extend(std::iter::repeat_n(char::from(MASK), range.len()));
        at = range.end;
    }
    masked.push_str(&text[at..]);
    masked
}

/// The text with the literal parts of `found` hidden. Ranges may overlap and come in any order.
pub(super) fn replace(text: &str, opaque: &[Range<usize>], mut found: Vec<Range<usize>>) -> String {
    found.sort_by_key(|range| (range.start, range.end));
    let (mut out, mut at, mut next) = (String::with_capacity(text.len()), 0, 0);
    for Range { start, end } in found {
        if end <= at || start >= end {
            continue;
        }
        let start = start.max(at);
        out.push_str(&text[at..start]);
        while opaque.get(next).is_some_and(|range| range.end <= start) {
            next += 1;
        }
        let inside: Vec<_> = opaque[next..]
            .iter()
            .take_while(|range| range.start < end)
            .collect();
        at = start;
        for range in &inside {
            hide_literal(&text[at..range.start.max(at)], true, &mut out);
            push(&text[range.start.max(at)..range.end], &mut out);
            at = range.end;
        }
        hide_literal(&text[at..end.max(at)], !inside.is_empty(), &mut out);
        at = end.max(at);
    }
    out.push_str(&text[at..]);
    out
}

/// White space stays, and so does a scheme beside a reference: `Bearer ${env:TOKEN}`.
fn hide_literal(literal: &str, beside_opaque: bool, out: &mut String) {
    let word = literal.trim();
    if word.is_empty() || beside_opaque && is_scheme(word) {
        out.push_str(literal)
    } else {
        push(REDACTED, out)
    }
}

/// Two markers in a row are one.
fn push(part: &str, out: &mut String) {
    if part != REDACTED || !out.ends_with(REDACTED) {
        out.push_str(part);
    }
}
