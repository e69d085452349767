//! A node with every group on it: opens the store, starts the groups, runs the leaders and the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proto::cluster::{NodeDescription, OpenRoomsRequest};
use proto::edge::Notice;
use proto::uid::Uid;
use raft::{DiskUse, Group, GroupConfig, GroupId, GroupStatus, NodeId, Store, StoreConfig};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::backup;
use crate::cluster::compare::{self, Compared};
use crate::cluster::group::{AnyGroup, any};
use crate::cluster::{Cluster, Wires, members, rooms};
use crate::control::{Control, ControlMirror};
use crate::controller::{Controller, ask};
use crate::edge::Gateways;
use crate::inventory::Index;
use crate::ledger::{Leaders, Ledger, Machine};
use crate::otelcol::{self, Otelcol};
use crate::partition::room::Lane;
use crate::partition::{self, Count, Counted, Partition, chain};

/// Inventory groups of a new cluster.
pub const PARTITIONS: u32 = 8;

/// Notices that a slow gateway may be behind by. Beyond it asks anew at each agent's next message.
const NOTICES: usize = 4096;

/// How often the program lease is renewed: well within [`partition::LEASE`].
const RENEW: Duration = Duration::from_millis(800);

/// Partition leaders look for silent agents and late answers so often.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of a partition is old after this: leaders look each second, and are asked twice a second.
const STALE: Duration = Duration::from_secs(5);

/// What handing over the lead may take at the end.
const HAND_OVER: Duration = Duration::from_secs(2);

/// What is under way may take so long to end.
const TASKS: Duration = Duration::from_secs(1);

/// What did not work at a leader is tried again after this.
const AGAIN: Duration = Duration::from_millis(100);

/// Settings.
#[derive(Clone)]
pub struct Config {
    /// Where everything is kept; see [`open`].
    pub store: Store,
    /// Of the partition leaders.
    pub partition: partition::Config,
    /// Of the groups.
    pub group: GroupConfig,
    /// Whom gates may ask.
    pub ask: ask::Config,
    /// Collectors that configs are tried with before they are stored.
    pub otelcol: Vec<otelcol::Binary>,
    /// The other nodes; none: this one is alone.
    pub cluster: Option<Arc<Cluster>>,
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
    /// A restore into it was cut off.
    #[error("a restore into {} was not finished: empty the directory and restore again", dir.display())]
    Unfinished {
        /// Which.
        dir: PathBuf,
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
    /// What the controller has counted.
    pub tally: crate::controller::tally::Tally,
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
    /// The other nodes; none: this one is alone.
    pub cluster: Option<Arc<Cluster>>,
    /// The gateways that are connected.
    pub(crate) gateways: Gateways,
    /// What comparisons of the groups that are led here have shown.
    pub(crate) compared: Compared,
    /// One backup at a time: each keeps old state from being removed while it reads.
    pub(crate) backing_up: Arc<tokio::sync::Semaphore>,
    started: Instant,
    /// Was the program confirmed the last time?
    confirmed: AtomicBool,
    notices: broadcast::Sender<Arc<Vec<Notice>>>,
    /// Some gateway does not know for whom something is pending.
    unnamed: tokio::sync::Notify,
    stop: CancellationToken,
    tasks: std::sync::Mutex<tokio::task::JoinSet<()>>,
}

/// Why a partition has not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uncounted {
    /// It does not answer, or has no leader.
    Silent,
    /// It has begun a newer count: somebody else divides.
    Older,
}

/// Opens or creates the store in a data directory.
pub async fn open(dir: &Path) -> Result<Store, StartError> {
    let dir = dir.to_owned();
    if dir.join(backup::UNFINISHED).exists() {
        return Err(StartError::Unfinished { dir });
    }
    open_any(dir).await
}

/// The same, also where a restore is under way.
pub(crate) async fn open_any(dir: PathBuf) -> Result<Store, StartError> {
    let opened = tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || Store::open(&dir, StoreConfig::default())
    });
    let opened = opened
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    opened.map_err(|source| StartError::Open { dir, source })
}

// === impl Node ===

