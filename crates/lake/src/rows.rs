//! From rows as they were given to data files: stored types, partitions, Parquet. All of it off the async executor.

use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{DataFile, Schema};

use crate::commit::Staged;
use crate::conform::conform;
use crate::error::{Error, Result};
use crate::scan::parallel;
use crate::{files, partition, schema, sort, storage, strings};

/// Rows to store.
pub(crate) struct Rows {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

/// Writes rows to data files of the staged table.
pub(crate) async fn store(staged: &Staged, rows: Vec<Rows>) -> Result<Vec<DataFile>> {
    let folder = staged.folder()?.join("data");
    storage::create_folder(&folder)?;
    let metadata = &staged.metadata;
    let schema = Arc::clone(metadata.current_schema());
    let spec = Arc::clone(metadata.default_partition_spec());
    let clean = schema::clean_schema(&schema, &schema::notes_from_text(metadata.properties()));
    let order = metadata.default_sort_order();
    // Rows of a table whose order is not ours to keep are stored unordered, and their files say so.
    let sorted = sort::fields_of(order, &schema).filter(|fields| !fields.is_empty());
    let order_id = sorted.as_ref().and_then(|_| i32::try_from(order.order_id).ok());
    let work = move || {
        let stored = stored_schema(&schema)?;
        let mut all = Vec::new();
        for Rows { schema: given, batches } in rows {
            let rows = Rows { schema: given, batches: batches.into_iter().flat_map(strings::within_offsets).collect() };
            all.extend(parallel(&rows.batches, &|batch| to_stored(batch, &rows.schema, &clean, &stored))?);
        }
        let mut groups = partition::split(all, &schema, &spec)?;
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        if let Some(fields) = &sorted {
            for group in &mut groups {
                group.batches = sort::sorted(&group.batches, fields)?;
            }
        }
        let spec_id = spec.spec_id();
        files::write(groups, &files::Target { folder, schema, arrow: stored, spec_id, order_id, created: Mutex::default() })
    };
    tokio::task::spawn_blocking(work).await.map_err(Error::internal("write the data files"))?
}

/// The Arrow schema of the table's Parquet files, with field ids.
pub(crate) fn stored_schema(schema: &Schema) -> Result<SchemaRef> {
    schema_to_arrow_schema(schema).map(Arc::new).map_err(Error::internal("turn the schema into Arrow"))
}

/// A batch in the stored types. Columns are found by name; missing ones are null. Values pass through the table's
/// Arrow type, so that whatever is stored can be read back.
fn to_stored(batch: &RecordBatch, schema: &SchemaRef, clean: &SchemaRef, stored: &SchemaRef) -> Result<RecordBatch> {
    let columns = stored
        .fields()
        .iter()
        .zip(clean.fields())
        .map(|(field, clean)| {
            let column = match schema.index_of(field.name()) {
                Ok(index) => {
                    let column = to_stored_column(batch.column(index), field.name(), clean.data_type())?;
                    to_stored_column(&column, field.name(), field.data_type())?
                }
                Err(_) => new_null_array(field.data_type(), batch.num_rows()),
            };
            if !field.is_nullable() && column.null_count() > 0 {
                let why = format!("{} of {} values are null", column.null_count(), column.len());
                return Err(Error::Required { column: field.name().clone(), why });
            }
            Ok(column)
        })
        .collect::<Result<Vec<ArrayRef>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(stored), columns, &options).map_err(Error::internal("shape the rows"))
}

fn to_stored_column(column: &ArrayRef, name: &str, kind: &DataType) -> Result<ArrayRef> {
    conform(column, kind, None).map_err(|problem| {
        let hint = match column.data_type() {
            DataType::Timestamp(..) | DataType::Time64(_) | DataType::Time32(_) => {
                "Iceberg keeps microseconds: round the column first, for example with `.dt.floor('us')`"
            }
            DataType::Date64 => "Iceberg keeps whole days: use a timestamp instead",
            _ => "cast the column to a type that holds all its values",
        };
        Error::Value { column: name.to_owned(), why: problem.why, hint }
    })
}
