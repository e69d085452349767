//! Connections of nodes and gateways to a node: so many at a time, and none for ever.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections at a time: two of each node, and one of each gateway, with room for many gateways. The next one waits until
/// one of them has gone.
const CONNECTIONS: usize = 2048;

/// At this age a connection is cut off, whatever is under way: by then it was asked to end long ago.
const CUT: Duration = Duration::from_secs(4 * 3600);

/// Pause after a failed accept (no file descriptors left), so as not to spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that has its place until it is dropped.
pub struct Placed {
    stream: TcpStream,
    cut: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// Accepts, each with the address of its other end, as long as there are places.
pub fn accept(listener: TcpListener) -> impl Stream<Item = io::Result<(Placed, SocketAddr)>> {
    accept_up_to(CONNECTIONS, listener)
}

fn accept_up_to(
    most: usize,
    listener: TcpListener,
) -> impl Stream<Item = io::Result<(Placed, SocketAddr)>> {
    let places = Arc::new(Semaphore::new(most));
    futures::stream::unfold((listener, places), |(listener, places)| async move {
        if places.available_permits() == 0 {
            tracing::warn!("too many connections: the next one is accepted when another has gone");
        }
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let _slower = stream.set_nodelay(true);
                    let placed = Placed {
                        stream,
                        cut: Box::pin(tokio::time::sleep(CUT)),
                        _place: place,
                    };
                    return Some((Ok((placed, peer)), (listener, places)));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}

// === impl Placed ===

impl Connected for Placed {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Placed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            let old = io::Error::new(io::ErrorKind::TimedOut, "the connection is too old");
            return Poll::Ready(Err(old));
        }
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Placed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn beyond_the_limit_a_connection_waits_until_another_one_has_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = Box::pin(accept_up_to(2, listener));
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        let first = accepted.next().await.unwrap().unwrap();
        let _second = accepted.next().await.unwrap().unwrap();
        assert_eq!(first.1, clients[0].local_addr().unwrap());
        let mut third = accepted.next();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!((&mut third).now_or_never().is_none(), "there is no place");
        drop(first);
        let third = tokio::time::timeout(Duration::from_secs(5), third).await;
        let (third, peer) = third.unwrap().unwrap().unwrap();
        assert_eq!(peer, clients[2].local_addr().unwrap());
        assert_eq!(third.connect_info().remote_addr, Some(peer));
    }

    #[tokio::test]
    async fn a_connection_that_never_ends_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut accepted = Box::pin(accept(listener));
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut placed, _) = accepted.next().await.unwrap().unwrap();
        assert!(placed.read_u8().now_or_never().is_none());
        placed.cut = Box::pin(tokio::time::sleep(Duration::ZERO));
        let cut = tokio::time::timeout(Duration::from_secs(5), placed.read_u8()).await;
        assert_eq!(cut.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
