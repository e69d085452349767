//! WebSocket: a standing connection; each message is a binary frame of a zero byte and the encoded message.

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use prost::Message as _;
use proto::opamp::ServerToAgent;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::{ANSWER_BYTES_MAX, Route, Stream, retry_after};
use crate::agent::Event;
use crate::driver::{Driver, Io};

/// What the closing handshake may take.
const CLOSE: std::time::Duration = std::time::Duration::from_secs(1);

type Socket = WebSocketStream<Box<dyn Stream>>;

/// What a dial gives: a socket, or why there is none.
type Dial = BoxFuture<'static, Result<Box<Socket>, Event>>;

enum Link {
    Down,
    Dialing(Dial),
    Up(Box<Socket>),
}

/// Runs the agent until it is stopped or switched off.
pub(crate) async fn run(mut driver: Driver, mut route: Route) {
    let mut link = Link::Down;
    let mut event = Event::Start;
    loop {
        let mut failed = false;
        for io in driver.step(event) {
            match io {
                Io::Send(bytes) => failed |= link.send(&bytes).await.is_err(),
                Io::Reconnect(settings) => {
                    match settings.map(|settings| route.by(&settings)) {
                        Some(Ok(other)) => route = other,
                        Some(Err(error)) => tracing::warn!(%error, "offered endpoint not taken"),
                        None => {}
                    }
                    failed = false;
                    link = Link::Dialing(Box::pin(dial(route.clone())));
                }
                Io::Close => return link.close().await,
            }
        }
        if failed {
            link = Link::Down;
            event = Event::NetworkError;
            continue;
        }
        let reading = !driver.suspended;
        event = tokio::select! {
            next = driver.next() => match next {
                Some(event) => event,
                None => return,
            },
            event = link.next(), if reading => event,
        };
        if matches!(
            event,
            Event::NetworkError | Event::Undecodable | Event::HttpError { .. }
        ) {
            link = Link::Down;
            route.turn += 1;
        }
    }
}

// === impl Link ===

impl Link {
    async fn send(&mut self, bytes: &Bytes) -> Result<(), Box<tungstenite::Error>> {
        let Link::Up(socket) = self else {
            return Ok(());
        };
        let mut frame = BytesMut::with_capacity(bytes.len() + 1);
        frame.put_u8(0);
        frame.put_slice(bytes);
        socket
            .send(Message::Binary(frame.freeze()))
            .await
            .map_err(Box::new)
    }

    /// What the connection brings next. Cancel safe; never ends while there is no connection.
    async fn next(&mut self) -> Event {
        match self {
            Link::Down => std::future::pending().await,
            Link::Dialing(dial) => match dial.await {
                Ok(socket) => {
                    *self = Link::Up(socket);
                    Event::Connected
                }
                Err(event) => {
                    *self = Link::Down;
                    event
                }
            },
            Link::Up(socket) => loop {
                match socket.next().await {
                    Some(Ok(Message::Binary(frame))) => return decoded(&frame),
                    Some(Ok(Message::Text(_))) => return Event::Undecodable,
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Event::NetworkError,
                }
            },
        }
    }

    async fn close(self) {
        if let Link::Up(mut socket) = self {
            let goodbye = CloseFrame {
                code: CloseCode::Normal,
                reason: "".into(),
            };
            // Until the peer closes, too: a socket that is dropped with answers unread resets the connection, and the
            // peer may never read what was said last.
            let handshake = async {
                (*socket).close(Some(goodbye)).await?;
                while socket.next().await.transpose()?.is_some() {}
                Ok::<(), tungstenite::Error>(())
            };
            let _ended_or_late = tokio::time::timeout(CLOSE, handshake).await;
        }
    }
}

fn decoded(frame: &[u8]) -> Event {
    match frame.split_first() {
        Some((0, message)) => match ServerToAgent::decode(message) {
            Ok(reply) => Event::Reply(Box::new(reply)),
            Err(_) => Event::Undecodable,
        },
        _ => Event::Undecodable,
    }
}

async fn dial(route: Route) -> Result<Box<Socket>, Event> {
    let endpoint = route.endpoint();
    let scheme = if endpoint.tls { "wss" } else { "ws" };
    let url = format!("{scheme}://{}{}", endpoint.authority(), endpoint.path);
    let mut request = url.into_client_request().map_err(|_| Event::NetworkError)?;
    for (key, value) in &route.headers {
        if let (Ok(key), Ok(value)) = (key.parse::<::http::HeaderName>(), value.parse()) {
            request.headers_mut().insert(key, value);
        }
    }
    let stream = endpoint
        .dial(&route.tls)
        .await
        .map_err(|_| Event::NetworkError)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(ANSWER_BYTES_MAX))
        .max_frame_size(Some(ANSWER_BYTES_MAX))
        .read_buffer_size(4096)
        .write_buffer_size(0);
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(Box::new(socket)),
        Err(tungstenite::Error::Http(response)) => {
            let (status, retry_after) =
                (response.status().as_u16(), retry_after(response.headers()));
            Err(Event::HttpError {
                status,
                retry_after,
            })
        }
        Err(_) => Err(Event::NetworkError),
    }
}
