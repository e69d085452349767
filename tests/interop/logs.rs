//! Log records with personal data: into an agent over OTLP, and out of the gateway's file.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use system_tests::wait::{SOON, eventually_blocking, holds};

/// What may not leave, once it is redacted.
pub const PERSONAL: [&str; 2] = ["jane.doe@example.com", "4111 1111 1111 1111"];

/// What stands in its place.
pub const MASKED: [&str; 2] = ["****", "[card]"];

/// Between two records of a [`Stream`].
const PACE: Duration = Duration::from_millis(100);

/// Sends one record that holds personal data and `mark`, as soon as the collector takes it.
pub fn send(collector: SocketAddr, mark: &str) {
    let [mail, card] = PERSONAL;
    let text = |value: &str| json!({"stringValue": value});
    let records = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{
        "body": text(&format!("{mark}: {mail} paid with {card}")),
        "attributes": [{"key": "user", "value": text(mail)}],
    }]}]}]});
    eventually_blocking(SOON, &format!("{collector} to take a record"), || {
        let status = post(collector, &records.to_string()).map_err(|error| error.to_string())?;
        holds(status == 200, status)
    });
}

fn post(to: SocketAddr, body: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "POST /v1/logs HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_default())
}

/// Does anybody take connections there?
pub fn listens(at: SocketAddr) -> bool {
    match TcpStream::connect_timeout(&at, Duration::from_secs(2)) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{at}: {error}");
            false
        }
    }
}

/// Records that are sent one after the other into each of some collectors, until it is told to end.
pub struct Stream {
    over: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Vec<String>>>,
}

// === impl Stream ===

impl Stream {
    /// Starts with these collectors, and how the marks of their records begin.
    pub fn start(into: impl Iterator<Item = (String, SocketAddr)>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let sender = |(what, collector): (String, SocketAddr)| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut marks = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let mark = format!("{what}-{}", marks.len());
                    send(collector, &mark);
                    marks.push(mark);
                    std::thread::sleep(PACE);
                }
                marks
            })
        };
        let senders = into.map(sender).collect();
        Stream { over, senders }
    }

    /// Answers the marks of all records, each of which was taken by its collector.
    pub fn end(mut self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        let senders = std::mem::take(&mut self.senders).into_iter();
        senders.flat_map(|sender| sender.join().unwrap()).collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The file that the gateway's collector appends to.
#[derive(Clone, Debug)]
pub struct Sink(PathBuf);

// === impl Sink ===

impl Sink {
    pub fn new(path: PathBuf) -> Self {
        Sink(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.text().len()
    }

    /// What was written after `offset`, once all of `marks` are in it.
    pub fn after(&self, offset: usize, marks: &[String]) -> String {
        eventually_blocking(SOON, "records in the gateway's file", || {
            let text = self.text().split_off(offset);
            let missing = {
                let quoted = text.split('"').filter_map(|text| text.split_once(':'));
                let there: BTreeSet<&str> = quoted.map(|(mark, _)| mark).collect();
                let missing = marks.iter().filter(|mark| !there.contains(mark.as_str()));
                missing.collect::<Vec<_>>()
            };
            holds(missing.is_empty(), missing).map(|()| text)
        })
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }
}
