//! Redaction of text that is no document: bodies that do not parse, log tails, error messages.
//!
//! Line by line, by shape and by `key: value` and `key=value`. What spans lines is followed where YAML and PEM make it
//! plain: block scalars and lists under a secret key, and private keys, also when the text begins inside one.

use super::keys::{self, Class};
use super::{REDACTED, hide, pairs, settle, shapes};

/// The text without its secrets. Idempotent; a hidden block becomes one line.
pub fn redact_text(text: &str) -> String {
    settle(text, pass)
}

/// What the lines that follow belong to.
enum Inside {
    Nothing,
    PrivateKey,
    /// Below the secret key at that indent.
    Block {
        indent: usize,
        block: Block,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// A list or map: each line by itself.
    Nested,
    /// A block scalar: every line is secret, and the first stands for all.
    Scalar,
    /// The rest of a block scalar.
    Hidden,
}

pub(super) fn pass(text: &str) -> String {
    let text = without_cut_key(text);
    let mut out = String::with_capacity(text.len());
    let mut inside = Inside::Nothing;
    for line in text.split_inclusive('\n') {
        let (body, end) = line.split_at(line.trim_end_matches(['\n', '\r']).len());
        inside = match inside {
            Inside::PrivateKey if body.contains("-----END ") => {
                let rest = body.rsplit_once("-----").map_or("", |(_, rest)| rest);
                out.push_str(rest);
                out.push_str(end);
                Inside::Nothing
            }
            Inside::PrivateKey => Inside::PrivateKey,
            Inside::Block { indent, block } if belongs(body, indent, block) => Inside::Block {
                indent,
                block: block_line(body, end, block, &mut out),
            },
            Inside::Nothing | Inside::Block { .. } => {
                out.push_str(&redact_line(body));
                let opens = opens(body);
                if !matches!(opens, Inside::PrivateKey) {
                    out.push_str(end);
                }
                opens
            }
        };
    }
    out
}

/// A text that begins inside a private key, without that part.
fn without_cut_key(text: &str) -> std::borrow::Cow<'_, str> {
    let end = text
        .find("-----END ")
        .filter(|end| !text[..*end].contains("-----BEGIN "));
    let close = end.and_then(|end| {
        let title = &text[end + "-----END ".len()..];
        let length = title
            .find("-----")
            .filter(|length| title[..*length].ends_with("PRIVATE KEY"))?;
        Some(text.len() - title.len() + length + "-----".len())
    });
    close.map_or(text.into(), |close| {
        format!("{REDACTED}{}", &text[close..]).into()
    })
}

fn redact_line(line: &str) -> String {
    let opaque = hide::opaque(line);
    let masked = hide::mask(line, &opaque);
    let mut found = shapes::find(&masked, false);
    found.extend(
        pairs::find(&masked, pairs::Mode::Line)
            .into_iter()
            .filter(|range| !is_block_sign(&line[range.clone()])),
    );
    hide::replace(line, &opaque, found)
}

/// `|`, `>-`, `|2+`: the value is on the lines below.
fn is_block_sign(value: &str) -> bool {
    let rest = value.trim().strip_prefix(['|', '>']);
    rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || "+-".contains(c)))
}

fn opens(line: &str) -> Inside {
    let begins = line.rfind("-----BEGIN ").is_some_and(|begin| {
        let title = &line[begin..];
        title.contains("PRIVATE KEY-----") && !title.contains("-----END ")
    });
    if begins {
        return Inside::PrivateKey;
    }
    match key_of(line) {
        Some((key, value)) if keys::class_of(key) == Class::Secret => match value.trim() {
            "" => Inside::Block {
                indent: indent(line),
                block: Block::Nested,
            },
            value if is_block_sign(value) => Inside::Block {
                indent: indent(line),
                block: Block::Scalar,
            },
            _ => Inside::Nothing,
        },
        _ => Inside::Nothing,
    }
}

/// Key and value of a line `key: value`, also behind `- `.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let entry = line.trim_start().trim_start_matches("- ").trim_start();
    let (key, value) = entry
        .split_once(':')
        .filter(|(_, value)| value.is_empty() || value.starts_with([' ', '\t']))?;
    Some((key.trim().trim_matches(['"', '\'']), value))
}

/// Columns before the text, where a list's `- ` counts as indent of the key behind it.
fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

fn belongs(line: &str, above: usize, block: Block) -> bool {
    let item =
        block == Block::Nested && line.trim_start().starts_with("- ") && indent(line) == above;
    line.trim().is_empty() || indent(line) > above || item
}

/// One line below a secret key: hidden, unless it is itself a key that is only about a secret.
fn block_line(line: &str, end: &str, block: Block, out: &mut String) -> Block {
    let entry = line.trim_start().trim_start_matches("- ").trim_start();
    let lead = &line[..line.len() - entry.len()];
    if entry.is_empty() {
        out.push_str(line);
        out.push_str(end);
        return block;
    }
    match key_of(line).filter(|_| block == Block::Nested) {
        Some((key, _)) if keys::is_about_key(key) => out.push_str(&redact_line(line)),
        Some((_, value)) => {
            let value = value.trim_start();
            out.push_str(&line[..line.len() - value.len()]);
            out.push_str(&if is_block_sign(value) {
                value.to_owned()
            } else {
                hide::hide(value)
            });
        }
        None if block == Block::Hidden => return block,
        None => {
            out.push_str(lead);
            out.push_str(&hide::hide(entry));
        }
    }
    out.push_str(end);
    if block == Block::Nested {
        block
    } else {
        Block::Hidden
    }
}
