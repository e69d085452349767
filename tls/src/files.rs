//! PEM files, and what is made of them anew when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// PEM files; both are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Certificate chain, the holder's own first.
    pub certificate: PathBuf,
    /// Private key of the first certificate.
    pub key: PathBuf,
}

/// Certificate, key or authority cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{file} cannot be used: {reason}")]
pub struct TlsError {
    /// Which file.
    pub file: String,
    /// What is wrong.
    pub reason: String,
}

impl TlsError {
    pub(crate) fn of(file: &Path, reason: impl ToString) -> Self {
        TlsError {
            file: file.display().to_string(),
            reason: reason.to_string(),
        }
    }
}

impl Files {
    /// Chain and key.
    pub(crate) fn read(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key =
            key.map_err(|error| TlsError::of(&self.key, format!("no private key: {error}")))?;
        Ok((chain, key))
    }
}

/// A listener that asks its clients for no certificate, for HTTP/2 and HTTP/1.1.
pub fn server(files: &Files) -> Result<ServerConfig, TlsError> {
    let (chain, key) = files.read()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(|error| TlsError::of(&files.certificate, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Every certificate of a file; at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let all: Vec<_> =
        all.map_err(|error| TlsError::of(file, format!("no certificate: {error}")))?;
    match all.is_empty() {
        true => Err(TlsError::of(file, "there is no certificate in it")),
        false => Ok(all),
    }
}

/// Authorities to trust.
pub(crate) fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::of(file, error))?;
    }
    Ok(roots)
}

/// What is made of files, and made anew when one of them changes.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>,
    current: ArcSwap<T>,
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads them; at start they must be good.
    pub fn load(
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(read()?);
        Ok(Reloaded {
            files,
            read: Box::new(read),
            current,
        })
    }

    /// The newest that was good.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Looks at the files every so often, for ever. Bad new files leave the old ones in use.
    pub async fn watch(self: Arc<Self>, every: Duration) {
        let mut seen = self.stamps();
        loop {
            tokio::time::sleep(every).await;
            let stamps = self.stamps();
            if stamps == seen {
                continue;
            }
            seen = stamps;
            match (self.read)() {
                Ok(fresh) => {
                    self.current.store(Arc::new(fresh));
                    tracing::info!(files = ?self.files, "certificate replaced");
                }
                Err(error) => {
                    tracing::error!(%error, "the new certificate is not used, the old one stays")
                }
            }
        }
    }

    fn stamps(&self) -> Vec<Option<(SystemTime, u64)>> {
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        self.files.iter().map(stamp).collect()
    }
}
