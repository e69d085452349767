//! A bad link: TCP goes through it, and on order it delays what it carries, loses some of it for a while, or breaks.
//!
//! Who sees only streams never sees a lost packet: TCP says it again after its retransmission timeout, and everything
//! behind it waits. So that is what loss is here. Chance comes from a seed; what it meets depends on the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::server::free_address;

/// Bytes that are carried at once. While they are held, the kernel gathers what comes after them.
const CHUNK: usize = 64 << 10;

/// Beyond it connections wait until one has ended.
const CONNECTIONS: usize = 256;

/// The first retransmission timeout of Linux, and the longest that is waited for; each is twice the one before.
const RETRANSMIT: Duration = Duration::from_millis(200);
const RETRANSMIT_MAX: Duration = Duration::from_millis(1600);

/// What a link does to each chunk that it carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// It is late by up to so much.
    pub late: Duration,
    /// One in so many is lost, and so is each of its retransmissions; 0: none.
    pub one_lost_in: u64,
}

/// A link to one address. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    link: Arc<Link>,
    seed: u64,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Link {
    target: SocketAddr,
    weather: watch::Sender<Weather>,
    /// How often it broke.
    breaks: watch::Sender<u64>,
    lost: AtomicU64,
    broken: AtomicU64,
}

// === impl Proxy ===

impl Proxy {
    /// A sound one, which may be told to be bad. It lives in the runtime that it is made in.
    pub async fn before(target: SocketAddr, seed: u64) -> Self {
        let address = free_address();
        let listener = TcpListener::bind(address).await.unwrap();
        let link = Arc::new(Link {
            target,
            weather: watch::Sender::default(),
            breaks: watch::Sender::default(),
            lost: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, link.clone(), seed)).abort_handle();
        Proxy {
            address,
            link,
            seed,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the next chunk on.
    pub fn has(&self, weather: Weather) {
        self.link.weather.send_replace(weather);
    }

    /// Ends every connection, with what is in it. Who connects again is let through.
    pub fn breaks(&self) {
        self.link.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Breaks again and again, with such pauses between, for so long.
    pub async fn flaps(&self, least: Duration, most: Duration, lasting: Duration) {
        let mut chance = Chance(!self.seed);
        let until = Instant::now() + lasting;
        while Instant::now() < until {
            let pause = least + chance.up_to(most.saturating_sub(least));
            tokio::time::sleep(pause).await;
            self.breaks();
        }
    }

    /// Chunks that were lost so far.
    pub fn lost(&self) -> u64 {
        self.link.lost.load(Ordering::Relaxed)
    }

    /// Connections that were broken so far.
    pub fn broken(&self) -> u64 {
        self.link.broken.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Connections end with this task.
async fn accept(listener: TcpListener, link: Arc<Link>, seed: u64) {
    let mut chance = Chance(seed);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        let (client, _) = listener.accept().await.unwrap();
        connections.spawn(carry(client, link.clone(), Chance(chance.next())));
    }
}

async fn carry(client: TcpStream, link: Arc<Link>, mut chance: Chance) {
    let mut breaks = link.breaks.subscribe();
    // Who connects to nobody finds the connection ended.
    let Ok(server) = TcpStream::connect(link.target).await else {
        return;
    };
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = forward(from_client, to_server, &link, Chance(chance.next()));
    let down = forward(from_server, to_client, &link, Chance(chance.next()));
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        _ = breaks.changed() => {
            link.broken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One direction, until either end of it has ended.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: &Link, mut chance: Chance) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(bytes) = from.read(&mut chunk).await
        && bytes > 0
    {
        let weather = *link.weather.borrow();
        let (held, lost) = weather.holds(&mut chance);
        link.lost.fetch_add(lost, Ordering::Relaxed);
        if !held.is_zero() {
            tokio::time::sleep(held).await;
        }
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}

// === impl Weather ===

impl Weather {
    /// How long a chunk is held, and how often it was lost.
    fn holds(self, chance: &mut Chance) -> (Duration, u64) {
        let (mut held, mut lost) = (chance.up_to(self.late), 0);
        let mut again = RETRANSMIT;
        while self.one_lost_in > 0 && again <= RETRANSMIT_MAX && chance.below(self.one_lost_in) == 0
        {
            held += again;
            again *= 2;
            lost += 1;
        }
        (held, lost)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough to make trouble.
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// In whole milliseconds.
    fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_millis()).unwrap();
        Duration::from_millis(self.below(most + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::SOON;

    /// Says everything back.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _gone = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn what_goes_through_a_bad_link_arrives_whole_and_in_order() {
        let proxy = Proxy::before(echo().await, 1).await;
        proxy.has(Weather {
            late: Duration::from_millis(5),
            one_lost_in: 8,
        });
        let said: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let mut heard = Vec::new();
        let both = async {
            tokio::join!(
                async {
                    to.write_all(&said).await.unwrap();
                    to.shutdown().await.unwrap();
                },
                async { from.read_to_end(&mut heard).await.unwrap() }
            )
        };
        tokio::time::timeout(SOON, both).await.unwrap();
        assert!(heard == said, "{} bytes of {}", heard.len(), said.len());
    }

    #[tokio::test]
    async fn a_break_ends_the_connections_that_are_there_and_no_later_one() {
        let proxy = Proxy::before(echo().await, 1).await;
        for _ in 0..2 {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            let mut heard = [0; 5];
            stream.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut heard).await.unwrap();
            proxy.breaks();
            let ended = tokio::time::timeout(SOON, stream.read(&mut heard)).await;
            assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
        }
        assert_eq!(proxy.broken(), 2);
    }

    #[test]
    fn what_is_lost_costs_retransmissions_and_never_more_than_all_of_them() {
        let always = Weather {
            one_lost_in: 1,
            ..Weather::default()
        };
        let (held, lost) = always.holds(&mut Chance(1));
        assert_eq!((held, lost), (Duration::from_millis(3_000), 4));
        let (held, lost) = Weather::default().holds(&mut Chance(1));
        assert_eq!((held, lost), (Duration::ZERO, 0));
        let some = Weather {
            late: Duration::from_millis(50),
            one_lost_in: 10,
        };
        let mut chance = Chance(7);
        let losses = (0..1_000).filter(|_| some.holds(&mut chance).1 > 0).count();
        assert!((50..200).contains(&losses), "{losses}");
    }
}
