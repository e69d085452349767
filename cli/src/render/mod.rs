//! From an answer of the API to text for people. Pure: no terminal, clock or network is asked here.

pub mod admin;
pub mod agent;
pub mod agents;
pub mod applied;
pub mod at;
pub mod audit;
pub mod backup;
pub mod beside;
pub mod cluster;
pub mod counts;
pub mod families;
pub mod family;
pub mod frame;
pub mod governance;
pub mod groups;
pub mod health;
pub mod names;
pub mod plans;
pub mod preview;
pub mod progress;
pub mod rollout;
pub mod sources;
pub mod table;
pub mod text;

use clap::builder::styling::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, Color};

use names::Names;

/// What the text is made for.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Colours may be used.
    pub colour: bool,
    /// More columns were asked for.
    pub wide: bool,
    /// Now, in ms since 1970: ages are counted from it.
    pub now_ms: u64,
    /// Names of the agents that the answer speaks of by uid.
    pub names: Names,
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Moving,
    Bad,
    Quiet,
    Title,
}

// === impl Look ===

impl Look {
    /// `text` in the colour of `tone`, where colours may be used.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Moving => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Quiet => Style::new().dimmed(),
            Tone::Title => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }

    /// A cell of a table in the colour of `tone`, where colours may be used.
    pub fn cell(&self, tone: Tone, text: &str) -> Cell {
        let cell = Cell::new(text);
        match tone {
            _ if !self.colour => cell,
            Tone::Good => cell.fg(Color::DarkGreen),
            Tone::Moving => cell.fg(Color::DarkYellow),
            Tone::Bad => cell.fg(Color::DarkRed),
            Tone::Quiet => cell.add_attribute(Attribute::Dim),
            Tone::Title => cell.add_attribute(Attribute::Bold),
        }
    }

    /// A state's word in its colour.
    pub fn state(&self, state: &str) -> String {
        let word = text::clean(state);
        tone_of(state).map_or(word.clone(), |tone| self.paint(tone, &word))
    }

    /// A state's word in its colour, in a table.
    pub fn state_cell(&self, state: &str) -> Cell {
        self.state_cell_with(state, "")
    }

    /// The same with words behind it.
    pub fn state_cell_with(&self, state: &str, more: &str) -> Cell {
        let words = format!("{}{more}", text::clean(state));
        tone_of(state).map_or(Cell::new(&words), |tone| self.cell(tone, &words))
    }

    /// How long ago a moment was: `3m`; `-` for never.
    pub fn age(&self, at_ms: u64) -> String {
        if at_ms == 0 {
            "-".to_owned()
        } else {
            text::age(self.now_ms.saturating_sub(at_ms))
        }
    }
}

fn tone_of(state: &str) -> Option<Tone> {
    match state {
        "converged" | "completed" | "active" | "passed" | "done" | "unchanged" => Some(Tone::Good),
        "failed" | "halted" | "rolled back" | "aborted" | "rejected" | "refused" => Some(Tone::Bad),
        "running" | "applying" | "soaking" | "in flight" | "pending pickup" | "paused"
        | "rolling back" | "awaiting approval" => Some(Tone::Moving),
        _ => None,
    }
}
