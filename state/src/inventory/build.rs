//! The components of an agent's build: one list for all agents that report the same hash.
//!
//! A record names its list by hash, and the list itself is a body beside it. So a list is read once on each node, whatever
//! the number of its agents, and is unknown until then.

use std::sync::{Arc, OnceLock};

use fleet::components::Available;
use proto::opamp::AvailableComponents;

/// A component list as agents name it.
#[derive(Debug)]
pub struct Build {
    hash: Box<[u8]>,
    told: OnceLock<Available>,
}

/// A list that some agent has told in full.
#[derive(Clone, Debug)]
pub struct Told {
    /// Address of the body that keeps it.
    pub address: [u8; 32],
    /// The list, once it is read.
    pub build: Arc<Build>,
}

// === impl Build ===

impl Build {
    pub(super) fn new(hash: &[u8]) -> Self {
        Build {
            hash: hash.into(),
            told: OnceLock::new(),
        }
    }

    /// Hash as reported.
    pub fn hash(&self) -> &[u8] {
        &self.hash
    }

    /// What it has; none: nobody has told, or nobody has read it here yet.
    pub fn available(&self) -> Option<&Available> {
        self.told.get()
    }

    /// Is it known what it has, or that nobody can know?
    pub(super) fn is_read(&self) -> bool {
        self.told.get().is_some()
    }

    /// What was read. The first time counts: the same hash is the same list.
    pub(super) fn tell(&self, available: Available) {
        let _ = self.told.set(available);
    }
}

/// A list as an agent reports it, in the domain's terms.
pub fn available(list: &AvailableComponents) -> Available {
    let pairs = list.components.iter().flat_map(|(kind, details)| {
        let names = details.sub_component_map.keys();
        names.map(move |name| (kind.as_str(), name.as_str()))
    });
    Available::from_report(pairs)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::store;

    use super::*;
    use crate::inventory::{Index, IndexMirror};
    use crate::ledger::{Mirror, table};

    fn agent(mirror: &mut IndexMirror, number: u8, body: &[u8]) {
        let agent = store::Agent {
            components: Some(store::ComponentList {
                hash: b"one".to_vec(),
                body: body.to_vec(),
            }),
            ..store::Agent::default()
        };
        mirror.put(table::AGENT, &[number; 16], 1, &agent.encode_to_vec());
        mirror.publish(0);
    }

    #[test]
    fn a_list_is_read_once_for_all_who_name_it_and_everybody_is_looked_at_again() {
        let index = Index::default();
        let mut mirror = index.mirror();
        agent(&mut mirror, 1, &[]);
        assert!(index.read().unread.is_empty(), "nobody has told it");
        agent(&mut mirror, 2, &[7; 32]);
        let unread = index.read().unread.clone();
        assert_eq!(unread[&b"one"[..]], [7; 32]);
        let before = index.read().lists_changed;
        index.tell(b"one", Available::from_report([("processors", "batch")]));
        assert!(index.read().lists_changed > before);
        agent(&mut mirror, 3, &[7; 32]);
        let columns = index.read();
        assert!(columns.unread.is_empty());
        let mut builds = columns.rows.values().filter_map(|row| row.build.as_ref());
        let first = builds.next().unwrap();
        assert!(
            first
                .available()
                .is_some_and(|list| list.processors.is_some())
        );
        assert_eq!(builds.filter(|build| Arc::ptr_eq(build, first)).count(), 2);
    }
}
