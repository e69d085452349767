//! Where a process sends its spans and figures over OTLP: a receiver that keeps them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prost::Message;
use tokio::net::TcpListener;

/// Of one export.
const BYTES_MAX: usize = 1 << 20;

/// Before each message of gRPC: whether it is compressed, which it is not, and its length.
const PREFIX: usize = 5;

/// A receiver of OTLP over gRPC, as long as the test's runtime lives.
#[derive(Clone)]
pub struct Receiver {
    /// For `--otlp-endpoint`.
    pub endpoint: String,
    /// Messages by the path that they came to.
    heard: Arc<Mutex<BTreeMap<String, Vec<Vec<u8>>>>>,
}

// === impl Receiver ===

impl Receiver {
    pub async fn start() -> Self {
        let heard = Arc::new(Mutex::new(BTreeMap::<String, Vec<Vec<u8>>>::new()));
        let keep = heard.clone();
        let answer = axum::Router::new().fallback(async move |request: axum::extract::Request| {
            let path = request.uri().path().to_owned();
            let body = axum::body::to_bytes(request.into_body(), BYTES_MAX).await;
            let message = body.unwrap()[PREFIX..].to_vec();
            keep.lock().unwrap().entry(path).or_default().push(message);
            [("content-type", "application/grpc"), ("grpc-status", "0")]
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, answer).into_future());
        Receiver { endpoint, heard }
    }

    /// Has a figure of this name come?
    pub fn has_figure(&self, name: &str) -> bool {
        let messages = self.messages("metrics.v1.MetricsService");
        messages
            .iter()
            .any(|m| m.windows(name.len()).any(|part| part == name.as_bytes()))
    }

    /// Is there a trace that begins with a span of the first name, in which is one of the second, and so on?
    pub fn has_trace(&self, names: &[&str]) -> bool {
        let spans = self.spans();
        let mut within: Vec<&Span> = Vec::new();
        for (depth, name) in names.iter().enumerate() {
            let named = spans.iter().filter(|span| span.name == *name);
            within = named
                .filter(|span| match depth {
                    0 => span.parent.is_empty(),
                    _ => within
                        .iter()
                        .any(|outer| span.trace == outer.trace && span.parent == outer.id),
                })
                .collect();
        }
        !within.is_empty()
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        let exports = self.messages("trace.v1.TraceService");
        let exports = exports
            .iter()
            .map(|export| Export::decode(export.as_slice()).unwrap());
        let scopes = exports
            .flat_map(|export| export.resources)
            .flat_map(|resource| resource.scopes);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    fn messages(&self, service: &str) -> Vec<Vec<u8>> {
        let path = format!("/opentelemetry.proto.collector.{service}/Export");
        let heard = self.heard.lock().unwrap();
        heard.get(&path).cloned().unwrap_or_default()
    }
}

// === what is read of opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest ===

#[derive(Clone, PartialEq, prost::Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

/// One span.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub id: Vec<u8>,
    /// Empty: it is the first of its trace.
    #[prost(bytes = "vec", tag = "4")]
    pub parent: Vec<u8>,
    #[prost(string, tag = "5")]
    pub name: String,
}
