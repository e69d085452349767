//! A node with every group on it: opens the store, starts the groups, runs the leaders and the controller.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::edge::Notice;
use proto::uid::Uid;
use raft::{Group, GroupConfig, GroupId, NodeId, Store, StoreConfig};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::control::{Control, ControlMirror};
use crate::controller::{Controller, ask};
use crate::inventory::Index;
use crate::ledger::{Ledger, Machine};
use crate::otelcol::{self, Otelcol};
use crate::partition::{self, Partition, chain};

/// Inventory groups of a new cluster.
pub const PARTITIONS: u32 = 8;

/// Notices that a slow gateway may be behind by. Beyond it asks anew at each agent's next message.
const NOTICES: usize = 4096;

/// How often the program lease is renewed: well within [`partition::LEASE`].
const RENEW: Duration = Duration::from_millis(800);

/// Settings.
#[derive(Clone)]
pub struct Config {
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Of the partition leaders.
    pub partition: partition::Config,
    /// Of the groups.
    pub group: GroupConfig,
    /// Whom gates may ask.
    pub ask: ask::Config,
    /// Collectors that configs are tried with before they are stored.
    pub otelcol: Vec<otelcol::Binary>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("the data directory {} cannot be opened", dir.display())]
    Open {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: raft::OpenError,
    },
    /// A group.
    #[error("group {name} does not start")]
    Group {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: raft::StartError,
    },
    /// Its documents.
    #[error("group {name} cannot be read")]
    Read {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: raft::Fatal,
    },
}

/// A running node.
pub struct Node {
    store: std::sync::Mutex<Option<Store>>,
    /// What each open rollout waits for, as the controller saw it last.
    pub waiting: crate::controller::Board,
    /// Asks what gates want to know from outside.
    pub asker: ask::Asker,
    /// Tries configs before they are stored.
    pub otelcol: Otelcol,
    /// The control group.
    pub control_ledger: Ledger<ControlMirror>,
    /// Its documents.
    pub control: Control,
    /// Every inventory group.
    pub partitions: Arc<[Arc<Partition>]>,
    notices: broadcast::Sender<Arc<Vec<Notice>>>,
    stop: CancellationToken,
    tasks: std::sync::Mutex<tokio::task::JoinSet<()>>,
}

// === impl Node ===

