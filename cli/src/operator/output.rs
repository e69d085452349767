//! stdout is data, stderr is talk. Neither ever panics because its reader has left.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::exit::{Code, Failure};
use crate::render::Look;
use crate::render::names::Names;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    Table,
    /// The same with more columns
    Wide,
    /// The API's answer as JSON
    Json,
    /// The API's answer as YAML
    Yaml,
}

/// Prints answers in the format that was asked for.
#[derive(Clone, Copy)]
pub struct Output {
    format: Format,
}

// === impl Output ===

impl Output {
    /// Prints in this format.
    pub fn new(format: Format) -> Self {
        Output { format }
    }

    /// Whether a program, not a person, will read the data.
    pub fn for_programs(self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// How text on stdout is to look.
    pub fn look(self) -> Look {
        self.look_on(io::stdout().is_terminal())
    }

    /// How text on stderr is to look.
    pub fn look_of_talk(self) -> Look {
        self.look_on(io::stderr().is_terminal())
    }

    /// Prints `data` as it is, or the text made of it.
    pub fn show<T: Serialize>(
        self,
        data: &T,
        text: impl FnOnce(&T, &Look) -> String,
    ) -> Result<(), Failure> {
        self.show_named(data, Names::default(), text)
    }

    /// The same, where the text names agents.
    pub fn show_named<T: Serialize>(
        self,
        data: &T,
        names: Names,
        text: impl FnOnce(&T, &Look) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Table | Format::Wide => {
                let look = Look {
                    names,
                    ..self.look()
                };
                self.text(&text(data, &look))
            }
            Format::Json => {
                self.text(&serde_json::to_string_pretty(data).map_err(|e| unprintable(&e))?)
            }
            Format::Yaml => self.text(&serde_saphyr::to_string(data).map_err(|e| unprintable(&e))?),
        }
    }

    /// Prints `data` as one item of a stream: a line of JSON, or a YAML document.
    pub fn item<T: Serialize>(self, data: &T) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.text(&format!(
                "---\n{}",
                serde_saphyr::to_string(data).map_err(|e| unprintable(&e))?
            )),
            _ => self.text(&serde_json::to_string(data).map_err(|e| unprintable(&e))?),
        }
    }

    /// Prints text, with a line end if it lacks one. Empty text prints nothing.
    pub fn text(self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        if !text.is_empty() && !text.ends_with('\n') {
            stdout.write_all(b"\n")?;
        }
        Ok(stdout.flush()?)
    }

    fn look_on(self, terminal: bool) -> Look {
        Look {
            colour: colours_on(terminal),
            wide: self.format == Format::Wide,
            now_ms: now_ms(),
            names: Names::default(),
        }
    }
}

/// Whether colours may be used: on a terminal that has them, unless the person wants none (no-color.org).
pub fn colours_on(terminal: bool) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    terminal && !dumb && !unwanted
}

/// Says something to the person, on stderr.
pub fn talk(what: impl Display) {
    // Nobody is left to be told that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{what}");
}

/// Asks on the terminal, "no" being the default. Answers `None` where there is no terminal to ask on.
pub fn ask(question: &str) -> Option<bool> {
    if !can_ask() {
        return None;
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ")
        .and_then(|()| stderr.flush())
        .ok()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

/// Whether there is somebody to ask.
pub fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks unless `yes`; a "no", or nobody to ask, ends the command.
pub fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    match yes.then_some(true).or_else(|| ask(question)) {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::new(
            Code::Failed,
            "not confirmed, nothing was changed",
        )),
        None => Err(
            Failure::usage("this asks before it acts, and there is no terminal to ask on")
                .hint("give --yes to go on without being asked"),
        ),
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn unprintable(error: &dyn Display) -> Failure {
    Failure::new(Code::Failed, format!("cannot print the answer: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_gets_no_colours() {
        assert!(!colours_on(false));
    }
}
