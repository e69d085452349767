//! How long a leader's word holds. Fencing rests on these.

use std::time::Duration;

/// Time within which a granted offer may be written.
pub const GRANT_LIFE: Duration = Duration::from_secs(2);

/// A program confirmed with the control group may authorise offers for so long.
pub const LEASE: Duration = Duration::from_secs(3);

/// After so long no leader has a lease that it had before: the lease, and a tenth for clocks that run apart.
pub const LEASE_OVER: Duration = Duration::from_millis(3_300);

/// A new leader has so long to get its first lease.
pub const HOLD: Duration = Duration::from_secs(5);

/// A gateway that has lost an agent to another one has so long to say where the conversation stood.
pub const RECALL: Duration = Duration::from_secs(1);
