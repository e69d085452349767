//! Plans.

use proto::api;

use crate::render::Look;
use crate::render::table::table;
use crate::render::text::{clean, or_dash, short};

/// The table of `plans list`. Hash and source have a column where they were asked for, or say something.
pub fn plans(answer: &api::ListPlansResponse, look: &Look) -> String {
    if answer.plans.is_empty() {
        return "no plans; rollouts go 1, 1 %, 10 %, 50 %, rest\n".to_owned();
    }
    let sources = look.wide || answer.plans.iter().any(|plan| !plan.source.is_empty());
    let mut headers = vec!["NAME", "WAVES", "ROLES", "ON STOP", "URGENT"];
    headers.extend(sources.then_some("SOURCE"));
    headers.extend(look.wide.then_some("HASH"));
    table(
        &headers,
        answer.plans.iter().map(|plan| {
            let waves: Vec<String> = plan.waves.iter().map(|wave| clean(wave)).collect();
            let mut row = vec![
                clean(&plan.name),
                or_dash(&waves.join(" → ")),
                roles(plan.interleave).to_owned(),
                or_dash(&plan.on_stop),
                if plan.urgent { "yes" } else { "-" }.to_owned(),
            ];
            row.extend(sources.then(|| or_dash(&plan.source)));
            row.extend(look.wide.then(|| short(&plan.hash)));
            row
        }),
    )
}

fn roles(interleave: bool) -> &'static str {
    if interleave {
        "wave by wave"
    } else {
        "one after the other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_tells_its_waves_and_what_follows_a_stop() {
        let careful = api::Plan {
            name: "careful".into(),
            waves: vec!["1 soak 2m".into(), "100 % soak 0s".into()],
            on_stop: "hold".into(),
            hash: "0123456789abcdef".into(),
            ..Default::default()
        };
        let urgent = api::Plan {
            name: "quick".into(),
            interleave: true,
            urgent: true,
            source: "git".into(),
            ..careful.clone()
        };
        let answer = api::ListPlansResponse {
            plans: vec![careful, urgent],
        };
        assert_eq!(
            plans(&answer, &Look::default()),
            "\
NAME      WAVES                       ROLES                 ON STOP   URGENT   SOURCE
careful   1 soak 2m → 100 % soak 0s   one after the other   hold      -        -
quick     1 soak 2m → 100 % soak 0s   wave by wave          hold      yes      git
"
        );
        let wide = Look {
            wide: true,
            ..Default::default()
        };
        assert!(plans(&answer, &wide).contains("0123456789ab"));
        let none = plans(&api::ListPlansResponse::default(), &wide);
        assert!(none.starts_with("no plans"), "{none}");
    }
}
