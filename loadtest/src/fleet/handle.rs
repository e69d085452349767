//! One agent of a running fleet, as seen and driven from outside.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::opamp::RemoteConfigStatuses;
use proto::uid::Uid;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::agent::{ConfigStatus, Order};
use crate::driver::{Control, View};
use crate::script::Script;
use crate::stats::{Offer, Record, Report};

/// Cheap to clone. Orders to an agent that has ended do nothing.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    index: usize,
    role: Arc<str>,
    controls: mpsc::Sender<Control>,
    view: Arc<Mutex<View>>,
    record: Arc<Record>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// How an agent is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentState {
    pub uid: Uid,
    /// The process runs (false before its turn in the ramp, too).
    pub alive: bool,
    /// Its last exchange succeeded.
    pub connected: bool,
    /// What it says of its collector.
    pub healthy: bool,
    /// The last status, told or about to be.
    pub status: Option<ConfigStatus>,
    /// The next new message's.
    pub next_sequence_num: u64,
}

// === impl AgentState ===

impl AgentState {
    /// Whether the status says that `hash` is applied.
    pub fn applied(&self, hash: &[u8]) -> bool {
        self.says(hash, RemoteConfigStatuses::Applied)
    }

    /// Whether the status says that `hash` has failed.
    pub fn failed(&self, hash: &[u8]) -> bool {
        self.says(hash, RemoteConfigStatuses::Failed)
    }

    fn says(&self, hash: &[u8], status: RemoteConfigStatuses) -> bool {
        self.status
            .as_ref()
            .is_some_and(|said| said.hash == hash && said.status == status)
    }
}

// === impl AgentHandle: watching ===

impl AgentHandle {
    pub(super) fn new(
        index: usize,
        role: &str,
        controls: mpsc::Sender<Control>,
        view: Arc<Mutex<View>>,
        record: Arc<Record>,
        task: JoinHandle<()>,
    ) -> Self {
        let task = Arc::new(Mutex::new(Some(task)));
        AgentHandle {
            index,
            role: role.into(),
            controls,
            view,
            record,
            task,
        }
    }

    pub fn index(&self) -> usize {
        self.index
    }

    pub fn role(&self) -> &str {
        &self.role
    }

    pub fn uid(&self) -> Uid {
        self.view().disk.uid
    }

    pub fn state(&self) -> AgentState {
        let view = self.view();
        AgentState {
            uid: view.disk.uid,
            alive: view.alive,
            connected: view.connected,
            healthy: view.healthy,
            status: view.status().cloned(),
            next_sequence_num: view.next_number,
        }
    }

    /// What the collector runs, as the agent reports it; empty when it is stopped.
    pub fn effective_config(&self) -> String {
        let view = self.view();
        view.config.text(view.disk.uid)
    }

    /// What this agent was offered, in order.
    pub fn offers(&self) -> Vec<Offer> {
        self.record
            .offers()
            .into_iter()
            .filter(|offer| offer.agent == self.index)
            .collect()
    }

    /// What this agent has reported, in order.
    pub fn reports(&self) -> Vec<Report> {
        self.record
            .reports()
            .into_iter()
            .filter(|report| report.agent == self.index)
            .collect()
    }

    pub(super) fn view(&self) -> View {
        self.view
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

// === impl AgentHandle: driving ===

impl AgentHandle {
    /// Any order; the others are shorthands.
    pub async fn order(&self, order: Order) {
        let _ = self.controls.send(Control::Order(order)).await;
    }

    /// The collector's process dies; its supervisor starts it again after the restart delay.
    pub async fn crash(&self) {
        self.order(Order::Crash).await;
    }

    /// The collector reports itself unhealthy.
    pub async fn fail(&self, error: &str) {
        self.order(Order::Fail(error.to_owned())).await;
    }

    /// The collector reports itself healthy.
    pub async fn recover(&self) {
        self.order(Order::Recover).await;
    }

    /// The machine is suspended.
    pub async fn sleep(&self, length: Duration) {
        self.order(Order::Sleep(length)).await;
    }

    /// The supervisor is killed and started again.
    pub async fn restart(&self) {
        self.order(Order::Restart).await;
    }

    /// A non-identifying attribute changes.
    pub async fn relabel(&self, key: &str, value: &str) {
        self.order(Order::Relabel {
            key: key.to_owned(),
            value: value.to_owned(),
        })
        .await;
    }

    /// Another script from now on.
    pub async fn follow(&self, script: Script) {
        self.order(Order::Follow(Box::new(script))).await;
    }

    /// Ends the supervisor cleanly, and waits for it.
    pub async fn stop(&self) {
        let _ = self.controls.send(Control::Stop).await;
        self.ended(Instant::now() + super::STOP_MAX).await;
    }

    /// Switches the machine off without a word, and waits for it.
    pub async fn kill(&self) {
        let _ = self.controls.send(Control::Kill).await;
        self.ended(Instant::now() + super::STOP_MAX).await;
    }

    pub(super) fn ask_to_stop(&self) {
        let _ = self.controls.try_send(Control::Stop);
    }

    pub(super) fn abort(&self) {
        if let Some(task) = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            task.abort();
        }
    }

    /// Waits for the task's end until `deadline`, then ends it.
    pub(super) async fn ended(&self, deadline: Instant) {
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut task) = task
            && tokio::time::timeout_at(deadline, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}
