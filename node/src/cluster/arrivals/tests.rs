use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream;
use proto::cluster::peer_server::{Peer, PeerServer};
use proto::cluster::{
    ArrivedReply, ArrivedRequest, ChangeReply, ChangeRequest, DescribeRequest, DigestReply,
    DigestRequest, Held, HelloReply, HelloRequest, HoldRoomsRequest, NodeDescription,
    OpenRoomsReply, OpenRoomsRequest, ProposeReply, ProposeRequest, RaftAnswer, RaftMessage,
    RaiseFloorReply, RaiseFloorRequest, ReadIndexReply, ReadIndexRequest, RegisterReply,
    RegisterRequest,
};
use raft::{NodeId, PeerError, Peers, StoreConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Streaming};

use super::*;
use crate::cluster::{Cluster, Config, Wires};

const GROUP: GroupId = GroupId(3);

/// More than what is under way between two endpoints, several times.
const LENGTH: usize = 16 << 20;
/// So much of it passes before the line is cut.
const CUT_AFTER: u64 = 10 << 20;

// === one endpoint ===

fn arrivals(dir: &TempDir, kept_for: Duration) -> Arrivals {
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
    Arrivals {
        kept_for,
        ..Arrivals::new(store)
    }
}

fn scratch_files(arrivals: &Arrivals) -> usize {
    let files = std::fs::read_dir(arrivals.store.incoming_dir());
    files.unwrap().count()
}

fn named(length: u64, digest: u8) -> SnapshotName {
    SnapshotName {
        length,
        digest: vec![digest; 32].into(),
    }
}

fn first(name: Option<&SnapshotName>, offset: u64) -> SnapshotPart {
    SnapshotPart {
        name: name.cloned(),
        offset,
        ..SnapshotPart::default()
    }
}

fn part(bytes: &'static [u8]) -> Result<SnapshotPart, Status> {
    Ok(SnapshotPart {
        bytes: Bytes::from_static(bytes),
        ..SnapshotPart::default()
    })
}

fn cut() -> Result<SnapshotPart, Status> {
    Err(Status::unavailable("cut"))
}

fn content(file: &SnapshotFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.bytes()).unwrap()];
    let mut read = 0;
    while read < bytes.len() {
        read += file.read_at(&mut bytes[read..], read as u64).unwrap();
    }
    bytes
}

#[tokio::test]
async fn what_broke_off_is_gone_on_with_from_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let arrivals = arrivals(&dir, KEPT);
    let name = named(9, 1);
    let stream = stream::iter([part(b"one"), part(b"two"), cut()]);
    let broken = arrivals.receive(GROUP, first(Some(&name), 0), stream).await;
    assert_eq!(broken.unwrap_err().message(), "cut");
    assert_eq!(arrivals.arrived(GROUP, &name).await, 6);
    let rest = stream::iter([part(b"six")]);
    let whole = arrivals.receive(GROUP, first(Some(&name), 6), rest).await;
    assert_eq!(content(&whole.unwrap()), b"onetwosix");
    assert_eq!(arrivals.arrived(GROUP, &name).await, 0, "it is taken");
    assert_eq!(scratch_files(&arrivals), 0);
}

#[tokio::test]
async fn a_stream_that_ends_early_is_broken_and_one_that_brings_too_much_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let arrivals = arrivals(&dir, KEPT);
    let name = named(5, 1);
    let early = stream::iter([part(b"one")]);
    let early = arrivals.receive(GROUP, first(Some(&name), 0), early).await;
    assert_eq!(early.unwrap_err().code(), tonic::Code::Aborted);
    assert_eq!(arrivals.arrived(GROUP, &name).await, 3);
    let more = stream::iter([part(b"two")]);
    let more = arrivals.receive(GROUP, first(Some(&name), 3), more).await;
    assert_eq!(more.unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(arrivals.arrived(GROUP, &name).await, 0);
    assert_eq!(scratch_files(&arrivals), 0);
}

#[tokio::test]
async fn a_part_is_kept_for_its_own_snapshot_and_goes_when_another_one_begins() {
    let dir = tempfile::tempdir().unwrap();
    let arrivals = arrivals(&dir, KEPT);
    let name = named(9, 1);
    let begin = async || {
        let stream = stream::iter([part(b"one"), cut()]);
        let broken = arrivals.receive(GROUP, first(Some(&name), 0), stream).await;
        assert!(broken.is_err());
    };
    begin().await;
    begin().await;
    assert_eq!(scratch_files(&arrivals), 1, "one of each group");
    assert_eq!(arrivals.arrived(GROUP, &named(9, 2)).await, 0);
    assert_eq!(arrivals.arrived(GROUP, &named(8, 1)).await, 0);
    assert_eq!(arrivals.arrived(GroupId(4), &name).await, 0);
    for (name, offset) in [
        (Some(&named(9, 2)), 3),
        (Some(&name), 2),
        (Some(&name), 4),
        (None, 3),
    ] {
        begin().await;
        let rest = stream::iter([part(b"rest")]);
        let rest = arrivals.receive(GROUP, first(name, offset), rest).await;
        let refused = rest.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert_eq!(scratch_files(&arrivals), 0);
    }
    begin().await;
    let small = stream::iter([part(b"small")]);
    let small = arrivals.receive(GROUP, first(None, 0), small).await;
    assert_eq!(content(&small.unwrap()), b"small");
    assert_eq!(arrivals.arrived(GROUP, &name).await, 0);
}

