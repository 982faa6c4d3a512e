//! Strings of the tables that go into a query and come out of it: plain, as views, as dictionaries.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use forebay_plan::tidy_dictionary;
use forebay_shm::{as_views, view_type};

use super::{Rows, Strings};
use crate::limits::{BATCH_ROWS_MIN, KEPT_PER_USED_MAX};

/// Parts of a table, each in batches.
type Parts = Vec<Vec<RecordBatch>>;

/// Bytes of a column that its rows refer to. Views count by their buffers, as far as those are no larger than a piece's.
pub(super) fn bytes(column: &ArrayRef) -> usize {
    column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
}

/// The table with its columns of strings and binaries as views over the same bytes. Strings inside lists and structs stay.
pub(super) fn with_views(schema: &SchemaRef, parts: Parts) -> Result<(SchemaRef, Parts), ArrowError> {
    let mut fields = schema.fields().to_vec();
    let mut columns: Vec<usize> = (0..fields.len()).filter(|&index| view_type(fields[index].data_type()).is_some()).collect();
    let mut viewed: Vec<Vec<Vec<ArrayRef>>> =
        parts.iter().map(|part| part.iter().map(|batch| batch.columns().to_vec()).collect()).collect();
    // A column with a value no view can hold keeps its type, in every batch.
    columns.retain(|&index| {
        let views: Option<Vec<Vec<ArrayRef>>> =
            parts.iter().map(|part| part.iter().map(|batch| as_views(batch.column(index))).collect()).collect();
        let Some(views) = views else { return false };
        for (arrays, views) in viewed.iter_mut().flatten().zip(views.into_iter().flatten()) {
            arrays[index] = views;
        }
        true
    });
    for index in columns {
        if let Some(kind) = view_type(fields[index].data_type()) {
            fields[index] = Arc::new(Field::clone(&fields[index]).with_data_type(kind));
        }
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let parts = parts.iter().zip(viewed).map(|(part, viewed)| {
        let batch = |(batch, columns): (&RecordBatch, Vec<ArrayRef>)| rebatch(&schema, columns, batch.num_rows());
        part.iter().zip(viewed).map(batch).collect::<Result<Vec<_>, _>>()
    });
    let parts = parts.collect::<Result<Vec<_>, ArrowError>>()?;
    Ok((schema, parts))
}

fn rebatch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

/// The schema with plain strings and binaries.
pub(super) fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new_with_metadata(changed_fields(schema.fields(), plain), schema.metadata().clone()))
}

/// The batch with the types of `target`, a [`plain_schema`].
pub(super) fn plain_batch(batch: &RecordBatch, target: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(target.fields()).map(|(column, field)| converted(column, field.data_type()));
    rebatch(target, columns.collect::<Result<_, _>>()?, batch.num_rows())
}

/// The result of a query: no empty batches, none that are tiny on average, strings as they are to leave, dictionaries tidy.
pub(super) fn result(schema: SchemaRef, batches: Vec<RecordBatch>, strings: Strings) -> Result<Rows, ArrowError> {
    let target: SchemaRef = match strings {
        Strings::Plain => plain_schema(&schema),
        Strings::Views => Arc::new(Schema::new_with_metadata(changed_fields(schema.fields(), viewed), schema.metadata().clone())),
    };
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut batches: Vec<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
    if batches.len() > 1 && rows / batches.len() < BATCH_ROWS_MIN {
        batches = vec![concat_batches(batches[0].schema_ref(), &batches)?];
    }
    let mut columns = Vec::new();
    for (index, field) in target.fields().iter().enumerate() {
        let column = batches.iter().map(|batch| converted(batch.column(index), field.data_type()));
        columns.push(column.collect::<Result<Vec<_>, _>>()?);
    }
    columns.iter_mut().for_each(|column| compact(column));
    let columns_of = |batch: usize| columns.iter().map(|column| Arc::clone(&column[batch])).collect();
    let batches = batches.iter().enumerate().map(|(index, batch)| rebatch(&target, columns_of(index), batch.num_rows()));
    let batches = batches.collect::<Result<Vec<_>, _>>()?;
    Ok(Rows { schema: target, batches })
}

/// Copies the strings of a column of views together if its batches keep far more than they use: a few rows of a large table.
/// Batches are looked at together, because after a sort each of them refers to all the memory they share.
fn compact(column: &mut [ArrayRef]) {
    let mut kept: HashMap<*const u8, usize> = HashMap::new();
    let mut used = 0;
    for array in column.iter() {
        let buffers = match array.data_type() {
            DataType::Utf8View => (array.as_string_view().data_buffers(), array.as_string_view().total_buffer_bytes_used()),
            DataType::BinaryView => (array.as_binary_view().data_buffers(), array.as_binary_view().total_buffer_bytes_used()),
            _ => return,
        };
        kept.extend(buffers.0.iter().map(|buffer| (buffer.as_ptr(), buffer.len())));
        used += buffers.1;
    }
    if kept.values().sum::<usize>() > used.saturating_mul(KEPT_PER_USED_MAX) {
        for array in column {
            match array.data_type() {
                DataType::Utf8View => *array = Arc::new(array.as_string_view().gc()),
                _ => *array = Arc::new(array.as_binary_view().gc()),
            }
        }
    }
}

fn converted(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    let column = match view_type(kind) {
        Some(view) if view == *kind && column.data_type() != kind => as_views(column).map_or_else(|| cast(column, kind), Ok)?,
        _ if column.data_type() == kind => Arc::clone(column),
        _ => cast(column, kind)?,
    };
    tidy_dictionary(&column)
}

fn changed_fields(fields: &Fields, change: fn(&DataType) -> Option<DataType>) -> Fields {
    fields
        .iter()
        .map(|field| match change(field.data_type()) {
            Some(kind) => Arc::new(Field::clone(field).with_data_type(kind)),
            None => Arc::clone(field),
        })
        .collect()
}

/// What replaces a type where strings leave as views: strings that a function made plain. Lists and structs stay plain.
fn viewed(kind: &DataType) -> Option<DataType> {
    match kind {
        DataType::Utf8 | DataType::Binary => view_type(kind),
        _ => plain_dictionary(kind),
    }
}

/// What replaces a type where strings leave as plain ones, if anything does.
fn plain(kind: &DataType) -> Option<DataType> {
    let item = |field: &FieldRef| plain(field.data_type()).map(|kind| Arc::new(Field::clone(field).with_data_type(kind)));
    match kind {
        DataType::Utf8View => Some(DataType::Utf8),
        DataType::BinaryView => Some(DataType::Binary),
        DataType::List(field) => item(field).map(DataType::List),
        DataType::LargeList(field) => item(field).map(DataType::LargeList),
        DataType::FixedSizeList(field, length) => item(field).map(|field| DataType::FixedSizeList(field, *length)),
        DataType::Struct(fields) => {
            fields.iter().any(|field| plain(field.data_type()).is_some()).then(|| DataType::Struct(changed_fields(fields, plain)))
        }
        _ => plain_dictionary(kind),
    }
}

/// Dictionaries have plain strings as values, whatever the layout of others.
fn plain_dictionary(kind: &DataType) -> Option<DataType> {
    let DataType::Dictionary(key, value) = kind else { return None };
    plain(value).map(|value| DataType::Dictionary(key.clone(), Box::new(value)))
}
