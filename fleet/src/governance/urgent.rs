//! Urgent changes: quick, in a freeze, and without approvals for who may break the glass. Gates stay.

use super::actor::{self, Act, Role};
use super::approval;
use crate::rollout::PlanSpec;

/// A start as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// Who.
    pub actor: &'a str,
    /// As what.
    pub role: Role,
    /// With which plan.
    pub plan: &'a PlanSpec,
    /// Skip approvals, for this reason.
    pub break_glass: Option<&'a str>,
    /// Do the approvals suffice?
    pub approved: Result<(), approval::Refused>,
}

/// What a start is, once it is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// In the ordinary way.
    Approved,
    /// Has to wait for approvals, which it says.
    Awaiting(approval::Refused),
    /// Without them: somebody has to review it afterwards.
    GlassBroken(Debt),
}

/// A review that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Who broke the glass.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What was missing.
    pub missing: String,
}

/// Why a start is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not allowed to.
    #[error(transparent)]
    Actor(#[from] actor::Refused),
    /// Breaking the glass is for urgent plans.
    #[error(
        "only an urgent plan starts without its approvals: use plan `urgent`, or ask for the approvals"
    )]
    NotUrgent,
    /// Nobody will know why.
    #[error(
        "starting without approvals needs a reason: say it with --break-glass REASON, it is reviewed afterwards"
    )]
    NoReason,
}

/// May this rollout start, and as what?
pub fn check(start: Start<'_>) -> Result<Allowed, Refused> {
    actor::check(start.actor, start.role, Act::MoveRollout)?;
    let Err(missing) = start.approved else {
        return Ok(Allowed::Approved);
    };
    let Some(reason) = start.break_glass else {
        return Ok(Allowed::Awaiting(missing));
    };
    actor::check(start.actor, start.role, Act::BreakGlass)?;
    if !start.plan.urgent {
        return Err(Refused::NotUrgent);
    }
    if reason.trim().is_empty() {
        return Err(Refused::NoReason);
    }
    Ok(Allowed::GlassBroken(Debt {
        actor: start.actor.to_owned(),
        reason: reason.to_owned(),
        missing: missing.to_string(),
    }))
}

impl Debt {
    /// Pays it: by somebody else than who made it.
    pub fn review(&self, by: &str, what: &str) -> Result<(), approval::Refused> {
        match self.actor == by {
            true => Err(approval::Refused::OwnWork {
                by: by.to_owned(),
                what: what.to_owned(),
            }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::{default_plan, urgent_plan};

    fn missing() -> approval::Refused {
        approval::Refused::Missing {
            what: "pii revision 7".into(),
            found: 0,
            needed: 1,
            void: 0,
        }
    }

    fn start(plan: &PlanSpec) -> Start<'_> {
        Start {
            actor: "anna",
            role: Role::Admin,
            plan,
            break_glass: Some("leaking card numbers"),
            approved: Err(missing()),
        }
    }

    #[test]
    fn breaking_the_glass_leaves_a_debt_that_another_person_pays() {
        let plan = urgent_plan();
        let Ok(Allowed::GlassBroken(debt)) = check(start(&plan)) else {
            panic!("an admin may");
        };
        assert_eq!(debt.reason, "leaking card numbers");
        assert!(debt.missing.contains("0 of 1 approvals"));
        assert_eq!(
            debt.review("anna", "rollout ro-1").unwrap_err().to_string(),
            "anna wrote rollout ro-1 and cannot approve it: ask somebody else"
        );
        assert_eq!(debt.review("bob", "rollout ro-1"), Ok(()));
    }

    #[test]
    fn the_glass_is_for_urgent_plans_admins_and_reasons() {
        let (urgent, careful) = (urgent_plan(), default_plan());
        let said = |start| check(start).unwrap_err().to_string();
        assert_eq!(
            said(start(&careful)),
            "only an urgent plan starts without its approvals: use plan `urgent`, or ask for the approvals"
        );
        let editor = Start {
            role: Role::Editor,
            ..start(&urgent)
        };
        assert_eq!(
            said(editor),
            "anna is editor and may not start a rollout without its approvals: ask an admin"
        );
        let mute = Start {
            break_glass: Some(""),
            ..start(&urgent)
        };
        assert_eq!(
            said(mute),
            "starting without approvals needs a reason: say it with --break-glass REASON, it is reviewed afterwards"
        );
    }

    #[test]
    fn without_it_a_start_waits_for_its_approvals() {
        let plan = default_plan();
        let waits = Start {
            break_glass: None,
            ..start(&plan)
        };
        assert_eq!(check(waits.clone()), Ok(Allowed::Awaiting(missing())));
        let approved = Start {
            approved: Ok(()),
            ..waits
        };
        assert_eq!(check(approved), Ok(Allowed::Approved));
    }
}
