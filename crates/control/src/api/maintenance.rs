//! What maintenance of a lake did: collections, compactions, expiries.

use serde::{Deserialize, Serialize};

use super::Ref;

/// What a collection of garbage found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Catalog objects that were, or would be, removed.
    pub removed: u64,
    /// Catalog objects that stay.
    pub kept: u64,
    /// Files of tables that were, or would be, removed.
    pub table_files: u64,
    /// Their size.
    pub table_bytes: u64,
    /// Files of tables that stay.
    pub table_files_kept: u64,
}

/// What a compaction did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compacted {
    pub job_id: String,
    #[serde(rename = "ref")]
    pub at: Ref,
    /// Data files that were rewritten.
    pub files_before: u64,
    /// Data files they became.
    pub files_after: u64,
    /// Delete files of other engines that were applied for good.
    pub delete_files: u64,
    /// Rows rewritten.
    pub rows: u64,
}

/// What an expiry did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Expired {
    pub job_id: String,
    #[serde(rename = "ref")]
    pub at: Ref,
    /// Snapshots forgotten.
    pub removed: u64,
    /// Snapshots left.
    pub kept: u64,
}
