//! How a backup stands in a file.
//!
//! `MUSTBACK`, format `u32 le`, encrypted `u8`, salt, check of the key; then frames of `kind u8, length u32 le, payload`:
//! the header in the clear, groups with their data, the end; then BLAKE3 of all bytes before it. With a key every frame
//! after the header is encrypted. The hash finds damage also where there is no key; the key finds who has altered it.

use std::io::{ErrorKind, Read, Write};

use prost::Message;
use proto::api::backup_part::Part;
use proto::api::{BackupEnd, BackupGroup, BackupHeader};
use rand::RngCore;

use super::Error;
use super::key::{CHECK, Key, SALT, Seal};

/// What this version writes and reads.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"MUSTBACK";

const HEADER: u8 = 1;
const GROUP: u8 = 2;
const DATA: u8 = 3;
const END: u8 = 4;

/// Most bytes of state in one frame.
pub const DATA_MAX: usize = 1 << 20;

/// Longest payload accepted: of data, with what encryption adds.
const PAYLOAD_MAX: usize = DATA_MAX + 64;

const HASH: usize = 32;

/// Writes a backup part by part.
pub struct Writer<W> {
    sink: W,
    hash: blake3::Hasher,
    seal: Option<Seal>,
    bytes: u64,
}

/// Reads a backup part by part. Nothing of it is to be trusted before [`Reader::finish`].
pub struct Reader<R> {
    source: R,
    hash: blake3::Hasher,
    seal: Option<Seal>,
    header: BackupHeader,
}

// === impl Writer ===

impl<W: Write> Writer<W> {
    /// Begins a backup, encrypted if there is a key.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn new(sink: W, header: &BackupHeader, key: Option<&Key>) -> Result<Self, Error> {
        let mut salt = [0; SALT];
        rand::rng().fill_bytes(&mut salt);
        let mut writer = Writer {
            sink,
            hash: blake3::Hasher::new(),
            seal: None,
            bytes: 0,
        };
        let check = key.map_or([0; CHECK], |key| key.check(&salt));
        let mut beginning = MAGIC.to_vec();
        beginning.extend(FORMAT.to_le_bytes());
        beginning.push(u8::from(key.is_some()));
        beginning.extend(salt);
        beginning.extend(check);
        let header = header.encode_to_vec();
        beginning.extend(head(HEADER, header.len())?);
        beginning.extend(header);
        writer.write(&beginning)?;
        writer.seal = key.map(|key| key.seal(&beginning)).transpose()?;
        Ok(writer)
    }

    /// What follows: a group, its data, another group.
    ///
    /// # Errors
    /// Those of the sink, and a part that has no place there.
    pub fn part(&mut self, part: &Part) -> Result<(), Error> {
        match part {
            Part::Header(_) | Part::End(_) => {
                Err(Error::Damaged("its parts are out of order".into()))
            }
            Part::Group(group) => self.frame(GROUP, group.encode_to_vec()),
            Part::Data(data) => data
                .chunks(DATA_MAX)
                .try_for_each(|data| self.frame(DATA, data.to_vec())),
        }
    }

    /// Ends it. Answers where it was written to, which is not synced yet, and its length.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn end(mut self, end: &BackupEnd) -> Result<(W, u64), Error> {
        self.frame(END, end.encode_to_vec())?;
        let hash = *self.hash.finalize().as_bytes();
        self.write(&hash)?;
        self.sink.flush().map_err(Error::Write)?;
        Ok((self.sink, self.bytes))
    }

    /// So many bytes were written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn frame(&mut self, kind: u8, mut payload: Vec<u8>) -> Result<(), Error> {
        if let Some(seal) = &mut self.seal {
            seal.seal(kind, &mut payload)?;
        }
        self.write(&head(kind, payload.len())?)?;
        self.write(&payload)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.sink.write_all(bytes).map_err(Error::Write)
    }
}

// === impl Reader ===

