//! One request, one bounded answer. Redirects are not followed, and no proxy of the environment is used: who is asked
//! is who was named.

use std::sync::OnceLock;

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};

use crate::partition::chain;

/// Connections that are kept to one host. A check is asked every few seconds, and few at once.
const IDLE_MAX: usize = 4;

type Client = Hyper<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Made at the first request: it reads the certificates that the system trusts.
#[derive(Default)]
pub struct Http(OnceLock<Client>);

impl Http {
    /// The answer, if its body is no longer than this; otherwise what went wrong, in words.
    pub async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), String> {
        let client = self.0.get_or_init(client);
        let answer = client.request(request).await;
        let (head, body) = answer.map_err(|error| chain(&error))?.into_parts();
        let body = Limited::new(body, body_bytes_max).collect().await;
        let body = body.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                format!("its answer is longer than {} KiB", body_bytes_max / 1024)
            } else {
                chain(&*error)
            }
        })?;
        Ok((head.status, body.to_bytes()))
    }
}

fn client() -> Client {
    let ring = rustls::crypto::ring::default_provider;
    let builder = HttpsConnectorBuilder::new();
    let builder = builder
        .with_provider_and_native_roots(ring())
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "no certificate of this system can be read: checks over https have no answer; SSL_CERT_FILE names others");
            HttpsConnectorBuilder::new().with_tls_config(
                ClientConfig::builder_with_provider(ring().into())
                    .with_safe_default_protocol_versions()
                    .expect("ring has cipher suites of the default versions")
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth(),
            )
        });
    Hyper::builder(TokioExecutor::new())
        .pool_max_idle_per_host(IDLE_MAX)
        .build(builder.https_or_http().enable_http1().build())
}
