//! What a rollout's selectors say of an agent, kept beside its row from one look to the next.
//!
//! Asking them reads labels from all over memory, and twice a second a million agents are looked at. Nothing here can be
//! out of date: an [`Answer`](super::answer::Answer) belongs to one row, and a question is one list of selectors, compared
//! as a whole. An answer has a bit for each role.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use fleet::program::ProgramRole;
use fleet::selector::Selector;

use super::Row;

/// Roles that one answer has room for. A revision with more is asked anew each time.
const ROLES_MAX: usize = 32;

/// Lists of selectors that have a number, of all rollouts that are looked at.
const KNOWN_MAX: usize = 512;

static KNOWN: Mutex<Known> = Mutex::new(Known {
    last: 0,
    lists: VecDeque::new(),
});

/// Numbers from 1; none is given twice.
struct Known {
    last: u32,
    lists: VecDeque<(Vec<Selector>, u32)>,
}

/// Which of these roles match a row?
#[derive(Clone, Copy, Debug)]
pub struct Question<'r> {
    roles: &'r [ProgramRole],
    /// Of the list of their selectors; none: answers are not kept.
    number: Option<u32>,
}

// === impl Question ===

impl<'r> Question<'r> {
    /// About these roles.
    pub fn of(roles: &'r [ProgramRole]) -> Self {
        let number = (roles.len() <= ROLES_MAX).then(|| {
            let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
            known.number(roles)
        });
        Question {
            roles,
            number: number.flatten(),
        }
    }

    /// The roles.
    pub fn roles(&self) -> &'r [ProgramRole] {
        self.roles
    }

    /// How many of the roles match this row.
    pub fn count(&self, row: &Row) -> usize {
        match self.number {
            Some(number) => row.matched.to(number, || self.ask(row)).count_ones() as usize,
            None => self.asked(row).filter(|matches| *matches).count(),
        }
    }

    /// Does the role of this index match this row?
    pub fn holds(&self, row: &Row, role: u32) -> bool {
        match self.number {
            Some(number) => {
                let answer = row.matched.to(number, || self.ask(row));
                answer.checked_shr(role).is_some_and(|bits| bits & 1 == 1)
            }
            None => self.asked(row).nth(role as usize).unwrap_or(false),
        }
    }

    fn ask(&self, row: &Row) -> u32 {
        let bits = (0..).zip(self.asked(row));
        bits.fold(0, |bits, (at, matches)| bits | u32::from(matches) << at)
    }

    fn asked(&self, row: &Row) -> impl Iterator<Item = bool> {
        self.roles.iter().map(|role| role.selector.matches(row))
    }
}

// === impl Known ===

impl Known {
    /// The number of this list of selectors; none: there are no more.
    fn number(&mut self, roles: &[ProgramRole]) -> Option<u32> {
        let asked = || roles.iter().map(|role| &role.selector);
        let same = |(list, _): &&(Vec<Selector>, u32)| list.iter().eq(asked());
        if let Some(at) = self.lists.iter().position(|list| same(&list)) {
            // What is asked all the time is forgotten last.
            let known = self.lists.remove(at)?;
            let number = known.1;
            self.lists.push_back(known);
            return Some(number);
        }
        self.last = self.last.checked_add(1)?;
        if self.lists.len() == KNOWN_MAX {
            self.lists.pop_front();
        }
        self.lists
            .push_back((asked().cloned().collect(), self.last));
        Some(self.last)
    }
}

#[cfg(test)]
mod tests {
    use fleet::digest::Digest;
    use proto::store;
    use proto::uid::Uid;

    use super::*;
    use crate::inventory::Interner;

    fn roles(selectors: &[&str]) -> Vec<ProgramRole> {
        let hash = Digest::of("test", &[]);
        let role = |selector: &&str| ProgramRole {
            name: (*selector).into(),
            selector: Selector::parse(selector).unwrap(),
            delivery: hash,
            baseline: hash,
            needs: std::sync::Arc::default(),
        };
        selectors.iter().map(role).collect()
    }

    fn row(env: &str) -> Row {
        let agent = store::Agent {
            operator_labels: [("env".to_owned(), env.to_owned())].into(),
            ..store::Agent::default()
        };
        let uid = Uid::from_wire(&[1; 16]).unwrap();
        Row::new(uid, 1, &agent, &mut Interner::default())
    }

    #[test]
    fn what_is_remembered_of_one_question_answers_no_other() {
        let (here, there) = (roles(&["env = a", "env", "*"]), roles(&["*", "env = a"]));
        let (a, b) = (row("a"), row("b"));
        for _ in 0..3 {
            let said = |roles, row| {
                (0..4)
                    .map(|at| Question::of(roles).holds(row, at))
                    .collect()
            };
            let all: [Vec<bool>; 4] = [
                said(&here, &a),
                said(&here, &b),
                said(&there, &a),
                said(&there, &b),
            ];
            assert_eq!(all[0], [true, true, true, false]);
            assert_eq!(all[1], [false, true, true, false]);
            assert_eq!(all[2], [true, true, false, false]);
            assert_eq!(all[3], [true, false, false, false]);
            let counted = [&here, &there].map(|roles| Question::of(roles).count(&b));
            assert_eq!(counted, [2, 1]);
        }
    }

    #[test]
    fn lists_are_told_apart_by_their_selectors_and_a_forgotten_one_gets_a_new_number() {
        let mut known = Known {
            last: 0,
            lists: VecDeque::new(),
        };
        let mut number = |selector: &str| known.number(&roles(&[selector]));
        assert_eq!((number("first"), number("second")), (Some(1), Some(2)));
        assert_eq!(number("first"), Some(1));
        for other in 0..KNOWN_MAX {
            assert!(number(&format!("v{other}")) > Some(2));
        }
        assert!(number("first") > Some(KNOWN_MAX as u32));
        known.last = u32::MAX;
        assert_eq!(known.number(&roles(&["last"])), None);
    }

    #[test]
    fn more_roles_than_an_answer_has_room_for_are_asked_each_time() {
        let mut many = vec!["env = b"; ROLES_MAX];
        many.push("env = a");
        let (roles, row) = (roles(&many), row("a"));
        let asked = Question::of(&roles);
        assert_eq!((asked.number, asked.count(&row)), (None, 1));
        assert!(asked.holds(&row, ROLES_MAX as u32) && !asked.holds(&row, 0));
    }
}
