//! The lines of a run: what each node did, what it printed, how it all ended.

use forebay_control::api::{NodeResult, RunResult};

use super::style::Style;
use super::text::{bytes, counted, duration, short_hash};

/// Widest node name that others are padded to; longer ones stick out.
const NAME_CHARACTERS_MAX: usize = 40;

/// The width to pad names to.
#[must_use]
pub fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|name| name.chars().count()).filter(|width| *width <= NAME_CHARACTERS_MAX).max().unwrap_or(0)
}

/// `done       flights    336,776 rows    24.1 MB    0.31 s`
#[must_use]
pub fn node(style: Style, width: usize, node: &NodeResult) -> String {
    let word = if node.cache == "hit" && node.status == "done" { "cached" } else { &node.status };
    let mut line = format!("{}  {:width$}", style.status(&format!("{word:9}")), node.name);
    let cells = [
        (16, node.rows.map(|rows| counted(rows, "row"))),
        (8, node.bytes.filter(|_| node.rows.is_some()).map(bytes)),
        (8, node.seconds.map(duration)),
    ];
    // A missing cell keeps its place, so that the ones behind it line up.
    for (width, cell) in cells {
        line.push_str(&format!("  {:>width$}", cell.unwrap_or_default()));
    }
    line.trim_end().to_owned()
}

/// A line of user code: `flights | reading`; of the platform: `flights > installing`.
#[must_use]
pub fn log(style: Style, width: usize, node: &str, stream: &str, line: &str) -> String {
    let (mark, line) = match stream {
        "system" => (">", style.faint(line)),
        _ => ("|", line.to_owned()),
    };
    if node.is_empty() {
        return line;
    }
    format!("{} {mark} {line}", style.name(&format!("{node:width$}"))).trim_end().to_owned()
}

/// Rows of a node's result.
#[must_use]
pub fn preview(style: Style, node: &str, text: &str) -> String {
    format!("{}\n{}", style.strong(&format!("preview of {node}")), text.trim_end())
}

/// Something the user should know.
#[must_use]
pub fn warning(style: Style, text: &str) -> String {
    format!("{}: {text}", style.warn("warning"))
}

/// How a run is told at its end.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// The branch or ref it ran on.
    pub target: &'a str,
    /// Nothing was to be written.
    pub dry_run: bool,
    /// Wall-clock time, as the client saw it.
    pub seconds: f64,
}

/// The last lines of a run: what holds now, and what to do next. Errors are rendered on their own.
#[must_use]
pub fn ending(style: Style, ending: Ending<'_>, result: &RunResult) -> String {
    let time = duration(ending.seconds);
    match result.status.as_str() {
        "SUCCESS" => {
            let state = match &result.at {
                _ if ending.dry_run => "dry run, nothing was written".to_owned(),
                Some(at) => format!("{} is at {}", branch(style, &at.name), style.warn(short_hash(&at.hash))),
                None => "nothing was written".to_owned(),
            };
            format!("{}: {state} ({time}; {})", style.good("done"), moved(&result.nodes))
        }
        "RUNNING" => format!(
            "{}: job {}\n\nfollow it with `forebay job logs {}`, stop it with `forebay job stop {}`",
            style.name("running"),
            result.job_id,
            result.job_id,
            result.job_id
        ),
        status => {
            let word = if status == "CANCELLED" { style.warn("cancelled") } else { style.bad("failed") };
            let mut text = format!("{word}: {} is as it was ({time}; job {})", branch(style, ending.target), result.job_id);
            text.extend(result.failed_branch.as_deref().map(|kept| left(kept, &result.kept_tables)));
            text
        }
    }
}

/// What a failed run left behind.
fn left(branch: &str, tables: &[String]) -> String {
    let remove = format!("remove it:   forebay branch rm {branch}");
    let Some(first) = tables.first() else {
        return format!("\nit had written no table; branch `{branch}` marks it\n  {remove}");
    };
    let names: Vec<String> = tables.iter().map(|table| format!("`{table}`")).collect();
    format!(
        "\nwhat the run had written is kept on branch `{branch}`: {}\n  \
         look at it:  forebay query -r {branch} \"SELECT * FROM {first}\"\n  {remove}",
        names.join(", ")
    )
}

fn branch(style: Style, name: &str) -> String {
    format!("`{}`", style.strong(name))
}

