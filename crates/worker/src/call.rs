//! A node of the plan as the call its process takes: the plan's types become the wire's, by hand.

use std::path::Path;

use forebay_plan::physical::{ArgumentValue, Literal, Node, Python, Returns, Strategy, TableForm, Work, Write};
use forebay_sipc::call;
use forebay_types::TableName;
use serde_json::Value;

use crate::secrets::Secrets;

/// What every call of a run needs.
pub struct Context<'a> {
    /// The project's snapshot folder.
    pub project: &'a Path,
    /// Folder for new tables.
    pub tables_root: &'a str,
    /// Whether a mismatch of declared columns is an error.
    pub strict: bool,
    /// Values of secret parameters.
    pub secrets: &'a Secrets,
    /// What the operators of a SQL model may use.
    pub memory: call::Memory,
}

/// The work of a node, for the wire.
pub fn work(node: &Node, context: &Context<'_>) -> call::Work {
    match &node.work {
        Work::Scan(scan) => call::Work::Scan {
            metadata_location: scan.metadata_location.clone(),
            snapshot_id: scan.snapshot_id,
            columns: scan.columns.clone(),
            filter: scan.filter.clone(),
            dictionary: scan.dictionary.clone(),
            views: scan.views,
        },
        Work::Sql(sql) => call::Work::Sql { query: sql.query.clone(), views: sql.views, memory: context.memory.clone() },
        Work::Python(python) => python_work(python, context),
        Work::Write(write) => write_work(write, context),
    }
}

/// Names and columns of a node's inputs, in the order of the messages.
pub fn inputs(node: &Node) -> Vec<call::CallInput> {
    let input = |input: &forebay_plan::physical::Input| call::CallInput {
        name: input.name.clone(),
        columns: input.columns.clone(),
        dictionary: input.dictionary.clone(),
    };
    node.inputs.iter().map(input).collect()
}

fn python_work(python: &Python, context: &Context<'_>) -> call::Work {
    let argument = |argument: &forebay_plan::physical::Argument| {
        let name = argument.name.clone();
        match &argument.value {
            ArgumentValue::Table(form) => call::Argument::Table { name, form: form_word(*form).to_owned() },
            ArgumentValue::Literal(literal) => call::Argument::Value { name, value: value(literal, context.secrets) },
        }
    };
    call::Work::Python {
        project: context.project.to_string_lossy().into_owned(),
        file: python.file.clone(),
        function: python.function.clone(),
        arguments: python.arguments.iter().map(argument).collect(),
        truth: python.returns == Returns::Truth,
        columns: python.columns.clone(),
        strict: context.strict,
    }
}

fn form_word(form: TableForm) -> &'static str {
    match form {
        TableForm::PyArrow => "pyarrow",
        TableForm::RecordBatchReader => "reader",
        TableForm::Pandas => "pandas",
        TableForm::Polars => "polars",
        TableForm::PolarsLazy => "polars-lazy",
        TableForm::DuckDb => "duckdb",
    }
}

fn value(literal: &Literal, secrets: &Secrets) -> Value {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => (*value).into(),
        Literal::Int(value) => (*value).into(),
        Literal::Float(value) => (*value).into(),
        Literal::Str(value) => value.as_str().into(),
        Literal::Secret(name) => secrets.value(name).map_or(Value::Null, Value::from),
    }
}

fn write_work(write: &Write, context: &Context<'_>) -> call::Work {
    let (strategy, filter, keys) = match &write.strategy {
        Strategy::Replace => ("replace", None, Vec::new()),
        Strategy::Append => ("append", None, Vec::new()),
        Strategy::OverwritePartitions { filter } => ("overwrite", Some(filter.clone()), Vec::new()),
        Strategy::Merge { keys, delete_when } => ("merge", delete_when.clone(), keys.clone()),
    };
    call::Work::Write {
        location: new_location(context.tables_root, &write.table),
        base: write.base.clone(),
        strategy: strategy.to_owned(),
        filter,
        keys,
        sort_by: write.sort_by.iter().map(ToString::to_string).collect(),
        column_docs: write.column_docs.clone(),
        partition_by: write.partition_by.iter().map(|f| (f.column.clone(), f.transform.to_string())).collect(),
        properties: write.comment.iter().map(|comment| ("comment".to_owned(), comment.clone())).collect(),
    }
}

/// A folder nobody has used: `<root>/<namespace>/<table>-<uuid>`.
pub fn new_location(tables_root: &str, table: &TableName) -> String {
    let root = tables_root.trim_end_matches('/');
    format!("{root}/{}/{}-{}", table.namespace(), table.name(), uuid::Uuid::new_v4())
}
