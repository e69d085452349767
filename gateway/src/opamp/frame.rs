//! The header of an OpAMP message on WebSocket: a varint, which is zero.

/// The header is not a varint of value zero.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the message does not begin with the header 0")]
pub struct HeaderError;

/// The bytes after the header. Zero may be spelt with up to ten bytes.
pub fn strip(message: &[u8]) -> Result<usize, HeaderError> {
    for (i, byte) in message.iter().take(10).enumerate() {
        match byte {
            0x00 => return Ok(i + 1),
            0x80 => {}
            _ => return Err(HeaderError),
        }
    }
    Err(HeaderError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_accepted_in_every_spelling_of_up_to_ten_bytes() {
        assert_eq!(strip(&[0]), Ok(1));
        assert_eq!(strip(&[0x80, 0, 7]), Ok(2));
        let mut ten = [0x80; 10];
        ten[9] = 0;
        assert_eq!(strip(&ten), Ok(10));
    }

    #[test]
    fn other_values_and_endless_headers_are_refused() {
        for bytes in [
            &[1][..],
            &[],
            &[0x80],
            &[0x81, 0],
            &[0x80; 11],
            &[0x0a, 0x10],
        ] {
            assert_eq!(strip(bytes), Err(HeaderError), "{bytes:?}");
        }
    }
}
