//! How a supervisor is set up: capabilities, intervals, timeouts, the generation of its client.

use std::time::Duration;

/// Bits of AgentCapabilities, and the sets that occur.
pub mod capability {
    use proto::opamp::AgentCapabilities as Bit;

    pub const ACCEPTS_REMOTE_CONFIG: u64 = Bit::AcceptsRemoteConfig as u64;
    pub const REPORTS_EFFECTIVE_CONFIG: u64 = Bit::ReportsEffectiveConfig as u64;
    pub const ACCEPTS_OPAMP_CONNECTION_SETTINGS: u64 = Bit::AcceptsOpAmpConnectionSettings as u64;
    pub const ACCEPTS_RESTART_COMMAND: u64 = Bit::AcceptsRestartCommand as u64;
    pub const REPORTS_HEALTH: u64 = Bit::ReportsHealth as u64;
    pub const REPORTS_REMOTE_CONFIG: u64 = Bit::ReportsRemoteConfig as u64;
    pub const REPORTS_HEARTBEAT: u64 = Bit::ReportsHeartbeat as u64;
    pub const REPORTS_AVAILABLE_COMPONENTS: u64 = Bit::ReportsAvailableComponents as u64;

    /// A managed supervisor: 0x7c07. Own telemetry and connection settings are not among them.
    pub const MANAGED: u64 = Bit::ReportsStatus as u64
        | ACCEPTS_REMOTE_CONFIG
        | REPORTS_EFFECTIVE_CONFIG
        | ACCEPTS_RESTART_COMMAND
        | REPORTS_HEALTH
        | REPORTS_REMOTE_CONFIG
        | REPORTS_HEARTBEAT
        | REPORTS_AVAILABLE_COMPONENTS;
}

/// How the agent talks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// Polls; one request in flight.
    Http,
    /// A standing connection.
    Ws,
}

/// Which opamp-go the supervisor was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Generation {
    /// Takes every delivery of connection settings.
    #[default]
    V0_23,
    /// Skips connection settings whose hash equals the last one's, unless it is empty.
    Main,
}

/// What all agents of a fleet have in common.
#[derive(Clone, Debug)]
pub struct Options {
    /// See [`capability`].
    pub capabilities: u64,
    /// Poll or heartbeat interval. Default 30 s.
    pub interval: Duration,
    /// From a config's arrival to its verdict. Default 5 s.
    pub apply_timeout: Duration,
    /// From the start of a collector to its first health. Default 200 ms.
    pub startup: Duration,
    /// From the end of a collector to its next start. Default 5 s.
    pub restart_delay: Duration,
    pub generation: Generation,
    /// Nanoseconds since 1970 at `now` = 0, for the times in health reports.
    pub epoch_nanos: u64,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Options {
            capabilities: capability::MANAGED,
            interval: Duration::from_secs(30),
            apply_timeout: Duration::from_secs(5),
            startup: Duration::from_millis(200),
            restart_delay: Duration::from_secs(5),
            generation: Generation::default(),
            epoch_nanos: 1_790_000_000_000_000_000,
        }
    }
}

impl Options {
    /// Everything about fifty times as fast, for tests.
    pub fn fast() -> Self {
        Options {
            interval: Duration::from_millis(300),
            apply_timeout: Duration::from_millis(150),
            startup: Duration::from_millis(20),
            restart_delay: Duration::from_millis(100),
            ..Options::default()
        }
    }
}
