//! `muster backup`: everything that a server or cluster keeps, in one file, while it runs.

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use node::backup::{self, Key, Summary, Writer};
use proto::api::{self, backup_part::Part};
use serde::Serialize;
use tonic::Status;

use crate::exit::{Code, Failure};
use crate::operator::client::Client;
use crate::operator::output::{Output, talk};
use crate::render::backup as render;
use crate::render::text::thousands;

/// A backup during which a rollout began is made again, at most so often in all.
const TRIES: usize = 3;

const EXAMPLES: &str = "\
The file holds every config, the agents, the audit log and hashes of tokens, so it is as secret as
the data directory. With a key it is encrypted; without the key nobody can read it again. It is
written beside its place, read back, and only then given its name.

Examples:
  muster backup /backups/muster-$(date +%F).bak
  openssl rand -hex 32 > backup.key && muster backup muster.bak --key-file backup.key
  muster backup verify muster.bak --key-file backup.key
  muster restore muster.bak --data-dir /var/lib/muster --key-file backup.key";

const VERIFY_EXAMPLES: &str = "\
Needs no server. Every byte is read: what does not verify cannot be restored.

Examples:
  muster backup verify muster.bak
  muster backup verify muster.bak --key-file backup.key -o json | jq .at_ms";

/// Options of `muster backup`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, after_help = EXAMPLES)]
pub struct BackupArgs {
    #[command(subcommand)]
    pub command: Option<Command>,
    /// File to make; it must not be there
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// Encrypt it with the key in this file: 32 random bytes, raw or as 64 hex digits
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Read a backup to its end and say what it is of (offline)
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// What `muster backup` made
        file: PathBuf,
        /// The key that it was made with
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
}

/// What a backup is of, for people and programs.
#[derive(Serialize)]
pub struct Made {
    /// Id of the cluster, in hex.
    pub cluster: String,
    /// Its name; empty: one process.
    pub name: String,
    /// How often it had been restored.
    pub incarnation: u32,
    /// When it was made, unix milliseconds.
    pub at_ms: u64,
    /// Version of the software that made it.
    pub version: String,
    /// Length of the file.
    pub bytes: u64,
    /// Can it be read with a key only?
    pub encrypted: bool,
    /// Every group in it.
    pub groups: Vec<Group>,
}

/// A group in a backup.
#[derive(Serialize)]
pub struct Group {
    /// control, inventory-0, …
    pub name: String,
    /// Index of the last entry in it.
    pub applied: u64,
    /// Keys in it.
    pub rows: u64,
}

/// Makes a backup.
pub async fn run(args: BackupArgs, client: &Client, out: Output) -> Result<(), Failure> {
    let file = args
        .file
        .ok_or_else(|| Failure::usage("no file is named"))?;
    if file.exists() {
        let what = format!("{} is there already", file.display());
        return Err(
            Failure::new(Code::Conflict, what).hint("name another file: a backup replaces nothing")
        );
    }
    let key = read_key(args.key_file.as_deref())?;
    let partial = beside(&file);
    let made = make(&partial, key.as_ref(), client).await;
    let placed = made.and_then(|made| {
        name(&partial, &file).map_err(|error| unwritable(&file, &error))?;
        sync_parent(&file).map_err(|error| unwritable(&file, &error))?;
        Ok(made)
    });
    if placed.is_err() {
        // Nobody takes half a backup for one.
        let _gone = std::fs::remove_file(&partial);
    }
    let made = placed?;
    if key.is_none() && !out.for_programs() {
        talk("not encrypted: keep it as secret as the data directory");
    }
    out.show(&made, render::made)
}

/// Says what a backup is of. Needs no server.
pub fn verify(file: &Path, key_file: Option<&Path>, out: Output) -> Result<(), Failure> {
    let key = read_key(key_file)?;
    out.show(&check(file, key.as_ref())?, render::made)
}

/// The key in this file, if one is named.
pub fn read_key(file: Option<&Path>) -> Result<Option<Key>, Failure> {
    file.map(Key::read)
        .transpose()
        .map_err(|error| failure(&error))
}

