//! How keys are laid out in the column families.
//!
//! Not what the values mean. Invariants: numbers are big endian, so byte order is number order;
//! every key of a group begins with its id, so groups never meet.

use crate::GroupId;

/// Bytes in front of every state key: group and generation.
pub(crate) const SPACE_BYTES: usize = 8;

/// Entries: group, index.
pub(crate) const RAFT_LOG: &str = "raft_log";
/// One record per group and [`Kind`].
pub(crate) const RAFT_META: &str = "raft_meta";
/// State: group, generation, table, key.
pub(crate) const STATE: &str = "state";
/// Applied position and generation: group.
pub(crate) const SM_META: &str = "sm_meta";

/// Records of `raft_meta`. Numbers are stored: added, never changed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Vote = 1,
    Purged = 2,
    Committed = 3,
    Snapshot = 4,
}

/// Key of a log entry.
pub(crate) fn log(group: GroupId, index: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The index in a log key, if it is one of `group`.
pub(crate) fn log_index(group: GroupId, key: &[u8]) -> Option<u64> {
    let rest = key.strip_prefix(&group.0.to_be_bytes())?;
    Some(u64::from_be_bytes(rest.try_into().ok()?))
}

/// Key of a record about a group's log.
pub(crate) fn meta(group: GroupId, kind: Kind) -> [u8; 5] {
    let mut key = [0; 5];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4] = kind as u8;
    key
}

/// Key of a group's applied position.
pub(crate) fn applied(group: GroupId) -> [u8; 4] {
    group.0.to_be_bytes()
}

/// What every state key of a generation begins with.
pub(crate) fn space(group: GroupId, generation: u32) -> [u8; SPACE_BYTES] {
    let mut key = [0; SPACE_BYTES];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4..].copy_from_slice(&generation.to_be_bytes());
    key
}

/// The generation in a state key, if it is one of `group`.
pub(crate) fn generation(group: GroupId, key: &[u8]) -> Option<u32> {
    let rest = key.strip_prefix(&group.0.to_be_bytes())?;
    Some(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?))
}

/// A machine's key with its table in front.
pub(crate) fn in_table(table: u8, key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(1 + key.len());
    name.push(table);
    name.extend_from_slice(key);
    name
}

/// Space and name together.
pub(crate) fn join(space: &[u8], name: &[u8]) -> Vec<u8> {
    [space, name].concat()
}

/// The first key after all that begin with `prefix`; `None` if there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_keys_are_frozen() {
        assert_eq!(
            [RAFT_LOG, RAFT_META, STATE, SM_META],
            ["raft_log", "raft_meta", "state", "sm_meta"]
        );
        let group = GroupId(0x0102_0304);
        let index = 0x0506_0708_090a_0b0c;
        assert_eq!(log(group, index), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(log_index(group, &log(group, index)), Some(index));
        for (kind, number) in [
            (Kind::Vote, 1),
            (Kind::Purged, 2),
            (Kind::Committed, 3),
            (Kind::Snapshot, 4),
        ] {
            assert_eq!(meta(group, kind), [1, 2, 3, 4, number]);
        }
        assert_eq!(applied(group), [1, 2, 3, 4]);
        let key = join(&space(group, 0x0506_0708), &in_table(20, b"ab"));
        assert_eq!(key, [1, 2, 3, 4, 5, 6, 7, 8, 20, b'a', b'b']);
        assert_eq!(generation(group, &key), Some(0x0506_0708));
    }

    proptest! {
        #[test]
        fn log_keys_sort_as_group_then_index(a: (u32, u64), b: (u32, u64)) {
            let key = |(group, index)| log(GroupId(group), index);
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            prop_assert_eq!(log_index(GroupId(a.0), &key(a)), Some(a.1));
        }

        #[test]
        fn state_keys_sort_as_their_parts(a: (u32, u32, u8, Vec<u8>), b: (u32, u32, u8, Vec<u8>)) {
            let key = |(group, generation, table, name): &(u32, u32, u8, Vec<u8>)| {
                join(&space(GroupId(*group), *generation), &in_table(*table, name))
            };
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
            prop_assert_eq!(generation(GroupId(a.0), &key(&a)), Some(a.1));
        }

        #[test]
        fn after_prefix_parts_those_that_begin_with_it(prefix: Vec<u8>, key: Vec<u8>) {
            let within = key >= prefix && after_prefix(&prefix).is_none_or(|end| key < end);
            prop_assert_eq!(key.starts_with(&prefix), within);
        }
    }
}
