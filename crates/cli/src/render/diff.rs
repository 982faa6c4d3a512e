//! What differs between two refs, as lines that begin with `+`, `-` or `~`.

use forebay_control::api::{ColumnDiff, ColumnSide, Diff, TableDiff, TableSide};

use super::style::Style;
use super::text::{bytes, count, cut, one_line};

/// Characters of a bound that are shown.
const BOUND_CHARACTERS_MAX: usize = 24;

/// Namespaces, then tables by name, each with its columns below.
#[must_use]
pub fn lines(style: Style, diff: &Diff) -> Vec<String> {
    let namespaces = |change: &str, names: &[String]| -> Vec<String> {
        names.iter().map(|name| marked(style, change, &format!("namespace {name}"))).collect()
    };
    let mut lines = namespaces("added", &diff.added_namespaces);
    lines.extend(namespaces("removed", &diff.removed_namespaces));
    if diff.tables.is_empty() {
        for (change, names) in [("added", &diff.added), ("removed", &diff.removed), ("changed", &diff.changed)] {
            lines.extend(names.iter().map(|name| marked(style, change, name)));
        }
    }
    for table in &diff.tables {
        lines.push(format!("{}  {}", marked(style, &table.change, &table.table), style.faint(&sizes(table))));
        lines.extend(table.columns.iter().map(|column| format!("    {}", column_line(style, column))));
    }
    lines
}

fn marked(style: Style, change: &str, text: &str) -> String {
    match change {
        "added" => style.good(&format!("+ {text}")),
        "removed" => style.bad(&format!("- {text}")),
        _ => style.warn(&format!("~ {text}")),
    }
}

fn sizes(table: &TableDiff) -> String {
    let side = |pick: fn(&TableSide) -> Option<String>| {
        let of = |side: &Option<TableSide>| side.as_ref().map(|side| pick(side).unwrap_or_else(|| "?".to_owned()));
        between(of(&table.before), of(&table.after))
    };
    let mut parts = vec![
        format!("rows {}", side(|side| side.records.map(count))),
        format!("files {}", side(|side| Some(count(side.files)))),
        side(|side| side.size.map(bytes)),
    ];
    let partitions = |side: &Option<TableSide>| side.as_ref().map(|side| side.partitions.join(", "));
    let (before, after) = (partitions(&table.before), partitions(&table.after));
    if table.before.is_some() && table.after.is_some() && before != after {
        parts.push(format!("partitions ({}) → ({})", before.unwrap_or_default(), after.unwrap_or_default()));
    }
    parts.join(", ")
}

/// `a`, or `a → b`.
fn between(before: Option<String>, after: Option<String>) -> String {
    match (before, after) {
        (Some(before), Some(after)) if before != after => format!("{before} → {after}"),
        (_, Some(side)) | (Some(side), None) => side,
        (None, None) => String::new(),
    }
}

fn column_line(style: Style, column: &ColumnDiff) -> String {
    let side = |pick: &dyn Fn(&ColumnSide) -> String| between(column.before.as_ref().map(pick), column.after.as_ref().map(pick));
    let kind = side(&|side| format!("{}{}", side.kind, if side.required { " not null" } else { "" }));
    let mut line = format!("{} {kind}", marked(style, &column.change, &one_line(&side(&|side| side.name.clone()))));
    let shown =
        |value: &Option<String>| value.as_deref().map_or("?".to_owned(), |text| one_line(&cut(text, BOUND_CHARACTERS_MAX)));
    let differs = |pick: &dyn Fn(&ColumnSide) -> Option<String>| {
        let (before, after) = (column.before.as_ref().and_then(pick), column.after.as_ref().and_then(pick));
        (before.is_some() || after.is_some()) && (before != after || column.change != "changed")
    };
    let facts: [(&str, &dyn Fn(&ColumnSide) -> Option<String>); 3] =
        [("nulls", &|side| side.nulls.map(count)), ("min", &|side| side.lower.clone()), ("max", &|side| side.upper.clone())];
    for (name, pick) in facts {
        if differs(pick) {
            line.push_str(&format!("  {name} {}", side(&|side| shown(&pick(side)))));
        }
    }
    if column.change == "changed" && side(&|side| side.doc.clone().unwrap_or_default()).contains(" → ") {
        line.push_str("  new documentation");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(kind: &str, nulls: u64, lower: &str) -> Option<ColumnSide> {
        let (lower, upper) = (Some(lower.to_owned()), Some("9".to_owned()));
        Some(ColumnSide { name: "n".into(), kind: kind.into(), nulls: Some(nulls), lower, upper, ..ColumnSide::default() })
    }

    fn table(change: &str, rows: [Option<u64>; 2], columns: Vec<ColumnDiff>) -> TableDiff {
        let [before, after] = rows.map(|rows| {
            rows.map(|rows| TableSide { records: Some(rows), files: 1, size: Some(rows * 1000), ..TableSide::default() })
        });
        TableDiff { table: "default.t".into(), change: change.into(), before, after, columns }
    }

    #[test]
    fn diffs_read_like_diffs() {
        let names =
            Diff { added: vec!["a.x".into()], removed: vec!["a.y".into()], changed: vec!["a.z".into()], ..Diff::default() };
        assert_eq!(lines(Style::PLAIN, &names), ["+ a.x", "- a.y", "~ a.z"]);
        let column = |change: &str, before, after| ColumnDiff { name: "n".into(), change: change.into(), before, after };
        let columns =
            vec![column("changed", side("int", 0, "1"), side("long", 2, "1")), column("added", None, side("int", 0, "3"))];
        let full = Diff {
            added_namespaces: vec!["raw".into()],
            tables: vec![table("changed", [Some(10), Some(12)], columns), table("removed", [Some(1), None], Vec::new())],
            ..Diff::default()
        };
        assert_eq!(
            lines(Style::PLAIN, &full),
            [
                "+ namespace raw",
                "~ default.t  rows 10 → 12, files 1, 10.0 kB → 12.0 kB",
                "    ~ n int → long  nulls 0 → 2",
                "    + n int  nulls 0  min 3  max 9",
                "- default.t  rows 1, files 1, 1.00 kB",
            ]
        );
    }
}