impl<R: Read> Reader<R> {
    /// Reads the beginning of a backup.
    ///
    /// # Errors
    /// It is not one, of another format, or the key does not fit.
    pub fn open(mut source: R, key: Option<&Key>) -> Result<Self, Error> {
        let mut beginning = [0; MAGIC.len() + 4 + 1 + SALT + CHECK];
        let (magic, rest) = beginning.split_at_mut(MAGIC.len());
        match fill(&mut source, magic) {
            Ok(()) if *magic == *MAGIC => {}
            Ok(()) | Err(Error::Cut) => return Err(Error::NotOne),
            Err(error) => return Err(error),
        }
        fill(&mut source, rest)?;
        let (format, rest) = take::<4>(rest)?;
        let found = u32::from_le_bytes(format);
        if found != FORMAT {
            return Err(Error::Format { found });
        }
        let ([encrypted], rest) = take::<1>(rest)?;
        let (salt, rest) = take::<SALT>(rest)?;
        let (check, _) = take::<CHECK>(rest)?;
        match (encrypted, key) {
            (0, None) => {}
            (0, Some(_)) => return Err(Error::NotEncrypted),
            (_, None) => return Err(Error::NeedsKey),
            (_, Some(key)) if key.check(&salt) != check => return Err(Error::WrongKey),
            (_, Some(_)) => {}
        }
        let mut hash = blake3::Hasher::new();
        hash.update(&beginning);
        let (kind, head, payload) = frame(&mut source)?;
        hash.update(&head);
        hash.update(&payload);
        if kind != HEADER {
            return Err(Error::Damaged("it has no header".into()));
        }
        let beginning = [&beginning[..], &head, &payload].concat();
        Ok(Reader {
            source,
            hash,
            seal: key.map(|key| key.seal(&beginning)).transpose()?,
            header: decode(&payload)?,
        })
    }

    /// What it is of.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// The next part; after the end comes [`Reader::finish`].
    ///
    /// # Errors
    /// It is cut short or damaged.
    pub fn read_part(&mut self) -> Result<Part, Error> {
        let (kind, head, mut payload) = frame(&mut self.source)?;
        self.hash.update(&head);
        self.hash.update(&payload);
        if let Some(seal) = &mut self.seal {
            payload = seal.open(kind, payload)?;
        }
        match kind {
            GROUP => Ok(Part::Group(decode::<BackupGroup>(&payload)?)),
            DATA => Ok(Part::Data(payload)),
            END => Ok(Part::End(decode::<BackupEnd>(&payload)?)),
            kind => Err(Error::Damaged(format!("it has an unknown part {kind}"))),
        }
    }

    /// Compares all of it with the hash at its end.
    ///
    /// # Errors
    /// It is cut short or damaged.
    pub fn finish(&mut self) -> Result<(), Error> {
        let mut written = [0; HASH];
        fill(&mut self.source, &mut written)?;
        if written != *self.hash.finalize().as_bytes() {
            return Err(Error::Damaged("its hash does not match".into()));
        }
        match self.source.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::Damaged("it goes on after its end".into())),
            Err(error) => Err(Error::Read(error)),
        }
    }
}

/// In front of a payload.
fn head(kind: u8, length: usize) -> Result<[u8; 5], Error> {
    let length = u32::try_from(length)
        .ok()
        .filter(|length| *length as usize <= PAYLOAD_MAX);
    let length = length.ok_or_else(|| Error::Damaged("a part is too large".into()))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([kind, a, b, c, d])
}

/// Kind, what stands in front of the payload, and the payload.
fn frame(source: &mut impl Read) -> Result<(u8, [u8; 5], Vec<u8>), Error> {
    let mut head = [0; 5];
    fill(source, &mut head)?;
    let [kind, a, b, c, d] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > PAYLOAD_MAX {
        return Err(Error::Damaged(format!("it has a part of {length} bytes")));
    }
    let mut payload = vec![0; length];
    fill(source, &mut payload)?;
    Ok((kind, head, payload))
}

fn fill(source: &mut impl Read, buffer: &mut [u8]) -> Result<(), Error> {
    source
        .read_exact(buffer)
        .map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => Error::Cut,
            _ => Error::Read(error),
        })
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), Error> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(Error::Cut)?;
    Ok((*taken, rest))
}

