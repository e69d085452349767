//! Bodies that many agents share: content-addressed, compressed, without what only one agent has.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet::digest::Digest;
use fleet::redact::redact_text;
use prost::Message;
use proto::store::{self, EffectiveFile, Write};

use crate::ledger::table;

/// A reported body above this is dropped by name; the status that came with it still counts.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// How a body is kept: zstd of its bytes.
const FORMAT: u32 = 1;

/// What stands in a body for text that only one agent has.
const PLACEHOLDER: &str = "{{muster:";

/// Texts of its own that an agent has: uid, instance id, host name.
const OWN_TEXTS_MAX: usize = 3;

/// Texts shorter than this are too likely to mean something else.
const SUBSTITUTED_CHARS_MIN: usize = 8;

/// Level at which a config compresses to about a tenth in well under a millisecond.
const ZSTD_LEVEL: i32 = 3;

/// Bodies remembered by a leader. A fleet has few different ones; whoever has more pays as if none were remembered.
const REMEMBERED: usize = 16_384;

/// What a leader remembers of bodies that are stored, so that the thousandth agent with the same config costs neither
/// its parsing, nor its redaction, nor its bytes in the log. It may forget at any time.
#[derive(Default)]
pub struct Remembered(Mutex<Bodies>);

#[derive(Default)]
struct Bodies {
    stored: HashSet<Digest>,
    redacted: HashMap<Digest, Redacted>,
}

/// What redaction made of a reported text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redacted {
    /// Of the body.
    address: Digest,
    /// Which of the agent's own texts stand in it, in the order of their placeholders.
    own: Vec<usize>,
}

/// A reported file, ready to be stored.
pub struct Effective {
    /// For the record.
    pub file: EffectiveFile,
    /// Keeps its body; none: it is kept, or dropped.
    pub write: Option<Write>,
    /// To be remembered once the write is stored.
    pub learned: Option<(Digest, Redacted)>,
}

impl Remembered {
    /// These bodies are committed.
    pub fn stored(&self, kept: impl IntoIterator<Item = Digest>, learned: &[(Digest, Redacted)]) {
        let mut bodies = self.lock();
        if bodies.stored.len().max(bodies.redacted.len()) >= REMEMBERED {
            *bodies = Bodies::default();
        }
        bodies.stored.extend(kept);
        bodies.redacted.extend(learned.iter().cloned());
    }

    /// The write that keeps a body, unless it is known to be kept.
    pub fn write(&self, bytes: &[u8]) -> Option<Write> {
        (!self.lock().stored.contains(&address(bytes))).then(|| write(bytes))
    }

