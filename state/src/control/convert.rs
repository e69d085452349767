//! Stored forms of the control group to domain types and back. Destructured, so that a new field is a compile error.

use fleet::budget::Budget;
use fleet::digest::Digest;
use fleet::family::{ConfigFile, ConfigMap, Role};
use fleet::governance::approval::Approval;
use fleet::governance::freeze::Freeze;
use fleet::governance::pin::Pin;
use fleet::program::{OwnerChange, PinTarget, ProgramPin, RevisionNumber, RollBack, Scope};
use fleet::rollout::{
    Check, CheckSpec, Clock, Direction, Gate, OnStop, PlanSpec, Role as RoleProgress, Rollout,
    State, WaveSpec, default_plan, rollback_plan, urgent_plan,
};
use fleet::selector::{Selector, Version};
use fleet::validate::{Policy, Rule};
use fleet::waves::{Size, WHOLE};
use fleet::{components, drift, versions};
use proto::store::{self, RolloutState};
use std::collections::BTreeMap;

/// What a family does by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What happens to agents that somebody else claims.
    pub owner_change: OwnerChange,
    /// What follows a drift.
    pub drift: drift::Policy,
    /// Which versions of collectors it allows.
    pub versions: versions::Policy,
    /// What follows from agents whose build lacks a component.
    pub missing: components::Policy,
}

/// Names of the plans that are always there and that nobody can change.
pub const BUILT_IN_PLANS: [&str; 3] = ["default", "urgent", "rollback"];

/// One of [`BUILT_IN_PLANS`].
pub fn built_in_plan(name: &str) -> Option<PlanSpec> {
    match name {
        "default" => Some(default_plan()),
        "urgent" => Some(urgent_plan()),
        "rollback" => Some(rollback_plan()),
        _ => None,
    }
}

/// Key of the fleet's budget.
pub const BUDGET_KEY: &str = "fleet";

/// Bytes that are a digest; zero digest for anything else, which matches nothing.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_slice(bytes).unwrap_or(Digest::from_bytes([0; 32]))
}

/// A stored config map.
pub fn config_map(stored: &BTreeMap<String, store::ConfigFile>) -> ConfigMap {
    let file = |f: &store::ConfigFile| ConfigFile {
        body: f.body.clone(),
        content_type: f.content_type.clone(),
    };
    stored
        .iter()
        .map(|(name, f)| (name.clone(), file(f)))
        .collect()
}

fn config_map_to_store(map: &ConfigMap) -> BTreeMap<String, store::ConfigFile> {
    let file = |f: &ConfigFile| store::ConfigFile {
        body: f.body.clone(),
        content_type: f.content_type.clone(),
    };
    map.iter()
        .map(|(name, f)| (name.clone(), file(f)))
        .collect()
}

/// A stored role; none when its selector is one of a newer version.
pub fn role(stored: &store::Role) -> Option<Role> {
    let store::Role {
        name,
        selector,
        after,
        config,
        baseline,
    } = stored;
    Some(Role {
        name: name.clone(),
        selector: Selector::parse(selector).ok()?,
        after: after.clone(),
        config: config_map(config),
        baseline: config_map(baseline),
    })
}

/// And back.
pub fn role_to_store(role: &Role) -> store::Role {
    let Role {
        name,
        selector,
        after,
        config,
        baseline,
    } = role;
    store::Role {
        name: name.clone(),
        selector: selector.to_string(),
        after: after.clone(),
        config: config_map_to_store(config),
        baseline: config_map_to_store(baseline),
    }
}

/// A stored rule; none when it is one of a newer version.
pub fn policy(stored: &store::Policy) -> Option<Policy> {
    let only = match stored.only.as_str() {
        "" => None,
        only => Some(Selector::parse(only).ok()?),
    };
    let rule = match stored.rule.clone()? {
        store::policy::Rule::Require(rule) => Rule::RequireProcessor {
            pipeline: rule.pipeline,
            processor: rule.processor,
        },
        store::policy::Rule::Forbid(rule) => Rule::ForbidComponent {
            kind: fleet::components::Kind::of_section(&format!("{}s", rule.kind))?,
            component: rule.component,
        },
    };
    Some(Policy { rule, only })
}

/// And back.
pub fn policy_to_store(policy: &Policy) -> store::Policy {
    let Policy { rule, only } = policy;
    let rule = match rule {
        Rule::RequireProcessor {
            pipeline,
            processor,
        } => store::policy::Rule::Require(store::RequireProcessor {
            pipeline: pipeline.clone(),
            processor: processor.clone(),
        }),
        Rule::ForbidComponent { kind, component } => {
            store::policy::Rule::Forbid(store::ForbidComponent {
                kind: kind.to_string(),
                component: component.clone(),
            })
        }
    };
    let only = only.as_ref().map(Selector::to_string);
    store::Policy {
        rule: Some(rule),
        only: only.unwrap_or_default(),
    }
}

