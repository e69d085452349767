//! Which node should have which replica, and the steps that lead there. Pure: what is, in; what to do next, out.
//!
//! The control group has a replica on every node: that is how programs and tokens reach them all. Its voters are three
//! nodes, or five where there are as many. An inventory group has three voters, and a replica without a vote on each node
//! that votes in the control group: whoever answers operators counts and lists from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Voters of an inventory group, where there are as many nodes.
const VOTERS: usize = 3;

/// Voters of the control group, where there are as many nodes.
const CONTROL_VOTERS: usize = 5;

/// A node as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// It answers.
    pub answers: bool,
    /// It is to leave: nothing stays on it.
    pub leaves: bool,
}

/// A group as its leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Node id; none: nothing of it can be changed.
    pub leader: Option<u64>,
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// Who has a replica without a vote.
    pub learners: BTreeSet<u64>,
    /// Learners that are not far behind: they can be given a vote.
    pub caught_up: BTreeSet<u64>,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// By id.
    pub nodes: BTreeMap<u64, NodeState>,
    /// By number; 0 is the control group.
    pub groups: BTreeMap<u32, GroupState>,
}

/// One step. Each leaves every group able to decide, as far as it was before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A replica without a vote.
    AddLearner {
        /// Of which group.
        group: u32,
        /// Where.
        node: u64,
    },
    /// Wait until it has what the others have.
    CatchUp {
        /// Of which group.
        group: u32,
        /// Where.
        node: u64,
    },
    /// Exactly these vote from then on.
    SetVoters {
        /// Of which group.
        group: u32,
        /// Who.
        voters: BTreeSet<u64>,
    },
    /// A replica that nobody needs there.
    RemoveLearner {
        /// Of which group.
        group: u32,
        /// Where.
        node: u64,
    },
    /// Somebody else leads.
    MoveLeader {
        /// Of which group.
        group: u32,
        /// From where.
        from: u64,
        /// To where.
        to: u64,
    },
}

/// Every step from what is to what should be, in order. Empty: everything is where it should be.
///
/// A group without a leader is left as it is: whoever counts on its quorum has to come back first.
pub fn plan(cluster: &Cluster) -> Vec<Step> {
    let mut now = cluster.clone();
    let mut steps = Vec::new();
    let wanted = wanted(cluster);
    for (group, voters) in &wanted.voters {
        place(
            &mut now,
            *group,
            voters,
            &wanted.learners(*group),
            &mut steps,
        );
    }
    spread(&mut now, &mut steps);
    steps
}

/// Only the steps that give a new node the documents it needs, and spread the leaders: those need nobody's say.
pub fn by_itself(cluster: &Cluster) -> Option<Step> {
    let missing = cluster
        .groups
        .get(&0)
        .filter(|control| control.leader.is_some());
    let missing = missing.and_then(|control| {
        let has = |node: &u64| control.voters.contains(node) || control.learners.contains(node);
        let here = cluster
            .nodes
            .iter()
            .filter(|(_, state)| state.answers && !state.leaves);
        here.map(|(node, _)| *node).find(|node| !has(node))
    });
    if let Some(node) = missing {
        return Some(Step::AddLearner { group: 0, node });
    }
    let (mut now, mut steps) = (cluster.clone(), Vec::new());
    spread(&mut now, &mut steps);
    steps.into_iter().next()
}

struct Wanted {
    voters: BTreeMap<u32, BTreeSet<u64>>,
    nodes: BTreeSet<u64>,
}

impl Wanted {
    fn learners(&self, group: u32) -> BTreeSet<u64> {
        let voters = self.voters.get(&group);
        let with = match group {
            0 => Some(&self.nodes),
            _ => self.voters.get(&0),
        };
        let with = with.into_iter().flatten();
        with.filter(|node| voters.is_none_or(|voters| !voters.contains(node)))
            .copied()
            .collect()
    }
}

