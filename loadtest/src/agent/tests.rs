//! The supervisor's habits as claims, each against the core alone.

mod rig;

mod configs;
mod conversation;
mod receiving;
