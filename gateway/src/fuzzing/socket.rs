//! A whole WebSocket connection without a network: the bytes of a peer, read in pieces, to an end in no time.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::Stream;
use prometheus_client::metrics::gauge::Gauge;
use proto::edge;
use proto::uid::Uid;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::limits::Limits;
use crate::link::{Link, LinkError};
use crate::metrics::Metrics;
use crate::opamp::ws;
use crate::session::exchange::{Exchange, Source};
use crate::session::{Holder, Sessions};

const FIN: u8 = 0x80;
const CLOSE: u8 = 8;

/// What a peer sends: the first byte says in which pieces it arrives, the others are the stream.
pub fn converse(input: &[u8]) {
    let Some((&pieces, bytes)) = input.split_first() else {
        return;
    };
    let limits = Arc::new(small());
    let (gauge, written) = (Gauge::default(), Arc::<Mutex<Vec<u8>>>::default());
    let budget = Budget::new(limits.in_flight_bytes, gauge.clone());
    let exchange = Exchange {
        link: Arc::new(Content),
        sessions: Sessions::new(limits.clone()),
        metrics: Metrics::default(),
        reports: Semaphore::new(limits.in_flight_reports),
        limits,
        gateway: String::new(),
    };
    let (orders, ear) = mpsc::channel(1);
    let source = Source {
        connection: 1,
        peer: ([127, 0, 0, 1], 1).into(),
        token: String::new(),
        holder: Some(Holder {
            connection: 1,
            orders,
        }),
    };
    let pipe = Pipe {
        bytes: bytes.to_vec(),
        at: 0,
        piece: usize::from(pieces).max(1),
        rests: pieces % 2 == 1,
        resting: false,
        written: written.clone(),
    };
    let drain = CancellationToken::new();
    let talk = ws::converse(&exchange, &budget, &source, pipe, ear, drain);
    runtime().block_on(talk);
    assert_eq!(gauge.get(), 0, "the budget came back");
    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    check_written(&written);
}

/// Limits that an input of some KiB reaches.
fn small() -> Limits {
    Limits {
        receive_bytes: 16 * 1024,
        in_flight_bytes: 20 * 1024,
        in_flight_reports: 2,
        sessions: 64,
        waiting_per_agent: 1,
        agents_per_connection: 2,
        messages_per_connection: 2,
        malformed_in_a_row: 4,
        ..Limits::default()
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads")
}

/// We send whole unmasked frames, never fragments, and nothing after Close.
fn check_written(mut bytes: &[u8]) {
    let mut closed = false;
    while let [first, length, rest @ ..] = bytes {
        assert!(!closed, "something follows the Close frame");
        assert!(first & FIN != 0, "a fragment");
        let (length, rest) = match length {
            126 => (usize::from(rest[0]) << 8 | usize::from(rest[1]), &rest[2..]),
            127.. => panic!("a masked frame, or one longer than any answer here"),
            short => (usize::from(*short), rest),
        };
        closed = first & 0xf == CLOSE;
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "half a frame");
}

/// The stream: input in pieces, output remembered.
struct Pipe {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
    /// Between two pieces there is a pause.
    rests: bool,
    resting: bool,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.resting = this.rests && !this.resting;
        if this.resting {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let left = &this.bytes[this.at..];
        let piece = &left[..left.len().min(this.piece).min(buf.remaining())];
        buf.put_slice(piece);
        this.at += piece.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A leader that takes everything.
struct Content;

impl Link for Content {
    async fn report(&self, report: edge::Report) -> Result<edge::Answer, LinkError> {
        let message = report.message.unwrap_or_default();
        let session = edge::Session {
            number: message.sequence_num,
            digest: report.digest,
            pending: false,
            capabilities: message.capabilities,
            lost: false,
        };
        Ok(edge::Answer {
            session: Some(session),
            ..edge::Answer::default()
        })
    }

    async fn presence(&self, _: Vec<edge::Presence>) {}

    async fn closed(&self, _: Uid, _: u64, _: bool) {}

    fn notices(&self) -> impl Stream<Item = Vec<edge::Notice>> + Send {
        futures::stream::empty()
    }
}
