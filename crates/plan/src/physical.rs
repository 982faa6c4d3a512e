//! The physical plan: what a worker runs. Every name is resolved, every input pinned, every parameter filled in.
//!
//! Nodes are in topological order: a node's inputs come before it.

use forebay_types::{CommitHash, Location, PartitionField, SortField, TableName};

/// Index of a node in [`PhysicalPlan::nodes`].
pub type NodeId = usize;

/// A DAG ready to run against one commit of the lake.
#[derive(Debug, Clone, PartialEq)]
pub struct PhysicalPlan {
    /// The project's name.
    pub project: String,
    /// The commit all lake inputs without a `ref` of their own were resolved at.
    pub commit: CommitHash,
    /// Functions, in topological order.
    pub nodes: Vec<Node>,
}

impl PhysicalPlan {
    /// Sets the limits of a whole run above those of its models: processors of every function, memory of every model.
    pub fn limit(&mut self, cpus: Option<f64>, memory_bytes: Option<u64>) {
        for node in &mut self.nodes {
            node.resources.cpus = cpus.or(node.resources.cpus);
            if matches!(node.work, Work::Python(_) | Work::Sql(_)) {
                node.resources.memory_bytes = memory_bytes.or(node.resources.memory_bytes);
            }
        }
    }
}

/// One function to execute, in a process of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Shown to people, unique in the plan: `flights` (model), `scan:default.flights`, `filter:delays`, `write:delays`.
    pub name: String,
    /// What to do.
    pub work: Work,
    /// Tables it reads from other nodes.
    pub inputs: Vec<Input>,
    /// Limits of the process.
    pub resources: Resources,
    /// The place in the project that asked for it, for messages.
    pub at: Option<Location>,
}

/// An edge: a table of `producer`, under the name the consumer knows it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The node that makes the table.
    pub producer: NodeId,
    /// Python: the argument's name. SQL: the table's name in the query, exactly as the query spells it after normalisation. Write: `table`.
    pub name: String,
    /// Columns handed over, in this order (`None`: all). A projection costs no copy.
    pub columns: Option<Vec<String>>,
    /// Columns of strings that are handed over as dictionaries: those that are none are encoded then.
    pub dictionary: Vec<String>,
}

/// The kinds of function.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Reads a lake table.
    Scan(Scan),
    /// Runs one SELECT over its inputs: a SQL model, or the filter on an in-DAG input.
    Sql(Sql),
    /// Calls a user's Python function.
    Python(Python),
    /// Writes its one input as an Iceberg table.
    Write(Write),
}

impl Work {
    /// The word for the kind: `scan`, `sql`, `python`, `expectation`, `write`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Scan(_) => "scan",
            Self::Sql(_) => "sql",
            Self::Python(python) if python.returns == Returns::Truth => "expectation",
            Self::Python(_) => "python",
            Self::Write(_) => "write",
        }
    }
}

/// A pinned read of a lake table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The table.
    pub table: TableName,
    /// URI of its Iceberg metadata file at the pinned commit.
    pub metadata_location: String,
    /// The Iceberg snapshot read; `None` for a table without data.
    pub snapshot_id: Option<i64>,
    /// Columns to read, in this order; `None` reads all.
    pub columns: Option<Vec<String>>,
    /// A SQL boolean expression over the table's columns (also ones not in `columns`), type-checked, parameters filled in.
    pub filter: Option<String>,
    /// Columns of strings that are read as dictionaries, in the table's order.
    pub dictionary: Vec<String>,
    /// Whether strings leave as views.
    pub views: bool,
}

/// One SELECT. Tables in it are the node's inputs, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sql {
    /// The statement, parameters filled in, DataFusion dialect.
    pub query: String,
    /// Whether strings leave as views.
    pub views: bool,
}

/// A call of a user's function.
#[derive(Debug, Clone, PartialEq)]
pub struct Python {
    /// Path of the file relative to the project folder.
    pub file: String,
    /// The function's name.
    pub function: String,
    /// Arguments in the order of the signature.
    pub arguments: Vec<Argument>,
    /// Interpreter and packages.
    pub environment: EnvironmentSpec,
    /// Table or truth value.
    pub returns: Returns,
    /// Columns the model declared for its output; a mismatch is a warning, in strict mode an error.
    pub columns: Option<Vec<String>>,
    /// Whether the function may use the network.
    pub internet_access: bool,
}

/// One argument of a Python function.
#[derive(Debug, Clone, PartialEq)]
pub struct Argument {
    /// The parameter's name in the signature.
    pub name: String,
    /// Where its value comes from.
    pub value: ArgumentValue,
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq)]
pub enum ArgumentValue {
    /// The node input of that name, handed over in this form.
    Table(TableForm),
    /// A parameter of the project.
    Literal(Literal),
}

/// How a function wants its table; read from the annotation, `pyarrow.Table` without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableForm {
    /// `pyarrow.Table`
    PyArrow,
    /// `pyarrow.RecordBatchReader`
    RecordBatchReader,
    /// `pandas.DataFrame`
    Pandas,
    /// `polars.DataFrame`
    Polars,
    /// `polars.LazyFrame`
    PolarsLazy,
    /// `duckdb.DuckDBPyRelation`
    DuckDb,
}

/// A parameter's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// Absent, allowed because the parameter is not required.
    Null,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `float`
    Float(f64),
    /// `str`
    Str(String),
}

/// What a Python function must return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Returns {
    /// A table: a model.
    Table,
    /// True or false: an expectation.
    Truth,
}

/// What the user asked for; `envs` makes an exact environment of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentSpec {
    /// `major.minor`, for example `3.11`.
    pub python: String,
    /// Package name and version as written (`2.2.0`, `2.0`, `>=2,<3`, empty for any), sorted by name.
    pub packages: Vec<(String, String)>,
    /// Packages that handing tables over needs, unless they are named above.
    pub needs: Vec<String>,
}

/// An Iceberg write. Its one input is the table's new content (or what is added to it).
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The table.
    pub table: TableName,
    /// What happens to rows that are there.
    pub strategy: Strategy,
    /// Partition fields for a table that is created or replaced.
    pub partition_by: Vec<PartitionField>,
    /// Order of the rows of each file.
    pub sort_by: Vec<SortField>,
    /// The table's metadata file at the pinned commit; `None`: it does not exist yet.
    pub base: Option<String>,
    /// The model's docstring, stored as the table's `comment` property.
    pub comment: Option<String>,
    /// What its columns mean, by name.
    pub column_docs: Vec<(String, String)>,
}

/// Materialization strategies that write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// The rows become the table's whole content; the schema may change.
    Replace,
    /// The rows are added.
    Append,
    /// Rows that match the filter (over partition columns) go, then all rows are added.
    OverwritePartitions {
        /// A SQL boolean expression over partition columns, parameters filled in.
        filter: String,
    },
    /// Rows with a key that is given go, then all rows are added that do not delete.
    Merge {
        /// Columns that identify a row.
        keys: Vec<String>,
        /// A SQL boolean expression over the rows given, parameters filled in: those that delete.
        delete_when: Option<String>,
    },
}

/// Limits of one function's process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resources {
    /// Processor cores.
    pub cpus: Option<f64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<u64>,
    /// Wall-clock limit in seconds.
    pub timeout_seconds: Option<u64>,
}
