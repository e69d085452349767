//! A bare server: answers any POST with the same bytes. What a check-in costs beyond it is the control plane's own.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use proto::opamp::{ServerCapabilities, ServerToAgent};
use tokio::net::TcpListener;

/// A listener that is bound, with its address.
#[derive(Debug)]
pub struct BareServer {
    listener: TcpListener,
    pub address: SocketAddr,
}

// === impl BareServer ===

impl BareServer {
    /// # Errors
    ///
    /// If the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(BareServer { listener, address })
    }

    /// Serves until dropped.
    pub async fn run(self) {
        let reply = Bytes::from(
            ServerToAgent {
                instance_uid: vec![1; 16],
                capabilities: ServerCapabilities::AcceptsStatus as u64,
                ..ServerToAgent::default()
            }
            .encode_to_vec(),
        );
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let reply = reply.clone();
            let service = service_fn(move |request| answer(request, reply.clone()));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }
}

async fn answer(
    request: http::Request<Incoming>,
    reply: Bytes,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let read = request.into_body().collect().await;
    let mut response = http::Response::new(Full::new(reply));
    if read.is_err() {
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
    }
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/x-protobuf"),
    );
    Ok(response)
}