impl Node {
    /// Opens the store and starts every group. Alone it answers when each has a leader and its memory is rebuilt; among
    /// others nobody waits for them.
    pub async fn start(config: Config) -> Result<Arc<Node>, StartError> {
        let store = config.store.clone();
        let place = Place::of(&config);
        let control = Control::default();
        let control_ledger = start_group(&store, 0, "control", control.mirror(), &place).await?;
        if let Some(cluster) = &config.cluster {
            cluster.learn(&control.read());
        }
        let (notices, _) = broadcast::channel(NOTICES);
        let mut partitions = Vec::new();
        for i in 0..PARTITIONS {
            let name = format!("inventory-{i}");
            let index = Index::default();
            let ledger = start_group(&store, i + 1, &name, index.mirror(), &place).await?;
            let partition = Partition::new(
                ledger,
                index,
                control.clone(),
                config.partition.clone(),
                notices.clone(),
                config.cluster.is_some(),
            );
            partitions.push(Arc::new(partition));
        }
        let node = Arc::new(Node {
            store: std::sync::Mutex::new(Some(store)),
            waiting: crate::controller::Board::default(),
            tally: crate::controller::tally::Tally::default(),
            asker: ask::Asker::new(config.ask),
            otelcol: Otelcol::new(config.otelcol),
            control_ledger,
            control,
            partitions: partitions.into(),
            cluster: config.cluster,
            gateways: Gateways::default(),
            compared: Compared::default(),
            backing_up: Arc::new(tokio::sync::Semaphore::new(1)),
            started: Instant::now(),
            confirmed: AtomicBool::new(true),
            notices,
            unnamed: tokio::sync::Notify::new(),
            stop: CancellationToken::new(),
            tasks: std::sync::Mutex::default(),
        });
        for partition in node.partitions.iter() {
            let leadership = *partition.ledger.group().leadership().borrow();
            if leadership.role == raft::Role::Leader {
                take_lead(partition, leadership.term).await;
            }
        }
        node.confirm().await;
        node.clone().run();
        Ok(node)
    }

    /// Registers this node with the others, until that has worked. Err: it may not run under its number.
    pub async fn register(self: &Arc<Self>) -> Result<(), String> {
        members::register_self(self, &self.stop).await
    }

    /// Does this node lead the control group? Only there operators are answered and rollouts moved.
    pub fn leads(&self) -> bool {
        self.control_ledger.leads()
    }

    /// The partition that keeps this agent.
    pub fn partition(&self, uid: Uid) -> &Arc<Partition> {
        &self.partitions[self.partition_index(uid)]
    }

    /// Its index among [`Node::partitions`].
    pub fn partition_index(&self, uid: Uid) -> usize {
        (u32::from(uid.slot()) * PARTITIONS / 1024) as usize
    }

    /// Some gateway does not know for whom something is pending: all of it is named anew, soon, and once for all that say
    /// so meanwhile.
    pub fn name_again(&self) {
        self.unnamed.notify_one();
    }

    /// What the leaders tell gateways, from now on.
    pub fn notices(&self) -> broadcast::Receiver<Arc<Vec<Notice>>> {
        self.notices.subscribe()
    }

    /// Cancelled when the node stops.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Publishes the control group's newest program to every partition and answers when nothing older can be sent.
    pub async fn fence(&self) -> Result<(), crate::ledger::ProposeError> {
        let epoch = self.control.read().epoch().0;
        let since = Instant::now();
        let raised = self
            .partitions
            .iter()
            .map(|partition| self.raise_floor(partition, epoch, since));
        futures::future::try_join_all(raised).await.map(|_| ())
    }

