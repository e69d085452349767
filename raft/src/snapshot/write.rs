//! Writing a snapshot stream.

use std::io::Write;

use prost::Message;

use super::{BLOCK, BLOCK_BYTES, Contents, HEADER, LEVEL, MAGIC, TRAILER};
use crate::{Fatal, Row};

/// Writes a whole stream of `rows`, ascending by key, tables in front.
pub(crate) fn write(
    sink: impl Write,
    contents: &Contents,
    rows: impl IntoIterator<Item = Result<Row, Fatal>>,
) -> Result<(), Fatal> {
    let mut stream = Stream {
        sink,
        hash: blake3::Hasher::new(),
    };
    stream.bytes(MAGIC)?;
    stream.record(HEADER, &contents.header().encode_to_vec())?;
    let mut block = Vec::new();
    let mut before: Option<Vec<u8>> = None;
    for row in rows {
        let (key, value) = row?;
        if before.as_ref().is_some_and(|before| *before >= key) {
            return Err(Fatal::new("state is out of order"));
        }
        for length in [key.len(), value.len()] {
            let length =
                u32::try_from(length).map_err(|error| Fatal::because("write a row", error))?;
            block.extend_from_slice(&length.to_le_bytes());
        }
        block.extend_from_slice(&key);
        block.extend_from_slice(&value);
        before = Some(key);
        if block.len() >= BLOCK_BYTES {
            stream.block(&block)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        stream.block(&block)?;
    }
    let hash = *stream.hash.finalize().as_bytes();
    stream.record(TRAILER, &hash)?;
    stream
        .sink
        .flush()
        .map_err(|error| Fatal::because("write the snapshot", error))
}

struct Stream<W> {
    sink: W,
    hash: blake3::Hasher,
}

impl<W: Write> Stream<W> {
    fn block(&mut self, rows: &[u8]) -> Result<(), Fatal> {
        let packed = zstd::bulk::compress(rows, LEVEL)
            .map_err(|error| Fatal::because("compress a block", error))?;
        self.record(BLOCK, &packed)
    }

    fn record(&mut self, kind: u8, payload: &[u8]) -> Result<(), Fatal> {
        let length = u32::try_from(payload.len())
            .map_err(|error| Fatal::because("write a record", error))?;
        let mut head = [kind; 9];
        head[1..5].copy_from_slice(&length.to_le_bytes());
        head[5..].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        self.bytes(&head)?;
        self.bytes(payload)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        self.hash.update(bytes);
        self.sink
            .write_all(bytes)
            .map_err(|error| Fatal::because("write the snapshot", error))
    }
}
