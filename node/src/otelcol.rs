//! The collectors' own `validate`: does the build that agents run take a config?
//!
//! It starts no component, but it runs the factories of a build on what an editor wrote, as the server's user. So a
//! collector sees nothing of the server: its environment is empty, and whatever a config refers to (`${env:X}`,
//! `${file:/x}`) is replaced before it is written. References are of the hosts where the config will run, and a refusal
//! counts only if it does not depend on what stands in for them.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use fleet::family::ConfigMap;
use fleet::merge;
use fleet::redact::redact_text;
use fleet::value::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::Semaphore;

/// A collector that takes longer has not validated.
const PATIENCE: Duration = Duration::from_secs(20);

/// Collectors at once: each takes a core and some 100 MiB for seconds.
const RUNS_MAX: usize = 2;

/// Read of what a collector says, of each of its streams.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// Told of it: the answer to a call has to hold several.
const WORDS_BYTES_MAX: usize = 1_000;

/// References that are named where they stand in the way.
const NAMED_MAX: usize = 3;

/// Variables that stand in for a reference that is a whole value, and for one that is a part of a value.
const WHOLE: &str = "MUSTER_WHOLE";
const PART: &str = "MUSTER_PART";

/// Never set: a default behind it is what counts.
const UNSET: &str = "MUSTER_UNSET";

/// What [`WHOLE`] and [`PART`] say, in the first run and in the second: an address or text, and a number.
const STAND_INS: [(&str, &str); 2] = [("localhost:4317", "1"), ("1", "2")];

/// A collector to validate with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binary {
    /// As agents report it in `service.name`; none: any that has no binary of its own.
    pub distribution: Option<String>,
    /// Where it is.
    pub path: PathBuf,
}

/// Not `[DISTRIBUTION=]PATH`.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` names no collector: use PATH, or DISTRIBUTION=PATH as in otelcol-contrib=/usr/bin/otelcol-contrib"
)]
pub struct NotBinary(String);

/// What a collector says of a config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes it.
    Sound,
    /// It does not, in its words without secrets.
    Refused(String),
    /// It could not say, and why.
    NotValidated(String),
}

/// The collectors of this server.
pub struct Otelcol {
    binaries: Vec<Binary>,
    turns: Semaphore,
}

/// A config as files that only the server's user reads; they go with it.
struct Files {
    dir: TempDir,
    /// In the order in which a supervisor merges them.
    paths: Vec<PathBuf>,
    /// References for which something stands in.
    references: BTreeSet<String>,
}

// === impl Otelcol ===

impl Otelcol {
    /// With these binaries.
    pub fn new(binaries: Vec<Binary>) -> Self {
        Otelcol {
            binaries,
            turns: Semaphore::new(RUNS_MAX),
        }
    }

    /// How many configs are being tried now. More wait for their turn.
    pub fn under_way(&self) -> usize {
        RUNS_MAX.saturating_sub(self.turns.available_permits())
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.binaries.is_empty()
    }

    /// Which of them speak for these distributions: each one's own, else those without a name.
    pub fn of<'a>(&'a self, reported: &'a BTreeSet<String>) -> Vec<&'a Binary> {
        let mut of = Vec::new();
        let mut rest = reported.is_empty();
        for name in reported {
            let before = of.len();
            of.extend(self.named(Some(name)));
            rest |= of.len() == before;
        }
        if rest {
            of.extend(self.named(None));
        }
        of
    }

    fn named<'a>(&'a self, name: Option<&'a str>) -> impl Iterator<Item = &'a Binary> {
        let all = self.binaries.iter();
        all.filter(move |binary| binary.distribution.as_deref() == name)
    }

    /// Asks one of them about a config.
    pub async fn validate(&self, binary: &Binary, config: &ConfigMap) -> Verdict {
        // Before its files are written: a large apply has many.
        let _turn = self.turns.acquire().await;
        let files = match Files::write(config) {
            Ok(files) => files,
            Err(why) => {
                return Verdict::NotValidated(format!("its files cannot be written: {why}"));
            }
        };
        let [first, second] = STAND_INS;
        let words = match self.run(binary, &files, first).await {
            Verdict::Refused(words) if !files.references.is_empty() => words,
            verdict => return verdict,
        };
        match self.run(binary, &files, second).await {
            Verdict::Refused(again) if same(&words, &again) => Verdict::Refused(words),
            Verdict::Refused(_) => Verdict::NotValidated(format!(
                "{binary} refuses what stands in for {}: {words}",
                files.references()
            )),
            verdict => verdict,
        }
    }

