//! Tests of whole tables: written, read, changed and damaged through the public functions.
//!
//! Each module tests one promise; this file holds what they share.

mod codes;
mod evolve;
mod imports;
mod merge;
mod model;
mod pruning;
mod replay;
mod row_deletes;
mod strings;
mod tables;
mod types;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use forebay_types::{Coded, PartitionField, parse_partition_fields};

use crate::{Error, Mode, Result, ScanRequest, Scanned, WriteRequest, Written, scan, write};

/// A temporary folder for tables.
pub(super) struct Lake {
    folder: tempfile::TempDir,
}

impl Lake {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes to the table `t`.
    pub(super) async fn write(
        &self,
        base: Option<&Written>,
        mode: Mode,
        partition_by: &str,
        batch: &RecordBatch,
    ) -> Result<Written> {
        let request = WriteRequest {
            location: self.path("t"),
            base: base.map(|written| written.metadata_location.clone()),
            mode,
            partition_by: fields(partition_by),
            sort_by: Vec::new(),
            docs: Vec::new(),
            properties: Vec::new(),
        };
        write(request, batch.schema(), vec![batch.clone()]).await
    }

    /// A new table with these rows.
    pub(super) async fn table(&self, partition_by: &str, batch: &RecordBatch) -> Written {
        self.write(None, Mode::Replace, partition_by, batch).await.unwrap()
    }
}

pub(super) fn fields(text: &str) -> Vec<PartitionField> {
    parse_partition_fields(text).unwrap()
}

/// Reads a table with a filter; an empty one means none.
pub(super) async fn filtered(table: &Written, filter: &str) -> Result<Scanned> {
    scan(ScanRequest {
        metadata_location: table.metadata_location.clone(),
        filter: (!filter.is_empty()).then(|| filter.to_owned()),
        ..ScanRequest::default()
    })
    .await
}

/// All rows as one batch.
pub(super) async fn all(table: &Written) -> RecordBatch {
    let scanned = filtered(table, "").await.unwrap();
    concat_batches(&scanned.schema, &scanned.batches).unwrap()
}

pub(super) fn rows(scanned: &Scanned) -> usize {
    scanned.batches.iter().map(RecordBatch::num_rows).sum()
}

/// A batch of nullable columns.
pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// `id` counting from `from`, `region` of three and null, `ts` two hours apart with some nulls.
pub(super) fn trips(from: i64, to: i64) -> RecordBatch {
    let ids: Vec<i64> = (from..to).collect();
    let place = |id: i64| ["eu", "us", "größe/ü %"].get(usize::try_from(id % 4).unwrap()).copied();
    let region: StringArray = ids.iter().map(|id| place(*id)).collect();
    let ts: TimestampMicrosecondArray = ids.iter().map(|id| (id % 11 != 7).then_some(id * 7_200_000_000)).collect();
    batch(vec![("id", Arc::new(Int64Array::from(ids))), ("region", Arc::new(region)), ("ts", Arc::new(ts))])
}

pub(super) fn ids(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column_by_name("id").unwrap();
    column.as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
}

pub(super) fn empty(schema: &SchemaRef) -> RecordBatch {
    RecordBatch::new_empty(Arc::clone(schema))
}

/// The code of an error that must have come.
#[track_caller]
pub(super) fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("this must fail").report().code.to_string()
}
