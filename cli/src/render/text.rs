//! The small words of every screen: numbers, ages, times, and the cleaning of text that agents wrote.

use std::time::{Duration, UNIX_EPOCH};

/// `9412` as `9,412`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 agent`, `9,412 agents`.
pub fn plural(number: u64, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        thousands(number),
        if number == 1 { "" } else { "s" }
    )
}

/// A length of time in its largest unit: `45s`, `3m`, `5h`, `12d`.
pub fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// A moment as `2026-09-01T14:02:00Z`; `-` for never.
pub fn timestamp(at_ms: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(at_ms)) {
        Some(at) if at_ms != 0 && at_ms < MOMENT_MAX_MS => {
            humantime::format_rfc3339_seconds(at).to_string()
        }
        _ => "-".to_owned(),
    }
}

/// End of the year 9999, after which there is no four-digit year.
const MOMENT_MAX_MS: u64 = 253_402_300_799_000;

/// One line without control characters: what an agent reports must not steer the reader's terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if steers(c) { ' ' } else { c })
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// Several lines without control characters.
pub fn clean_lines(text: &str) -> String {
    let tabs = text.replace("\r\n", "\n").replace('\t', "    ");
    tabs.chars()
        .map(|c| if c != '\n' && steers(c) { ' ' } else { c })
        .collect()
}

/// A patch without control characters, its tabs and spaces as they are.
pub fn clean_patch(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c != '\n' && c != '\t' && steers(c) {
                ' '
            } else {
                c
            }
        })
        .collect()
}

/// `text` as one word of a shell's command line.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", clean(text).replace('\'', r"'\''"))
    }
}

/// Control characters, and those that turn the direction of text.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text`, or `-` where there is none.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        clean(text)
    }
}

/// The first 12 characters of a hash.
pub fn short(hash: &str) -> String {
    or_dash(&hash.chars().take(12).collect::<String>())
}

/// `r4`, or `-` for none.
pub fn revision(number: u64) -> String {
    if number == 0 {
        "-".to_owned()
    } else {
        format!("r{number}")
    }
}

/// Cuts a line after `width` characters.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars()
        .take(width.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// The first `lines` lines, and how many more there are.
pub fn head(text: &str, lines: usize) -> String {
    let all = text.lines().count();
    let mut head: String = text
        .lines()
        .take(lines)
        .map(|line| format!("{line}\n"))
        .collect();
    if all > lines {
        head += &format!("… {} more lines\n", thousands((all - lines) as u64));
    }
    head
}

/// Every line moved to the right.
pub fn indent(text: &str, by: usize) -> String {
    let space = " ".repeat(by);
    text.lines()
        .map(|line| {
            if line.is_empty() {
                "\n".to_owned()
            } else {
                format!("{space}{line}\n")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_thousands_separators() {
        assert_eq!(
            [0, 999, 1000, 9_412, 1_234_567].map(thousands),
            ["0", "999", "1,000", "9,412", "1,234,567"]
        );
        assert_eq!(plural(1, "agent"), "1 agent");
        assert_eq!(plural(9_412, "agent"), "9,412 agents");
    }

    #[test]
    fn age_is_told_in_its_largest_unit() {
        assert_eq!(
            [0, 59_999, 180_000, 7_200_000, 86_400_000 * 12].map(age),
            ["0s", "59s", "3m", "2h", "12d"]
        );
    }

    #[test]
    fn time_is_utc_and_never_is_a_dash() {
        assert_eq!(timestamp(1_788_271_320_000), "2026-09-01T14:02:00Z");
        assert_eq!(timestamp(0), "-");
        assert_eq!(timestamp(u64::MAX), "-");
    }

    #[test]
    fn text_of_agents_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a [2Jb c");
        assert_eq!(clean("a\u{202e}b"), "a b");
        assert_eq!(clean_lines("a\tb\r\nc\u{7}d"), "a    b\nc d");
    }

    #[test]
    fn word_of_a_command_is_quoted_where_a_shell_would_split_it() {
        assert_eq!(shell_word("careful"), "careful");
        assert_eq!(shell_word("cards leak"), "'cards leak'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
