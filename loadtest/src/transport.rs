//! Sockets for simulated supervisors: where the server is, and the two shells around the core.
//!
//! One connection per agent, HTTP/1.1 on both transports (the real HTTP client would take h2 over TLS when offered).
//! Unlike the real supervisor, a settings offer without a certificate does not turn verification off.

pub(crate) mod http;
pub(crate) mod ws;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::agent::Settings;

/// Connecting and the TLS handshake together; the real client has no limit, a load test must not hang.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// Answers above this are given up; the specification's receive limit.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "`{0}` is no server URL: http, https, ws or wss, a host, and optionally port and path are needed"
    )]
    Url(String),
    #[error(
        "`{0}` is not on this machine; say --allow-remote (allow_remote) to load it all the same"
    )]
    Remote(String),
    #[error("could not read certificates from `{path}`")]
    Ca {
        path: String,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("could not set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("no server is given")]
    None,
}

/// One address of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
}

/// Where an agent's messages go, with what headers. Cheap to clone but for the headers.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// In turn: after a failure the next is tried, as behind a load balancer.
    pub endpoints: Arc<[Endpoint]>,
    pub turn: usize,
    pub headers: Vec<(String, String)>,
    pub tls: Arc<rustls::ClientConfig>,
    pub allow_remote: bool,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

// === impl Endpoint ===

impl Endpoint {
    /// A URL of scheme http, https, ws or wss; the path defaults to `/v1/opamp`, the port to 80 or 443.
    ///
    /// # Errors
    ///
    /// [`Error::Url`], and [`Error::Remote`] for a host that is not loopback unless `allow_remote`.
    pub fn parse(url: &str, allow_remote: bool) -> Result<Self, Error> {
        let bad = || Error::Url(url.to_owned());
        let uri: ::http::Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(bad()),
        };
        let host = uri
            .host()
            .ok_or_else(bad)?
            .trim_matches(['[', ']'])
            .to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = if matches!(uri.path(), "" | "/") {
            "/v1/opamp"
        } else {
            uri.path()
        }
        .to_owned();
        let endpoint = Endpoint {
            tls,
            host,
            port,
            path,
        };
        if allow_remote || endpoint.is_loopback() {
            Ok(endpoint)
        } else {
            Err(Error::Remote(url.to_owned()))
        }
    }

    fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Value of the Host header.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A connection, with TLS if the scheme asks for it.
    pub(crate) async fn dial(
        &self,
        tls: &Arc<rustls::ClientConfig>,
    ) -> std::io::Result<Box<dyn Stream>> {
        let dial = async {
            let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
            tcp.set_nodelay(true)?;
            if !self.tls {
                return Ok(Box::new(tcp) as Box<dyn Stream>);
            }
            let name = ServerName::try_from(self.host.clone()).map_err(std::io::Error::other)?;
            let connector = tokio_rustls::TlsConnector::from(tls.clone());
            Ok(Box::new(Box::pin(connector.connect(name, tcp)).await?) as Box<dyn Stream>)
        };
        tokio::time::timeout(DIAL_MAX, dial)
            .await
            .map_err(std::io::Error::from)?
    }
}

// === impl Route ===

impl Route {
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.turn % self.endpoints.len()]
    }

    /// The endpoint and headers of a settings offer; all headers of before are gone.
    pub fn by(&self, settings: &Settings) -> Result<Self, Error> {
        let endpoint = Endpoint::parse(&settings.endpoint, self.allow_remote)?;
        Ok(Route {
            endpoints: [endpoint].into(),
            turn: 0,
            headers: settings.headers.clone(),
            ..self.clone()
        })
    }
}

/// A client configuration that trusts the certificates in the PEM file `ca`, or nothing without one.
///
/// # Errors
///
/// [`Error::Ca`] for an unreadable file, [`Error::Tls`] for certificates that are none.
pub fn tls(ca: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, Error> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = ca {
        let failed = |source| Error::Ca {
            path: path.display().to_string(),
            source,
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
            roots.add(certificate.map_err(failed)?)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// `Retry-After` in seconds or, never sent by us but legal, as a date that then counts as absent.
fn retry_after(headers: &::http::HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(::http::header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_get_their_defaults_and_foreign_hosts_are_refused() {
        let endpoint = Endpoint::parse("ws://localhost:4320", false).unwrap();
        let expected = Endpoint {
            tls: false,
            host: "localhost".into(),
            port: 4320,
            path: "/v1/opamp".into(),
        };
        assert_eq!(endpoint, expected);
        assert_eq!(
            Endpoint::parse("https://[::1]/x", false)
                .unwrap()
                .authority(),
            "[::1]:443"
        );
        assert!(matches!(
            Endpoint::parse("http://192.0.2.1:4320", false),
            Err(Error::Remote(_))
        ));
        assert!(Endpoint::parse("http://192.0.2.1:4320", true).is_ok());
        assert!(matches!(
            Endpoint::parse("localhost:4320", false),
            Err(Error::Url(_))
        ));
    }
}
