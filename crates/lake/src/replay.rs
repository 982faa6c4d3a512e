//! Appends commute: the rows one writer appended can be put upon what another writer made of the table meanwhile.
//!
//! The data files stay as they are; only metadata is written anew. What commutes is exactly this: both states are of
//! one table, ours is one append upon the base, and schema and partitioning are still those the files were written for.

use std::collections::HashSet;

use iceberg::spec::{DataFile, Operation};

use crate::commit::{Change, Drop};
use crate::error::Result;
use crate::table::{Table, live_paths};
use crate::write::kept;

/// Appends to the table at `onto` the files that led from `base` to `ours`. Returns the new metadata file, or `None`
/// if it does not commute: then the rows have to be written again.
///
/// # Errors
/// If a metadata file is missing or damaged, or the disk refuses.
pub async fn replay_append(base: &str, ours: &str, onto: &str) -> Result<Option<String>> {
    let (base, ours, onto) = (Table::open(base).await?, Table::open(ours).await?, Table::open(onto).await?);
    if !commutes(&base, &ours, &onto) {
        return Ok(None);
    }
    let Some(added) = added(&base, &ours).await? else { return Ok(None) };
    onto.check_writable()?;
    let staged = kept(onto, &[])?;
    staged.commit(Change { added, dropped: Drop::Nothing, operation: Operation::Append }).await.map(Some)
}

fn commutes(base: &Table, ours: &Table, onto: &Table) -> bool {
    let [b, o, n] = [base, ours, onto].map(|table| &table.metadata);
    let one_append = o.current_snapshot().is_some_and(|snapshot| {
        snapshot.parent_snapshot_id() == b.current_snapshot_id() && snapshot.summary().operation == Operation::Append
    });
    let one_table = b.uuid() == o.uuid() && o.uuid() == n.uuid();
    let same_shape = o.current_schema().as_struct() == n.current_schema().as_struct()
        && o.default_partition_spec() == n.default_partition_spec()
        && ours.notes == onto.notes;
    one_append && one_table && same_shape
}

/// The files `ours` has more; `None` if it lacks one of `base`.
async fn added(base: &Table, ours: &Table) -> Result<Option<Vec<DataFile>>> {
    let before = match base.metadata.current_snapshot() {
        Some(snapshot) => live_paths(&base.live_files(snapshot).await?),
        None => HashSet::new(),
    };
    let Some(snapshot) = ours.metadata.current_snapshot() else { return Ok(None) };
    let live = ours.live_files(snapshot).await?;
    if !before.is_subset(&live_paths(&live)) {
        return Ok(None);
    }
    let added = live.data.into_iter().filter(|file| !before.contains(file.file.file_path()));
    Ok(Some(added.map(|live| live.file).collect()))
}
