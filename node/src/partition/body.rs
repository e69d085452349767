//! Bodies that many agents share: content-addressed, compressed, without what only one agent has.

use fleet::digest::Digest;
use fleet::redact::redact_text;
use prost::Message;
use proto::store::{self, EffectiveFile, Write};

use crate::ledger::table;

/// A reported body above this is dropped by name; the status that came with it still counts.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// What stands in a body for text that only one agent has.
const PLACEHOLDER: &str = "{{muster:";

/// Texts shorter than this are too likely to mean something else.
const SUBSTITUTED_CHARS_MIN: usize = 8;

/// Level at which a config compresses to about a tenth in well under a millisecond.
const ZSTD_LEVEL: i32 = 3;

/// Address of these bytes.
pub fn address(bytes: &[u8]) -> Digest {
    Digest::of("muster.body.v1", &[bytes])
}

/// The write that keeps a body, if it is not kept already.
pub fn write(bytes: &[u8]) -> Write {
    let zstd = zstd::bulk::compress(bytes, ZSTD_LEVEL).unwrap_or_default();
    let body = store::Body {
        format: 1,
        zstd,
        size: bytes.len() as u64,
    };
    Write {
        table: table::BODY.into(),
        key: address(bytes).as_bytes().to_vec(),
        if_absent: true,
        value: body.encode_to_vec(),
        ..Write::default()
    }
}

/// The bytes of a kept body.
pub fn open(body: &store::Body) -> Option<Vec<u8>> {
    let size = usize::try_from(body.size)
        .ok()
        .filter(|size| *size <= 4 * KEPT_BYTES_MAX)?;
    zstd::bulk::decompress(&body.zstd, size).ok()
}

/// One entry of a reported effective config, redacted and made shareable, with the write that keeps its body.
///
/// `own` are the texts that only this agent has.
pub fn effective_file(name: &str, reported: &[u8], own: &[&str]) -> (EffectiveFile, Option<Write>) {
    let mut file = EffectiveFile {
        name: name.to_owned(),
        size: reported.len() as u64,
        ..EffectiveFile::default()
    };
    if reported.len() > KEPT_BYTES_MAX {
        file.dropped = "too large to keep".to_owned();
        return (file, None);
    }
    let Ok(text) = std::str::from_utf8(reported) else {
        file.dropped = "not text".to_owned();
        return (file, None);
    };
    let redacted = match proto::yaml::parse(text) {
        Ok(value) => proto::yaml::to_yaml(&fleet::redact::redact(&value)),
        Err(_) => redact_text(text),
    };
    let (shared, substitutions) = substitute(redacted, own);
    file.body = address(shared.as_bytes()).as_bytes().to_vec();
    file.substitutions = substitutions;
    (file, Some(write(shared.as_bytes())))
}

fn substitute(mut text: String, own: &[&str]) -> (String, Vec<String>) {
    let mut substitutions = Vec::new();
    if text.contains(PLACEHOLDER) {
        return (text, substitutions);
    }
    for own in own.iter().filter(|own| own.len() >= SUBSTITUTED_CHARS_MIN) {
        if text.contains(own) {
            text = text.replace(own, &format!("{PLACEHOLDER}{}}}}}", substitutions.len()));
            substitutions.push((*own).to_owned());
        }
    }
    (text, substitutions)
}

/// Puts an agent's own texts back.
pub fn restore(mut shared: String, substitutions: &[String]) -> String {
    for (i, own) in substitutions.iter().enumerate() {
        shared = shared.replace(&format!("{PLACEHOLDER}{i}}}}}"), own);
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_opens_to_what_was_kept() {
        let write = write(b"receivers: {}");
        let body = store::Body::decode(write.value.as_slice()).unwrap();
        assert_eq!(open(&body).unwrap(), b"receivers: {}");
    }

    #[test]
    fn agents_share_a_body_and_get_their_own_texts_back() {
        let config = |uid: &str| format!("extensions:\n  opamp:\n    instance_uid: {uid}\n");
        let (a, _) = effective_file("", config("0190-aaaa-bbbb").as_bytes(), &["0190-aaaa-bbbb"]);
        let (b, write) =
            effective_file("", config("0190-cccc-dddd").as_bytes(), &["0190-cccc-dddd"]);
        assert_eq!(a.body, b.body);
        let body = store::Body::decode(write.unwrap().value.as_slice()).unwrap();
        let text = restore(
            String::from_utf8(open(&body).unwrap()).unwrap(),
            &b.substitutions,
        );
        assert!(text.contains("0190-cccc-dddd"), "{text}");
    }

    #[test]
    fn secrets_do_not_reach_a_body() {
        let (_, write) = effective_file(
            "",
            b"exporters:\n  otlp:\n    headers:\n      api-key: s3cr3t-value-42\n",
            &[],
        );
        let body = store::Body::decode(write.unwrap().value.as_slice()).unwrap();
        assert!(
            !String::from_utf8(open(&body).unwrap())
                .unwrap()
                .contains("s3cr3t")
        );
    }

    #[test]
    fn too_large_a_body_is_dropped_by_name() {
        let (file, write) = effective_file("", &vec![b'a'; KEPT_BYTES_MAX + 1], &[]);
        assert_eq!((file.dropped.as_str(), write), ("too large to keep", None));
    }
}
