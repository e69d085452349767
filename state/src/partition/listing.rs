//! Members of rollouts, for looks at every agent of a partition: what is the same for a wave is looked up once, lists are
//! walked beside the rows, and nothing is copied.

use std::collections::BTreeMap;

use fleet::program::{
    Desired, Fit, Place, Placed, Program, ProgramRole, ProgramRollout, desired_borrowed,
    desired_placed,
};

use super::subject_of;
use crate::inventory::{Columns, Member, Question, Row, Walk};

/// A rollout that the program names.
pub struct Listing<'a> {
    program: &'a Program,
    rollout: &'a ProgramRollout,
    /// Which roles of its target match.
    asked: Question<'a>,
    /// By role and wave, as far as members were found there; none: the target has no such role.
    waves: BTreeMap<(u32, u32), Option<Placed<'a>>>,
}

/// Every agent of a partition, in rising order, with the lists that may decide for it.
pub struct Everybody<'a> {
    program: &'a Program,
    lists: Vec<(Listing<'a>, Walk<'a>)>,
    /// Where the lists name the agent at hand.
    named: Vec<Named<'a>>,
    places: Vec<Place<'a>>,
}

/// Index of a list, and the agent's line in it.
type Named<'a> = (usize, &'a Member);

// === impl Listing ===

impl<'a> Listing<'a> {
    /// None: the program does not name the rollout.
    pub(super) fn of(program: &'a Program, id: &str) -> Option<Self> {
        let (family, rollout) = program.rollout(id)?;
        Some(Listing {
            program,
            rollout,
            asked: Question::of(family.roles(rollout.to)),
            waves: BTreeMap::new(),
        })
    }

    /// What a member should run; and its place, unless the target has no such role.
    pub(super) fn desired<'m>(
        &mut self,
        row: &'m Row,
        member: &'m Member,
    ) -> (Option<Placed<'a>>, Desired<&'m str>)
    where
        'a: 'm,
    {
        let Listing { program, asked, .. } = *self;
        let place = self.place(member);
        let look_up = || Placed::of(program, place.as_ref()?);
        let wave = self.waves.entry((member.role, member.wave));
        let placed = *wave.or_insert_with(look_up);
        let fit = |_: &[ProgramRole], _: &ProgramRole| {
            Fit::of(asked.holds(row, member.role), || asked.count(row))
        };
        let desired = desired_placed(&subject_of(row, place), placed.as_ref(), program, fit);
        (placed, desired)
    }

    /// How many roles of its target match.
    pub(super) fn roles(&self, row: &Row) -> usize {
        self.asked.count(row)
    }

    fn place<'m>(&self, member: &'m Member) -> Option<Place<'m>>
    where
        'a: 'm,
    {
        let role = self.asked.roles().get(member.role as usize)?;
        Some(Place {
            rollout: &self.rollout.id,
            role: &role.name,
            wave: member.wave,
            taken_from: member.taken_from.as_ref().map(|from| (&*from.0, &*from.1)),
        })
    }
}

// === impl Everybody ===

impl<'a> Everybody<'a> {
    pub(super) fn of(columns: &'a Columns, program: &'a Program) -> Self {
        let rollouts = program.families.iter().filter_map(|f| f.rollout.as_ref());
        let list = |rollout: &ProgramRollout| {
            let members = columns.lists.get(&rollout.id)?;
            Some((Listing::of(program, &rollout.id)?, members.walk()))
        };
        Everybody {
            program,
            lists: rollouts.filter_map(list).collect(),
            named: vec![],
            places: vec![],
        }
    }

    /// What an agent should run, whose uid is greater than that of the call before. As [`super::place_of`] has it.
    pub(super) fn desired(&mut self, row: &'a Row) -> Desired<&'a str> {
        self.named.clear();
        self.places.clear();
        for (at, (listing, members)) in self.lists.iter_mut().enumerate() {
            if let Some(member) = members.find(&row.uid)
                && let Some(place) = listing.place(member)
            {
                self.named.push((at, member));
                self.places.push(place);
            }
        }
        let counts = self.program.place_that_counts(row.whose(), &self.places);
        let is = |place: &Place<'_>| counts.is_some_and(|counts| counts.rollout == place.rollout);
        match self.places.iter().position(is) {
            Some(found) => {
                let (at, member) = self.named[found];
                self.lists[at].0.desired(row, member).1
            }
            None => desired_borrowed(&subject_of(row, None), self.program),
        }
    }
}
