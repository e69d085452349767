//! Folds error texts so that identical errors of many agents count as one: ids, numbers and addresses go.

/// The text with everything that differs from agent to agent replaced by `#`.
pub fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len().min(400));
    let mut word = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        if c.is_alphanumeric() || c == '-' || c == '_' {
            word.push(c);
            continue;
        }
        folded.push_str(if varies(&word) { "#" } else { &word });
        word.clear();
        folded.push(if c.is_whitespace() { ' ' } else { c });
        if folded.len() > 400 {
            break;
        }
    }
    folded.trim().to_owned()
}

/// Numbers, hex ids and anything else with digits in most places.
fn varies(word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let hex = word.len() >= 8 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    digits > 0 && (hex || digits * 2 >= word.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_differ_in_ids_only_are_one() {
        let a = fold("Agent process PID=9077 exited unexpectedly, exit code=1 at 10.0.0.7:4317");
        let b = fold("Agent process PID=15 exited unexpectedly, exit code=2 at 10.1.0.9:4318");
        assert_eq!(a, b);
        assert!(a.contains("exited unexpectedly"));
    }

    #[test]
    fn names_of_components_stay() {
        assert_eq!(fold("unknown type: \"redaction\" for id otlp_http"), "unknown type: \"redaction\" for id otlp_http");
    }
}
