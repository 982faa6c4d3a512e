//! Compaction: small files of a partition become one, and row-level deletes of other engines are applied for good. The rows
//! stay the same, so the snapshot is called `replace`.
//!
//! Rows that are rewritten come after those that are not when the table is scanned next. At most the rows of one new file
//! are held in memory.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use iceberg::spec::{FormatVersion, Operation};

use crate::commit::{Change, Drop, Staged};
use crate::deletes;
use crate::error::{Error, Result};
use crate::files::FILE_BYTES_TARGET;
use crate::partition;
use crate::predicate::Keep;
use crate::rows::{self, Rows};
use crate::scan::{Plan, read_blocking};
use crate::table::{LiveFile, LiveFiles, Table};

/// What a compaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// The new metadata file; the old one if there was nothing to do.
    pub metadata_location: String,
    /// Data files that were rewritten.
    pub files_before: usize,
    /// Data files they became.
    pub files_after: usize,
    /// Delete files that are not needed any more.
    pub delete_files: usize,
    /// Rows rewritten.
    pub rows: u64,
}

/// Rewrites the files of a table that are smaller than `small_bytes`, that lack rows, or that were written for another
/// partitioning than the table has now.
///
/// # Errors
/// If the table cannot be read or must not be written to, or the store refuses.
pub async fn compact(metadata_location: &str, small_bytes: u64) -> Result<Compacted> {
    let base = Table::open(metadata_location).await?;
    base.check_writable()?;
    if partition::fields_of(base.metadata.default_partition_spec(), base.metadata.current_schema()).is_none() {
        let feature = "compaction with partitions by bucket, truncate or nested fields".to_owned();
        return Err(Error::Unsupported { table: base.location, feature });
    }
    let nothing = |base: Table| {
        let metadata_location = base.location;
        Ok(Compacted { metadata_location, files_before: 0, files_after: 0, delete_files: 0, rows: 0 })
    };
    let Some(snapshot) = base.metadata.current_snapshot() else { return nothing(base) };
    let live = base.live_files(snapshot).await?;
    let lacking = lacking(&live, &base.location).await?;
    let groups = groups(&live.data, &lacking, small_bytes, base.metadata.default_partition_spec_id());
    if groups.is_empty() && live.deletes.is_empty() {
        return nothing(base);
    }
    let staged = unchanged(base.clone())?;
    let mut dropped: HashSet<String> = live.deletes.iter().map(|delete| delete.file.file_path().to_owned()).collect();
    let delete_files = dropped.len();
    let mut added = Vec::new();
    let (mut files_before, mut row_count) = (0, 0);
    for group in groups {
        files_before += group.len();
        dropped.extend(group.iter().map(|live| live.file.file_path().to_owned()));
        let rows = read(&base, LiveFiles { data: group, deletes: live.deletes.clone() }).await?;
        row_count += rows.batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        added.extend(rows::store(&staged, vec![rows]).await?);
    }
    let files_after = added.len();
    let change = Change { added, operation: Operation::Replace, ..Change::of(Drop::Paths(dropped)) };
    let metadata_location = staged.commit(change).await?;
    Ok(Compacted { metadata_location, files_before, files_after, delete_files, rows: row_count })
}

/// The table as it is, but for the rows.
fn unchanged(base: Table) -> Result<Staged> {
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let builder = builder.upgrade_format_version(FormatVersion::V2).map_err(Error::internal("change the table metadata"))?;
    Staged::new(builder, Some(base))
}

/// Data files of which row-level deletes took rows away.
async fn lacking(live: &LiveFiles, table: &str) -> Result<HashSet<String>> {
    let (deletes, data, table) = (live.deletes.clone(), live.data.clone(), table.to_owned());
    let read = move || Ok(deletes::load(&deletes, &data, &table)?.files());
    tokio::task::spawn_blocking(read).await.map_err(Error::internal("read the deletes"))?
}

/// What is rewritten together: files of one partition, at most a new file's bytes.
fn groups(files: &[LiveFile], lacking: &HashSet<String>, small_bytes: u64, spec: i32) -> Vec<Vec<LiveFile>> {
    let must = |live: &LiveFile| live.spec_id != spec || lacking.contains(live.file.file_path());
    let mut partitions: BTreeMap<String, Vec<&LiveFile>> = BTreeMap::new();
    for live in files.iter().filter(|live| must(live) || live.file.file_size_in_bytes() < small_bytes) {
        partitions.entry(format!("{} {:?}", live.spec_id, live.file.partition())).or_default().push(live);
    }
    let mut groups: Vec<Vec<LiveFile>> = Vec::new();
    for files in partitions.into_values() {
        let (mut group, mut bytes) = (Vec::new(), 0);
        for live in files {
            if bytes + live.file.file_size_in_bytes() > FILE_BYTES_TARGET as u64 && !group.is_empty() {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += live.file.file_size_in_bytes();
            group.push(live.clone());
        }
        groups.push(group);
    }
    groups.retain(|group| group.len() > 1 || group.iter().any(must));
    groups
}

async fn read(base: &Table, files: LiveFiles) -> Result<Rows> {
    let schema = Arc::clone(base.metadata.current_schema());
    let clean = base.clean_schema(&schema);
    let plan = Plan {
        table: base.clone(),
        schema,
        delivered: Arc::clone(&clean),
        output: (0..clean.fields().len()).collect(),
        clean,
        filter: None,
        rows_filter: None,
        keep: Keep::Matching,
    };
    let scanned = read_blocking(plan, files).await?;
    let batches: Vec<RecordBatch> = scanned.batches;
    Ok(Rows { schema: scanned.schema, batches })
}
