//! Roles of operators and what each may do: one table.

use std::fmt;

/// What a token or person may do. Each includes the one before it, except that approving is its own: who edits does not
/// approve, and who approves does not edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Looks.
    Viewer,
    /// Writes drafts, starts and moves rollouts.
    Editor,
    /// Approves what others wrote.
    Approver,
    /// Everything, also tokens and breaking the glass.
    Admin,
}

/// Something that is done through the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// Any list, preview, audit or export.
    Read,
    /// Families, revisions, plans.
    Edit,
    /// Start, pause, resume, halt, roll back, supersede; pass a gate that asks a person.
    MoveRollout,
    /// Approve or reject a revision.
    Approve,
    /// Labels, retry, forget, resolve an owner.
    ManageAgents,
    /// Stop collectors: the only act that sends an empty config.
    StopCollectors,
    /// Pins.
    Pin,
    /// Freezes.
    Freeze,
    /// Start an urgent rollout without its approvals.
    BreakGlass,
    /// Tokens of agents and operators.
    ManageTokens,
    /// Nodes of the cluster, and what is kept where.
    ManageCluster,
}

/// Not allowed. Names who has asked, what, and who may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{actor} is {role} and may not {act}: ask {needed}")]
pub struct Refused {
    /// Who.
    pub actor: String,
    /// As what.
    pub role: Role,
    /// What.
    pub act: Act,
    /// Who may, in words.
    pub needed: String,
}

// === impl Role ===

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Editor, Role::Approver, Role::Admin];

    /// The word people write.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Editor => "editor",
            Role::Approver => "approver",
            Role::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The table. Halting and rolling back are [`Act::MoveRollout`]: an approver who sees something go wrong may stop
    /// it, too, so that nobody has to be found first.
    pub fn may(self, act: Act) -> bool {
        match self {
            Role::Viewer => act == Act::Read,
            Role::Editor => matches!(
                act,
                Act::Read | Act::Edit | Act::MoveRollout | Act::ManageAgents | Act::Pin
            ),
            Role::Approver => matches!(
                act,
                Act::Read | Act::Approve | Act::MoveRollout | Act::Freeze
            ),
            Role::Admin => true,
        }
    }
}

impl Act {
    /// What is not allowed, in words.
    pub fn words(self) -> &'static str {
        match self {
            Act::Read => "look",
            Act::Edit => "edit families and plans",
            Act::MoveRollout => "start or move rollouts",
            Act::Approve => "approve revisions",
            Act::ManageAgents => "change agents",
            Act::StopCollectors => "stop collectors",
            Act::Pin => "pin agents",
            Act::Freeze => "set a freeze",
            Act::BreakGlass => "start a rollout without its approvals",
            Act::ManageTokens => "manage tokens",
            Act::ManageCluster => "change the cluster",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// May this actor do that?
pub fn check(actor: &str, role: Role, act: Act) -> Result<(), Refused> {
    if role.may(act) {
        return Ok(());
    }
    let who = Role::ALL.into_iter().filter(|role| role.may(act));
    let needed = who.map(|role| format!("an {role}").replace("an viewer", "a viewer"));
    Err(Refused {
        actor: actor.to_owned(),
        role,
        act,
        needed: needed.collect::<Vec<_>>().join(" or "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_who_may_what() {
        let acts = [
            (Act::Read, "viewer editor approver admin"),
            (Act::Edit, "editor admin"),
            (Act::MoveRollout, "editor approver admin"),
            (Act::Approve, "approver admin"),
            (Act::ManageAgents, "editor admin"),
            (Act::StopCollectors, "admin"),
            (Act::Pin, "editor admin"),
            (Act::Freeze, "approver admin"),
            (Act::BreakGlass, "admin"),
            (Act::ManageTokens, "admin"),
            (Act::ManageCluster, "admin"),
        ];
        for (act, expected) in acts {
            let who: Vec<_> = Role::ALL.into_iter().filter(|role| role.may(act)).collect();
            let names: Vec<_> = who.into_iter().map(Role::name).collect();
            assert_eq!(names.join(" "), expected, "{act}");
        }
    }

    #[test]
    fn a_refusal_names_who_may() {
        let refused = check("ci-token", Role::Viewer, Act::Edit).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "ci-token is viewer and may not edit families and plans: ask an editor or an admin"
        );
        assert_eq!(check("anna", Role::Admin, Act::StopCollectors), Ok(()));
        assert_eq!(Role::parse("approver"), Some(Role::Approver));
        assert_eq!(Role::parse("root"), None);
    }
}
