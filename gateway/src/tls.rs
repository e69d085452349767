//! TLS of a listener, with a certificate that is replaced without restart.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::{StartError, TlsFiles};

/// The certificate in use and where it came from.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
}

// === impl Tls ===

impl Tls {
    /// Reads the files; at start they must be good.
    pub fn load(files: TlsFiles) -> Result<Self, StartError> {
        let config = read(&files)?;
        Ok(Tls {
            files,
            current: ArcSwap::from_pointee(config),
        })
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Looks at the files every so often, for ever. A bad new file leaves the old certificate in use.
    pub async fn watch(self: Arc<Self>, every: Duration) {
        let mut seen = self.stamp();
        loop {
            tokio::time::sleep(every).await;
            let stamp = self.stamp();
            if stamp == seen {
                continue;
            }
            seen = stamp;
            match read(&self.files) {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate replaced");
                }
                Err(error) => {
                    tracing::error!(%error, "the new certificate is not used, the old one stays")
                }
            }
        }
    }

    fn stamp(&self) -> [Option<(SystemTime, u64)>; 2] {
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [stamp(&self.files.certificate), stamp(&self.files.key)]
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, StartError> {
    let refused = |reason: String| StartError::Certificate {
        certificate: files.certificate.display().to_string(),
        key: files.key.display().to_string(),
        reason,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| refused(format!("the chain cannot be read: {error}")))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| refused(format!("the key cannot be read: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| refused(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
