//! An agent with a hand-driven clock and server.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::opamp::{AgentRemoteConfig, AgentToServer, RemoteConfigStatuses, ServerToAgent};

use crate::agent::{Disk, Effect, Event, Note, Options, Settings, SimAgent, Timer, Wire};
use crate::collector::{Composer, config_map};
use crate::identity::Identity;
use crate::script::Script;

pub const GOOD: &str = "receivers: { otlp: null }\nexporters: { debug: null }\n\
    service: { pipelines: { traces: { receivers: [otlp], exporters: [debug] } } }\n";
pub const BAD: &str = "receivers: { otlp: null }\nexporters: { broken: null }\n\
    service: { pipelines: { traces: { receivers: [otlp], exporters: [broken] } } }\n";

pub struct Rig {
    pub agent: SimAgent,
    pub now: Duration,
    timers: [Option<Duration>; Timer::COUNT],
    pub raw: Vec<Bytes>,
    pub notes: Vec<Note>,
    pub reconnects: Vec<Option<Settings>>,
    pub closed: bool,
    seen: usize,
}

impl Rig {
    pub fn with(wire: Wire, options: Options, script: Script) -> Self {
        let identity = Identity::drawn(1, 1, "gateway");
        let disk = Disk::empty(identity.uid);
        let agent = SimAgent::new(
            identity,
            wire,
            Arc::new(options),
            Arc::new(Composer::default()),
            script,
            disk,
        );
        Rig {
            agent,
            now: Duration::ZERO,
            timers: [None; Timer::COUNT],
            raw: Vec::new(),
            notes: Vec::new(),
            reconnects: Vec::new(),
            closed: false,
            seen: 0,
        }
    }

    /// Started over HTTP, healthy, with nothing left to say.
    pub fn idle(script: Script) -> Self {
        Self::idle_with(Options::default(), script)
    }

    pub fn idle_with(options: Options, script: Script) -> Self {
        let mut rig = Rig::with(Wire::Http, options, script);
        rig.event(Event::Start);
        rig.settle();
        rig.advance(Duration::from_millis(500));
        rig.new_messages();
        rig
    }

    pub fn event(&mut self, event: Event) {
        for effect in self.agent.step(event, self.now) {
            match effect {
                Effect::Send(bytes) => self.raw.push(bytes),
                Effect::SetTimer(timer, after) => {
                    self.timers[timer as usize] = Some(self.now + after)
                }
                Effect::CancelTimer(timer) => self.timers[timer as usize] = None,
                Effect::Reconnect(settings) => self.reconnects.push(settings),
                Effect::Suspended(_) => {}
                Effect::Close => self.closed = true,
                Effect::Log(note) => self.notes.push(note),
            }
        }
    }

    /// Answers with nothing until nothing more is said.
    pub fn settle(&mut self) {
        let mut answered = self.raw.len().saturating_sub(1);
        while answered < self.raw.len() {
            answered = self.raw.len();
            self.reply(ServerToAgent::default());
        }
    }

    pub fn reply(&mut self, reply: ServerToAgent) {
        self.event(Event::Reply(Box::new(reply)));
    }

    /// Delivers a config with the next answer, and settles what it says at once.
    pub fn offer(&mut self, hash: &str, body: &str) {
        self.reply(offer(hash, body));
        self.settle();
    }

    /// Lets time pass; each message is answered with nothing.
    pub fn advance(&mut self, length: Duration) {
        let end = self.now + length;
        while let Some((at, kind)) = self
            .timers
            .iter()
            .enumerate()
            .filter_map(|(k, at)| Some(((*at)?, k)))
            .min()
        {
            if at > end {
                break;
            }
            self.now = at;
            self.timers[kind] = None;
            let before = self.raw.len();
            self.event(Event::Timer(Timer::ALL[kind]));
            if self.raw.len() > before {
                self.settle();
            }
        }
        self.now = end;
    }

    pub fn advance_secs(&mut self, seconds: u64) {
        self.advance(Duration::from_secs(seconds));
    }

    /// When the timer runs out, from now.
    pub fn timer(&self, timer: Timer) -> Option<Duration> {
        self.timers[timer as usize].map(|at| at - self.now)
    }

    /// Runs the timer out now, without answering what it sends.
    pub fn expire(&mut self, timer: Timer) {
        self.now = self.timers[timer as usize].take().unwrap();
        self.event(Event::Timer(timer));
    }

    /// What was sent since the last call.
    pub fn new_messages(&mut self) -> Vec<AgentToServer> {
        let new = self.raw[self.seen..]
            .iter()
            .map(|bytes| AgentToServer::decode(bytes.clone()).unwrap())
            .collect();
        self.seen = self.raw.len();
        new
    }

    /// The statuses among them.
    pub fn new_statuses(&mut self) -> Vec<(RemoteConfigStatuses, String)> {
        let statuses = self
            .new_messages()
            .into_iter()
            .filter_map(|message| message.remote_config_status);
        statuses
            .map(|s| {
                (
                    s.status(),
                    String::from_utf8(s.last_remote_config_hash).unwrap(),
                )
            })
            .collect()
    }

    pub fn last(&mut self) -> AgentToServer {
        self.new_messages().pop().unwrap()
    }
}

pub fn offer(hash: &str, body: &str) -> ServerToAgent {
    let offer = AgentRemoteConfig {
        config: Some(config_map(body)),
        config_hash: hash.as_bytes().to_vec(),
    };
    ServerToAgent {
        remote_config: Some(offer),
        ..ServerToAgent::default()
    }
}