#[tokio::test]
async fn a_small_snapshot_that_broke_off_is_not_kept_and_a_large_one_not_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let arrivals = arrivals(&dir, Duration::from_millis(50));
    let stream = stream::iter([part(b"one"), cut()]);
    assert!(
        arrivals
            .receive(GROUP, first(None, 0), stream)
            .await
            .is_err()
    );
    assert_eq!(scratch_files(&arrivals), 0);
    let name = named(9, 1);
    let stream = stream::iter([part(b"one"), cut()]);
    let broken = arrivals.receive(GROUP, first(Some(&name), 0), stream).await;
    assert!(broken.is_err());
    let expired = async {
        while scratch_files(&arrivals) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let expired = tokio::time::timeout(Duration::from_secs(30), expired).await;
    assert!(expired.is_ok(), "the room is given back though nobody asks");
    assert_eq!(arrivals.arrived(GROUP, &name).await, 0);
}

#[tokio::test]
async fn who_asks_ends_a_stream_that_hangs_and_is_told_what_it_has_brought() {
    let dir = tempfile::tempdir().unwrap();
    let arrivals = Arc::new(arrivals(&dir, KEPT));
    let name = named(9, 1);
    let (parts, stream) = tokio::sync::mpsc::channel(1);
    let hangs = tokio::spawn({
        let (arrivals, first) = (Arc::clone(&arrivals), first(Some(&name), 0));
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        async move { arrivals.receive(GROUP, first, stream).await }
    });
    for bytes in [&b"one"[..], b"two"] {
        parts.send(part(bytes)).await.unwrap();
    }
    // What was sent was taken out of the channel when there is room in it; it is written before anything else is looked at.
    let _room = parts.reserve().await.unwrap();
    assert_eq!(arrivals.arrived(GROUP, &name).await, 6);
    let ended = hangs.await.unwrap();
    assert_eq!(ended.unwrap_err().code(), tonic::Code::Aborted);
}

// === two endpoints ===

/// Receives snapshots as a node does, and keeps their bytes.
struct Receiver {
    arrivals: Arc<Arrivals>,
    /// A node of before does not know what `Arrived` is.
    old: bool,
    /// Where each stream began.
    offsets: Arc<Mutex<Vec<u64>>>,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

type Answer<T> = Result<Response<T>, Status>;

fn unasked<T>() -> Answer<T> {
    Err(Status::unimplemented("not asked by this test"))
}

#[tonic::async_trait]
impl Peer for Receiver {
    async fn snapshot(&self, request: Request<Streaming<SnapshotPart>>) -> Answer<RaftAnswer> {
        let mut parts = request.into_inner();
        let mut first = next(&mut parts).await?.unwrap_or_default();
        let announced = first.announced.take().unwrap();
        assert!(!self.old || first.offset == 0);
        self.offsets.lock().unwrap().push(first.offset);
        let arrivals = self.arrivals.clone();
        let work = tokio::spawn(async move { arrivals.receive(GROUP, first, parts).await });
        let file = work.await.unwrap()?;
        self.received.lock().unwrap().push(content(&file));
        Ok(Response::new(RaftAnswer {
            message: announced.message,
        }))
    }

    async fn arrived(&self, request: Request<ArrivedRequest>) -> Answer<ArrivedReply> {
        if self.old {
            return unasked();
        }
        let name = request.into_inner().snapshot.unwrap();
        let bytes = self.arrivals.arrived(GROUP, &name).await;
        Ok(Response::new(ArrivedReply { bytes }))
    }

    async fn hello(&self, _: Request<HelloRequest>) -> Answer<HelloReply> {
        unasked()
    }
    async fn register(&self, _: Request<RegisterRequest>) -> Answer<RegisterReply> {
        unasked()
    }
    async fn change(&self, _: Request<ChangeRequest>) -> Answer<ChangeReply> {
        unasked()
    }
    async fn describe(&self, _: Request<DescribeRequest>) -> Answer<NodeDescription> {
        unasked()
    }
    async fn raft(&self, _: Request<RaftMessage>) -> Answer<RaftAnswer> {
        unasked()
    }
    async fn propose(&self, _: Request<ProposeRequest>) -> Answer<ProposeReply> {
        unasked()
    }
    async fn read_index(&self, _: Request<ReadIndexRequest>) -> Answer<ReadIndexReply> {
        unasked()
    }
    async fn digest(&self, _: Request<DigestRequest>) -> Answer<DigestReply> {
        unasked()
    }
    async fn raise_floor(&self, _: Request<RaiseFloorRequest>) -> Answer<RaiseFloorReply> {
        unasked()
    }
    async fn hold_rooms(&self, _: Request<HoldRoomsRequest>) -> Answer<Held> {
        unasked()
    }
    async fn open_rooms(&self, _: Request<OpenRoomsRequest>) -> Answer<OpenRoomsReply> {
        unasked()
    }
}

/// A line that counts what passes towards the receiver, and is cut once.
#[derive(Default)]
struct Line {
    passed: AtomicU64,
    /// 0: it is not.
    cut_after: AtomicU64,
}

impl Line {
    async fn lead(self: Arc<Self>, to: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((sender, _)) = listener.accept().await {
                let receiver = TcpStream::connect(to).await.unwrap();
                tokio::spawn(Arc::clone(&self).pass(sender, receiver));
            }
        });
        address
    }

    async fn pass(self: Arc<Self>, sender: TcpStream, receiver: TcpStream) {
        let (mut from, mut back) = sender.into_split();
        let (mut answers, mut to) = receiver.into_split();
        let forth = async {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
                let passed = self.passed.fetch_add(read as u64, Ordering::SeqCst) + read as u64;
                let cut_after = self.cut_after.load(Ordering::SeqCst);
                if cut_after > 0 && passed >= cut_after {
                    self.cut_after.store(0, Ordering::SeqCst);
                    return;
                }
            }
        };
        // Whichever ends first ends both directions.
        tokio::select! {
            () = forth => {}
            _ = tokio::io::copy(&mut answers, &mut back) => {}
        }
    }
}

