//! Starting a group: checks, recovery, first membership, and the tasks that follow the core.
//!
//! Invariant: a group that ever promised anything is never initialised again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::metrics::WaitError;
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};
use tokio::sync::{mpsc, watch};

use super::{Counters, Group, Leadership, Parts, Running, current, gather};
use crate::log::{self, Log, LogStore};
use crate::network::Network;
use crate::store::{self, Shared};
use crate::types::TypeConfig;
use crate::worker::{self, Milestone, Worker};
use crate::{Bootstrap, Fatal, GroupConfig, GroupId, NodeId, StartError, StateMachine};

pub(super) async fn start<M: StateMachine>(
    store: Arc<Shared>,
    group: GroupId,
    node: NodeId,
    machine: M,
    config: GroupConfig,
) -> Result<Group<M>, StartError> {
    let settings = settings(group, &config)?;
    if !store.enter(group) {
        return Err(StartError::Running(group));
    }
    let started = run(Arc::clone(&store), group, node, machine, config, settings).await;
    // A handle that was made leaves by itself when it is dropped.
    started.inspect_err(|_| store.leave(group))
}

async fn run<M: StateMachine>(
    store: Arc<Shared>,
    group: GroupId,
    node: NodeId,
    machine: M,
    config: GroupConfig,
    settings: Config,
) -> Result<Group<M>, StartError> {
    let failed = |source| StartError::Fatal { group, source };
    let (shared, limits) = (Arc::clone(&store), config.clone());
    let opened =
        tokio::task::spawn_blocking(move || open(shared, group, node, machine, &limits)).await;
    let (parts, worker) =
        opened.map_err(|error| failed(Fatal::because("open the group", error)))??;
    let pristine = parts.log.is_pristine();

    let counters = Arc::new(Counters::default());
    let network = Network {
        peers: Arc::clone(&config.peers),
        group,
        request_timeout: config.request_timeout,
        snapshot_timeout: config.snapshot_timeout,
        counters: Arc::clone(&counters),
    };
    let raft = Raft::new(
        node.0,
        Arc::new(settings),
        network,
        LogStore(Arc::clone(&parts.log)),
        worker,
    );
    let raft = Box::pin(raft)
        .await
        .map_err(|error| failed(Fatal::because("start the core", error)))?;

    let (said, leadership) = watch::channel(Leadership::of(&current(&raft)));
    // Who proposes waits for its answer, so that what is queued is as much as there are proposers.
    let (proposals, gathered) = mpsc::unbounded_channel();
    let tasks = vec![
        tokio::spawn(gather::run(raft.clone(), gathered)).abort_handle(),
        tokio::spawn(follow(raft.clone(), said)).abort_handle(),
        tokio::spawn(trigger(
            raft.clone(),
            config.clone(),
            Arc::clone(&parts.backlog),
        ))
        .abort_handle(),
    ];
    let running = Running {
        raft,
        store,
        group,
        node,
        propose_timeout: config.propose_timeout,
        read_timeout: config.read_timeout,
        snapshot_timeout: config.snapshot_timeout,
        change_timeout: config.change_timeout,
        // What fits into one message arrives before the voter is asked to stand.
        transfer_behind_max: config.replicate_entries_max,
        silence: config.election_min,
        milestone: parts.milestone,
        changes: tokio::sync::Mutex::new(()),
        leadership,
        counters,
        proposals,
        tasks,
    };
    let started = Group {
        shared: Arc::new(running),
    };
    if let Err(error) = started.become_member(pristine, &config).await {
        started.shutdown().await;
        return Err(error);
    }
    Ok(started)
}

/// Everything that blocks.
fn open<M: StateMachine>(
    store: Arc<Shared>,
    group: GroupId,
    node: NodeId,
    machine: M,
    config: &GroupConfig,
) -> Result<(Parts, Worker<M>), StartError> {
    let failed = |source| StartError::Fatal { group, source };
    let owner = store::owner(&store.db, node).map_err(failed)?;
    if owner != node {
        return Err(StartError::OtherNode { owner, asked: node });
    }
    let found = store.db.applied(group).map_err(failed)?.sm_format;
    if found > M::FORMAT {
        return Err(StartError::NewerFormat {
            group,
            found,
            known: M::FORMAT,
        });
    }
    let limits = log::Limits {
        tail_bytes: config.tail_bytes,
        read_bytes: config.replicate_bytes_max,
    };
    let (db, queue, stop) = (
        Arc::clone(&store.db),
        Arc::clone(&store.queue),
        Arc::clone(&store.stop),
    );
    let log = Arc::new(Log::open(group, db, queue, stop, limits).map_err(failed)?);
    let backlog = Arc::new(AtomicU64::new(0));
    let milestone = Arc::new(Milestone::default());
    let limits = worker::Limits {
        entries: config.apply_entries_max,
        bytes: config.apply_bytes_max,
    };
    let worker = Worker::open(
        machine,
        store,
        Arc::clone(&log),
        limits,
        Arc::clone(&backlog),
        Arc::clone(&milestone),
    )
    .map_err(failed)?;
    let parts = Parts {
        log,
        backlog,
        milestone,
    };
    Ok((parts, worker))
}

