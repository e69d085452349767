//! The part of a shell that both transports share: clock, timers, orders, counting.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use proto::uid::Uid;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::{ConfigStatus, Disk, Effect, Event, Order, Settings, SimAgent, Timer};
use crate::collector::Composed;
use crate::stats::Record;

/// What a handle can ask of an agent's task.
#[derive(Debug)]
pub(crate) enum Control {
    Order(Order),
    /// End cleanly.
    Stop,
    /// Power off: not a word.
    Kill,
}

/// What is left to do with the network.
#[derive(Debug)]
pub(crate) enum Io {
    Send(bytes::Bytes),
    Reconnect(Option<Settings>),
    Close,
}

/// What a handle can see of an agent.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub disk: Disk,
    pub config: Arc<Composed>,
    pub next_number: u64,
    pub healthy: bool,
    pub connected: bool,
    pub alive: bool,
}

/// One agent's core with its clock.
pub(crate) struct Driver {
    index: usize,
    agent: SimAgent,
    timers: [Option<Instant>; Timer::COUNT],
    controls: mpsc::Receiver<Control>,
    record: Arc<Record>,
    view: Arc<Mutex<View>>,
    sent_at: Option<Instant>,
    connected: bool,
    pub suspended: bool,
}

// === impl View ===

impl View {
    pub fn of(agent: &SimAgent) -> Self {
        View {
            disk: agent.disk().clone(),
            config: agent.config().clone(),
            next_number: agent.next_sequence_num(),
            healthy: agent.healthy(),
            connected: false,
            alive: false,
        }
    }

    pub fn status(&self) -> Option<&ConfigStatus> {
        self.disk.status.as_ref()
    }
}

// === impl Driver ===

impl Driver {
    pub fn new(
        index: usize,
        agent: SimAgent,
        controls: mpsc::Receiver<Control>,
        record: Arc<Record>,
        view: Arc<Mutex<View>>,
    ) -> Self {
        record.started.fetch_add(1, Relaxed);
        Driver {
            index,
            agent,
            timers: [None; Timer::COUNT],
            controls,
            record,
            view,
            sent_at: None,
            connected: false,
            suspended: false,
        }
    }

    pub fn uid(&self) -> Uid {
        self.agent.uid()
    }

    /// The next order or timer; None when the agent is switched off. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        let next = self
            .timers
            .iter()
            .enumerate()
            .filter_map(|(kind, at)| Some((at.as_ref()?, kind)))
            .min();
        let next = next.map(|(at, kind)| (*at, kind));
        let timer = async {
            match next {
                Some((at, _)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            control = self.controls.recv() => match control {
                Some(Control::Order(order)) => Some(Event::Order(order)),
                Some(Control::Stop) => Some(Event::Stop),
                Some(Control::Kill) | None => None,
            },
            () = timer => {
                let (_, kind) = next?;
                self.timers[kind] = None;
                Some(Event::Timer(Timer::ALL[kind]))
            }
        }
    }

    /// One step of the core; timers are set and notes counted, the rest is the shell's.
    pub fn step(&mut self, event: Event) -> Vec<Io> {
        self.count(&event);
        let effects = self.agent.step(event, self.record.now());
        let ios = effects
            .into_iter()
            .filter_map(|effect| self.perform(effect))
            .collect();
        self.show(true);
        ios
    }

    fn count(&mut self, event: &Event) {
        let counters = &self.record.counters;
        let connected = match event {
            Event::Reply(_) => {
                if let Some(sent_at) = self.sent_at.take() {
                    self.record.answered(self.index, sent_at.elapsed());
                }
                true
            }
            Event::HttpError { status, .. } => {
                if matches!(status, 429 | 503) {
                    counters.shed.fetch_add(1, Relaxed);
                }
                false
            }
            Event::NetworkError => {
                counters.network_errors.fetch_add(1, Relaxed);
                false
            }
            Event::Undecodable => {
                counters.undecodable.fetch_add(1, Relaxed);
                self.connected
            }
            _ => self.connected,
        };
        self.set_connected(connected);
    }

    fn set_connected(&mut self, connected: bool) {
        if connected != self.connected {
            self.connected = connected;
            self.record
                .connected
                .fetch_add(if connected { 1 } else { -1 }, Relaxed);
        }
    }

    fn perform(&mut self, effect: Effect) -> Option<Io> {
        match effect {
            Effect::Send(bytes) => {
                self.sent_at = Some(Instant::now());
                self.record.counters.messages_sent.fetch_add(1, Relaxed);
                self.record
                    .counters
                    .bytes_sent
                    .fetch_add(bytes.len() as u64, Relaxed);
                return Some(Io::Send(bytes));
            }
            Effect::SetTimer(timer, after) => {
                self.timers[timer as usize] = Some(Instant::now() + after)
            }
            Effect::CancelTimer(timer) => self.timers[timer as usize] = None,
            Effect::Reconnect(settings) => return Some(Io::Reconnect(settings)),
            Effect::Suspended(suspended) => self.suspended = suspended,
            Effect::Close => return Some(Io::Close),
            Effect::Log(note) => self.record.note(self.index, self.agent.uid(), &note),
        }
        None
    }

    fn show(&self, alive: bool) {
        let view = View {
            connected: self.connected,
            alive,
            ..View::of(&self.agent)
        };
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.set_connected(false);
        self.record.started.fetch_sub(1, Relaxed);
        self.show(false);
    }
}
