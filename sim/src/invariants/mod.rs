//! What has to hold, in words of its own: the checker keeps its own lists of what was said and done, and knows nothing
//! of the code that keeps the promises.
//!
//! Everything that happens is a [`Fact`]. After each one the checker says whether all invariants still hold; the
//! numbers are those of the design.

mod budget;
mod conversations;
mod offers;
mod owners;
mod replicas;
mod rollouts;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use fleet::audit;
use fleet::digest::Digest;
use fleet::offer::Reported;
use fleet::rollout::Step;

use self::budget::Budget;
use self::conversations::Conversations;
use self::offers::Offers;
use self::owners::Owners;
pub use self::owners::Word;
use self::replicas::Replicas;
use self::rollouts::Rollouts;
use crate::disk::End;
use crate::ledger::Ledger;
use crate::orders::Verb;
use crate::types::{GroupId, Vote};

/// Life of an agent, and message in it.
pub type Number = (u64, u64);

/// What an agent says about a config, if anything.
pub type Said = Option<(Digest, Reported)>;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Fact {
    // ---- replicas ----
    /// A process began with this.
    Opened {
        node: u64,
        group: GroupId,
        vote: Option<Vote>,
        applied: u64,
        ledger: Arc<Ledger>,
    },
    Ended {
        node: u64,
        how: End,
        lost: u64,
    },
    /// A node was elected.
    Leads {
        node: u64,
        group: GroupId,
        term: u64,
    },
    /// A node has answered that it follows this vote.
    Promised {
        node: u64,
        group: GroupId,
        vote: Vote,
    },
    Applied {
        node: u64,
        group: GroupId,
        applied: u64,
        change: u64,
        links: Vec<audit::Entry>,
        ledger: Arc<Ledger>,
    },
    /// A snapshot took the place of state and log.
    Installed {
        node: u64,
        group: GroupId,
        applied: u64,
        ledger: Arc<Ledger>,
    },
    /// Whoever proposed it was told that it is stored.
    Acknowledged {
        group: GroupId,
        at: u64,
        change: u64,
    },
    /// A linearizable read, and what had been acknowledged when it began.
    Read {
        group: GroupId,
        before: Known,
        applied: u64,
        ledger: Arc<Ledger>,
    },
    /// A replica has stopped by itself.
    Stopped {
        node: u64,
        group: GroupId,
        why: String,
    },

    /// A node votes in a group from now on, or does not.
    Members {
        group: GroupId,
        node: u64,
        votes: bool,
    },

    /// A new node votes in every group in which this one did.
    Replaced {
        gone: u64,
        by: u64,
    },

    /// A gateway has begun anew, and remembers nothing.
    Forgot {
        gateway: u32,
    },

    /// Not every node hears this gateway from now on.
    Unheard {
        gateway: u32,
    },
    /// Its line to a node that leads has broken: what it told last may be lost.
    Broke {
        gateway: u32,
    },
    /// Everybody hears everybody.
    Mended,

    /// So many agents of a zone may be in work at once.
    Limited {
        in_work: u64,
    },

    /// Something was broken, or mended.
    Trouble {
        what: String,
    },

    // ---- agents ----
    /// What an agent said was stored.
    Heard {
        group: GroupId,
        agent: u32,
        version: u64,
        reported: Said,
    },
    /// An agent was declared lost: it is stored, and was decided then.
    Declared {
        agent: u32,
        decided_ms: u64,
    },
    /// A gateway wrote an offer.
    Written {
        gateway: u32,
        agent: u32,
        number: Number,
        hash: Digest,
    },
    /// An agent got it.
    Received {
        agent: u32,
        number: Number,
        hash: Digest,
    },
    /// An agent knows that it was heard, and what it had said.
    Answered {
        agent: u32,
        /// By this gateway, which heard it after that.
        gateway: u32,
        asked_ms: u64,
        /// It had said everything.
        full: bool,
        status: Said,
    },
    /// A message of an agent is lost, and the agent goes on.
    Lost {
        agent: u32,
    },
    /// An agent is asked to say everything.
    Asked {
        agent: u32,
    },

    // ---- people and controller ----
    /// A person has this done to an agent by this change, which may not be stored.
    Says {
        change: u64,
        agent: u32,
        word: Word,
    },
    /// Somebody was told that the revision with this delivery stands still, or goes back.
    Stands {
        verb: Verb,
        hash: Digest,
    },
    /// Somebody begins to order that it goes on.
    Resuming {
        hash: Digest,
    },
    /// Another order was carried out.
    Ordered {
        what: String,
    },
    /// The controller has looked at a rollout and decided.
    Looked {
        rollout: String,
        listed: u64,
        counted: u64,
        /// Since the read of the partition that was read longest ago; none: one of them never was.
        evidence_age_ms: Option<u64>,
        moves: Vec<Move>,
    },
    /// After everything was mended and so much time, something is not as it should be.
    Unsettled {
        what: String,
    },
}

