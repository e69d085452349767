//! Who has to agree, and what stands in the way of a change.

use proto::api;
use proto::api::governance_service_server::GovernanceService;
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl GovernanceService for Api {
    async fn approve(
        &self,
        _: Request<api::ApproveRequest>,
    ) -> Result<Response<api::RevisionSummary>, Status> {
        Err(Status::unimplemented("approve"))
    }

    async fn reject(
        &self,
        _: Request<api::RejectRequest>,
    ) -> Result<Response<api::RevisionSummary>, Status> {
        Err(Status::unimplemented("reject"))
    }

    async fn set_freeze(
        &self,
        _: Request<api::SetFreezeRequest>,
    ) -> Result<Response<api::Freeze>, Status> {
        Err(Status::unimplemented("set_freeze"))
    }

    async fn end_freeze(
        &self,
        _: Request<api::EndFreezeRequest>,
    ) -> Result<Response<api::Freeze>, Status> {
        Err(Status::unimplemented("end_freeze"))
    }

    async fn list_freezes(
        &self,
        _: Request<api::ListFreezesRequest>,
    ) -> Result<Response<api::ListFreezesResponse>, Status> {
        Err(Status::unimplemented("list_freezes"))
    }

    async fn set_pin(&self, _: Request<api::SetPinRequest>) -> Result<Response<api::Pin>, Status> {
        Err(Status::unimplemented("set_pin"))
    }

    async fn remove_pin(
        &self,
        _: Request<api::RemovePinRequest>,
    ) -> Result<Response<api::Pin>, Status> {
        Err(Status::unimplemented("remove_pin"))
    }

    async fn list_pins(
        &self,
        _: Request<api::ListPinsRequest>,
    ) -> Result<Response<api::ListPinsResponse>, Status> {
        Err(Status::unimplemented("list_pins"))
    }
}