/// A family's settings; those of a family that says nothing are the defaults.
pub fn settings(stored: Option<&store::FamilySettings>) -> Settings {
    let Some(store::FamilySettings {
        owner_change_auto,
        drift_re_offer,
        versions,
        missing_blocks,
    }) = stored
    else {
        return Settings::default();
    };
    Settings {
        owner_change: match owner_change_auto {
            true => OwnerChange::Auto,
            false => OwnerChange::Ask,
        },
        drift: match drift_re_offer {
            true => drift::Policy::ReOffer,
            false => drift::Policy::Report,
        },
        versions: versions.as_ref().map(version_policy).unwrap_or_default(),
        missing: match missing_blocks {
            true => components::Policy::Block,
            false => components::Policy::Exclude,
        },
    }
}

/// What a family does by itself now. Without a stable revision, before the first one or once it is deactivated, that is
/// what families do that say nothing.
pub fn settings_in_force(family: &store::Family) -> Settings {
    match family.stable {
        0 => Settings::default(),
        _ => settings(family.settings.as_ref()),
    }
}

/// What a revision says of it; what its family has, for one from before revisions had settings.
pub fn revision_settings(family: &store::Family, revision: &store::Revision) -> Settings {
    let own = revision.settings.as_ref();
    settings(own.or(family.settings.as_ref()))
}

/// And back; none for the defaults.
pub fn settings_to_store(settings: &Settings) -> Option<store::FamilySettings> {
    let Settings {
        owner_change,
        drift,
        versions,
        missing,
    } = settings;
    (*settings != Settings::default()).then(|| store::FamilySettings {
        owner_change_auto: *owner_change == OwnerChange::Auto,
        drift_re_offer: *drift == drift::Policy::ReOffer,
        versions: version_policy_to_store(versions),
        missing_blocks: *missing == components::Policy::Block,
    })
}

fn version_policy(stored: &store::VersionPolicy) -> versions::Policy {
    let store::VersionPolicy {
        from,
        below,
        behind_max,
        limits_behind,
    } = stored;
    versions::Policy {
        from: Version::parse(from),
        below: Version::parse(below),
        behind_max: limits_behind.then_some(u64::from(*behind_max)),
    }
}

fn version_policy_to_store(policy: &versions::Policy) -> Option<store::VersionPolicy> {
    let versions::Policy {
        from,
        below,
        behind_max,
    } = policy;
    let text = |version: &Option<Version>| version.as_ref().map(Version::to_string);
    (*policy != versions::Policy::default()).then(|| store::VersionPolicy {
        from: text(from).unwrap_or_default(),
        below: text(below).unwrap_or_default(),
        behind_max: u32::try_from(behind_max.unwrap_or(0)).unwrap_or(u32::MAX),
        limits_behind: behind_max.is_some(),
    })
}

/// The stored budget.
pub fn budget(stored: &store::Budget) -> Budget {
    let store::Budget {
        label,
        size: ordinary,
        urgent,
        source: _,
    } = stored;
    let default = Budget::default();
    Budget {
        label: label.clone(),
        size: size(ordinary.as_ref()).unwrap_or(default.size),
        urgent: size(urgent.as_ref()).unwrap_or(default.urgent),
    }
}

/// And back.
pub fn budget_to_store(budget: &Budget) -> store::Budget {
    let Budget {
        label,
        size,
        urgent,
    } = budget;
    store::Budget {
        label: label.clone(),
        size: Some(size_to_store(*size)),
        urgent: Some(size_to_store(*urgent)),
        source: String::new(),
    }
}

fn size(stored: Option<&store::Size>) -> Option<Size> {
    match stored?.size.as_ref()? {
        store::size::Size::Count(count) => Some(Size::Count(*count)),
        store::size::Size::PercentMilli(percent) => Some(Size::Percent(*percent)),
    }
}

fn size_to_store(size: Size) -> store::Size {
    let size = match size {
        Size::Count(count) => store::size::Size::Count(count),
        Size::Percent(percent) => store::size::Size::PercentMilli(percent),
    };
    store::Size { size: Some(size) }
}

/// A stored plan.
pub fn plan_spec(stored: &store::Plan) -> PlanSpec {
    let store::Plan {
        name: _,
        waves,
        on_stop,
        interleave,
        urgent,
        source: _,
    } = stored;
    let on_stop = match on_stop.as_str() {
        "hold" => OnStop::Hold,
        "roll-back-wave" => OnStop::RollBackWave,
        "roll-back-all" => OnStop::RollBackAll,
        _ => OnStop::Default,
    };
    PlanSpec {
        waves: waves.iter().map(wave).collect(),
        on_stop,
        interleave: *interleave,
        urgent: *urgent,
    }
}

