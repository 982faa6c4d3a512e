//! `table create-plan`, `table create-plan-apply`, `table create-external` and `table history`.

use std::io::Read as _;

use forebay_control::api::{Op, Table, TableChange, TableCreatePlan};
use serde_json::json;

use super::table::{absolute, count_of, created};
use crate::args::{TableApplyArgs, TableExternalArgs, TablePlanArgs};
use crate::context::{Context, Session};
use crate::error::{Error, Result};
use crate::render::run::warning;
use crate::render::style::Style;
use crate::render::table::columns;
use crate::render::text::{count, counted, one_line, short_hash, time};

/// A plan: to a file or stdout.
pub fn plan(context: &Context, session: &mut Session, args: TablePlanArgs) -> Result<()> {
    let op = Op::TablePlan {
        name: args.name,
        search_uri: absolute(&args.search_uri)?,
        branch: session.or_active(args.branch),
        namespace: args.namespace,
        partitioned_by: args.partitioned_by,
        sorted_by: args.sorted_by,
        replace: args.replace,
    };
    let plan: TableCreatePlan = session.call(op)?;
    let files = counted(count_of(&plan.files_to_be_imported), "file");
    context.out.talk(&format!("looked at {files}"));
    for column in &plan.conflicts {
        let text =
            format!("files disagree about column `{column}`: leave one type under its `dst_datatype`, and empty `conflicts`");
        context.out.talk(&warning(context.out.talk_style, &text));
    }
    if let Some(path) = &args.save_plan {
        std::fs::write(path, &plan.plan).map_err(|error| Error::file("write", path, &error))?;
        context.out.talk(&format!("wrote the plan to {}", path.display()));
    }
    if context.out.is_json() {
        let object = serde_json::to_value(&plan).map_err(|error| Error::Answer { why: error.to_string() })?;
        return context.out.object(object);
    }
    if args.save_plan.is_some() { Ok(()) } else { context.out.data(plan.plan.trim_end()) }
}

/// The table of a plan, from a file or stdin.
pub fn apply(context: &Context, session: &mut Session, args: &TableApplyArgs) -> Result<()> {
    let plan = match &args.plan {
        Some(path) => std::fs::read_to_string(path).map_err(|error| Error::file("read", path, &error))?,
        None => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| Error::file("read", "standard input", &error))?;
            text
        }
    };
    let table: Table = session.call(Op::TableApply { plan })?;
    created(context, &table)
}

/// A table of another engine.
pub fn external(context: &Context, session: &mut Session, args: TableExternalArgs) -> Result<()> {
    let op = Op::TableExternal {
        name: args.name,
        metadata_uri: args.metadata_json_uri.as_deref().map(absolute).transpose()?,
        search_patterns: args.search_pattern.iter().map(|pattern| absolute(pattern)).collect::<Result<_>>()?,
        branch: session.or_active(args.branch),
        namespace: args.namespace,
        overwrite: args.overwrite,
    };
    let table: Table = session.call(op)?;
    let name = format!("{}.{}", table.namespace, table.name);
    context.out.talk(&format!("registered table `{name}` with {}, to be read", counted(count_of(&table.fields), "column")));
    if context.out.is_json() { context.out.object(json!({ "table": table })) } else { Ok(()) }
}

/// What happened to a table.
pub fn history(
    context: &Context,
    session: &mut Session,
    name: String,
    at: Option<String>,
    namespace: Option<String>,
    limit: u64,
) -> Result<()> {
    let at = session.or_active(at);
    let changes: Vec<TableChange> = session.call(Op::TableHistory { name, at, namespace, limit: Some(limit) })?;
    if context.out.is_json() {
        return context.out.object(json!({ "changes": changes }));
    }
    context.out.data(&listed(context.out.data_style, &changes))
}

fn listed(style: Style, changes: &[TableChange]) -> String {
    let number = |number: Option<u64>| number.map(count).unwrap_or_default();
    let row = |change: &TableChange| {
        let did = match (change.change.as_str(), &change.operation) {
            ("changed", Some(operation)) => operation.clone(),
            (other, _) => other.to_owned(),
        };
        vec![
            short_hash(&change.hash).to_owned(),
            time(&change.authored_date, false),
            change.author.clone(),
            did,
            number(change.records),
            number(change.added_records),
            number(change.deleted_records),
            one_line(&change.message),
        ]
    };
    let headings = ["COMMIT", "TIME", "AUTHOR", "CHANGE", "ROWS", "ADDED", "DELETED", "MESSAGE"];
    columns(style, &headings, &["ROWS", "ADDED", "DELETED"], &changes.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_are_listed() {
        let change = |change: &str, operation: Option<&str>, records| TableChange {
            hash: "ab".repeat(32),
            authored_date: "then".into(),
            author: "ann".into(),
            message: "Run p".into(),
            change: change.into(),
            operation: operation.map(str::to_owned),
            snapshot_id: Some(1),
            records,
            added_records: Some(2),
            deleted_records: None,
            metadata_location: None,
        };
        let text = listed(Style::PLAIN, &[change("deleted", None, None), change("changed", Some("append"), Some(1234))]);
        assert_eq!(
            text,
            "COMMIT        TIME  AUTHOR  CHANGE    ROWS  ADDED  DELETED  MESSAGE\n\
             abababababab  then  ann     deleted             2           Run p\n\
             abababababab  then  ann     append   1,234      2           Run p"
        );
    }
}
