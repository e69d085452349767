//! TLS of a listener, with a certificate that is replaced without restart.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tls::{Files, Reloaded};
use tokio_rustls::TlsAcceptor;

use crate::config::StartError;

/// The certificate in use and where it came from.
pub struct Tls(Arc<Reloaded<ServerConfig>>);

// === impl Tls ===

impl Tls {
    /// Reads the files; at start they must be good.
    pub fn load(files: Files) -> Result<Self, StartError> {
        let watched = vec![files.certificate.clone(), files.key.clone()];
        let (certificate, key) = (&files.certificate, &files.key);
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let loaded = Reloaded::load(watched, move || tls::server(&files));
        let loaded = loaded.map_err(|error| StartError::Certificate {
            certificate,
            key,
            reason: error.to_string(),
        })?;
        Ok(Tls(Arc::new(loaded)))
    }

    /// For the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.current())
    }

    /// Looks at the files every so often, for ever. A bad new file leaves the old certificate in use.
    pub async fn watch(self: Arc<Self>, every: Duration) {
        self.0.clone().watch(every).await;
    }
}
