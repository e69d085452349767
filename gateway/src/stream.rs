//! A connection's bytes, plain or TLS, under watch: header, idle and write deadlines that hyper does not keep,
//! and the bytes of a WebSocket message that is still arriving.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

/// Plain or TLS.
pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What the connection, its requests and its stream know of each other.
#[derive(Debug)]
pub struct Watch {
    opened: Instant,
    /// Requests being handled.
    active: AtomicU32,
    /// When the last request began or ended, in ms since the connection opened.
    last: AtomicU64,
    /// A request header is arriving.
    header: AtomicBool,
    /// HTTP/2 or WebSocket: bytes may come without a request.
    framed: AtomicBool,
}

/// The watched stream.
pub struct Watched {
    inner: Transport,
    watch: Arc<Watch>,
    header_timeout: Duration,
    write_timeout: Duration,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    began: bool,
}

/// A request being handled; ends when dropped.
#[derive(Debug)]
pub struct Active(Arc<Watch>);

// === impl Watch ===

impl Watch {
    /// For a connection that opens now and owes a request.
    pub fn new() -> Arc<Self> {
        Arc::new(Watch {
            opened: Instant::now(),
            active: AtomicU32::new(0),
            last: AtomicU64::new(0),
            header: AtomicBool::new(true),
            framed: AtomicBool::new(false),
        })
    }

    /// A request's header is complete.
    pub fn begin(self: &Arc<Self>) -> Active {
        self.header.store(false, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Active(self.clone())
    }

    /// From now on bytes come without requests.
    pub fn framed(&self) {
        self.framed.store(true, Ordering::Relaxed);
        self.header.store(false, Ordering::Relaxed);
    }

    /// How long the connection has been without a request.
    pub fn idle(&self) -> Duration {
        if self.active.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.opened
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    fn touch(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn between_requests(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0 && !self.framed.load(Ordering::Relaxed)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.touch();
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Watched ===

impl Watched {
    /// Watches `inner`. A peer that does not complete a header, or takes no bytes, for so long gets an error.
    pub fn new(
        inner: Transport,
        watch: Arc<Watch>,
        header_timeout: Duration,
        write_timeout: Duration,
    ) -> Self {
        Watched {
            inner,
            watch,
            header_timeout,
            write_timeout,
            read_timer: None,
            write_timer: None,
            began: false,
        }
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write_timer = None;
            return poll;
        }
        expire(
            &mut self.write_timer,
            self.write_timeout,
            cx,
            "the peer takes no bytes",
        )
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.inner).poll_read(cx, buf);
        let waits_for_header = this.watch.header.load(Ordering::Relaxed);
        if poll.is_pending() && waits_for_header {
            return expire(
                &mut this.read_timer,
                this.header_timeout,
                cx,
                "the request header did not arrive",
            );
        }
        if !waits_for_header {
            this.read_timer = None;
        }
        let arrived = &buf.filled()[before..];
        if poll.is_ready() && !arrived.is_empty() {
            if !this.began {
                this.began = true;
                if arrived.starts_with(b"PRI") {
                    this.watch.framed();
                }
            } else if !waits_for_header && this.watch.between_requests() {
                this.watch.header.store(true, Ordering::Relaxed);
            }
        }
        poll
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.wrote(cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.wrote(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_flush(cx);
        this.wrote(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.wrote(cx, poll)
    }
}

/// Arms the timer at the first wait and fails when it has run out.
fn expire<T>(
    timer: &mut Option<Pin<Box<Sleep>>>,
    after: Duration,
    cx: &mut Context<'_>,
    what: &'static str,
) -> Poll<io::Result<T>> {
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
    ready!(timer.as_mut().poll(cx));
    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
}

// === impl Transport ===

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