    fn redacted(&self, reported: &Digest) -> Option<Redacted> {
        let bodies = self.lock();
        let redacted = bodies.redacted.get(reported)?;
        bodies
            .stored
            .contains(&redacted.address)
            .then(|| redacted.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Bodies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The addresses of the bodies that these writes keep.
pub fn kept_by(writes: &[Write]) -> impl Iterator<Item = Digest> {
    let bodies = writes
        .iter()
        .filter(|write| write.table == u32::from(table::BODY));
    bodies.filter_map(|write| Digest::from_slice(&write.key))
}

/// Address of these bytes.
pub fn address(bytes: &[u8]) -> Digest {
    Digest::of("muster.body.v1", &[bytes])
}

fn write(bytes: &[u8]) -> Write {
    let zstd = zstd::bulk::compress(bytes, ZSTD_LEVEL).unwrap_or_default();
    let body = store::Body {
        format: FORMAT,
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

/// The bytes of a kept body. None: it is damaged, or of a format that this version does not know.
pub fn open(body: &store::Body) -> Option<Vec<u8>> {
    if body.format != FORMAT {
        return None;
    }
    let size = usize::try_from(body.size)
        .ok()
        .filter(|size| *size <= 4 * KEPT_BYTES_MAX)?;
    zstd::bulk::decompress(&body.zstd, size).ok()
}

/// One entry of a reported effective config, redacted and made shareable.
///
/// `own` are the texts that only this agent has.
pub fn effective_file(
    name: &str,
    reported: &[u8],
    own: &[&str],
    remembered: &Remembered,
) -> Effective {
    let mut file = EffectiveFile {
        name: name.to_owned(),
        size: reported.len() as u64,
        ..EffectiveFile::default()
    };
    let dropped = |why: &str, mut file: EffectiveFile| {
        file.dropped = why.to_owned();
        Effective {
            file,
            write: None,
            learned: None,
        }
    };
    if reported.len() > KEPT_BYTES_MAX {
        return dropped("too large to keep", file);
    }
    let Ok(text) = std::str::from_utf8(reported) else {
        return dropped("not text", file);
    };
    let reported =
        without(text, own).map(|text| Digest::of("muster.reported.v1", &[text.as_bytes()]));
    let known = reported.and_then(|reported| remembered.redacted(&reported));
    let (redacted, write) = match known {
        Some(redacted) => (redacted, None),
        None => {
            let safe = match proto::yaml::parse(text) {
                Ok(value) => proto::yaml::to_yaml(&fleet::redact::redact(&value)),
                Err(_) => redact_text(text),
            };
            let (shared, own) = substitute(safe, own);
            let redacted = Redacted {
                address: address(shared.as_bytes()),
                own,
            };
            (redacted, remembered.write(shared.as_bytes()))
        }
    };
    file.body = redacted.address.as_bytes().to_vec();
    file.substitutions = redacted.own.iter().map(|i| own[*i].to_owned()).collect();
    Effective {
        file,
        write,
        learned: reported.map(|reported| (reported, redacted)),
    }
}

/// The text as every agent of its kind reports it; none: it has such placeholders already, and cannot be told.
fn without(text: &str, own: &[&str]) -> Option<String> {
    if text.contains(PLACEHOLDER) {
        return None;
    }
    let long = own.iter().enumerate().filter(|(_, own)| is_own(own));
    Some(long.fold(text.to_owned(), |text, (i, own)| {
        text.replace(own, &format!("{PLACEHOLDER}{i}}}}}"))
    }))
}

fn substitute(mut text: String, own: &[&str]) -> (String, Vec<usize>) {
    let mut substituted = Vec::new();
    if text.contains(PLACEHOLDER) {
        return (text, substituted);
    }
    for (i, own) in own.iter().enumerate().filter(|(_, own)| is_own(own)) {
        if text.contains(own) {
            text = text.replace(own, &format!("{PLACEHOLDER}{}}}}}", substituted.len()));
            substituted.push(i);
        }
    }
    (text, substituted)
}

fn is_own(text: &str) -> bool {
    text.len() >= SUBSTITUTED_CHARS_MIN
}

/// A shared text as it is for anybody: where an agent's own text stood, that is said.
pub fn anonymous(mut shared: String) -> String {
    for i in 0..OWN_TEXTS_MAX {
        shared = shared.replace(&format!("{PLACEHOLDER}{i}}}}}"), "(own)");
    }
    shared
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

    /// What zstd makes of a text may change with its version; what it made once is read for ever.
    #[test]
    fn a_body_of_format_1_is_opened_and_its_address_is_frozen() {
        let stored = "0801121728b52ffd200e7100007265636569766572733a207b7d0a180e";
        let stored = hex::decode(stored).unwrap();
        let body = store::Body::decode(stored.as_slice()).unwrap();
        let text = b"receivers: {}\n";
        assert_eq!(open(&body).unwrap(), text);
        let of_format_2 = store::Body { format: 2, ..body };
        assert_eq!(open(&of_format_2), None);
        assert_eq!(
            address(text).to_hex(),
            "56ef1ed7de37cb15891ea6e8c959943c1fc7577807340448e24fe1b5e6c72591"
        );
    }

    #[test]
    fn agents_share_a_body_and_get_their_own_texts_back() {
        let config = |uid: &str| format!("extensions:\n  opamp:\n    instance_uid: {uid}\n");
        let remembered = Remembered::default();
        let of = |uid: &str| effective_file("", config(uid).as_bytes(), &["x", uid], &remembered);
        let first = of("0190-aaaa-bbbb");
        let stored = first.write.unwrap();
        remembered.stored(
            kept_by(std::slice::from_ref(&stored)),
            first.learned.as_slice(),
        );
        let second = of("0190-cccc-dddd");
        assert_eq!(first.file.body, second.file.body);
        assert_eq!(second.write, None, "what is stored is not written again");
        let body = store::Body::decode(stored.value.as_slice()).unwrap();
        let text = restore(
            String::from_utf8(open(&body).unwrap()).unwrap(),
            &second.file.substitutions,
        );
        assert!(text.contains("0190-cccc-dddd"), "{text}");
    }

    #[test]
    fn a_body_that_was_not_stored_is_written_again() {
        let remembered = Remembered::default();
        let first = effective_file("", b"receivers: {}", &[], &remembered);
        remembered.stored([], first.learned.as_slice());
        assert!(
            effective_file("", b"receivers: {}", &[], &remembered)
                .write
                .is_some()
        );
    }

    #[test]
    fn secrets_do_not_reach_a_body() {
        let reported = b"exporters:\n  otlp:\n    headers:\n      api-key: s3cr3t-value-42\n";
        let write = effective_file("", reported, &[], &Remembered::default()).write;
        let body = store::Body::decode(write.unwrap().value.as_slice()).unwrap();
        assert!(
            !String::from_utf8(open(&body).unwrap())
                .unwrap()
                .contains("s3cr3t")
        );
    }

    #[test]
    fn too_large_a_body_is_dropped_by_name() {
        let reported = vec![b'a'; KEPT_BYTES_MAX + 1];
        let dropped = effective_file("", &reported, &[], &Remembered::default());
        assert_eq!(dropped.file.dropped, "too large to keep");
        assert_eq!(dropped.write, None);
    }
}
