//! From a listening socket to requests: connection limit, TLS, HTTP/1.1 and HTTP/2, idle and header deadlines, drain.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Listener, StartError};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::stream::{Transport, Watch, Watched};
use crate::tls::Tls;

/// Connections that the kernel keeps for us while we are busy.
const BACKLOG: u32 = 4096;
/// Pause after a failed accept (no file descriptors left), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// HTTP/2 peers are pinged so often; HTTP/2 has no other way to notice a dead one.
const H2_PING: Duration = Duration::from_secs(30);

/// A bound address that does not accept yet.
pub struct Socket {
    pub listener: TcpListener,
    pub address: SocketAddr,
    pub tls: Option<Arc<Tls>>,
}

/// What all connections of a listener share.
#[derive(Clone)]
pub struct Shared {
    pub limits: Arc<Limits>,
    pub metrics: Metrics,
    /// One place for each connection, served or refused by answer.
    places: Arc<Semaphore>,
    /// Connection numbers; unique over all gateways, as far as chance goes.
    pub numbers: Arc<AtomicU64>,
    pub tasks: TaskTracker,
    /// Stop taking work, finish what is under way. Who connects from now on is answered 503.
    pub drain: CancellationToken,
    /// Accept nobody any more.
    pub shut: CancellationToken,
    /// Stop now.
    pub kill: CancellationToken,
}

/// One connection.
pub struct Connection {
    pub number: u64,
    pub peer: SocketAddr,
    pub watch: Arc<Watch>,
    /// Over the limit, or accepted while draining: every request is answered 503.
    pub refused: bool,
    /// Accepted while draining: it has its answer before it is ended.
    pub late: bool,
    websocket: AtomicBool,
    shared: Shared,
    _place: OwnedSemaphorePermit,
}

// === impl Socket ===

impl Socket {
    /// Takes the address and reads the certificate.
    pub fn bind(listener: &Listener) -> Result<Self, StartError> {
        let tls = listener
            .tls
            .clone()
            .map(Tls::load)
            .transpose()?
            .map(Arc::new);
        let failed = |source| StartError::Listen {
            address: listener.address,
            source,
        };
        let socket = if listener.address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        let socket = socket.map_err(failed)?;
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(listener.address).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Socket {
            listener,
            address,
            tls,
        })
    }

    /// Accepts until shut. `handle` answers one request.
    pub async fn serve<H, F, B>(self, shared: Shared, handle: H)
    where
        H: Fn(Arc<Connection>, Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Socket { listener, tls, .. } = self;
        if let Some(tls) = tls.clone() {
            let (kill, every) = (shared.kill.clone(), shared.limits.certificate_poll);
            tokio::spawn(async move { kill.run_until_cancelled(tls.watch(every)).await });
        }
        loop {
            let Some(place) = shared.shut.run_until_cancelled(shared.place()).await else {
                return;
            };
            let accepted = tokio::select! {
                biased;
                () = shared.shut.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = Connection::admit(&shared, peer, place);
            let task = run(stream, tls.clone(), connection, handle.clone());
            shared.tasks.spawn(task);
        }
    }
}

// === impl Shared ===

impl Shared {
    /// For a listener that starts.
    pub fn new(limits: Arc<Limits>, metrics: Metrics) -> Self {
        let places = places(&limits);
        Shared {
            limits,
            metrics,
            places: Arc::new(Semaphore::new(places)),
            // Behind a number of this process, since leaders see connections of many gateways.
            numbers: Arc::new(AtomicU64::new(u64::from(rand::random::<u32>()) << 32)),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
            shut: CancellationToken::new(),
            kill: CancellationToken::new(),
        }
    }

    /// A place for one more connection. Without one nothing is accepted: who is accepted gets an answer, and the others
    /// wait in the backlog, where clients wait or try again on their own.
    async fn place(&self) -> OwnedSemaphorePermit {
        if self.places.available_permits() == 0 {
            self.metrics.accepting_paused.inc();
            tracing::warn!("too many connections: the next one is accepted when another has gone");
        }
        let place = self.places.clone().acquire_owned().await;
        place.expect("the places are never closed")
    }

