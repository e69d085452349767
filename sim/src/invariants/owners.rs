//! Owners: nobody changes hands without a person, a list that takes it over, or `auto` on both sides; who is relabelled is
//! pushed nothing; who was taken over goes back to whom it was taken from; and no gateway writes what is not the owner's.
//!
//! What is offered is judged in the order in which it was stored, by the documents that it was decided by.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::digest::Digest;
use fleet::program::{OwnerChange, Scope};
use fleet::rollout::State;
use proto::store;

use super::{Fact, Invariant, Verdict, hold};
use crate::agent::family_of;
use crate::ledger::{Ledger, RolloutDoc};
use crate::program::{FAMILIES, delivery};
use crate::types::{CONTROL, GroupId};

/// What was granted is written within so long, or never.
const WRITTEN_WITHIN_MS: u64 = 2_500;

/// What a person does to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    Labelled(&'static str),
    /// Of this family it is to be, said by this program. None: what was said before counts no more.
    Said {
        of: Option<String>,
        epoch: u64,
    },
}

#[derive(Debug, Default)]
pub struct Owners {
    /// Families and rollouts, by the version of the newest.
    documents: BTreeMap<u64, Arc<Ledger>>,
    /// By change, of which nobody knows whether it is stored.
    words: BTreeMap<u64, (u32, Word)>,
    /// So many entries of each partition were judged, and what it is after them.
    judged: BTreeMap<GroupId, (u64, Arc<Ledger>)>,
    agents: BTreeMap<u32, Agent>,
    /// What has happened since it was asked last.
    seen: Vec<&'static str>,
}

/// What the checker knows of one. By name of the family that has it: whose it was before.
#[derive(Debug, Default)]
struct Agent {
    label: Option<&'static str>,
    /// Whose it is to be by a person's word, until it changes hands.
    granted: Option<String>,
    /// What a person has said last, and by which program.
    said: Option<(String, u64)>,
    /// Taken over by a list, which was opened by that program.
    had: BTreeMap<String, (String, u64)>,
    /// Gone by a person's word or by policy: a list that was made before that still gives it back there.
    left: BTreeMap<String, String>,
    aside: Option<Aside>,
    /// Since when it was granted what; the newest is the last.
    grants: Vec<(u64, Digest)>,
}

/// What is not to be given back as long as a person's word stands that an agent stays with this family.
#[derive(Debug)]
struct Aside {
    family: String,
    had: Option<(String, u64)>,
    left: Option<String>,
}

/// A new offer in a record.
struct Grant<'a> {
    agent: u32,
    label: &'a str,
    documents: &'a Ledger,
    from: Option<&'a str>,
    to: &'a str,
    hash: Digest,
    way: Way<'a>,
    /// What it was granted before, and in which rollout.
    last: Option<(Digest, &'a str)>,
}

enum Way<'a> {
    /// Of any list.
    Outside,
    Wave(&'a str, &'a RolloutDoc),
    Back(&'a RolloutDoc),
}

// === impl Owners ===

