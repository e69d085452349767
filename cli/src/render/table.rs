//! Tables without borders, as kubectl prints them.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// Spaces between columns.
const GAP: u16 = 3;

/// Rows under a header. A header that begins with `>` has its column aligned to the right.
pub fn table<C: Into<Cell>>(headers: &[&str], rows: impl IntoIterator<Item = Vec<C>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(
        headers
            .iter()
            .map(|header| header.trim_start_matches('>'))
            .collect::<Vec<_>>(),
    );
    for row in rows {
        table.add_row(row.into_iter().map(Into::into).collect::<Vec<Cell>>());
    }
    // Cells have a colour only where colours may be used; nothing else decides about them.
    table.enforce_styling().style_text_only();
    for (index, header) in headers.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, GAP));
            if header.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// `name  value` lines, the values under each other. Lines without a value are left out.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let facts: Vec<(&str, String)> = facts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let width = facts
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    facts
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{Look, Tone};

    #[test]
    fn columns_stand_under_their_headers_without_borders() {
        let rows = [
            vec!["web-1".to_owned(), "9,412".to_owned()],
            vec!["a".to_owned(), "3".to_owned()],
        ];
        assert_eq!(
            table(&["NAME", ">AGENTS"], rows),
            "NAME    AGENTS\nweb-1    9,412\na            3\n"
        );
    }

    #[test]
    fn characters_of_two_columns_do_not_shift_the_others() {
        let rows = [
            vec!["東京".to_owned(), "x".to_owned()],
            vec!["ab".to_owned(), "y".to_owned()],
        ];
        assert_eq!(
            table(&["HOST", "NEXT"], rows),
            "HOST   NEXT\n東京   x\nab     y\n"
        );
    }

    #[test]
    fn colours_do_not_shift_columns() {
        let look = Look {
            colour: true,
            ..Default::default()
        };
        let rows = [
            vec![look.cell(Tone::Good, "ok"), "x".into()],
            vec!["failed".into(), "y".into()],
        ];
        let text = table(&["STATE", "NEXT"], rows);
        let plain = text
            .replace("\u{1b}[38;5;2m", "")
            .replace("\u{1b}[39m", "")
            .replace("\u{1b}[0m", "");
        assert_ne!(text, plain);
        assert_eq!(plain, "STATE    NEXT\nok       x\nfailed   y\n");
    }

    #[test]
    fn facts_without_a_value_are_left_out() {
        assert_eq!(
            facts([
                ("name", "a".into()),
                ("none", String::new()),
                ("version", "1".into())
            ]),
            "name     a\nversion  1\n"
        );
    }
}
