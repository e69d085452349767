//! Entry points for fuzzers: what strangers can reach before anything is decoded.

mod socket;

use bytes::Bytes;
use prost::Message;

use crate::budget::Budget;
use crate::limits::Limits;
use crate::opamp::{inflate, wire};

/// A message: whatever the scanner lets through must decode and agree with the outline.
pub fn fuzz_opamp(bytes: &[u8]) {
    let Ok(outline) = wire::scan(bytes, &Limits::default()) else {
        return;
    };
    let message = proto::opamp::AgentToServer::decode(bytes)
        .expect("the scanner is at least as strict as the decoder");
    assert_eq!(&message.instance_uid[..], outline.instance_uid);
    assert_eq!(message.sequence_num, outline.sequence_num);
    assert_eq!(message.capabilities, outline.capabilities);
    assert_eq!(
        proto::sequence::is_idle(&message, message.capabilities),
        outline.bare
    );
}

/// A WebSocket connection from after the handshake to its end: frames, fragments, masks, control frames, the meter,
/// and what is answered. The first byte says in which pieces the others arrive.
pub fn fuzz_ws(bytes: &[u8]) {
    socket::converse(bytes);
}

/// A gzip body.
pub fn fuzz_gzip(bytes: &[u8]) {
    let limits = Limits {
        receive_bytes: 1 << 20,
        ..Limits::default()
    };
    let budget = Budget::new(1 << 22, Default::default());
    if let Some(mut share) = budget.take(0)
        && let Ok(inflated) = inflate::inflate(&Bytes::copy_from_slice(bytes), &limits, &mut share)
    {
        assert!(inflated.len() <= limits.receive_bytes);
        fuzz_opamp(&inflated);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_seeds_of_the_websocket_fuzzer_are_talked_through_in_any_pieces() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/ws");
        for seed in std::fs::read_dir(seeds).unwrap() {
            let mut bytes = std::fs::read(seed.unwrap().path()).unwrap();
            for pieces in [1, 2, 7, 64, 255] {
                bytes[0] = pieces;
                fuzz_ws(&bytes);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_frames_of_a_peer_break_the_connection_handler(
            pieces in any::<u8>(),
            frames in prop::collection::vec((any::<bool>(), 0u8..11, 0usize..9000, any::<u8>()), 0..12),
            tail in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = vec![pieces];
            for (last, opcode, size, byte) in frames {
                bytes.push(u8::from(last) << 7 | opcode);
                bytes.push(0x80 | 126);
                bytes.extend((size as u16).to_be_bytes());
                bytes.extend([0; 4]);
                bytes.resize(bytes.len() + size, byte);
            }
            bytes.extend(tail);
            fuzz_ws(&bytes);
        }
    }
}
