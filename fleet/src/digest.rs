//! A 32-byte BLAKE3 digest and the one way to compute it.
//!
//! What it is not: a MAC or a signature; anybody can compute it.
//!
//! Invariants: the domain and every part are length-prefixed before hashing, so two different lists of parts never
//! feed the same bytes (`["ab", "c"]` and `["a", "bc"]` differ), and a digest of one domain is never one of another.

use std::fmt;
use std::str::FromStr;

/// Bytes of a digest.
pub const LEN: usize = 32;
/// Hex digits of the short form that people see. 48 bits: enough to tell the revisions of one fleet apart.
const SHORT_HEX: usize = 12;

/// A BLAKE3 digest. `Display` is the short form (12 hex digits), [`Digest::to_hex`] the full one (64).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; LEN]);

/// The text is not a full digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hex digits, this is {found:?}")]
pub struct Error {
    pub found: String,
}

impl Digest {
    /// The digest of `parts` under `domain`. The domain names the use and its version, e.g. `muster.delivery.v1`.
    pub fn of(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in std::iter::once(&domain.as_bytes()).chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    pub const fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    /// The digest stored in a slice; `None` unless it has exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub const fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// All 64 hex digits, lower case.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_hex()[..SHORT_HEX])
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = Error;

    /// Parses the full form, 64 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, Error> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| Error {
                found: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_into_parts_counts() {
        assert_ne!(
            Digest::of("d", &[b"ab", b"c"]),
            Digest::of("d", &[b"a", b"bc"])
        );
        assert_ne!(Digest::of("d", &[b"a"]), Digest::of("d", &[b"a", b""]));
        assert_ne!(Digest::of("da", &[b"b"]), Digest::of("d", &[b"ab"]));
    }

    #[test]
    fn the_full_form_parses_back() {
        let digest = Digest::of("muster.test.v1", &[b"x"]);
        assert_eq!(digest.to_hex().parse::<Digest>(), Ok(digest));
        assert_eq!(digest.to_string(), digest.to_hex()[..12]);
        assert!("12ab".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
        assert_eq!(Digest::from_slice(digest.as_bytes()), Some(digest));
        assert_eq!(Digest::from_slice(b"short"), None);
    }

    /// Revision and delivery hashes live in databases and on agents: these bytes may never change.
    #[test]
    fn the_bytes_are_frozen() {
        assert_eq!(
            Digest::of("muster.test.v1", &[b"abc", b""]).to_hex(),
            "444f0d4e33ceac8759b250c2dbd55a162a92588eb42ac239d423cecf45ead720"
        );
    }
}
