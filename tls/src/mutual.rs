//! TLS between the processes of one cluster: both ends show who they are.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tower::Service;

use crate::files::{Files, Reloaded, TlsError, roots};
use crate::name::Name;

/// A peer that has not shown who it is within this is none.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Connections that have not shown yet who they are. Anybody can make them, and each takes a descriptor and some of the
/// processor's time: who comes beyond waits in the backlog.
const HANDSHAKES: usize = 128;

/// Connections that have shown who they are and wait to be served.
const WAITING: usize = 64;

/// Files are looked at so often, where nobody says otherwise.
const WATCH: Duration = Duration::from_secs(10);

/// Own certificate and key, and the cluster's authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualFiles {
    /// Own certificate and key.
    pub own: Files,
    /// Certificates of the authority; several while one replaces another.
    pub authority: PathBuf,
}

/// One process's part in it.
pub struct Mutual {
    cluster: String,
    configs: Arc<Reloaded<Configs>>,
}

struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// The certificate that the other end of a connection has shown.
#[derive(Clone, Debug)]
pub struct Peer(Option<CertificateDer<'static>>);

impl Mutual {
    /// Reads the files; at start they must be good. Needs a runtime, on which it looks at them from then on.
    pub fn load(cluster: &str, files: MutualFiles) -> Result<Mutual, TlsError> {
        Mutual::load_and_watch(cluster, files, WATCH)
    }

    /// As [`Mutual::load`]; it looks at the files so often.
    pub fn load_and_watch(
        cluster: &str,
        files: MutualFiles,
        every: Duration,
    ) -> Result<Mutual, TlsError> {
        let watched = [&files.own.certificate, &files.own.key, &files.authority];
        let watched = watched.map(Clone::clone).to_vec();
        let configs = Arc::new(Reloaded::load(watched, move || Configs::read(&files))?);
        tokio::spawn(configs.clone().watch(every));
        Ok(Mutual {
            cluster: cluster.to_owned(),
            configs,
        })
    }

    /// A connector for gRPC, to whoever shows this name.
    pub fn connector(&self, name: Name) -> Result<Connector, TlsError> {
        let dns = name.dns(&self.cluster);
        let name = ServerName::try_from(dns.clone());
        let name = name.map_err(|error| TlsError {
            file: dns,
            reason: error.to_string(),
        })?;
        Ok(Connector {
            name,
            configs: self.configs.clone(),
        })
    }

    /// Those of the connections whose other end has shown a certificate of the cluster's authority.
    pub fn accept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        incoming: impl Stream<Item = io::Result<(S, SocketAddr)>> + Send + 'static,
    ) -> ReceiverStream<io::Result<server::TlsStream<S>>> {
        let (send, accepted) = tokio::sync::mpsc::channel(WAITING);
        let configs = self.configs.clone();
        tokio::spawn(async move {
            let mut incoming = pin!(incoming);
            let mut open: VecDeque<AbortHandle> = VecDeque::new();
            loop {
                let next = tokio::select! {
                    () = send.closed() => return,
                    next = incoming.next() => next,
                };
                let (stream, peer) = match next {
                    Some(Ok(accepted)) => accepted,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "cannot accept");
                        continue;
                    }
                    None => return,
                };
                let (send, acceptor) = (
                    send.clone(),
                    TlsAcceptor::from(configs.current().server.clone()),
                );
                // Who says nothing gives way: otherwise a few strangers could keep everybody else out.
                open.retain(|handshake| !handshake.is_finished());
                if open.len() >= HANDSHAKES
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                let handshake = tokio::spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let _stopping = send.send(Ok(stream)).await;
                        }
                        Ok(Err(error)) => {
                            tracing::warn!(%peer, %error, "a connection was refused: it shows no certificate of this cluster")
                        }
                        Err(_) => tracing::debug!(%peer, "a connection has not shown who it is"),
                    }
                });
                open.push_back(handshake.abort_handle());
            }
        });
        ReceiverStream::new(accepted)
    }
}

impl Configs {
    fn read(files: &MutualFiles) -> Result<Self, TlsError> {
        let (chain, key) = files.own.read()?;
        let roots = Arc::new(roots(&files.authority)?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let wrong = |error: rustls::Error| TlsError::of(&files.own.certificate, error);
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(wrong)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
        let verifier = verifier.map_err(|error| TlsError::of(&files.authority, error))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(wrong)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Configs {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}

// === Connector ===

/// Connects to whoever shows one name.
#[derive(Clone)]
pub struct Connector {
    name: ServerName<'static>,
    configs: Arc<Reloaded<Configs>>,
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: http::Uri) -> Self::Future {
        let connector = TlsConnector::from(self.configs.current().client.clone());
        let name = self.name.clone();
        Box::pin(async move {
            let address = to
                .authority()
                .map(http::uri::Authority::as_str)
                .unwrap_or_default();
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(connector.connect(name, stream).await?))
        })
    }
}

// === Peer ===

impl Peer {
    /// What the other end has shown, the first of its certificates; none: the connection is not encrypted.
    pub fn of(certificates: Option<&[CertificateDer<'static>]>) -> Peer {
        Peer(
            certificates
                .and_then(|all| all.first())
                .map(|first| first.clone().into_owned()),
        )
    }

    /// Does its certificate say that it is this?
    pub fn is(&self, name: Name, cluster: &str) -> bool {
        let Some(certificate) = &self.0 else {
            return false;
        };
        let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else {
            return false;
        };
        let dns = name.dns(cluster);
        let Ok(name) = ServerName::try_from(dns.as_str()) else {
            return false;
        };
        parsed.verify_is_valid_for_subject_name(&name).is_ok()
    }
}
