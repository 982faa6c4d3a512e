//! What differs between two refs, as the protocol says it.

use serde::{Deserialize, Serialize};

/// From one commit to another.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// Tables only in the second; full names.
    pub added: Vec<String>,
    /// Tables only in the first.
    pub removed: Vec<String>,
    /// Tables in both, with different metadata.
    pub changed: Vec<String>,
    /// Namespaces only in the second.
    pub added_namespaces: Vec<String>,
    /// Namespaces only in the first.
    pub removed_namespaces: Vec<String>,
    /// What is different about each of these tables, in their order by name; empty with `names_only`.
    #[serde(default)]
    pub tables: Vec<TableDiff>,
}

/// What is different about one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableDiff {
    /// Full name.
    pub table: String,
    /// `added removed changed`
    pub change: String,
    /// In the first; `null` if it is not there.
    pub before: Option<TableSide>,
    /// In the second.
    pub after: Option<TableSide>,
    /// The columns that differ in anything, in the order of the second, then of the first.
    pub columns: Vec<ColumnDiff>,
}

/// A table on one side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableSide {
    /// Rows; `null` if deletes of another engine make them costly to count.
    pub records: Option<u64>,
    /// Live data files.
    pub files: u64,
    /// Bytes of these.
    pub size: Option<u64>,
    /// `["day(ts)", "country"]`
    pub partitions: Vec<String>,
    pub snapshot_id: Option<i64>,
    pub metadata_location: String,
    pub comment: Option<String>,
}

/// What is different about one column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnDiff {
    /// Its name in the second, if it is there.
    pub name: String,
    /// `added removed changed`
    pub change: String,
    pub before: Option<ColumnSide>,
    pub after: Option<ColumnSide>,
}

/// A column on one side. Statistics are those of manifests: bounds, not always values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ColumnSide {
    pub name: String,
    /// Iceberg type.
    #[serde(rename = "type")]
    pub kind: String,
    pub required: bool,
    pub doc: Option<String>,
    /// Number of nulls, if known.
    pub nulls: Option<u64>,
    /// No value is below.
    pub lower: Option<String>,
    /// No value is above.
    pub upper: Option<String>,
}
