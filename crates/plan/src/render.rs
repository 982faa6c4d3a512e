//! Both plans as a drawing for a terminal and as JSON.

use std::fmt::Write as _;

use forebay_types::Location;
use serde_json::{Value, json};

use crate::filters::sql_literal;
use crate::logical::{self, LogicalPlan, Source};
use crate::physical::{
    Argument, ArgumentValue, EnvironmentSpec, Literal, PhysicalPlan, Resources, Returns, Strategy, TableForm, Work,
};

/// Version of the JSON form.
const SCHEMA: u32 = 1;
/// Widest line of a drawing, in characters.
const LINE_CHARS_MAX: usize = 98;

/// Both plans as text, lines under 100 columns.
#[must_use]
pub fn drawing(logical: &LogicalPlan, physical: &PhysicalPlan) -> String {
    let mut out = String::new();
    line(&mut out, &format!("project {} · namespace {}", logical.project, logical.namespace));
    for (name, value) in &logical.parameters {
        line(&mut out, &format!("  ${name} = {}", sql_literal(value)));
    }
    line(&mut out, "");
    line(&mut out, "logical plan");
    for node in &logical.nodes {
        logical_node(&mut out, logical, node);
    }
    line(&mut out, "");
    line(&mut out, &format!("physical plan at commit {}", &physical.commit.as_str()[..12]));
    for (id, node) in physical.nodes.iter().enumerate() {
        physical_node(&mut out, physical, id, node);
    }
    out
}

/// Adds a line, cut to the width; white space inside becomes single spaces.
fn line(out: &mut String, text: &str) {
    let text: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    if text.chars().count() > LINE_CHARS_MAX {
        out.extend(text.chars().take(LINE_CHARS_MAX - 1));
        out.push('…');
    } else {
        out.push_str(text.trim_end());
    }
    out.push('\n');
}

/// Adds a heading and its details as branches.
fn branches(out: &mut String, heading: &str, details: &[String]) {
    line(out, heading);
    for (index, detail) in details.iter().enumerate() {
        let branch = if index + 1 == details.len() { "└─" } else { "├─" };
        line(out, &format!("  {branch} {detail}"));
    }
}

/// The left part padded so that the right parts line up.
fn columns(left: &str, right: &str) -> String {
    let padding = 34_usize.saturating_sub(left.chars().count()).max(2);
    format!("{left}{:padding$}{right}", "")
}

fn logical_node(out: &mut String, plan: &LogicalPlan, node: &logical::Node) {
    let (kind, environment) = match &node.work {
        logical::Work::Sql(_) => ("sql", String::new()),
        logical::Work::Python(function) => (
            if function.returns == Returns::Truth { "expectation" } else { "python" },
            format!(" {}", environment(&function.environment)),
        ),
    };
    let heading = columns(&format!("● {}", node.name), &format!("{kind}{environment}  {}", place(&node.at)));
    let mut details: Vec<String> = node
        .inputs
        .iter()
        .map(|input| {
            let source = match &input.source {
                Source::Node(parent) => plan.nodes[*parent].name.clone(),
                Source::Lake(table) => format!("{table} (lake)"),
            };
            let mut text = format!("reads {source}");
            if let Some(reference) = &input.reference {
                let _ = write!(text, " at {reference}");
            }
            if let Some(columns) = &input.columns {
                let names: Vec<&str> = columns.iter().map(|column| column.value.as_str()).collect();
                let _ = write!(text, " [{}]", names.join(", "));
            }
            let names: Vec<String> = input.dictionary.iter().map(|column| column.value.clone()).collect();
            text.push_str(&dictionary(&names));
            if let Some(filter) = &input.filter {
                let _ = write!(text, " where {}", filter.text);
            }
            text
        })
        .collect();
    if let Some(stored) = &node.materialization {
        details.push(format!(
            "stored as {}: {}{}",
            node.table,
            strategy(&stored.strategy),
            layout(&stored.partition_by, &stored.sort_by)
        ));
    }
    branches(out, &heading, &details);
}