impl Owners {
    pub fn take_seen(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.seen)
    }

    pub fn check(&mut self, now_ms: u64, fact: &Fact) -> Verdict {
        match fact {
            Fact::Says {
                change,
                agent,
                word,
            } => {
                self.words.insert(*change, (*agent, word.clone()));
                Ok(())
            }
            Fact::Applied { group, ledger, .. } if *group == CONTROL => {
                let documents = self.documents.entry(ledger.epoch);
                documents.or_insert_with(|| Arc::clone(ledger));
                Ok(())
            }
            Fact::Applied {
                group,
                applied,
                change,
                ledger,
                ..
            } => {
                let (judged, before) = self.judged.entry(*group).or_default();
                if *applied <= *judged {
                    return Ok(());
                }
                let before = std::mem::replace(before, Arc::clone(ledger));
                *judged = *applied;
                self.stored(now_ms, *change, &before, ledger)
            }
            Fact::Written { agent, hash, .. } => self.written(now_ms, *agent, *hash),
            _ => Ok(()),
        }
    }

    /// An entry of a partition.
    fn stored(&mut self, now_ms: u64, change: u64, before: &Ledger, after: &Ledger) -> Verdict {
        for (id, version, record) in after.agents() {
            let was = before.agent(id);
            if was.is_some_and(|(was, _)| was == version) {
                continue;
            }
            if let Some((of, word)) = self.words.remove(&change)
                && of == id
            {
                self.hears(id, was.map(|(_, record)| record), word);
            }
            let granted = |record: &store::Agent| {
                let last = record.delivery.clone()?;
                Some((
                    last.epoch,
                    last.offered_ms,
                    last.hash,
                    last.family,
                    last.rollout,
                ))
            };
            if granted(record) != was.and_then(|(_, record)| granted(record)) {
                self.granted(now_ms, id, was.map(|(_, record)| record), record)?;
            }
        }
        Ok(())
    }

    fn hears(&mut self, id: u32, record: Option<&store::Agent>, word: Word) {
        let owner = record.and_then(|record| record.delivery.as_ref());
        let owner = owner.map(|last| last.family.clone());
        let agent = self.agents.entry(id).or_default();
        match word {
            Word::Labelled(value) => {
                agent.label = Some(value);
                self.seen.push("relabelled");
            }
            Word::Said { of: None, .. } => {
                (agent.said, agent.granted) = (None, None);
                agent.put_back();
                self.seen.push("words taken back");
            }
            Word::Said {
                of: Some(of),
                epoch,
            } => {
                if owner.as_ref() == Some(&of) {
                    agent.put_aside(&of);
                    self.seen.push("kept");
                }
                agent.said = Some((of.clone(), epoch));
                agent.granted = Some(of);
            }
        }
    }

    fn granted(
        &mut self,
        now_ms: u64,
        id: u32,
        before: Option<&store::Agent>,
        after: &store::Agent,
    ) -> Verdict {
        let Some(last) = &after.delivery else {
            return Ok(());
        };
        let hash = |delivery: &store::Delivery| Digest::from_slice(&delivery.hash);
        let before = before.and_then(|record| record.delivery.as_ref());
        let agent = self.agents.entry(id).or_default();
        let given = hash(last).expect("32 bytes");
        agent.grants.push((now_ms, given));
        let none = Arc::default();
        let documents = self.documents.get(&last.epoch).unwrap_or(&none);
        let way = match (last.rollout.as_str(), documents.rollout(&last.rollout)) {
            ("", _) => Way::Outside,
            (id, Some((_, doc))) if doc.family == last.family && given == target(doc) => {
                Way::Wave(id, doc)
            }
            (_, Some((_, doc))) => Way::Back(doc),
            (id, None) => {
                return hold(false, Invariant::Owner, || {
                    format!("offered in {id}, which the documents do not have")
                });
            }
        };
        let grant = Grant {
            agent: id,
            label: agent.label.unwrap_or(family_of(id)),
            documents,
            from: before.map(|before| before.family.as_str()),
            to: &last.family,
            hash: given,
            way,
            last: before.and_then(|before| Some((hash(before)?, before.rollout.as_str()))),
        };
        let judged = agent.judge(&grant, &mut self.seen);
        judged.or_else(|why| {
            let (from, to, said) = (grant.from, grant.to, &agent.said);
            hold(false, Invariant::Owner, || {
                format!(
                    "agent {id}, labelled {}, was {from:?}'s and is granted {given} of {to} in {:?} by program {}, and {why}; said was {said:?}",
                    grant.label, last.rollout, last.epoch
                )
            })
        })
    }

    fn written(&self, now_ms: u64, id: u32, hash: Digest) -> Verdict {
        let grants = self.agents.get(&id).map_or(&[][..], |agent| &agent.grants);
        let until = grants
            .iter()
            .skip(1)
            .map(|(at_ms, _)| at_ms + WRITTEN_WITHIN_MS);
        let until = until.chain([u64::MAX]);
        let mut live = grants
            .iter()
            .zip(until)
            .filter(|(_, until)| now_ms <= *until);
        hold(
            live.any(|((_, granted), _)| *granted == hash),
            Invariant::Owner,
            || {
                format!(
                    "agent {id} is sent {hash}, and was granted {:?}",
                    grants.last()
                )
            },
        )
    }

    /// Who was taken over in a rollout that has gone back, and is not where it was before.
    pub fn owed(&self) -> Option<String> {
        let (_, documents) = self.documents.last_key_value()?;
        self.agents.iter().find_map(|(id, agent)| {
            let partition = crate::gateway::partition_of(*id);
            let (_, record) = self.judged.get(&partition)?.1.agent(*id)?;
            let last = record.delivery.as_ref()?;
            let (owner, _) = agent.had.get(&last.family)?;
            let newest = documents.family(&last.family).1.rollout;
            let (_, doc) = documents.rollout(newest.as_ref()?)?;
            let gives = delivery(owner, documents.family(owner).1.stable?);
            let refuses = record
                .refused
                .iter()
                .any(|refused| refused.hash == gives.as_bytes());
            let owes =
                doc.moves.state == State::RolledBack && newest.as_ref() == Some(&last.rollout);
            let is_owed = owes && covers(doc, *id) && !refuses;
            is_owed.then(|| {
                format!(
                    "agent {id} was taken from {owner} and is still {}'s",
                    last.family
                )
            })
        })
    }
}

