//! What a simulated supervisor does with its collector: start, apply, watch, roll back.

use std::sync::Arc;
use std::time::Duration;

use proto::opamp::{AgentRemoteConfig, RemoteConfigStatuses as Status};

use super::{ConfigStatus, Effect, Note, SimAgent, Timer};
use crate::collector::{Composed, Health};

/// The collector's process.
#[derive(Debug)]
pub(super) struct Collector {
    pub config: Arc<Composed>,
    pub health: Health,
    /// On the clock of `now`.
    pub started: Duration,
    /// The config whose apply timer runs.
    applying: Option<Applying>,
    starts: u32,
}

#[derive(Debug)]
struct Applying {
    hash: Vec<u8>,
    /// Going back to this one; there is no way back from it.
    rollback: bool,
    /// Its status will not be told.
    mute: bool,
}

// === impl Collector ===

impl Collector {
    pub fn new(config: Arc<Composed>) -> Self {
        Collector {
            config,
            health: Health::Starting,
            started: Duration::ZERO,
            applying: None,
            starts: 0,
        }
    }
}

// === impl SimAgent: configs ===

impl SimAgent {
    /// A remote config arrived.
    pub(super) fn offered(
        &mut self,
        offer: AgentRemoteConfig,
        now: Duration,
        out: &mut Vec<Effect>,
    ) {
        let hash = offer.config_hash;
        out.push(Effect::Log(Note::Offered { hash: hash.clone() }));
        let config = match self.composer.compose(&offer.config.unwrap_or_default()) {
            Ok(config) => config,
            Err(error) => return self.verdict(hash, Status::Failed, &error),
        };
        let concerned = self.script.concerns(config.bodies());
        if let Some(error) = self.script.rejects().filter(|_| concerned) {
            let error = error.to_owned();
            return self.verdict(hash, Status::Failed, &error);
        }
        let mute = concerned && self.script.never_answers();
        self.disk.received = Some(config.clone());
        if config.same_as(&self.collector.config) {
            return self.unchanged(hash, config, mute);
        }
        if config.stopped {
            return self.stop_collector(hash, config, out);
        }
        if !mute {
            self.verdict(hash.clone(), Status::Applying, "");
        }
        self.apply(
            Applying {
                hash,
                rollback: false,
                mute,
            },
            config,
            now,
            out,
        );
    }

    /// The merged config is the running one: APPLIED at once, whatever its health, as the real supervisor says.
    fn unchanged(&mut self, hash: Vec<u8>, config: Arc<Composed>, mute: bool) {
        if self.script.rolls_back() {
            self.disk.working = Some((hash.clone(), config));
        }
        if !mute {
            self.verdict(hash, Status::Applied, "");
        }
    }

    /// An empty config map: the collector is stopped on purpose and called healthy.
    fn stop_collector(&mut self, hash: Vec<u8>, config: Arc<Composed>, out: &mut Vec<Effect>) {
        self.collector.config = config;
        self.collector.applying = None;
        self.cancel_collector_timers(out);
        out.push(Effect::CancelTimer(Timer::Apply));
        self.set_health(Health::Stopped);
        self.client.due.effective = true;
        self.verdict(hash, Status::Applied, "");
    }

    fn apply(
        &mut self,
        applying: Applying,
        config: Arc<Composed>,
        now: Duration,
        out: &mut Vec<Effect>,
    ) {
        self.collector.config = config;
        self.collector.applying = Some(applying);
        self.client.due.effective = true;
        out.push(Effect::SetTimer(Timer::Apply, self.options.apply_timeout));
        self.launch(now, out);
    }

    /// `config_apply_timeout` is over: the last health decides.
    pub(super) fn apply_timeout(&mut self, now: Duration, out: &mut Vec<Effect>) {
        let Some(applying) = self.collector.applying.take() else {
            return;
        };
        if !self.healthy() {
            self.failed(applying, "Config apply timeout exceeded", now, out);
            return;
        }
        self.disk.working = Some((applying.hash.clone(), self.collector.config.clone()));
        if !applying.mute {
            self.verdict(applying.hash, Status::Applied, "");
        }
    }

