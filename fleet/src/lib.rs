//! The domain of Muster, as functions of their arguments: no clock, no randomness, no I/O, no serialisation.
//!
//! Read in this order: who an agent is and how it is selected, what a family delivers, what follows for one agent,
//! how one offer lives, who may change what, how a rollout moves, how far the fleet is from what it should be, and how it
//! is all written down. `tests/scenarios` shows it at work.

pub mod digest;
pub mod duration;
pub mod selector;

pub mod census;
pub mod components;
pub mod consistency;
pub mod diff;
pub mod family;
pub mod merge;
pub mod redact;
pub mod validate;
pub mod value;

pub mod offer;
pub mod program;
pub mod restored;

pub mod governance;
pub mod revisions;
pub mod source;
pub mod versions;

pub mod bucket;
pub mod budget;
pub mod membership;
pub mod rollout;
pub mod waves;

pub mod compliance;
pub mod drift;

pub mod audit;
