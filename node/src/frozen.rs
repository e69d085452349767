//! Tables and keys of documents as they stand in databases: a line is never edited. What the documents hold is frozen in
//! `proto/tests/frozen.rs`, what stands around them beside `ledger::machine`.

use proto::uid::Uid;

use crate::control::{BUDGET_KEY, revision_key};
use crate::inventory::chunk;
use crate::ledger::table;
use crate::partition::history_key;

#[test]
fn the_numbers_of_tables_are_frozen() {
    let beside = [table::META, table::AUDIT, table::OUTCOME];
    assert_eq!(beside, [0, 1, 2]);
    let inventory = [
        table::AGENT,
        table::BODY,
        table::HISTORY,
        table::MEMBERS,
        table::TOMBSTONE,
        table::NUMBERS,
    ];
    assert_eq!(inventory, [10, 11, 12, 13, 14, 15]);
    let control = [
        table::FAMILY,
        table::REVISION,
        table::PLAN,
        table::ROLLOUT,
        table::PREVIEW,
        table::TOKEN,
        table::FREEZE,
        table::PIN,
        table::BUDGET,
        table::SOURCE,
        table::GONE,
        table::NODE,
        table::IDENTITY,
    ];
    assert_eq!(
        control,
        [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32]
    );
}

#[test]
fn keys_of_several_parts_are_frozen() {
    let revision = revision_key("edge", 0x0102_0304_0506_0708);
    assert_eq!(revision, b"edge\0\x01\x02\x03\x04\x05\x06\x07\x08");
    assert_eq!(chunk("r1", 0x0102_0304), b"r1\0\x01\x02\x03\x04");
    let uid = Uid::from_wire(&[7; 16]).unwrap();
    let history = [
        &[7; 16][..],
        &[0, 0, 1, 2, 3, 4, 5, 6],
        &[0, 0, 0, 0, 0, 0, 1, 44],
        &[2],
    ];
    assert_eq!(
        history_key(uid, 0x0000_0102_0304_0506, 300, 2),
        history.concat()
    );
    assert_eq!(BUDGET_KEY, "fleet");
}
