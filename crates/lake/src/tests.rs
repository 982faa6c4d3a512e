//! Tests of whole tables: written, read, changed and damaged through the public functions.
//!
//! Each module tests one promise; this file holds what they share.

mod codes;
mod evolve;
mod found;
mod imports;
mod maintenance;
mod merge;
mod model;
mod pruning;
mod register;
mod remote;
mod replay;
mod row_deletes;
mod skipping;
mod strings;
mod tables;
mod types;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider as _;
use datafusion::prelude::{SessionConfig, SessionContext};
use forebay_plan::sql::filter_expression;
use forebay_types::{Coded, PartitionField, parse_partition_fields};

use crate::{Error, LakeTable, Mode, Result, ScanRequest, Scanned, WriteRequest, Written, scan, write};

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

/// Reads a table with a filter; an empty one means none. A query reads it as well, and must get the same.
pub(super) async fn filtered(table: &Written, filter: &str) -> Result<Scanned> {
    let scanned = scan(ScanRequest {
        metadata_location: table.metadata_location.clone(),
        filter: (!filter.is_empty()).then(|| filter.to_owned()),
        ..ScanRequest::default()
    })
    .await?;
    assert_eq!(
        queried(table, filter, &scanned.schema).await,
        concat_batches(&scanned.schema, &scanned.batches).unwrap(),
        "{filter}"
    );
    Ok(scanned)
}

/// The same rows through DataFusion, brought to the types of a scan.
async fn queried(table: &Written, filter: &str, schema: &SchemaRef) -> RecordBatch {
    let provider = Arc::new(LakeTable::open(&table.metadata_location, None).await.unwrap());
    let config = SessionConfig::new().with_target_partitions(1).with_round_robin_repartition(false);
    let mut rows = SessionContext::new_with_config(config).read_table(Arc::clone(&provider) as _).unwrap();
    if !filter.is_empty() {
        rows = rows.filter(filter_expression(filter, &provider.schema()).unwrap()).unwrap();
    }
    let batches = rows.collect().await.unwrap();
    let plain = |batch: &RecordBatch| {
        let columns = batch.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap()).collect();
        RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
    };
    concat_batches(schema, &batches.iter().map(plain).collect::<Vec<_>>()).unwrap()
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