fn check(stored: &store::Check) -> Option<CheckSpec> {
    let text = || stored.text.clone();
    let check = match stored.kind.as_str() {
        "converged" => Check::Converged,
        "healthy" => Check::Healthy,
        "no restart loop" => Check::NoRestartLoop,
        "flow" => Check::Flow,
        "resource regression" => Check::Resources,
        "promql" => Check::PromQl(text()),
        "webhook" => Check::Webhook(text()),
        "person" => Check::Person(text()),
        _ => return None,
    };
    Some(CheckSpec {
        check,
        observe: stored.observe,
    })
}

fn check_to_store(spec: &CheckSpec) -> store::Check {
    let text = match &spec.check {
        Check::PromQl(text) | Check::Webhook(text) | Check::Person(text) => text.clone(),
        _ => String::new(),
    };
    store::Check {
        kind: spec.check.name().to_owned(),
        text,
        observe: spec.observe,
    }
}

fn wave(stored: &store::Wave) -> WaveSpec {
    let store::Wave {
        size: stored_size,
        soak_ms,
        gate,
        max_in_flight,
        selector,
        zone,
        max_unreachable,
        unreachable_ms,
        deadline_ms,
    } = stored;
    let gate = gate.as_ref().map_or_else(Gate::default, |g| Gate {
        success: g.success_percent_milli,
        max_failures: size(g.max_failures.as_ref()),
        min_sample: g.min_sample.into(),
        checks: match g.checks.as_slice() {
            [] => Gate::default().checks,
            checks => checks.iter().filter_map(check).collect(),
        },
    });
    WaveSpec {
        size: size(stored_size.as_ref()).unwrap_or(Size::Percent(WHOLE)),
        // Parsed before it was stored; one of a newer version takes nobody by itself.
        selector: Selector::parse(selector)
            .ok()
            .filter(|_| !selector.is_empty()),
        zone: Some(zone.clone()).filter(|zone| !zone.is_empty()),
        soak_ms: *soak_ms,
        max_in_flight: *max_in_flight,
        max_unreachable: size(max_unreachable.as_ref()),
        unreachable_ms: *unreachable_ms,
        deadline_ms: Some(*deadline_ms).filter(|ms| *ms > 0),
        gate,
    }
}

/// And back, under a name.
pub fn plan_to_store(name: &str, plan: &PlanSpec) -> store::Plan {
    let PlanSpec {
        waves,
        on_stop,
        interleave,
        urgent,
    } = plan;
    let wave = |w: &WaveSpec| {
        let WaveSpec {
            size,
            selector,
            zone,
            soak_ms,
            max_in_flight,
            max_unreachable,
            unreachable_ms,
            deadline_ms,
            gate,
        } = w;
        let Gate {
            success,
            max_failures,
            min_sample,
            checks,
        } = gate;
        store::Wave {
            size: Some(size_to_store(*size)),
            selector: selector
                .as_ref()
                .map(Selector::to_string)
                .unwrap_or_default(),
            zone: zone.clone().unwrap_or_default(),
            soak_ms: *soak_ms,
            max_in_flight: *max_in_flight,
            max_unreachable: max_unreachable.map(size_to_store),
            unreachable_ms: *unreachable_ms,
            deadline_ms: deadline_ms.unwrap_or(0),
            gate: Some(store::Gate {
                success_percent_milli: *success,
                max_failures: max_failures.map(size_to_store),
                min_sample: u32::try_from(*min_sample).unwrap_or(u32::MAX),
                checks: checks.iter().map(check_to_store).collect(),
            }),
        }
    };
    let on_stop = match on_stop {
        OnStop::Default => "",
        OnStop::Hold => "hold",
        OnStop::RollBackWave => "roll-back-wave",
        OnStop::RollBackAll => "roll-back-all",
    };
    store::Plan {
        name: name.to_owned(),
        waves: waves.iter().map(wave).collect(),
        on_stop: on_stop.to_owned(),
        interleave: *interleave,
        urgent: *urgent,
        source: String::new(),
    }
}

/// State in the domain's words; a value of a newer version stands still.
pub fn rollout_state(stored: RolloutState) -> State {
    match stored {
        RolloutState::Planned => State::Planned,
        RolloutState::AwaitingApproval => State::AwaitingApproval,
        RolloutState::Running => State::Running,
        RolloutState::Paused | RolloutState::Unspecified => State::Paused,
        RolloutState::Halted => State::Halted,
        RolloutState::RollingBack => State::RollingBack,
        RolloutState::RolledBack => State::RolledBack,
        RolloutState::Completed => State::Completed,
        RolloutState::Aborted => State::Aborted,
        RolloutState::Superseded => State::Superseded,
    }
}