fn physical_node(out: &mut String, plan: &PhysicalPlan, id: usize, node: &crate::physical::Node) {
    let mut heading = columns(&format!("{id:>2} {}", node.name), node.work.kind());
    let mut details: Vec<String> = node
        .inputs
        .iter()
        .map(|input| {
            let columns = input.columns.as_ref().map(|columns| format!(" [{}]", columns.join(", "))).unwrap_or_default();
            let dictionary = dictionary(&input.dictionary);
            format!("{} <- {} {}{columns}{dictionary}", input.name, input.producer, plan.nodes[input.producer].name)
        })
        .collect();
    match &node.work {
        Work::Scan(scan) => {
            let snapshot = scan.snapshot_id.map_or("no data".to_owned(), |id| format!("snapshot {id}"));
            let _ = write!(heading, "  {snapshot}");
            let columns = scan.columns.as_ref().map_or("all".to_owned(), |columns| columns.join(", "));
            details.push(format!("columns {columns}{}", dictionary(&scan.dictionary)));
            details.extend(scan.filter.as_ref().map(|filter| format!("where {filter}")));
        }
        Work::Sql(sql) => details.push(format!("runs {}", sql.query.split_whitespace().collect::<Vec<_>>().join(" "))),
        Work::Python(python) => {
            let _ = write!(heading, "  {}", environment(&python.environment));
            details.push(format!("calls {}:{}({})", python.file, python.function, arguments(&python.arguments)));
            details.extend(python.internet_access.then(|| "may use the network".to_owned()));
        }
        Work::Write(write) => {
            let base = if write.base.is_some() { "" } else { ", a new table" };
            details.push(format!(
                "{} {}{}{base}",
                strategy(&write.strategy),
                write.table,
                layout(&write.partition_by, &write.sort_by)
            ));
        }
    }
    details.extend(limits(&node.resources));
    branches(out, &heading, &details);
}

/// Columns that are dictionaries, if there are any.
fn dictionary(columns: &[String]) -> String {
    if columns.is_empty() { String::new() } else { format!(", dictionary {}", columns.join(", ")) }
}

fn place(at: &Location) -> String {
    format!("{}:{}", at.file, at.line)
}

fn environment(spec: &EnvironmentSpec) -> String {
    let packages =
        spec.packages.iter().map(|(name, version)| if version.is_empty() { name.clone() } else { format!("{name} {version}") });
    std::iter::once(spec.python.clone()).chain(packages).collect::<Vec<_>>().join(", ")
}

