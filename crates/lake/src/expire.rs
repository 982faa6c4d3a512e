//! Expiry: a table forgets old snapshots. Only metadata changes; files go when no commit of the catalog leads to them.

use std::collections::HashSet;

use crate::commit::Staged;
use crate::error::{Error, Result};
use crate::table::Table;

/// What an expiry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// The new metadata file; the old one if there was nothing to forget.
    pub metadata_location: String,
    /// Snapshots forgotten.
    pub removed: usize,
    /// Snapshots left.
    pub kept: usize,
}

/// Forgets the snapshots made before `older_than_ms` (milliseconds since 1970), but for the `keep_last` newest of the
/// current line, and for those that names inside the metadata point to. The current one always stays.
///
/// # Errors
/// If the table cannot be read or must not be written to, or the store refuses.
pub async fn expire(metadata_location: &str, older_than_ms: i64, keep_last: usize) -> Result<Expired> {
    let base = Table::open(metadata_location).await?;
    base.check_writable()?;
    let metadata = &base.metadata;
    let mut stays = named(&base)?;
    let mut next = metadata.current_snapshot_id();
    for _ in 0..keep_last.max(1) {
        let Some(id) = next else { break };
        stays.insert(id);
        next = metadata.snapshot_by_id(id).and_then(|snapshot| snapshot.parent_snapshot_id());
    }
    let old = metadata.snapshots().filter(|snapshot| snapshot.timestamp_ms() < older_than_ms);
    let gone: Vec<i64> = old.map(|snapshot| snapshot.snapshot_id()).filter(|id| !stays.contains(id)).collect();
    let kept = metadata.snapshots().len() - gone.len();
    if gone.is_empty() {
        return Ok(Expired { metadata_location: base.location, removed: 0, kept });
    }
    let mut builder = metadata.clone().into_builder(Some(base.location.clone())).remove_snapshots(&gone);
    for id in &gone {
        builder = builder.remove_statistics(*id).remove_partition_statistics(*id);
    }
    let removed = gone.len();
    let metadata_location = Staged::new(builder, Some(base))?.finish()?;
    Ok(Expired { metadata_location, removed, kept })
}

/// Snapshots that names in the metadata point to: `main`, and what other engines made.
fn named(table: &Table) -> Result<HashSet<i64>> {
    // The library shows names one by one only.
    let json = serde_json::to_value(&table.metadata).map_err(Error::internal("encode the table metadata"))?;
    let refs = json.get("refs").and_then(serde_json::Value::as_object).into_iter().flatten();
    Ok(refs.filter_map(|(_, reference)| reference.get("snapshot-id")?.as_i64()).collect())
}
