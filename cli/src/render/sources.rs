//! Sources: what each owns, and whether it may activate.

use proto::api;

use crate::render::Look;
use crate::render::table::table;
use crate::render::text::{clean, cut, or_dash, short};

/// Characters of a list of names in a column; -o wide cuts none.
const NAMES_WIDTH: usize = 50;

/// The table of `sources list`.
pub fn sources(answer: &api::ListSourcesResponse, look: &Look) -> String {
    if answer.sources.is_empty() {
        return "no sources; `muster apply -f DIR --source NAME` makes one\n".to_owned();
    }
    let names = |names: &[String]| match or_dash(&names.join(", ")) {
        all if look.wide => all,
        all => cut(&all, NAMES_WIDTH),
    };
    table(
        &[
            "NAME",
            "ACTIVATES",
            "FAMILIES",
            "PLANS",
            "COMMIT",
            "APPLIED",
            "BY",
        ],
        answer.sources.iter().map(|source| {
            vec![
                clean(&source.name),
                activates(source),
                names(&source.families),
                names(&source.plans),
                commit(source, look),
                look.age(source.applied_ms),
                or_dash(&source.applied_by),
            ]
        }),
    )
}

/// What a source may do, after it was set.
pub fn set(source: &api::Source) -> String {
    let name = clean(&source.name);
    match source.plan.as_str() {
        "" => format!("source {name} writes drafts; people start their rollouts\n"),
        plan => format!(
            "source {name} may activate what it writes, with plan {}\n",
            clean(plan)
        ),
    }
}

fn commit(source: &api::Source, look: &Look) -> String {
    if look.wide {
        or_dash(&source.commit)
    } else {
        short(&source.commit)
    }
}

fn activates(source: &api::Source) -> String {
    match source.plan.as_str() {
        "" => "drafts only".to_owned(),
        plan => format!("with plan {}", clean(plan)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_tells_what_it_owns_and_may_do() {
        let git = api::Source {
            name: "git".into(),
            plan: "careful".into(),
            families: vec!["pii".into(), "web".into()],
            commit: "0123456789abcdef".into(),
            applied_ms: 40_000,
            applied_by: "ci".into(),
            ..Default::default()
        };
        let drafts = api::Source {
            name: "lab".into(),
            ..Default::default()
        };
        assert_eq!(
            set(&git),
            "source git may activate what it writes, with plan careful\n"
        );
        assert_eq!(
            set(&drafts),
            "source lab writes drafts; people start their rollouts\n"
        );
        let look = Look {
            now_ms: 100_000,
            ..Default::default()
        };
        let text = sources(
            &api::ListSourcesResponse {
                sources: vec![git, drafts],
            },
            &look,
        );
        assert_eq!(
            text,
            "\
NAME   ACTIVATES           FAMILIES   PLANS   COMMIT         APPLIED   BY
git    with plan careful   pii, web   -       0123456789ab   1m        ci
lab    drafts only         -          -       -              -         -
"
        );
        let none = sources(&api::ListSourcesResponse::default(), &look);
        assert!(none.contains("--source NAME"), "{none}");
    }
}
