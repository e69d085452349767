//! The connection to the operator API: address, trust, credentials, and what happens when an answer fails.
//!
//! Every change carries an idempotency key, so a call the server was unable to answer is made again with the same key.

use std::time::Duration;

use proto::api::{
    admin_service_client::AdminServiceClient, agent_service_client::AgentServiceClient,
    cluster_service_client::ClusterServiceClient, family_service_client::FamilyServiceClient,
    governance_service_client::GovernanceServiceClient,
    rollout_service_client::RolloutServiceClient,
};
use tonic::codec::CompressionEncoding;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::args::Connection;
use crate::exit::Failure;
use crate::operator::address::{endpoint, is_loopback, read};
use crate::operator::output::talk;
use crate::operator::trouble::{refused, unreachable};

/// Waits before a call is made again; about the time in which a partition finds a new leader.
const RETRIES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(800),
    Duration::from_secs(2),
];
/// A page of 1,000 agents or a preview of large configs stays below.
const ANSWER_BYTES_MAX: usize = 64 << 20;
type Service = InterceptedService<Channel, Credentials>;

/// One connection, used by all services.
pub struct Client {
    server: String,
    channel: Channel,
    credentials: Credentials,
}

/// Who asks.
#[derive(Clone)]
pub struct Credentials {
    user: Option<MetadataValue<Ascii>>,
    authorization: Option<MetadataValue<Ascii>>,
}

// === impl Client ===

impl Client {
    /// Connects, or says why not.
    pub async fn connect(connection: &Connection) -> Result<Self, Failure> {
        let credentials = Credentials::read(connection)?;
        let endpoint = endpoint(connection)?;
        if credentials.authorization.is_some()
            && endpoint.uri().scheme_str() == Some("http")
            && !is_loopback(&endpoint)
        {
            talk("warning: the token travels unencrypted; use an https address");
        }
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| unreachable(&connection.server, &error))?;
        Ok(Client {
            server: connection.server.clone(),
            channel,
            credentials,
        })
    }

    /// Makes a call, again while the server is for a moment unable to answer. `doing` completes "cannot …".
    pub async fn call<T>(
        &self,
        doing: &str,
        call: impl AsyncFnMut() -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        patiently(call)
            .await
            .map(Response::into_inner)
            .map_err(|status| self.failure(doing, &status))
    }

    /// What the server answered while this client tried to `doing`.
    pub fn failure(&self, doing: &str, status: &Status) -> Failure {
        let with_token = self.credentials.authorization.is_some();
        refused(doing, status, &self.server, with_token)
    }

    pub fn agents(&self) -> AgentServiceClient<Service> {
        AgentServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    pub fn families(&self) -> FamilyServiceClient<Service> {
        FamilyServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    pub fn rollouts(&self) -> RolloutServiceClient<Service> {
        RolloutServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    pub fn governance(&self) -> GovernanceServiceClient<Service> {
        GovernanceServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    pub fn cluster(&self) -> ClusterServiceClient<Service> {
        ClusterServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    pub fn admin(&self) -> AdminServiceClient<Service> {
        AdminServiceClient::with_interceptor(self.channel.clone(), self.credentials.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip)
    }
}

// === impl Credentials ===

impl Credentials {
    fn read(connection: &Connection) -> Result<Self, Failure> {
        let token = match &connection.token_file {
            Some(path) => Some(read(path, "token file")?.trim().to_owned()),
            None => connection.token.clone(),
        };
        let authorization = token
            .filter(|token| !token.is_empty())
            .map(|token| format!("Bearer {token}").parse())
            .transpose()
            .map_err(|_| Failure::usage("the token has characters that no token has"))?;
        let user = std::env::var("USER")
            .ok()
            .filter(|user| !user.is_empty())
            .and_then(|user| user.parse().ok());
        Ok(Credentials {
            user,
            authorization,
        })
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(user) = &self.user {
            request.metadata_mut().insert("muster-user", user.clone());
        }
        if let Some(authorization) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// Makes a call, again while the server is for a moment unable to answer.
async fn patiently<T>(
    mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
) -> Result<Response<T>, Status> {
    for pause in RETRIES {
        match call().await {
            Err(status) if status.code() == tonic::Code::Unavailable => {
                tokio::time::sleep(pause).await
            }
            ended => return ended,
        }
    }
    call().await
}

/// A key under which the server does a change once.
pub fn idempotency_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;
    use crate::exit::Code;

    fn connection(options: &str) -> Connection {
        let line = format!("muster {options} agents list");
        Cli::parse_from(line.split_whitespace()).connection
    }

    #[test]
    fn token_file_counts_before_the_token() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let connection = connection(&format!(
            "--token given --token-file {}",
            file.path().display()
        ));
        assert_eq!(
            Credentials::read(&connection)
                .unwrap()
                .authorization
                .unwrap(),
            "Bearer from-file"
        );
    }

    #[tokio::test]
    async fn unable_server_is_asked_again_and_a_refusal_is_final() {
        let mut calls = 0;
        let answer = patiently(async || {
            calls += 1;
            if calls == 1 {
                Err(Status::unavailable("no leader"))
            } else {
                Ok(Response::new(7))
            }
        });
        assert_eq!(answer.await.unwrap().into_inner(), 7);
        let mut calls = 0;
        let refused: Result<Response<()>, _> = patiently(async || {
            calls += 1;
            Err(Status::not_found("no x"))
        })
        .await;
        assert_eq!(
            (refused.unwrap_err().code(), calls),
            (tonic::Code::NotFound, 1)
        );
    }

    #[tokio::test]
    async fn server_that_is_not_there_is_unreachable() {
        let failure = Client::connect(&connection("--server http://127.0.0.1:1"))
            .await
            .err()
            .unwrap();
        assert_eq!(failure.code(), Code::Unreachable);
    }
}