    async fn run(&self, binary: &Binary, files: &Files, stand_in: (&str, &str)) -> Verdict {
        match tokio::time::timeout(PATIENCE, output(binary, files, stand_in)).await {
            Err(_) => Verdict::NotValidated(format!(
                "{binary} did not answer within {} s",
                PATIENCE.as_secs()
            )),
            Ok(Err(why)) => Verdict::NotValidated(format!("{binary} does not start: {why}")),
            Ok(Ok((Some(0), _))) => Verdict::Sound,
            Ok(Ok((Some(_), words))) => Verdict::Refused(told(&words, files.dir.path())),
            Ok(Ok((None, _))) => Verdict::NotValidated(format!("{binary} was killed")),
        }
    }
}

/// Its exit code, none if a signal ended it, and what it said.
async fn output(
    binary: &Binary,
    files: &Files,
    (whole, part): (&str, &str),
) -> std::io::Result<(Option<i32>, String)> {
    let mut command = Command::new(&binary.path);
    command.arg("validate");
    for path in &files.paths {
        command.arg("--config").arg(path);
    }
    let kept = ["PATH", "HOME"].map(|name| (name, std::env::var_os(name)));
    let kept = kept
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let mut child = command
        .env_clear()
        .envs(kept)
        .env(WHOLE, whole)
        .env(PART, part)
        .current_dir(files.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err, status) = tokio::join!(said(out), said(err), child.wait());
    let words = if err.trim().is_empty() { out } else { err };
    Ok((status?.code(), words))
}

