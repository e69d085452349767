//! What the agents that there are make of a family as it is written: who matches two of its roles, and for which roles
//! the conditions of its policies count. Agents are seen one by one, so that a fleet need not be copied.

use std::collections::BTreeMap;

use crate::family::{Error, Role};
use crate::selector::Facts;
use crate::validate::Policy;

/// Agents named in a message; the number is told in full.
const EXAMPLES_MAX: usize = 5;

/// Agents of one combination of roles.
#[derive(Clone, Debug, Default)]
struct Overlap {
    agents: usize,
    examples: Vec<String>,
}

/// Roles and policies with what was seen of the fleet so far.
#[derive(Clone, Debug)]
pub struct Census<'a> {
    roles: &'a [Role],
    policies: &'a [Policy],
    overlaps: BTreeMap<Vec<usize>, Overlap>,
    /// Has the role any agents?
    peopled: Vec<bool>,
    /// By role and policy: the first agent of the role that the policy is about.
    met: BTreeMap<(usize, usize), String>,
}

/// A policy that counts for a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counting<'a> {
    /// Which.
    pub policy: &'a Policy,
    /// An agent that it counts for; none: for any that the role may get.
    pub agent: Option<&'a str>,
}

// === impl Census ===

impl<'a> Census<'a> {
    /// Of nobody yet.
    pub fn of(roles: &'a [Role], policies: &'a [Policy]) -> Self {
        Census {
            roles,
            policies,
            overlaps: BTreeMap::new(),
            peopled: vec![false; roles.len()],
            met: BTreeMap::new(),
        }
    }

    /// Is there a question that agents answer?
    pub fn asks(&self) -> bool {
        self.roles.len() > 1 || self.policies.iter().any(|policy| policy.only.is_some())
    }

    /// One more agent; its name is asked for only if a message needs it.
    pub fn see(&mut self, facts: &impl Facts, name: impl Fn() -> String) {
        let roles = self.roles.iter().enumerate();
        let matching: Vec<usize> = roles
            .filter(|(_, role)| role.selector.matches(facts))
            .map(|(i, _)| i)
            .collect();
        for role in &matching {
            self.peopled[*role] = true;
            for (i, policy) in self.policies.iter().enumerate() {
                if policy.only.as_ref().is_some_and(|only| only.matches(facts)) {
                    self.met.entry((*role, i)).or_insert_with(&name);
                }
            }
        }
        if matching.len() > 1 {
            let overlap = self.overlaps.entry(matching).or_default();
            overlap.agents += 1;
            if overlap.examples.len() < EXAMPLES_MAX {
                overlap.examples.push(name());
            }
        }
    }

    /// One mistake for each combination of roles that match the same agents.
    pub fn overlaps(&self, family: &str) -> Vec<Error> {
        let error = |(roles, overlap): (&Vec<usize>, &Overlap)| Error::Overlap {
            family: family.to_owned(),
            roles: roles.iter().map(|i| self.roles[*i].name.clone()).collect(),
            agents: overlap.agents,
            examples: overlap.examples.clone(),
        };
        self.overlaps.iter().map(error).collect()
    }

    /// The policies with a condition that count for this role: it has an agent that satisfies the condition, or has none
    /// at all and could only get such ones.
    pub fn conditional(&self, role: usize) -> impl Iterator<Item = Counting<'_>> {
        let policies = self.policies.iter().enumerate();
        policies.filter_map(move |(i, policy)| {
            let only = policy.only.as_ref()?;
            let agent = self.met.get(&(role, i)).map(String::as_str);
            let expected = || !self.peopled[role] && self.roles[role].selector.implies(only);
            (agent.is_some() || expected()).then_some(Counting { policy, agent })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::Kind;
    use crate::family::ConfigMap;
    use crate::selector::Selector;
    use crate::validate::Rule;

    type Agent = BTreeMap<String, String>;

    fn role(name: &str, selector: &str) -> Role {
        Role {
            name: name.into(),
            selector: Selector::parse(selector).unwrap(),
            after: vec![],
            config: ConfigMap::new(),
            baseline: ConfigMap::new(),
        }
    }

    fn agent(facts: &[(&str, &str)]) -> Agent {
        let own = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
        facts.iter().map(own).collect()
    }

    fn no_debug_in(only: Option<&str>) -> Policy {
        Policy {
            only: only.map(|text| Selector::parse(text).unwrap()),
            ..Rule::ForbidComponent {
                kind: Kind::Exporter,
                component: "debug".into(),
            }
            .always()
        }
    }

    fn counting(census: &Census<'_>, role: usize) -> Vec<(String, Option<String>)> {
        let text = |c: Counting<'_>| (c.policy.to_string(), c.agent.map(str::to_owned));
        census.conditional(role).map(text).collect()
    }

    #[test]
    fn roles_that_match_the_same_agents_are_refused_by_name() {
        let roles = [role("agent", "*"), role("gateway", "role = gateway")];
        let mut census = Census::of(&roles, &[]);
        assert!(census.asks());
        census.see(&agent(&[]), || unreachable!("nothing is wrong with it"));
        assert_eq!(census.overlaps("web"), []);
        let said = |census: &Census<'_>| census.overlaps("web")[0].to_string();
        census.see(&agent(&[("role", "gateway")]), || "h0".into());
        assert_eq!(
            said(&census),
            "roles agent and gateway of family `web` match the same agent h0: make their selectors exclude each other"
        );
        census.see(&agent(&[("role", "gateway")]), || "h1".into());
        assert!(said(&census).contains("the same agents h0, h1: "));
        for n in 2..7 {
            census.see(&agent(&[("role", "gateway")]), || format!("h{n}"));
        }
        assert!(said(&census).contains("the same 7 agents, e.g. h0, h1, h2, h3, h4: "));
        assert!(!Census::of(&roles[..1], &[no_debug_in(None)]).asks());
    }

    #[test]
    fn a_policy_with_a_condition_counts_for_roles_with_such_an_agent() {
        let roles = [role("agent", "role = agent"), role("gateway", "role = gw")];
        let policies = [no_debug_in(Some("env = prod")), no_debug_in(None)];
        let mut census = Census::of(&roles, &policies);
        census.see(&agent(&[("role", "agent"), ("env", "dev")]), || {
            unreachable!("nothing is about it")
        });
        assert_eq!(counting(&census, 0), []);
        census.see(&agent(&[("role", "agent"), ("env", "prod")]), || {
            "h1".into()
        });
        let policy = "no debug exporter where env = prod".to_owned();
        assert_eq!(counting(&census, 0), [(policy, Some("h1".into()))]);
        assert_eq!(counting(&census, 1), [], "who may come is not known");
    }

    #[test]
    fn a_policy_with_a_condition_counts_for_an_empty_role_that_could_only_get_such_agents() {
        let roles = [role("agent", "role = agent, env = prod")];
        let policies = [no_debug_in(Some("env in (prod, staging)"))];
        let census = Census::of(&roles, &policies);
        let policy = "no debug exporter where env in (prod, staging)".to_owned();
        assert_eq!(counting(&census, 0), [(policy, None)]);
    }
}
