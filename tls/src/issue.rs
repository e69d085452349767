//! A certificate authority for those who have none: made once, its key kept away, certificates issued for each process.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use crate::name::{Name, NameError, is_cluster_name};

/// Clocks of hosts may be apart by so much.
const SKEW: Duration = Duration::from_secs(3600);

/// Files of an authority.
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The cluster's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is one already: another one would make every certificate of it worthless.
    #[error(
        "{0} is there already: a second authority would not be trusted by who trusts the first; give another directory"
    )]
    Exists(PathBuf),
    /// A file.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What stands in the files is no authority.
    #[error("{path} is no certificate authority: {reason}")]
    Authority {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificate library.
    #[error("no certificate was made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// An authority: whoever has its key is the cluster's owner.
pub struct Authority {
    cluster: String,
    certificate: String,
    key: KeyPair,
}

/// What was issued, as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
    /// The authority's certificate.
    pub authority: String,
}

impl Authority {
    /// Makes a new one for a cluster, good for so long.
    pub fn new(cluster: &str, life: Duration) -> Result<Authority, IssueError> {
        is_cluster_name(cluster)?;
        let key = KeyPair::generate()?;
        let mut params = authority_params(cluster);
        valid(&mut params, life);
        let certificate = params.self_signed(&key)?.pem();
        let cluster = cluster.to_owned();
        Ok(Authority {
            cluster,
            certificate,
            key,
        })
    }

    /// Writes it into a directory that has none yet.
    pub fn write(&self, dir: &Path) -> Result<(), IssueError> {
        let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
        if let Some(there) = [&certificate, &key].into_iter().find(|path| path.exists()) {
            return Err(IssueError::Exists(there.clone()));
        }
        write(&key, &self.key.serialize_pem(), 0o600)?;
        write(&certificate, &self.certificate, 0o644)
    }

    /// Reads what [`Authority::write`] has written, for this cluster.
    pub fn read(dir: &Path, cluster: &str) -> Result<Authority, IssueError> {
        is_cluster_name(cluster)?;
        let read = |name: &str| {
            let path = dir.join(name);
            let text = std::fs::read_to_string(&path);
            text.map_err(|source| IssueError::File { path, source })
        };
        let wrong = |name: &str, reason: String| IssueError::Authority {
            path: dir.join(name),
            reason,
        };
        let (certificate, key) = (read(CERTIFICATE)?, read(KEY)?);
        let key = KeyPair::from_pem(&key).map_err(|error| wrong(KEY, error.to_string()))?;
        let parsed = CertificateDer::from_pem_slice(certificate.as_bytes());
        let parsed = parsed.map_err(|error| wrong(CERTIFICATE, error.to_string()))?;
        let anchor = webpki::anchor_from_trusted_cert(&parsed);
        let anchor = anchor.map_err(|error| wrong(CERTIFICATE, error.to_string()))?;
        if !anchor
            .subject_public_key_info
            .ends_with(key.public_key_raw())
        {
            return Err(wrong(KEY, format!("it is not the key of {CERTIFICATE}")));
        }
        // Only the name as it stands in the certificate is looked for: parsing it would be a library more.
        let name = common_name(cluster).into_bytes();
        if !anchor.subject.windows(name.len()).any(|part| part == name) {
            return Err(wrong(
                CERTIFICATE,
                format!("it is not of cluster `{cluster}`"),
            ));
        }
        let cluster = cluster.to_owned();
        Ok(Authority {
            cluster,
            certificate,
            key,
        })
    }

    /// A certificate and a key for one process.
    pub fn issue(&self, name: Name, life: Duration) -> Result<Issued, IssueError> {
        let mut names = vec![name.dns(&self.cluster)];
        if matches!(name, Name::Node(_)) {
            names.push(Name::AnyNode.dns(&self.cluster));
        }
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named(&name.dns(&self.cluster));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, life);
        let key = KeyPair::generate()?;
        let issuer = Issuer::new(authority_params(&self.cluster), &self.key);
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            authority: self.certificate.clone(),
        })
    }
}

impl Issued {
    /// Writes `NAME.pem`, `NAME.key` and `ca.pem` into a directory, over what is there. Answers the first two paths.
    pub fn write(&self, dir: &Path, name: Name) -> Result<(PathBuf, PathBuf), IssueError> {
        let certificate = dir.join(format!("{name}.pem"));
        let key = dir.join(format!("{name}.key"));
        write(&key, &self.key, 0o600)?;
        write(&certificate, &self.certificate, 0o644)?;
        write(&dir.join(CERTIFICATE), &self.authority, 0o644)?;
        Ok((certificate, key))
    }
}

fn common_name(cluster: &str) -> String {
    format!("muster cluster {cluster}")
}

/// What an authority's certificate says of it: the same each time it is read, but for its end.
fn authority_params(cluster: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&common_name(cluster));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn valid(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + life;
}

/// At once, so that whoever reads it while it is replaced finds the old one or the new one.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), IssueError> {
    let failed = |source| IssueError::File {
        path: path.to_owned(),
        source,
    };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&beside).map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}
