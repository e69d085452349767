//! The key of an encrypted backup, and what it makes of each file: ChaCha20-Poly1305 with a key of its own, numbered
//! frames, and the clear header as part of that key.
//!
//! The keys of files are derived with keyed BLAKE3 from a random salt, so that no nonce is ever used twice under one key,
//! however many backups are made with it.

use std::path::Path;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::Error;

/// Bytes of a salt.
pub(super) const SALT: usize = 32;

/// Bytes by which a wrong key is told from a damaged file.
pub(super) const CHECK: usize = 16;

/// A key for backups: 32 random bytes. It is never printed.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Encrypts or decrypts the frames of one file, in order.
pub(super) struct Seal {
    key: LessSafeKey,
    /// Frames so far.
    frames: u64,
}

// === impl Key ===

impl Key {
    /// These bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Key(bytes)
    }

    /// From a file: 32 bytes, or 64 hex digits with or without a line end.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&bytes).ok_or_else(|| Error::NoKey {
            path: path.to_owned(),
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if let Ok(raw) = bytes.try_into() {
            return Some(Key(raw));
        }
        let mut key = [0; 32];
        hex::decode_to_slice(bytes.trim_ascii(), &mut key).ok()?;
        Some(Key(key))
    }

    /// What stands in the file so that another key is noticed. It says nothing of this one.
    pub(super) fn check(&self, salt: &[u8; SALT]) -> [u8; CHECK] {
        let mut check = [0; CHECK];
        let derived = self.derive("muster.backup.v1 check", salt);
        check.copy_from_slice(&derived[..CHECK]);
        check
    }

    /// For the file that begins with these bytes, its salt among them.
    pub(super) fn seal(&self, beginning: &[u8]) -> Result<Seal, Error> {
        let derived = self.derive("muster.backup.v1 frames", beginning);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &derived);
        let key = key.map_err(|_| Error::Damaged("no key can be made for it".into()))?;
        Ok(Seal {
            key: LessSafeKey::new(key),
            frames: 0,
        })
    }

    fn derive(&self, purpose: &str, of: &[u8]) -> [u8; 32] {
        let mut hash = blake3::Hasher::new_keyed(&self.0);
        hash.update(&(purpose.len() as u64).to_le_bytes());
        hash.update(purpose.as_bytes());
        hash.update(of);
        *hash.finalize().as_bytes()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

// === impl Seal ===

impl Seal {
    /// Encrypts a frame's payload in place. Its kind is not secret, and cannot be changed.
    pub(super) fn seal(&mut self, kind: u8, payload: &mut Vec<u8>) -> Result<(), Error> {
        let nonce = self.next_nonce();
        let sealed = self
            .key
            .seal_in_place_append_tag(nonce, Aad::from([kind]), payload);
        sealed.map_err(|_| Error::Damaged("a part is too large to encrypt".into()))
    }

    /// And back. The order counts: a frame that was moved, repeated or left out does not open.
    pub(super) fn open(&mut self, kind: u8, mut payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        let nonce = self.next_nonce();
        let opened = self
            .key
            .open_in_place(nonce, Aad::from([kind]), &mut payload);
        let length = opened
            .map_err(|_| Error::Damaged("a part does not decrypt".into()))?
            .len();
        payload.truncate(length);
        Ok(payload)
    }

    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.frames.to_be_bytes());
        self.frames += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_raw_or_in_hex() {
        let raw = Key::parse(&[7; 32]).unwrap();
        let text = format!("{}\n", hex::encode([7; 32]));
        assert_eq!(Key::parse(text.as_bytes()).unwrap().0, raw.0);
        for wrong in [&b""[..], b"password", &[7; 31], &[7; 33], &[b'z'; 64]] {
            assert!(Key::parse(wrong).is_none());
        }
    }

    #[test]
    fn a_key_does_not_print_itself() {
        assert_eq!(format!("{:?}", Key::new([7; 32])), "Key");
    }

    #[test]
    fn frames_open_in_their_order_and_as_their_kind_only() {
        let key = Key::new([7; 32]);
        let (mut seal, mut frames) = (key.seal(b"file").unwrap(), Vec::new());
        for text in ["one", "two"] {
            let mut payload = text.as_bytes().to_vec();
            seal.seal(3, &mut payload).unwrap();
            frames.push(payload);
        }
        let open = || key.seal(b"file").unwrap();
        let mut ordered = open();
        assert_eq!(ordered.open(3, frames[0].clone()).unwrap(), b"one");
        assert_eq!(ordered.open(3, frames[1].clone()).unwrap(), b"two");
        assert!(open().open(3, frames[1].clone()).is_err());
        assert!(open().open(4, frames[0].clone()).is_err());
        assert!(
            key.seal(b"elif")
                .unwrap()
                .open(3, frames[0].clone())
                .is_err()
        );
    }
}
