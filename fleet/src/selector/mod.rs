//! Selectors: which agents something is meant for.
//!
//! What it is not: a query language. No "or", no patterns, no recursion: a list of terms, all of which must hold.
//!
//! ```text
//! role = gateway, env in (prod, staging), !canary, service.version >= 0.150, < 0.160
//! ```
//!
//! | term | holds if the agent |
//! |---|---|
//! | `k = v`, `k == v` | has `k` with that value |
//! | `k != v` | has another value, **or no `k` at all** (as in Kubernetes; add `k` to ask for it) |
//! | `k in (a, b)` | has `k` with one of the values |
//! | `k notin (a, b)` | has another value, **or no `k` at all** |
//! | `k`, `!k` | has `k`, has no `k` |
//! | `k >= 1.2`, `<=`, `>`, `<` | has `k`, its value is a version, and the comparison holds ([`Version`]) |
//! | `*` | is any agent; only by itself |
//!
//! A term that begins with `<`, `<=`, `>` or `>=` is about the key of the term before. Keys are ASCII letters, digits
//! and `._/-`; values those and `:@+`, or anything in double quotes (`\"` and `\\` inside). An empty selector is an
//! error, since what it would mean differs between the systems people know.
//!
//! Invariants: `Display` is canonical text that parses back to an equal selector; [`Selector::explain`] says *matched*
//! exactly when [`Selector::matches`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use error::Error;
pub use explain::{Explanation, Reason};
pub use term::{Order, Term, Test};
pub use version::Version;

mod error;
mod explain;
mod parse;
mod term;
mod version;

/// Longest selector text, in bytes, as written and in canonical form: a screen full, and cheap to keep in every program.
pub const TEXT_BYTES_MAX: usize = 4096;
/// Most terms of a selector.
pub const TERMS_MAX: usize = 64;
/// Most values of one `in` or `notin`.
pub const VALUES_MAX: usize = 256;

/// What is known of one agent. Who implements it lets labels win over attributes of the same key.
pub trait Facts {
    fn get(&self, key: &str) -> Option<&str>;
}

/// A parsed selector; no terms means `*`, every agent. Terms are kept in the order in which they were written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    terms: Vec<Term>,
}

impl Selector {
    /// The selector `*`.
    pub const fn all() -> Self {
        Self { terms: Vec::new() }
    }

    /// Reads a selector.
    ///
    /// # Errors
    ///
    /// [`Error`] with the byte position and what was expected there; also for an empty text and beyond the limits.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse::selector(text)
    }

    /// True if all terms hold for an agent with these facts.
    pub fn matches(&self, facts: &(impl Facts + ?Sized)) -> bool {
        self.terms
            .iter()
            .all(|term| term.holds(facts.get(&term.key)))
    }

    /// Why an agent with these facts is matched or not, term by term.
    pub fn explain(&self, facts: &(impl Facts + ?Sized)) -> Explanation {
        Explanation::new(
            self.terms
                .iter()
                .map(|term| term.explain(facts.get(&term.key)))
                .collect(),
        )
    }

    /// The terms, all of which must hold; none for `*`.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The keys that decide, each once, sorted. None for `*`.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.terms
            .iter()
            .map(|term| term.key.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
    }

    /// True if every agent that this selector could match is one that `other` matches, as far as the terms tell by
    /// themselves: each term of `other` follows from one of these. `false` is no proof of the contrary.
    pub fn implies(&self, other: &Selector) -> bool {
        let follows = |wanted: &Term| self.terms.iter().any(|term| term.implies(wanted));
        other.terms.iter().all(follows)
    }

    /// True for `*`, which matches every agent.
    pub fn is_all(&self) -> bool {
        self.terms.is_empty()
    }
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("*");
        }
        for (at, term) in self.terms.iter().enumerate() {
            write!(f, "{}{term}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Facts for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests;
