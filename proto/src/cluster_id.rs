//! Which cluster a process belongs to, beyond its name: a restore makes a new cluster, and its name may be that of the old one.
//!
//! In `Caller` between nodes, in `Hello` and `Routes` between gateways and nodes. A cluster has its id from when its first
//! node registers; a process does not know it before it has the documents. Who does not know is compared by name alone.

use std::fmt;

use prost::bytes::Bytes;

/// What tells clusters of one name apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterId {
    id: [u8; 16],
    incarnation: u32,
}

/// The other end is of another cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{who} is of {theirs} and {here} of {ours}: clusters of one name, of which one was restored from a backup. Stop what is left of the other one; to use its host again, start it with an empty data directory and --join"
)]
pub struct Foreign {
    who: String,
    theirs: ClusterId,
    here: String,
    ours: ClusterId,
}

// === impl ClusterId ===

impl ClusterId {
    /// As it is said on the wire; None: it is not known.
    pub fn of(id: &[u8], incarnation: u32) -> Option<ClusterId> {
        let id = id.try_into().ok()?;
        Some(ClusterId { id, incarnation })
    }

    /// As it is said on the wire.
    pub fn bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.id)
    }

    /// How often it was restored from a backup.
    pub fn incarnation(self) -> u32 {
        self.incarnation
    }
}

impl fmt::Display for ClusterId {
    /// As much of the id as people compare.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cluster ")?;
        for byte in self.id.iter().take(6) {
            write!(f, "{byte:02x}")?;
        }
        write!(f, " (incarnation {})", self.incarnation)
    }
}

/// May `who`, of this cluster, be heard `here`?
pub fn check(
    who: impl fmt::Display,
    theirs: Option<ClusterId>,
    here: impl fmt::Display,
    ours: Option<ClusterId>,
) -> Result<(), Foreign> {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs.id != ours.id => Err(Foreign {
            who: who.to_string(),
            theirs,
            here: here.to_string(),
            ours,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(id: u8, incarnation: u32) -> Option<ClusterId> {
        ClusterId::of(&[id; 16], incarnation)
    }

    #[test]
    fn who_is_of_another_cluster_of_the_same_name_is_refused_with_both_and_the_way_out() {
        let (old, restored) = (cluster(0xaa, 0), cluster(0xbb, 1));
        let refused = check("n2", old, "n1", restored).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "n2 is of cluster aaaaaaaaaaaa (incarnation 0) and n1 of cluster bbbbbbbbbbbb (incarnation 1): clusters of one name, of which one was restored from a backup. Stop what is left of the other one; to use its host again, start it with an empty data directory and --join"
        );
        let other_way = check("n1", restored, "n2", old);
        assert!(other_way.is_err());
        // Restored twice of one backup: two clusters.
        let again = cluster(0xcc, 1);
        assert!(check("n2", again, "n1", restored).is_err());
    }

    #[test]
    fn who_is_of_the_same_cluster_or_does_not_know_yet_is_heard() {
        let (one, same) = (cluster(1, 2), cluster(1, 2));
        assert_eq!(ClusterId::of(&[], 0), None);
        for (theirs, ours) in [(one, same), (None, one), (one, None), (None, None)] {
            assert_eq!(check("n2", theirs, "n1", ours), Ok(()));
        }
    }
}
