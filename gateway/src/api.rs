//! The operators' side: gRPC, gRPC-Web and pages on one port, with tokens, CORS, health and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tonic_web::GrpcWebLayer;
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::{Listener, StartError};
use crate::guard::{self, Guard};
use crate::limits::Limits;
use crate::link::{Access, Operator, Role};
use crate::listen::{Connection, Shared, Socket};
use crate::metrics::Metrics;

/// Names the person where no tokens are needed.
const USER_HEADER: &str = "muster-user";
const USER_LENGTH_MAX: usize = 64;

/// What `/metrics` is, by its content type.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the operators' listener serves.
pub struct Services {
    /// gRPC services and pages. Handlers find the `Operator` among the request's extensions.
    pub router: Router,
    /// Paths that need no token, besides `/healthz` and `/readyz`: pages that ask for one. A trailing `*` is any rest.
    pub open_paths: Vec<String>,
    /// What `/metrics` prints.
    pub registry: Arc<Registry>,
    /// Can this process do its work? Err says what it waits for.
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// An operators' listener that has its address and does not accept yet.
pub struct BoundApi<A> {
    socket: Socket,
    shared: Shared,
    api: Arc<Api<A>>,
}

struct Api<A> {
    services: Services,
    access: Arc<A>,
    guard: Guard,
    cors: CorsLayer,
}

/// Checks the settings, takes the address and reads the certificate. Needs a runtime.
pub fn bind<A: Access>(
    listener: &Listener,
    limits: Limits,
    access: Arc<A>,
    services: Services,
) -> Result<BoundApi<A>, StartError> {
    listener.check(access.tokens_required())?;
    let socket = Socket::bind(listener)?;
    let guard = Guard::new(listener, socket.address, access.tokens_required());
    let cors = cors(guard.clone());
    let shared = Shared::new(Arc::new(limits), Metrics::default());
    Ok(BoundApi {
        socket,
        shared,
        api: Arc::new(Api {
            services,
            access,
            guard,
            cors,
        }),
    })
}

// === impl BoundApi ===

impl<A: Access> BoundApi<A> {
    /// Where operators connect; the port is the real one.
    pub fn address(&self) -> SocketAddr {
        self.socket.address
    }

    /// Serves until `drain` is cancelled, then ends what is under way within the limit `drain_timeout`.
    pub async fn run(self, drain: CancellationToken) {
        let BoundApi {
            socket,
            shared,
            api,
        } = self;
        let handle = move |connection: Arc<Connection>, request| {
            let api = api.clone();
            async move {
                let _active = connection.watch.begin();
                api.respond(&connection, request).await
            }
        };
        tokio::select! {
            () = socket.serve(shared.clone(), handle) => {}
            () = drain.cancelled() => {}
        }
        shared.drain.cancel();
        let by = tokio::time::Instant::now() + shared.limits.drain_timeout;
        shared.finish(by).await;
    }
}

// === impl Api ===

impl<A: Access> Api<A> {
    async fn respond(
        self: &Arc<Self>,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if connection.refused {
            return plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many connections, try again later\n",
            );
        }
        if !self.guard.allows(request.uri(), request.headers()) {
            return plain(
                StatusCode::FORBIDDEN,
                "this listener serves local programs only: use localhost\n",
            );
        }
        let mut request = request.map(Body::new);
        request
            .extensions_mut()
            .insert(axum::extract::ConnectInfo(connection.peer));
        let api = self.clone();
        let inner = tower::service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.admitted(request).await) }
        });
        match self.cors.layer(inner).oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }

    async fn admitted(&self, mut request: Request<Body>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => return plain(StatusCode::OK, "ok\n"),
            (&Method::GET, "/readyz") => return self.ready(),
            _ => {}
        }
        match self.operator(request.headers()) {
            Some(operator) => {
                request.extensions_mut().insert(operator);
            }
            None if self.is_open(request.uri().path()) => {}
            None => return unauthenticated(request.headers()),
        }
        if request.method() == Method::GET && request.uri().path() == "/metrics" {
            return self.metrics();
        }
        let router = self.services.router.clone();
        if !is_grpc_web(request.headers()) {
            return router
                .oneshot(request)
                .await
                .unwrap_or_else(|never| match never {});
        }
        let inner =
            router.map_request(|request: Request<tonic::body::Body>| request.map(Body::new));
        match GrpcWebLayer::new().layer(inner).oneshot(request).await {
            Ok(answer) => answer.map(Body::new),
            Err(never) => match never {},
        }
    }

    fn operator(&self, headers: &HeaderMap) -> Option<Operator> {
        if self.access.tokens_required() {
            return self.access.operator(guard::bearer(headers)).ok();
        }
        let user = headers
            .get(USER_HEADER)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        Some(Operator {
            name: format!("local/{}", sanitised(user)),
            role: Role::Admin,
        })
    }

    fn is_open(&self, path: &str) -> bool {
        self.services
            .open_paths
            .iter()
            .any(|open| match open.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => path == open,
            })
    }

    fn ready(&self) -> Response<Body> {
        match (self.services.ready)() {
            Ok(()) => plain(StatusCode::OK, "ready\n"),
            Err(waits_for) => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {waits_for}\n"),
            ),
        }
    }

    fn metrics(&self) -> Response<Body> {
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.services.registry).is_err() {
            return plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics cannot be printed\n",
            );
        }
        let mut answer = plain(StatusCode::OK, text);
        let kind = HeaderValue::from_static(OPEN_METRICS);
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }
}

fn cors(guard: Guard) -> CorsLayer {
    let allowed = move |origin: &HeaderValue, _: &http::request::Parts| {
        origin
            .to_str()
            .is_ok_and(|origin| guard.allows_origin(origin))
    };
    let exposed =
        ["grpc-status", "grpc-message", "grpc-status-details-bin"].map(HeaderName::from_static);
    let accepted = [
        header::CONTENT_TYPE,
        header::AUTHORIZATION,
        HeaderName::from_static("x-grpc-web"),
        HeaderName::from_static("x-user-agent"),
        HeaderName::from_static("grpc-timeout"),
        HeaderName::from_static(USER_HEADER),
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(accepted)
        .expose_headers(exposed)
        .max_age(std::time::Duration::from_secs(600))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn is_grpc_web(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"))
}

/// gRPC clients read their status, all others read 401.
fn unauthenticated(headers: &HeaderMap) -> Response<Body> {
    const WHY: &str = "a valid operator token is needed: authorization: Bearer <token>";
    if is_grpc(headers) {
        let mut answer = tonic::Status::unauthenticated(WHY).into_http::<Body>();
        if is_grpc_web(headers) {
            let kind = HeaderValue::from_static("application/grpc-web+proto");
            answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        return answer;
    }
    let mut answer = plain(StatusCode::UNAUTHORIZED, format!("{WHY}\n"));
    answer.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"muster\""),
    );
    answer
}

/// Letters, digits and `._@+-`, up to 64; what a person calls himself is shown, not trusted.
fn sanitised(user: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "._@+-".contains(*c);
    let user: String = user.chars().filter(allowed).take(USER_LENGTH_MAX).collect();
    if user.is_empty() {
        "unknown".to_owned()
    } else {
        user
    }
}

fn plain(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_name_keeps_only_harmless_characters() {
        assert_eq!(sanitised("ann@example.org"), "ann@example.org");
        assert_eq!(sanitised("a\nb/<c>"), "abc");
        assert_eq!(sanitised(""), "unknown");
        assert_eq!(sanitised(&"x".repeat(100)).len(), 64);
    }
}
