//! The text cases: one file in `cases/` per behaviour, with a project, the lake's tables, and what the planner says.
//!
//! ```text
//! What this case shows.
//! --- file models.py            any number; without a project file, one that names the project `demo` is added
//! --- table default.flights     columns `name type`, one a line; `@ref` after the name: the table at that ref
//! --- options                   `namespace = x`, `param p = 1`, `strict`, `dry_run`, `bare` (add no project file), `json`
//! --- query 100                 instead of files: a SELECT, and its row limit
//! --- expect                    warnings and the drawing (or JSON), or the reports
//! ```
//! `UPDATE=1 cargo test -p forebay-plan cases` rewrites what is expected; read the difference before you commit it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use forebay_types::{PartitionField, Report, TableName};

use crate::{Options, Snapshot, SourceFile, Sources, TableState, errors, logical, physical, query, render};

/// A case, parsed.
#[derive(Default)]
struct Case {
    sources: Sources,
    options: Options,
    tables: Vec<((TableName, Option<String>), TableState)>,
    query: Option<(String, Option<u64>)>,
    json: bool,
}

fn parse(text: &str) -> Case {
    let mut case = Case::default();
    let mut bare = false;
    for section in text.split("\n--- ").skip(1) {
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        let mut words = heading.split_whitespace();
        let (kind, argument) = (words.next().unwrap_or(""), words.next());
        match (kind, argument) {
            ("file", Some(path)) => case.sources.files.push(SourceFile { path: path.to_owned(), text: format!("{body}\n") }),
            ("table", Some(name)) => case.tables.push(table(name, body)),
            ("query", limit) => case.query = Some((body.to_owned(), limit.map(|limit| limit.parse().expect("a number")))),
            ("options", None) => {
                for line in body.lines().map(str::trim).filter(|line| !line.is_empty()) {
                    match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                        None if line == "strict" => case.options.strict = true,
                        None if line == "dry_run" => case.options.dry_run = true,
                        None if line == "bare" => bare = true,
                        None if line == "json" => case.json = true,
                        Some(("namespace", value)) => case.options.namespace = Some(value.to_owned()),
                        Some((key, value)) if key.starts_with("param ") => {
                            case.options.parameters.insert(key["param ".len()..].trim().to_owned(), value.to_owned());
                        }
                        _ => panic!("unknown option {line}"),
                    }
                }
            }
            other => panic!("unknown section {other:?}"),
        }
    }
    let project = |file: &SourceFile| file.path == "forebay.toml" || file.path.contains("project.y");
    if !bare && !case.sources.files.iter().any(project) {
        let text = "[project]\nname = \"demo\"\n".to_owned();
        case.sources.files.push(SourceFile { path: "forebay.toml".to_owned(), text });
    }
    case.sources.files.sort_by(|a, b| a.path.cmp(&b.path));
    case
}

fn table(name: &str, body: &str) -> ((TableName, Option<String>), TableState) {
    let (name, reference) = name.split_once('@').map_or((name, None), |(name, reference)| (name, Some(reference.to_owned())));
    let fields = body.lines().filter_map(|line| line.split_once(' ')).map(|(name, kind)| {
        let kind = match kind.trim() {
            "bool" => DataType::Boolean,
            "int" => DataType::Int32,
            "long" => DataType::Int64,
            "double" => DataType::Float64,
            "decimal" => DataType::Decimal128(12, 2),
            "string" => DataType::Utf8,
            "date" => DataType::Date32,
            "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            other => panic!("unknown type {other}"),
        };
        Field::new(name, kind, true)
    });
    let state = TableState {
        metadata_location: format!("file:///lake/{name}{}.json", reference.as_deref().unwrap_or("")),
        snapshot_id: Some(7),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        partition_by: Vec::<PartitionField>::new(),
        rows: None,
        bytes: None,
    };
    ((TableName::parse(name, "default").expect("a table name"), reference), state)
}