/// And back.
pub fn stored_rollout_state(state: State) -> RolloutState {
    match state {
        State::Planned => RolloutState::Planned,
        State::AwaitingApproval => RolloutState::AwaitingApproval,
        State::Running => RolloutState::Running,
        State::Paused => RolloutState::Paused,
        State::Halted => RolloutState::Halted,
        State::RollingBack => RolloutState::RollingBack,
        State::RolledBack => RolloutState::RolledBack,
        State::Completed => RolloutState::Completed,
        State::Aborted => RolloutState::Aborted,
        State::Superseded => RolloutState::Superseded,
    }
}

/// What a stored rollback covers.
pub fn scope(back: &store::RollBack) -> Scope {
    if back.all {
        Scope::All
    } else {
        Scope::Wave {
            role: back.role.clone(),
            wave: back.wave,
        }
    }
}

/// A stored rollout, for [`fleet::rollout::plan`].
pub fn rollout(stored: &store::Rollout, after: impl Fn(&str) -> Vec<String>) -> Rollout {
    let progress = |r: &store::RoleProgress| RoleProgress {
        name: r.role.clone(),
        after: after(&r.role),
        wave_ends: r.wave_ends.clone(),
        wave_specs: r.wave_specs.clone(),
        open_waves: r.open_waves,
        continue_at: r.continue_at,
        soaked_ms: r.soaked_ms,
        clock: Clock {
            open_ms: r.open_ms,
            quiet_ms: r.quiet_ms,
            outcomes: r.outcomes,
        },
        done: r.done,
        forgiven: r.forgiven.clone(),
    };
    let back = |b: &store::RollBack| RollBack {
        scope: scope(b),
        open_roles: b.open_roles.clone(),
    };
    Rollout {
        state: rollout_state(stored.state()),
        direction: match stored.back {
            false => Direction::Forward,
            true => Direction::Back,
        },
        plan: stored
            .plan
            .as_ref()
            .map_or_else(fleet::rollout::default_plan, plan_spec),
        roles: stored.roles.iter().map(progress).collect(),
        roll_back: stored.roll_back.as_ref().map(back),
        inconclusive_ms: stored.inconclusive_ms,
    }
}

/// A stored pin; none when it is one of a newer version.
pub fn pin(stored: &store::Pin) -> Option<Pin> {
    let store::Pin {
        name,
        family,
        uid,
        selector,
        revision,
        reason,
        owner,
        until_ms,
        created_by: _,
        created_ms: _,
        ended: _,
    } = stored;
    let target = match uid.as_slice() {
        [] => PinTarget::Selected(Selector::parse(selector).ok()?),
        uid => PinTarget::Agent(uid.try_into().ok()?),
    };
    Some(Pin {
        name: name.clone(),
        held: ProgramPin {
            family: family.clone(),
            target,
            revision: RevisionNumber(*revision),
        },
        reason: reason.clone(),
        owner: owner.clone(),
        until_ms: *until_ms,
    })
}

/// A stored freeze.
pub fn freeze(stored: &store::Freeze) -> Freeze {
    let store::Freeze {
        name,
        reason,
        from_ms,
        until_ms,
        families,
        created_by: _,
        created_ms: _,
    } = stored;
    Freeze {
        name: name.clone(),
        reason: reason.clone(),
        from_ms: *from_ms,
        until_ms: *until_ms,
        families: families.clone(),
    }
}

/// A stored approval.
pub fn approval(stored: &store::Approval) -> Approval {
    Approval {
        by: stored.by.clone(),
        revision: digest(&stored.revision),
        plan: digest(&stored.plan),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back_as_they_were_stored() {
        let all = Settings {
            owner_change: OwnerChange::Auto,
            drift: drift::Policy::ReOffer,
            versions: versions::Policy {
                from: Version::parse("0.150"),
                below: Version::parse("0.160.1-rc1"),
                behind_max: Some(0),
            },
            missing: components::Policy::Block,
        };
        assert_eq!(settings(settings_to_store(&all).as_ref()), all);
        assert_eq!(settings_to_store(&Settings::default()), None);
        assert_eq!(settings(None), Settings::default());
    }

    #[test]
    fn a_budget_comes_back_as_it_was_stored() {
        let counted = Budget {
            label: "cluster".to_owned(),
            size: Size::Count(3),
            urgent: Size::Percent(40_000),
        };
        assert_eq!(budget(&budget_to_store(&counted)), counted);
    }

    #[test]
    fn every_plan_that_is_built_in_has_its_name() {
        assert!(
            BUILT_IN_PLANS
                .iter()
                .all(|name| built_in_plan(name).is_some())
        );
        assert_eq!(built_in_plan("careful"), None);
    }
}
