//! Muster against programs that know nothing of it: the OpenTelemetry supervisor with a real collector under it, and the
//! Python OpAMP client. The README beside this file says which versions they have and what they can and cannot do.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

mod fleet;
mod logs;
mod peers;

mod fallback;
mod port;
mod python;
mod redaction;
mod restarts;
mod secure;
mod stopped;
mod trouble;
