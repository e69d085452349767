//! What a count has found of each agent, kept from one count to the next.
//!
//! The clock decides nothing here. What is found of an agent rests on its row, on the member lists, and on what is
//! the same for all: program, policies and limits. The finding lies beside the row as a small number, so that a
//! changed agent, which has a new row, has none; and when anything else changes, everybody is asked anew. So a count of
//! a million agents of whom a few thousand have changed costs little more than going through the rows. What is kept can
//! be lost at any instant.
//!
//! Where everybody has to be asked anew, as after the opening of a wave, that is done in several counts. Each of them has
//! all agents, all that are sick and all that is in flight, so that no more is given away than there is room for. Only of
//! those that wait some are found later, and are given room later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fleet::budget::Domain;
use fleet::program::Program;
use proto::uid::Uid;

use super::{Asked, Finding, NAMED, Occupancy, Standing, may_wait};
use crate::inventory::Columns;
use crate::partition::room::{Lane, Limits};

/// So many findings that nobody has any more are kept, besides as many as somebody has: agents may change their labels
/// as often as they like.
const UNUSED_MAX: usize = 1_000;

/// Of so many agents one count of a partition finds what is due for them: a million agents in eight partitions are through
/// in four seconds, and no count takes long.
pub const ASKED_AT_ONCE: usize = 16_000;

/// The last basis that has a number. Rows are answered by it, whoever counts them, so none is given twice.
static LAST: AtomicU32 = AtomicU32::new(0);

/// Counts the agents of one partition again and again.
#[derive(Default)]
pub struct Counter {
    basis: Option<Basis>,
    /// Of the basis; none: there are no more, and nothing is kept.
    number: Option<u32>,
    findings: Findings,
    /// The count before has asked as many as it may, up to this agent; none: it has asked all.
    asked_up_to: Option<Uid>,
    /// How many agents were asked, in all counts together.
    #[cfg(test)]
    pub(super) asked: u64,
}

/// What everything that was found rests on, but for the rows.
struct Basis {
    program: Arc<Program>,
    re_offering: Arc<BTreeSet<String>>,
    limits: Limits,
    lists_changed: u64,
}

/// Everything that was found of anybody, each once. Rows know theirs by its place, from 1; 0: it is counted nowhere.
#[derive(Default)]
struct Findings {
    names: Vec<String>,
    names_known: BTreeMap<String, u32>,
    all: Vec<Finding<u32>>,
    known: BTreeMap<Finding<u32>, u32>,
}

/// Agents of whom one thing was found.
#[derive(Clone, Default)]
struct Tally {
    agents: u64,
    /// The first of them, where somebody asks for names.
    named: Vec<Uid>,
}

// === impl Counter ===

impl Counter {
    /// Looks at every agent: what budgets have to know, and what is in flight by lane. `re_offering`: families that send
    /// once more what an agent has drifted from. `at_once`: of so many agents it is found what is due for them, the others
    /// are taken to wait for nothing until a later count; it goes on behind them, so that everybody is asked in turn
    /// however often everything changes.
    pub fn count(
        &mut self,
        columns: &Columns,
        program: &Arc<Program>,
        re_offering: &Arc<BTreeSet<String>>,
        limits: &Limits,
        at_once: usize,
    ) -> (Occupancy, BTreeMap<Lane, u64>) {
        self.rest_on(Basis {
            program: Arc::clone(program),
            re_offering: Arc::clone(re_offering),
            limits: limits.clone(),
            lists_changed: columns.lists_changed,
        });
        let mut asked = Asked::of(columns, program, re_offering, limits);
        let mut tallies: Vec<Tally> = vec![Tally::default(); self.findings.all.len() + 1];
        let mut left = at_once;
        let mut up_to = None;
        for row in columns.rows.values() {
            let kept = self.number.and_then(|number| row.counted.kept(number));
            let place = kept.unwrap_or_else(|| {
                let asks = may_wait(row);
                let is_due = left > 0 && self.asked_up_to.is_none_or(|last| row.uid > last);
                if asks && !is_due {
                    return self.findings.place(asked.glance(row));
                }
                if asks {
                    left -= 1;
                    up_to = Some(row.uid);
                }
                #[cfg(test)]
                {
                    self.asked += 1;
                }
                let place = self.findings.place(asked.find(row));
                if let Some(number) = self.number {
                    row.counted.keep(number, place);
                }
                place
            }) as usize;
            if place >= tallies.len() {
                tallies.resize(place + 1, Tally::default());
            }
            let tally = &mut tallies[place];
            tally.agents += 1;
            if tally.named.len() < NAMED && self.findings.is_waiting(place) {
                tally.named.push(row.uid);
            }
        }
        self.asked_up_to = up_to.filter(|_| left == 0);
        let used = tallies.iter().filter(|tally| tally.agents > 0).count();
        let counted = self.findings.sum(tallies.into_iter().skip(1));
        if self.findings.all.len() > 2 * used + UNUSED_MAX {
            *self = Counter::default();
        }
        counted
    }