/// The beginning of a stream, which is read to its end so that who writes is not held up.
async fn said(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut kept = Vec::new();
    let _cut_short = (&mut stream)
        .take(OUTPUT_BYTES_MAX)
        .read_to_end(&mut kept)
        .await;
    let _cut_short = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

/// For people: without secrets and paths of this host. The end is kept, where a collector says why it gives up.
fn told(words: &str, dir: &Path) -> String {
    let words = words.replace(&format!("{}/", dir.display()), "");
    let words = redact_text(words.trim());
    match words.len().checked_sub(WORDS_BYTES_MAX) {
        None | Some(0) => words,
        Some(over) => format!("…{}", &words[words.ceil_char_boundary(over)..]),
    }
}

/// Do two runs say the same, but for the time?
fn same(one: &str, other: &str) -> bool {
    let is_time = |word: &&str| {
        let of_time = |c: char| c.is_ascii_digit() || "/:.,-+TZ".contains(c);
        word.len() >= 8
            && word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(of_time)
    };
    let words = |text| str::split_whitespace(text).filter(|word| !is_time(word));
    words(one).eq(words(other))
}

// === impl Files ===

impl Files {
    fn write(config: &ConfigMap) -> std::io::Result<Files> {
        let dir = tempfile::Builder::new()
            .prefix("muster-validate-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()?;
        let mut files = Files {
            dir,
            paths: Vec::new(),
            references: BTreeSet::new(),
        };
        for (i, name) in merge::order(config.keys().map(String::as_str))
            .into_iter()
            .enumerate()
        {
            // Written anew, never as the author wrote it: a tag or an escape could hide a reference.
            let value = proto::yaml::parse(&config[name].body)
                .map_err(|error| std::io::Error::other(error.to_string()))?;
            let value = without_references(&value, &mut files.references);
            let path = files.dir.path().join(format!("{i:02}.yaml"));
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(proto::yaml::to_yaml(&value).as_bytes())?;
            files.paths.push(path);
        }
        Ok(files)
    }

    fn references(&self) -> String {
        let mut named: Vec<String> = self
            .references
            .iter()
            .take(NAMED_MAX)
            .map(|name| format!("${{{name}}}"))
            .collect();
        if self.references.len() > NAMED_MAX {
            named.push("others".to_owned());
        }
        named.join(", ")
    }
}

fn without_references(value: &Value, references: &mut BTreeSet<String>) -> Value {
    match value {
        Value::String(text) if text.contains('$') => Value::String(stand_in(text, references)),
        Value::List(list) => {
            let list = list.iter();
            Value::List(list.map(|v| without_references(v, references)).collect())
        }
        Value::Map(map) => {
            let map = map.iter();
            let map = map.map(|(k, v)| (k.replace('$', "S"), without_references(v, references)));
            Value::Map(map.collect())
        }
        other => other.clone(),
    }
}

/// The text with our own variables for its references. Any other dollar becomes a letter, so that no version of a
/// collector finds a reference that this does not.
fn stand_in(text: &str, references: &mut BTreeSet<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let escaped = after.starts_with('$');
        let reference = after.strip_prefix('{').and_then(closed);
        match reference {
            Some(inner) => {
                let is_whole = at == 0 && out.is_empty() && after.len() == inner.len() + 2;
                out.push_str(&variable(inner, is_whole, references));
                rest = &after[inner.len() + 2..];
            }
            None => {
                out.push('S');
                rest = &after[usize::from(escaped)..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Up to the brace that closes what is open.
fn closed(text: &str) -> Option<&str> {
    let mut depth = 1;
    let end = text.char_indices().find(|(_, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    end.map(|(at, _)| &text[..at])
}

fn variable(inner: &str, is_whole: bool, references: &mut BTreeSet<String>) -> String {
    if let Some((_, default)) = inner.split_once(":-")
        && !default.contains(['$', '{', '}'])
    {
        return format!("${{env:{UNSET}:-{default}}}");
    }
    references.insert(inner.to_owned());
    let name = if is_whole { WHOLE } else { PART };
    format!("${{env:{name}}}")
}

// === impl Binary ===

impl FromStr for Binary {
    type Err = NotBinary;

    /// What stands before a `=` is a distribution, unless it has a slash.
    fn from_str(text: &str) -> Result<Self, NotBinary> {
        let (distribution, path) = match text.split_once('=') {
            Some((name, path)) if !name.contains('/') => (Some(name.to_owned()), path),
            _ => (None, text),
        };
        // It runs in another directory.
        let path = std::path::absolute(path).map_err(|_| NotBinary(text.to_owned()))?;
        if distribution.as_deref() == Some("") {
            return Err(NotBinary(text.to_owned()));
        }
        Ok(Binary { distribution, path })
    }
}

impl std::fmt::Display for Binary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use fleet::family::ConfigFile;

    use super::*;

    fn config(bodies: &[(&str, &str)]) -> ConfigMap {
        let file = |body: &str| ConfigFile {
            body: body.to_owned(),
            content_type: "text/yaml".to_owned(),
        };
        let bodies = bodies.iter();
        bodies
            .map(|(name, body)| ((*name).to_owned(), file(body)))
            .collect()
    }

    /// An executable that does this with `validate --config FILE…`.
    fn script(dir: &Path, name: &str, body: &str) -> Binary {
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        Binary {
            distribution: None,
            path,
        }
    }

    #[test]
    fn a_binary_may_name_its_distribution() {
        let binary = |text: &str| text.parse::<Binary>();
        let named = binary("otelcol-contrib=/usr/bin/otelcol-contrib").unwrap();
        assert_eq!(named.distribution.as_deref(), Some("otelcol-contrib"));
        assert_eq!(named.path, Path::new("/usr/bin/otelcol-contrib"));
        let plain = binary("/opt/a=b/otelcol").unwrap();
        assert_eq!(
            (plain.distribution, plain.path),
            (None, PathBuf::from("/opt/a=b/otelcol"))
        );
        assert!(binary("").is_err() && binary("=/x").is_err() && binary("a=").is_err());
    }

    #[test]
    fn each_distribution_has_its_own_binary_or_the_one_without_a_name() {
        let binaries = ["a=/a", "a=/a2", "b=/b", "/rest"];
        let otelcol = Otelcol::new(binaries.iter().map(|b| b.parse().unwrap()).collect());
        let of = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let of = otelcol.of(&names).into_iter();
            of.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&["a"]), ["/a", "/a2"]);
        assert_eq!(of(&["a", "b"]), ["/a", "/a2", "/b"]);
        assert_eq!(of(&["b", "c"]), ["/b", "/rest"]);
        assert_eq!(of(&[]), ["/rest"]);
    }

    #[test]
    fn nothing_of_this_host_is_left_to_be_read() {
        let mut references = BTreeSet::new();
        let mut text = |text: &str| stand_in(text, &mut references);
        assert_eq!(text("${env:KEY}"), "${env:MUSTER_WHOLE}");
        assert_eq!(
            text("https://${env:HOST}:${PORT}/x"),
            "https://${env:MUSTER_PART}:${env:MUSTER_PART}/x"
        );
        assert_eq!(text("${env:A:-5s}"), "${env:MUSTER_UNSET:-5s}");
        assert_eq!(text("${file:/etc/passwd}"), "${env:MUSTER_WHOLE}");
        assert_eq!(text("${env:${file:/x}}"), "${env:MUSTER_WHOLE}");
        assert_eq!(text("${env:A:-${file:/x}}"), "${env:MUSTER_WHOLE}");
        assert_eq!(text("$${file:/x}"), "S{file:/x}");
        assert_eq!(text("$$${file:/x}"), "S${env:MUSTER_PART}");
        assert_eq!(text("^a$"), "^aS");
        assert_eq!(text("${open"), "S{open");
        assert!(references.contains("file:/etc/passwd") && !references.contains("env:A:-5s"));
    }

    #[test]
    fn an_escape_hides_no_reference() {
        let hidden = config(&[("a", "x: \"\\x24{file:/etc/passwd}\"\n")]);
        let files = Files::write(&hidden).unwrap();
        let written = std::fs::read_to_string(&files.paths[0]).unwrap();
        assert!(
            written.contains(WHOLE) && !written.contains("passwd"),
            "{written}"
        );
        let mode = std::fs::metadata(&files.paths[0]).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let mode = std::fs::metadata(files.dir.path()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
    }

    #[test]
    fn only_the_time_may_differ_between_two_runs() {
        assert!(same(
            "2026/01/02 15:04:05 bad: x",
            "2026/01/02 15:04:06 bad: x"
        ));
        assert!(!same(
            "invalid duration \"localhost:4317\"",
            "invalid duration \"1\""
        ));
        assert!(!same("port 1", "port 2"));
    }

    /// One test, so that no script is written while another one is started.
    #[tokio::test]
    async fn a_collector_takes_a_config_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let sound = script(dir.path(), "sound", "exit 0");
        let order = script(
            dir.path(),
            "order",
            "shift; while [ $# -gt 0 ]; do cat \"$2\" >&2; shift 2; done; exit 1",
        );
        let refuses = script(
            dir.path(),
            "refuses",
            "echo \"Error: $3: unknown type, password=hunter2hunter2\" >&2; exit 1",
        );
        let values = script(
            dir.path(),
            "values",
            "echo \"bad $MUSTER_WHOLE\" >&2; exit 1",
        );
        let number = script(
            dir.path(),
            "number",
            "[ \"$MUSTER_WHOLE\" = 1 ] && exit 0; echo 'no number' >&2; exit 1",
        );
        let bare = script(dir.path(), "bare", "env | cut -d= -f1 >&2; exit 1");
        let loud = script(
            dir.path(),
            "loud",
            "head -c 1000000 /dev/zero | tr '\\0' x; exit 1",
        );
        let otelcol = Otelcol::new(vec![]);
        let plain = config(&[("", "c: 3\n"), ("b", "b: 2\n"), ("a", "a: 1\n")]);
        let with = config(&[("a", "a: ${env:KEY}\n")]);
        let words = async |binary: &Binary, config: &ConfigMap| match otelcol
            .validate(binary, config)
            .await
        {
            Verdict::Refused(words) => words,
            other => panic!("{binary}: {other:?}"),
        };

        assert_eq!(otelcol.validate(&sound, &plain).await, Verdict::Sound);
        assert_eq!(words(&order, &plain).await, "a: 1\nb: 2\nc: 3");
        let refused = words(&refuses, &plain).await;
        assert!(
            refused.starts_with("Error: 00.yaml: unknown type"),
            "{refused}"
        );
        assert!(!refused.contains("hunter2"), "{refused}");
        assert_eq!(words(&refuses, &with).await, refused);
        let bare = words(&bare, &plain).await;
        let known = ["PATH", "HOME", "PWD", "OLDPWD", "SHLVL", "_", WHOLE, PART];
        assert!(bare.lines().all(|name| known.contains(&name)), "{bare}");
        assert!(words(&loud, &plain).await.len() <= WORDS_BYTES_MAX + 4);

        assert_eq!(otelcol.validate(&number, &with).await, Verdict::Sound);
        let Verdict::NotValidated(why) = otelcol.validate(&values, &with).await else {
            panic!("what stands in is nobody's mistake");
        };
        assert!(
            why.contains("refuses what stands in for ${env:KEY}: bad localhost:4317"),
            "{why}"
        );
        let nowhere = "/nowhere/otelcol".parse().unwrap();
        let Verdict::NotValidated(why) = otelcol.validate(&nowhere, &plain).await else {
            panic!("what does not start refuses nothing");
        };
        assert!(why.starts_with("/nowhere/otelcol does not start"), "{why}");
    }
}
