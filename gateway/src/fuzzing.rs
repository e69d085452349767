//! Entry points for fuzzers: what strangers can reach before anything is decoded.

use bytes::Bytes;
use prost::Message;

use crate::budget::Budget;
use crate::limits::Limits;
use crate::opamp::{frame, inflate, wire};

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

/// A binary WebSocket message, header and all.
pub fn fuzz_ws(bytes: &[u8]) {
    if let Ok(header) = frame::strip(bytes) {
        fuzz_opamp(&bytes[header..]);
    }
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
