//! Registered agents that say something new: each change is stored durably before it is answered.
//!
//! One at a time it is HTTP: a connection has one request in flight, and each change is an entry of its own unless others happen
//! to be there. Batched it is WebSocket, each connection carrying many agents as a proxy's does: of each connection so many
//! agents have a change under way all the time, and what is under way together shares messages from the gateway to the leader,
//! writes of the log and its fsync.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, SinkExt, StreamExt};
use prost::Message as _;
use proto::opamp::{AgentToServer, ComponentHealth, ServerToAgent};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message, http::HeaderValue};

use super::idle::{Poller, registered};
use super::register::SHED_PAUSE;
use super::wire::Connection;
use super::{Error, Outcome, Plan, Tally, measure};
use crate::agent::capability;

/// Changes of one agent. A server writes down 30 in a row, then one every 2 s; registering takes some of them.
const CHANGES_EACH: usize = 20;

/// Runs the bench, until [`Plan::duration`] is over or every agent has changed [`CHANGES_EACH`] times.
///
/// # Errors
///
/// See [`Error`]; a broken connection ends the bench.
pub async fn change(plan: Plan) -> Result<Outcome, Error> {
    let plan = Arc::new(plan);
    let mut lines = Vec::new();
    for (connection, pollers) in registered(&plan).await? {
        let agents: VecDeque<_> = pollers.into_iter().map(Agent::of).collect();
        lines.push(match plan.under_way {
            0 | 1 => Line::Http(connection, agents),
            _ => Line::WebSocket(Box::new(dial(&plan).await?), agents),
        });
    }
    measure(&plan, lines, |line, end| run(line, plan.under_way, end)).await
}

type Socket = WebSocketStream<TcpStream>;

/// What one connection has to do.
enum Line {
    Http(Connection, VecDeque<Agent>),
    WebSocket(Box<Socket>, VecDeque<Agent>),
}

async fn run(line: Line, under_way: usize, end: Instant) -> Result<Tally, Error> {
    match line {
        Line::Http(connection, agents) => one_at_a_time(connection, agents, end).await,
        Line::WebSocket(socket, agents) => batched(*socket, agents, under_way, end).await,
    }
}

async fn one_at_a_time(
    mut connection: Connection,
    mut agents: VecDeque<Agent>,
    end: Instant,
) -> Result<Tally, Error> {
    let mut tally = Tally::new();
    while let Some(mut agent) = agents.pop_front() {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        let answer = connection.post(&agent.says()).await?;
        let took = sent.elapsed();
        match answer.status {
            200 => {
                let reply = ServerToAgent::decode(answer.body).unwrap_or_default();
                agent.answered(took, &reply, &mut tally);
            }
            status => {
                tally.non_200 += 1;
                // Any other answer has used the number up.
                if !matches!(status, 429 | 503) {
                    agent.poller.next_number += 1;
                }
                tokio::time::sleep(SHED_PAUSE).await;
            }
        }
        if agent.changes < CHANGES_EACH {
            agents.push_back(agent);
        }
    }
    Ok(tally)
}

async fn batched(
    mut socket: Socket,
    mut agents: VecDeque<Agent>,
    under_way_max: usize,
    end: Instant,
) -> Result<Tally, Error> {
    let mut tally = Tally::new();
    let mut under_way: HashMap<[u8; 16], (Agent, Instant)> = HashMap::new();
    loop {
        while under_way.len() < under_way_max
            && Instant::now() < end
            && let Some(agent) = agents.pop_front()
        {
            let mut frame = vec![0];
            frame.extend(agent.says());
            feed(&mut socket, frame.into()).await?;
            under_way.insert(agent.poller.uid, (agent, Instant::now()));
        }
        if under_way.is_empty() {
            return Ok(tally);
        }
        // What was said goes out together, when there is no answer that can be read first.
        let frame = match socket.next().now_or_never() {
            Some(frame) => frame,
            None => {
                socket.flush().await.map_err(broken)?;
                socket.next().await
            }
        };
        let frame = match frame.transpose().map_err(broken)? {
            Some(Message::Binary(frame)) => frame,
            Some(Message::Close(_)) | None => return Err(closed().into()),
            Some(_) => continue,
        };
        let reply = ServerToAgent::decode(frame.get(1..).unwrap_or_default()).unwrap_or_default();
        let uid: Result<[u8; 16], _> = reply.instance_uid.as_slice().try_into();
        // Others are said unasked.
        let Some((mut agent, sent)) = uid.ok().and_then(|uid| under_way.remove(&uid)) else {
            continue;
        };
        if reply.error_response.is_some() {
            tally.non_200 += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            agent.answered(sent.elapsed(), &reply, &mut tally);
        }
        if agent.changes < CHANGES_EACH {
            agents.push_back(agent);
        }
    }
}

/// An agent that changes.
struct Agent {
    poller: Poller,
    changes: usize,
}

// === impl Agent ===

impl Agent {
    fn of(poller: Poller) -> Self {
        Agent { poller, changes: 0 }
    }

