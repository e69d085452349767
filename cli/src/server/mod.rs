//! The servers: all in one process (`serve`), or its halves (`node`, `gateway`), and a whole cluster on this machine
//! (`local-cluster`). `restore` makes the data that they start with of a backup.

mod access;
pub mod gateway;
mod link;
mod listeners;
pub mod local_cluster;
pub mod node;
mod options;
mod places;
pub mod restore;
pub mod serve;

use std::sync::Arc;

use ::node::Node;
use tokio_util::sync::CancellationToken;

use crate::observe;

use listeners::Ready;
use options::Log;

/// Set for the processes of a local cluster: they stop when what has started them is gone, also when it was killed.
const ENDS_WITH_PARENT: &str = "MUSTER_ENDS_WITH_PARENT";

/// Runs with logs and telemetry until `work` has ended; SIGTERM and SIGINT tell it to.
async fn with_telemetry<F: Future<Output = anyhow::Result<()>>>(
    log: &Log,
    work: impl FnOnce(CancellationToken) -> F,
) -> anyhow::Result<()> {
    let telemetry = observe::start(log.log_format, log.otlp_endpoint.as_deref())?;
    if std::env::var_os(ENDS_WITH_PARENT).is_some() {
        let term = Some(rustix::process::Signal::TERM);
        rustix::process::set_parent_process_death_signal(term)?;
    }
    raise_descriptors();
    let stop = CancellationToken::new();
    tokio::spawn(signals(stop.clone()));
    let ended = work(stop).await;
    telemetry.stop();
    ended
}

/// Each connection and each file of the store takes a descriptor, and many systems give a process few of them at first for
/// the sake of programs that use `select`.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(descriptors = limit.maximum, "all that are allowed"),
        Err(error) => {
            tracing::warn!(%error, descriptors = limit.current, "no more descriptors are given");
        }
    }
}

/// The operators' services of a node, without reflection and health.
fn operators(node: &Arc<Node>) -> axum::Router {
    let routes = ::node::api::Api::new(node.clone()).routes();
    routes.prepare().into_axum_router()
}

/// Has every group a leader, as far as this node knows?
fn ready(node: Arc<Node>) -> Ready {
    Arc::new(move || {
        node.groups()
            .try_for_each(|(name, status)| match status.stopped {
                Some(why) => Err(format!("group {name} has stopped: {why}")),
                None if status.leadership.leader.is_none() => {
                    Err(format!("group {name} has no leader"))
                }
                None => Ok(()),
            })
    })
}

async fn signals(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        tracing::error!(
            "signals cannot be received: stop the process with SIGKILL; the next start recovers"
        );
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("draining");
    stop.cancel();
}
