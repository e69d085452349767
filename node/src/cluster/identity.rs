//! Which node of which cluster a data directory belongs to: `node.json` in it, written once.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

const FILE: &str = "node.json";

/// How it is written. A file without a number is from before there were any, and the same.
const FORMAT: u64 = 1;

/// What a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the cluster.
    pub cluster: String,
    /// Number of the node.
    pub node: u64,
    /// Where other nodes were when it was written: whoever comes back may need one of them to find the rest.
    pub nodes: BTreeMap<u64, String>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file.
    #[error("cannot use {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says something else than the command line.
    #[error(
        "{path} belongs to node {node} of cluster `{cluster}`: start that one on it, or give another --data-dir"
    )]
    Other {
        /// The data directory.
        path: PathBuf,
        /// Its cluster.
        cluster: String,
        /// Its node.
        node: u64,
    },
    /// It cannot be understood.
    #[error("{0} is damaged: it names no cluster and node")]
    Damaged(PathBuf),
    /// It was written by a newer version.
    #[error(
        "{path} has format {found}, this version knows {FORMAT}: start the version that has written it, or a newer one"
    )]
    Format {
        /// Which.
        path: PathBuf,
        /// As written.
        found: u64,
    },
}

impl Identity {
    /// What a data directory belongs to; None: nothing yet.
    pub fn read(dir: &Path) -> Result<Option<Identity>, IdentityError> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { path, source }),
        };
        let found: Value = serde_json::from_str(&text).unwrap_or_default();
        let format = found["format"].as_u64().unwrap_or(FORMAT);
        if format != FORMAT {
            return Err(IdentityError::Format {
                path,
                found: format,
            });
        }
        let (Some(cluster), Some(node)) = (found["cluster"].as_str(), found["node"].as_u64())
        else {
            return Err(IdentityError::Damaged(path));
        };
        let nodes = found["nodes"].as_object().into_iter().flatten();
        let nodes = nodes
            .filter_map(|(id, address)| Some((id.parse().ok()?, address.as_str()?.to_owned())));
        Ok(Some(Identity {
            cluster: cluster.to_owned(),
            node,
            nodes: nodes.collect(),
        }))
    }

    /// Is the directory this one's, or nobody's yet?
    pub fn check(&self, dir: &Path) -> Result<(), IdentityError> {
        match Identity::read(dir)? {
            Some(found) if (&found.cluster, found.node) != (&self.cluster, self.node) => {
                Err(IdentityError::Other {
                    path: dir.to_owned(),
                    cluster: found.cluster,
                    node: found.node,
                })
            }
            _ => Ok(()),
        }
    }

    /// Writes it down, durably.
    pub fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        let path = dir.join(FILE);
        let text = json!({"format": FORMAT, "cluster": self.cluster, "node": self.node, "nodes": self.nodes});
        let failed = |source| IdentityError::File {
            path: path.clone(),
            source,
        };
        let beside = dir.join("node.json.new");
        let mut file = std::fs::File::create(&beside).map_err(failed)?;
        writeln!(file, "{text:#}")
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        std::fs::rename(&beside, &path)
            .and_then(|()| std::fs::File::open(dir)?.sync_all())
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_belongs_to_one_node_of_one_cluster() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        let own = Identity {
            cluster: "prod".to_owned(),
            node: 3,
            nodes: BTreeMap::from([(1, "127.0.0.1:1".to_owned())]),
        };
        own.check(dir.path()).unwrap();
        own.write(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(own.clone()));
        own.check(dir.path()).unwrap();
        let other = Identity { node: 4, ..own };
        let refused = other.check(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains("belongs to node 3 of cluster `prod`"),
            "{refused}"
        );
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(
            Identity::read(dir.path())
                .unwrap_err()
                .to_string()
                .contains("damaged")
        );
    }

    /// Such files stand in data directories: none of them is ever edited here, a new format is one more.
    #[test]
    fn files_of_format_1_are_frozen() {
        let own = Identity {
            cluster: "prod".to_owned(),
            node: 3,
            nodes: BTreeMap::from([
                (1, "10.0.0.1:4322".to_owned()),
                (3, "10.0.0.3:4322".to_owned()),
            ]),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("node.json");
        own.write(dir.path()).unwrap();
        let text = "{\n  \"cluster\": \"prod\",\n  \"format\": 1,\n  \"node\": 3,\n  \"nodes\": {\n    \"1\": \"10.0.0.1:4322\",\n    \"3\": \"10.0.0.3:4322\"\n  }\n}\n";
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        let before_numbers = text.replace("  \"format\": 1,\n", "");
        for text in [text, &before_numbers] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(Identity::read(dir.path()).unwrap(), Some(own.clone()));
        }
        std::fs::write(&file, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        let refused = Identity::read(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains("has format 2, this version knows 1"),
            "{refused}"
        );
    }
}