fn wanted(cluster: &Cluster) -> Wanted {
    let staying = cluster.nodes.iter().filter(|(_, state)| !state.leaves);
    let nodes: BTreeSet<u64> = staying.clone().map(|(node, _)| *node).collect();
    // A node that does not answer gets nothing new, and keeps what it has: it may be back in a minute.
    let fit: BTreeSet<u64> = staying
        .filter(|(_, state)| state.answers)
        .map(|(node, _)| *node)
        .collect();
    let control = match nodes.len() {
        n if n >= CONTROL_VOTERS => CONTROL_VOTERS,
        n if n >= VOTERS => VOTERS,
        _ => 1,
    };
    let mut voters: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (group, state) in cluster
        .groups
        .iter()
        .filter(|(_, state)| state.leader.is_some())
    {
        // Who votes now stays, if it may.
        let mut staying: Vec<u64> = state.voters.intersection(&nodes).copied().collect();
        let size = if *group == 0 {
            control
        } else {
            VOTERS.min(nodes.len())
        };
        staying.sort_by_key(|node| (!fit.contains(node), *node));
        staying.truncate(size);
        voters.insert(*group, staying.into_iter().collect());
    }
    for group in voters.keys().copied().collect::<Vec<_>>() {
        let size = if group == 0 {
            control
        } else {
            VOTERS.min(nodes.len())
        };
        while voters[&group].len() < size {
            let load = load(&voters, &nodes);
            let open = fit.iter().filter(|node| !voters[&group].contains(node));
            let Some(best) = open.min_by_key(|node| (load[node], **node)).copied() else {
                break;
            };
            voters.entry(group).or_default().insert(best);
        }
    }
    // While a node is silent nothing moves for balance: it may be back in a minute.
    while fit.len() == nodes.len() {
        let load = load(&voters, &nodes);
        let most = nodes
            .iter()
            .max_by_key(|node| (load[node], std::cmp::Reverse(**node)));
        let least = nodes.iter().min_by_key(|node| (load[node], **node));
        let (Some(most), Some(least)) = (most, least) else {
            break;
        };
        if load[most] < load[least] + 2 {
            break;
        }
        // Rather a group that another node leads.
        let moves = voters.iter().filter(|(group, voters)| {
            **group > 0 && voters.contains(most) && !voters.contains(least)
        });
        let led = |group: &u32| cluster.groups.get(group).and_then(|g| g.leader) == Some(*most);
        let Some(group) = moves
            .map(|(group, _)| *group)
            .min_by_key(|group| (led(group), *group))
        else {
            break;
        };
        if let Some(voters) = voters.get_mut(&group) {
            voters.remove(most);
            voters.insert(*least);
        }
    }
    Wanted { voters, nodes }
}

/// Inventory groups that each node votes in.
fn load(voters: &BTreeMap<u32, BTreeSet<u64>>, nodes: &BTreeSet<u64>) -> BTreeMap<u64, usize> {
    let inventory = || voters.iter().filter(|(group, _)| **group > 0);
    let votes = |node: &u64| {
        inventory()
            .filter(|(_, voters)| voters.contains(node))
            .count()
    };
    nodes.iter().map(|node| (*node, votes(node))).collect()
}

/// Brings one group there: learners first, then votes, then who is not needed any more goes.
fn place(
    now: &mut Cluster,
    group: u32,
    voters: &BTreeSet<u64>,
    learners: &BTreeSet<u64>,
    steps: &mut Vec<Step>,
) {
    let Some(state) = now.groups.get_mut(&group) else {
        return;
    };
    let answers = |node: &u64| now.nodes.get(node).is_some_and(|state| state.answers);
    for node in voters.union(learners).filter(|node| answers(node)) {
        if !state.voters.contains(node) && state.learners.insert(*node) {
            steps.push(Step::AddLearner { group, node: *node });
        }
    }
    if state.voters != *voters && !voters.is_empty() {
        for node in voters.difference(&state.voters) {
            if !state.caught_up.contains(node) {
                steps.push(Step::CatchUp { group, node: *node });
            }
        }
        if let Some(from) = state.leader.filter(|leader| !voters.contains(leader))
            && let Some(to) = state.voters.intersection(voters).find(|node| answers(node))
        {
            steps.push(Step::MoveLeader {
                group,
                from,
                to: *to,
            });
            state.leader = Some(*to);
        }
        let before = std::mem::replace(&mut state.voters, voters.clone());
        steps.push(Step::SetVoters {
            group,
            voters: voters.clone(),
        });
        state.learners.extend(before);
        state.learners.retain(|node| !voters.contains(node));
    }
    let needless: Vec<u64> = state.learners.difference(learners).copied().collect();
    for node in needless {
        state.learners.remove(&node);
        steps.push(Step::RemoveLearner { group, node });
    }
}