/// A step of a rollout, as far as the checker cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Begins,
    /// A gate passed.
    Passes,
    Completes,
    Stops,
    GoesBack,
    WentBack,
}

/// What had been acknowledged at some moment.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub entries: u64,
    /// By agent: version of the record, and what it said then.
    pub heard: BTreeMap<u32, (u64, Said)>,
}

/// What holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// 1: what was acknowledged is never lost.
    Acknowledged,
    /// 2: what was acknowledged to stand still is offered to nobody.
    StandsStill,
    /// 3: an agent is offered a config once until it answers or the time for that is over, and never one that failed.
    OfferedOnce,
    /// 4: nobody is sent an empty config.
    NeverEmpty,
    /// 5: nobody is asked for full state who has said everything; nobody's loss is forgotten.
    Asked,
    /// Nobody is declared lost who is not.
    NobodyLost,
    /// 6: counts add up to the list, which never changes.
    AddsUp,
    /// 7: the same message is answered the same.
    SameAnswer,
    /// 8: without fresh evidence nothing passes.
    FreshEvidence,
    /// 9: the audit chain verifies on every replica, and each change of state has its entry.
    Audit,
    /// Whose an agent is nobody changes but a person, a list that takes it over, or policy; and it goes back there.
    Owner,
    /// No more agents of a zone are in work than the budget says.
    Budget,
    /// 10: when nothing is broken any more, everything converges without a person.
    Converges,
    /// A node does not go back on its vote.
    Vote,
    /// Replicas that have applied the same are the same.
    SameState,
    /// No replica stops by itself.
    Alive,
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Broken {
    pub invariant: Invariant,
    pub what: String,
    pub at_ms: u64,
}

type Verdict = Result<(), (Invariant, String)>;

/// Holds, or what does not.
fn hold(holds: bool, invariant: Invariant, what: impl FnOnce() -> String) -> Verdict {
    if holds {
        Ok(())
    } else {
        Err((invariant, what()))
    }
}

/// Keeps its own books.
#[derive(Debug, Default)]
pub struct Checker {
    replicas: Replicas,
    offers: Offers,
    owners: Owners,
    budget: Budget,
    conversations: Conversations,
    rollouts: Rollouts,
    /// How often what happened.
    pub seen: BTreeMap<&'static str, u64>,
}

// === impl Checker ===

impl Checker {
    /// What a read that begins now has to see at least.
    pub fn known(&self, group: GroupId) -> Known {
        Known {
            entries: self.replicas.acknowledged(group),
            heard: self.offers.heard(group),
        }
    }

    /// Do all invariants hold after this?
    ///
    /// # Errors
    ///
    /// The one that does not, and why.
    pub fn check(&mut self, now_ms: u64, fact: &Fact) -> Verdict {
        for what in fact.kinds() {
            *self.seen.entry(what).or_default() += 1;
        }
        self.replicas.check(fact)?;
        self.offers.check(now_ms, fact)?;
        self.owners.check(now_ms, fact)?;
        self.budget.check(fact)?;
        let full = std::mem::take(&mut self.budget.full);
        if full > 0 {
            *self.seen.entry("zones full").or_default() += full;
        }
        for what in self.owners.take_seen() {
            *self.seen.entry(what).or_default() += 1;
        }
        self.conversations.check(now_ms, fact)?;
        self.rollouts.check(now_ms, fact)?;
        match fact {
            Fact::Unsettled { what } => hold(false, Invariant::Converges, || what.clone()),
            _ => Ok(()),
        }
    }

