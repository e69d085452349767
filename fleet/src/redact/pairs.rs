//! Secrets that stand behind their name in a text: `password=x`, `?sig=x`, `AccountKey=x;`, `X-API-Key: x`,
//! `"token":"x"`.

use super::hide;
use super::keys::{self, Class};
use std::ops::Range;

/// What the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A string of a document: `a:b` is likelier an address than a pair.
    Value,
    /// A line of a log or of a broken document.
    Line,
}

/// Names in the query of a URL that are secret only there.
const QUERY_NAMES: [&str; 4] = ["sig", "signature", "code", "auth"];
/// From this length on the value of `key=` in a query is one.
const QUERY_KEY_MIN: usize = 16;

/// What a rule that looks for secrets has in their place, e.g. `replace_pattern(body, "token=[^&]*", "token=***")`.
const PATTERNS: [&str; 8] = ["[^", "[a-z", "(.", "([", "(?", ".*", ".+", "***"];

/// Where the values behind secret names are.
pub(super) fn find(line: &str, mode: Mode) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let bytes = line.as_bytes();
    let semicolons = line.contains(';');
    let mut at = 0;
    while let Some(sign) = line[at..].find(['=', ':']).map(|offset| at + offset) {
        at = sign + 1;
        if bytes[sign] == b'='
            && (bytes.get(at) == Some(&b'=') || line[..sign].ends_with(['=', '!', '<', '>']))
        {
            continue;
        }
        let name = name_before(line, sign, semicolons);
        if !name.may_be_secret() {
            continue;
        }
        let Some(value) = value_behind(line, sign, &name, mode) else {
            continue;
        };
        if name.is_secret(&line[value.clone()]) {
            at = value.end.max(at);
            found.push(value);
        }
    }
    found
}

struct Name<'a> {
    text: &'a str,
    /// Behind `?` or `&`.
    in_query: bool,
    /// The whole of a segment between semicolons.
    in_segment: bool,
    /// First thing in its line.
    first: bool,
}

impl Name<'_> {
    fn may_be_secret(&self) -> bool {
        self.in_query || keys::class_of(self.text) == Class::Secret
    }

    fn is_secret(&self, value: &str) -> bool {
        if value.is_empty() || PATTERNS.iter().any(|pattern| value.starts_with(pattern)) {
            return false;
        }
        match keys::class_of(self.text) {
            Class::Secret => true,
            Class::Material => value.len() >= QUERY_KEY_MIN,
            _ => QUERY_NAMES
                .iter()
                .any(|name| self.text.eq_ignore_ascii_case(name)),
        }
    }
}

fn name_before(line: &str, sign: usize, semicolons: bool) -> Name<'_> {
    let mut from = sign.saturating_sub(keys::KEY_MAX);
    while !line.is_char_boundary(from) {
        from += 1;
    }
    let before = line[from..sign].trim_end_matches([' ', '\t', '"', '\'', '\\', ']']);
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let start = before.rfind(|c: char| !is_name(c)).map_or(0, |at| {
        at + before[at..].chars().next().map_or(1, char::len_utf8)
    });
    let lead = before[..start].trim_start_matches([' ', '\t', '-', '"', '\'']);
    let segment = before.rfind(';').map_or(0, |at| at + 1);
    let in_segment = semicolons && before[segment..].chars().all(|c| is_name(c) || c == ' ');
    Name {
        text: if in_segment {
            before[segment..].trim()
        } else {
            &before[start..]
        },
        in_query: before[..start].ends_with(['?', '&']),
        in_segment,
        first: from == 0 && lead.is_empty(),
    }
}

/// The value behind the sign at `sign`, without its quotes.
fn value_behind(line: &str, sign: usize, name: &Name<'_>, mode: Mode) -> Option<Range<usize>> {
    let colon = line.as_bytes()[sign] == b':';
    let rest = line[sign + 1..]
        .strip_prefix('>')
        .filter(|_| !colon)
        .unwrap_or(&line[sign + 1..]);
    let value = rest.trim_start_matches([' ', '\t']);
    let (spaced, start) = (value.len() < rest.len(), line.len() - value.len());
    if colon && spaced && name.first {
        return Some(start..start + value.trim_end().len());
    }
    for quote in ["\\\"", "\"", "'"] {
        if let Some(inner) = value.strip_prefix(quote) {
            let start = start + quote.len();
            return Some(start..start + closing(inner, quote));
        }
    }
    let digits = value.chars().take_while(char::is_ascii_digit).count();
    let port = digits > 0
        && digits <= 5
        && value[digits..]
            .chars()
            .next()
            .is_none_or(|c| !c.is_ascii_alphanumeric());
    if colon && (value.starts_with("//") || !spaced && (mode == Mode::Value || port)) {
        return None;
    }
    let length = if name.in_segment {
        value.find([';', '\n']).unwrap_or(value.len())
    } else if name.in_query {
        value
            .find(|c: char| c.is_whitespace() || "&#\"'`<>".contains(c))
            .unwrap_or(value.len())
    } else {
        inline(value, name.text)
    };
    Some(start..start + length)
}

/// Where the quoted text ends: before the closing quote, or with the text.
fn closing(inner: &str, quote: &str) -> usize {
    let mut at = 0;
    while let Some(end) = inner[at..].find(quote).map(|offset| at + offset) {
        let slashes = inner[..end].len() - inner[..end].trim_end_matches('\\').len();
        if quote != "\"" || slashes.is_multiple_of(2) {
            return end;
        }
        at = end + quote.len();
    }
    inner.len()
}

/// Length of a bare value among other text: a word, with a scheme before it or behind `authorization` two; a comma, semicolon or ampersand ends it
/// only where another name follows.
fn inline(value: &str, name: &str) -> usize {
    let mut end = word(value);
    let authorizes = name.to_ascii_lowercase().ends_with("authorization");
    let hidden = value.as_bytes().first() == Some(&hide::MASK);
    if authorizes && !hidden || hide::is_scheme(&value[..end]) {
        let rest = &value[end..];
        let gap = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        end += gap + word(&rest[gap..]);
    }
    end
}

fn word(value: &str) -> usize {
    let mut at = 0;
    while let Some((offset, c)) = value[at..]
        .char_indices()
        .find(|(_, c)| c.is_whitespace() || ",;&".contains(*c))
    {
        let end = at + offset;
        if c.is_whitespace() || names_next(&value[end + 1..]) {
            return end;
        }
        at = end + 1;
    }
    value.len()
}

fn names_next(rest: &str) -> bool {
    let rest = rest.trim_start_matches(' ');
    if rest.is_empty() {
        return true;
    }
    let name = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.\"'".contains(c));
    name.is_some_and(|end| end > 0 && end <= keys::KEY_MAX && rest[end..].starts_with(['=', ':']))
}