/// Leaders, so that no node leads two groups more than another one that could.
fn spread(now: &mut Cluster, steps: &mut Vec<Step>) {
    let mut leads: BTreeMap<u64, usize> = now.nodes.keys().map(|node| (*node, 0)).collect();
    for state in now.groups.values() {
        if let Some(leader) = state.leader {
            *leads.entry(leader).or_default() += 1;
        }
    }
    let may = |node: &u64| {
        now.nodes
            .get(node)
            .is_some_and(|state| state.answers && !state.leaves)
    };
    // Each move makes the differences smaller, so it ends.
    loop {
        let of = |node: &u64| leads.get(node).copied().unwrap_or(0);
        let moves = now.groups.iter().filter_map(|(group, state)| {
            let from = state.leader?;
            let to = state
                .voters
                .iter()
                .filter(|node| **node != from && may(node))
                .min_by_key(|node| of(node))?;
            let forced = !may(&from);
            (forced || of(&from) >= of(to) + 2).then_some((of(&from), *group, from, *to))
        });
        let Some((_, group, from, to)) =
            moves.max_by_key(|(most, group, ..)| (*most, std::cmp::Reverse(*group)))
        else {
            return;
        };
        steps.push(Step::MoveLeader { group, from, to });
        if let Some(state) = now.groups.get_mut(&group) {
            state.leader = Some(to);
        }
        *leads.entry(from).or_default() -= 1;
        *leads.entry(to).or_default() += 1;
    }
}

