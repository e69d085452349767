//! Who is believed, over real sockets.

#![allow(clippy::unwrap_used)] // helpers of tests are not marked as tests

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tls::{Authority, Files, Mutual, MutualFiles, Name, Peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt;
use tower::Service;

const LIFE: Duration = Duration::from_secs(3600);

/// Certificate and key of this name in a directory of their own.
fn issue(authority: &Authority, dir: &Path, name: Name, life: Duration) -> MutualFiles {
    let dir = dir.join(name.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let issued = authority.issue(name, life).unwrap();
    let (certificate, key) = issued.write(&dir, name).unwrap();
    MutualFiles {
        own: Files { certificate, key },
        authority: dir.join("ca.pem"),
    }
}

fn load(files: &MutualFiles) -> Mutual {
    Mutual::load("prod", files.clone()).unwrap()
}

fn incoming(
    listener: TcpListener,
) -> impl tokio_stream::Stream<Item = std::io::Result<(TcpStream, SocketAddr)>> {
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    incoming.map(|stream| stream.and_then(|s| s.peer_addr().map(|peer| (s, peer))))
}

/// Serves one connection: who the other end says it is.
async fn listen(server: &Mutual) -> (String, tokio::task::JoinHandle<Option<Peer>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut accepted = server.accept(incoming(listener));
    let peer = tokio::spawn(async move {
        let next = tokio::time::timeout(Duration::from_secs(2), accepted.next()).await;
        let mut stream = next.ok()??.unwrap();
        let peer = Peer::of(stream.get_ref().1.peer_certificates());
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        stream.write_all(&byte).await.ok()?;
        Some(peer)
    });
    (address, peer)
}

/// Connects to whoever shows this name, and says one byte.
async fn connect(client: &Mutual, address: &str, name: Name) -> std::io::Result<()> {
    let uri: http::Uri = format!("http://{address}").parse().unwrap();
    let mut connector = client.connector(name).unwrap();
    let mut stream = connector.call(uri).await?.into_inner();
    stream.write_all(b"x").await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map(|_| ())
}

#[tokio::test]
async fn both_ends_are_who_their_certificates_say_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("prod", LIFE).unwrap();
    let node = load(&issue(&authority, dir.path(), Name::Node(3), LIFE));
    let gateway = load(&issue(&authority, dir.path(), Name::Gateway, LIFE));

    let (address, peer) = listen(&node).await;
    connect(&gateway, &address, Name::Node(3)).await.unwrap();
    let peer = peer.await.unwrap().unwrap();
    assert!(peer.is(Name::Gateway, "prod"));
    assert!(!peer.is(Name::AnyNode, "prod"), "a gateway is no node");
    assert!(
        !peer.is(Name::Gateway, "test"),
        "nor one of another cluster"
    );

    let (address, peer) = listen(&node).await;
    connect(&node, &address, Name::AnyNode).await.unwrap();
    let peer = peer.await.unwrap().unwrap();
    assert!(peer.is(Name::Node(3), "prod") && !peer.is(Name::Node(4), "prod"));
    assert!(!peer.is(Name::Gateway, "prod"), "a node is no gateway");

    let (address, _) = listen(&node).await;
    let other = connect(&gateway, &address, Name::Node(4)).await;
    assert!(other.is_err(), "an address that has gone to another node");
}

#[tokio::test]
async fn strangers_and_those_whose_time_is_over_are_not_heard() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("prod", LIFE).unwrap();
    let node = load(&issue(&authority, dir.path(), Name::Node(1), LIFE));

    let elsewhere = dir.path().join("elsewhere");
    let stranger = Authority::new("prod", LIFE).unwrap();
    let stranger = load(&issue(&stranger, &elsewhere, Name::Gateway, LIFE));
    let (address, peer) = listen(&node).await;
    assert!(connect(&stranger, &address, Name::Node(1)).await.is_err());
    assert!(
        peer.await.unwrap().is_none(),
        "another authority of the same name"
    );

    // Valid for no time at all; what clocks may differ by is only given at the beginning.
    let over = load(&issue(
        &authority,
        dir.path(),
        Name::Gateway,
        Duration::ZERO,
    ));
    tokio::time::sleep(Duration::from_millis(1100)).await; // certificates count seconds
    let (address, peer) = listen(&node).await;
    assert!(connect(&over, &address, Name::Node(1)).await.is_err());
    assert!(peer.await.unwrap().is_none());

    let (address, peer) = listen(&node).await;
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(peer.await.unwrap().is_none(), "who shows nothing");
}

fn load_and_watch(files: &MutualFiles) -> Mutual {
    Mutual::load_and_watch("prod", files.clone(), Duration::from_millis(20)).unwrap()
}