    fn failed(&mut self, applying: Applying, error: &str, now: Duration, out: &mut Vec<Effect>) {
        if !applying.mute {
            self.verdict(applying.hash, Status::Failed, error);
        }
        let Some((hash, config)) = self.disk.working.clone() else {
            return;
        };
        if !self.script.rolls_back() || applying.rollback {
            return;
        }
        // FAILED must be out before APPLIED of the older one replaces it; the apply timer sees to that.
        out.push(Effect::Log(Note::RolledBack { to: hash.clone() }));
        self.disk.received = Some(config.clone());
        self.apply(
            Applying {
                hash,
                rollback: true,
                mute: applying.mute,
            },
            config,
            now,
            out,
        );
    }

    /// Records a status to be told. Without a hash the client library refuses to send one.
    fn verdict(&mut self, hash: Vec<u8>, status: Status, error: &str) {
        if !hash.is_empty() {
            self.disk.status = Some(ConfigStatus {
                hash,
                status,
                error: error.to_owned(),
            });
            self.client.due.status = true;
        }
    }
}

// === impl SimAgent: the process ===

impl SimAgent {
    /// Stops the collector, if it runs, and starts it with the config of the moment.
    pub(super) fn launch(&mut self, now: Duration, out: &mut Vec<Effect>) {
        self.cancel_collector_timers(out);
        if self.collector.config.stopped {
            return self.set_health(Health::Stopped);
        }
        self.collector.started = now;
        self.collector.starts += 1;
        self.set_health(Health::Starting);
        out.push(Effect::SetTimer(Timer::CollectorUp, self.options.startup));
        if self.collector.config.remote && self.script.concerns(self.collector.config.bodies()) {
            if let Some(after) = self.script.crashes_after() {
                out.push(Effect::SetTimer(Timer::CollectorExit, after));
            }
            if let Some(after) = self.script.unhealthy_after() {
                out.push(Effect::SetTimer(Timer::CollectorFails, after));
            }
        }
    }

    fn cancel_collector_timers(&self, out: &mut Vec<Effect>) {
        for timer in [
            Timer::CollectorUp,
            Timer::CollectorExit,
            Timer::CollectorFails,
            Timer::CollectorStart,
        ] {
            out.push(Effect::CancelTimer(timer));
        }
    }

    /// The first health after a start. A component that has failed in the meantime stays failed.
    pub(super) fn collector_up(&mut self) {
        if matches!(self.collector.health, Health::Starting | Health::Unknown) {
            self.set_health(Health::Ok);
        }
    }

    pub(super) fn collector_recovers(&mut self) {
        if !matches!(self.collector.health, Health::Exited(_) | Health::Stopped) {
            self.set_health(Health::Ok);
        }
    }

    pub(super) fn collector_fails(&mut self, error: &str) {
        if !matches!(self.collector.health, Health::Exited(_) | Health::Stopped) {
            self.set_health(Health::Failing(error.to_owned()));
        }
    }

    /// The process ends by itself: the config under test has failed, and the next start is due later.
    pub(super) fn collector_exit(&mut self, code: i32, now: Duration, out: &mut Vec<Effect>) {
        if matches!(self.collector.health, Health::Exited(_) | Health::Stopped) {
            return;
        }
        let pid = 1000 + self.identity.seed % 30_000 + u64::from(self.collector.starts);
        let error = format!(
            "Agent process PID={pid} exited unexpectedly, exit code={code}. Will restart in a bit..."
        );
        out.push(Effect::Log(Note::CollectorExited(error.clone())));
        self.cancel_collector_timers(out);
        self.set_health(Health::Exited(error.clone()));
        out.push(Effect::SetTimer(
            Timer::CollectorStart,
            self.options.restart_delay,
        ));
        if let Some(applying) = self.collector.applying.take() {
            out.push(Effect::CancelTimer(Timer::Apply));
            self.failed(applying, &error, now, out);
        }
    }

    pub(super) fn collector_shut_down(&mut self) {
        self.set_health(Health::Exited("Supervisor is shutdown".to_owned()));
    }

    /// A new client has not heard from the collector: unhealthy until the next change.
    pub(super) fn forget_health(&mut self) {
        if self.collector.health == Health::Ok {
            self.collector.health = Health::Unknown;
        }
    }

    fn set_health(&mut self, health: Health) {
        if health != self.collector.health {
            self.collector.health = health;
            self.client.due.health = true;
        }
    }
}