fn arguments(arguments: &[Argument]) -> String {
    let shown = arguments.iter().map(|argument| match &argument.value {
        ArgumentValue::Table(form) => format!("{}: {}", argument.name, form_name(*form)),
        ArgumentValue::Literal(value) => format!("{}={}", argument.name, sql_literal(value)),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn form_name(form: TableForm) -> &'static str {
    match form {
        TableForm::PyArrow => "pyarrow.Table",
        TableForm::RecordBatchReader => "pyarrow.RecordBatchReader",
        TableForm::Pandas => "pandas.DataFrame",
        TableForm::Polars => "polars.DataFrame",
        TableForm::PolarsLazy => "polars.LazyFrame",
        TableForm::DuckDb => "duckdb.DuckDBPyRelation",
    }
}

fn strategy(strategy: &Strategy) -> String {
    match strategy {
        Strategy::Replace => "REPLACE".to_owned(),
        Strategy::Append => "APPEND".to_owned(),
        Strategy::OverwritePartitions { filter } => format!("OVERWRITE_PARTITIONS where {filter}"),
        Strategy::Merge { keys, delete_when: None } => format!("MERGE on {}", keys.join(", ")),
        Strategy::Merge { keys, delete_when: Some(filter) } => format!("MERGE on {}, delete when {filter}", keys.join(", ")),
    }
}

fn layout(partition_by: &[forebay_types::PartitionField], sort_by: &[forebay_types::SortField]) -> String {
    let mut text = String::new();
    for (word, fields) in [("partitioned", texts(partition_by)), ("sorted", texts(sort_by))] {
        if !fields.is_empty() {
            let _ = write!(text, ", {word} by {}", fields.join(", "));
        }
    }
    text
}

fn texts(fields: &[impl ToString]) -> Vec<String> {
    fields.iter().map(ToString::to_string).collect()
}

fn limits(resources: &Resources) -> Option<String> {
    let parts = [
        resources.cpus.map(|cpus| format!("{cpus} cpus")),
        resources.memory_bytes.map(|bytes| format!("{} MiB memory", bytes >> 20)),
        resources.timeout_seconds.map(|seconds| format!("{seconds} s")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("at most {}", parts.join(", ")))
}

/// The logical plan as JSON.
#[must_use]
pub fn logical_json(plan: &LogicalPlan) -> Value {
    let parameters: serde_json::Map<String, Value> =
        plan.parameters.iter().map(|(name, value)| (name.clone(), literal_json(value))).collect();
    let nodes: Vec<Value> = plan.nodes.iter().map(|node| logical_node_json(plan, node)).collect();
    json!({
        "schema": SCHEMA, "project": plan.project, "namespace": plan.namespace, "parameters": parameters,
        "strict": plan.strict, "dry_run": plan.dry_run, "nodes": nodes, "warnings": plan.warnings,
    })
}

fn logical_node_json(plan: &LogicalPlan, node: &logical::Node) -> Value {
    let names = |columns: &Option<Vec<crate::Spanned<String>>>| {
        columns.as_ref().map(|columns| columns.iter().map(|column| column.value.clone()).collect::<Vec<_>>())
    };
    let inputs: Vec<Value> = node
        .inputs
        .iter()
        .map(|input| {
            let (kind, table) = match &input.source {
                Source::Node(parent) => ("node", plan.nodes[*parent].name.clone()),
                Source::Lake(table) => ("lake", table.to_string()),
            };
            json!({
                "name": input.name, "source": kind, "table": table, "ref": input.reference, "columns": names(&input.columns),
                "filter": input.filter.as_ref().map(|filter| &filter.text),
                "dictionary": input.dictionary.iter().map(|column| &column.value).collect::<Vec<_>>(),
            })
        })
        .collect();
    let work = match &node.work {
        logical::Work::Sql(select) => json!({
            "kind": "sql", "query": select.text(),
            "dictionary": select.dictionary.iter().map(|column| &column.value).collect::<Vec<_>>(),
        }),
        logical::Work::Python(function) => json!({
            "kind": if function.returns == Returns::Truth { "expectation" } else { "python" },
            "function": function.function, "arguments": arguments_json(&function.arguments),
            "environment": environment_json(&function.environment), "internet_access": function.internet_access,
        }),
    };
    let stored = node.materialization.as_ref().map(|stored| {
        json!({
            "table": node.table.to_string(), "strategy": strategy_json(&stored.strategy),
            "partitioned_by": texts(&stored.partition_by), "sorted_by": texts(&stored.sort_by),
        })
    });
    json!({
        "name": node.name, "work": work, "inputs": inputs, "columns": names(&node.columns), "materialization": stored,
        "cached": node.cached, "resources": resources_json(&node.resources), "comment": node.comment, "at": location_json(&node.at),
    })
}

/// The physical plan as JSON.
#[must_use]
pub fn physical_json(plan: &PhysicalPlan) -> Value {
    let nodes: Vec<Value> = plan
        .nodes
        .iter()
        .enumerate()
        .map(|(id, node)| {
            let inputs: Vec<Value> = node
                .inputs
                .iter()
                .map(|input| {
                    json!({
                        "producer": input.producer, "name": input.name, "columns": input.columns, "dictionary": input.dictionary,
                    })
                })
                .collect();
            json!({
                "id": id, "name": node.name, "kind": node.work.kind(), "work": work_json(&node.work), "inputs": inputs,
                "resources": resources_json(&node.resources), "at": node.at.as_ref().map(location_json),
            })
        })
        .collect();
    json!({"schema": SCHEMA, "project": plan.project, "commit": plan.commit.as_str(), "nodes": nodes})
}

fn work_json(work: &Work) -> Value {
    match work {
        Work::Scan(scan) => json!({
            "table": scan.table.to_string(), "metadata_location": scan.metadata_location, "snapshot_id": scan.snapshot_id,
            "columns": scan.columns, "filter": scan.filter, "dictionary": scan.dictionary, "views": scan.views,
        }),
        Work::Sql(sql) => json!({"query": sql.query, "views": sql.views}),
        Work::Python(python) => json!({
            "file": python.file, "function": python.function, "arguments": arguments_json(&python.arguments),
            "environment": environment_json(&python.environment), "columns": python.columns, "internet_access": python.internet_access,
        }),
        Work::Write(write) => json!({
            "table": write.table.to_string(), "strategy": strategy_json(&write.strategy),
            "partitioned_by": texts(&write.partition_by), "sorted_by": texts(&write.sort_by),
            "base": write.base, "comment": write.comment,
            "column_docs": write.column_docs.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        }),
    }
}

fn arguments_json(arguments: &[Argument]) -> Vec<Value> {
    let shown = arguments.iter().map(|argument| match &argument.value {
        ArgumentValue::Table(form) => json!({"name": argument.name, "table": form_name(*form)}),
        ArgumentValue::Literal(value) => json!({"name": argument.name, "value": literal_json(value)}),
    });
    shown.collect()
}

fn environment_json(spec: &EnvironmentSpec) -> Value {
    let packages: serde_json::Map<String, Value> =
        spec.packages.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
    json!({"python": spec.python, "packages": packages})
}

fn strategy_json(strategy: &Strategy) -> Value {
    match strategy {
        Strategy::Replace => json!({"name": "REPLACE"}),
        Strategy::Append => json!({"name": "APPEND"}),
        Strategy::OverwritePartitions { filter } => json!({"name": "OVERWRITE_PARTITIONS", "filter": filter}),
        Strategy::Merge { keys, delete_when } => json!({"name": "MERGE", "keys": keys, "delete_when": delete_when}),
    }
}

fn resources_json(resources: &Resources) -> Value {
    json!({"cpus": resources.cpus, "memory_bytes": resources.memory_bytes, "timeout_seconds": resources.timeout_seconds})
}

fn location_json(at: &Location) -> Value {
    json!({"file": at.file, "line": at.line, "column": at.column})
}

fn literal_json(value: &Literal) -> Value {
    match value {
        Literal::Null => Value::Null,
        Literal::Bool(value) => json!(value),
        Literal::Int(number) => json!(number),
        Literal::Float(number) => json!(number),
        Literal::Str(text) => json!(text),
    }
}
