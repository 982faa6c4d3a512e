//! What manifests know of files, in the planner's terms: rows, nulls, bounds.
//!
//! Rows are exact unless some are deleted. Bytes of whole rows are not told: the planner would keep them for scans of few columns, and
//! take a narrow table for the larger side of a join. Bounds are inexact: Iceberg only promises that no value lies outside. An identity
//! partition value is exact, so a file's column of it becomes a constant, also where the file does not have the column.

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::stats::{ColumnStatistics, Precision, Statistics};
use iceberg::spec::{NestedFieldRef, PrimitiveLiteral, Schema, TableMetadata};

use crate::statistics::{identity_value, known, literals};
use crate::table::LiveFile;

/// Bytes of a string, list or the like of which nothing is known.
const VALUE_BYTES_GUESS: usize = 24;

/// How much larger strings are in memory than compressed in a file, roughly.
const UNCOMPRESSED_TIMES: usize = 3;

/// Statistics of one file. `deleted`: some of its rows are.
pub(super) fn of_file(
    live: &LiveFile,
    metadata: &TableMetadata,
    schema: &Schema,
    fields: &SchemaRef,
    deleted: bool,
) -> Statistics {
    let rows = count(live.file.record_count());
    let columns = schema.as_struct().fields().iter().zip(fields.fields());
    let columns: Vec<ColumnStatistics> =
        columns.map(|(stored, field)| column(live, metadata, stored, field, rows, deleted)).collect();
    let rows = if deleted { Precision::Inexact(rows) } else { Precision::Exact(rows) };
    Statistics { num_rows: rows, total_byte_size: Precision::Absent, column_statistics: columns }
}

/// Statistics of a scan of `files`. Nothing but the number of rows is exact.
pub(super) fn of_files(
    files: &[&LiveFile],
    metadata: &TableMetadata,
    schema: &Schema,
    fields: &SchemaRef,
    deleted: bool,
) -> Statistics {
    let mut merged: Option<Statistics> = None;
    for live in files {
        let next = of_file(live, metadata, schema, fields, deleted);
        merged = Some(match merged {
            None => next,
            Some(before) => merge(before, next),
        });
    }
    let mut statistics = merged.unwrap_or_else(|| Statistics::new_unknown(fields));
    for column in &mut statistics.column_statistics {
        let taken = std::mem::replace(column, ColumnStatistics::new_unknown());
        *column = ColumnStatistics {
            null_count: taken.null_count.to_inexact(),
            min_value: countable(taken.min_value.to_inexact()),
            max_value: taken.max_value.to_inexact(),
            byte_size: taken.byte_size.to_inexact(),
            ..taken
        };
    }
    statistics
}

fn merge(left: Statistics, right: Statistics) -> Statistics {
    let columns = left.column_statistics.into_iter().zip(right.column_statistics);
    let columns = columns.map(|(left, right)| ColumnStatistics {
        null_count: left.null_count.add(&right.null_count),
        min_value: left.min_value.min(&right.min_value),
        max_value: left.max_value.max(&right.max_value),
        byte_size: left.byte_size.add(&right.byte_size),
        ..ColumnStatistics::new_unknown()
    });
    Statistics {
        column_statistics: columns.collect(),
        num_rows: left.num_rows.add(&right.num_rows),
        total_byte_size: Precision::Absent,
    }
}

fn column(
    live: &LiveFile,
    metadata: &TableMetadata,
    stored: &NestedFieldRef,
    field: &Field,
    rows: usize,
    deleted: bool,
) -> ColumnStatistics {
    let kind = field.data_type();
    let bytes = match kind.primitive_width() {
        Some(width) => rows.saturating_mul(width),
        None => match live.file.column_sizes().get(&stored.id) {
            Some(compressed) => count(*compressed).saturating_mul(UNCOMPRESSED_TIMES).max(rows.saturating_mul(16)),
            None => rows.saturating_mul(VALUE_BYTES_GUESS),
        },
    };
    let known = known(live, metadata, stored);
    let value = |literal: &Option<PrimitiveLiteral>| scalar(literal.as_ref()?, stored, kind);
    let exactly = |nulls: usize| if deleted { Precision::Inexact(nulls) } else { Precision::Exact(nulls) };
    let constant = !kind.is_floating() && identity_value(live, metadata, stored.id).is_some();
    let precise = |value: Option<ScalarValue>| match value {
        Some(value) if constant => Precision::Exact(value),
        Some(value) => Precision::Inexact(value),
        None => Precision::Absent,
    };
    let lower = precise(value(&known.lower));
    ColumnStatistics {
        null_count: match known.nulls.map(count) {
            // Only of a partition value it is known to be more than another engine's word.
            Some(nulls) if constant => exactly(nulls),
            Some(nulls) => Precision::Inexact(nulls),
            None => Precision::Absent,
        },
        min_value: if constant { lower } else { countable(lower) },
        max_value: precise(value(&known.upper)),
        byte_size: Precision::Inexact(bytes),
        ..ColumnStatistics::new_unknown()
    }
}

/// A lower bound, unless it is the least 64-bit integer: DataFusion counts the values between two bounds in 64 bits, which do not
/// hold the number of all of them, and then fails.
fn countable(lower: Precision<ScalarValue>) -> Precision<ScalarValue> {
    use ScalarValue::{Int64, TimestampMicrosecond, TimestampNanosecond};
    match lower.get_value() {
        Some(Int64(Some(i64::MIN)) | TimestampMicrosecond(Some(i64::MIN), _) | TimestampNanosecond(Some(i64::MIN), _)) => {
            Precision::Absent
        }
        _ => lower,
    }
}

/// An Iceberg value as a value of the query.
fn scalar(literal: &PrimitiveLiteral, stored: &NestedFieldRef, kind: &DataType) -> Option<ScalarValue> {
    let array: ArrayRef = literals(stored.field_type.as_primitive_type()?, std::iter::once(Some(literal)))?;
    ScalarValue::try_from_array(&cast(&array, kind).ok()?, 0).ok().filter(|value| !value.is_null())
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
