//! The public API over this node. Every change names its actor; every error says what, which object, what to do.

pub mod admin;
mod agents;
mod answers;
mod cluster;
mod families;
pub mod governance;
mod rollouts;
pub mod start;

use std::sync::Arc;

use fleet::governance::actor;
pub use fleet::governance::actor::Role;
use proto::api::admin_service_server::AdminServiceServer;
use proto::api::agent_service_server::AgentServiceServer;
use proto::api::cluster_service_server::ClusterServiceServer;
use proto::api::family_service_server::FamilyServiceServer;
use proto::api::governance_service_server::GovernanceServiceServer;
use proto::api::rollout_service_server::RolloutServiceServer;
use proto::uid::Uid;
use tonic::{Request, Status};

use crate::ledger::ProposeError;
use crate::local::Node;
use crate::partition::chain;

/// Who calls. Put into the request's extensions by the edge.
#[derive(Clone, Debug)]
pub struct Actor {
    /// For the audit.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// All services over one node.
#[derive(Clone)]
pub struct Api {
    node: Arc<Node>,
}

/// Full names of the services, for health checks.
pub const SERVICES: [&str; 6] = [
    "muster.v1.AgentService",
    "muster.v1.FamilyService",
    "muster.v1.RolloutService",
    "muster.v1.GovernanceService",
    "muster.v1.AdminService",
    "muster.v1.ClusterService",
];

/// Bytes of a request: manifests with their files.
const REQUEST_BYTES_MAX: usize = 32 << 20;

impl Api {
    /// Over this node.
    pub fn new(node: Arc<Node>) -> Self {
        Api { node }
    }

    /// The services as routes.
    pub fn routes(&self) -> tonic::service::Routes {
        let mut routes = tonic::service::Routes::builder();
        routes
            .add_service(AgentServiceServer::new(self.clone()))
            .add_service(
                FamilyServiceServer::new(self.clone()).max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(RolloutServiceServer::new(self.clone()))
            .add_service(GovernanceServiceServer::new(self.clone()))
            .add_service(AdminServiceServer::new(self.clone()))
            .add_service(ClusterServiceServer::new(self.clone()));
        routes.routes()
    }

    /// The caller, if it may do this.
    fn actor<T>(&self, request: &Request<T>, act: actor::Act) -> Result<String, Status> {
        let caller = self.caller(request)?;
        actor::check(&caller.name, caller.role, act)
            .map_err(|refused| Status::permission_denied(refused.to_string()))?;
        Ok(caller.name)
    }

    fn caller<T>(&self, request: &Request<T>) -> Result<Actor, Status> {
        let caller = request.extensions().get::<Actor>().cloned();
        caller.ok_or_else(|| {
            Status::unauthenticated(
                "no operator is named in the call: give a token with --token-file",
            )
        })
    }

    /// A uid, or a prefix or name that names one agent only.
    fn find(&self, text: &str) -> Result<Uid, Status> {
        if let Ok(uid) = text.parse::<Uid>() {
            return Ok(uid);
        }
        if text.is_empty() {
            return Err(Status::invalid_argument(
                "no agent is named: give a uid, the beginning of one, or a host name",
            ));
        }
        let mut found = Vec::new();
        for partition in self.node.partitions.iter() {
            let columns = partition.index().read();
            let named = columns.rows.values().filter(|row| {
                !row.alias && (row.uid.to_string().starts_with(text) || row.name() == text)
            });
            found.extend(named.map(|row| row.uid).take(3));
        }
        match found.as_slice() {
            [] => Err(Status::not_found(format!(
                "there is no agent `{text}`: list them with `muster agents list`"
            ))),
            [uid] => Ok(*uid),
            several => {
                let several: Vec<String> =
                    several.iter().take(3).map(ToString::to_string).collect();
                Err(Status::failed_precondition(format!(
                    "`{text}` names several agents, e.g. {}: give a uid",
                    several.join(", ")
                )))
            }
        }
    }
}

/// A change that was not stored, for the caller.
fn not_stored(error: &ProposeError) -> Status {
    let text = chain(error);
    match error {
        ProposeError::Conflict(_) => Status::aborted(format!(
            "somebody else changed it meanwhile: {text}; look again and repeat"
        )),
        ProposeError::StaleEpoch(_) => Status::aborted(text),
        ProposeError::Group {
            source: raft::ProposeError::TooLarge { .. },
            ..
        } => Status::resource_exhausted(format!("{text}: nothing was stored; send less at once")),
        ProposeError::Group {
            source: raft::ProposeError::NotLeader { .. },
            ..
        } => Status::unavailable(format!("{text}: nothing was stored; repeat it in a moment")),
        ProposeError::Group { .. } => Status::unavailable(format!(
            "{text}; whether it happened is not known: look, then repeat with the same idempotency key"
        )),
        ProposeError::Answer(_) => Status::internal(text),
    }
}

/// Most bytes of what a person says about an order: it goes into the log, and for each of many agents.
const WORDS_BYTES_MAX: usize = 1_000;

/// Is this short enough to be written down?
fn short(what: &str, text: &str) -> Result<(), Status> {
    match text.len() {
        0..=WORDS_BYTES_MAX => Ok(()),
        bytes => Err(Status::invalid_argument(format!(
            "the {what} has {bytes} bytes: say it in {WORDS_BYTES_MAX}, and link the rest"
        ))),
    }
}

/// The database failed.
fn broken(error: &raft::Fatal) -> Status {
    Status::internal(chain(error))
}

fn selector(text: &str) -> Result<Option<fleet::selector::Selector>, Status> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let parsed = fleet::selector::Selector::parse(text);
    parsed
        .map(Some)
        .map_err(|error| Status::invalid_argument(format!("selector `{text}`: {error}")))
}
