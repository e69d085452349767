//! The bytes of what an agent is answered.
//!
//! A reply is built once, with the WebSocket header in front; HTTP leaves that byte away.

use std::time::Duration;

use bytes::{Buf, Bytes};
use prost::Message;
use proto::edge::Unsent;
use proto::opamp::server_error_response::Details;
use proto::opamp::{RetryInfo, ServerErrorResponse, ServerErrorResponseType, ServerToAgent};
use proto::uid::Uid;

/// AcceptsStatus, OffersRemoteConfig, AcceptsEffectiveConfig: what this server does, and nothing else.
pub const CAPABILITIES: u64 = 0x7;
/// The flags that the specification defines.
const FLAGS: u64 = 0x3;
/// A uid that is echoed though it is none; longer ones are not repeated.
const ECHOED_UID_MAX: usize = 64;

/// Header byte and ServerToAgent with `instance_uid` and `capabilities`; the uid's bytes are filled in.
const PLAIN: [u8; 21] = {
    let mut bytes = [0; 21];
    bytes[1] = 0x0a; // field 1, bytes
    bytes[2] = 16;
    bytes[19] = 0x38; // field 7, varint
    bytes[20] = CAPABILITIES as u8;
    bytes
};

/// One encoded ServerToAgent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    bytes: Bytes,
    /// What the agent is to act upon, which may be withdrawn: as it is given back if it is not written.
    offer: Option<Box<Unsent>>,
}

// === impl Reply ===

impl Reply {
    /// Nothing to say but that the message was handled. The one allocation of the idle path.
    pub fn plain(uid: &Uid) -> Self {
        let mut bytes = PLAIN;
        bytes[3..19].copy_from_slice(uid.as_bytes());
        Reply {
            bytes: Bytes::copy_from_slice(&bytes),
            offer: None,
        }
    }

    /// What a leader answered, made legal: the uid of the message it answers, our capabilities, no undefined
    /// flag, and nothing beside an error.
    pub fn of(uid: &Uid, mut answer: ServerToAgent) -> Self {
        answer.instance_uid = uid.as_bytes().to_vec();
        if let Some(error) = answer.error_response.take() {
            return Reply::error(uid.as_bytes(), error);
        }
        answer.capabilities = CAPABILITIES;
        answer.flags &= FLAGS;
        Reply::encode(&answer)
    }

    /// The message cannot be understood.
    pub fn bad_request(uid: &[u8], why: impl Into<String>) -> Self {
        let error = ServerErrorResponse {
            r#type: ServerErrorResponseType::BadRequest.into(),
            error_message: why.into(),
            details: None,
        };
        Reply::error(uid, error)
    }

    /// Try again later.
    pub fn unavailable(uid: &[u8], why: impl Into<String>, retry_after: Duration) -> Self {
        let retry_after_nanoseconds = u64::try_from(retry_after.as_nanos()).unwrap_or(u64::MAX);
        let error = ServerErrorResponse {
            r#type: ServerErrorResponseType::Unavailable.into(),
            error_message: why.into(),
            details: Some(Details::RetryInfo(RetryInfo {
                retry_after_nanoseconds,
            })),
        };
        Reply::error(uid, error)
    }

    fn error(uid: &[u8], error: ServerErrorResponse) -> Self {
        let instance_uid = if uid.len() <= ECHOED_UID_MAX {
            uid.to_vec()
        } else {
            Vec::new()
        };
        Reply::encode(&ServerToAgent {
            instance_uid,
            error_response: Some(error),
            ..ServerToAgent::default()
        })
    }

    fn encode(answer: &ServerToAgent) -> Self {
        let mut bytes = Vec::with_capacity(1 + answer.encoded_len());
        bytes.push(0);
        answer.encode_raw(&mut bytes);
        let offer = || {
            let config = answer.remote_config.as_ref();
            Box::new(Unsent {
                config_hash: config
                    .map(|config| config.config_hash.clone().into())
                    .unwrap_or_default(),
                restart: answer.command.is_some(),
            })
        };
        let is_offer = answer.remote_config.is_some()
            || answer.connection_settings.is_some()
            || answer.packages_available.is_some()
            || answer.command.is_some();
        Reply {
            bytes: bytes.into(),
            offer: is_offer.then(offer),
        }
    }

    /// As an HTTP body.
    pub fn into_body(mut self) -> Bytes {
        self.bytes.advance(1);
        self.bytes
    }

    /// As a WebSocket message.
    pub fn into_message(self) -> Bytes {
        self.bytes
    }

    /// Size of the message without header.
    pub fn size(&self) -> usize {
        self.bytes.len() - 1
    }

    /// What has to be given back to the leader if it is not written.
    pub fn to_give_back(&self) -> Option<&Unsent> {
        self.offer.as_deref()
    }

    /// Does it carry an offer?
    pub fn is_offer(&self) -> bool {
        self.offer.is_some()
    }

    /// Is it the plain one?
    pub fn is_plain(&self) -> bool {
        self.bytes.len() == PLAIN.len() && self.bytes[19..] == PLAIN[19..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prebuilt_reply_is_what_the_encoder_would_make() {
        let uid = Uid::from_wire(&[7; 16]).unwrap();
        let plain = Reply::plain(&uid);
        assert_eq!(plain, Reply::of(&uid, ServerToAgent::default()));
        assert!(plain.is_plain());
        assert_eq!(plain.clone().into_body().len(), 20);
        assert_eq!(plain.into_message()[0], 0);
    }

    #[test]
    fn undefined_flags_and_capabilities_are_not_sent() {
        let uid = Uid::from_wire(&[7; 16]).unwrap();
        let wild = ServerToAgent {
            flags: u64::MAX,
            capabilities: u64::MAX,
            ..ServerToAgent::default()
        };
        let sent = ServerToAgent::decode(Reply::of(&uid, wild).into_body()).unwrap();
        assert_eq!((sent.flags, sent.capabilities), (3, 7));
    }

    #[test]
    fn an_error_stands_alone() {
        let uid = Uid::from_wire(&[7; 16]).unwrap();
        let wild = ServerToAgent {
            flags: 1,
            error_response: Some(ServerErrorResponse::default()),
            ..Default::default()
        };
        let sent = ServerToAgent::decode(Reply::of(&uid, wild).into_body()).unwrap();
        let expected = ServerToAgent {
            instance_uid: vec![7; 16],
            error_response: Some(ServerErrorResponse::default()),
            ..ServerToAgent::default()
        };
        assert_eq!(sent, expected);
    }
}
