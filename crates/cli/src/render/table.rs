//! Lists in columns: bare ones for lists of things, ruled ones for rows of data.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::style::Style;

/// Columns under upper-case headings, without lines, two spaces apart; `right` names the columns of numbers.
#[must_use]
pub fn columns(style: Style, headings: &[&str], right: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let align = |column: usize| match headings.get(column) {
        Some(heading) if right.contains(heading) => CellAlignment::Right,
        _ => CellAlignment::Left,
    };
    table.set_header(headings.iter().enumerate().map(|(at, text)| Cell::new(text).set_alignment(align(at))));
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(at, text)| Cell::new(text).set_alignment(align(at))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut lines = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    if let Some(header) = lines.first_mut() {
        *header = style.faint(header);
    }
    lines.join("\n")
}

/// `name  value` pairs, one a line, the values in one column.
#[must_use]
pub fn pairs(style: Style, pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line =
        |(name, value): &(&str, String)| format!("{}  {value}", style.faint(&format!("{name:width$}"))).trim_end().to_owned();
    pairs.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// One column of a ruled table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, under the name.
    pub kind: String,
    /// Whether its cells are numbers, which stand right.
    pub is_number: bool,
}

/// Rows of data between lines. Cells are shown as given.
#[must_use]
pub fn ruled(header: &[Column], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    let align = |column: usize| match header.get(column) {
        Some(Column { is_number: true, .. }) => CellAlignment::Right,
        _ => CellAlignment::Left,
    };
    table.set_header(
        header.iter().enumerate().map(|(at, c)| Cell::new(format!("{}\n{}", c.name, c.kind)).set_alignment(align(at))),
    );
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(at, text)| Cell::new(text).set_alignment(align(at))));
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn columns_line_up() {
        let rows = cells(&[&["main", "5", "x"], &["größer", "1,000", ""]]);
        let text = columns(Style::PLAIN, &["NAME", "ROWS", "NOTE"], &["ROWS"], &rows);
        assert_eq!(text, "NAME     ROWS  NOTE\nmain        5  x\ngrößer  1,000");
        assert_eq!(columns(Style::PLAIN, &["NAME"], &[], &[]), "NAME");
    }

    #[test]
    fn pairs_line_up() {
        let text =
            pairs(Style::PLAIN, &[("lake", "file:///x".into()), ("active branch", "main".into()), ("none", String::new())]);
        assert_eq!(text, "lake           file:///x\nactive branch  main\nnone");
    }

    #[test]
    fn numbers_stand_right() {
        let header = [
            Column { name: "carrier".into(), kind: "Utf8".into(), is_number: false },
            Column { name: "n".into(), kind: "Int64".into(), is_number: true },
        ];
        let expected = "\
┌─────────┬───────┐
│ carrier ┆     n │
│ Utf8    ┆ Int64 │
╞═════════╪═══════╡
│ AA      ┆     7 │
│ null    ┆  1234 │
└─────────┴───────┘";
        assert_eq!(ruled(&header, &cells(&[&["AA", "7"], &["null", "1234"]])), expected);
    }
}
