//! Manifests from files: which ones, and the config files they name.
//!
//! A manifest is sent as it was written. It may name files of its own directory and below only, links followed.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use proto::api::Manifest;
use serde_json::Value;

use crate::exit::Failure;
use crate::render::text::clean_lines;

/// Largest file that is read; configs of collectors are a hundredth of it.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Keys under which a manifest names a file.
const REFERENCES: [&str; 2] = ["configFile", "baselineFile"];

/// Reads every manifest that the paths stand for, in order; `-` is stdin.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            manifests.push(manifest(
                "<stdin>",
                read_limited(std::io::stdin().lock(), "<stdin>")?,
                Path::new("."),
            )?);
        } else if path.is_dir() {
            for file in files_of(path)? {
                manifests.push(read_one(&file)?);
            }
        } else {
            manifests.push(read_one(path)?);
        }
    }
    Ok(manifests)
}

fn read_one(path: &Path) -> Result<Manifest, Failure> {
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    manifest(&path.display().to_string(), read_file(path)?, directory)
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fail = |error| Failure::usage(format!("cannot list {}: {error}", directory.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    // A config beside its manifest is no manifest.
    let mut named = Vec::new();
    for file in &files {
        named.extend(
            references(&file.display().to_string(), &read_file(file)?)?
                .into_iter()
                .map(|name| directory.join(name)),
        );
    }
    files.retain(|file| !named.iter().any(|name| same(name, file)));
    if files.is_empty() {
        return Err(Failure::usage(format!(
            "{} has no *.yaml or *.yml manifests",
            directory.display()
        )));
    }
    Ok(files)
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn manifest(path: &str, yaml: String, directory: &Path) -> Result<Manifest, Failure> {
    let mut files = BTreeMap::new();
    for name in references(path, &yaml)? {
        let file = inside(path, directory, &name)?;
        files.insert(name, read_file(&file)?);
    }
    Ok(Manifest {
        path: path.to_owned(),
        yaml,
        files,
    })
}

/// The file a manifest names, if it lies in the manifest's directory.
fn inside(manifest: &str, directory: &Path, name: &str) -> Result<PathBuf, Failure> {
    let outside = || {
        Failure::usage(format!(
            "{manifest} names `{name}`, which is outside of the manifest's directory"
        ))
        .hint("move the file beside the manifest, or below it, and name it by a relative path")
    };
    let plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if name.is_empty() || !Path::new(name).components().all(plain) {
        return Err(outside());
    }
    let missing = |error| {
        Failure::usage(format!(
            "{manifest} names `{name}`, which cannot be read: {error}"
        ))
    };
    let file = directory.join(name).canonicalize().map_err(missing)?;
    let root = directory.canonicalize().map_err(missing)?;
    if file.starts_with(root) {
        Ok(file)
    } else {
        Err(outside())
    }
}

fn references(path: &str, yaml: &str) -> Result<Vec<String>, Failure> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| not_yaml(path, &error.to_string()))?;
    let mut names = Vec::new();
    // A collector config may hold such a key with another meaning; only manifests name files.
    for document in documents
        .iter()
        .filter(|document| document.get("kind").is_some())
    {
        collect(document, &mut names);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// The parser's words: what and where in the first line, a picture of the place below.
fn not_yaml(path: &str, error: &str) -> Failure {
    let error = clean_lines(error);
    let mut lines = error.lines().map(str::trim_end);
    let what = lines.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let failure = Failure::usage(format!("{path} is not YAML: {what}"));
    let picture: Vec<&str> = lines.filter(|line| !line.contains("-->")).collect();
    if picture.is_empty() {
        failure
    } else {
        failure.hint(picture.join("\n"))
    }
}

fn collect(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(name) if REFERENCES.contains(&key.as_str()) => {
                        names.push(name.clone())
                    }
                    // An inline body is the collector's, whatever its keys.
                    _ if key == "config" || key == "baseline" => {}
                    _ => collect(value, names),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, names)),
        _ => {}
    }
}

fn read_file(path: &Path) -> Result<String, Failure> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::usage(format!("cannot read {name}: {error}")))?;
    read_limited(file, &name)
}

