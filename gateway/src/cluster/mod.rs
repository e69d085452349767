//! The state cluster as a gateway sees it: a line to each node, who leads what, which tokens are valid.
//!
//! `belonging` is which cluster that is, `table` what the nodes say of it, `line` the connection to one of them, `link` the
//! way of reports, `tokens` who may speak, `proxy` the way of operators' calls, `metrics` what all of it holds, `trace`
//! which span asks. Nothing here is kept beyond the process.

mod belonging;
mod line;
mod link;
mod metrics;
mod proxy;
mod table;
mod tokens;
mod trace;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proto::cluster_id::ClusterId;
use proto::edge;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::belonging::{Belonging, Verdict};
use self::line::Line;
use self::table::Table;

pub use proxy::proxy;

/// Nodes that are known are looked at so often, for lines that are missing.
const LOOK: Duration = Duration::from_millis(500);

/// Where the cluster is.
#[derive(Clone)]
pub struct Config {
    /// This gateway's name, another one each time it starts: what it says of its sessions must not be taken for what
    /// an earlier process has said.
    pub name: String,
    /// Name of the cluster; nodes of another one are refused. Empty: not checked.
    pub cluster: String,
    /// Some of the nodes, as `host:port`; they name the others.
    pub nodes: Vec<String>,
    /// What this gateway shows to nodes; none: connections are not encrypted.
    pub certificates: Option<Arc<tls::Mutual>>,
}

/// The state cluster.
pub struct Cluster {
    config: Config,
    started: Instant,
    /// By address.
    lines: Mutex<BTreeMap<String, Arc<Line>>>,
    /// Held while the table is written.
    belonging: Mutex<Belonging>,
    table: ArcSwap<Table>,
    /// Wakes on every change of the table.
    changed: watch::Sender<u64>,
    tokens: ArcSwap<tokens::Valid>,
    notices: mpsc::Sender<Vec<edge::Notice>>,
    heard: Mutex<Option<mpsc::Receiver<Vec<edge::Notice>>>>,
    /// Reports that had to wait for a leader, and those that were sent more than once.
    held: AtomicU64,
    asked_again: AtomicU64,
}

/// Batches of notices that wait for the gateway, which only notes them in memory: it is behind if there are more.
const NOTICES: usize = 1024;

