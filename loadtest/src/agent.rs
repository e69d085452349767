//! A simulated OpAMP supervisor, without I/O: `step(event, now) → effects`.
//!
//! It does what the real supervisor and its OpAMP client do, their oddities included (reference: opamp.md §3 and
//! §4.2): APPLIED is a timer, re-delivery of the running config is APPLIED at once, a discarded message leaves a gap.
//! What it is not: a socket or a clock; those are the shells in `transport`.
//!
//! Invariants: a new message has the number after the last one's; a retry is the same bytes; over HTTP one request is
//! in flight; nothing is sent that the capabilities do not cover.

mod client;
mod disk;
mod event;
mod options;
mod receive;
mod supervise;
#[cfg(test)]
mod tests;

pub use disk::{ConfigStatus, Disk};
pub use event::{Effect, Event, Note, Order, Settings, Timer};
pub use options::{Generation, Options, Wire, capability};

use std::sync::Arc;
use std::time::Duration;

use proto::uid::Uid;

use crate::collector::Composer;
use crate::identity::Identity;
use crate::script::Script;
use client::Client;
use supervise::Collector;

/// Events kept for an agent that is suspended; older than these nothing matters to it.
const DEFERRED_MAX: usize = 64;

/// One supervisor with its collector.
#[derive(Debug)]
pub struct SimAgent {
    identity: Identity,
    wire: Wire,
    options: Arc<Options>,
    composer: Arc<Composer>,
    script: Script,
    /// What survives a restart.
    disk: Disk,
    client: Client,
    collector: Collector,
    /// While suspended: what happened meanwhile.
    deferred: Option<Vec<Event>>,
    alive: bool,
}

// === impl SimAgent ===

impl SimAgent {
    /// An agent that has not started; `disk` is [`Disk::empty`] for one that never ran.
    pub fn new(
        identity: Identity,
        wire: Wire,
        options: Arc<Options>,
        composer: Arc<Composer>,
        script: Script,
        disk: Disk,
    ) -> Self {
        let client = Client::new(identity.seed, options.interval);
        let collector = Collector::new(composer.noop());
        SimAgent {
            identity,
            wire,
            options,
            composer,
            script,
            disk,
            client,
            collector,
            deferred: None,
            alive: false,
        }
    }

