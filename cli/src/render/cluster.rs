//! The cluster.

use std::time::Duration;

use proto::api;

use crate::render::Look;
use crate::render::table::table;
use crate::render::text::{clean, or_dash};

/// `cluster status`: one line that says how it is, then nodes, then groups.
pub fn status(cluster: &api::Cluster, look: &Look) -> String {
    let mut text = String::new();
    let name = match cluster.name.as_str() {
        "" => "this process".to_owned(),
        name => format!("cluster {}", clean(name)),
    };
    match cluster.waits_for.as_slice() {
        [] => text.push_str(&format!("{name} is healthy\n")),
        waits => {
            text.push_str(&format!("{name} waits for\n"));
            for wait in waits {
                text.push_str(&format!("  {}\n", clean(wait)));
            }
        }
    }
    text.push('\n');
    text.push_str(&table(
        &[
            "NODE",
            "ADDRESS",
            "STATE",
            ">LEADS",
            ">REPLICAS",
            "UP",
            "VERSION",
        ],
        cluster.nodes.iter().map(|node| {
            vec![
                node.id.to_string(),
                or_dash(&node.address),
                match (node.answers, node.leaves) {
                    (true, false) => "answers",
                    (true, true) => "leaves",
                    (false, false) => "silent",
                    (false, true) => "gone",
                }
                .to_owned(),
                node.leads.to_string(),
                node.replicas.to_string(),
                up(node),
                or_dash(&node.version),
            ]
        }),
    ));
    text.push('\n');
    let mut headers = vec!["GROUP", "LEADER", ">TERM", ">ENTRIES", "REPLICAS"];
    if look.wide {
        headers.extend(["APPLIED", "COMPARED"]);
    }
    text.push_str(&table(
        &headers,
        cluster.groups.iter().map(|group| {
            let leader = match group.leader {
                0 => "none".to_owned(),
                node => format!("node {node}"),
            };
            let mut row = vec![
                clean(&group.name),
                leader,
                group.term.to_string(),
                group.last_log.to_string(),
                replicas(group),
            ];
            if look.wide {
                row.extend([applied(group), compared(group)]);
            }
            row
        }),
    ));
    text
}

/// `cluster plan`.
pub fn plan(plan: &api::ClusterPlan, _: &Look) -> String {
    let mut text = String::new();
    for (number, step) in (1..).zip(&plan.steps) {
        text.push_str(&format!("{number:>3}. {}\n", clean(step)));
    }
    for remark in &plan.remarks {
        text.push_str(&format!("note: {}\n", clean(remark)));
    }
    match plan.steps.as_slice() {
        [] => text.push_str("nothing to move: every group is where it should be\n"),
        _ => text.push_str(&format!(
            "plan {}; next: muster cluster apply\n",
            clean(&plan.id)
        )),
    }
    text
}

/// One line of `cluster apply`.
pub fn progress(progress: &api::ClusterProgress) -> String {
    let state = if progress.done { "done" } else { "…" };
    format!(
        "{:>3}/{} {} {state}",
        progress.number,
        progress.of,
        clean(&progress.step)
    )
}

/// `cluster remove`.
pub fn removed(node: u64, answer: &api::RemoveNodeResponse) -> String {
    let then = match answer.answers {
        true => "; stop its process after that",
        false => "",
    };
    format!("node {node} leaves\nnext: muster cluster apply moves what it has{then}\n")
}

fn up(node: &api::ClusterNode) -> String {
    match node.answers {
        true => humantime::format_duration(Duration::from_secs(node.running_ms / 1000)).to_string(),
        false => "-".to_owned(),
    }
}

/// `3 of 3 voters`, and what is not as it should be.
fn replicas(group: &api::ClusterGroup) -> String {
    let voters = group.replicas.iter().filter(|replica| replica.votes);
    let there = voters.clone().filter(|replica| replica.answers).count();
    let mut text = format!("{there} of {} voters", voters.count());
    let learners = group
        .replicas
        .iter()
        .filter(|replica| !replica.votes)
        .count();
    if learners > 0 {
        text.push_str(&format!(", {learners} learning"));
    }
    text
}

/// What the last comparison of its replicas has shown.
fn compared(group: &api::ClusterGroup) -> String {
    let nodes: Vec<String> = group.differs.iter().map(u64::to_string).collect();
    match (nodes.as_slice(), group.same_at) {
        ([], 0) => "not yet".to_owned(),
        ([], index) => format!("same at {index}"),
        (nodes, _) => format!("node {} differs", nodes.join(", ")),
    }
}

fn applied(group: &api::ClusterGroup) -> String {
    let replica = |replica: &api::ClusterReplica| match (replica.answers, replica.behind) {
        (false, _) => format!("{}: silent", replica.node),
        (true, 0) => format!("{}: all", replica.node),
        (true, behind) => format!("{}: {behind} behind", replica.node),
    };
    group
        .replicas
        .iter()
        .map(replica)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_says_first_what_the_cluster_waits_for() {
        let replica = |node, answers| api::ClusterReplica {
            node,
            votes: true,
            answers,
            applied: 12,
            behind: 0,
        };
        let cluster = api::Cluster {
            name: "prod".into(),
            nodes: vec![
                api::ClusterNode {
                    id: 1,
                    address: "10.0.0.1:4322".into(),
                    answers: true,
                    version: "0.1.0".into(),
                    leads: 1,
                    replicas: 1,
                    running_ms: 61_000,
                    leaves: false,
                },
                api::ClusterNode {
                    id: 2,
                    address: "10.0.0.2:4322".into(),
                    replicas: 1,
                    ..Default::default()
                },
            ],
            groups: vec![api::ClusterGroup {
                name: "control".into(),
                leader: 1,
                term: 4,
                last_log: 12,
                replicas: vec![replica(1, true), replica(2, false)],
                ..Default::default()
            }],
            waits_for: vec!["node 2 at 10.0.0.2:4322, which does not answer".into()],
            answered_by: 1,
        };
        assert_eq!(
            status(&cluster, &Look::default()),
            "\
cluster prod waits for
  node 2 at 10.0.0.2:4322, which does not answer

NODE   ADDRESS         STATE     LEADS   REPLICAS   UP      VERSION
1      10.0.0.1:4322   answers       1          1   1m 1s   0.1.0
2      10.0.0.2:4322   silent        0          1   -       -

GROUP     LEADER   TERM   ENTRIES   REPLICAS
control   node 1      4        12   1 of 2 voters
"
        );
        let wide = Look {
            wide: true,
            ..Look::default()
        };
        assert!(status(&cluster, &wide).contains("1: all, 2: silent"));
        assert!(status(&cluster, &wide).contains("not yet"));
    }
}
