//! What happens to a simulated supervisor, and what it wants done.

use std::time::Duration;

use bytes::Bytes;
use proto::opamp::{RemoteConfigStatuses, ServerToAgent};
use proto::uid::Uid;

use crate::script::Script;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// The supervisor's process starts.
    Start,
    /// WebSocket: a connection that was asked for stands.
    Connected,
    /// An answer over HTTP, any message over WebSocket.
    Reply(Box<ServerToAgent>),
    /// An answer of status 200, or a frame, that is no message.
    Undecodable,
    /// The request, or the upgrade, was answered with another status than it needs.
    HttpError {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// No answer: the connection could not be made, or broke.
    NetworkError,
    /// A timer set by an effect has run out.
    Timer(Timer),
    /// The person, or the test, who drives the simulation.
    Order(Order),
    /// The supervisor's process is asked to end.
    Stop,
}

/// What can be done to an agent from outside.
#[derive(Clone, Debug)]
pub enum Order {
    /// The collector's process dies; the supervisor starts it again later.
    Crash,
    /// The collector reports itself unhealthy with this text.
    Fail(String),
    /// The collector reports itself healthy.
    Recover,
    /// The machine is suspended for so long.
    Sleep(Duration),
    /// The supervisor's process is killed and started: number 0, full state, only the disk remains.
    Restart,
    /// A non-identifying attribute changes.
    Relabel { key: String, value: String },
    /// Behaves by this script from now on; a running apply keeps to the old one.
    Follow(Box<Script>),
}

/// One timer of each kind runs at most; setting it again replaces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Poll over HTTP, heartbeat over WebSocket.
    Poll,
    /// The same bytes again, or the connection.
    Retry,
    /// `config_apply_timeout`.
    Apply,
    CollectorUp,
    CollectorExit,
    CollectorFails,
    CollectorStart,
    Sleep,
    Wake,
}

/// Where a client connects after a settings offer, and with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub endpoint: String,
    /// Replace all headers; empty drops the authorization, as in the real supervisor.
    pub headers: Vec<(String, String)>,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// An encoded AgentToServer, without the WebSocket header.
    Send(Bytes),
    SetTimer(Timer, Duration),
    CancelTimer(Timer),
    /// Forget the connection and what is in flight on it; over WebSocket make a new one now.
    Reconnect(Option<Settings>),
    /// While true, nothing is read from the network.
    Suspended(bool),
    /// The process has ended.
    Close,
    Log(Note),
}

/// Something worth counting or printing.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A remote config arrived.
    Offered {
        hash: Vec<u8>,
    },
    /// A message with this config status was handed to the transport.
    StatusSent {
        hash: Vec<u8>,
        status: RemoteConfigStatuses,
        error: String,
    },
    FullStateAsked,
    ComponentsAsked,
    /// `error_response`, which clients only log.
    ErrorResponse(String),
    /// Neither 200 nor retryable: the message is lost, its number used up.
    Discarded {
        status: u16,
    },
    /// The same bytes again, or a new connection, after this.
    RetryIn(Duration),
    UidAdopted(Uid),
    /// The restart command.
    CollectorRestarted,
    CollectorExited(String),
    RolledBack {
        to: Vec<u8>,
    },
    SettingsTaken {
        endpoint: String,
    },
    /// None: heartbeats are off.
    HeartbeatChanged(Option<Duration>),
    /// Offered without the capability for it, or not legal.
    Ignored(&'static str),
}

// === impl Timer ===

impl Timer {
    /// How many kinds there are.
    pub const COUNT: usize = 9;

    pub const ALL: [Timer; Timer::COUNT] = [
        Timer::Poll,
        Timer::Retry,
        Timer::Apply,
        Timer::CollectorUp,
        Timer::CollectorExit,
        Timer::CollectorFails,
        Timer::CollectorStart,
        Timer::Sleep,
        Timer::Wake,
    ];
}
