//! What is wrong with a selector's text, and where.

use std::fmt;

/// How much of the text a message shows.
const SHOWN_CHARS: usize = 80;

/// The text is no selector. `Display` is one line with the position and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The whole text.
    pub text: String,
    /// Byte of `text` where it went wrong; its length at the end. Always between two characters.
    pub at: usize,
    /// What would have been right there.
    pub expected: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.chars().take(SHOWN_CHARS).collect();
        let more = if shown.len() < self.text.len() {
            "…"
        } else {
            ""
        };
        write!(f, "selector {shown:?}{more}: at byte {}, ", self.at)?;
        match self
            .text
            .get(self.at..)
            .and_then(|rest| rest.chars().next())
        {
            Some(found) => write!(f, "{found:?}: ")?,
            None => f.write_str("the end: ")?,
        }
        f.write_str(&self.expected)
    }
}
