//! What a certificate of a cluster says of its holder.

use std::fmt;

/// Who holds a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The node of this number.
    Node(u64),
    /// Some node: each one's certificate says this, too.
    AnyNode,
    /// A gateway.
    Gateway,
}

/// A cluster of this name cannot have certificates.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no name of a cluster: use 1 to 40 small letters, digits and hyphens, as prod-eu")]
pub struct NameError(pub String);

/// Can it be a part of a DNS name?
pub fn is_cluster_name(cluster: &str) -> Result<(), NameError> {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-');
    let fits = cluster.len() <= 40 && cluster.chars().all(letter);
    match fits && edge(cluster.chars().next()) && edge(cluster.chars().next_back()) {
        true => Ok(()),
        false => Err(NameError(cluster.to_owned())),
    }
}

impl Name {
    /// As it stands in a certificate.
    pub fn dns(self, cluster: &str) -> String {
        format!("{self}.{cluster}.muster")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Node(id) => write!(f, "node-{id}"),
            Name::AnyNode => write!(f, "node"),
            Name::Gateway => write!(f, "gateway"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_are_parts_of_dns_names() {
        for good in ["prod", "prod-eu-1", "a"] {
            assert_eq!(is_cluster_name(good), Ok(()), "{good}");
        }
        for bad in ["", "Prod", "-a", "a-", "a.b", "a_b", "ä", &"x".repeat(41)] {
            assert!(is_cluster_name(bad).is_err(), "{bad}");
        }
        assert_eq!(Name::Node(3).dns("prod"), "node-3.prod.muster");
    }
}