    /// Takes `event` at `now` and says what the shell must do, in order.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Effect> {
        let mut out = Vec::new();
        match (&mut self.deferred, event) {
            (Some(_), Event::Timer(Timer::Wake)) => self.wake(now, &mut out),
            (Some(_), Event::Order(order @ Order::Restart)) => {
                self.deferred = None;
                out.push(Effect::Suspended(false));
                self.obey(order, now, &mut out);
            }
            (Some(_), Event::Stop) => out.push(Effect::Close),
            (Some(deferred), event) => {
                if deferred.len() < DEFERRED_MAX {
                    deferred.push(event);
                }
            }
            (None, event) => self.take(event, now, &mut out),
        }
        out
    }

    /// The uid of the moment; a server may have assigned another than the identity's.
    pub fn uid(&self) -> Uid {
        self.disk.uid
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The last status that was to be reported, sent or not.
    pub fn status(&self) -> Option<&ConfigStatus> {
        self.disk.status.as_ref()
    }

    /// Whether the collector would be reported healthy.
    pub fn healthy(&self) -> bool {
        self.collector.health.healthy()
    }

    /// The config that the collector runs, as YAML; empty when it is stopped.
    pub fn effective_config(&self) -> String {
        self.collector.config.text(self.disk.uid)
    }

    pub(crate) fn config(&self) -> &Arc<crate::collector::Composed> {
        &self.collector.config
    }

    /// The number that the next new message will have.
    pub fn next_sequence_num(&self) -> u64 {
        self.client.next_number
    }

    /// What a clone of this machine's disk would hold.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The capabilities sent with each message.
    pub fn capabilities(&self) -> u64 {
        let status = if self.script.no_config_status() {
            capability::REPORTS_REMOTE_CONFIG
        } else {
            0
        };
        self.options.capabilities & !status
    }

    fn has(&self, bit: u64) -> bool {
        self.capabilities() & bit != 0
    }

    fn take(&mut self, event: Event, now: Duration, out: &mut Vec<Effect>) {
        if !self.alive && !matches!(event, Event::Start) {
            return;
        }
        match event {
            Event::Start => self.start(now, out),
            Event::Connected => self.connected(now, out),
            Event::Reply(reply) => self.receive(*reply, now, out),
            Event::Undecodable => self.undecodable(now, out),
            Event::HttpError {
                status,
                retry_after,
            } => self.refused(status, retry_after, now, out),
            Event::NetworkError => self.lost(out),
            Event::Timer(timer) => self.timer(timer, now, out),
            Event::Order(order) => self.obey(order, now, out),
            Event::Stop => self.stop(now, out),
        }
    }

    fn timer(&mut self, timer: Timer, now: Duration, out: &mut Vec<Effect>) {
        match timer {
            Timer::Poll => self.client.due.poll = true,
            Timer::Retry => self.retry(out),
            Timer::Apply => self.apply_timeout(now, out),
            Timer::CollectorUp => self.collector_up(),
            Timer::CollectorExit => self.collector_exit(1, now, out),
            Timer::CollectorFails => {
                self.collector_fails("component is failing: connection refused")
            }
            Timer::CollectorStart => self.launch(now, out),
            Timer::Sleep => self.sleep(
                self.script
                    .sleeps()
                    .map(|(_, length)| length)
                    .unwrap_or_default(),
                out,
            ),
            Timer::Wake => {}
        }
        self.flush(now, out);
    }

    fn obey(&mut self, order: Order, now: Duration, out: &mut Vec<Effect>) {
        match order {
            Order::Crash => self.collector_exit(2, now, out),
            Order::Fail(error) => self.collector_fails(&error),
            Order::Recover => self.collector_recovers(),
            Order::Sleep(length) => self.sleep(length, out),
            Order::Restart => {
                self.client = Client::new(self.identity.seed, self.options.interval);
                Timer::ALL
                    .into_iter()
                    .for_each(|timer| out.push(Effect::CancelTimer(timer)));
                out.push(Effect::Reconnect(None));
                self.start(now, out);
                return;
            }
            Order::Relabel { key, value } => {
                self.identity.non_identifying.insert(key, value);
                self.client.due.description = true;
            }
            Order::Follow(script) => self.script = *script,
        }
        self.flush(now, out);
    }

    fn start(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.alive = true;
        let config = self
            .disk
            .received
            .clone()
            .unwrap_or_else(|| self.composer.noop());
        self.collector = Collector::new(config);
        self.launch(now, out);
        if let Some((from, _)) = self.script.sleeps() {
            out.push(Effect::SetTimer(Timer::Sleep, from));
        }
        self.client.start_over();
        match self.wire {
            Wire::Http => self.flush(now, out),
            Wire::Ws => out.push(Effect::Reconnect(None)),
        }
    }

    fn sleep(&mut self, length: Duration, out: &mut Vec<Effect>) {
        self.deferred = Some(Vec::new());
        out.extend([
            Effect::Suspended(true),
            Effect::SetTimer(Timer::Wake, length),
        ]);
    }

    fn wake(&mut self, now: Duration, out: &mut Vec<Effect>) {
        out.push(Effect::Suspended(false));
        for event in self.deferred.take().unwrap_or_default() {
            match &mut self.deferred {
                Some(deferred) => deferred.push(event),
                None => self.take(event, now, out),
            }
        }
        self.flush(now, out);
    }

    /// A clean stop: a word of farewell over WebSocket, none over HTTP.
    fn stop(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.collector_shut_down();
        if self.wire == Wire::Ws {
            self.flush(now, out);
            self.farewell(out);
        }
        self.alive = false;
        out.push(Effect::Close);
    }
}
