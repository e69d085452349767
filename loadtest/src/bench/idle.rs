//! Idle check-ins at the highest rate that the server answers.
//!
//! First the agents register and answer whatever they are asked until both sides have nothing more to say; that is not
//! measured. Then each connection polls for its agents in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wire::{self, Connection};
use super::{Error, Outcome, Plan, Tally, measure, register::Newcomers};
use crate::agent::capability;

/// An agent reduced to what a poll needs.
pub(super) struct Poller {
    pub uid: [u8; 16],
    pub next_number: u64,
}

/// Runs the bench. With [`Plan::plain`] nothing is registered first.
///
/// # Errors
///
/// See [`Error`]; a broken connection ends the bench.
pub async fn idle(plan: Plan) -> Result<Outcome, Error> {
    let plan = Arc::new(plan);
    let ready = registered(&plan).await?.into_iter();
    let lanes = ready.filter(|(_, pollers)| !pollers.is_empty());
    measure(&plan, lanes, |(connection, pollers), end| {
        hammer(plan.clone(), connection, pollers, end)
    })
    .await
}

/// Every connection, with its share of the agents, which have registered.
pub(super) async fn registered(plan: &Arc<Plan>) -> Result<Vec<(Connection, Vec<Poller>)>, Error> {
    let lanes = (0..plan.connections).map(|lane| tokio::spawn(prepare(plan.clone(), lane)));
    let lanes: Vec<_> = lanes.collect();
    let mut ready = Vec::new();
    for lane in lanes {
        ready.push(lane.await??);
    }
    Ok(ready)
}

/// Opens a connection and registers its share of the agents.
async fn prepare(plan: Arc<Plan>, lane: usize) -> Result<(Connection, Vec<Poller>), Error> {
    let mut connection = Connection::open(&plan).await?;
    let mut newcomers = Newcomers::new(&plan, lane);
    let mut pollers = Vec::new();
    while let Some(mut agent) = newcomers.next() {
        if !plan.plain {
            agent.register(&mut connection).await?;
        }
        pollers.push(agent.poller());
    }
    Ok((connection, pollers))
}

async fn hammer(
    plan: Arc<Plan>,
    mut connection: Connection,
    mut pollers: Vec<Poller>,
    end: Instant,
) -> Result<Tally, Error> {
    let mut tally = Tally::new();
    let mut body = Vec::with_capacity(64);
    loop {
        for poller in &mut pollers {
            wire::poll(
                &mut body,
                &poller.uid,
                poller.next_number,
                capability::MANAGED,
            );
            let sent = Instant::now();
            let answer = connection.post(&body).await?;
            let (answered, status) = (Instant::now(), answer.status);
            if status == 200 {
                tally
                    .latency
                    .saturating_record((answered - sent).as_micros() as u64);
                if !plan.plain && wire::flags(answer.body) & 1 != 0 {
                    tally.full_state_requests += 1;
                }
            } else {
                tally.non_200 += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // 429 and 503 ask for the same message again; any other answer has used its number up.
            if !matches!(status, 429 | 503) {
                poller.next_number += 1;
            }
            if answered >= end {
                return Ok(tally);
            }
        }
    }
}
