//! A person at the control group: starts rollouts and changes her mind.

use std::sync::Arc;

use fleet::program::OwnerChange;
use fleet::rollout::State;

use crate::cluster::Cluster;
use crate::invariants::Fact;
use crate::network::Place;
use crate::orders::{Order, Verb, carry_out};
use crate::program::{FAMILIES, delivery};
use crate::time::{now_ms, sleep_ms};

/// A call takes so long at most; it is repeated with the same key.
const CALL_MS: u64 = 12_000;

/// An order that nobody has answered may still be under way for so long.
const UNDER_WAY_MS: u64 = 20_000;

/// Gives orders until then.
pub async fn live(cluster: Arc<Cluster>, until_ms: u64) {
    let mut once = 0;
    if cluster.watch.has_owners() {
        // Whoever is to change hands has to be somebody's.
        for (family, ..) in FAMILIES {
            once += 1;
            give(&cluster, &Order::Found { family }, once).await;
        }
        // In some worlds nobody has to be asked, as long as she leaves it so.
        if cluster.watch.chance().one_in(3) {
            for (family, ..) in FAMILIES {
                once += 1;
                let owner_change = OwnerChange::Auto;
                give(
                    &cluster,
                    &Order::Policy {
                        family,
                        owner_change,
                    },
                    once,
                )
                .await;
            }
        }
    }
    loop {
        let pause = cluster.watch.chance().between(300, 3_000);
        sleep_ms(pause).await;
        if now_ms() >= until_ms {
            return;
        }
        once += 1;
        let Some(order) = choose(&cluster) else {
            continue;
        };
        if !give(&cluster, &order, once).await {
            // Whatever becomes of it has become of it before the next order.
            sleep_ms(UNDER_WAY_MS).await;
        }
    }
}

/// By what any replica shows, which may be old.
fn choose(cluster: &Cluster) -> Option<Order> {
    let ids: Vec<u64> = cluster.node_ids().collect();
    let mut chance = cluster.watch.chance();
    let control = cluster.process(chance.pick(&ids))?.control();
    let (family, ..) = chance.pick(&FAMILIES);
    if cluster.watch.has_owners() && chance.one_in(8) {
        let owner_change = chance.pick(&[OwnerChange::Ask, OwnerChange::Auto]);
        return Some(Order::Policy {
            family,
            owner_change,
        });
    }
    let open = control.family(family).1.rollout;
    let open = open
        .as_ref()
        .and_then(|id| Some((id, control.rollout(id)?.1)));
    let Some((id, doc)) = open.filter(|(_, doc)| !doc.moves.state.is_final()) else {
        return Some(Order::Start { family });
    };
    let verb = match doc.moves.state {
        State::Running => chance.pick(&[
            None,
            Some(Verb::Halt),
            Some(Verb::Halt),
            Some(Verb::Halt),
            Some(Verb::Pause),
            Some(Verb::RollBack),
        ])?,
        State::Halted | State::Paused => {
            chance.pick(&[Verb::Resume, Verb::Resume, Verb::Resume, Verb::RollBack])
        }
        _ => return None,
    };
    let rollout = id.clone();
    Some(Order::Verb { verb, rollout })
}

/// Asks one node after another until one answers. False: nobody did.
async fn give(cluster: &Arc<Cluster>, order: &Order, once: u64) -> bool {
    let hash = match order {
        Order::Verb { rollout, .. } => rollout
            .rsplit_once('-')
            .and_then(|(family, number)| Some(delivery(family, number.parse().ok()?))),
        Order::Start { .. } | Order::Found { .. } | Order::Policy { .. } => None,
    };
    if let (
        Order::Verb {
            verb: Verb::Resume, ..
        },
        Some(hash),
    ) = (order, hash)
    {
        // From now on it may be running again.
        cluster.watch.note(Fact::Resuming { hash });
    }
    for node in cluster.node_ids().cycle().take(9) {
        let (there, order) = (Arc::clone(cluster), order.clone());
        let what = order.clone();
        let work = async move {
            let process = there.process(node)?;
            let done = carry_out(Arc::clone(&there), Arc::clone(&process), what, once).await?;
            process.is_alive().then_some(done)
        };
        let answer = cluster
            .network
            .call_within(CALL_MS, Place::Outside, Place::Node(node), work)
            .await;
        match (answer, order, hash) {
            (Some(true), Order::Verb { verb, .. }, Some(hash)) if verb != Verb::Resume => {
                cluster.watch.note(Fact::Stands { verb, hash });
                return true;
            }
            (Some(true), order, _) => {
                cluster.watch.note(Fact::Ordered {
                    what: format!("{order:?}"),
                });
                return true;
            }
            (Some(false), ..) => return true,
            (None, ..) => {}
        }
        sleep_ms(100).await;
    }
    false
}
