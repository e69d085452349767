//! Which agents are meant, and lists, groups and errors over them. Only what is shown is built.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::program::Desired;
use fleet::selector::{Facts, Selector};
use proto::api;
use proto::store::Link;
use proto::uid::Uid;
use tonic::Status;

use super::show::{link_word, view};
use crate::api::{Api, selector};
use crate::drift::{KINDS, Norms};
use crate::folding::fold;
use crate::inventory::Row;
use crate::partition::{desired_of, doubt_text, excluded_text, is_unchanged, place_of, state_of};

/// Words of liveness, of health, and those of [`state_of`].
const STATES: [&str; 20] = [
    "connected",
    "lost",
    "left",
    "healthy",
    "unhealthy",
    "unassigned",
    "pending pickup",
    "not reached",
    "applying",
    "soaking",
    "converged",
    "unchanged",
    "failed",
    "rolled back",
    "refused",
    "no answer",
    "drifted",
    "pinned",
    "stopped",
    "conflict",
];

/// Behind a kind of drift: `content drift`.
const DRIFT: &str = " drift";

const PAGE: usize = 100;
const PAGE_MAX: usize = 1000;
const EXAMPLES: usize = 5;

/// What a listing asks for.
pub(super) struct Filter {
    selector: Option<Selector>,
    text: String,
    state: String,
    /// Only agents with this kind of drift.
    drift: Option<&'static str>,
}

impl Filter {
    pub(super) fn new(selector_text: &str, text: &str, state: &str) -> Result<Self, Status> {
        let kind = state.strip_suffix(DRIFT);
        let drift = kind.and_then(|kind| KINDS.into_iter().find(|known| *known == kind));
        if !state.is_empty() && drift.is_none() && !STATES.contains(&state) {
            let drifts = KINDS.map(|kind| format!("{kind}{DRIFT}"));
            return Err(Status::invalid_argument(format!(
                "there is no state `{state}`: use one of {}, {}",
                STATES.join(", "),
                drifts.join(", ")
            )));
        }
        Ok(Filter {
            selector: selector(selector_text)?,
            text: text.to_lowercase(),
            state: if drift.is_some() { "" } else { state }.to_owned(),
            drift,
        })
    }

    fn takes(&self, row: &Row) -> bool {
        !row.alias
            && self.selector.as_ref().is_none_or(|s| s.matches(row))
            && self.text_matches(row)
    }

    fn text_matches(&self, row: &Row) -> bool {
        let contains = |text: &str| text.to_lowercase().contains(&self.text);
        self.text.is_empty()
            || contains(&row.uid.to_string())
            || row.facts().any(|(k, v)| contains(v) || contains(k))
            || contains(&row.config_error)
            || contains(&row.health_error)
    }

    fn state_matches(&self, row: &Row, state: &str) -> bool {
        match self.state.as_str() {
            "" => true,
            "connected" => row.link == Link::Connected,
            "lost" => row.link == Link::Lost,
            "left" => row.link == Link::Left,
            "healthy" => row.healthy,
            "unhealthy" => !row.healthy,
            "conflict" => row.word.conflict.is_some(),
            other => state == other,
        }
    }
}

/// By what a list is sorted: a number, then a text.
type Key = (u64, Arc<str>);

/// A row, what follows for it, and the word for it.
struct Seen<'a> {
    row: &'a Row,
    desired: &'a Desired,
    state: &'static str,
}

impl Seen<'_> {
    fn key(&self, by: &str) -> Key {
        let Seen { row, state, .. } = self;
        let fact = |key: &str| row.shared(key).unwrap_or_default();
        match by {
            "" | "name" => (0, row.name().into()),
            "version" => (0, fact("service.version")),
            "state" => (0, (*state).into()),
            "link" => (0, link_word(row.link).into()),
            "family" => {
                let family = |d: &crate::inventory::Delivery| {
                    format!("{}\0{}\0{:020}", d.family, d.role, d.revision)
                };
                let text = row.delivery.as_ref().map(family);
                (0, text.unwrap_or_default().into())
            }
            "health" => (u64::from(row.healthy), Arc::default()),
            key => (0, fact(key)),
        }
    }
}