    /// Connections that are open.
    fn open(&self) -> usize {
        places(&self.limits) - self.places.available_permits()
    }

    /// Accepts nobody any more, and waits for connections to end; ends those that have not by then.
    pub async fn finish(&self, by: Instant) {
        self.shut.cancel();
        self.tasks.close();
        if tokio::time::timeout_at(by, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = self.open(),
                "connections are cut off after the drain"
            );
        }
        self.kill.cancel();
    }
}

// === impl Connection ===

impl Connection {
    /// Counts a connection in: served, or refused by answer.
    fn admit(shared: &Shared, peer: SocketAddr, place: OwnedSemaphorePermit) -> Arc<Self> {
        let too_many = shared.open() > shared.limits.connections;
        if too_many {
            shared.metrics.refused.connections.inc();
        }
        let late = shared.drain.is_cancelled();
        shared.metrics.http_connections.inc();
        Arc::new(Connection {
            number: shared.numbers.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            watch: Watch::new(),
            refused: too_many || late,
            late,
            websocket: AtomicBool::new(false),
            shared: shared.clone(),
            _place: place,
        })
    }

    /// The connection speaks WebSocket from now on.
    pub fn upgraded(&self) {
        self.watch.framed();
        if !self.websocket.swap(true, Ordering::Relaxed) {
            self.shared.metrics.http_connections.dec();
            self.shared.metrics.ws_connections.inc();
        }
    }

    /// What it shares with others.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        match self.websocket.load(Ordering::Relaxed) {
            true => metrics.ws_connections.dec(),
            false => metrics.http_connections.dec(),
        };
    }
}

/// Connections that are accepted at a time.
fn places(limits: &Limits) -> usize {
    let places = limits
        .connections
        .saturating_add(limits.refused_connections);
    places.clamp(1, Semaphore::MAX_PERMITS)
}

async fn run<H, F, B>(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    connection: Arc<Connection>,
    handle: H,
) where
    H: Fn(Arc<Connection>, Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let _ignored = stream.set_nodelay(true);
    let limits = connection.shared.limits.clone();
    let kill = connection.shared.kill.clone();
    let end = match connection.late {
        true => connection.shared.shut.clone(),
        false => connection.shared.drain.clone(),
    };
    let transport = match tls {
        None => Transport::Plain(stream),
        Some(tls) => {
            let handshake =
                tokio::time::timeout(limits.handshake_timeout, tls.acceptor().accept(stream));
            match kill.run_until_cancelled(handshake).await {
                Some(Ok(Ok(stream))) => Transport::Tls(Box::new(stream)),
                _ => return,
            }
        }
    };
    let watch = connection.watch.clone();
    let watched = Watched::new(
        transport,
        watch.clone(),
        limits.header_timeout,
        limits.write_timeout,
    );
    let metrics = connection.shared.metrics.clone();
    let service = service_fn(move |request| {
        let answer = handle(connection.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let builder = http_builder(&limits);
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(watched), service));
    let mut check = pin!(tokio::time::sleep(limits.keep_alive));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    if is_header_too_large(error.as_ref()) {
                        metrics.refused.header.inc();
                    }
                    tracing::debug!(error, "connection ended");
                }
                return;
            }
            () = kill.cancelled() => return,
            () = end.cancelled(), if !ending => {
                ending = true;
                served.as_mut().graceful_shutdown();
            }
            () = check.as_mut(), if !ending => {
                let left = limits.keep_alive.saturating_sub(watch.idle());
                if left.is_zero() {
                    ending = true;
                    served.as_mut().graceful_shutdown();
                } else {
                    check.as_mut().reset(Instant::now() + left);
                }
            }
        }
    }
}

/// Answered 431 before there is a request that could be counted.
fn is_header_too_large(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let error = error.downcast_ref::<hyper::Error>();
    error.is_some_and(hyper::Error::is_parse_too_large)
}

fn http_builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(limits.header_bytes.max(8192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(limits.write_timeout);
    builder
}
