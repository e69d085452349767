//! A consistent, owned, read-only view of a group's applied state.
//!
//! Not linearizable by itself: call [`crate::Group::linearize`] first where that matters.
//! Invariant: everything a view shows was true at one applied position.
//!
//! An engine snapshot borrows the database. To own both without unsafe code, the snapshot lives
//! inside a future that holds the database too and answers one request each time it is polled.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use rocksdb::Snapshot;

use crate::store::{Db, keys};
use crate::stored::Applied;
use crate::types::SnapshotMeta;
use crate::{Fatal, GroupId};

/// Rows fetched at once, in rows and bytes.
const PAGE_ROWS: usize = 4096;
const PAGE_BYTES: usize = 1 << 20;

/// A key, without its table, and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// A consistent view of one group's state. Threads may share it; their reads take turns, so a
/// thread that scans much takes a view of its own. A view keeps the database open.
pub struct View {
    reader: Mutex<Reader>,
    applied: Applied,
    /// Group and generation.
    space: [u8; keys::SPACE_BYTES],
}

impl View {
    pub(crate) fn new(db: Arc<Db>, group: GroupId) -> Result<Self, Fatal> {
        let mut reader = Reader::new(db);
        let applied = match reader.ask(Request::Applied(group))? {
            Reply::Applied(applied) => *applied,
            _ => return Err(out_of_step()),
        };
        Ok(Self {
            reader: Mutex::new(reader),
            space: applied.space(group),
            applied,
        })
    }

    /// The value of a key, if it has one.
    ///
    /// # Errors
    /// The database failed or stored bytes are damaged.
    pub fn get(&self, table: u8, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        let key = keys::join(&self.space, &keys::in_table(table, key));
        match self.ask(Request::Get(key))? {
            Reply::Value(value) => Ok(value),
            _ => Err(out_of_step()),
        }
    }

    /// All keys of a table that begin with `prefix`, ascending. Keys come without table.
    pub fn scan_prefix(&self, table: u8, prefix: &[u8]) -> Rows<'_> {
        let name = keys::in_table(table, prefix);
        let end = keys::after_prefix(&name);
        Rows {
            names: self.names(name, end),
        }
    }

    /// All keys of a table from `start` on, inclusive, ascending.
    pub fn scan_from(&self, table: u8, start: &[u8]) -> Rows<'_> {
        let end = keys::after_prefix(&[table]);
        Rows {
            names: self.names(keys::in_table(table, start), end),
        }
    }

    /// Index of the last entry this view shows; `None` if nothing was applied.
    pub fn applied_index(&self) -> Option<u64> {
        self.applied.last.as_ref().map(|id| id.index)
    }

    /// Format of the machine that wrote the state; 0 if nothing was written.
    pub fn format(&self) -> u32 {
        self.applied.sm_format
    }

    /// All rows of all tables, ascending, with the table in front of the key.
    pub(crate) fn everything(&self) -> Names<'_> {
        self.names(Vec::new(), None)
    }

    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied.last,
            last_membership: self.applied.members.clone(),
        }
    }

    fn names(&self, first: Vec<u8>, end: Option<Vec<u8>>) -> Names<'_> {
        Names {
            view: self,
            page: VecDeque::new(),
            next: Some(first),
            end,
        }
    }

    fn ask(&self, request: Request) -> Result<Reply, Fatal> {
        self.reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(request)
    }
}

/// Rows of a view, fetched page by page. Ends after the first error.
pub struct Rows<'a> {
    names: Names<'a>,
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.names.next()?;
        Some(row.map(|(name, value)| (name[1..].to_vec(), value)))
    }
}

/// As [`Rows`], with the table in front of the key.
pub(crate) struct Names<'a> {
    view: &'a View,
    page: VecDeque<Row>,
    /// Where the next page begins; `None` after the last.
    next: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
}

impl Iterator for Names<'_> {
    type Item = Result<Row, Fatal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.is_empty()
            && let Some(first) = self.next.take()
        {
            let page = Request::Page {
                space: self.view.space,
                first,
                end: self.end.clone(),
            };
            match self.view.ask(page) {
                Ok(Reply::Page { rows, next }) => (self.page, self.next) = (rows, next),
                Ok(_) => return Some(Err(out_of_step())),
                Err(error) => return Some(Err(error)),
            }
        }
        self.page.pop_front().map(Ok)
    }
}

// === the future that owns database and snapshot ===

enum Request {
    Applied(GroupId),
    Get(Vec<u8>),
    Page {
        space: [u8; keys::SPACE_BYTES],
        first: Vec<u8>,
        end: Option<Vec<u8>>,
    },
}

enum Reply {
    Applied(Box<Applied>),
    Value(Option<Vec<u8>>),
    Page {
        rows: VecDeque<Row>,
        next: Option<Vec<u8>>,
    },
}

#[derive(Default)]
struct Desk {
    request: Option<Request>,
    reply: Option<Result<Reply, Fatal>>,
}

struct Reader {
    desk: Arc<Mutex<Desk>>,
    serve: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Reader {
    fn new(db: Arc<Db>) -> Self {
        let desk = Arc::new(Mutex::new(Desk::default()));
        let mut reader = Self {
            desk: Arc::clone(&desk),
            serve: Box::pin(serve(db, desk)),
        };
        // The first poll takes the snapshot.
        reader.poll();
        reader
    }

    fn ask(&mut self, request: Request) -> Result<Reply, Fatal> {
        lock(&self.desk).request = Some(request);
        self.poll();
        lock(&self.desk)
            .reply
            .take()
            .unwrap_or_else(|| Err(out_of_step()))
    }

    fn poll(&mut self) {
        // It never finishes and waits for nobody: each poll runs to its next rest.
        let _ = self
            .serve
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
    }
}

async fn serve(db: Arc<Db>, desk: Arc<Mutex<Desk>>) {
    let snapshot = db.engine.snapshot();
    loop {
        let request = lock(&desk).request.take();
        if let Some(request) = request {
            let reply = answer(&db, &snapshot, request);
            lock(&desk).reply = Some(reply);
        }
        let mut rested = false;
        std::future::poll_fn(|_| match std::mem::replace(&mut rested, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

fn answer(db: &Db, snapshot: &Snapshot<'_>, request: Request) -> Result<Reply, Fatal> {
    let get = |family, key: &[u8]| {
        let found = snapshot.get_cf(db.family(family), key);
        found.map_err(|error| Fatal::because(format!("read {family}"), error))
    };
    match request {
        Request::Get(key) => Ok(Reply::Value(get(keys::STATE, &key)?)),
        Request::Applied(group) => {
            let stored = get(keys::SM_META, &keys::applied(group))?;
            let applied = stored.map(|bytes| Applied::decode(&bytes)).transpose()?;
            Ok(Reply::Applied(Box::new(applied.unwrap_or_default())))
        }
        Request::Page { space, first, end } => {
            let mut rows = VecDeque::new();
            let mut bytes = 0;
            for row in db.iterate_state_at(snapshot, &space, &first, end.as_deref()) {
                let (name, value) = row?;
                if rows.len() >= PAGE_ROWS || bytes >= PAGE_BYTES {
                    return Ok(Reply::Page {
                        rows,
                        next: Some(name),
                    });
                }
                bytes += name.len() + value.len();
                rows.push_back((name, value));
            }
            Ok(Reply::Page { rows, next: None })
        }
    }
}

fn lock(desk: &Mutex<Desk>) -> std::sync::MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn out_of_step() -> Fatal {
    Fatal::new("the view answered another question than it was asked")
}
