//! Interleaved roles: which waves go before which, and whether that is enough.
//!
//! `interleave` is for gateways that are not shared, and only the waves can say what they are not shared across: a wave
//! with a zone or a selector is a part of the fleet that has gateways of its own, one without takes agents that may use
//! any gateway. So a wave may go only when everybody of the roles before it has gone that its own zone and selector take.

use super::{Role, Rollout, WaveSpec};

/// Why a rollout may not be interleaved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the plan interleaves roles, but wave {wave} of role {role} would go before {late} members of role {before} that share its part of the fleet: give the waves zones or selectors that take agents together with all their gateways, or leave `interleave` out"
)]
pub struct OutOfStep {
    /// Who would go too early.
    pub role: String,
    /// Number from 1.
    pub wave: u32,
    /// Who has to go first.
    pub before: String,
    /// So many of them would go later.
    pub late: u64,
}

impl Rollout {
    /// How many waves of `before` have to have passed when this wave of `role` begins, in an interleaved rollout. Waves
    /// are compared by their place in the plan, since each role leaves out those that take nobody of it.
    pub(super) fn waves_before(&self, role: &Role, wave: u32, before: &Role) -> usize {
        let latest = role.plan_wave(wave as usize);
        let goes_first = |at: &usize| before.earliest_plan_wave(*at) <= latest;
        (0..before.wave_ends.len()).take_while(goes_first).count()
    }

    /// Refuses an interleaved rollout in which somebody would go before those that have to go first where it is.
    ///
    /// `late(before, wave, spec)`: how many members of role `before` that change, in its waves from `wave` on, are taken by
    /// the zone and selector of `spec`? See [`crate::waves::takes`].
    ///
    /// # Errors
    ///
    /// The first wave that would go too early.
    pub fn check_in_step(
        &self,
        late: impl Fn(&Role, usize, &WaveSpec) -> u64,
    ) -> Result<(), OutOfStep> {
        let roles = self.roles.iter().filter(|_| self.plan.interleave);
        for role in roles {
            let waves = u32::try_from(role.wave_ends.len()).unwrap_or(u32::MAX);
            for (wave, before) in
                (0..waves).flat_map(|w| self.before(role).into_iter().map(move |b| (w, b)))
            {
                let from = self.waves_before(role, wave, before);
                if from == before.wave_ends.len() {
                    continue;
                }
                let late = late(before, from, &self.wave(role, wave));
                if late > 0 {
                    return Err(OutOfStep {
                        role: role.name.clone(),
                        wave: wave + 1,
                        before: before.name.clone(),
                        late,
                    });
                }
            }
        }
        Ok(())
    }
}

impl Role {
    /// Which wave of the plan this wave is.
    fn plan_wave(&self, wave: usize) -> usize {
        self.wave_specs.get(wave).map_or(wave, |at| *at as usize)
    }

    /// As [`Role::plan_wave`], for a role's last wave as early as it may be: that one counts as the plan's last, wherever
    /// the role's members ended.
    fn earliest_plan_wave(&self, wave: usize) -> usize {
        let is_last = wave + 1 == self.wave_ends.len();
        match wave.checked_sub(1).filter(|_| is_last) {
            Some(previous) => self.plan_wave(previous) + 1,
            None if is_last => 0,
            None => self.plan_wave(wave),
        }
    }
}
