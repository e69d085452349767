//! TLS of every listener and connection: certificates that are replaced without restart, and who is who in a cluster.
//!
//! Between the processes of a cluster both ends show a certificate of the cluster's own authority. What a certificate
//! says of its holder is a DNS name, such as `node-3.prod.muster`: so the checks are those of the TLS library, and none
//! are our own.

mod files;
#[cfg(feature = "issue")]
mod issue;
mod mutual;
mod name;

pub use files::{Files, Reloaded, TlsError, server};
#[cfg(feature = "issue")]
pub use issue::{Authority, IssueError, Issued};
pub use mutual::{Mutual, MutualFiles, Peer};
pub use name::{Name, NameError, is_cluster_name};
