//! The planner, a pure core: project sources and a snapshot of the catalog in, plans or reports out.
//!
//! ```text
//! Sources --read--> LogicalPlan --(+ Snapshot)--> PhysicalPlan
//! ```
//!
//! Reading is static: Python is parsed, SQL is parsed and planned against empty tables, and all mistakes that can be told apart are
//! reported at once, each at its file, line and column. [`logical`](logical()) works on the project alone; [`physical`](physical())
//! also checks it against the lake's tables and pins them.
//!
//! It executes nothing of the project, does no I/O and never sees the catalog: what it needs to know of
//! the lake comes as a [`Snapshot`] value.

mod analyze;
mod build;
#[cfg(test)]
mod cases;
mod column_docs;
mod comparisons;
mod decorators;
mod dictionary_functions;
mod document;
mod environment;
mod errors;
mod filters;
mod imported;
mod layout;
mod literal;
pub mod logical;
mod numbers;
mod order;
pub mod physical;
mod project;
mod python;
pub mod render;
pub mod requirements;
mod settings;
pub mod sql;
mod sql_file;
mod suggest;
mod text;

pub use build::physical;
pub use dictionary_functions::tidy_dictionary;
pub use imported::imported;
pub use layout::dictionary_type;
pub use logical::{LogicalPlan, logical, query};
pub use physical::PhysicalPlan;
pub use project::{
    DEFAULT_NAMESPACE, OTHER_PROJECT_FILES, PROJECT_FILE, Parameter, ParameterKind, Project, SECRET_VARIABLE_PREFIX,
    SecretSource, project,
};
pub use settings::{Spanned, memory_bytes};

use std::collections::{BTreeMap, BTreeSet};

use forebay_types::{CommitHash, PartitionField, TableName};

/// The files of a project, as text. Paths are relative to the project folder, with `/`.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Every `*.py` and `*.sql` file at the root of the project, its project file(s), and its files of requirements, sorted by
    /// path. `*.py` files of sub-folders are not models; they tell which packages models need.
    pub files: Vec<SourceFile>,
}

/// One file.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Relative path.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

/// What the caller sets for one run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Overrides the project's default namespace.
    pub namespace: Option<String>,
    /// `--param k=v`: values as text, parsed by the declared type.
    pub parameters: BTreeMap<String, String>,
    /// Names of the secret parameters that have a value; `None`: all of them, as far as a plan is concerned.
    pub secrets: Option<BTreeSet<String>>,
    /// Declared output columns that do not match are errors, not warnings.
    pub strict: bool,
    /// Plan no writes.
    pub dry_run: bool,
}

/// What the planner must know of the lake: the tables that [`LogicalPlan::lake_tables`] named.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The commit of the run's ref.
    pub commit: CommitHash,
    /// Names of all tables at that commit, for suggestions.
    pub names: Vec<TableName>,
    /// The tables asked for that exist, by name and the `ref` of the input (`None`: the run's own).
    pub tables: BTreeMap<(TableName, Option<String>), TableState>,
}

/// One table at one commit.
#[derive(Debug, Clone)]
pub struct TableState {
    /// URI of its Iceberg metadata file.
    pub metadata_location: String,
    /// Current Iceberg snapshot; `None` for a table without data.
    pub snapshot_id: Option<i64>,
    /// Its columns, as Arrow types.
    pub schema: arrow::datatypes::SchemaRef,
    /// Partition fields of the current spec.
    pub partition_by: Vec<PartitionField>,
    /// Rows, if the metadata tells.
    pub rows: Option<u64>,
    /// Bytes of its data files, if the metadata tells.
    pub bytes: Option<u64>,
}