impl Cluster {
    /// Begins to connect. Needs a runtime; ends with `stop`.
    pub fn start(config: Config, stop: CancellationToken) -> Arc<Cluster> {
        let (notices, heard) = mpsc::channel(NOTICES);
        let cluster = Arc::new(Cluster {
            config,
            started: Instant::now(),
            lines: Mutex::default(),
            belonging: Mutex::default(),
            table: ArcSwap::default(),
            changed: watch::channel(0).0,
            tokens: ArcSwap::default(),
            notices,
            heard: Mutex::new(Some(heard)),
            held: AtomicU64::new(0),
            asked_again: AtomicU64::new(0),
        });
        let keeping = cluster.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                keeping.keep_lines(&stop);
                tokio::time::sleep(LOOK).await;
            }
        }));
        cluster
    }

    /// Is there a leader for everything? Err says what is missing.
    pub fn ready(&self) -> Result<(), String> {
        let table = self.table.load();
        if table.partitions() == 0 {
            let nodes = self.config.nodes.join(", ");
            return Err(format!("no node has answered yet; asked are {nodes}"));
        }
        let leaderless =
            (0..=table.partitions()).find(|group| self.line_to_leader(*group).is_none());
        match leaderless {
            None => Ok(()),
            Some(0) => Err("the control group has no leader that is reached".to_owned()),
            Some(n) => Err(format!("partition {} has no leader that is reached", n - 1)),
        }
    }

    /// Groups whose leader is not reached; 1 until a node has said which there are.
    fn unreached(&self) -> u32 {
        let partitions = self.table.load().partitions();
        let groups = 0..=partitions;
        let unreached = groups.filter(|group| self.line_to_leader(*group).is_none());
        u32::try_from(unreached.count()).unwrap_or(u32::MAX)
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A line to each node that is known.
    fn keep_lines(self: &Arc<Self>, stop: &CancellationToken) {
        let table = self.table.load();
        let known = table.addresses();
        let known = known.iter().chain(&self.config.nodes);
        let mut lines = self.lines();
        for address in known {
            if !lines.contains_key(address) {
                let line = Line::start(self.clone(), address.clone(), stop);
                lines.insert(address.clone(), line);
            }
        }
    }

    /// The line to whoever leads the group, if it stands.
    fn line_to_leader(&self, group: u32) -> Option<Arc<Line>> {
        let leader = self.table.load().leader(group)?;
        self.lines()
            .values()
            .find(|line| line.reaches(leader))
            .cloned()
    }

    /// Which cluster is served, as far as that is known.
    fn id(&self) -> Option<ClusterId> {
        self.belonging().ours()
    }

    fn belonging(&self) -> MutexGuard<'_, Belonging> {
        self.belonging
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Is the node that says this of the cluster that is served? Err says why not.
    fn admit(&self, routes: &edge::Routes) -> Result<(), String> {
        let theirs = ClusterId::of(&routes.cluster_id, routes.incarnation);
        let mut belonging = self.belonging();
        match belonging.judge(format_args!("n{}", routes.node), theirs) {
            Verdict::Ours => Ok(()),
            Verdict::Later => {
                tracing::warn!(
                    node = routes.node,
                    "this cluster was restored from a backup later than the one that was served so far: it is served from now on"
                );
                self.table.store(Arc::default());
                Ok(())
            }
            Verdict::Foreign { why, news } => {
                if news {
                    tracing::warn!(refused = %why, "a node is refused");
                }
                Err(why.to_string())
            }
        }
    }

    /// A node has said where everything is. One line at a time, so that none overwrites what another one has just heard.
    fn take_routes(&self, routes: &edge::Routes) {
        let theirs = ClusterId::of(&routes.cluster_id, routes.incarnation);
        let belonging = self.belonging();
        if !belonging.is_heard(theirs) {
            // Since it was admitted, the cluster was restored.
            return;
        }
        let mut table = Table::clone(&self.table.load());
        if table.take(routes) {
            self.table.store(Arc::new(table));
            drop(belonging);
            self.changed.send_modify(|n| *n += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It has heard of no node.
    pub(super) fn cluster(stop: &CancellationToken) -> Arc<Cluster> {
        let config = Config {
            name: "gateway".to_owned(),
            cluster: "prod".to_owned(),
            nodes: Vec::new(),
            certificates: None,
        };
        Cluster::start(config, stop.clone())
    }

    #[tokio::test]
    async fn lines_that_hear_news_at_the_same_time_lose_none_of_it() {
        let stop = CancellationToken::new();
        let _ends = stop.clone().drop_guard();
        let cluster = cluster(&stop);
        let route = |group| edge::Route {
            group,
            leader: 1,
            term: 1,
            members: vec![1],
        };
        std::thread::scope(|scope| {
            for line in 0..4 {
                let cluster = &cluster;
                scope.spawn(move || {
                    for n in 0..250 {
                        cluster.take_routes(&edge::Routes {
                            groups: vec![route(n * 4 + line)],
                            ..edge::Routes::default()
                        });
                    }
                });
            }
        });
        let table = cluster.table.load();
        let lost = (0..1000).filter(|group| table.leader(*group).is_none());
        assert_eq!(lost.count(), 0);
    }

    #[tokio::test]
    async fn what_was_said_before_the_cluster_was_restored_does_not_come_in_late() {
        let stop = CancellationToken::new();
        let _ends = stop.clone().drop_guard();
        let cluster = cluster(&stop);
        let said = |id: u8, incarnation, leader, term| edge::Routes {
            cluster_id: vec![id; 16].into(),
            incarnation,
            groups: vec![edge::Route {
                group: 0,
                leader,
                term,
                members: vec![1, 2],
            }],
            ..edge::Routes::default()
        };
        let (old, restored) = (said(1, 0, 1, 40), said(2, 1, 2, 3));
        cluster.admit(&old).unwrap();
        cluster.admit(&restored).unwrap();
        cluster.take_routes(&old);
        cluster.take_routes(&restored);
        assert_eq!(cluster.table.load().leader(0), Some(2));
    }
}