/// The certificates that both ends of a new connection show, the server's first.
async fn shown(server: &Mutual, client: &Mutual, name: Name) -> (Vec<u8>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut accepted = server.accept(incoming(listener));
    let mut connector = client.connector(name).unwrap();
    let connected = connector.call(format!("http://{address}").parse().unwrap());
    let both = async { tokio::join!(connected, accepted.next()) };
    let (here, there) = tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .unwrap();
    let (here, there) = (here.unwrap().into_inner(), there.unwrap().unwrap());
    (
        here.get_ref().1.peer_certificates().unwrap()[0].to_vec(),
        there.get_ref().1.peer_certificates().unwrap()[0].to_vec(),
    )
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), looking).await;
    found.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_certificate_issued_anew_is_shown_by_both_ends_without_a_restart_and_a_broken_one_is_not()
{
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("prod", LIFE).unwrap();
    let issue = |name| issue(&authority, dir.path(), name, LIFE);
    let files = issue(Name::Node(3));
    let node = load_and_watch(&files);
    let gateway = load_and_watch(&issue(Name::Gateway));
    let before = shown(&node, &gateway, Name::Node(3)).await;
    assert_eq!(before, shown(&node, &gateway, Name::Node(3)).await);
    // What stands when they are replaced goes on.
    let (address, peer) = listen(&node).await;
    let mut standing = gateway.connector(Name::Node(3)).unwrap();
    let standing = standing.call(format!("http://{address}").parse().unwrap());
    let mut standing = standing.await.unwrap().into_inner();

    issue(Name::Node(3));
    issue(Name::Gateway);
    eventually("both ends show the new ones", async || {
        let now = shown(&node, &gateway, Name::Node(3)).await;
        now.0 != before.0 && now.1 != before.1
    })
    .await;
    standing.write_all(b"x").await.unwrap();
    standing.read_exact(&mut [0]).await.unwrap();
    assert!(peer.await.unwrap().unwrap().is(Name::Gateway, "prod"));

    let good = shown(&node, &gateway, Name::Node(3)).await;
    std::fs::write(&files.own.certificate, "nothing").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await; // it is looked at several times
    assert_eq!(shown(&node, &gateway, Name::Node(3)).await, good);
}

#[tokio::test]
async fn who_is_believed_changes_with_the_file_of_the_authority_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    let (old, new) = (
        Authority::new("prod", LIFE).unwrap(),
        Authority::new("prod", LIFE).unwrap(),
    );
    let node = load_and_watch(&issue(&old, dir.path(), Name::Node(1), LIFE));
    let of_old = load(&issue(&old, dir.path(), Name::Gateway, LIFE));
    let of_new = load(&issue(&new, &elsewhere, Name::Gateway, LIFE));
    let is_heard = async |client: &Mutual| {
        let (address, _) = listen(&node).await;
        connect(client, &address, Name::Node(1)).await.is_ok()
    };
    assert!(is_heard(&of_old).await && !is_heard(&of_new).await);
    issue(&new, dir.path(), Name::Node(1), LIFE);
    eventually("the new authority is believed", async || {
        is_heard(&of_new).await
    })
    .await;
    assert!(!is_heard(&of_old).await, "and the old one no more");
}

#[tokio::test]
async fn strangers_that_say_nothing_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("prod", LIFE).unwrap();
    let node = load(&issue(&authority, dir.path(), Name::Node(1), LIFE));
    let gateway = load(&issue(&authority, dir.path(), Name::Gateway, LIFE));
    let (address, peer) = listen(&node).await;
    let mut strangers = Vec::new();
    for _ in 0..200 {
        strangers.push(TcpStream::connect(&address).await.unwrap());
    }
    connect(&gateway, &address, Name::Node(1)).await.unwrap();
    assert!(peer.await.unwrap().unwrap().is(Name::Gateway, "prod"));
    // No more of them are kept than may show who they are at a time.
    let mut first = strangers.swap_remove(0);
    let ended = tokio::time::timeout(Duration::from_secs(2), first.read(&mut [0])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
}

#[test]
fn an_authority_is_made_once_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Authority::read(dir.path(), "prod").is_err());
    let authority = Authority::new("prod", LIFE).unwrap();
    authority.write(dir.path()).unwrap();
    let again = authority.write(dir.path()).unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(dir.path().join("ca.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o077,
        0,
        "whoever has the key is the cluster's owner"
    );
    let read = Authority::read(dir.path(), "prod").unwrap();
    let issued = read.issue(Name::Node(1), LIFE).unwrap();
    assert!(issued.certificate.contains("BEGIN CERTIFICATE"));
    assert!(Authority::new("Not A Name", LIFE).is_err());
    let other = Authority::read(dir.path(), "test")
        .err()
        .unwrap()
        .to_string();
    assert!(other.contains("not of cluster `test`"), "{other}");
    std::fs::write(dir.path().join("ca.pem"), "nothing").unwrap();
    let damaged = Authority::read(dir.path(), "prod")
        .err()
        .unwrap()
        .to_string();
    assert!(damaged.contains("ca.pem"), "{damaged}");
}
