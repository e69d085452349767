//! What goes wrong: processes die, the power fails, links break, messages are lost, disks are slow.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::disk::End;
use crate::fault::Fault;
use crate::gateway::Gateway;
use crate::invariants::Fact;
use crate::members;
use crate::network::Place;
use crate::time::{now_ms, sleep_ms, spawn};
use crate::types::{CONTROL, GroupId};

/// One kind of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    // ---- nodes ----
    Kill,
    PowerCut,
    /// Of all nodes at once.
    Blackout,
    /// As that, while all disks are busy.
    BlackoutUnderLoad,
    SlowDisk,
    /// A leader hands its group over.
    LeadMoves,
    /// A process stands still, and goes on.
    Freeze,
    /// A node stops voting in a group, for a while.
    NoVoter,
    /// A node and its disk are gone for good; another one takes its place.
    DiskLost,
    // ---- links ----
    /// A node that nobody hears.
    Mute,
    /// A node that hears nobody.
    Deaf,
    OneWay,
    Apart,
    /// Who leads a partition does not hear what is decided.
    LeadersApart,
    Alone,
    Loss,
    Delay,
    // ---- gateways ----
    NoGateway,
    GatewayRestarts,
    GatewaysRestart,
    GatewayFreezes,
}

use Trouble::{
    Alone, Apart, Blackout, BlackoutUnderLoad, Deaf, Delay, DiskLost, Freeze, GatewayFreezes,
    GatewayRestarts, GatewaysRestart, Kill, LeadMoves, LeadersApart, Loss, Mute, NoGateway,
    NoVoter, OneWay, PowerCut, SlowDisk,
};

const NODES: &[Trouble] = &[
    Kill,
    PowerCut,
    Blackout,
    BlackoutUnderLoad,
    SlowDisk,
    LeadMoves,
    Freeze,
    NoVoter,
    DiskLost,
];
const LINKS: &[Trouble] = &[Mute, Deaf, OneWay, Apart, LeadersApart, Alone, Loss, Delay];
const GATEWAYS: &[Trouble] = &[NoGateway, GatewayRestarts, GatewaysRestart, GatewayFreezes];

/// Nodes are down for so long, at most.
const DOWN_MS: u64 = 6_000;

/// Leaders that cannot hear each other are left alone for so long: leases and grants run out, and somebody halts.
const APART_MS: u64 = 12_000;

/// A process stands still for so long, at most: longer than leases, and than who is silent takes to be lost.
const STILL_MS: u64 = 25_000;

/// Slow disks are so much slower.
const SLOWNESS: u64 = 60;

/// Which kinds a world has: all at once leave no time for what needs some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    Nodes,
    Links,
    /// Leaders that do not hear each other, and move.
    Leaders,
    /// Nothing at all, but for messages that agents lose.
    Calm,
    Everything,
}

/// Makes trouble until then, and mends everything.
pub async fn run(cluster: Arc<Cluster>, gateways: Vec<Arc<Gateway>>, theme: Theme, until_ms: u64) {
    let kinds = theme.kinds();
    while !kinds.is_empty() {
        let (pause, kind, heals) = {
            let mut chance = cluster.watch.chance();
            (
                chance.between(200, 4_000),
                chance.pick(&kinds),
                chance.one_in(5),
            )
        };
        sleep_ms(pause).await;
        if now_ms() >= until_ms {
            break;
        }
        let what = if heals {
            "mended".to_owned()
        } else {
            format!("{kind:?}")
        };
        cluster.watch.note(Fact::Trouble { what });
        if heals {
            mend(&cluster);
        } else {
            happen(&cluster, &gateways, kind);
            if kind == LeadersApart {
                sleep_ms(APART_MS).await;
            }
        }
    }
    mend(&cluster);
}

impl Theme {
    /// Of the world with this seed.
    pub fn of(seed: u64) -> Self {
        match seed % 4 {
            0 => Theme::Everything,
            1 => Theme::Nodes,
            2 => Theme::Leaders,
            _ => Theme::Links,
        }
    }

    fn kinds(self) -> Vec<Trouble> {
        match self {
            Theme::Nodes => NODES.to_vec(),
            Theme::Links => LINKS.to_vec(),
            Theme::Calm => vec![],
            Theme::Leaders => vec![
                LeadersApart,
                LeadersApart,
                LeadMoves,
                Freeze,
                GatewayRestarts,
            ],
            Theme::Everything => [NODES, LINKS, GATEWAYS].concat(),
        }
    }
}

fn mend(cluster: &Cluster) {
    cluster.network.heal();
    cluster.watch.note(Fact::Mended);
    for node in cluster.node_ids() {
        cluster.slow_down(node, 1);
    }
}

