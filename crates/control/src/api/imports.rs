//! How an import went.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Ref;

/// How an import went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImportResult {
    pub job_id: String,
    #[serde(rename = "ref")]
    pub at: Ref,
    pub rows: u64,
    /// Files imported.
    pub files: Vec<String>,
    /// Files left out because they were imported before.
    pub skipped: Vec<String>,
    /// `[{"file","error"}]` with `continue_on_error`.
    pub failed: Vec<Value>,
}
