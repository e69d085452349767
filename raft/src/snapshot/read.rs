//! Reading a snapshot stream, refusing whatever is not exactly one.

use std::io::Read;

use super::{BLOCK, Contents, HEADER, MAGIC, RECORD_BYTES_MAX, TRAILER};
use crate::{Fatal, Row, SnapshotFile};

/// Checks a file to its last byte and returns what it is of.
pub(crate) fn verify(file: &SnapshotFile) -> Result<Contents, Fatal> {
    let mut reader = Reader::new(Bytes::new(file))?;
    while reader.block()?.is_some() {}
    Ok(reader.contents)
}

/// Reads a stream block by block. Rows are only to be trusted once `block` returned `None`.
pub(crate) struct Reader<R> {
    source: R,
    hash: blake3::Hasher,
    contents: Contents,
    /// Key of the last row.
    before: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(mut source: R) -> Result<Self, Fatal> {
        let mut hash = blake3::Hasher::new();
        let mut magic = [0; MAGIC.len()];
        fill(&mut source, &mut magic)?;
        if magic != *MAGIC {
            return Err(Fatal::new("not a snapshot"));
        }
        hash.update(&magic);
        let (kind, payload) = record(&mut source, &mut hash)?;
        if kind != HEADER {
            return Err(Fatal::new("snapshot without header"));
        }
        Ok(Self {
            source,
            hash,
            contents: Contents::decode(&payload)?,
            before: None,
        })
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Rows of the next block, ascending; `None` after the last, when all of it verified.
    pub(crate) fn block(&mut self) -> Result<Option<Vec<Row>>, Fatal> {
        let hash = *self.hash.finalize().as_bytes();
        match record(&mut self.source, &mut self.hash)? {
            (BLOCK, packed) => {
                let rows = zstd::bulk::decompress(&packed, RECORD_BYTES_MAX)
                    .map_err(|error| Fatal::because("decompress a block", error))?;
                self.rows(&rows).map(Some)
            }
            (TRAILER, payload) if payload == hash => self.end(),
            (TRAILER, _) => Err(Fatal::new("snapshot hash does not match")),
            (kind, _) => Err(Fatal::new(format!("unknown snapshot record {kind}"))),
        }
    }

    fn rows(&mut self, mut rest: &[u8]) -> Result<Vec<Row>, Fatal> {
        let mut rows = Vec::new();
        while !rest.is_empty() {
            let row;
            (row, rest) = split_row(rest).ok_or_else(|| Fatal::new("snapshot row cut short"))?;
            let before = self.before.replace(row.0.clone());
            if before.is_some_and(|before| before >= row.0) || row.0.is_empty() {
                return Err(Fatal::new("snapshot rows out of order"));
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn end(&mut self) -> Result<Option<Vec<Row>>, Fatal> {
        let extra = self
            .source
            .read(&mut [0])
            .map_err(|error| Fatal::because("read the snapshot", error))?;
        match extra {
            0 => Ok(None),
            _ => Err(Fatal::new("snapshot goes on after its end")),
        }
    }
}

fn split_row(bytes: &[u8]) -> Option<(Row, &[u8])> {
    let (key_length, rest) = bytes.split_first_chunk::<4>()?;
    let (value_length, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_length) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_length) as usize)?;
    Some(((key.to_vec(), value.to_vec()), rest))
}

fn record(source: &mut impl Read, hash: &mut blake3::Hasher) -> Result<(u8, Vec<u8>), Fatal> {
    let mut head = [0; 9];
    fill(source, &mut head)?;
    let [kind, l0, l1, l2, l3, c0, c1, c2, c3] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > RECORD_BYTES_MAX {
        return Err(Fatal::new(format!("snapshot record of {length} bytes")));
    }
    let mut payload = vec![0; length];
    fill(source, &mut payload)?;
    if crc32c::crc32c(&payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(Fatal::new("snapshot record checksum does not match"));
    }
    hash.update(&head);
    hash.update(&payload);
    Ok((kind, payload))
}

fn fill(source: &mut impl Read, buffer: &mut [u8]) -> Result<(), Fatal> {
    source
        .read_exact(buffer)
        .map_err(|error| Fatal::because("read the snapshot", error))
}

/// A file handle from its start, buffered.
pub(crate) struct Bytes<'a> {
    file: &'a SnapshotFile,
    offset: u64,
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(file: &'a SnapshotFile) -> std::io::BufReader<Self> {
        std::io::BufReader::with_capacity(1 << 20, Self { file, offset: 0 })
    }
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}
