//! Who may do what, and what stands in the way of a change that is allowed: approvals, freezes, pins, other rollouts.

pub mod actor;
pub mod approval;
pub mod freeze;
pub mod pin;
pub mod supersede;
pub mod urgent;
