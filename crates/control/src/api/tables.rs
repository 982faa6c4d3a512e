//! Plans and histories of tables, as the protocol says them.

use serde::{Deserialize, Serialize};

/// What a table for some files would be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableCreatePlan {
    pub job_id: String,
    /// The plan, as YAML that a person may edit.
    pub plan: String,
    /// Whether it can be applied as it is: no column has types that do not go together.
    pub can_auto_apply: bool,
    /// Columns whose types do not go together.
    pub conflicts: Vec<String>,
    /// The files looked at, which an import would take.
    pub files_to_be_imported: Vec<String>,
}

/// What one commit did to a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableChange {
    /// The commit.
    pub hash: String,
    /// RFC 3339, UTC.
    pub authored_date: String,
    /// Who made it.
    pub author: String,
    /// First line of its message.
    pub message: String,
    /// `created`, `changed` or `deleted`.
    pub change: String,
    /// What the table's newest snapshot did: `append`, `overwrite`, `delete`, `replace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// That snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<i64>,
    /// Rows after the commit, if the metadata tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Rows the snapshot added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_records: Option<u64>,
    /// Rows the snapshot took away. What was rewritten counts on both sides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_records: Option<u64>,
    /// Its metadata file after the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_location: Option<String>,
}