/// `24.1 MB copied, 120 MB shared`
fn moved(nodes: &[NodeResult]) -> String {
    let copied = nodes.iter().map(|node| node.bytes_copied).sum();
    let shared = nodes.iter().map(|node| node.bytes_referenced + node.bytes_reshared).sum();
    format!("{} copied, {} shared", bytes(copied), bytes(shared))
}

#[cfg(test)]
mod tests {
    use forebay_control::api::{Bytes, Ref};

    use super::*;

    fn done(name: &str, rows: Option<u64>) -> NodeResult {
        NodeResult {
            name: name.into(),
            status: "done".into(),
            rows,
            bytes: rows.map(|_| 24_100_000),
            seconds: Some(0.31),
            bytes_copied: 1_000_000,
            bytes_reshared: 2_000_000,
            ..NodeResult::default()
        }
    }

    fn result(status: &str) -> RunResult {
        RunResult {
            schema: 1,
            job_id: "j1".into(),
            status: status.into(),
            at: Some(Ref {
                name: "main".into(),
                hash: "ab".repeat(32),
                kind: "BRANCH".into(),
                failed_job: None,
                protected: false,
            }),
            nodes: vec![done("a", Some(1)), done("b", Some(1))],
            environments: Vec::new(),
            bytes: Bytes::default(),
            error: None,
            failed_branch: None,
            kept_tables: Vec::new(),
        }
    }

    #[test]
    fn node_lines_line_up() {
        let names = ["flights", "late_flights", &"x".repeat(90)];
        let width = name_width(names.into_iter());
        assert_eq!(width, 12);
        let lines = [
            node(Style::PLAIN, width, &done("flights", Some(336_776))),
            node(Style::PLAIN, width, &done("late_flights", None)),
            node(Style::PLAIN, width, &NodeResult { name: "x".into(), status: "skipped".into(), ..NodeResult::default() }),
        ];
        assert_eq!(lines[0], "done       flights           336,776 rows   24.1 MB    0.31 s");
        assert_eq!(lines[1], "done       late_flights                                0.31 s");
        assert_eq!(lines[2], "skipped    x");
    }

    #[test]
    fn logs_carry_their_model() {
        assert_eq!(log(Style::PLAIN, 8, "flights", "stdout", "hello"), "flights  | hello");
        assert_eq!(log(Style::PLAIN, 8, "flights", "stdout", ""), "flights  |");
        assert_eq!(log(Style::PLAIN, 8, "flights", "system", "making an environment"), "flights  > making an environment");
        assert_eq!(log(Style::PLAIN, 8, "", "stdout", "hello"), "hello");
        assert_eq!(preview(Style::PLAIN, "flights", "a\n1\n"), "preview of flights\na\n1");
        assert_eq!(warning(Style::PLAIN, "look"), "warning: look");
    }

    #[test]
    fn endings_say_what_holds_now() {
        let end = Ending { target: "main", dry_run: false, seconds: 2.31 };
        assert_eq!(
            ending(Style::PLAIN, end, &result("SUCCESS")),
            "done: `main` is at abababababab (2.31 s; 2.00 MB copied, 4.00 MB shared)"
        );
        let dry = Ending { dry_run: true, ..end };
        assert!(ending(Style::PLAIN, dry, &result("SUCCESS")).starts_with("done: dry run, nothing was written ("));
        let mut failed = result("FAILED");
        failed.failed_branch = Some("ann.tmp".into());
        assert_eq!(
            ending(Style::PLAIN, end, &failed),
            "failed: `main` is as it was (2.31 s; job j1)\nit had written no table; branch `ann.tmp` marks it\n  \
             remove it:   forebay branch rm ann.tmp"
        );
        failed.kept_tables = vec!["default.a".into(), "default.b".into()];
        assert_eq!(
            ending(Style::PLAIN, end, &failed),
            "failed: `main` is as it was (2.31 s; job j1)\n\
             what the run had written is kept on branch `ann.tmp`: `default.a`, `default.b`\n  \
             look at it:  forebay query -r ann.tmp \"SELECT * FROM default.a\"\n  remove it:   forebay branch rm ann.tmp"
        );
        assert_eq!(ending(Style::PLAIN, end, &result("CANCELLED")), "cancelled: `main` is as it was (2.31 s; job j1)");
        assert!(ending(Style::PLAIN, end, &result("RUNNING")).contains("`forebay job stop j1`"));
    }
}
