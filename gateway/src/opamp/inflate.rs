//! gzip in both directions, with bounds on what comes out.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::budget::Share;
use crate::limits::Limits;

/// Below this size the ratio is not looked at.
const RATIO_FROM_BYTES: usize = 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// Why a body was not inflated.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InflateError {
    /// Over `receive_bytes`, or a bomb.
    #[error("the inflated message is too large")]
    TooLarge,
    /// The global budget is spent.
    #[error("no memory for the message at the moment")]
    Budget,
    /// Not gzip, cut off, or followed by something.
    #[error("the body is not one whole gzip member")]
    Malformed,
}

/// Inflates one gzip member. What comes out is taken from the budget while it grows.
pub fn inflate(
    compressed: &[u8],
    limits: &Limits,
    share: &mut Share,
) -> Result<Bytes, InflateError> {
    let mut decoder = GzDecoder::new(compressed);
    let mut inflated = Vec::new();
    let mut chunk = vec![0; CHUNK.min(compressed.len().saturating_mul(8).max(512))];
    loop {
        let read = decoder
            .read(&mut chunk)
            .map_err(|_| InflateError::Malformed)?;
        if read == 0 {
            break;
        }
        let size = inflated.len() + read;
        let bomb = size > RATIO_FROM_BYTES && size / limits.inflate_ratio.max(1) > compressed.len();
        if size > limits.receive_bytes || bomb {
            return Err(InflateError::TooLarge);
        }
        if !share.grow(read) {
            return Err(InflateError::Budget);
        }
        inflated.extend_from_slice(&chunk[..read]);
    }
    if decoder.into_inner().is_empty() {
        Ok(inflated.into())
    } else {
        Err(InflateError::Malformed)
    }
}

/// Compresses an answer.
pub fn deflate(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    fn inflated(compressed: &[u8]) -> Result<Bytes, InflateError> {
        let limits = Limits {
            receive_bytes: 8 << 20,
            ..Limits::default()
        };
        let budget = Budget::new(64 << 20, Default::default());
        inflate(compressed, &limits, &mut budget.take(0).unwrap())
    }

    #[test]
    fn what_was_deflated_comes_back() {
        let text = b"receivers: processors: exporters: ".repeat(100);
        assert_eq!(inflated(&deflate(&text).unwrap()).unwrap(), text);
        assert_eq!(inflated(&deflate(b"").unwrap()).unwrap(), "");
    }

    #[test]
    fn a_second_member_garbage_behind_and_a_cut_are_refused() {
        let one = deflate(b"hello").unwrap();
        let two = [&one[..], &one[..]].concat();
        let tail = [&one[..], b"x"].concat();
        for bytes in [&two[..], &tail[..], &one[..one.len() - 1], b"plain", b""] {
            assert_eq!(inflated(bytes), Err(InflateError::Malformed));
        }
    }

    #[test]
    fn a_bomb_is_refused_by_ratio_and_by_size() {
        assert_eq!(
            inflated(&deflate(&vec![0; 4 << 20]).unwrap()),
            Err(InflateError::TooLarge)
        );
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .take((8 << 20) + 1)
        .collect();
        assert_eq!(
            inflated(&deflate(&noise).unwrap()),
            Err(InflateError::TooLarge)
        );
    }
}
