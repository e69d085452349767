//! What a partition leader decides about its agents. Its shell is in `node`: turns, proposals, leases and streams.
//!
//! [`evaluate`](evaluate::evaluate) says what one report means, [`presence`] who was heard when, [`due`] whom something
//! waits for, [`room`] and [`occupancy`] how many more offers may be made, [`stand`] where a rollout's members are.

pub mod body;
pub mod config;
pub mod conversation;
pub mod counting;
#[cfg(test)]
mod drawn;
pub mod due;
pub mod evaluate;
pub mod listing;
pub mod liveness;
pub mod merge;
pub mod occupancy;
pub mod place;
pub mod presence;
pub mod quotas;
pub mod room;
pub mod stand;
pub mod timing;
pub mod withdraw;

use std::time::Duration;

pub use config::{delivered_config, desired_config, merged_config};
pub use due::{desired_of, is_due, next_for, state_of};
pub use evaluate::{SERVER_CAPABILITIES, history_key};
pub use liveness::is_quiet;
pub use place::{is_unchanged, place_of, places_of};
pub use stand::{doubt_text, excluded_text};

use due::subject_of;

/// Milliseconds of a duration.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
