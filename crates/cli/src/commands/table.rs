//! `table …`

use std::path::Path;

use forebay_control::api::{ImportResult, Op, Ref, Table};
use forebay_control::config::DEFAULT_NAMESPACE;
use forebay_types::TableName;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{moved, table_plans};
use crate::args::{TableCommand, TableCreateArgs, TableImportArgs, TableRevertArgs};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::render::run::warning;
use crate::render::style::Style;
use crate::render::table::{columns, pairs};
use crate::render::text::{bytes, count, counted, one_line, short_hash, time};

/// A table in a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listed {
    namespace: String,
    name: String,
    kind: String,
}

pub fn run(context: &Context, command: TableCommand) -> Result<()> {
    let mut session = context.session()?;
    match command {
        TableCommand::Ls { name, namespace, at, limit } => {
            let at = session.or_active(at);
            let tables: Vec<Listed> = session.call(Op::TableList { at, namespace, name, limit })?;
            if context.out.is_json() {
                return context.out.object(json!({ "tables": tables }));
            }
            print(context, &tables)
        }
        TableCommand::Get { name, at, namespace } => {
            let at = session.or_active(at);
            let table: Table = session.call(Op::TableGet { name, at, namespace })?;
            if context.out.is_json() {
                return context.out.object(json!({ "table": table }));
            }
            context.out.data(&described(context.out.data_style, &table))
        }
        TableCommand::Create(args) => create(context, &mut session, args),
        TableCommand::CreatePlan(args) => table_plans::plan(context, &mut session, args),
        TableCommand::CreatePlanApply(args) => table_plans::apply(context, &mut session, &args),
        TableCommand::CreateExternal(args) => table_plans::external(context, &mut session, args),
        TableCommand::History { name, at, namespace, limit } => {
            table_plans::history(context, &mut session, name, at, namespace, limit)
        }
        TableCommand::Import(args) => import(context, &mut session, args),
        TableCommand::Revert(args) => revert(context, &mut session, args),
        TableCommand::Rm { name, branch, namespace, if_exists, words } => {
            let branch = session.or_active(branch);
            let shown = name.clone();
            let op = Op::TableDelete { name, branch: branch.clone(), namespace, if_exists, words: words.into() };
            let at: Ref = session.call(op)?;
            moved(context, &format!("table `{shown}` is gone, `{branch}`"), "branch", &at)
        }
    }
}

fn revert(context: &Context, session: &mut crate::context::Session, args: TableRevertArgs) -> Result<()> {
    let into = session.or_active(args.into_branch);
    let shown: Vec<String> = args.names.iter().map(|name| format!("`{name}`")).collect();
    let op = Op::TableRevert {
        names: args.names,
        namespace: args.namespace,
        source: args.source_ref.clone(),
        into: into.clone(),
        replace: args.replace,
        words: args.words.into(),
    };
    let at: Ref = session.call(op)?;
    moved(context, &format!("{} as at `{}`: `{into}` is", shown.join(", "), args.source_ref), "branch", &at)
}

/// Prints a list of tables.
pub fn print(context: &Context, tables: &[Listed]) -> Result<()> {
    let rows: Vec<Vec<String>> =
        tables.iter().map(|table| vec![table.namespace.clone(), table.name.clone(), table.kind.clone()]).collect();
    context.out.data(&columns(context.out.data_style, &["NAMESPACE", "NAME", "KIND"], &[], &rows))
}

fn create(context: &Context, session: &mut crate::context::Session, args: TableCreateArgs) -> Result<()> {
    let op = Op::TableCreate {
        name: args.name,
        search_uri: absolute(&args.search_uri)?,
        branch: session.or_active(args.branch),
        namespace: args.namespace,
        partitioned_by: args.partitioned_by,
        sorted_by: args.sorted_by,
        replace: args.replace,
    };
    let table: Table = session.call(op)?;
    created(context, &table)
}

/// Tells of a table that was created.
pub(super) fn created(context: &Context, table: &Table) -> Result<()> {
    let name = format!("{}.{}", table.namespace, table.name);
    context.out.talk(&format!("created table `{name}` with {}", counted(count_of(&table.fields), "column")));
    if context.out.is_json() { context.out.object(json!({ "table": table })) } else { Ok(()) }
}

fn import(context: &Context, session: &mut crate::context::Session, args: TableImportArgs) -> Result<()> {
    let namespace = args.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    // Only for the message: the control plane checks the name.
    let shown = TableName::parse(&args.name, namespace).map_or_else(|_| args.name.clone(), |name| name.to_string());
    let op = Op::TableImport {
        search_uri: absolute(&args.search_uri)?,
        branch: session.or_active(args.branch),
        name: args.name,
        namespace: args.namespace,
        continue_on_error: args.continue_on_error,
        import_duplicate_files: args.import_duplicate_files,
        best_effort: args.best_effort,
    };
    let mut progress = crate::render::progress::Progress::new(context.out);
    let result: ImportResult = session.watch(op, &mut |event| progress.show(&event))?;
    drop(progress);
    for line in imported(context.out.talk_style, &shown, &result) {
        context.out.talk(&line);
    }
    if !context.out.is_json() {
        return Ok(());
    }
    let object = serde_json::to_value(&result).map_err(|error| Error::Answer { why: error.to_string() })?;
    context.out.object(object)
}

