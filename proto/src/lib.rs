//! Wire and stored forms: OpAMP, the public API, gateway ↔ partition leader, and what stands on disk.
//!
//! Generated from the `.proto` files beside this crate, plus the few rules that belong to a form itself.
//! It decides nothing: decisions are in `fleet`.

#[allow(clippy::all, clippy::disallowed_types, reason = "generated")]
mod generated {
    pub mod opamp {
        pub mod proto {
            pub mod v1 {
                tonic::include_proto!("opamp.proto.v1");
            }
        }
    }
    pub mod muster {
        pub mod v1 {
            tonic::include_proto!("muster.v1");
        }
        pub mod cluster {
            pub mod v1 {
                tonic::include_proto!("muster.cluster.v1");
            }
        }
        pub mod edge {
            pub mod v1 {
                tonic::include_proto!("muster.edge.v1");
            }
        }
        pub mod store {
            pub mod v1 {
                tonic::include_proto!("muster.store.v1");
            }
        }
    }
}

/// Node ↔ node.
pub use generated::muster::cluster::v1 as cluster;
/// Gateway ↔ node.
pub mod edge {
    pub use super::generated::muster::edge::v1::*;

    /// Of a call that a gateway passes on: the operator's name.
    pub const ACTOR_HEADER: &str = "muster-actor";
    /// Of such a call: the operator's role.
    pub const ROLE_HEADER: &str = "muster-role";
    /// Of an answer: the node does not lead the control group, and nothing has happened.
    pub const NOT_LEADER_HEADER: &str = "muster-not-leader";
}
/// Stored forms.
pub use generated::muster::store::v1 as store;
/// The public API, `muster.v1`.
pub use generated::muster::v1 as api;
/// OpAMP v0.20.
pub use generated::opamp::proto::v1 as opamp;

pub mod cluster_id;
pub mod protocol;
pub mod sequence;
pub mod token;
pub mod uid;
pub mod yaml;

/// Descriptors of every `.proto` file, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
