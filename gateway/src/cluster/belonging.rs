//! Which cluster this gateway serves: that of the first node it hears, until one of a later incarnation speaks. No clock and
//! no I/O.
//!
//! A gateway keeps nothing, so one that has just started cannot know which of two clusters of its name is the past. The one
//! that was restored later is not.

use std::fmt::Display;

use proto::cluster_id::{self, ClusterId, Foreign};

/// What it knows of that.
#[derive(Debug, Default)]
pub struct Belonging {
    ours: Option<ClusterId>,
    /// Whom it has refused last.
    refused: Option<ClusterId>,
}

/// What follows from a node's word.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is heard.
    Ours,
    /// It is heard, and what others have said so far is of the past.
    Later,
    /// It is not heard. `news`: that has not been said before.
    Foreign {
        /// Why.
        why: Foreign,
        /// For the log.
        news: bool,
    },
}

impl Belonging {
    /// What is served, as far as it is known.
    pub fn ours(&self) -> Option<ClusterId> {
        self.ours
    }

    /// Is a node of this cluster heard, as far as is known now?
    pub fn is_heard(&self, theirs: Option<ClusterId>) -> bool {
        cluster_id::check("", theirs, "", self.ours).is_ok()
    }

    /// A node says of which cluster it is; None: it does not know yet.
    pub fn judge(&mut self, node: impl Display, theirs: Option<ClusterId>) -> Verdict {
        let Err(why) = cluster_id::check(node, theirs, "this gateway", self.ours) else {
            self.ours = self.ours.or(theirs);
            return Verdict::Ours;
        };
        let incarnation = |id: Option<ClusterId>| id.map(ClusterId::incarnation);
        if incarnation(theirs) > incarnation(self.ours) {
            self.refused = std::mem::replace(&mut self.ours, theirs);
            return Verdict::Later;
        }
        let news = self.refused != theirs;
        self.refused = theirs;
        Verdict::Foreign { why, news }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(id: u8, incarnation: u32) -> Option<ClusterId> {
        ClusterId::of(&[id; 16], incarnation)
    }

    fn is_refused(verdict: &Verdict) -> Option<bool> {
        match verdict {
            Verdict::Foreign { news, .. } => Some(*news),
            _ => None,
        }
    }

    #[test]
    fn the_first_that_is_heard_says_which_cluster_it_is_and_another_one_is_refused() {
        let mut belonging = Belonging::default();
        assert_eq!(belonging.judge("n1", None), Verdict::Ours);
        assert_eq!(belonging.judge("n1", cluster(1, 1)), Verdict::Ours);
        assert_eq!(belonging.judge("n2", cluster(1, 1)), Verdict::Ours);
        assert_eq!(
            belonging.judge("n3", None),
            Verdict::Ours,
            "it has just joined"
        );
        let past = belonging.judge("n2", cluster(2, 0));
        assert_eq!(is_refused(&past), Some(true));
        assert_eq!(
            is_refused(&belonging.judge("n2", cluster(2, 0))),
            Some(false)
        );
        let twin = belonging.judge("n2", cluster(3, 1));
        assert_eq!(
            is_refused(&twin),
            Some(true),
            "restored twice of one backup"
        );
        assert_eq!(belonging.ours(), cluster(1, 1));
    }

    #[test]
    fn a_cluster_that_was_restored_later_is_served_from_then_on() {
        let mut belonging = Belonging::default();
        assert_eq!(belonging.judge("n2", cluster(1, 0)), Verdict::Ours);
        assert_eq!(belonging.judge("n1", cluster(2, 1)), Verdict::Later);
        assert_eq!(belonging.ours(), cluster(2, 1));
        assert!(is_refused(&belonging.judge("n2", cluster(1, 0))).is_some());
    }
}