    /// In bounded time, also when the partition cannot be reached: no leader of it has a lease of an older program for
    /// longer than [`partition::LEASE_OVER`], nor a grant for longer than its life after that.
    async fn raise_floor(
        &self,
        partition: &Partition,
        epoch: u64,
        since: Instant,
    ) -> Result<(), crate::ledger::ProposeError> {
        loop {
            let failed = match self.elsewhere(partition) {
                None => match partition.raise_floor(epoch).await {
                    Ok(()) => return Ok(()),
                    Err(error) if self.cluster.is_none() => return Err(error),
                    Err(error) => chain(&error),
                },
                Some((_, None)) => "it has no leader".to_owned(),
                Some((cluster, Some(leader))) => {
                    let group = partition.ledger.group().id();
                    match cluster.raise_floor(leader, group, epoch).await {
                        Ok(()) => return Ok(()),
                        Err(status) => status.message().to_owned(),
                    }
                }
            };
            if since.elapsed() >= partition::LEASE_OVER + partition::GRANT_LIFE {
                tracing::warn!(
                    partition = partition.ledger.name(),
                    failed,
                    "no floor was raised: what it may have granted has run out"
                );
                return Ok(());
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Where the partition is led, if that is not here, as far as is known.
    fn elsewhere(&self, partition: &Partition) -> Option<(&Arc<Cluster>, Option<NodeId>)> {
        let cluster = self.cluster.as_ref()?;
        let leadership = *partition.ledger.group().leadership().borrow();
        let here = leadership.role == raft::Role::Leader;
        let leader = leadership.leader.filter(|id| *id != cluster.config.node);
        (!here).then_some((cluster, leader))
    }

    /// Has the partition's leader count and hold its rooms.
    pub(crate) async fn hold_rooms(
        &self,
        partition: &Arc<Partition>,
        count: Count,
    ) -> Result<Counted, Uncounted> {
        match self.elsewhere(partition) {
            None => {
                let partition = partition.clone();
                let counted = tokio::task::spawn_blocking(move || partition.hold_rooms(count));
                let counted = counted.await.map_err(|_| Uncounted::Silent)?;
                counted.map_err(|_| Uncounted::Older)
            }
            Some((cluster, leader)) => {
                let leader = leader.ok_or(Uncounted::Silent)?;
                let held = cluster.hold_rooms(leader, partition.ledger.group().id(), count);
                match held.await {
                    Ok(held) => Ok(rooms::from_wire(held)),
                    Err(status) if status.code() == Code::Aborted => Err(Uncounted::Older),
                    Err(_) => Err(Uncounted::Silent),
                }
            }
        }
    }

    /// Gives the partition's leader its quotas, by the number of the count that they answer. If they do not arrive, it
    /// grants nothing.
    pub(crate) async fn open_rooms(
        &self,
        partition: &Partition,
        count: u64,
        quotas: &BTreeMap<Lane, u64>,
    ) {
        match self.elsewhere(partition) {
            None => partition.open_rooms(count, quotas),
            Some((_, None)) => {}
            Some((cluster, Some(leader))) => {
                let request = OpenRoomsRequest {
                    group: partition.ledger.group().id().0,
                    quotas: rooms::numbers(quotas),
                    count,
                    ..OpenRoomsRequest::default()
                };
                if let Err(status) = cluster.open_rooms(leader, request).await {
                    tracing::debug!(partition = partition.ledger.name(), %status, "quotas were not taken");
                }
            }
        }
    }

    /// Brings the replicas of partitions that are led elsewhere up to date, so that what is counted here is evidence.
    /// Answers which cannot be: what is known of them grows old.
    pub(crate) async fn look(&self) -> Vec<String> {
        let elsewhere = self.partitions.iter().filter(|p| !p.leads());
        let look = elsewhere.map(|partition| async move {
            let sent = Instant::now();
            match partition.ledger.sync().await {
                Ok(mark) => {
                    partition.has_looked(sent, mark.looked_ms);
                    None
                }
                Err(error) => {
                    tracing::debug!(partition = partition.ledger.name(), %error, "it cannot be read");
                    Some(partition.ledger.name().to_owned())
                }
            }
        });
        let unreadable = futures::future::join_all(look).await;
        unreadable.into_iter().flatten().collect()
    }

    /// Partitions whose leader has not been heard of lately: lists show what was known of their agents then.
    pub(crate) fn unreadable(&self) -> u64 {
        let stale = |p: &&Arc<Partition>| p.evidence_age_ms() > partition::millis(STALE);
        self.partitions.iter().filter(stale).count() as u64
    }

    /// The partition of an inventory group.
    pub fn of_group(&self, group: GroupId) -> Option<&Arc<Partition>> {
        let at = (group.0 as usize).checked_sub(1)?;
        self.partitions.get(at)
    }

    /// A group of this node. None: there is no such group.
    pub(crate) fn group(&self, group: GroupId) -> Option<Arc<dyn AnyGroup>> {
        Some(match group.0 {
            0 => any(self.control_ledger.group()),
            _ => any(self.of_group(group)?.ledger.group()),
        })
    }

    /// Every group of this node, control first, with its name.
    pub fn groups(&self) -> impl Iterator<Item = (&str, GroupStatus)> {
        let control = &self.control_ledger;
        let control = std::iter::once((control.name(), control.group().status()));
        let partitions = self.partitions.iter().map(|p| &p.ledger);
        control.chain(partitions.map(|ledger| (ledger.name(), ledger.group().status())))
    }

    /// What waits for the disk; nothing once the store is closed.
    pub fn disk_use(&self) -> DiskUse {
        let store = self.store.lock();
        let store = store.unwrap_or_else(std::sync::PoisonError::into_inner);
        store.as_ref().map(Store::disk_use).unwrap_or_default()
    }

    /// Batches of notices that the slowest gateway has yet to take.
    pub fn notices_waiting(&self) -> usize {
        self.notices.len()
    }

    /// Where this node and its groups stand.
    pub fn describe(&self) -> NodeDescription {
        let groups = (0..=PARTITIONS).filter_map(|id| self.group(GroupId(id)));
        NodeDescription {
            node: self.id().0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running_ms: partition::millis(self.started.elapsed()),
            groups: groups
                .map(|group| {
                    let mut described = group.describe();
                    self.compared.describe(&mut described);
                    described
                })
                .collect(),
        }
    }

    /// This node; alone it is the first.
    pub fn id(&self) -> NodeId {
        self.cluster
            .as_ref()
            .map_or(NodeId(1), |cluster| cluster.config.node)
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
        tasks.spawn(every(crate::clock::FOLLOW, stop.clone(), (), |()| async {
            crate::clock::follow()
        }));
        // Each by itself: one that has much to store must not look as if the others had stood still.
        for partition in self.partitions.iter() {
            tasks.spawn(every(
                LOOK,
                stop.clone(),
                partition.clone(),
                |partition| async move {
                    if partition.leads() {
                        partition.tick().await;
                    }
                },
            ));
        }
        for partition in self.partitions.iter() {
            let learn = |partition: Arc<Partition>| async move { partition.learn_outcomes().await };
            tasks.spawn(every(LOOK, stop.clone(), partition.clone(), learn));
        }
        tasks.spawn(name_anew(self.clone(), stop.clone()));
        tasks.spawn(every(Duration::from_secs(600), stop.clone(), self.clone(), |node| async move {
            for partition in node.partitions.iter().filter(|p| p.leads()) {
                if let Err(error) = partition.prune().await {
                    tracing::warn!(partition = partition.ledger.name(), error = %chain(&error), "what is past its time was not removed; it is tried again");
                }
            }
        }));
        for partition in self.partitions.iter() {
            tasks.spawn(follow_lead(partition.clone(), stop.clone()));
        }
        tasks.spawn(follow_program(self.clone(), stop.clone()));
        tasks.spawn(members::follow_addresses(self.clone(), stop.clone()));
        tasks.spawn(members::keep(self.clone(), stop.clone()));
        let compare = self.cluster.as_ref().map(|c| c.config.compare_every);
        if let Some(pause) = compare.filter(|pause| !pause.is_zero()) {
            tasks.spawn(every(pause, stop.clone(), self.clone(), compare::compare));
        }
        let controller = Controller::new(self.clone());
        tasks.spawn(async move { controller.run(stop).await });
    }

    /// Confirms the program with the control group, and the lead with each group that is led here, by linearizable
    /// reads; the lease counts from when the first was sent.
    async fn confirm(&self) {
        let sent = Instant::now();
        if let Err(error) = self.control_ledger.sync().await {
            if self.confirmed.swap(false, Ordering::Relaxed) {
                tracing::warn!(error = %chain(&error), "the program was not confirmed: no offers for now");
            }
            return;
        }
        if !self.confirmed.swap(true, Ordering::Relaxed) {
            tracing::info!("the program is confirmed again");
        }
        let confirm = self.partitions.iter().map(|partition| async move {
            partition.try_read_components();
            partition.take_program();
            if partition.leads() {
                match partition.ledger.group().linearize().await {
                    Ok(_) => partition.confirm(sent),
                    Err(error) => {
                        tracing::debug!(partition = partition.ledger.name(), %error, "the lead was not confirmed")
                    }
                }
            }
        });
        futures::future::join_all(confirm).await;
    }

    /// Ends everything in order: tasks, what is only in memory, groups, store.
    pub async fn stop(&self) {
        if tokio::time::timeout(HAND_OVER, members::hand_over(self))
            .await
            .is_err()
        {
            tracing::warn!("not everything that this node leads was handed over: others elect");
        }
        self.stop.cancel();
        let mut tasks = std::mem::take(
            &mut *self
                .tasks
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        let ending = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(TASKS, ending).await.is_err() {
            // They wait for nodes that do not answer any more. What was proposed is decided without them.
            tasks.shutdown().await;
        }
        // Among others whoever leads next was told by the gateways.
        if self.cluster.is_none() {
            let partitions = self.partitions.iter();
            futures::future::join_all(partitions.map(|p| p.write_numbers())).await;
        }
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

/// What the groups of this node have in common.
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) group: GroupConfig,
    pub(crate) leaders: Option<Arc<dyn Leaders>>,
}

impl Place {
    fn of(config: &Config) -> Self {
        let Some(cluster) = &config.cluster else {
            return Place {
                node: NodeId(1),
                group: config.group.clone(),
                leaders: None,
            };
        };
        let founders: BTreeSet<NodeId> = cluster.config.founders.keys().copied().collect();
        let group = GroupConfig {
            bootstrap: match founders.contains(&cluster.config.node) {
                true => raft::Bootstrap::Voters(founders),
                false => raft::Bootstrap::Join,
            },
            peers: Arc::new(Wires(cluster.clone())),
            ..config.group.clone()
        };
        Place {
            node: cluster.config.node,
            group,
            leaders: Some(cluster.clone()),
        }
    }
}

pub(crate) async fn start_group<M: crate::ledger::Mirror>(
    store: &Store,
    id: u32,
    name: &str,
    mirror: M,
    place: &Place,
) -> Result<Ledger<M>, StartError> {
    let group = Group::start(
        store,
        GroupId(id),
        place.node,
        Machine::new(name, mirror),
        place.group.clone(),
    )
    .await;
    let group = group.map_err(|source| StartError::Group {
        name: name.to_owned(),
        source,
    })?;
    Ok(Ledger::new(name, group, place.leaders.clone()))
}

/// Takes the lead of a partition whenever its group elects this node.
async fn follow_lead(partition: Arc<Partition>, stop: CancellationToken) {
    let mut leadership = partition.ledger.group().leadership();
    loop {
        let now = *leadership.borrow_and_update();
        let mut settled = true;
        if now.role == raft::Role::Leader && !partition.leads() {
            settled = take_lead(&partition, now.term).await;
        }
        let changed = async {
            match settled {
                true => leadership.changed().await.is_ok(),
                false => {
                    tokio::time::sleep(AGAIN).await;
                    true
                }
            }
        };
        if stop.run_until_cancelled(changed).await != Some(true) {
            return;
        }
    }
}

async fn take_lead(partition: &Partition, term: u64) -> bool {
    match partition.take_lead(term).await {
        Ok(()) => {
            tracing::info!(partition = partition.ledger.name(), term, "this node leads");
            true
        }
        Err(error) => {
            tracing::debug!(partition = partition.ledger.name(), %error, "the lead is not sure yet");
            false
        }
    }
}

async fn follow_program(node: Arc<Node>, stop: CancellationToken) {
    let mut changes = node.control.changes();
    while let Some(Ok(())) = stop.run_until_cancelled(changes.changed()).await {
        for partition in node.partitions.iter() {
            partition.take_program();
        }
    }
}

/// Names what is pending whenever some gateway does not know it: a look at every agent, so not more often than each
/// second, and away from what may not wait.
async fn name_anew(node: Arc<Node>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(node.unnamed.notified())
        .await
        .is_some()
    {
        for partition in node.partitions.iter().filter(|p| p.leads()) {
            let partition = partition.clone();
            let named =
                tokio::task::spawn_blocking(move || partition.name_pending(&partition.program()));
            if let Err(error) = named.await {
                tracing::warn!(%error, "what is pending was not named");
            }
        }
        let _stops = stop.run_until_cancelled(tokio::time::sleep(LOOK)).await;
    }
}

/// Calls `act` again and again until told to stop; a call that is under way ends first.
async fn every<T: Clone, F: Future<Output = ()> + Send>(
    pause: Duration,
    stop: CancellationToken,
    of: T,
    act: impl Fn(T) -> F + Send,
) {
    let mut interval = tokio::time::interval(pause);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        act(of.clone()).await;
    }
}
