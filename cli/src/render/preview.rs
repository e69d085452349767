//! A preview: who would get what, in which order, and who would not.

use proto::api;

use crate::render::applied::findings;
use crate::render::families::unified;
use crate::render::text::{clean, head, indent, plural, shell_word, short, thousands};
use crate::render::{Look, Tone};

/// Lines of one diff, unless all are asked for.
const DIFF_LINES: usize = 40;
/// Lines of a list of agents, unless all are asked for.
const LIST_LINES: usize = 10;

/// `muster preview`, and what `rollout start` shows before it asks. `full` cuts nothing.
pub fn preview(preview: &api::PreviewResponse, full: bool, look: &Look) -> String {
    let mut text = title(preview, look);
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            text += &format!("\n{}\n{}", look.paint(Tone::Title, title), indent(&body, 2));
        }
    };
    let lines = |lines: usize| if full { usize::MAX } else { lines };
    let several = |items: &[String]| {
        head(
            &items
                .iter()
                .map(|i| format!("{}\n", clean(i)))
                .collect::<String>(),
            lines(LIST_LINES),
        )
    };
    let each = |items: &[String]| items.iter().map(|i| format!("{}\n", clean(i))).collect();
    section("Needs", each(&preview.needs));
    section("Findings", findings(&preview.findings, look));
    section("Agents that match two roles", several(&preview.conflicts));
    section("Taken from other families", several(&preview.takeovers));
    section(
        "Order",
        preview
            .roles
            .iter()
            .enumerate()
            .map(|(index, r)| role(index + 1, r, look))
            .collect(),
    );
    section("Schedule", each(&preview.schedule));
    section(
        "Changes",
        preview
            .groups
            .iter()
            .map(|group| diff_group(group, lines(DIFF_LINES), look))
            .collect(),
    );
    let left_out = preview.left_out.iter();
    section(
        "Left out",
        left_out
            .map(|l| {
                format!(
                    "{}: {}{}\n",
                    plural(l.agents, "agent"),
                    clean(&l.why),
                    look.names.such_as(&l.examples)
                )
            })
            .collect(),
    );
    text
}

/// The agents that a preview names as examples.
pub fn examples(preview: &api::PreviewResponse) -> impl Iterator<Item = &str> {
    let waves = preview.roles.iter().flat_map(|role| &role.waves);
    let waves = waves.flat_map(|wave| &wave.examples);
    let groups = preview.groups.iter().flat_map(|group| &group.examples);
    let left_out = preview.left_out.iter().flat_map(|left| &left.examples);
    waves.chain(groups).chain(left_out).map(String::as_str)
}

/// Whether starting needs `--reach`.
pub fn needs_reach(preview: &api::PreviewResponse) -> bool {
    preview.members > preview.reach_limit || !preview.takeovers.is_empty()
}

/// The command that activates exactly what the preview shows, as `start` asks for it otherwise.
pub fn start_command(preview: &api::PreviewResponse, start: &api::StartRolloutRequest) -> String {
    let (family, revision, id) = (clean(&preview.family), preview.revision, clean(&preview.id));
    let mut command = match start.back {
        true => format!("muster rollout back {family} {revision}"),
        false => format!("muster rollout start {family} --revision {revision}"),
    };
    let options = [
        ("plan", &start.plan),
        ("supersede", &start.supersede),
        ("break-glass", &start.break_glass),
    ];
    for (option, value) in options.into_iter().filter(|(_, value)| !value.is_empty()) {
        command += &format!(" --{option} {}", shell_word(value));
    }
    command += &format!(" --preview {id}");
    if needs_reach(preview) {
        command += &format!(" --reach {}", preview.members);
    }
    command
}

fn title(preview: &api::PreviewResponse, look: &Look) -> String {
    let what = format!("{} r{}", clean(&preview.family), preview.revision);
    let reach = if needs_reach(preview) {
        look.paint(Tone::Bad, &format!("needs --reach {}", preview.members))
    } else {
        "within the limit".to_owned()
    };
    format!(
        "Preview {} of {} ({})\n{}, {} changed; the family owns {} now; reach limit {}: {reach}\n",
        clean(&preview.id),
        look.paint(Tone::Title, &what),
        short(&preview.revision_hash),
        plural(preview.members, "member"),
        thousands(preview.changed),
        thousands(preview.owned),
        thousands(preview.reach_limit),
    )
}

fn role(place: usize, role: &api::RolePreview, look: &Look) -> String {
    let matches = if role.matched == 1 {
        "matches"
    } else {
        "match"
    };
    let mut text = format!(
        "{place}. {}: {} {matches} `{}`\n",
        clean(&role.role),
        plural(role.matched, "agent"),
        clean(&role.selector)
    );
    if !role.why.is_empty() {
        text += &format!("   {}\n", clean(&role.why));
    }
    for (index, wave) in role.waves.iter().enumerate() {
        let gate = if wave.gate.is_empty() {
            String::new()
        } else {
            format!("; {}", clean(&wave.gate))
        };
        let size = if wave.size.is_empty() {
            String::new()
        } else {
            format!(" ({})", clean(&wave.size))
        };
        let examples = look.names.such_as(&wave.examples);
        text += &format!(
            "   wave {}: {}{size}{examples}{gate}\n",
            index + 1,
            plural(wave.agents, "agent")
        );
    }
    text
}

