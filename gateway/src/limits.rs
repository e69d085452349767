//! Every limit of the edge: name, unit, default, reason. The one list that `--limit` and the manual are made from.

mod setting;

use std::time::Duration;

pub use setting::{Described, LimitError};
use setting::{Kind, MAX_BYTES, MAX_COUNT, MAX_MS, Plain};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Makes the struct, its defaults and its settings by name from one list, so that none of them can lack a limit.
/// `name: type as Kind[least, most] = default`; without brackets any value above 0 that the kind can hold.
macro_rules! limits {
    ($($(#[doc = $meaning:literal])+ $name:ident: $type:ty as $kind:ident $([$least:expr, $most:expr])? = $default:expr,)+) => {
        /// All limits. The defaults suit a gateway with 4 GiB of memory and 100 000 agents.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $meaning])+ pub $name: $type,)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// Sets the limit `name` to `value`, written as people write it: `64MiB`, `1h 30min`, `5000`.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), LimitError> {
                match name {
                    $(stringify!($name) => {
                        let range = Kind::$kind.range()$(.min_max($least, $most))?;
                        let plain = Kind::$kind.read(stringify!($name), value, range)?;
                        self.$name = Plain::of(plain);
                    })+
                    _ => return Err(LimitError::unknown(name)),
                }
                Ok(())
            }

            /// Every limit, in the order of the list.
            pub fn described() -> Vec<Described> {
                let defaults = Limits::default();
                vec![$(Described {
                    name: stringify!($name),
                    default: Kind::$kind.show(defaults.$name.plain()),
                    meaning: concat!($($meaning),+).trim_start(),
                },)+]
            }
        }
    };
}