/// What the planner says about a case.
fn run(case: &Case) -> String {
    let plan = match &case.query {
        Some((sql, limit)) => query(sql, "default", *limit),
        None => logical(&case.sources, &case.options),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(reports) => return shown(&reports),
    };
    // As the control plane does: only the tables that were asked for.
    let asked = plan.lake_tables();
    let snapshot = Snapshot {
        commit: "5eed".repeat(16).parse().expect("64 digits"),
        names: case.tables.iter().filter(|((_, reference), _)| reference.is_none()).map(|((name, _), _)| name.clone()).collect(),
        tables: case.tables.iter().filter(|(key, _)| asked.contains(key)).cloned().collect(),
    };
    match physical(&plan, &snapshot) {
        Err(reports) => shown(&reports),
        Ok(physical) if case.json => {
            let plans = [render::logical_json(&plan), render::physical_json(&physical)];
            plans.iter().map(|plan| serde_json::to_string_pretty(plan).expect("JSON")).collect::<Vec<_>>().join("\n")
        }
        Ok(physical) => {
            let drawing = render::drawing(&plan, &physical);
            assert!(drawing.lines().all(|line| line.chars().count() < 100), "a line is too long:\n{drawing}");
            plan.warnings.iter().fold(String::new(), |mut out, warning| {
                let _ = writeln!(out, "warning: {warning}");
                out
            }) + &drawing
        }
    }
}

fn shown(reports: &[Report]) -> String {
    assert!(!reports.is_empty(), "an error without a report");
    reports.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cases");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("the folder of cases").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn cases() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = String::new();
    for path in files() {
        let text = std::fs::read_to_string(&path).expect("a case");
        let (input, expected) = text.split_once("\n--- expect\n").unwrap_or((text.trim_end(), ""));
        let said = run(&parse(input));
        if said.trim_end() == expected.trim_end() {
            continue;
        }
        if update {
            std::fs::write(&path, format!("{input}\n--- expect\n{}\n", said.trim_end())).expect("the case is writable");
        } else {
            let _ = writeln!(
                wrong,
                "=== {}\n--- expected\n{}\n--- but the planner says\n{}\n",
                path.display(),
                expected.trim_end(),
                said.trim_end()
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_code_has_a_case_and_a_page() {
    let cases: String = files().iter().map(|path| std::fs::read_to_string(path).expect("a case")).collect();
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    for code in errors::CODES {
        assert!(cases.contains(&format!("error[{code}]")), "no case provokes {code}");
        let page = std::fs::read_to_string(pages.join(format!("{code}.md"))).unwrap_or_default();
        assert!(page.contains(code), "docs/errors/{code}.md is missing");
    }
}

mod damage {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// Cuts a piece out of a text, or puts a piece of another text into it.
    fn damaged(text: &str, other: &str, from: Index, length: usize, to: Option<Index>) -> String {
        let place = |text: &str, index: Index| {
            let mut at = index.index(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = place(if to.is_some() { other } else { text }, from);
        let piece: String = if to.is_some() { &other[start..] } else { &text[start..] }.chars().take(length).collect();
        match to {
            None => format!("{}{}", &text[..start], &text[start + piece.len()..]),
            Some(to) => {
                let at = place(text, to);
                format!("{}{piece}{}", &text[..at], &text[at..])
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// Whatever is wrong with a project, the planner says so in reports with places that exist.
        #[test]
        fn damaged_projects_get_reports(
            case in any::<Index>(), other in any::<Index>(),
            damages in proptest::collection::vec((any::<Index>(), any::<Index>(), 1usize..25, proptest::option::of(any::<Index>())), 1..4),
        ) {
            let files = files();
            let input = |index: Index| {
                let text = std::fs::read_to_string(index.get(&files)).expect("a case");
                parse(text.split("\n--- expect\n").next().unwrap_or(""))
            };
            let (mut case, other) = (input(case), input(other));
            for (file, from, length, to) in damages {
                if case.sources.files.is_empty() || other.sources.files.is_empty() {
                    break;
                }
                let piece = &file.get(&other.sources.files).text;
                let target = file.index(case.sources.files.len());
                let target = &mut case.sources.files[target];
                target.text = damaged(&target.text, piece, from, length, to);
            }
            if let Some((sql, _)) = &mut case.query {
                sql.push_str(" WHERE");
            }
            prop_assert!(!run(&case).is_empty());
            if let Err(reports) = logical(&case.sources, &case.options) {
                for at in reports.iter().filter_map(|report| report.at.as_ref()) {
                    let file = case.sources.files.iter().find(|file| file.path == at.file).expect("a file of the project");
                    let lines = file.text.split('\n').count();
                    prop_assert!(at.line >= 1 && at.column >= 1 && usize::try_from(at.line).expect("small") <= lines, "{at}");
                }
            }
        }
    }
}
