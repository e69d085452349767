//! Clients of the operator API.

use std::net::SocketAddr;
use std::time::Duration;

use proto::api::admin_service_client::AdminServiceClient;
use proto::api::agent_service_client::AgentServiceClient;
use proto::api::cluster_service_client::ClusterServiceClient;
use proto::api::family_service_client::FamilyServiceClient;
use proto::api::rollout_service_client::RolloutServiceClient;
use proto::api::{
    Agent, AgentDetail, AuditEntry, Cluster, GetAgentRequest, GetClusterRequest, GetFamilyRequest,
    GetRolloutRequest, ListAgentsRequest, ListAuditRequest, PreviewRequest, Rollout,
    StartRolloutRequest,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::wait::{eventually, holds};

/// One connection, every service.
#[derive(Clone, Debug)]
pub struct Api {
    pub agents: AgentServiceClient<Channel>,
    pub families: FamilyServiceClient<Channel>,
    pub rollouts: RolloutServiceClient<Channel>,
    pub admin: AdminServiceClient<Channel>,
    pub clusters: ClusterServiceClient<Channel>,
}

// === impl Api ===

impl Api {
    /// Connects when first used, and again after a restart of the server.
    pub fn new(address: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy();
        Api {
            agents: AgentServiceClient::new(channel.clone()),
            families: FamilyServiceClient::new(channel.clone()),
            rollouts: RolloutServiceClient::new(channel.clone()),
            admin: AdminServiceClient::new(channel.clone()),
            clusters: ClusterServiceClient::new(channel),
        }
    }

    /// Every agent that matches; empty selector: all.
    pub async fn list(&self, selector: &str) -> Vec<Agent> {
        self.try_list(selector).await.unwrap()
    }

    /// As [`Api::list`], of a server that may not be there.
    pub async fn try_list(&self, selector: &str) -> Result<Vec<Agent>, Status> {
        let request = ListAgentsRequest {
            selector: selector.to_owned(),
            page_size: 1_000,
            ..Default::default()
        };
        let mut agents = self.agents.clone();
        Ok(agents.list_agents(request).await?.into_inner().agents)
    }

    /// Nodes and groups as a gateway sees them.
    pub async fn cluster(&self) -> Result<Cluster, Status> {
        let mut clusters = self.clusters.clone();
        Ok(clusters
            .get_cluster(GetClusterRequest {})
            .await?
            .into_inner())
    }

    /// The number of the node that leads a group, once there is one.
    pub async fn leader(&self, group: &str, within: Duration) -> u64 {
        eventually(within, "a leader", async || {
            let view = self.cluster().await.map_err(|status| status.to_string())?;
            let group = view.groups.iter().find(|g| g.name == group).unwrap();
            holds(group.leader != 0, group).map(|()| group.leader)
        })
        .await
    }

    /// One agent, if there is one of this name.
    pub async fn find(&self, name: &str) -> Result<AgentDetail, Status> {
        let request = GetAgentRequest {
            uid: name.to_owned(),
            ..GetAgentRequest::default()
        };
        self.agents
            .clone()
            .get_agent(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// One agent that must be there.
    pub async fn agent(&self, name: &str) -> AgentDetail {
        self.find(name).await.unwrap()
    }

    /// A rollout by id, or a family's newest.
    pub async fn rollout(&self, id: &str) -> Rollout {
        self.try_rollout(id).await.unwrap()
    }

    /// As [`Api::rollout`], where it may not be answered.
    pub async fn try_rollout(&self, id: &str) -> Result<Rollout, Status> {
        let request = GetRolloutRequest { id: id.to_owned() };
        let answer = self.rollouts.clone().get_rollout(request).await;
        answer.map(tonic::Response::into_inner)
    }

    /// Opens a rollout of the latest revision under `plan`, with the preview made now and the reach that it shows.
    pub async fn start(&self, family: &str, plan: &str) -> Result<Rollout, Status> {
        let request = PreviewRequest {
            family: family.to_owned(),
            plan: plan.to_owned(),
            ..Default::default()
        };
        let preview = self.families.clone().preview(request).await?.into_inner();
        let far = preview.members > preview.reach_limit || !preview.takeovers.is_empty();
        let request = StartRolloutRequest {
            family: family.to_owned(),
            plan: plan.to_owned(),
            preview: preview.id,
            reach: if far { preview.members } else { 0 },
            ..Default::default()
        };
        self.rollouts
            .clone()
            .start_rollout(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Delivery hash of a role of the latest revision.
    pub async fn delivery_hash(&self, family: &str, role: &str) -> Vec<u8> {
        let request = GetFamilyRequest {
            name: family.to_owned(),
            revision: 0,
        };
        let revision = self
            .families
            .clone()
            .get_family(request)
            .await
            .unwrap()
            .into_inner()
            .revision
            .unwrap();
        hex::decode(
            &revision
                .roles
                .iter()
                .find(|r| r.name == role)
                .unwrap()
                .delivery_hash,
        )
        .unwrap()
    }

    /// Audit entries about objects with this prefix, newest first.
    pub async fn audit(&self, object: &str) -> Vec<AuditEntry> {
        let request = ListAuditRequest {
            limit: 10_000,
            object: object.to_owned(),
            ..Default::default()
        };
        self.admin
            .clone()
            .list_audit(request)
            .await
            .unwrap()
            .into_inner()
            .entries
    }
}
