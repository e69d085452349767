//! Plain HTTP: one kept-alive connection per agent, one request in flight.

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use prost::Message;
use proto::opamp::ServerToAgent;
use proto::uid::Uid;
use std::io::Read;

use super::{ANSWER_BYTES_MAX, Route, retry_after};
use crate::agent::Event;
use crate::driver::{Driver, Io};

/// A connection, or the intention to make one.
struct Link {
    route: Route,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// Runs the agent until it is stopped or switched off.
pub(crate) async fn run(mut driver: Driver, route: Route) {
    let mut route = route;
    let mut idle = Some(Link::new(route.clone()));
    let mut in_flight: Option<BoxFuture<'static, (Link, Event)>> = None;
    let mut event = Event::Start;
    loop {
        for io in driver.step(event) {
            match io {
                Io::Send(bytes) => {
                    let link = idle.take().unwrap_or_else(|| Link::new(route.clone()));
                    in_flight = Some(Box::pin(link.exchange(driver.uid(), bytes)));
                }
                Io::Reconnect(settings) => {
                    match settings.map(|settings| route.by(&settings)) {
                        Some(Ok(other)) => route = other,
                        Some(Err(error)) => tracing::warn!(%error, "offered endpoint not taken"),
                        None => {}
                    }
                    in_flight = None;
                    idle = Some(Link::new(route.clone()));
                }
                Io::Close => return,
            }
        }
        let reading = !driver.suspended;
        event = tokio::select! {
            next = driver.next() => match next {
                Some(event) => event,
                None => return,
            },
            (link, event) = answer(&mut in_flight), if reading && in_flight.is_some() => {
                in_flight = None;
                idle = Some(link);
                event
            }
        };
    }
}

async fn answer(in_flight: &mut Option<BoxFuture<'static, (Link, Event)>>) -> (Link, Event) {
    match in_flight {
        Some(exchange) => exchange.await,
        None => std::future::pending().await,
    }
}

// === impl Link ===

impl Link {
    fn new(route: Route) -> Self {
        Link {
            route,
            sender: None,
        }
    }

    /// Sends one message and says what came of it. The connection is kept unless it broke.
    async fn exchange(mut self, uid: Uid, bytes: Bytes) -> (Self, Event) {
        let event = match self.attempt(uid, bytes).await {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(%uid, %error, "exchange failed");
                self.sender = None;
                self.route.turn += 1;
                Event::NetworkError
            }
        };
        (self, event)
    }

    async fn attempt(&mut self, uid: Uid, bytes: Bytes) -> Result<Event, BoxError> {
        let request = self.request(uid, bytes)?;
        let mut sender = self.connection().await?;
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX)
            .collect()
            .await?
            .to_bytes();
        self.sender = Some(sender);
        if head.status != ::http::StatusCode::OK {
            let retry_after = retry_after(&head.headers);
            return Ok(Event::HttpError {
                status: head.status.as_u16(),
                retry_after,
            });
        }
        let gzip = head
            .headers
            .get(::http::header::CONTENT_ENCODING)
            .is_some_and(|coding| coding == "gzip");
        let body = if gzip { inflate(&body)? } else { body };
        Ok(match ServerToAgent::decode(body) {
            Ok(reply) => Event::Reply(Box::new(reply)),
            Err(_) => Event::Undecodable,
        })
    }

    /// The kept connection while it stands, otherwise a new one.
    async fn connection(&mut self) -> Result<SendRequest<Full<Bytes>>, BoxError> {
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        let stream = self.route.endpoint().dial(&self.route.tls).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(
        &self,
        uid: Uid,
        bytes: Bytes,
    ) -> Result<::http::Request<Full<Bytes>>, ::http::Error> {
        let endpoint = self.route.endpoint();
        let mut request = ::http::Request::post(&endpoint.path)
            .header("host", endpoint.authority())
            .header("content-type", "application/x-protobuf")
            .header("accept-encoding", "gzip")
            .header("opamp-instance-uid", uid.to_string());
        for (key, value) in &self.route.headers {
            request = request.header(key, value);
        }
        request.body(Full::new(bytes))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn inflate(body: &[u8]) -> std::io::Result<Bytes> {
    let mut inflated = Vec::new();
    let limit = ANSWER_BYTES_MAX as u64;
    flate2::read::GzDecoder::new(body)
        .take(limit)
        .read_to_end(&mut inflated)?;
    Ok(inflated.into())
}
