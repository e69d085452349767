//! Snapshots: the state of a group as a stream that no engine and no software version owns.
//!
//! A backup is one such stream of each group; [`crate::Store::seed`] makes one the state of an empty store. The stream is magic, then records of
//! `kind u8, length u32 le, crc32c u32 le, payload`: one header, blocks, one trailer. A block is
//! zstd of rows `key length u32 le, value length u32 le, key, value`, keys ascending over the
//! whole stream, with their table in front. The trailer is blake3 of all bytes before it.
//!
//! Invariants: what does not verify to the last byte is not a snapshot; the shelf holds at most
//! one per group, the newest built or installed.

mod export;
mod read;
mod seed;
mod shelf;
mod write;

pub use export::{Exported, check_export};
pub(crate) use read::{Bytes, Reader, verify};
pub(crate) use shelf::Shelf;
pub(crate) use write::write;

use crate::stored::{self, SnapshotHeader};
use crate::types::SnapshotMeta;
use crate::{Fatal, GroupId};

const MAGIC: &[u8; 8] = b"MUSTSNAP";
const HEADER: u8 = 1;
const BLOCK: u8 = 2;
const TRAILER: u8 = 3;
/// Rows gathered into one block, in bytes before compression.
const BLOCK_BYTES: usize = 1 << 20;
/// Longest payload and longest block accepted, in bytes: a block holds at least one row.
const RECORD_BYTES_MAX: usize = 64 << 20;
/// zstd level: the disk is not the limit, the processor is.
const LEVEL: i32 = 1;

/// What a snapshot is of, from its header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Contents {
    pub group: GroupId,
    pub sm_format: u32,
    pub meta: SnapshotMeta,
}

impl Contents {
    fn header(&self) -> SnapshotHeader {
        SnapshotHeader {
            version: stored::VERSION,
            group: self.group.0,
            sm_format: self.sm_format,
            last: stored::position(&self.meta.last_log_id),
            members: Some((&self.meta.last_membership).into()),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, Fatal> {
        let SnapshotHeader {
            version: _,
            group,
            sm_format,
            last,
            members,
        } = stored::decode("snapshot header", bytes, |m: &SnapshotHeader| m.version)?;
        let meta = SnapshotMeta {
            last_log_id: stored::log_id(&last),
            last_membership: stored::stored_membership(&members)?,
        };
        Ok(Self {
            group: GroupId(group),
            sm_format,
            meta,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::types::{Membership, StoredMembership, log_id};

    fn contents() -> Contents {
        let members = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], [3]);
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(2, 1, 300)),
            last_membership: StoredMembership::new(Some(log_id(1, 1, 4)), members),
        };
        Contents {
            group: GroupId(9),
            sm_format: 5,
            meta,
        }
    }

    fn stream(rows: usize) -> Vec<u8> {
        let rows = (0..rows).map(|n| Ok((format!("\u{1}key {n:08}").into_bytes(), vec![7; 1000])));
        let mut bytes = Vec::new();
        write(&mut bytes, &contents(), rows).unwrap();
        bytes
    }

    fn read_all(bytes: &[u8]) -> Result<(Contents, usize), Fatal> {
        let mut reader = Reader::new(bytes)?;
        let mut rows = 0;
        while let Some(block) = reader.block()? {
            rows += block.len();
        }
        Ok((reader.contents().clone(), rows))
    }

    #[test]
    fn header_bytes_of_version_1_are_frozen() {
        use prost::Message;
        let bytes = contents().header().encode_to_vec();
        let frozen = [
            8, 1, 16, 9, 24, 5, 34, 7, 8, 2, 16, 1, 24, 172, 2, 42, 21, 10, 6, 8, 1, 16, 1, 24, 4,
            18, 11, 10, 4, 10, 2, 1, 2, 18, 3, 1, 2, 3,
        ];
        assert_eq!(bytes, frozen);
        assert_eq!(Contents::decode(&frozen).unwrap(), contents());
    }

    #[test]
    fn an_empty_stream_of_version_1_is_frozen() {
        let bytes = stream(0);
        assert_eq!(bytes[..13], *b"MUSTSNAP\x01\x26\0\0\0");
        assert_eq!(bytes.len(), 8 + 9 + 38 + 9 + 32);
        let head = [9, 96, 179, 89];
        assert_eq!(bytes[13..17], head);
        let trailer = [
            3, 32, 0, 0, 0, 105, 155, 69, 225, 209, 235, 250, 148, 47, 220, 17, 42, 47, 146, 67,
            75, 48, 112, 51, 15, 220, 181, 221, 158, 241, 11, 159, 226, 111, 125, 196, 43, 52, 112,
            208, 128,
        ];
        assert_eq!(bytes[55..], trailer);
    }

    /// What zstd makes of the rows may change with its version; what it made once is read for ever.
    #[test]
    fn a_stream_of_version_1_is_read() {
        let block = [
            2, 31, 0, 0, 0, 191, 28, 107, 156, 40, 181, 47, 253, 32, 22, 177, 0, 0, 2, 0, 0, 0, 3,
            0, 0, 0, 1, 97, 111, 110, 101, 1, 0, 0, 0, 0, 0, 0, 0, 2,
        ];
        let trailer = [
            3, 32, 0, 0, 0, 81, 163, 4, 135, 132, 229, 208, 225, 79, 10, 63, 200, 234, 71, 198,
            203, 97, 112, 74, 253, 98, 110, 217, 159, 103, 152, 204, 58, 133, 112, 199, 175, 164,
            81, 94, 70,
        ];
        let bytes = [&stream(0)[..55], &block, &trailer].concat();
        let mut reader = Reader::new(bytes.as_slice()).unwrap();
        let rows = [("\u{1}a", "one"), ("\u{2}", "")];
        let rows = rows.map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
        assert_eq!(reader.block().unwrap(), Some(rows.to_vec()));
        assert_eq!(reader.block().unwrap(), None);
    }

    #[test]
    fn rows_come_back_in_many_blocks() {
        assert_eq!(read_all(&stream(5000)).unwrap(), (contents(), 5000));
    }

    #[test]
    fn a_flipped_byte_anywhere_is_refused() {
        let bytes = stream(20);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read_all(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_cut_or_extended_stream_is_refused() {
        let bytes = stream(20);
        for cut in 0..bytes.len() {
            assert!(read_all(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read_all(&[bytes.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn keys_out_of_order_are_refused() {
        let rows = [b"b", b"a"].map(|key| Ok((key.to_vec(), Vec::new())));
        let mut bytes = Vec::new();
        assert!(write(&mut bytes, &contents(), rows).is_err());
    }
}