fn decode<T: Message + Default>(payload: &[u8]) -> Result<T, Error> {
    T::decode(payload).map_err(|_| Error::Damaged("a part cannot be read".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> BackupHeader {
        BackupHeader {
            cluster: vec![7; 16],
            name: "prod".into(),
            incarnation: 2,
            at_ms: 1_700_000_000_000,
            version: "0.1.0".into(),
            groups: 1,
        }
    }

    fn parts() -> Vec<Part> {
        let group = BackupGroup {
            group: 0,
            name: "control".into(),
            applied: 40,
        };
        vec![
            Part::Group(group),
            Part::Data(b"state".to_vec()),
            Part::Data(b"of it".to_vec()),
        ]
    }

    fn written(key: Option<&Key>) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header(), key).unwrap();
        parts().iter().for_each(|part| writer.part(part).unwrap());
        let (bytes, length) = writer.end(&BackupEnd { groups: 1 }).unwrap();
        assert_eq!(bytes.len() as u64, length);
        bytes
    }

    fn read(bytes: &[u8], key: Option<&Key>) -> Result<Vec<Part>, Error> {
        let mut reader = Reader::open(bytes, key)?;
        assert_eq!(*reader.header(), header());
        let mut parts = Vec::new();
        loop {
            match reader.read_part()? {
                Part::End(_) => return reader.finish().map(|()| parts),
                part => parts.push(part),
            }
        }
    }

    fn keys() -> [Option<Key>; 2] {
        [None, Some(Key::new([9; 32]))]
    }

    #[test]
    fn what_was_written_is_read_with_and_without_a_key() {
        for key in keys() {
            assert_eq!(read(&written(key.as_ref()), key.as_ref()).unwrap(), parts());
        }
    }

    #[test]
    fn a_backup_that_is_cut_anywhere_is_refused_as_cut() {
        for key in keys() {
            let bytes = written(key.as_ref());
            for cut in MAGIC.len()..bytes.len() {
                let error = read(&bytes[..cut], key.as_ref()).unwrap_err();
                assert!(matches!(error, Error::Cut), "cut at {cut}: {error}");
            }
            assert!(matches!(
                read(&bytes[..5], key.as_ref()),
                Err(Error::NotOne)
            ));
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        for key in keys() {
            let bytes = written(key.as_ref());
            // The header is compared by the test itself.
            let header = header().encode_to_vec().len() + 5;
            let begins = MAGIC.len() + 4 + 1 + SALT + CHECK;
            let outside = |at: &usize| *at < begins || *at >= begins + header;
            for at in (0..bytes.len()).filter(outside) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                assert!(read(&damaged, key.as_ref()).is_err(), "byte {at}");
            }
            assert!(read(&[bytes.as_slice(), b"x"].concat(), key.as_ref()).is_err());
        }
    }

    #[test]
    fn the_clear_header_of_an_encrypted_backup_cannot_be_exchanged() {
        let key = Key::new([9; 32]);
        let mut bytes = written(Some(&key));
        let at = bytes.windows(4).position(|w| w == b"prod").unwrap();
        bytes[at] = b'q';
        let end = bytes.len() - HASH;
        let hash = *blake3::hash(&bytes[..end]).as_bytes();
        bytes[end..].copy_from_slice(&hash);
        let mut reader = Reader::open(bytes.as_slice(), Some(&key)).unwrap();
        assert_eq!(reader.header().name, "qrod");
        assert!(matches!(reader.read_part(), Err(Error::Damaged(_))));
    }

    #[test]
    fn the_wrong_key_no_key_and_a_key_too_many_are_told_apart() {
        let (key, other) = (Key::new([9; 32]), Key::new([8; 32]));
        let encrypted = written(Some(&key));
        assert!(matches!(
            read(&encrypted, Some(&other)),
            Err(Error::WrongKey)
        ));
        assert!(matches!(read(&encrypted, None), Err(Error::NeedsKey)));
        assert!(matches!(
            read(&written(None), Some(&key)),
            Err(Error::NotEncrypted)
        ));
    }

    #[test]
    fn an_encrypted_backup_shows_nothing_of_its_state() {
        let key = Key::new([9; 32]);
        let bytes = written(Some(&key));
        assert!(!bytes.windows(5).any(|window| window == b"state"));
        assert_ne!(bytes, written(Some(&key)));
    }

    #[test]
    fn another_format_and_another_file_are_refused_by_name() {
        let mut bytes = written(None);
        bytes[MAGIC.len()] = 2;
        let error = read(&bytes, None).unwrap_err().to_string();
        assert!(
            error.starts_with("the backup has format 2, this version reads 1"),
            "{error}"
        );
        assert!(matches!(
            read(b"PK\x03\x04 an archive", None),
            Err(Error::NotOne)
        ));
        assert!(matches!(read(b"", None), Err(Error::NotOne)));
    }

    /// What was written once with a salt of fives, in the clear. These bytes are never edited.
    const CLEAR: &str = "\
        4d5553544241434b01000000000505050505050505050505050505050505050505050505050505050505050505000000\
        00000000000000000000000000012a0000000a1007070707070707070707070707070707120470726f6418022080d095\
        ffbc312a05302e312e303001020b0000001207636f6e74726f6c18280305000000737461746503050000006f66206974\
        04020000000801d094f9291125b1ba26431c93662fe77f9f1579d1be310b999638ef3e15638b83";

    /// The same with the key of nines.
    const ENCRYPTED: &str = "\
        4d5553544241434b0100000001050505050505050505050505050505050505050505050505050505050505050569e160\
        8819fca0428008f9b1350d621b012a0000000a1007070707070707070707070707070707120470726f6418022080d095\
        ffbc312a05302e312e303001021b0000009dc9769abc8905fc1e7106097c1041ed503c7833ceee72c78c720203150000\
        00d669683849c0b8c442a943875b1b80f4dab93194ed0315000000a6e9cbedce3bda6dbfec9da43ab9fba05f719fb7fb\
        041200000020966f980b9f3a5351ba3dfd266e3003151947fbf553985731647b5938e5b632d211d4e16c9bdcb78617bf\
        c21a6f26fcaf1a";

    /// Where the salt stands.
    const SALTED: std::ops::Range<usize> = 13..13 + SALT;

    #[test]
    fn the_bytes_of_format_1_are_frozen() {
        let frozen = hex::decode(CLEAR).unwrap();
        assert_eq!(read(&frozen, None).unwrap(), parts());
        let mut bytes = written(None);
        bytes[SALTED].fill(5);
        let end = bytes.len() - HASH;
        let hash = *blake3::hash(&bytes[..end]).as_bytes();
        bytes[end..].copy_from_slice(&hash);
        assert_eq!(hex::encode(bytes), CLEAR);
    }

    #[test]
    fn the_bytes_of_an_encrypted_backup_of_format_1_are_frozen() {
        let key = Key::new([9; 32]);
        let frozen = hex::decode(ENCRYPTED).unwrap();
        assert_eq!(read(&frozen, Some(&key)).unwrap(), parts());
        // What is written now, under the salt of then.
        let mut bytes = written(None);
        bytes.truncate(SALTED.end + CHECK + 5 + header().encode_to_vec().len());
        bytes[SALTED.start - 1] = 1;
        bytes[SALTED].fill(5);
        bytes[SALTED.end..][..CHECK].copy_from_slice(&key.check(&[5; SALT]));
        let mut writer = Writer {
            sink: bytes.clone(),
            hash: blake3::Hasher::new(),
            seal: Some(key.seal(&bytes).unwrap()),
            bytes: 0,
        };
        writer.hash.update(&bytes);
        parts().iter().for_each(|part| writer.part(part).unwrap());
        let (bytes, _) = writer.end(&BackupEnd { groups: 1 }).unwrap();
        assert_eq!(hex::encode(bytes), ENCRYPTED);
    }
}
