//! The OpAMP client of a simulated supervisor: numbers, what is still to be told, retries and reconnects.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::opamp::{
    AgentConfigMap, AgentConfigObject, AgentDisconnect, AgentToServer, EffectiveConfig,
};

use super::{ConfigStatus, Effect, Note, SimAgent, Timer, Wire, capability};
use crate::collector;

const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_mins(1);

/// What the next message has to tell. Things that change again before it goes out are told once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Nothing but "still here".
    pub poll: bool,
    pub description: bool,
    pub health: bool,
    pub effective: bool,
    pub status: bool,
    pub components_hash: bool,
    pub components: bool,
}

/// The client's own state; a new one stands for a new process.
#[derive(Debug)]
pub(super) struct Client {
    pub next_number: u64,
    pub due: Due,
    /// None: heartbeats are off.
    pub interval: Option<Duration>,
    /// Hash of the last settings taken (opamp-go `main`).
    pub settings_hash: Vec<u8>,
    /// HTTP: the request that has no answer yet.
    in_flight: Option<Bytes>,
    /// WebSocket: a connection stands.
    connected: bool,
    attempt: u32,
    dice: u64,
}

// === impl Due ===

impl Due {
    /// Everything but the list of components.
    pub const FULL: Due = Due {
        poll: true,
        description: true,
        health: true,
        effective: true,
        status: true,
        components_hash: true,
        components: false,
    };

    fn anything(self) -> bool {
        self != Due::default()
    }
}

// === impl Client ===

impl Client {
    pub fn new(seed: u64, interval: Duration) -> Self {
        Client {
            next_number: 0,
            due: Due::default(),
            interval: Some(interval),
            settings_hash: Vec::new(),
            in_flight: None,
            connected: false,
            attempt: 0,
            dice: seed,
        }
    }

    /// A client that has just been created: number 0, full state.
    pub fn start_over(&mut self) {
        self.next_number = 0;
        self.due = Due::FULL;
        self.in_flight = None;
        self.connected = false;
        self.attempt = 0;
    }

    /// 0.5 s × 1.5ⁿ ± 50 %, at most a minute.
    fn backoff(&mut self) -> Duration {
        let base = BACKOFF_FIRST
            .mul_f64(1.5_f64.powi(self.attempt.min(20) as i32))
            .min(BACKOFF_MAX);
        self.attempt += 1;
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        base.mul_f64(0.5 + (mixed >> 11) as f64 / (1_u64 << 53) as f64)
            .min(BACKOFF_MAX)
    }

    fn ready(&self, wire: Wire) -> bool {
        match wire {
            Wire::Http => self.in_flight.is_none(),
            Wire::Ws => self.connected,
        }
    }
}

// === impl SimAgent: sending ===

impl SimAgent {
    /// Sends what is due, if anything is and the transport is free.
    pub(super) fn flush(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if !self.client.due.anything() || !self.client.ready(self.wire) || self.deferred.is_some() {
            return;
        }
        let message = self.message(now);
        if let (Some(_), Some(status)) = (&message.remote_config_status, &self.disk.status) {
            let ConfigStatus {
                hash,
                status,
                error,
            } = status.clone();
            out.push(Effect::Log(Note::StatusSent {
                hash,
                status,
                error,
            }));
        }
        self.send(&message, out);
        if self.wire == Wire::Ws {
            self.schedule_poll(out);
        }
    }

    fn send(&mut self, message: &AgentToServer, out: &mut Vec<Effect>) {
        let bytes = Bytes::from(message.encode_to_vec());
        self.client.next_number = self.client.next_number.wrapping_add(1);
        if self.wire == Wire::Http {
            self.client.in_flight = Some(bytes.clone());
        }
        out.push(Effect::Send(bytes));
    }

    fn message(&mut self, now: Duration) -> AgentToServer {
        let due = std::mem::take(&mut self.client.due);
        let uid = self.disk.uid;
        let capable = |wanted: bool, bit: u64| wanted && self.has(bit);
        AgentToServer {
            instance_uid: Bytes::copy_from_slice(uid.as_bytes()),
            sequence_num: self.client.next_number,
            capabilities: self.capabilities(),
            agent_description: due.description.then(|| self.identity.description(uid)),
            health: capable(due.health, capability::REPORTS_HEALTH).then(|| self.health(now)),
            effective_config: capable(due.effective, capability::REPORTS_EFFECTIVE_CONFIG)
                .then(|| effective(self.effective_config())),
            remote_config_status: capable(due.status, capability::REPORTS_REMOTE_CONFIG)
                .then(|| self.disk.report()),
            available_components: capable(
                due.components || due.components_hash,
                capability::REPORTS_AVAILABLE_COMPONENTS,
            )
            .then(|| match due.components {
                true => self.identity.distribution.components().clone(),
                false => self.identity.distribution.components_hash(),
            }),
            ..AgentToServer::default()
        }
    }