fn read_limited(reader: impl Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = reader.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    match read {
        // A cut in the middle of a character is no fault of the file.
        _ if text.len() as u64 > FILE_BYTES_MAX => Err(too_large(name)),
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::usage(format!("cannot read {name}: {error}"))),
    }
}

fn too_large(name: &str) -> Failure {
    Failure::usage(format!(
        "{name} is larger than {} MiB",
        FILE_BYTES_MAX >> 20
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, body) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, body).unwrap();
        }
        directory
    }

    fn family(name: &str) -> String {
        format!(
            "kind: Plan\n---\nkind: Family\nspec: {{roles: [{{name: agent, configFile: {name}}}]}}\n"
        )
    }

    #[test]
    fn config_file_is_sent_under_the_path_as_written() {
        let directory = directory(&[
            ("f.yaml", &family("./sub/agent.yaml")),
            ("sub/agent.yaml", "receivers: {}"),
        ]);
        let manifests = read_all(&[directory.path().join("f.yaml")]).unwrap();
        assert_eq!(
            manifests[0].files,
            BTreeMap::from([("./sub/agent.yaml".into(), "receivers: {}".into())])
        );
        assert_eq!(manifests[0].yaml, family("./sub/agent.yaml"));
    }

    #[test]
    fn file_outside_of_the_manifests_directory_is_refused_by_name() {
        for name in ["../secret.yaml", "sub/../../secret.yaml", "/etc/passwd"] {
            let directory = directory(&[
                ("d/f.yaml", &family(name)),
                ("secret.yaml", ""),
                ("d/sub/x", ""),
            ]);
            let failure = read_all(&[directory.path().join("d")]).unwrap_err();
            assert_eq!(failure.code(), Code::Usage);
            assert!(
                failure
                    .to_string()
                    .contains(&format!("`{name}`, which is outside")),
                "{failure}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn link_that_leads_outside_is_refused() {
        let directory = directory(&[("d/f.yaml", &family("link.yaml")), ("secret.yaml", "")]);
        std::os::unix::fs::symlink("../secret.yaml", directory.path().join("d/link.yaml")).unwrap();
        let failure = read_all(&[directory.path().join("d/f.yaml")]).unwrap_err();
        assert!(failure.to_string().contains("outside"), "{failure}");
    }

    #[test]
    fn directory_stands_for_its_manifests_sorted_without_hidden_ones_and_configs() {
        let directory = directory(&[
            ("b.yml", "kind: Plan"),
            ("a.yaml", &family("agent.yaml")),
            ("agent.yaml", "receivers: {}"),
            (".hidden.yaml", "kind: Plan"),
            ("sub/c.yaml", "kind: Plan"),
            ("notes.txt", ""),
        ]);
        let manifests = read_all(&[directory.path().to_owned()]).unwrap();
        let names: Vec<&str> = manifests
            .iter()
            .map(|m| m.path.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(names, ["a.yaml", "b.yml"]);
    }

    #[test]
    fn missing_file_and_broken_yaml_are_named() {
        let directory = directory(&[("f.yaml", &family("none.yaml")), ("g.yaml", "a: [")]);
        let missing = read_all(&[directory.path().join("f.yaml")]).unwrap_err();
        assert!(missing.to_string().contains("`none.yaml`"), "{missing}");
        let broken = read_all(&[directory.path().join("g.yaml")]).unwrap_err();
        assert!(
            broken.to_string().contains("g.yaml is not YAML: line 1"),
            "{broken}"
        );
    }

    #[test]
    fn file_over_the_limit_is_refused() {
        let directory = directory(&[("f.yaml", &"#".repeat((4 << 20) + 1))]);
        let failure = read_all(&[directory.path().join("f.yaml")]).unwrap_err();
        assert!(
            failure.to_string().contains("larger than 4 MiB"),
            "{failure}"
        );
    }

    #[test]
    fn inline_config_names_no_files() {
        let yaml =
            "kind: Family\nspec: {roles: [{name: a, config: {x: {configFile: /etc/shadow}}}]}";
        assert!(references("f", yaml).unwrap().is_empty());
    }
}
