//! The health of a collector as a tree.

use proto::api;

use crate::render::text::clean;
use crate::render::{Look, Tone};

/// The tree of health, a line for each component, errors behind it.
pub fn tree(root: &api::Health, look: &Look) -> String {
    let mut text = node(
        "",
        if root.name.is_empty() {
            "collector"
        } else {
            &root.name
        },
        root,
        look,
    );
    branches(root, "", look, &mut text);
    text
}

fn branches(parent: &api::Health, prefix: &str, look: &Look, text: &mut String) {
    let last = parent.components.len().saturating_sub(1);
    for (index, child) in parent.components.iter().enumerate() {
        let (branch, below) = if index == last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        *text += &node(&format!("{prefix}{branch}"), &child.name, child, look);
        branches(child, &format!("{prefix}{below}"), look, text);
    }
}

fn node(prefix: &str, name: &str, health: &api::Health, look: &Look) -> String {
    let (tone, word) = if health.healthy {
        (Tone::Good, "ok")
    } else {
        (Tone::Bad, "unhealthy")
    };
    let status = if health.status.is_empty() || health.status == "StatusOK" {
        String::new()
    } else {
        format!(" {}", clean(&health.status))
    };
    let error = if health.last_error.is_empty() {
        String::new()
    } else {
        format!(": {}", clean(&health.last_error))
    };
    format!(
        "{prefix}{}  {}{status}{error}\n",
        clean(name),
        look.paint(tone, word)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(name: &str, healthy: bool, components: Vec<api::Health>) -> api::Health {
        api::Health {
            name: name.into(),
            healthy,
            components,
            ..Default::default()
        }
    }

    #[test]
    fn health_is_a_tree_with_the_error_at_its_component() {
        let exporter = api::Health {
            last_error: "refused".into(),
            status: "StatusRecoverableError".into(),
            ..health("exporter:otlp", false, vec![])
        };
        let root = health(
            "",
            false,
            vec![
                health("extensions", true, vec![]),
                health("pipeline:logs", false, vec![exporter]),
            ],
        );
        assert_eq!(
            tree(&root, &Look::default()),
            "\
collector  unhealthy
├─ extensions  ok
└─ pipeline:logs  unhealthy
   └─ exporter:otlp  unhealthy StatusRecoverableError: refused
"
        );
    }
}