impl Node {
    /// Opens the store and starts every group; answers when each has a leader and its memory is rebuilt.
    pub async fn start(config: Config) -> Result<Arc<Node>, StartError> {
        let dir = config.data_dir.clone();
        let opened = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || Store::open(&dir, StoreConfig::default())
        });
        let opened = opened
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let store = opened.map_err(|source| StartError::Open { dir, source })?;
        let control = Control::default();
        let control_ledger =
            start_group(&store, 0, "control", control.mirror(), &config.group).await?;
        let (notices, _) = broadcast::channel(NOTICES);
        let mut partitions = Vec::new();
        for i in 0..PARTITIONS {
            let name = format!("inventory-{i}");
            let index = Index::default();
            let ledger = start_group(&store, i + 1, &name, index.mirror(), &config.group).await?;
            let partition = Partition::new(
                ledger,
                index,
                control.clone(),
                config.partition.clone(),
                notices.clone(),
            );
            partition.take_program();
            partition
                .read_numbers()
                .await
                .map_err(|source| StartError::Read { name, source })?;
            partitions.push(Arc::new(partition));
        }
        let node = Arc::new(Node {
            store: std::sync::Mutex::new(Some(store)),
            waiting: crate::controller::Board::default(),
            asker: ask::Asker::new(config.ask),
            otelcol: Otelcol::new(config.otelcol),
            control_ledger,
            control,
            partitions: partitions.into(),
            notices,
            stop: CancellationToken::new(),
            tasks: std::sync::Mutex::default(),
        });
        node.confirm().await;
        node.clone().run();
        Ok(node)
    }

    /// The partition that keeps this agent.
    pub fn partition(&self, uid: Uid) -> &Arc<Partition> {
        &self.partitions[self.partition_index(uid)]
    }

    /// Its index among [`Node::partitions`].
    pub fn partition_index(&self, uid: Uid) -> usize {
        (u32::from(uid.slot()) * PARTITIONS / 1024) as usize
    }

    /// Names every agent that has something pending, for a gateway that has missed some.
    pub fn name_pending(&self) {
        for partition in self.partitions.iter() {
            partition.name_pending(&partition.program());
        }
    }

    /// What the leaders tell gateways, from now on.
    pub fn notices(&self) -> broadcast::Receiver<Arc<Vec<Notice>>> {
        self.notices.subscribe()
    }

    /// Publishes the control group's newest program to every partition and answers when nothing older can be sent.
    pub async fn fence(&self) -> Result<(), crate::ledger::ProposeError> {
        let epoch = self.control.read().program_version;
        let raised = self
            .partitions
            .iter()
            .map(|partition| partition.raise_floor(epoch));
        futures::future::try_join_all(raised).await.map(|_| ())
    }

    fn run(self: Arc<Self>) {
        let mut tasks = self
            .tasks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let stop = self.stop.clone();
        tasks.spawn(every(
            RENEW,
            stop.clone(),
            self.clone(),
            |node| async move { node.confirm().await },
        ));
        tasks.spawn(every(
            crate::clock::FOLLOW,
            stop.clone(),
            self.clone(),
            |node| async move {
                crate::clock::follow();
                for partition in node.partitions.iter() {
                    partition.tick().await;
                }
            },
        ));
        tasks.spawn(every(Duration::from_secs(600), stop.clone(), self.clone(), |node| async move {
            for partition in node.partitions.iter() {
                if let Err(error) = partition.prune().await {
                    tracing::warn!(partition = partition.ledger.name(), error = %chain(&error), "what is past its time was not removed; it is tried again");
                }
            }
        }));
        tasks.spawn(follow_program(self.clone(), stop.clone()));
        let controller = Controller::new(self.clone());
        tasks.spawn(async move { controller.run(stop).await });
    }

    /// Confirms the program with the control group by a linearizable read; the lease counts from when it was sent.
    async fn confirm(&self) {
        let sent = Instant::now();
        match self.control_ledger.group().linearize().await {
            Ok(_) => {
                for partition in self.partitions.iter() {
                    partition.take_program();
                    partition.confirm(sent);
                }
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the program was not confirmed: no offers for now")
            }
        }
    }

    /// Ends everything in order: tasks, what is only in memory, groups, store.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(
            &mut *self
                .tasks
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        while tasks.join_next().await.is_some() {}
        futures::future::join_all(
            self.partitions
                .iter()
                .map(|partition| partition.write_numbers()),
        )
        .await;
        for partition in self.partitions.iter() {
            partition.ledger.group().shutdown().await;
        }
        self.control_ledger.group().shutdown().await;
        let store = self
            .store
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(store) = store {
            store.close();
        }
    }
}

async fn start_group<M: crate::ledger::Mirror>(
    store: &Store,
    id: u32,
    name: &str,
    mirror: M,
    config: &GroupConfig,
) -> Result<Ledger<M>, StartError> {
    let group = Group::start(
        store,
        GroupId(id),
        NodeId(1),
        Machine::new(name, mirror),
        config.clone(),
    )
    .await;
    let group = group.map_err(|source| StartError::Group {
        name: name.to_owned(),
        source,
    })?;
    Ok(Ledger::new(name, group))
}

async fn follow_program(node: Arc<Node>, stop: CancellationToken) {
    let mut changes = node.control.changes();
    while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
        for partition in node.partitions.iter() {
            partition.take_program();
        }
    }
}

/// Calls `act` again and again until told to stop; a call that is under way ends first.
async fn every<F: Future<Output = ()> + Send>(
    pause: Duration,
    stop: CancellationToken,
    node: Arc<Node>,
    act: impl Fn(Arc<Node>) -> F + Send,
) {
    let mut interval = tokio::time::interval(pause);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        act(node.clone()).await;
    }
}