// === impl Agent ===

impl Agent {
    /// A person has said that it stays with its owner: whoever had it before, it is here to stay.
    fn put_aside(&mut self, family: &str) {
        let (had, left) = (self.had.remove(family), self.left.remove(family));
        if had.is_some() || left.is_some() {
            let family = family.to_owned();
            self.aside = Some(Aside { family, had, left });
        }
    }

    fn put_back(&mut self) {
        let Some(Aside { family, had, left }) = self.aside.take() else {
            return;
        };
        if let Some(had) = had {
            self.had.insert(family.clone(), had);
        }
        if let Some(left) = left {
            self.left.insert(family, left);
        }
    }

    /// What a family has completed since, it has for good.
    fn forget_completed(&mut self, documents: &Ledger) {
        let is_kept = |family: &String, opened: u64| {
            let mut docs = documents.rollouts().map(|(_, _, doc)| doc);
            !docs.any(|doc| {
                doc.family == *family && doc.moves.state == State::Completed && doc.opened >= opened
            })
        };
        self.had
            .retain(|family, (_, opened)| is_kept(family, *opened));
        if let Some(aside) = &mut self.aside {
            let family = aside.family.clone();
            aside.had = aside
                .had
                .take()
                .filter(|(_, opened)| is_kept(&family, *opened));
        }
    }

    fn judge(&mut self, grant: &Grant<'_>, seen: &mut Vec<&'static str>) -> Result<(), String> {
        self.forget_completed(grant.documents);
        match grant.from {
            None => self.comes(grant),
            Some(from) if from == grant.to => self.stays(grant, seen),
            Some(from) => self.moves(from, grant, seen),
        }
    }

    /// It had no owner.
    fn comes(&self, grant: &Grant<'_>) -> Result<(), String> {
        match grant.way {
            Way::Outside => said(grant.is_claimed(), "who claims it is another"),
            Way::Wave(_, doc) => {
                said(gives(doc, grant.agent), "its wave is not open")?;
                said(matches(grant.to, grant.label), "does not match")
            }
            Way::Back(_) => Err("had nothing to go back to".to_owned()),
        }
    }

    /// Its owner sends it something: who was relabelled is pushed nothing.
    fn stays(&mut self, grant: &Grant<'_>, seen: &mut Vec<&'static str>) -> Result<(), String> {
        let owner = grant.to;
        match grant.way {
            Way::Outside => {
                let stays = grant.is_claimed() || self.granted.as_deref() == Some(owner);
                if stays {
                    self.had.remove(owner);
                    self.aside = None;
                }
                said(stays || grant.waits(), "was relabelled")
            }
            Way::Wave(id, _) => {
                let touched = grant.last.is_some_and(|(_, rollout)| rollout == id);
                let again = grant.last.is_some_and(|(hash, _)| hash == grant.hash);
                let stays = touched || again || matches(owner, grant.label);
                said(stays, "was relabelled")
            }
            Way::Back(doc) => {
                said(goes_back(doc, grant.agent), "nothing goes back")?;
                let listed = doc.members.get(&grant.agent);
                if listed.is_some_and(|listed| listed.taken_from.is_some()) {
                    seen.push("left where a person had put it");
                }
                let had = self.had.get(owner);
                said(
                    had.is_none(),
                    &format!("it was {had:?}'s, and is not given back"),
                )
            }
        }
    }