impl Api {
    /// Looks at every matching agent of every partition.
    fn each(&self, filter: &Filter, mut look: impl FnMut(&Seen<'_>)) {
        let drift = filter
            .drift
            .map(|kind| (kind, crate::drift::norms(&self.node)));
        let drifted = |row: &Row, desired: &Desired| {
            drift.as_ref().is_none_or(|(kind, norms)| {
                let found = norms.drift(row, desired);
                found.iter().any(|drift| drift.kind() == *kind)
            })
        };
        for partition in self.node.partitions.iter() {
            let program = partition.program();
            let columns = partition.index().read();
            for row in columns.rows.values().filter(|row| filter.takes(row)) {
                let place = place_of(&columns, &program, row.uid, row.whose());
                let unchanged = is_unchanged(&columns, row.uid, place.as_ref());
                let desired = desired_of(row, place, &program);
                let state = state_of(row, &desired, unchanged);
                if filter.state_matches(row, state) && drifted(row, &desired) {
                    look(&Seen {
                        row,
                        desired: &desired,
                        state,
                    });
                }
            }
        }
    }

    /// One page of a list.
    pub(super) fn page(
        &self,
        request: &api::ListAgentsRequest,
    ) -> Result<api::ListAgentsResponse, Status> {
        let filter = Filter::new(&request.selector, &request.text, &request.state)?;
        let members = match request.rollout.as_str() {
            "" => None,
            rollout => Some(self.bucketed(rollout, &request.bucket.replace('_', " "))?),
        };
        let (by, descending) = match request.sort.strip_prefix('-') {
            Some(by) => (by, true),
            None => (request.sort.as_str(), false),
        };
        let mut found: Vec<(Key, Uid)> = Vec::new();
        self.each(&filter, |seen| {
            let uid = seen.row.uid;
            if members
                .as_ref()
                .is_none_or(|members| members.contains(&uid))
            {
                found.push((seen.key(by), uid));
            }
        });
        if by == "seen" {
            self.age(&mut found);
        }
        found.sort_unstable_by(|(a, a_uid), (b, b_uid)| {
            let order = if descending { b.cmp(a) } else { a.cmp(b) };
            order.then_with(|| a_uid.cmp(b_uid))
        });
        let from = if request.page_token.is_empty() {
            0
        } else {
            let bad = |_| {
                Status::invalid_argument(format!(
                    "page_token `{}` is none of this server's",
                    request.page_token
                ))
            };
            request.page_token.parse::<usize>().map_err(bad)?
        };
        let size = match request.page_size as usize {
            0 => PAGE,
            size => size.min(PAGE_MAX),
        };
        let page = found.iter().skip(from).take(size);
        let norms = crate::drift::norms(&self.node);
        let agents = page
            .filter_map(|(_, uid)| self.line(*uid, &norms))
            .collect();
        let next = from.saturating_add(size);
        let next_page_token = if next < found.len() {
            next.to_string()
        } else {
            String::new()
        };
        Ok(api::ListAgentsResponse {
            agents,
            next_page_token,
            total: found.len() as u64,
            unreadable_partitions: self.node.unreadable(),
        })
    }

    /// When each was heard, as a key. Known to the cores alone, and asked for in one call each.
    fn age(&self, found: &mut [(Key, Uid)]) {
        found.sort_unstable_by_key(|(_, uid)| self.node.partition_index(*uid));
        let same = |a: &(Key, Uid), b: &(Key, Uid)| {
            self.node.partition_index(a.1) == self.node.partition_index(b.1)
        };
        for part in found.chunk_by_mut(same) {
            let uids: Vec<Uid> = part.iter().map(|(_, uid)| *uid).collect();
            let ages = self.node.partition(uids[0]).ages_ms(&uids);
            for ((key, _), age) in part.iter_mut().zip(ages) {
                key.0 = age;
            }
        }
    }

    /// One line of a list; none: forgotten meanwhile.
    fn line(&self, uid: Uid, norms: &Norms) -> Option<api::Agent> {
        let partition = self.node.partition(uid);
        let program = partition.program();
        let shown = {
            let columns = partition.index().read();
            let row = columns.rows.get(&uid)?;
            let place = place_of(&columns, &program, uid, row.whose());
            let desired = desired_of(row, place, &program);
            let drift = norms.drift(row, &desired);
            let excluded = place.and_then(|p| excluded_text(row, &program, &p, &desired));
            let mut shown = api::Agent {
                drift: drift.iter().map(|drift| drift.kind().to_owned()).collect(),
                ..view(row, &desired, is_unchanged(&columns, uid, place.as_ref()))
            };
            shown.conditions.extend(doubt_text(row, &program));
            shown.conditions.extend(excluded);
            shown
        };
        Some(self.completed(shown, uid))
    }

    /// Counts by the value of one key.
    pub(super) fn groups(
        &self,
        request: &api::GroupAgentsRequest,
    ) -> Result<api::GroupAgentsResponse, Status> {
        use api::group_agents_response::Group;
        if request.by.is_empty() {
            return Err(Status::invalid_argument(
                "no key to group by: give an attribute, a label, or state, link, family, role, revision",
            ));
        }
        let filter = Filter::new(&request.selector, &request.text, &request.state)?;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let mut total = 0;
        self.each(&filter, |Seen { row, state, .. }| {
            let delivery = row.delivery.as_ref();
            let value = match request.by.as_str() {
                "state" => (*state).to_owned(),
                "link" => link_word(row.link).to_owned(),
                "family" => delivery.map(|d| d.family.to_string()).unwrap_or_default(),
                "revision" => delivery
                    .map(|d| format!("{} r{}", d.family, d.revision))
                    .unwrap_or_default(),
                key => row.get(key).unwrap_or("").to_owned(),
            };
            let group = groups.entry(value).or_default();
            group.agents += 1;
            group.connected += u64::from(row.link == Link::Connected);
            group.healthy += u64::from(row.healthy);
            total += 1;
        });
        let named = |(value, group)| Group { value, ..group };
        let mut groups: Vec<_> = groups.into_iter().map(named).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.agents));
        Ok(api::GroupAgentsResponse { groups, total })
    }

    /// Identical errors as one, most agents first.
    pub(super) fn errors(&self, selector: &str) -> Result<api::ListErrorsResponse, Status> {
        use api::list_errors_response::Group;
        let filter = Filter::new(selector, "", "")?;
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        self.each(&filter, |Seen { row, desired, .. }| {
            let error = view(row, desired, false).error;
            if error.is_empty() {
                return;
            }
            let folded = fold(&error);
            let first = || Group {
                error: folded.clone(),
                example_text: error,
                ..Group::default()
            };
            let group = groups.entry(folded.clone()).or_insert_with(first);
            group.agents += 1;
            if group.examples.len() < EXAMPLES {
                group.examples.push(row.uid.to_string());
            }
        });
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.agents));
        Ok(api::ListErrorsResponse { groups })
    }

    /// The agents a person means: these uids, or those that match.
    pub(super) fn chosen(&self, uids: &[String], selector_text: &str) -> Result<Vec<Uid>, Status> {
        if uids.is_empty() && selector_text.trim().is_empty() {
            return Err(Status::invalid_argument(
                "no agents are named: give uids, or a selector (`*` for all)",
            ));
        }
        if !uids.is_empty() {
            return uids.iter().map(|uid| self.find(uid)).collect();
        }
        let filter = Filter::new(selector_text, "", "")?;
        let rows = self.node.partitions.iter().flat_map(|partition| {
            let columns = partition.index().read();
            columns
                .rows
                .values()
                .filter(|row| filter.takes(row))
                .map(|row| row.uid)
                .collect::<Vec<_>>()
        });
        Ok(rows.collect())
    }
}
