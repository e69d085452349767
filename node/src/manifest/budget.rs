//! `kind: Budget`.

use fleet::budget::Budget;
use fleet::value::Map;
use fleet::waves::{Size, WHOLE};

use super::plan::size_text;
use super::reader::{Reader, join};
use super::scalar::size;
use crate::control::BUDGET_KEY;

pub(super) fn budget(document: &Map, reader: &mut Reader) -> Option<Budget> {
    let metadata = reader.field(document, "", "metadata");
    let spec = reader.field(document, "", "spec")?;
    let metadata = metadata?;
    reader.known(metadata, "metadata", &["name"]);
    reader.known(spec, "spec", &["label", "size", "urgent"]);
    let name = reader.text(metadata, "metadata", "name")?;
    if name != BUDGET_KEY {
        reader.mistake(format!(
            "metadata.name is `{name}`: there is one budget, name it `{BUDGET_KEY}`"
        ));
    }
    let default = Budget::default();
    let label = reader.optional(spec, "spec", "label");
    if label.as_ref().is_some_and(|label| label.trim().is_empty()) {
        reader.mistake(format!(
            "spec.label is empty: name the label whose values are failure domains, or leave it out for `{}`",
            default.label
        ));
    }
    let budget = Budget {
        label: label.unwrap_or(default.label),
        size: share(spec, "size", reader).unwrap_or(default.size),
        urgent: share(spec, "urgent", reader).unwrap_or(default.urgent),
    };
    let lowered = match (budget.size, budget.urgent) {
        (Size::Count(size), Size::Count(urgent)) => urgent < size,
        (Size::Percent(size), Size::Percent(urgent)) => urgent < size,
        _ => false,
    };
    if lowered && reader.mistakes.is_empty() {
        reader.mistake(format!(
            "spec.urgent is {}, less than the {} of spec.size: give urgent rollouts at least the room of the others",
            size_text(budget.urgent),
            size_text(budget.size)
        ));
    }
    Some(budget)
}

/// How much of a failure domain; none: it is not given.
fn share(spec: &Map, key: &str, reader: &mut Reader) -> Option<Size> {
    let value = spec.get(key)?;
    let share = size(value).filter(|size| match size {
        Size::Count(count) => *count > 0,
        Size::Percent(percent) => (1..=WHOLE).contains(percent),
    });
    if share.is_none() {
        reader.mistake(format!(
            "{} is no share of a failure domain: use a count of at least 1, or more than 0 % and at most 100 %",
            join("spec", key)
        ));
    }
    share
}