impl Step {
    /// Which group it changes.
    pub fn group(&self) -> u32 {
        match self {
            Step::AddLearner { group, .. }
            | Step::CatchUp { group, .. }
            | Step::SetVoters { group, .. }
            | Step::RemoveLearner { group, .. }
            | Step::MoveLeader { group, .. } => *group,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.group() {
            0 => "control".to_owned(),
            n => format!("inventory-{}", n - 1),
        };
        match self {
            Step::AddLearner { node, .. } => write!(f, "{name}: copy it to node {node}"),
            Step::CatchUp { node, .. } => write!(f, "{name}: wait until node {node} has caught up"),
            Step::SetVoters { voters, .. } => {
                let voters: Vec<String> = voters.iter().map(u64::to_string).collect();
                write!(f, "{name}: votes to nodes {}", voters.join(", "))
            }
            Step::RemoveLearner { node, .. } => {
                write!(f, "{name}: no copy on node {node} any more")
            }
            Step::MoveLeader { from, to, .. } => {
                write!(f, "{name}: led by node {to} instead of {from}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NodeState = NodeState {
        answers: true,
        leaves: false,
    };

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    /// Three nodes and nine groups, all led by node 1.
    fn founded() -> Cluster {
        let group = GroupState {
            leader: Some(1),
            voters: set(&[1, 2, 3]),
            ..GroupState::default()
        };
        Cluster {
            nodes: (1..=3).map(|node| (node, HERE)).collect(),
            groups: (0..=8).map(|n| (n, group.clone())).collect(),
        }
    }

    /// Does one step, as the groups would.
    fn perform(cluster: &mut Cluster, step: &Step) {
        let state = cluster.groups.get_mut(&step.group()).unwrap();
        match step {
            Step::AddLearner { node, .. } => assert!(state.learners.insert(*node)),
            Step::CatchUp { node, .. } => {
                assert!(state.learners.contains(node), "{step}");
                state.caught_up.insert(*node);
            }
            Step::SetVoters { voters, .. } => {
                assert!(
                    voters.contains(&state.leader.unwrap()),
                    "{step}: its leader would have no vote"
                );
                let before = std::mem::replace(&mut state.voters, voters.clone());
                let known = before.union(&state.learners).copied().collect();
                assert!(voters.is_subset(&known), "{step}: a stranger");
                state.learners = before
                    .union(&state.learners)
                    .copied()
                    .filter(|n| !voters.contains(n))
                    .collect();
            }
            Step::RemoveLearner { node, .. } => assert!(state.learners.remove(node), "{step}"),
            Step::MoveLeader { from, to, .. } => {
                assert_eq!(state.leader, Some(*from), "{step}");
                assert!(state.voters.contains(to), "{step}");
                state.leader = Some(*to);
            }
        }
    }

    fn carried_out(mut cluster: Cluster) -> Cluster {
        for step in plan(&cluster.clone()) {
            perform(&mut cluster, &step);
        }
        assert_eq!(
            plan(&cluster),
            [],
            "a plan that was carried out leaves nothing to do"
        );
        cluster
    }

    fn leads(cluster: &Cluster, node: u64) -> usize {
        cluster
            .groups
            .values()
            .filter(|g| g.leader == Some(node))
            .count()
    }

    fn votes(cluster: &Cluster, node: u64) -> usize {
        cluster
            .groups
            .iter()
            .filter(|(n, g)| **n > 0 && g.voters.contains(&node))
            .count()
    }

    #[test]
    fn leaders_of_a_new_cluster_are_spread_and_nothing_else_is_moved() {
        let cluster = founded();
        assert!(
            plan(&cluster)
                .iter()
                .all(|step| matches!(step, Step::MoveLeader { .. }))
        );
        assert!(matches!(by_itself(&cluster), Some(Step::MoveLeader { .. })));
        let cluster = carried_out(cluster);
        for node in 1..=3 {
            assert_eq!(leads(&cluster, node), 3);
        }
        assert_eq!(by_itself(&cluster), None);
    }

    #[test]
    fn a_fourth_node_gets_documents_by_itself_and_its_part_of_the_groups_by_a_plan() {
        let mut cluster = carried_out(founded());
        cluster.nodes.insert(4, HERE);
        assert_eq!(
            by_itself(&cluster),
            Some(Step::AddLearner { group: 0, node: 4 })
        );
        let cluster = carried_out(cluster);
        assert_eq!(
            cluster.groups[&0].voters,
            set(&[1, 2, 3]),
            "four voters are no better than three"
        );
        assert_eq!(cluster.groups[&0].learners, set(&[4]));
        let all: Vec<usize> = (1..=4).map(|node| votes(&cluster, node)).collect();
        assert_eq!(all, [6, 6, 6, 6]);
        for (number, group) in cluster.groups.iter().filter(|(n, _)| **n > 0) {
            assert_eq!(group.voters.len(), 3);
            let missing = set(&[1, 2, 3]).difference(&group.voters).copied().collect();
            assert_eq!(
                group.learners, missing,
                "group {number}: who answers operators has a copy"
            );
        }
        assert!((1..=4).all(|node| leads(&cluster, node) <= 3));
    }

    #[test]
    fn a_dead_node_is_replaced_once_somebody_has_said_that_it_leaves() {
        let mut cluster = carried_out(founded());
        for group in cluster.groups.values_mut().filter(|g| g.leader == Some(2)) {
            group.leader = Some(1); // as elected
        }
        cluster.nodes.insert(
            2,
            NodeState {
                answers: false,
                ..HERE
            },
        );
        cluster.nodes.insert(4, HERE);
        let waiting = plan(&cluster);
        assert!(
            waiting.iter().all(
                |step| !matches!(step, Step::SetVoters { voters, .. } if !voters.contains(&2))
            ),
            "it may be back in a minute: {waiting:?}"
        );
        cluster.nodes.insert(
            2,
            NodeState {
                answers: false,
                leaves: true,
            },
        );
        let cluster = carried_out(cluster);
        for group in cluster.groups.values() {
            assert_eq!(group.voters, set(&[1, 3, 4]));
            assert_eq!(group.learners, set(&[]));
        }
    }

    #[test]
    fn a_node_that_leaves_leads_nothing_and_keeps_nothing() {
        let mut cluster = carried_out(founded());
        cluster.nodes.insert(4, HERE);
        let mut cluster = carried_out(cluster);
        cluster.nodes.insert(
            1,
            NodeState {
                leaves: true,
                ..HERE
            },
        );
        let cluster = carried_out(cluster);
        assert_eq!((leads(&cluster, 1), votes(&cluster, 1)), (0, 0));
        assert!(
            cluster
                .groups
                .values()
                .all(|g| !g.learners.contains(&1) && g.voters.len() == 3)
        );
    }

    #[test]
    fn a_group_without_a_leader_is_left_as_it_is() {
        let mut cluster = carried_out(founded());
        cluster.groups.get_mut(&3).unwrap().leader = None;
        cluster.nodes.insert(4, HERE);
        assert!(plan(&cluster).iter().all(|step| step.group() != 3));
    }

    #[test]
    fn five_nodes_have_five_voters_in_control_and_three_in_each_partition() {
        let mut cluster = carried_out(founded());
        cluster.nodes.insert(4, HERE);
        cluster.nodes.insert(5, HERE);
        let cluster = carried_out(cluster);
        assert_eq!(cluster.groups[&0].voters.len(), 5);
        for (_, group) in cluster.groups.iter().filter(|(n, _)| **n > 0) {
            assert_eq!((group.voters.len(), group.learners.len()), (3, 2));
        }
    }
}
