//! The 16-byte instance uid of an agent, and its text.

use std::fmt;
use std::str::FromStr;

/// Identity of an agent: 16 bytes, not all zero. Text form is the canonical UUID with hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid([u8; 16]);

/// Why bytes or text are no uid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UidError {
    /// OpAMP wants 16 bytes; legacy clients send text of 26.
    #[error("instance_uid has {0} bytes, 16 are needed")]
    Length(usize),
    /// All zero means nobody.
    #[error("instance_uid is all zero")]
    Zero,
    /// Not hexadecimal digits in the UUID form.
    #[error("`{0}` is not a uid: 32 hexadecimal digits are needed, with or without hyphens")]
    Text(String),
}

// === impl Uid ===

impl Uid {
    /// From the bytes on the wire.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, UidError> {
        let bytes: [u8; 16] = bytes
            .try_into()
            .map_err(|_| UidError::Length(bytes.len()))?;
        if bytes == [0; 16] {
            Err(UidError::Zero)
        } else {
            Ok(Uid(bytes))
        }
    }

    /// The bytes as they go on the wire.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Hash slot, 0 to 1023: the last two bytes, which are random in every UUID version that agents use.
    pub fn slot(&self) -> u16 {
        u16::from_be_bytes([self.0[14], self.0[15]]) & 1023
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uid {
    type Err = UidError;

    fn from_str(text: &str) -> Result<Self, UidError> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let bytes = hex::decode(&digits).map_err(|_| UidError::Text(text.to_owned()))?;
        if bytes.len() != 16 {
            return Err(UidError::Text(text.to_owned()));
        }
        Uid::from_wire(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_name_the_same_uid() {
        let uid = Uid::from_wire(&[0xab; 16]).unwrap();
        assert_eq!(uid.to_string(), "abababab-abab-abab-abab-abababababab");
        assert_eq!(uid.to_string().parse::<Uid>().unwrap(), uid);
    }

    #[test]
    fn other_lengths_and_zero_are_no_uid() {
        for length in [0, 15, 17, 26] {
            assert_eq!(
                Uid::from_wire(&vec![1; length]),
                Err(UidError::Length(length))
            );
        }
        assert_eq!(Uid::from_wire(&[0; 16]), Err(UidError::Zero));
    }
}