    /// Agents that have lost a message so long ago and were not asked for it.
    pub fn unasked(&self, now_ms: u64, ms: u64) -> Vec<u32> {
        self.conversations.unasked(now_ms, ms)
    }

    /// Has a rollout gone on within so long?
    pub fn moved_within(&self, now_ms: u64, ms: u64) -> bool {
        self.rollouts.moved_within(now_ms, ms)
    }

    /// An agent that was taken over and is not given back, though all of that rollout went back.
    pub fn owed(&self) -> Option<String> {
        self.owners.owed()
    }

    /// Agents that nobody has answered for so long.
    pub fn unanswered(&self, now_ms: u64, ms: u64) -> Vec<u32> {
        self.offers.unanswered(now_ms, ms)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} at {} ms: {}",
            self.invariant, self.at_ms, self.what
        )
    }
}

// === impl Move ===

impl Move {
    pub fn of(step: &Step) -> Self {
        match step {
            Step::OpenWave { wave: 0, .. } => Move::Begins,
            Step::OpenWave { .. } | Step::FinishRole { .. } => Move::Passes,
            Step::Complete => Move::Completes,
            Step::Stop { .. } | Step::Pause { .. } => Move::Stops,
            Step::OpenRollBack { .. } => Move::GoesBack,
            Step::FinishRollBack => Move::WentBack,
        }
    }
}

// === impl Fact ===

impl Fact {
    /// What a run counts it as.
    fn kinds(&self) -> Vec<&'static str> {
        let one = match self {
            Fact::Ended { how: End::Kill, .. } => "kills",
            Fact::Ended {
                how: End::DiskLost, ..
            } => "disks lost",
            Fact::Replaced { .. } => "nodes replaced",
            Fact::Ended { lost: 0, .. } => "power cuts",
            Fact::Ended { .. } => return vec!["power cuts", "power cuts that lost something"],
            Fact::Leads { .. } => "elections",
            Fact::Applied { .. } => "applied",
            Fact::Installed { .. } => "snapshots",
            Fact::Acknowledged { .. } => "acknowledged",
            Fact::Read { .. } => "reads",
            Fact::Received { .. } => "offers",
            Fact::Members { votes: true, .. } => "voters added",
            Fact::Members { .. } => "voters removed",
            Fact::Lost { .. } => "lost messages",
            Fact::Asked { .. } => "asked for full state",
            Fact::Declared { .. } => "declared lost",
            Fact::Answered { .. } => "answers",
            Fact::Stands {
                verb: Verb::Halt, ..
            } => "halts",
            Fact::Stands {
                verb: Verb::Pause, ..
            } => "pauses",
            Fact::Stands { .. } => "rollbacks",
            Fact::Ordered { .. } => "other orders",
            Fact::Looked { moves, .. } => {
                let named = moves.iter().map(|step| match step {
                    Move::Begins => "begun",
                    Move::Passes => "passed",
                    Move::Completes => "completed",
                    Move::Stops => "stopped",
                    Move::GoesBack => "going back",
                    Move::WentBack => "went back",
                });
                return named.collect();
            }
            _ => return vec![],
        };
        vec![one]
    }

    /// What tells it from another of its kind.
    pub fn brief(&self) -> String {
        match self {
            Fact::Opened {
                node,
                group,
                vote,
                applied,
                ..
            } => format!("opened {node} {group:?} {vote:?} {applied}"),
            Fact::Applied {
                node,
                group,
                applied,
                change,
                ledger,
                ..
            } => {
                format!(
                    "applied {node} {group:?} {applied} {change} {}",
                    ledger.trail
                )
            }
            Fact::Installed {
                node,
                group,
                applied,
                ..
            } => format!("installed {node} {group:?} {applied}"),
            Fact::Read {
                group,
                before,
                applied,
                ..
            } => format!("read {group:?} {} {applied}", before.entries),
            fact => format!("{fact:?}"),
        }
    }
}