    fn health(&self, now: Duration) -> proto::opamp::ComponentHealth {
        let wall = |at: Duration| self.options.epoch_nanos + at.as_nanos() as u64;
        let collector = &self.collector;
        collector::tree(
            &collector.health,
            &collector.config,
            wall(collector.started),
            wall(now),
        )
    }

    /// The last message over WebSocket.
    pub(super) fn farewell(&mut self, out: &mut Vec<Effect>) {
        if self.client.connected {
            let message = AgentToServer {
                instance_uid: Bytes::copy_from_slice(self.disk.uid.as_bytes()),
                sequence_num: self.client.next_number,
                capabilities: self.capabilities(),
                agent_disconnect: Some(AgentDisconnect {}),
                ..AgentToServer::default()
            };
            self.send(&message, out);
        }
    }

    /// The interval starts anew with each exchange.
    pub(super) fn schedule_poll(&self, out: &mut Vec<Effect>) {
        out.push(match self.client.interval {
            Some(interval) => Effect::SetTimer(Timer::Poll, interval),
            None => Effect::CancelTimer(Timer::Poll),
        });
    }

    /// HTTP: the request has its answer, whatever it was.
    pub(super) fn answered(&mut self, out: &mut Vec<Effect>) {
        self.client.attempt = 0;
        if self.wire == Wire::Http {
            self.client.in_flight = None;
            self.schedule_poll(out);
        }
    }

    /// WebSocket: the first connection of a client tells everything, a later one only what is due.
    pub(super) fn connected(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.client.connected = true;
        self.client.attempt = 0;
        self.client.due.poll = true;
        self.flush(now, out);
    }

    /// The connection broke: HTTP sends the same bytes later; WebSocket connects again, at once the first time.
    pub(super) fn lost(&mut self, out: &mut Vec<Effect>) {
        let immediately = self.wire == Wire::Ws && std::mem::take(&mut self.client.connected);
        let after = if immediately {
            Duration::ZERO
        } else {
            self.client.backoff()
        };
        self.retry_in(after, out);
    }

    fn retry_in(&mut self, after: Duration, out: &mut Vec<Effect>) {
        out.push(Effect::Log(Note::RetryIn(after)));
        out.push(Effect::CancelTimer(Timer::Poll));
        out.push(Effect::SetTimer(Timer::Retry, after));
    }

    /// A status that is not the one hoped for.
    pub(super) fn refused(
        &mut self,
        status: u16,
        retry_after: Option<Duration>,
        now: Duration,
        out: &mut Vec<Effect>,
    ) {
        if self.wire == Wire::Ws || matches!(status, 429 | 503) {
            self.client.connected = false;
            let after = self.client.backoff().max(retry_after.unwrap_or_default());
            self.retry_in(after, out);
            return;
        }
        out.push(Effect::Log(Note::Discarded { status }));
        self.answered(out);
        self.flush(now, out);
    }

    /// HTTP drops the answer silently; WebSocket gives the connection up.
    pub(super) fn undecodable(&mut self, now: Duration, out: &mut Vec<Effect>) {
        match self.wire {
            Wire::Http => {
                self.answered(out);
                self.flush(now, out);
            }
            Wire::Ws => self.lost(out),
        }
    }

    pub(super) fn retry(&mut self, out: &mut Vec<Effect>) {
        match (self.wire, &self.client.in_flight) {
            (Wire::Http, Some(bytes)) => out.push(Effect::Send(bytes.clone())),
            (Wire::Http, None) => {}
            (Wire::Ws, _) => out.push(Effect::Reconnect(None)),
        }
    }
}

fn effective(text: String) -> EffectiveConfig {
    let object = AgentConfigObject {
        body: text.into_bytes(),
        ..AgentConfigObject::default()
    };
    EffectiveConfig {
        config_map: Some(AgentConfigMap {
            config_map: [(String::new(), object)].into(),
        }),
    }
}