async fn make(partial: &Path, key: Option<&Key>, client: &Client) -> Result<Made, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        match receive(partial, key, client).await? {
            Ok(()) => return check(partial, key),
            Err(status) if status.code() == tonic::Code::Aborted && tries < TRIES => {
                talk(format!("once more: {}", status.message()));
            }
            Err(status) => return Err(client.failure("make the backup", &status)),
        }
    }
}

/// Writes what the server sends. The inner error is the server's.
async fn receive(
    partial: &Path,
    key: Option<&Key>,
    client: &Client,
) -> Result<Result<(), Status>, Failure> {
    let _gone = std::fs::remove_file(partial);
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial);
    let file = file.map_err(|error| unwritable(partial, &error))?;
    let bar = ProgressBar::new_spinner().with_message("waiting for the server");
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut stream = client
        .call("make the backup", async || {
            client.cluster().backup(api::BackupRequest {}).await
        })
        .await?;
    let mut sink = Some(BufWriter::with_capacity(1 << 20, file));
    let mut writer: Option<Writer<BufWriter<File>>> = None;
    let mut group = String::new();
    loop {
        let part = match stream.message().await {
            Ok(part) => part.and_then(|part| part.part),
            Err(status) => return Ok(Err(status)),
        };
        match (part, sink.take(), writer.take()) {
            (Some(Part::Header(header)), Some(sink), None) => {
                let begun = Writer::new(sink, &header, key);
                writer = Some(begun.map_err(|error| failure(&error))?);
            }
            (Some(Part::End(end)), None, Some(writer)) => {
                let (sink, _) = writer.end(&end).map_err(|error| failure(&error))?;
                let file = sink
                    .into_inner()
                    .map_err(std::io::IntoInnerError::into_error);
                let synced = file.and_then(|file| file.sync_all());
                synced.map_err(|error| unwritable(partial, &error))?;
                bar.finish_and_clear();
                return Ok(Ok(()));
            }
            (Some(part), None, Some(mut writing)) => {
                writing.part(&part).map_err(|error| failure(&error))?;
                if let Part::Group(next) = part {
                    group = next.name;
                }
                bar.set_message(format!("{group}: {} bytes", thousands(writing.bytes())));
                writer = Some(writing);
            }
            _ => return Ok(Err(Status::unavailable("the server stopped in the middle"))),
        }
    }
}

fn check(file: &Path, key: Option<&Key>) -> Result<Made, Failure> {
    let Summary { header, groups } = backup::verify(file, key).map_err(|error| failure(&error))?;
    let bytes = std::fs::metadata(file)
        .map_err(|error| unwritable(file, &error))?
        .len();
    let group = |(group, exported): (api::BackupGroup, _)| {
        let raft::Exported { applied, rows, .. } = exported;
        Group {
            name: group.name,
            applied,
            rows,
        }
    };
    Ok(Made {
        cluster: hex::encode(&header.cluster),
        name: header.name,
        incarnation: header.incarnation,
        at_ms: header.at_ms,
        version: header.version,
        bytes,
        encrypted: key.is_some(),
        groups: groups.into_iter().map(group).collect(),
    })
}

/// Gives a finished backup its name. A link replaces nothing, also if somebody has made such a file meanwhile; not every file
/// system has links.
fn name(partial: &Path, file: &Path) -> std::io::Result<()> {
    match std::fs::hard_link(partial, file) {
        Ok(()) => std::fs::remove_file(partial),
        Err(_) if !file.exists() => std::fs::rename(partial, file),
        Err(error) => Err(error),
    }
}

/// Where it is written first.
fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn sync_parent(file: &Path) -> std::io::Result<()> {
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn unwritable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Code::Failed,
        format!("cannot write {}: {error}", file.display()),
    )
}

/// With everything below it.
fn failure(error: &backup::Error) -> Failure {
    Failure::new(Code::Failed, node::partition::chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_written_beside_its_place() {
        assert_eq!(beside(Path::new("a/b.bak")), Path::new("a/b.bak.partial"));
    }

    #[test]
    fn what_is_no_backup_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("notes.txt");
        std::fs::write(&file, "not a backup at all").unwrap();
        let error = check(&file, None).err().unwrap();
        assert_eq!(error.code(), Code::Failed);
        assert!(
            error.to_string().contains("this is not a backup of Muster"),
            "{error}"
        );
    }
}