/// What an import did, line by line.
fn imported(style: Style, name: &str, result: &ImportResult) -> Vec<String> {
    let mut lines = vec![format!(
        "imported {} from {} into `{name}`: `{}` is at {}",
        counted(result.rows, "row"),
        counted(count_of(&result.files), "file"),
        result.at.name,
        short_hash(&result.at.hash)
    )];
    if !result.skipped.is_empty() {
        let files = counted(count_of(&result.skipped), "file");
        lines.push(format!("left out {files} imported before; `--import-duplicate-files` takes them again"));
    }
    for failed in &result.failed {
        let text = |field: &str| failed.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        lines.push(warning(style, &format!("could not import `{}`: {}", text("file"), text("error"))));
    }
    lines
}

pub(super) fn count_of<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

/// A path, glob or folder made absolute, for the background process works in another folder. URIs stay as they are.
pub(super) fn absolute(search_uri: &str) -> Result<String> {
    if search_uri.contains("://") {
        return Ok(search_uri.to_owned());
    }
    let path = std::path::absolute(Path::new(search_uri)).map_err(|error| Error::file("find", search_uri, &error))?;
    let text = path.into_os_string().into_string();
    text.map_err(|path| Error::file("use", path, &"its name is not UTF-8 text").into())
}

/// A table's columns, and what is known of it.
fn described(style: Style, table: &Table) -> String {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let with_docs = table.fields.iter().any(|field| field.doc.is_some());
    let headings: &[&str] = if with_docs { &["NAME", "REQUIRED", "TYPE", "DOC"] } else { &["NAME", "REQUIRED", "TYPE"] };
    let row = |field: &forebay_control::api::Field| {
        let mut row = vec![one_line(&field.name), yes_no(field.required), field.kind.clone()];
        row.extend(with_docs.then(|| one_line(field.doc.as_deref().unwrap_or_default())));
        row
    };
    let rows: Vec<Vec<String>> = table.fields.iter().map(row).collect();
    let mut facts = vec![("table", format!("{}.{}", table.namespace, table.name))];
    facts.extend(table.comment.as_deref().map(|comment| ("comment", one_line(comment))));
    facts.extend(table.records.map(|records| ("rows", count(records))));
    facts.extend(table.size.map(|size| ("size", bytes(size))));
    if !table.partitions.is_empty() {
        facts.push(("partitioned by", table.partitions.iter().map(partition).collect::<Vec<_>>().join(", ")));
    }
    if !table.sort_order.is_empty() {
        facts.push(("sorted by", table.sort_order.join(", ")));
    }
    if table.kind == "EXTERNAL_TABLE" {
        facts.push(("kind", "external, read only".to_owned()));
    }
    facts.push(("snapshots", count(table.snapshots)));
    facts.push(("last updated", time(&table.last_updated_at, false)));
    facts.push(("metadata", table.metadata_location.clone()));
    format!("{}\n\n{}", pairs(style, &facts), columns(style, headings, &[], &rows))
}

fn partition(field: &serde_json::Map<String, serde_json::Value>) -> String {
    let text = |name: &str| field.get(name).and_then(|value| value.as_str()).unwrap_or_default();
    let name = text("name");
    match text("transform") {
        "identity" | "" => name.to_owned(),
        transform => match transform.strip_suffix(']').and_then(|transform| transform.split_once('[')) {
            Some((word, number)) => format!("{word}({number}, {name})"),
            None => format!("{transform}({name})"),
        },
    }
}

#[cfg(test)]
mod tests {
    use forebay_control::api::Field;

    use super::*;

    #[test]
    fn tables_are_described() {
        let field = |name: &str, required, doc: Option<&str>| Field {
            id: 1,
            name: name.into(),
            required,
            kind: "long".into(),
            doc: doc.map(str::to_owned),
        };
        let table = Table {
            id: "1".into(),
            namespace: "default".into(),
            name: "trips".into(),
            kind: "TABLE".into(),
            fields: vec![field("a", true, None), field("b", false, Some("what"))],
            partitions: vec![json!({"name": "ts", "transform": "day"}).as_object().unwrap().clone()],
            records: Some(1234),
            size: Some(5_000_000),
            snapshots: 2,
            metadata_location: "file:///l/1.json".into(),
            sort_order: vec!["a desc".into()],
            current_snapshot_id: Some(1),
            current_schema_id: 0,
            last_updated_at: "then".into(),
            properties: std::collections::BTreeMap::new(),
            comment: None,
        };
        assert_eq!(
            described(Style::PLAIN, &table),
            "table           default.trips\nrows            1,234\nsize            5.00 MB\npartitioned by  day(ts)\n\
             sorted by       a desc\nsnapshots       2\nlast updated    then\nmetadata        file:///l/1.json\n\n\
             NAME  REQUIRED  TYPE  DOC\na     yes       long\nb     no        long  what"
        );
    }

    #[test]
    fn imports_say_what_was_left_out() {
        let at = Ref { name: "main".into(), hash: "a".repeat(64), kind: "BRANCH".into(), failed_job: None, protected: false };
        let result = ImportResult {
            job_id: "j".into(),
            at,
            rows: 1,
            files: vec!["x".into(), "y".into()],
            skipped: vec!["z".into()],
            failed: vec![json!({"file": "w", "error": "no"})],
        };
        let lines = imported(Style::PLAIN, "default.t", &result);
        assert_eq!(lines[0], "imported 1 row from 2 files into `default.t`: `main` is at aaaaaaaaaaaa");
        assert_eq!(lines[1], "left out 1 file imported before; `--import-duplicate-files` takes them again");
        assert_eq!(lines[2], "warning: could not import `w`: no");
    }

    #[test]
    fn paths_become_absolute_and_uris_stay() {
        assert_eq!(absolute("file:///x/*.csv").unwrap(), "file:///x/*.csv");
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute("data/*.csv").unwrap(), here.join("data/*.csv").display().to_string());
    }
}