    fn moves(
        &mut self,
        from: &str,
        grant: &Grant<'_>,
        seen: &mut Vec<&'static str>,
    ) -> Result<(), String> {
        let to = grant.to;
        self.aside = None;
        match grant.way {
            Way::Wave(_, doc) => {
                let listed = doc.members.get(&grant.agent);
                let taken_from = listed.and_then(|listed| listed.taken_from.as_deref());
                said(taken_from == Some(from), "no list takes it over")?;
                said(gives(doc, grant.agent), "its wave is not open")?;
                said(precedence(to) >= precedence(from), "goes down")?;
                let word = self.said_since(doc);
                said(
                    word.is_none_or(|word| word == to),
                    "a person has said otherwise since",
                )?;
                if word.is_none() {
                    let had = (from.to_owned(), doc.opened);
                    self.had.entry(to.to_owned()).or_insert(had);
                }
                self.granted = None;
                seen.push("taken over");
                Ok(())
            }
            Way::Back(doc) => {
                said(goes_back(doc, grant.agent), "nothing goes back")?;
                said(
                    self.said_since(doc) != Some(from),
                    "a person has said since that it stays",
                )?;
                let had = self.had.remove(from).map(|(had, _)| had);
                let had = had.or_else(|| self.left.remove(from));
                said(
                    had.as_deref() == Some(to),
                    &format!("it had been {had:?}'s"),
                )?;
                let stable = grant.documents.family(to).1.stable;
                let gives = stable.map(|stable| delivery(to, stable));
                said(gives == Some(grant.hash), "that is not what its family has")?;
                seen.push("given back");
                Ok(())
            }
            Way::Outside => {
                let granted = self.granted.as_deref() == Some(to);
                let auto = |name| grant.documents.family(name).1.owner_change == OwnerChange::Auto;
                said(granted || auto(from) && auto(to), "nobody has said so")?;
                said(grant.is_claimed(), "who claims it is another")?;
                self.had.remove(from);
                self.left.insert(to.to_owned(), from.to_owned());
                if granted {
                    self.granted = None;
                }
                seen.push(if granted { "let go" } else { "gone by policy" });
                Ok(())
            }
        }
    }

    /// Of whom a person has said that it is, since this rollout was opened.
    fn said_since(&self, doc: &RolloutDoc) -> Option<&str> {
        let (of, epoch) = self.said.as_ref()?;
        (*epoch >= doc.opened).then_some(of)
    }
}

// === impl Grant ===

impl Grant<'_> {
    /// Is it the highest family that wants it, of those that let new agents in?
    fn is_claimed(&self) -> bool {
        let lets_in = |name: &str| {
            let (_, family) = self.documents.family(name);
            let open = family.rollout.as_ref();
            let open = open.and_then(|id| self.documents.rollout(id));
            let passed = open.is_some_and(|(_, doc)| {
                doc.moves.state == State::Running && doc.moves.has_passed()
            });
            family.stable.is_some() || passed
        };
        let claim = FAMILIES.iter().filter(|(name, ..)| lets_in(name));
        let claim = claim.filter(|(name, ..)| matches(name, self.label));
        let highest = claim.max_by_key(|(_, precedence, _)| *precedence);
        highest.is_some_and(|(name, ..)| *name == self.to)
    }

    /// Is it on the list of a rollout of its owner's that has not come to it, and has what everybody has until then?
    fn waits(&self) -> bool {
        let newest = self.documents.family(self.to).1.rollout;
        let doc = newest.as_ref().and_then(|id| self.documents.rollout(id));
        doc.is_some_and(|(_, doc)| {
            let before = doc.from.map(|from| delivery(self.to, from));
            doc.members.contains_key(&self.agent) && before == Some(self.hash)
        })
    }
}

fn said(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

/// Does the family want whoever is labelled so?
fn matches(family: &str, label: &str) -> bool {
    label == family || label == "both"
}

fn precedence(family: &str) -> i64 {
    let found = FAMILIES.iter().find(|(name, ..)| *name == family);
    found.map_or(0, |(_, precedence, _)| *precedence)
}

fn target(doc: &RolloutDoc) -> Digest {
    delivery(&doc.family, doc.to)
}

/// Is the agent's wave open, and the rollout under way?
fn gives(doc: &RolloutDoc, agent: u32) -> bool {
    let open = doc.moves.roles.first().map_or(0, |role| role.open_waves);
    let listed = doc.members.get(&agent);
    doc.moves.state == State::Running && listed.is_some_and(|listed| listed.wave < open)
}

/// Does the rollout go back, and the agent with it?
fn goes_back(doc: &RolloutDoc, agent: u32) -> bool {
    matches!(doc.moves.state, State::RollingBack | State::RolledBack) && covers(doc, agent)
}

fn covers(doc: &RolloutDoc, agent: u32) -> bool {
    let Some(listed) = doc.members.get(&agent) else {
        return false;
    };
    match doc.moves.roll_back.as_ref().map(|back| &back.scope) {
        None => false,
        Some(Scope::All) => true,
        Some(Scope::Wave { wave, .. }) => *wave == listed.wave,
    }
}
