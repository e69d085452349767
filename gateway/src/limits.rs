//! Every limit of the edge: name, unit, default, reason.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// All limits. The defaults suit a gateway with 4 GiB of memory and 100 000 agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    // === messages ===
    /// Bytes of one message from an agent, after inflation. 64 MiB is what the specification recommends.
    pub receive_bytes: usize,
    /// Bytes of one message to an agent, before compression. 64 MiB is what agents accept.
    pub send_bytes: usize,
    /// Inflated bytes allowed per compressed byte, above 1 MiB. Text rarely exceeds 20; a bomb is near 1000.
    pub inflate_ratio: usize,
    /// Levels of health, component or attribute nesting. Real trees have 4; decoders of others stop at 100.
    pub depth: u32,
    /// Fields in one message, all levels. Bounds the memory that a decoder spends per byte on the wire.
    pub fields: u32,
    /// Bytes of one string. Supervisors send log tails of up to 1 MiB with a sentence around.
    pub string_bytes: usize,
    /// Entries of one map or list. The largest real ones are component lists of some hundred.
    pub map_entries: u32,
    /// Answers smaller than this are never compressed: they fit one packet anyway.
    pub gzip_from_bytes: usize,

    // === the whole gateway ===
    /// Bytes of messages that are being received and handled, all connections together.
    pub in_flight_bytes: usize,
    /// Reports that wait for a leader, all connections together.
    pub in_flight_reports: usize,
    /// Connections that are served. Beyond it they are answered 503.
    pub connections: usize,
    /// Connections beyond `connections` that still get their 503; more are closed unanswered.
    pub refused_connections: usize,
    /// Sessions kept in memory, about 150 bytes each.
    pub sessions: usize,
    /// A session unused for so long is dropped: its agent is gone or is served elsewhere.
    pub session_idle: Duration,

    // === one agent, one connection ===
    /// Messages of one agent that wait for the one being handled.
    pub waiting_per_agent: usize,
    /// Agents of one WebSocket connection, for proxies that carry many.
    pub agents_per_connection: usize,
    /// Messages of one WebSocket connection that are handled at a time.
    pub messages_per_connection: usize,
    /// Malformed messages in a row after which a WebSocket connection is closed with 1008.
    pub malformed_in_a_row: u32,
    /// Read buffer of one WebSocket connection, bytes.
    pub ws_read_buffer_bytes: usize,
    /// Bytes of one request's headers.
    pub header_bytes: usize,
    /// Requests of one HTTP/2 connection at a time.
    pub h2_streams: u32,

    // === time ===
    /// A TLS handshake is done by then.
    pub handshake_timeout: Duration,
    /// A request's header is complete by then.
    pub header_timeout: Duration,
    /// A request's body is complete by then.
    pub body_timeout: Duration,
    /// A peer that takes no byte for so long is dropped.
    pub write_timeout: Duration,
    /// A kept-alive connection without a request is closed. Above the polling interval (30 s) and the idle
    /// time of Go clients (90 s), so that a poll does not pay for a new connection.
    pub keep_alive: Duration,
    /// A silent WebSocket peer is pinged.
    pub ws_ping: Duration,
    /// A WebSocket peer from which nothing came, not even a pong, is gone.
    pub ws_read_timeout: Duration,
    /// A leader that has not answered by then counts as unavailable. Above the 5 s that a link holds a report.
    pub report_timeout: Duration,
    /// Presence is sent so often.
    pub presence_every: Duration,
    /// WebSocket connections are closed spread over so long when draining.
    pub drain_spread: Duration,
    /// Draining ends by then, whatever is left.
    pub drain_timeout: Duration,
    /// A replaced certificate is seen by then.
    pub certificate_poll: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            receive_bytes: 64 * MIB,
            send_bytes: 64 * MIB,
            inflate_ratio: 100,
            depth: 32,
            fields: 100_000,
            string_bytes: MIB + 64 * KIB,
            map_entries: 10_000,
            gzip_from_bytes: KIB,
            in_flight_bytes: 256 * MIB,
            in_flight_reports: 8192,
            connections: 120_000,
            refused_connections: 1024,
            sessions: 2_000_000,
            session_idle: Duration::from_secs(3600),
            waiting_per_agent: 8,
            agents_per_connection: 10_000,
            messages_per_connection: 64,
            malformed_in_a_row: 64,
            ws_read_buffer_bytes: 8 * KIB,
            header_bytes: 16 * KIB,
            h2_streams: 128,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(20),
            keep_alive: Duration::from_secs(120),
            ws_ping: Duration::from_secs(30),
            ws_read_timeout: Duration::from_secs(75),
            report_timeout: Duration::from_secs(10),
            presence_every: Duration::from_millis(250),
            drain_spread: Duration::from_secs(3),
            drain_timeout: Duration::from_secs(5),
            certificate_poll: Duration::from_secs(5),
        }
    }
}
