//! Operators' calls go to the node that leads the control group, as they are, with the caller's name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Frame;
use proto::edge::{ACTOR_HEADER, NOT_LEADER_HEADER, ROLE_HEADER};
use tonic::Status;
use tower::{Service, ServiceExt};

use super::Cluster;
use crate::link::Operator;

/// Without a leader a call is held for so long.
const HOLD: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a call: manifests with their files, and what is around them.
const CALL_BYTES_MAX: usize = 33 << 20;

/// Routes for everything that is not answered by the gateway itself.
pub fn proxy(cluster: Arc<Cluster>) -> Router {
    Router::new().fallback(move |request: Request<Body>| {
        let cluster = cluster.clone();
        async move {
            forward(&cluster, request)
                .await
                .unwrap_or_else(|status| status.into_http())
        }
    })
}

async fn forward(cluster: &Cluster, request: Request<Body>) -> Result<Response<Body>, Status> {
    let (mut parts, body) = request.into_parts();
    let operator = parts.extensions.remove::<Operator>();
    name(&mut parts.headers, operator.as_ref())?;
    // Whole, so that it can be said again to the next leader. No call of ours streams what it asks.
    let body = http_body_util::Limited::new(body, CALL_BYTES_MAX)
        .collect()
        .await;
    let body = body
        .map_err(|_| Status::resource_exhausted("the call is too large: send less at once"))?
        .to_bytes();
    let begun = Instant::now();
    loop {
        if let Some(line) = cluster.line_to_leader(0) {
            let mut again = Request::new(tonic::body::Body::new(http_body_util::Full::new(
                body.clone(),
            )));
            *again.version_mut() = Version::HTTP_2;
            *again.method_mut() = parts.method.clone();
            *again.uri_mut() = parts.uri.clone();
            *again.headers_mut() = parts.headers.clone();
            let mut channel = line.channel();
            let lost = |error: tonic::transport::Error| {
                tracing::debug!(%error, "an operator's call was not answered");
                Status::unavailable(
                    "the node that was asked has gone; whether it happened is not known: look, then repeat with the same idempotency key",
                )
            };
            let ready = channel.ready().await.map_err(lost)?;
            let answer = ready.call(again).await.map_err(lost)?;
            if !answer.headers().contains_key(NOT_LEADER_HEADER) {
                return Ok(answer.map(to_its_end));
            }
        }
        if begun.elapsed() >= HOLD {
            return Err(Status::unavailable(
                "the control group has no leader at the moment: nothing has happened; repeat it in a moment",
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An answer that breaks off ends with a status, as if the node had said so itself: whoever watches asks again.
fn to_its_end(body: tonic::body::Body) -> Body {
    let frames = http_body_util::BodyStream::new(body).map(|frame| {
        frame.or_else(|error| {
            tracing::debug!(%error, "an answer to an operator broke off");
            let status = Status::unavailable("the node that answered has gone: ask again");
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            Ok::<_, Status>(Frame::trailers(trailers))
        })
    });
    Body::new(http_body_util::StreamBody::new(frames))
}

/// Who calls, as this gateway knows it: what the caller says of that itself is nobody's word.
fn name(headers: &mut HeaderMap, operator: Option<&Operator>) -> Result<(), Status> {
    let (actor, role) = (
        HeaderName::from_static(ACTOR_HEADER),
        HeaderName::from_static(ROLE_HEADER),
    );
    headers.remove(&actor);
    headers.remove(&role);
    headers.remove(http::header::AUTHORIZATION);
    if let Some(operator) = operator {
        let value = HeaderValue::from_str(&operator.name)
            .map_err(|_| Status::invalid_argument("the token's name cannot be sent"))?;
        headers.insert(actor, value);
        headers.insert(role, HeaderValue::from_static(operator.role.name()));
    }
    Ok(())
}
