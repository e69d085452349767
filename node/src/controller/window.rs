//! A rollout's compliance window as it is stored and shown: how long its members took, by [`fleet::compliance`].

use fleet::compliance;
use proto::uid::Uid;
use proto::{api, store};

use crate::local::Node;

/// How long the members of this rollout took until now. Reads every member.
pub fn of(node: &Node, stored: &store::Rollout) -> store::Window {
    let mut converged = Vec::new();
    let mut open = 0;
    for partition in node.partitions.iter() {
        let (done, rest) = partition.converged(stored);
        converged.extend(done);
        open += rest;
    }
    window(stored.started_ms, &converged, open)
}

/// For people: as it was stored when the rollout ended, else as it is now.
pub fn view(node: &Node, stored: &store::Rollout) -> api::Window {
    let window = stored.window.clone();
    let store::Window {
        p50_ms,
        p99_ms,
        last_ms,
        converged,
        open,
        last,
    } = window.unwrap_or_else(|| of(node, stored));
    api::Window {
        p50_ms,
        p99_ms,
        last_ms,
        converged,
        open,
        last: Uid::from_wire(&last).map_or_else(|_| String::new(), |uid| uid.to_string()),
    }
}

fn window(activated_ms: u64, converged: &[(u64, Uid)], open: u64) -> store::Window {
    let compliance::Window {
        p50_ms,
        p99_ms,
        last_ms,
        converged: members,
        open,
    } = compliance::window(activated_ms, converged.iter().map(|(at, _)| *at), open);
    let last = converged.iter().max();
    store::Window {
        p50_ms: p50_ms.unwrap_or(0),
        p99_ms: p99_ms.unwrap_or(0),
        last_ms: last_ms.unwrap_or(0),
        converged: members,
        open,
        last: last.map_or_else(Vec::new, |(_, uid)| uid.as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(last: u8) -> Uid {
        let mut bytes = [7; 16];
        bytes[15] = last;
        Uid::from_wire(&bytes).unwrap()
    }

    #[test]
    fn the_last_agent_is_the_one_that_converged_last() {
        let converged = [(3_000, uid(1)), (9_000, uid(2)), (0, uid(3))];
        let window = window(1_000, &converged, 4);
        assert_eq!(window.last, uid(2).as_bytes());
        assert_eq!(
            (window.p50_ms, window.p99_ms, window.last_ms),
            (2_000, 8_000, 8_000)
        );
        assert_eq!((window.converged, window.open), (3, 4));
    }

    #[test]
    fn while_nobody_has_converged_there_is_no_last_agent() {
        let window = window(1_000, &[], 2);
        assert!(window.last.is_empty());
        assert_eq!((window.converged, window.open, window.last_ms), (0, 2, 0));
    }
}