impl<M: StateMachine> Group<M> {
    async fn become_member(&self, pristine: bool, config: &GroupConfig) -> Result<(), StartError> {
        let Running {
            raft, node, group, ..
        } = &*self.shared;
        let failed = |what: &str, error: &dyn std::error::Error| StartError::Fatal {
            group: *group,
            source: Fatal::new(format!("{what}: {error}")),
        };
        let first = match &config.bootstrap {
            Bootstrap::Alone => Some(BTreeSet::from([*node])),
            Bootstrap::Voters(voters) => Some(voters.clone()),
            Bootstrap::Join => None,
        };
        if let (true, Some(voters)) = (pristine, first) {
            let members: BTreeMap<u64, EmptyNode> =
                voters.iter().map(|id| (id.0, EmptyNode::new())).collect();
            raft.initialize(members)
                .await
                .map_err(|error| failed("initialise", &error))?;
        }
        // Asked of the core: what it publishes may not show the first membership yet.
        let voters = raft.with_raft_state(|state| {
            state
                .membership_state
                .effective()
                .voter_ids()
                .collect::<Vec<_>>()
        });
        if voters
            .await
            .map_err(|error| failed("read the members", &error))?
            != [node.0]
        {
            return Ok(());
        }
        // Nobody else can lead, so there is nothing to wait for.
        if !pristine {
            raft.trigger()
                .elect(false)
                .await
                .map_err(|error| failed("elect", &error))?;
        }
        let recovered = async {
            raft.wait_for_recovery(Some(config.start_timeout)).await?;
            raft.wait(Some(config.start_timeout))
                .current_leader(node.0, "a lone voter leads")
                .await
        };
        match recovered.await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout(..)) => Err(StartError::Timeout(*group)),
            Err(error) => Err(failed("recover", &error)),
        }
    }
}

// === tasks ===

/// Passes changes of leadership on, until the core stops.
async fn follow<M: StateMachine>(
    raft: Raft<TypeConfig, Worker<M>>,
    said: watch::Sender<Leadership>,
) {
    let mut metrics = raft.metrics();
    loop {
        let now = Leadership::of(&metrics.borrow_watched().clone());
        said.send_if_modified(|before| std::mem::replace(before, now) != now);
        if WatchReceiver::changed(&mut metrics).await.is_err() {
            said.send_modify(|before| before.role = super::Role::Stopped);
            return;
        }
    }
}

/// Time between two looks at how far the last snapshot is behind.
const TRIGGER_INTERVAL: Duration = Duration::from_millis(500);

/// Takes a snapshot when enough was applied since the last; the core purges the log after it.
async fn trigger<M: StateMachine>(
    raft: Raft<TypeConfig, Worker<M>>,
    config: GroupConfig,
    backlog: Arc<AtomicU64>,
) {
    let mut tick = tokio::time::interval(TRIGGER_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let metrics = current(&raft);
        let covered = metrics.snapshot.map_or(0, |id| id.index + 1);
        let applied = metrics.last_applied.map_or(0, |id| id.index + 1);
        let entries = applied.saturating_sub(covered);
        let due = entries >= config.snapshot_entries
            || backlog.load(Ordering::Relaxed) >= config.snapshot_log_bytes;
        if entries > 0 && due && raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

// === settings ===

fn settings(group: GroupId, config: &GroupConfig) -> Result<Config, StartError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let settings = Config {
        cluster_name: group.to_string(),
        heartbeat_interval: millis(config.heartbeat),
        heartbeat_min_interval: Some(millis(config.heartbeat)),
        election_timeout_min: millis(config.election_min),
        election_timeout_max: millis(config.election_max),
        enable_pre_vote: Some(config.pre_vote),
        quorum_loss_probe_interval: Some(millis(config.election_max).saturating_mul(2)),
        // A restarted leader may have forgotten what it applied: it asks for votes first.
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        install_snapshot_timeout: millis(config.snapshot_timeout),
        max_payload_entries: config.replicate_entries_max,
        max_append_entries: Some(config.append_entries_max),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: config.log_keep_entries,
        purge_batch_size: config.purge_entries_min,
        // A follower behind this gets a snapshot: more than one can lag between two of them.
        replication_lag_threshold: config
            .snapshot_entries
            .saturating_add(config.log_keep_entries),
        ..Config::default()
    };
    settings.validate().map_err(|error| StartError::Config {
        group,
        reason: error.to_string(),
    })
}