limits! {
    // === messages ===
    /// Bytes of one message from an agent, after inflation. 64 MiB is what the specification recommends.
    receive_bytes: usize as Bytes = 64 * MIB,
    /// Bytes of one message to an agent, before compression. 64 MiB is what agents accept.
    send_bytes: usize as Bytes = 64 * MIB,
    /// Inflated bytes allowed per compressed byte, above 1 MiB. Text rarely exceeds 20; a bomb is near 1000.
    inflate_ratio: usize as Count = 100,
    /// Levels of health, component or attribute nesting. Real trees have 4; decoders of others stop at 100.
    depth: u32 as Count[1, 64] = 32,
    /// Fields in one message, all levels. Bounds the memory that a decoder spends per byte on the wire.
    fields: u32 as Count = 100_000,
    /// Bytes of one string. Supervisors send log tails of up to 1 MiB with a sentence around.
    string_bytes: usize as Bytes = MIB + 64 * KIB,
    /// Entries of one map or list. The largest real ones are component lists of some hundred.
    map_entries: u32 as Count = 10_000,
    /// Answers smaller than this are never compressed: they fit one packet anyway.
    gzip_from_bytes: usize as Bytes[0, MAX_BYTES] = KIB,

    // === the whole gateway ===
    /// Bytes of messages that are being received and handled, all connections together.
    in_flight_bytes: usize as Bytes = 256 * MIB,
    /// Reports that wait for a leader, all connections together.
    in_flight_reports: usize as Count = 8192,
    /// Connections that are served. Beyond it they are answered 503.
    connections: usize as Count = 120_000,
    /// Connections beyond `connections` that still get their 503; more wait until one of
    /// these has gone.
    refused_connections: usize as Count[0, MAX_COUNT] = 1024,
    /// Sessions kept in memory, about 150 bytes each.
    sessions: usize as Count = 2_000_000,
    /// A session unused for so long is dropped: its agent is gone or is served elsewhere.
    session_idle: Duration as Time = Duration::from_secs(3600),

    // === one agent, one connection ===
    /// Messages of one agent that wait for the one being handled.
    waiting_per_agent: usize as Count = 8,
    /// Agents of one WebSocket connection, for proxies that carry many.
    agents_per_connection: usize as Count = 10_000,
    /// Messages of one WebSocket connection that are handled at a time.
    messages_per_connection: usize as Count = 64,
    /// Malformed messages in a row after which a WebSocket connection is closed with 1008.
    malformed_in_a_row: u32 as Count = 64,
    /// Read buffer of one WebSocket connection, bytes.
    ws_read_buffer_bytes: usize as Bytes = 8 * KIB,
    /// Bytes of one request's headers.
    header_bytes: usize as Bytes = 16 * KIB,
    /// Requests of one HTTP/2 connection at a time.
    h2_streams: u32 as Count = 128,

    // === time ===
    /// A TLS handshake is done by then.
    handshake_timeout: Duration as Time = Duration::from_secs(10),
    /// A request's header is complete by then.
    header_timeout: Duration as Time = Duration::from_secs(10),
    /// A request's body, or a WebSocket message, is complete by then.
    body_timeout: Duration as Time = Duration::from_secs(60),
    /// A body or WebSocket message that has not ended brings `progress_bytes` more within so long, again and again.
    progress_timeout: Duration as Time = Duration::from_secs(10),
    /// See `progress_timeout`. Together they are the slowest rate that is waited for, 1.6 KiB/s.
    progress_bytes: usize as Bytes = 16 * KIB,
    /// A peer that takes no byte for so long is dropped.
    write_timeout: Duration as Time = Duration::from_secs(20),
    /// A kept-alive connection without a request is closed. Above the polling interval (30 s) and the idle
    /// time of Go clients (90 s), so that a poll does not pay for a new connection.
    keep_alive: Duration as Time = Duration::from_secs(120),
    /// A silent WebSocket peer is pinged.
    ws_ping: Duration as Time = Duration::from_secs(30),
    /// A WebSocket peer from which nothing came, not even a pong, is gone.
    ws_read_timeout: Duration as Time = Duration::from_secs(75),
    /// A leader that has not answered by then counts as unavailable. Above the 5 s that a link holds a report.
    report_timeout: Duration as Time = Duration::from_secs(10),
    /// Presence is sent so often.
    presence_every: Duration as Time = Duration::from_millis(250),
    /// WebSocket connections are closed spread over so long when draining, and who connects meanwhile is
    /// answered 503.
    drain_spread: Duration as Time[0, MAX_MS] = Duration::from_secs(3),
    /// Draining ends by then, whatever is left.
    drain_timeout: Duration as Time = Duration::from_secs(5),
    /// A replaced certificate is seen by then.
    certificate_poll: Duration as Time = Duration::from_secs(5),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Result<Limits, String> {
        let mut limits = Limits::default();
        match limits.set(name, value) {
            Ok(()) => Ok(limits),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn every_limit_can_be_set_by_name_and_its_shown_default_is_its_default() {
        let mut limits = Limits::default();
        for limit in Limits::described() {
            limits.set(limit.name, &limit.default).unwrap();
            assert!(!limit.meaning.is_empty(), "{}", limit.name);
        }
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn bytes_durations_and_counts_are_read_as_people_write_them() {
        assert_eq!(set("receive_bytes", "8MiB").unwrap().receive_bytes, 8 << 20);
        assert_eq!(set("receive_bytes", "8 kib").unwrap().receive_bytes, 8192);
        assert_eq!(set("receive_bytes", "500").unwrap().receive_bytes, 500);
        let body = set("body_timeout", "1m 30s").unwrap().body_timeout;
        assert_eq!(body, Duration::from_secs(90));
        assert_eq!(set("fields", "200_000").unwrap().fields, 200_000);
        assert_eq!(
            set("drain_spread", "0s").unwrap().drain_spread,
            Duration::ZERO
        );
    }

    #[test]
    fn a_value_that_is_none_is_refused_with_the_limit_and_what_it_takes() {
        for (name, value, part) in [
            ("receive_bytes", "64MB", "KiB"),
            ("receive_bytes", "99999999999999999999", "KiB"),
            ("connections", "0", "from 1"),
            ("connections", "many", "a number"),
            ("depth", "65", "to 64"),
            ("body_timeout", "60", "30s"),
            ("body_timeout", "1000years", "30days"),
            ("presence_every", "0s", "from 1ms"),
        ] {
            let said = set(name, value).unwrap_err();
            assert!(said.contains(name) && said.contains(part), "{said}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_near_it() {
        let said = set("body_timout", "1s").unwrap_err();
        assert!(
            said.contains("`body_timout`") && said.contains("body_timeout"),
            "{said}"
        );
        let said = set("in_flight", "1").unwrap_err();
        assert!(
            said.contains("in_flight_bytes, in_flight_reports"),
            "{said}"
        );
        let said = set("colour", "1").unwrap_err();
        assert!(!said.contains("did you mean"), "{said}");
    }

    #[test]
    fn the_manual_lists_every_limit_with_its_default() {
        let manual = include_str!("../../docs/operations.md");
        for limit in Limits::described() {
            let row = format!("| `{}` | {} |", limit.name, limit.default);
            assert!(manual.contains(&row), "docs/operations.md lacks {row}");
        }
    }
}
