//! The agents' side as a component: bind, run, drain.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use proto::edge::Presence;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::config::{Config, StartError};
use crate::guard::Guard;
use crate::link::{Access, Link};
use crate::listen::{Shared, Socket};
use crate::metrics::Metrics;
use crate::opamp::{Edge, http};
use crate::session::Sessions;
use crate::session::exchange::Exchange;

/// Unused sessions are looked for so often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What the last word to the leaders may take at the end.
const LAST_PRESENCE: Duration = Duration::from_secs(1);

/// Makes gateways.
#[derive(Debug)]
pub struct Gateway;

/// A gateway that has its address and does not accept yet.
pub struct Bound<L, A> {
    socket: Socket,
    shared: Shared,
    edge: Arc<Edge<L, A>>,
}

// === impl Gateway ===

impl Gateway {
    /// Checks the settings, takes the address and reads the certificate. Needs a runtime.
    pub fn bind<L: Link, A: Access>(
        config: Config,
        link: Arc<L>,
        access: A,
    ) -> Result<Bound<L, A>, StartError> {
        let tokens_required = access.tokens_required();
        config.check(tokens_required)?;
        let socket = Socket::bind(&config.listener)?;
        let limits = Arc::new(config.limits);
        let metrics = Metrics::default();
        let edge = Edge {
            exchange: Exchange {
                link,
                sessions: Sessions::new(limits.clone()),
                metrics: metrics.clone(),
                reports: Semaphore::new(limits.in_flight_reports.min(Semaphore::MAX_PERMITS)),
                limits: limits.clone(),
                gateway: config.name,
            },
            guard: Guard::new(&config.listener, socket.address, tokens_required),
            access,
            path: config.path,
            budget: Budget::new(limits.in_flight_bytes, metrics.in_flight_bytes.clone()),
        };
        if !tokens_required || socket.tls.is_none() {
            tracing::warn!(
                address = %socket.address, tls = socket.tls.is_some(), tokens = tokens_required,
                "agents are served without all protection"
            );
        }
        Ok(Bound {
            socket,
            shared: Shared::new(limits, metrics),
            edge: Arc::new(edge),
        })
    }
}

// === impl Bound ===

impl<L: Link, A: Access> Bound<L, A> {
    /// Where agents connect; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.socket.address
    }

    /// What is counted; to be registered by whoever serves `/metrics`.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics.clone()
    }

    /// Serves until `drain` is cancelled, then ends what is under way within the limits `drain_*`. Whoever connects
    /// meanwhile is answered 503.
    pub async fn run(self, drain: CancellationToken) {
        let Bound {
            socket,
            shared,
            edge,
        } = self;
        let stop = shared.kill.clone();
        // Without a limit, since each session is handed on once and is forgotten here: there are no more than sessions.
        let (moved, handed_on) = mpsc::unbounded_channel();
        let presence = tokio::spawn(presence(edge.clone(), handed_on, stop.clone()));
        tokio::spawn(
            stop.clone()
                .run_until_cancelled_owned(notices(edge.clone(), moved)),
        );
        tokio::spawn(stop.run_until_cancelled_owned(sweep(edge.clone())));
        let handle = {
            let edge = edge.clone();
            move |connection, request| http::respond(edge.clone(), connection, request)
        };
        let by = {
            let mut accepting = pin!(socket.serve(shared.clone(), handle));
            tokio::select! {
                () = accepting.as_mut() => {}
                () = drain.cancelled() => {}
            }
            shared.drain.cancel();
            let (now, limits) = (Instant::now(), &shared.limits);
            // Who polls meanwhile, or comes back from a WebSocket, is told when to try again rather than refused. Without
            // a session there is nobody who would come.
            if !edge.exchange.sessions.is_empty() {
                let spread = limits.drain_spread.min(limits.drain_timeout);
                let _over = tokio::time::timeout_at(now + spread, accepting).await;
            }
            now + limits.drain_timeout
        };
        shared.finish(by).await;
        let _late = tokio::time::timeout(LAST_PRESENCE, presence).await;
    }
}

/// Tells leaders who spoke, until `stop` and once more after it, and where sessions stood that were handed on. A batch on
/// its way is never dropped: it is all that is known of where its conversations stand.
async fn presence<L: Link, A: Access>(
    edge: Arc<Edge<L, A>>,
    mut handed_on: mpsc::UnboundedReceiver<Vec<Presence>>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(edge.exchange.limits.presence_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let last = tokio::select! {
            () = stop.cancelled() => true,
            Some(stood) = handed_on.recv() => {
                edge.exchange.link.presence(stood).await;
                continue;
            }
            _ = ticks.tick() => false,
        };
        let exchange = &edge.exchange;
        let sessions = &exchange.sessions;
        let mut batch = sessions.presence(&exchange.metrics);
        exchange.metrics.reports_in_flight.set(exchange.in_flight());
        while let Ok(stood) = handed_on.try_recv() {
            batch.extend(stood);
        }
        exchange.link.presence(batch).await;
        exchange.link.introduce(|| exchange.sessions.all()).await;
        if last {
            return;
        }
    }
}

/// Takes what leaders tell, and waits for nobody: a leader that cannot be told anything at the moment would keep the word of
/// all others waiting.
async fn notices<L: Link, A: Access>(
    edge: Arc<Edge<L, A>>,
    moved: mpsc::UnboundedSender<Vec<Presence>>,
) {
    let mut batches = pin!(edge.exchange.link.notices());
    while let Some(batch) = batches.next().await {
        let sessions = &edge.exchange.sessions;
        let stood: Vec<_> = batch
            .iter()
            .filter_map(|notice| sessions.notice(notice))
            .collect();
        if !stood.is_empty() {
            let count = u64::try_from(stood.len()).unwrap_or(0);
            edge.exchange.metrics.moved.inc_by(count);
            let _stopping = moved.send(stood);
        }
    }
    tracing::warn!("the stream of notices has ended: nothing is pushed any more");
}

async fn sweep<L: Link, A: Access>(edge: Arc<Edge<L, A>>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        edge.exchange.sessions.sweep();
    }
}
