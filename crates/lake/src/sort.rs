//! Sort orders: which columns the rows of a file are ordered by, and ordering them.
//!
//! Every file is ordered in itself, so that row groups and pages have narrow bounds; files of a table overlap. Strings
//! and binaries are ordered by bytes, as Iceberg and Parquet compare them; NaN is above all numbers.

use arrow::array::RecordBatch;
use arrow::compute::{SortOptions, interleave_record_batch};
use arrow::row::{RowConverter, SortField as RowField};
use forebay_types::SortField;
use iceberg::spec::{NullOrder, Schema, SortDirection, SortField as IcebergField, SortOrder, Transform};

use crate::error::{Error, Result, nearest};
use crate::schema::type_name;

/// Rows of a sorted batch.
const BATCH_ROWS: usize = 64 * 1024;

/// Checks the fields against the schema and makes the order; without fields, the order of a table that has none.
pub(crate) fn order(schema: &Schema, fields: &[SortField]) -> Result<SortOrder> {
    let mut builder = SortOrder::builder();
    for field in fields {
        let refuse = |why: String, near| Error::SortColumn { field: field.to_string(), why, near };
        let source = schema.as_struct().field_by_name(&field.column).ok_or_else(|| {
            let near = nearest(&field.column, schema.as_struct().fields().iter().map(|field| field.name.as_str()));
            refuse(format!("there is no column `{}`", field.column), near)
        })?;
        if !source.field_type.is_primitive() {
            return Err(refuse(format!("column `{}` is {}", field.column, type_name(&source.field_type)), None));
        }
        builder.with_sort_field(IcebergField {
            source_id: source.id,
            transform: Transform::Identity,
            direction: if field.descending { SortDirection::Descending } else { SortDirection::Ascending },
            null_order: if field.nulls_first { NullOrder::First } else { NullOrder::Last },
        });
    }
    builder.build(schema).map_err(Error::internal("make the sort order"))
}

/// The fields of an order as the user writes them; `None` if one is not ours (transformed, or over a nested column).
pub(crate) fn fields_of(order: &SortOrder, schema: &Schema) -> Option<Vec<SortField>> {
    order
        .fields
        .iter()
        .map(|field| {
            let column = schema.as_struct().fields().iter().find(|column| column.id == field.source_id)?;
            (field.transform == Transform::Identity).then(|| SortField {
                column: column.name.clone(),
                descending: field.direction == SortDirection::Descending,
                nulls_first: field.null_order == NullOrder::First,
            })
        })
        .collect()
}

/// The rows of one file's worth of batches in order. Rows that compare equal stay in the order they came.
pub(crate) fn sorted(batches: &[RecordBatch], fields: &[SortField]) -> Result<Vec<RecordBatch>> {
    let failed = |error: arrow::error::ArrowError| Error::internal("sort the rows")(error);
    let Some(first) = batches.first().filter(|_| !fields.is_empty()) else { return Ok(batches.to_vec()) };
    let schema = first.schema();
    let columns: Vec<usize> =
        fields.iter().map(|field| schema.index_of(&field.column)).collect::<Result<_, _>>().map_err(failed)?;
    let kinds = columns.iter().zip(fields).map(|(&column, field)| {
        let options = SortOptions { descending: field.descending, nulls_first: field.nulls_first };
        RowField::new_with_options(schema.field(column).data_type().clone(), options)
    });
    let converter = RowConverter::new(kinds.collect()).map_err(failed)?;
    let mut keys = Vec::with_capacity(batches.len());
    for batch in batches {
        let values: Vec<_> = columns.iter().map(|&column| batch.column(column).clone()).collect();
        keys.push(converter.convert_columns(&values).map_err(failed)?);
    }
    let mut places: Vec<(usize, usize)> =
        batches.iter().enumerate().flat_map(|(batch, rows)| (0..rows.num_rows()).map(move |row| (batch, row))).collect();
    places.sort_by(|a, b| keys[a.0].row(a.1).cmp(&keys[b.0].row(b.1)));
    let batches: Vec<&RecordBatch> = batches.iter().collect();
    places.chunks(BATCH_ROWS).map(|chunk| interleave_record_batch(&batches, chunk).map_err(failed)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    #[test]
    fn rows_are_ordered_over_batches_and_ties_stay() {
        let batch = |words: Vec<Option<&str>>, ids: Vec<i64>| {
            let columns = [("w", Arc::new(StringArray::from(words)) as _), ("id", Arc::new(Int64Array::from(ids)) as _)];
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
        };
        let batches = [batch(vec![Some("b"), None, Some("a")], vec![1, 2, 3]), batch(vec![Some("a"), Some("c")], vec![4, 5])];
        let ids = |order: &str| -> Vec<i64> {
            let fields = forebay_types::parse_sort_fields(order).unwrap();
            let sorted = sorted(&batches, &fields).unwrap();
            sorted.iter().flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec()).collect()
        };
        assert_eq!(ids("w"), [2, 3, 4, 1, 5]);
        assert_eq!(ids("w nulls last"), [3, 4, 1, 5, 2]);
        assert_eq!(ids("w desc, id desc"), [5, 1, 4, 3, 2]);
        assert_eq!(ids(""), [1, 2, 3, 4, 5]);
    }
}