    /// How many different things are known.
    #[cfg(test)]
    pub(super) fn findings(&self) -> usize {
        self.findings.all.len()
    }

    /// What was found holds as long as this is what it was.
    fn rest_on(&mut self, basis: Basis) {
        if !self.basis.as_ref().is_some_and(|before| before.is(&basis)) {
            let next = |last: u32| last.checked_add(1);
            let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
            self.number = last.ok().and_then(next);
            self.findings = Findings::default();
        }
        self.basis = Some(basis);
    }
}

// === impl Basis ===

impl Basis {
    fn is(&self, other: &Basis) -> bool {
        self.lists_changed == other.lists_changed
            && self.limits == other.limits
            && self.re_offering == other.re_offering
            && (Arc::ptr_eq(&self.program, &other.program)
                || self.program.decides_as(&other.program))
    }
}

// === impl Findings ===

impl Findings {
    /// The place of what was found.
    fn place(&mut self, found: Option<Finding<&str>>) -> u32 {
        let Some(found) = found else {
            return 0;
        };
        let lane = |findings: &mut Self, (rollout, role, domain)| {
            let rollout = findings.name(rollout);
            (rollout, findings.name(role), findings.name(domain))
        };
        let found = Finding {
            domain: self.name(found.domain),
            standing: match found.standing {
                Standing::Idle => Standing::Idle,
                Standing::Sick => Standing::Sick,
                Standing::InFlight(in_flight) => {
                    Standing::InFlight(in_flight.map(|of| lane(self, of)))
                }
                Standing::Waiting { lane: of, sick } => Standing::Waiting {
                    lane: lane(self, of),
                    sick,
                },
            },
        };
        if let Some(place) = self.known.get(&found) {
            return *place;
        }
        self.all.push(found);
        let place = number_of(self.all.len());
        self.known.insert(found, place);
        place
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(number) = self.names_known.get(name) {
            return *number;
        }
        let number = number_of(self.names.len());
        self.names.push(name.to_owned());
        self.names_known.insert(name.to_owned(), number);
        number
    }

    fn is_waiting(&self, place: usize) -> bool {
        let found = place.checked_sub(1).and_then(|at| self.all.get(at));
        found.is_some_and(|found| matches!(found.standing, Standing::Waiting { .. }))
    }

    /// All tallies together, which come in the order of the findings.
    fn sum(&self, tallies: impl Iterator<Item = Tally>) -> (Occupancy, BTreeMap<Lane, u64>) {
        let name = |number: u32| self.names[number as usize].as_str();
        let lane = |(rollout, role, domain)| Lane::of((name(rollout), name(role), name(domain)));
        let mut seen = Occupancy::default();
        let mut in_flight: BTreeMap<Lane, u64> = BTreeMap::new();
        let somebody = |(_, tally): &(&Finding<u32>, Tally)| tally.agents > 0;
        for (found, tally) in self.all.iter().zip(tallies).filter(somebody) {
            let domain = seen.domains.entry(name(found.domain).to_owned());
            let domain: &mut Domain = domain.or_default();
            domain.agents += tally.agents;
            if found.is_sick() {
                domain.unhealthy += tally.agents;
            }
            match found.standing {
                Standing::InFlight(Some(of)) => {
                    *in_flight.entry(lane(of)).or_default() += tally.agents;
                }
                Standing::Waiting { lane: of, .. } => {
                    let (wanted, named) = seen.waiting.entry(lane(of)).or_default();
                    *wanted += tally.agents;
                    named.extend(tally.named);
                }
                _ => {}
            }
        }
        // Of what was found of some of them and what of others: the first of all.
        for (_, named) in seen.waiting.values_mut() {
            named.sort_unstable();
            named.truncate(NAMED);
        }
        (seen, in_flight)
    }
}

/// There are no more findings, nor names, than a few for each agent of a partition.
fn number_of(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
