//! Requests of agents: routing, admission, and plain HTTP exchanges.
//!
//! Some clients take only status 200 with exactly `application/x-protobuf`, and retry everything else for ever;
//! so a message that is malformed is answered 200 with an error inside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use proto::uid::Uid;

use crate::guard;
use crate::link::{Access, Link};
use crate::listen::Connection;
use crate::opamp::body::{self, BodyError};
use crate::opamp::reply::Reply;
use crate::opamp::{Edge, inflate, negotiate, ws};
use crate::session::exchange::{First, Outcome, Refusal, Source};

/// Requests up to this size may be idle polls, which need no leader.
const POLL_BYTES_MAX: u64 = 256;

/// An answer with its whole body.
pub type Answer = Response<Full<Bytes>>;

/// Answers one request.
pub async fn respond<L: Link, A: Access>(
    edge: Arc<Edge<L, A>>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Answer {
    let _active = connection.watch.begin();
    if connection.refused {
        let mut answer = match connection.late {
            true => draining(),
            false => overloaded(),
        };
        answer
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
        return answer;
    }
    if !edge.guard.allows(request.uri(), request.headers()) {
        edge.exchange.metrics.refused.foreign.inc();
        return text(
            StatusCode::FORBIDDEN,
            "this listener serves local programs only: use localhost as host name\n",
        );
    }
    if request.uri().path() != edge.path {
        return text(StatusCode::NOT_FOUND, "not found\n");
    }
    let busy = edge.exchange.reports.available_permits() == 0;
    // A body of unknown length counts as a large one: it would be received and inflated only to be refused.
    let is_poll = |most: Option<u64>| most.is_some_and(|most| most <= POLL_BYTES_MAX);
    if busy && !is_poll(request.body().size_hint().upper()) {
        edge.exchange.metrics.refused.reports.inc();
        return overloaded();
    }
    let Ok(token) = edge.access.agent(guard::bearer(request.headers())) else {
        edge.exchange.metrics.refused.unauthorised.inc();
        return unauthorised();
    };
    if !negotiate::is_protobuf(request.headers()) {
        return ws::upgrade(&edge, connection, token, request, busy);
    }
    if request.method() != Method::POST {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "use POST\n");
        answer
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    post(&edge, &connection, token, request).await
}

async fn post<L: Link, A: Access>(
    edge: &Edge<L, A>,
    connection: &Connection,
    token: String,
    request: Request<Incoming>,
) -> Answer {
    let exchange = &edge.exchange;
    let (head, body) = request.into_parts();
    let (bytes, _share) =
        match body::receive(&head.headers, body, &edge.budget, &exchange.limits).await {
            Ok(received) => received,
            Err(error) => return refuse_body(edge, error),
        };
    let source = Source {
        connection: connection.number,
        peer: connection.peer,
        token,
        holder: None,
    };
    let mut outcome = match exchange.hear(&source, bytes) {
        First::Done { uid, reply } => {
            compare_header(edge, &head.headers, Some(uid));
            return protobuf(&head.headers, reply, usize::MAX);
        }
        First::Again { uid, replies } => Outcome::of(uid, replies.to_vec()),
        First::Malformed(reply) => return protobuf(&head.headers, reply, usize::MAX),
        First::Queue { .. } => return overloaded(),
        First::Later(later) => {
            let uid = later.uid();
            match exchange.finish(&source, later).await {
                Ok(outcome) => outcome,
                Err(Refusal::Rejected(why)) => {
                    return protobuf(
                        &head.headers,
                        Reply::bad_request(uid.as_bytes(), why),
                        usize::MAX,
                    );
                }
                Err(refusal) => return unavailable(refusal.retry_after()),
            }
        }
    };
    compare_header(edge, &head.headers, outcome.uid);
    if let Some(unwritten) = exchange.at_write(&mut outcome) {
        exchange.give_back(&source, unwritten).await;
    }
    let (Some(uid), first) = (outcome.uid, outcome.replies.into_iter().next()) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "");
    };
    protobuf(
        &head.headers,
        first.unwrap_or_else(|| Reply::plain(&uid)),
        exchange.limits.gzip_from_bytes,
    )
}

