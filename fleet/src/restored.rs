//! After a restore the database is older than the fleet: agents may run what it has never heard of.
//!
//! So an agent is only observed until it has said in full what it runs. If that is nothing that its record names, it is
//! a *conflict*, and gets nothing until a person has looked. This is asked once for each agent and restore: what an
//! agent does later is drift, not a lost past.

use crate::digest::Digest;

/// What a restore leaves open about an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing: its record is of this incarnation, or the agent has confirmed it.
    #[default]
    None,
    /// Not heard in full since the restore: its record may be older than what it runs.
    Unheard,
    /// It runs this, which the database lacks or never offered to it.
    Conflict(Digest),
}

/// What stands in an agent's record about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Incarnation of the cluster in which it last said in full what it runs; 0: the first, or never.
    pub heard_in: u16,
    /// The hash that was found then to be a conflict.
    pub conflict: Option<Digest>,
}

/// Does the hash that an agent reports belong to a past that the database has lost?
///
/// `recorded` is what its record has: what it was offered, what it refused, and what it had reported by the time of the
/// backup. What it should run anyway is no conflict: there is nothing to be taken from it.
pub fn is_conflict(
    reported: Option<Digest>,
    recorded: impl IntoIterator<Item = Digest>,
    desired: Option<Digest>,
) -> bool {
    reported.is_some_and(|hash| {
        desired != Some(hash) && recorded.into_iter().all(|recorded| recorded != hash)
    })
}

// === impl Word ===

impl Word {
    /// What is left open in this incarnation.
    pub fn doubt(&self, incarnation: u16) -> Doubt {
        match self.conflict {
            _ if self.heard_in < incarnation => Doubt::Unheard,
            Some(hash) => Doubt::Conflict(hash),
            None => Doubt::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(name: &str) -> Digest {
        Digest::of("test", &[name.as_bytes()])
    }

    #[test]
    fn what_was_never_offered_is_a_conflict_and_what_was_is_not() {
        let recorded = [hash("last"), hash("before"), hash("refused")];
        let conflict = |reported, desired| is_conflict(reported, recorded, desired);
        assert!(conflict(Some(hash("lost")), Some(hash("last"))));
        assert!(conflict(Some(hash("lost")), None));
        for known in recorded {
            assert!(!conflict(Some(known), None));
        }
    }

    #[test]
    fn who_says_nothing_or_runs_what_it_should_is_no_conflict() {
        assert!(!is_conflict(None, [hash("last")], Some(hash("last"))));
        assert!(!is_conflict(Some(hash("new")), [], Some(hash("new"))));
    }

    #[test]
    fn in_a_cluster_that_was_never_restored_nothing_is_in_doubt() {
        assert_eq!(Word::default().doubt(0), Doubt::None);
    }

    #[test]
    fn after_each_restore_an_agent_is_in_doubt_until_it_is_heard() {
        let heard = Word {
            heard_in: 1,
            conflict: None,
        };
        assert_eq!(Word::default().doubt(1), Doubt::Unheard);
        assert_eq!(heard.doubt(1), Doubt::None);
        assert_eq!(heard.doubt(2), Doubt::Unheard);
        let conflict = Word {
            conflict: Some(hash("lost")),
            ..heard
        };
        assert_eq!(conflict.doubt(1), Doubt::Conflict(hash("lost")));
        assert_eq!(conflict.doubt(2), Doubt::Unheard);
    }
}
