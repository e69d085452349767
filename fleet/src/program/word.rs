//! What a person says about whose an agent is: that it stays with its owner, or that it goes to who claims it.
//!
//! A word is stamped with the program that it was said by. So it goes before every list that the program named then,
//! whether the wave that takes the agent over was open or not: see [`Whose::overrules`] and [`Whose::settles`].

use std::fmt;

use super::{Claim, Place, Program, Whose};

/// Family and role.
type Owner<'a> = (&'a str, &'a str);

/// A person's word, before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// It stays with who owns it, whatever this list says.
    Stays {
        /// Its owner.
        with: Owner<'a>,
        /// What would take it away; none: only another family's claim, or nobody claims it.
        instead_of: Option<Contest<'a>>,
    },
    /// It goes to who claims it.
    Goes {
        /// Who that is.
        to: Owner<'a>,
    },
    /// What was said before counts no more, as if nobody had said anything.
    TakenBack {
        /// Whom it was to stay with, or to go to.
        earlier: Owner<'a>,
        /// What follows now; none: nothing.
        leaves: Option<Contest<'a>>,
    },
}

/// The list of a rollout that the program names has an agent elsewhere than its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contest<'a> {
    /// It takes the agent over from its owner with its wave.
    Takes {
        /// Rollout id.
        rollout: &'a str,
        /// Family and role that it takes it to.
        to: Owner<'a>,
    },
    /// Its owner has the agent by this list, and a rollback gives it back.
    GivesBack {
        /// Rollout id.
        rollout: &'a str,
        /// Family and role that it was taken from.
        to: Owner<'a>,
    },
}

/// Why there is nothing to be said about an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsaid {
    /// It has no owner.
    #[error("nobody owns it: it goes to who claims it by itself")]
    Unowned,
    /// Its owner claims it, no list has it elsewhere, and nothing was said before.
    #[error(
        "{0} owns it and claims it, and no open rollout takes it over: there is nothing to resolve until one does"
    )]
    Uncontested(String),
    /// A list has it go where it would go, or its owner claims it; and nobody has said that the list may not have it.
    #[error(
        "{owner} owns it, and {contest}: there is nothing to resolve, unless it is to --keep its owner"
    )]
    Agreed {
        /// Whose it is.
        owner: String,
        /// What the list does.
        contest: String,
    },
    /// There is nobody whom it could go to.
    #[error("nobody claims it: label it, or let it --keep its owner")]
    Unclaimed,
    /// It could go to several roles.
    #[error("it matches {roles} of {family}: make the selectors exclude each other")]
    Ambiguous {
        /// The family.
        family: String,
        /// The roles.
        roles: String,
    },
}

/// What it comes to that an agent is to `keep` its owner, or else to go to who claims it. `claims`: on it, by the program.
/// `places`: all of its places in rollouts that the program names.
pub fn say<'a>(
    keep: bool,
    whose: Whose<'a>,
    claims: &[Claim<'a>],
    places: &[Place<'a>],
    program: &'a Program,
) -> Result<Word<'a>, Unsaid> {
    let owner = whose.owner.ok_or(Unsaid::Unowned)?;
    let contest = Contest::of(owner, places, program);
    let claim = claims.first().and_then(Claim::only);
    let other = claim.filter(|claim| *claim != owner);
    let is_claimed = claim == Some(owner);
    match (keep, whose.granted) {
        (true, Some(earlier)) if earlier != owner && is_claimed && contest.is_none() => {
            Ok(Word::TakenBack {
                earlier,
                leaves: None,
            })
        }
        (true, _) if is_claimed && contest.is_none() => Err(Unsaid::Uncontested(named(owner))),
        (true, _) => Ok(Word::Stays {
            with: owner,
            instead_of: contest,
        }),
        // Who was told to keep it from a list leaves it to that list again; where no list has it, it goes at once.
        (false, Some(earlier)) if earlier == owner && (contest.is_some() || other.is_none()) => {
            Ok(Word::TakenBack {
                earlier,
                leaves: contest,
            })
        }
        (false, _) => match (other, contest) {
            // With its wave, or when it is rolled back: nobody goes before that for having it said.
            (to, Some(contest)) if to.map_or(is_claimed, |to| to == contest.to()) => {
                Err(Unsaid::Agreed {
                    owner: named(owner),
                    contest: contest.to_string(),
                })
            }
            (Some(to), _) => Ok(Word::Goes { to }),
            (None, None) if is_claimed => Err(Unsaid::Uncontested(named(owner))),
            (None, _) => Err(nobody(claims)),
        },
    }
}

/// No single role claims the agent.
fn nobody(claims: &[Claim<'_>]) -> Unsaid {
    match claims.first() {
        None => Unsaid::Unclaimed,
        Some(claim) => Unsaid::Ambiguous {
            family: claim.family.to_owned(),
            roles: claim.roles.join(" and "),
        },
    }
}

fn named((family, role): Owner<'_>) -> String {
    format!("{family}/{role}")
}

// === impl Word ===

impl<'a> Word<'a> {
    /// Family and role that it stays with or goes to, to be stored with the stamp of the program; none: neither is any more.
    pub fn granted(&self) -> Option<Owner<'a>> {
        match *self {
            Word::Stays { with, .. } => Some(with),
            Word::Goes { to } => Some(to),
            Word::TakenBack { .. } => None,
        }
    }
}

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Stays { with, instead_of } => {
                write!(f, "stays with {}", named(*with))?;
                match instead_of {
                    None => Ok(()),
                    Some(Contest::Takes { rollout, to }) => write!(
                        f,
                        "; rollout {rollout} does not take it over to {}",
                        named(*to)
                    ),
                    Some(Contest::GivesBack { rollout, to }) => write!(
                        f,
                        "; a rollback of {rollout} does not give it back to {}",
                        named(*to)
                    ),
                }
            }
            Word::Goes { to } => write!(f, "goes to {}", named(*to)),
            Word::TakenBack { earlier, leaves } => {
                write!(f, "what was said of {} is taken back", named(*earlier))?;
                match leaves {
                    None => Ok(()),
                    Some(contest) => write!(f, "; {contest}"),
                }
            }
        }
    }
}

// === impl Contest ===

impl<'a> Contest<'a> {
    fn to(&self) -> Owner<'a> {
        match *self {
            Contest::Takes { to, .. } | Contest::GivesBack { to, .. } => to,
        }
    }

    /// What takes the agent away from its owner goes before what gives it back.
    fn of(owner: Owner<'a>, places: &[Place<'a>], program: &'a Program) -> Option<Self> {
        let contests = places.iter().filter_map(|place| {
            let (family, rollout) = program.rollout(place.rollout)?;
            let here = (family.name.as_str(), place.role);
            let (id, from) = (rollout.id.as_str(), place.taken_from?);
            if from == owner {
                // One that goes back, or has gone back, takes nobody over any more.
                let takes = !rollout.returning && rollout.roll_back.is_none();
                takes.then_some(Contest::Takes {
                    rollout: id,
                    to: here,
                })
            } else {
                (here == owner).then_some(Contest::GivesBack {
                    rollout: id,
                    to: from,
                })
            }
        });
        contests.min_by_key(|contest| matches!(contest, Contest::GivesBack { .. }))
    }
}

impl fmt::Display for Contest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contest::Takes { rollout, to } => write!(
                f,
                "rollout {rollout} takes it over to {} with its wave",
                named(*to)
            ),
            Contest::GivesBack { rollout, to } => {
                write!(f, "a rollback of {rollout} gives it back to {}", named(*to))
            }
        }
    }
}