/// The body wins over the header, which is there for proxies.
fn compare_header<L, A>(edge: &Edge<L, A>, headers: &HeaderMap, uid: Option<Uid>) {
    let (Some(value), Some(uid)) = (headers.get("opamp-instance-uid"), uid) else {
        return;
    };
    if !spells(value.as_bytes(), &uid) {
        edge.exchange.metrics.uid_mismatches.inc();
        tracing::debug!(%uid, "the header OpAMP-Instance-UID names another uid than the message");
    }
}

/// Is the text this uid in hexadecimal digits, hyphens aside? Asked at every poll, so nothing is allocated.
fn spells(text: &[u8], uid: &Uid) -> bool {
    let mut digits = text
        .iter()
        .filter(|byte| **byte != b'-')
        .map(|byte| char::from(*byte).to_digit(16));
    let spelt = uid.as_bytes().iter().all(|byte| {
        let high = digits.next().flatten();
        let low = digits.next().flatten();
        high.zip(low)
            .is_some_and(|(high, low)| high << 4 | low == u32::from(*byte))
    });
    spelt && digits.next().is_none()
}

fn refuse_body<L, A>(edge: &Edge<L, A>, error: BodyError) -> Answer {
    let refused = &edge.exchange.metrics.refused;
    match error {
        BodyError::TooLarge => {
            refused.too_large.inc();
            let limit = edge.exchange.limits.receive_bytes;
            text(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("messages may have up to {limit} bytes, also when inflated\n"),
            )
        }
        BodyError::Budget => {
            refused.bytes.inc();
            overloaded()
        }
        BodyError::Late => {
            refused.late.inc();
            text(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive in time\n",
            )
        }
        BodyError::Broken => {
            refused.broken.inc();
            text(StatusCode::BAD_REQUEST, "the body ended early\n")
        }
        BodyError::UnknownEncoding => {
            refused.encoding.inc();
            let mut answer = text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "content encodings are gzip and identity\n",
            );
            answer.headers_mut().insert(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static("gzip, identity"),
            );
            answer
        }
        BodyError::NotGzip => {
            refused.malformed.inc();
            let reply = Reply::bad_request(&[], "the body is not one whole gzip member");
            protobuf(&HeaderMap::new(), reply, usize::MAX)
        }
    }
}

fn protobuf(headers: &HeaderMap, reply: Reply, gzip_from: usize) -> Answer {
    let body = reply.into_body();
    let packed = (body.len() >= gzip_from && negotiate::takes_gzip(headers))
        .then(|| inflate::deflate(&body));
    let mut answer = Response::new(Full::default());
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(negotiate::PROTOBUF),
    );
    match packed.flatten() {
        Some(packed) => {
            answer
                .headers_mut()
                .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            *answer.body_mut() = Full::new(packed);
        }
        None => *answer.body_mut() = Full::new(body),
    }
    answer
}

fn unauthorised() -> Answer {
    let mut answer = text(
        StatusCode::UNAUTHORIZED,
        "a valid enrolment token is needed\n",
    );
    answer.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"muster\""),
    );
    answer
}

/// Too much to do: 503 and a pause that spreads those who come back.
pub fn overloaded() -> Answer {
    unavailable(Refusal::Overloaded.retry_after())
}

/// It is about to stop: 503 and a short pause, since another gateway is there, or this one is soon again. Spread, so that they
/// do not come all at once.
fn draining() -> Answer {
    unavailable(Duration::from_secs(rand::random_range(1..=10)))
}

fn unavailable(retry_after: Duration) -> Answer {
    let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, "try again later\n");
    let seconds = retry_after.as_secs_f64().ceil() as u64;
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// A short answer for people.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}