fn diff_group(group: &api::DiffGroup, lines: usize, look: &Look) -> String {
    let who = format!(
        "{} of role {}",
        plural(group.agents, "agent"),
        clean(&group.role)
    );
    let (be, get) = if group.agents == 1 {
        ("is", "gets")
    } else {
        ("are", "get")
    };
    if group.unchanged {
        return format!(
            "{who} {be} unchanged{}\n",
            look.names.such_as(&group.examples)
        );
    }
    let diff = unified(&head(&group.diff, lines), look);
    format!(
        "{who} {get} {}{}\n{}",
        difference(&group.against),
        look.names.such_as(&group.examples),
        indent(&diff, 4)
    )
}

/// What the lines below differ from: a revision (`pii/agent r3`), or words that say why there is none.
fn difference(against: &str) -> String {
    match against {
        "" => "this diff".to_owned(),
        words if words.starts_with("nothing") => format!("this config (against {})", clean(words)),
        base => format!("this diff against {}", clean(base)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> api::PreviewResponse {
        let wave = |agents, size: &str| api::WavePreview {
            agents,
            size: size.into(),
            ..Default::default()
        };
        api::PreviewResponse {
            id: "p1".into(),
            family: "pii".into(),
            revision: 4,
            revision_hash: "0123456789abcdef".into(),
            roles: vec![api::RolePreview {
                role: "agent".into(),
                selector: "role = agent".into(),
                matched: 9_447,
                waves: vec![wave(1, "1"), wave(94, "1 %"), wave(9_352, "rest")],
                why: "web-1 matches because role is agent".into(),
            }],
            groups: vec![
                api::DiffGroup {
                    role: "agent".into(),
                    agents: 9_412,
                    examples: vec!["web-1".into()],
                    diff: "-a: 1\n+a: 2\n".into(),
                    against: "r3".into(),
                    ..Default::default()
                },
                api::DiffGroup {
                    role: "agent".into(),
                    agents: 1,
                    unchanged: true,
                    ..Default::default()
                },
            ],
            left_out: vec![api::LeftOut {
                why: "lack `redactionprocessor`".into(),
                agents: 3,
                examples: vec!["db-1".into()],
            }],
            members: 9_447,
            changed: 9_443,
            owned: 9_400,
            reach_limit: 18_800,
            ..Default::default()
        }
    }

    #[test]
    fn preview_says_who_gets_what_in_which_order_and_who_does_not() {
        assert_eq!(
            preview(&example(), false, &Look::default()),
            "\
Preview p1 of pii r4 (0123456789ab)
9,447 members, 9,443 changed; the family owns 9,400 now; reach limit 18,800: within the limit

Order
  1. agent: 9,447 agents match `role = agent`
     web-1 matches because role is agent
     wave 1: 1 agent (1)
     wave 2: 94 agents (1 %)
     wave 3: 9,352 agents (rest)

Changes
  9,412 agents of role agent get this diff against r3, e.g. web-1
      -a: 1
      +a: 2
  1 agent of role agent is unchanged

Left out
  3 agents: lack `redactionprocessor`, e.g. db-1
"
        );
    }

    #[test]
    fn what_stops_a_rollout_comes_before_its_order() {
        let conflict = api::PreviewResponse {
            conflicts: vec!["u1: gateway, agent".into()],
            takeovers: vec!["12 agents from family web".into()],
            needs: vec!["1 more approval".into()],
            ..example()
        };
        let text = preview(&conflict, false, &Look::default());
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("match two roles\n  u1") < at("Order"));
        assert!(at("other families\n  12 agents from family web") < at("Order"));
        assert!(at("Needs\n  1 more approval") < at("match two roles"));
        assert!(text.contains("needs --reach 9447"));
    }

    #[test]
    fn schedule_ends_with_the_way_back() {
        let scheduled = api::PreviewResponse {
            schedule: vec![
                "1. agent wave 1/1: 1 agent".into(),
                "a rollback goes: agent".into(),
            ],
            ..example()
        };
        let text = preview(&scheduled, false, &Look::default());
        let schedule =
            "Schedule\n  1. agent wave 1/1: 1 agent\n  a rollback goes: agent\n\nChanges\n";
        assert!(text.contains(schedule), "{text}");
    }

    #[test]
    fn command_keeps_how_the_start_was_asked_for() {
        let start = api::StartRolloutRequest {
            plan: "urgent".into(),
            supersede: "restart".into(),
            break_glass: "cards leak".into(),
            ..Default::default()
        };
        assert_eq!(
            start_command(&example(), &start),
            "muster rollout start pii --revision 4 --plan urgent --supersede restart --break-glass 'cards leak' --preview p1"
        );
        let back = api::StartRolloutRequest {
            back: true,
            ..Default::default()
        };
        assert_eq!(
            start_command(&example(), &back),
            "muster rollout back pii 4 --preview p1"
        );
    }

    #[test]
    fn first_config_is_no_diff_against_something() {
        assert_eq!(
            difference("nothing: it does not say what it runs"),
            "this config (against nothing: it does not say what it runs)"
        );
        assert_eq!(difference("pii/agent r3"), "this diff against pii/agent r3");
    }

    #[test]
    fn long_diff_is_cut_unless_all_is_asked_for() {
        let mut long = example();
        long.groups[0].diff = "+x\n".repeat(100);
        assert!(preview(&long, false, &Look::default()).contains("… 60 more lines"));
        assert!(!preview(&long, true, &Look::default()).contains("more lines"));
    }
}