    /// Its next change: another status of its health.
    fn says(&self) -> Vec<u8> {
        let health = ComponentHealth {
            healthy: true,
            status: format!("change {}", self.changes + 1),
            ..ComponentHealth::default()
        };
        let message = AgentToServer {
            instance_uid: self.poller.uid.to_vec().into(),
            sequence_num: self.poller.next_number,
            capabilities: capability::MANAGED,
            health: Some(health),
            ..AgentToServer::default()
        };
        message.encode_to_vec()
    }

    fn answered(&mut self, took: Duration, reply: &ServerToAgent, tally: &mut Tally) {
        tally.latency.saturating_record(took.as_micros() as u64);
        tally.full_state_requests += reply.flags & 1;
        self.changes += 1;
        self.poller.next_number += 1;
    }
}

// === the connection ===

async fn dial(plan: &Plan) -> Result<Socket, Error> {
    if plan.endpoint.tls {
        return Err(Error::Tls);
    }
    let authority = plan.endpoint.authority();
    let connect = |source| Error::Connect {
        authority: authority.clone(),
        source,
    };
    let address = (plan.endpoint.host.as_str(), plan.endpoint.port);
    let stream = TcpStream::connect(address).await.map_err(connect)?;
    stream.set_nodelay(true)?;
    let url = format!("ws://{authority}{}", plan.endpoint.path);
    let mut request = url.into_client_request().map_err(broken)?;
    if let Some(token) = &plan.token
        && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
    {
        request.headers_mut().insert("authorization", value);
    }
    let (socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .map_err(broken)?;
    Ok(socket)
}

async fn feed(socket: &mut Socket, frame: Bytes) -> Result<(), Error> {
    let fed = socket.feed(Message::Binary(frame)).await;
    Ok(fed.map_err(broken)?)
}

fn closed() -> std::io::Error {
    let kind = std::io::ErrorKind::UnexpectedEof;
    std::io::Error::new(kind, "the server closed the connection")
}

fn broken(error: tungstenite::Error) -> std::io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        error => std::io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::TcpListener;

    use super::*;
    use crate::bench::bare::BareServer;

    fn plan(address: std::net::SocketAddr, under_way: usize) -> Plan {
        Plan {
            endpoint: crate::transport::Endpoint::parse(&format!("http://{address}"), false)
                .unwrap(),
            token: None,
            agents: 7,
            connections: 2,
            duration: Duration::from_secs(60),
            seed: 1,
            plain: true,
            cpu_of: None,
            under_way,
        }
    }

    #[test]
    fn each_change_differs_from_the_one_before() {
        let mut agent = Agent::of(Poller {
            uid: [7; 16],
            next_number: 3,
        });
        let first = AgentToServer::decode(agent.says().as_slice()).unwrap();
        agent.answered(Duration::ZERO, &ServerToAgent::default(), &mut Tally::new());
        let second = AgentToServer::decode(agent.says().as_slice()).unwrap();
        assert_eq!((first.sequence_num, second.sequence_num), (3, 4));
        assert_ne!(first.health, second.health);
    }

    #[tokio::test]
    async fn one_at_a_time_every_agent_changes_as_often_as_it_may() {
        let server = BareServer::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let address = server.address;
        tokio::spawn(server.run());
        let outcome = change(plan(address, 1)).await.unwrap();
        assert_eq!(outcome.checkins, 7 * CHANGES_EACH as u64);
        assert_eq!(outcome.non_200, 0);
    }

    /// Answers nobody before so many messages are there, each of another agent, as a server that writes them together.
    async fn patient(listener: TcpListener, together: usize, most: Arc<Mutex<usize>>) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let mut waiting = Vec::new();
        while let Some(Ok(frame)) = socket.next().await {
            let Message::Binary(frame) = frame else {
                continue;
            };
            waiting.push(AgentToServer::decode(&frame[1..]).unwrap());
            {
                let mut most = most.lock().unwrap();
                *most = (*most).max(waiting.len());
            }
            if waiting.len() < together {
                continue;
            }
            for message in waiting.drain(..) {
                let reply = ServerToAgent {
                    instance_uid: message.instance_uid.to_vec(),
                    ..ServerToAgent::default()
                };
                let mut frame = vec![0];
                frame.extend(reply.encode_to_vec());
                socket.send(Message::Binary(frame.into())).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn batched_so_many_agents_of_a_connection_have_a_change_under_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let plan = plan(listener.local_addr().unwrap(), 4);
        let most = Arc::new(Mutex::new(0));
        tokio::spawn(patient(listener, 4, most.clone()));
        let socket = dial(&plan).await.unwrap();
        let agents = (0..4).map(|n| {
            Agent::of(Poller {
                uid: [n; 16],
                next_number: 1,
            })
        });
        let end = Instant::now() + plan.duration;
        let tally = batched(socket, agents.collect(), plan.under_way, end).await;
        assert_eq!(tally.unwrap().latency.len(), 4 * CHANGES_EACH as u64);
        assert_eq!(*most.lock().unwrap(), 4);
    }
}
