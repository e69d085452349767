//! The component matrix over the fleet: which agents could not run a revision, since their build lacks something.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet::components::{self, Used};
use fleet::family::delivery_hash;
use proto::store;
use proto::uid::Uid;

use crate::control::{config_map, needs};
use crate::inventory::Build;
use crate::local::Node;
use crate::partition::Candidate;

/// Everyone the revision touches, by partition, and how many of them do not report their components.
///
/// The component matrix is part of it: agents whose build lacks what the config needs are left out by name.
pub fn candidates(
    node: &Node,
    family: &str,
    precedence: i64,
    revision: &store::Revision,
) -> Result<(Vec<Vec<Candidate>>, u64), raft::Fatal> {
    let used = |stored: &store::Role| {
        let config = config_map(&stored.config);
        needs(delivery_hash(&config), &config)
    };
    let used: Vec<Arc<Used>> = revision.roles.iter().map(used).collect();
    let mut unknown = 0;
    let mut all = Vec::new();
    for partition in node.partitions.iter() {
        partition.read_components()?;
        let mut candidates = partition.candidates(family, precedence, revision);
        // By build and role: agents share few of both.
        let mut known: BTreeMap<(*const Build, u32), Option<String>> = BTreeMap::new();
        for candidate in &mut candidates {
            let Some(role) = candidate.role else {
                continue;
            };
            let Some(used) = used.get(role as usize) else {
                continue;
            };
            let build = candidate.build.as_ref();
            let Some((build, available)) = build.and_then(|b| Some((b, b.available()?))) else {
                unknown += 1;
                continue;
            };
            let lacks = known.entry((Arc::as_ptr(build), role));
            let lacks = lacks.or_insert_with(|| components::lacking(used, available));
            if let Some(names) = lacks {
                candidate.left_out = Some(format!("its build lacks {names}"));
                candidate.lacks = Some(names.clone());
                candidate.role = None;
            }
        }
        all.push(candidates);
    }
    Ok((all, unknown))
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