/// A sender, a line that is cut in the middle of a snapshot, and a receiver behind it.
struct Scene {
    _dir: TempDir,
    wires: Wires,
    line: Arc<Line>,
    offsets: Arc<Mutex<Vec<u64>>>,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    sent: Vec<u8>,
    path: PathBuf,
}

impl Scene {
    async fn of(resume_above: u64, old: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sent.snapshot");
        let sent: Vec<u8> = (0..LENGTH as u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        std::fs::write(&path, &sent).unwrap();
        let store = Store::open(&dir.path().join("store"), StoreConfig::default()).unwrap();
        let receiver = Receiver {
            arrivals: Arc::new(Arrivals::new(store)),
            old,
            offsets: Arc::default(),
            received: Arc::default(),
        };
        let (offsets, received) = (receiver.offsets.clone(), receiver.received.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(PeerServer::new(receiver));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let line = Arc::new(Line::default());
        let address = Arc::clone(&line).lead(address).await;
        let config = Config {
            name: "test".to_owned(),
            node: NodeId(1),
            address: "127.0.0.1:1".to_owned(),
            founders: BTreeMap::from([(NodeId(2), address.to_string())]),
            disk: [1; 16],
            compare_every: Duration::from_secs(3600),
            resume_above,
        };
        Scene {
            _dir: dir,
            wires: Wires(Arc::new(Cluster::new(config, &BTreeMap::new(), None))),
            line,
            offsets,
            received,
            sent,
            path,
        }
    }

    async fn send(&self) -> Result<Bytes, PeerError> {
        let snapshot = SnapshotFile::open(&self.path).unwrap();
        let message = Bytes::from_static(b"announced");
        let patience = Duration::from_secs(60);
        let sending = self
            .wires
            .send_snapshot(NodeId(2), GROUP, message, snapshot, patience);
        sending.await
    }

    /// Sends it over a line that is cut meanwhile, then until it has arrived. Where the last stream began, and how many bytes
    /// passed since the cut.
    async fn send_in_spite_of_a_cut(&self) -> (u64, u64) {
        self.line.cut_after.store(CUT_AFTER, Ordering::SeqCst);
        assert!(self.send().await.is_err(), "the line was cut");
        assert_eq!(self.line.cut_after.load(Ordering::SeqCst), 0);
        assert_eq!(*self.offsets.lock().unwrap(), [0]);
        self.line.passed.store(0, Ordering::SeqCst);
        // The first call may find the connection that broke.
        let mut tries = 0;
        let answer = loop {
            match self.send().await {
                Ok(answer) => break answer,
                Err(error) => {
                    tries += 1;
                    assert!(tries < 50, "{error}");
                    // A connection is made anew behind the call that needs it.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        assert_eq!(answer, "announced");
        let received = self.received.lock().unwrap();
        assert!(received.len() == 1 && received[0] == self.sent, "the same");
        let offset = *self.offsets.lock().unwrap().last().unwrap();
        (offset, self.line.passed.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_only_the_rest_of_a_large_snapshot_is_sent() {
    let scene = Scene::of(1 << 20, false).await;
    let (offset, passed) = scene.send_in_spite_of_a_cut().await;
    assert!(offset > 0, "much had arrived");
    let rest = LENGTH as u64 - offset;
    // HTTP/2 and protobuf add less than 1 %.
    let most = rest + rest / 100 + (64 << 10);
    assert!((rest..=most).contains(&passed), "{passed} of {rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_snapshot_and_one_to_an_older_node_are_sent_whole_again() {
    for (resume_above, old) in [(LENGTH as u64, false), (1 << 20, true)] {
        let scene = Scene::of(resume_above, old).await;
        let (offset, passed) = scene.send_in_spite_of_a_cut().await;
        assert_eq!(offset, 0);
        assert!(passed >= LENGTH as u64, "{passed}");
    }
}