fn happen(cluster: &Arc<Cluster>, gateways: &[Arc<Gateway>], kind: Trouble) {
    let nodes: Vec<u64> = cluster.node_ids().collect();
    let (one, other, gateway) = {
        let mut chance = cluster.watch.chance();
        let gateway = usize::try_from(chance.below(gateways.len() as u64)).unwrap_or(0);
        (chance.pick(&nodes), chance.pick(&nodes), &gateways[gateway])
    };
    let network = &cluster.network;
    let (here, there) = (Place::Node(one), Place::Node(other));
    let apart = |a, b| {
        network.cut(a, b);
        network.cut(b, a);
    };
    let everybody = || nodes.iter().map(|node| Place::Node(*node));
    let unheard = |gateway: &Gateway| {
        let gateway = gateway.id;
        cluster.watch.note(Fact::Unheard { gateway });
    };
    match kind {
        Kill => fall(cluster, one, End::Kill),
        PowerCut => fall(cluster, one, End::PowerCut),
        Blackout => nodes
            .iter()
            .for_each(|node| fall(cluster, *node, End::PowerCut)),
        BlackoutUnderLoad => black_out_under_load(cluster, nodes),
        LeadMoves => hand_over(cluster, one),
        Freeze => {
            network.freeze(here, still(cluster));
            gateways.iter().for_each(|gateway| unheard(gateway));
        }
        NoVoter => {
            let group = cluster
                .watch
                .chance()
                .pick(&[CONTROL, GroupId(1), GroupId(2)]);
            let rests = members::rest(Arc::clone(cluster), group, one, still(cluster));
            let _beside = spawn(rests);
        }
        DiskLost => lose(cluster, gateways, one),
        GatewayFreezes => {
            network.freeze(Place::Gateway(gateway.id), still(cluster));
            unheard(gateway);
        }
        SlowDisk => cluster.slow_down(one, SLOWNESS),
        Mute => everybody().for_each(|node| network.cut(here, node)),
        Deaf => everybody().for_each(|node| network.cut(node, here)),
        OneWay => network.cut(here, there),
        Apart => apart(here, there),
        LeadersApart => {
            let group = cluster.watch.chance().pick(&[GroupId(1), GroupId(2)]);
            if let (Some(here), Some(there)) = (leader(cluster, CONTROL), leader(cluster, group)) {
                apart(Place::Node(here), Place::Node(there));
            }
        }
        Alone => everybody().for_each(|node| apart(here, node)),
        Loss => network.weather(10, 100),
        Delay => network.weather(50, 400),
        NoGateway => {
            apart(here, Place::Gateway(gateway.id));
            unheard(gateway);
        }
        GatewayRestarts => gateway.restart(),
        GatewaysRestart => gateways.iter().for_each(|gateway| gateway.restart()),
    }
}

/// For how long.
fn still(cluster: &Cluster) -> u64 {
    cluster.watch.chance().between(500, STILL_MS)
}

fn leader(cluster: &Cluster, group: GroupId) -> Option<u64> {
    let processes = cluster.node_ids().filter_map(|node| cluster.process(node));
    let mut leaders = processes.filter(|process| process.group(group).leads_in().is_some());
    leaders.next().map(|process| process.node)
}

fn hand_over(cluster: &Arc<Cluster>, to: u64) {
    let group = cluster
        .watch
        .chance()
        .pick(&[CONTROL, GroupId(1), GroupId(2)]);
    let Some(process) = leader(cluster, group).and_then(|node| cluster.process(node)) else {
        return;
    };
    let raft = process.group(group).raft.clone();
    let _beside = spawn(async move { raft.trigger().transfer_leader(to).await });
}

fn black_out_under_load(cluster: &Arc<Cluster>, nodes: Vec<u64>) {
    for node in &nodes {
        cluster.slow_down(*node, SLOWNESS);
    }
    let until = cluster.watch.chance().between(300, 3_000);
    let cluster = Arc::clone(cluster);
    let _beside = spawn(async move {
        sleep_ms(until).await;
        for node in nodes {
            fall(&cluster, node, End::PowerCut);
            cluster.slow_down(node, 1);
        }
    });
}

/// One at a time: what stood on one disk stands on others, and what stood on two may not.
fn lose(cluster: &Arc<Cluster>, gateways: &[Arc<Gateway>], node: u64) {
    if !cluster.is_steady() {
        return;
    }
    let changing = cluster.changing();
    let by = match cluster.watch.fault() {
        Some(Fault::IdReused) => node,
        _ => 1 + cluster.node_ids().max().unwrap_or(0),
    };
    cluster.end(node, End::DiskLost);
    let after = cluster.watch.chance().between(100, DOWN_MS);
    let (cluster, gateways) = (Arc::clone(cluster), gateways.to_vec());
    let _beside = spawn(async move {
        sleep_ms(after).await;
        cluster.add(by);
        cluster.start(by).await;
        gateways.iter().for_each(|gateway| gateway.hold_line(by));
        members::replace(cluster, node, by).await;
        drop(changing);
    });
}

/// A process ends, and begins again after a while.
fn fall(cluster: &Arc<Cluster>, node: u64, how: End) {
    if cluster.process(node).is_none() {
        return;
    }
    cluster.end(node, how);
    let down = cluster.watch.chance().between(100, DOWN_MS);
    let cluster = Arc::clone(cluster);
    let _beside = spawn(async move {
        sleep_ms(down).await;
        cluster.start(node).await;
    });
}
