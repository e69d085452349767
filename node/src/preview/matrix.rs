//! The component matrix over the fleet: which agents could not run a revision, since their build lacks something.

use std::collections::BTreeMap;

use fleet::components::{Available, Used, missing};
use proto::store;
use proto::uid::Uid;

use crate::control::config_map;
use crate::ledger::table;
use crate::local::Node;
use crate::partition::{Candidate, Partition, body, merged_config};

/// Everyone the revision touches, by partition, and how many of them do not report their components.
///
/// The component matrix is part of it: agents whose build lacks what the config needs are left out by name.
pub fn candidates(
    node: &Node,
    family: &str,
    precedence: i64,
    revision: &store::Revision,
) -> Result<(Vec<Vec<Candidate>>, u64), raft::Fatal> {
    let config = |r: &store::Role| merged_config(&config_map(&r.config));
    let used: Vec<Option<Used>> = revision
        .roles
        .iter()
        .map(|r| config(r).map(|value| Used::by(&value)))
        .collect();
    let mut unknown = 0;
    let mut all = Vec::new();
    for partition in node.partitions.iter() {
        let mut candidates = partition.candidates(family, precedence, revision);
        let mut lists: BTreeMap<Box<[u8]>, Option<Available>> = BTreeMap::new();
        for candidate in candidates.iter_mut().filter(|c| c.role.is_some()) {
            if !lists.contains_key(&candidate.components) {
                lists.insert(
                    candidate.components.clone(),
                    available(partition, &candidate.components)?,
                );
            }
            let Some(used) = candidate.role.and_then(|r| used.get(r as usize)?.as_ref()) else {
                continue;
            };
            let Some(Some(available)) = lists.get(&candidate.components) else {
                unknown += 1;
                continue;
            };
            let lacks = missing(used, available);
            if !lacks.is_empty() {
                let names = lacks.iter().map(|(kind, name)| format!("{kind} {name}"));
                let names = names.collect::<Vec<_>>().join(", ");
                candidate.left_out = Some(format!("its build lacks {names}"));
                candidate.lacks = Some(names);
                candidate.role = None;
            }
        }
        all.push(candidates);
    }
    Ok((all, unknown))
}

/// The component list with this hash; none: it was never told in full.
fn available(partition: &Partition, hash: &[u8]) -> Result<Option<Available>, raft::Fatal> {
    let Some(address) = partition.index().read().components.get(hash).copied() else {
        return Ok(None);
    };
    let kept: Option<(u64, store::Body)> = partition.ledger.view()?.get(table::BODY, &address)?;
    let bytes = kept.and_then(|(_, kept)| body::open(&kept));
    let list = bytes.and_then(|b| {
        <proto::opamp::AvailableComponents as prost::Message>::decode(b.as_slice()).ok()
    });
    Ok(list.map(|list| {
        let pairs = list.components.iter().flat_map(|(kind, details)| {
            details
                .sub_component_map
                .keys()
                .map(move |name| (kind.as_str(), name.as_str()))
        });
        Available::from_report(pairs)
    }))
}

/// Who lacks what, as a reason not to start; none: nobody lacks anything.
pub fn lacking(node: &Node, candidates: &[Vec<Candidate>]) -> Option<String> {
    let mut groups: BTreeMap<&str, Vec<Uid>> = BTreeMap::new();
    for candidate in candidates.iter().flatten() {
        if let Some(lacks) = &candidate.lacks {
            groups.entry(lacks).or_default().push(candidate.uid);
        }
    }
    let name = |uid: Uid| {
        let columns = node.partition(uid).index().read();
        let row = columns.rows.get(&uid);
        row.map_or_else(|| uid.to_string(), crate::inventory::Row::name)
    };
    let groups = groups.into_iter().map(|(lacks, uids)| match uids[..] {
        [one] => format!("1 agent lacks {lacks}: {}", name(one)),
        _ => format!("{} agents lack {lacks}, e.g. {}", uids.len(), name(uids[0])),
    });
    block_text(&groups.collect::<Vec<_>>())
}

fn block_text(groups: &[String]) -> Option<String> {
    (!groups.is_empty()).then(|| {
        format!(
            "{}; upgrade them, or let the family exclude them with missingComponents: exclude",
            groups.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_names_agents_and_components_and_the_way_out() {
        let lacks = "3 agents lack processor redaction, e.g. web-1".to_owned();
        assert_eq!(
            block_text(&[lacks]).unwrap(),
            "3 agents lack processor redaction, e.g. web-1; upgrade them, or let the family exclude them with missingComponents: exclude"
        );
        assert_eq!(block_text(&[]), None);
    }
}
