//! Statistics of data files (from manifests) and of row groups (from Parquet footers), as [`Containers`].
//!
//! Iceberg and Parquet leave NaN out of bounds, while SQL here sorts NaN above all numbers. So the bounds of a float
//! column count only when the file is known to hold no NaN.

use std::borrow::Borrow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::SchemaRef;
use iceberg::spec::{Datum, NestedFieldRef, PrimitiveLiteral, PrimitiveType, Schema, TableMetadata, Transform};
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::RowGroupMetaData;
use parquet::schema::types::SchemaDescriptor;

use crate::predicate::{Bounds, Containers};
use crate::table::LiveFile;

/// Statistics of files for `columns` (indices into the schema).
pub(crate) fn of_files<L: Borrow<LiveFile>>(
    files: &[L],
    metadata: &TableMetadata,
    schema: &Schema,
    clean: &SchemaRef,
    columns: &[usize],
) -> Containers {
    let mut containers = Containers::new(files.iter().map(|live| live.borrow().file.record_count()));
    for &column in columns {
        let field = &schema.as_struct().fields()[column];
        let Some(kind) = field.field_type.as_primitive_type() else { continue };
        let known: Vec<Known> = files.iter().map(|live| known(live.borrow(), metadata, field)).collect();
        let literals = |pick: fn(&Known) -> Option<&PrimitiveLiteral>| literals(kind, known.iter().map(pick));
        let bounds = Bounds {
            lower: literals(|known| known.lower.as_ref()),
            upper: literals(|known| known.upper.as_ref()),
            nulls: known.iter().map(|known| known.nulls).collect(),
        };
        containers.add(clean, column, bounds);
    }
    containers
}

/// What is known of one column of one file.
pub(crate) struct Known {
    pub lower: Option<PrimitiveLiteral>,
    pub upper: Option<PrimitiveLiteral>,
    pub nulls: Option<u64>,
}

/// What is known of a column of a file, from its manifest entry.
pub(crate) fn known(live: &LiveFile, metadata: &TableMetadata, field: &NestedFieldRef) -> Known {
    let file = &live.file;
    if let Some(value) = identity_value(live, metadata, field.id) {
        let nulls = if value.is_some() { 0 } else { file.record_count() };
        let value = value.filter(|value| !value.is_nan());
        return Known { lower: value.clone(), upper: value, nulls: Some(nulls) };
    }
    let nulls = file.null_value_counts().get(&field.id).copied();
    let may_have_nan = field.field_type.as_primitive_type().is_some_and(PrimitiveType::is_float)
        && file.nan_value_counts().get(&field.id) != Some(&0);
    if may_have_nan {
        return Known { lower: None, upper: None, nulls };
    }
    let literal = |datum: &Datum| datum.literal().clone();
    Known {
        lower: file.lower_bounds().get(&field.id).map(literal),
        upper: file.upper_bounds().get(&field.id).map(literal),
        nulls,
    }
}

trait IsFloat {
    fn is_float(&self) -> bool;
}

impl IsFloat for PrimitiveType {
    fn is_float(&self) -> bool {
        matches!(self, Self::Float | Self::Double)
    }
}

/// The value every row of the file has in a column it is partitioned by; the inner `None` is null.
pub(crate) fn identity_value(live: &LiveFile, metadata: &TableMetadata, field_id: i32) -> Option<Option<PrimitiveLiteral>> {
    let spec = metadata.partition_spec_by_id(live.spec_id)?;
    let index = spec.fields().iter().position(|field| field.source_id == field_id && field.transform == Transform::Identity)?;
    let value = live.file.partition().fields().get(index)?;
    Some(match value {
        Some(value) => Some(value.as_primitive_literal()?),
        None => None,
    })
}

/// Iceberg values as an Arrow array of the type they are stored as; `None` for types that are not compared.
pub(crate) fn literals<'a>(kind: &PrimitiveType, values: impl Iterator<Item = Option<&'a PrimitiveLiteral>>) -> Option<ArrayRef> {
    use PrimitiveLiteral as L;
    let int = |value: Option<&L>| match value {
        Some(L::Int(value)) => Some(*value),
        _ => None,
    };
    let long = |value: Option<&L>| match value {
        Some(L::Int(value)) => Some(i64::from(*value)),
        Some(L::Long(value)) => Some(*value),
        _ => None,
    };
    let double = |value: Option<&L>| match value {
        Some(L::Float(value)) => Some(f64::from(value.0)),
        Some(L::Double(value)) => Some(value.0),
        _ => None,
    };
    let text = |value: Option<&'a L>| match value {
        Some(L::String(value)) => Some(value.as_str()),
        _ => None,
    };
    let bytes = |value: Option<&'a L>| match value {
        Some(L::Binary(value)) => Some(value.as_slice()),
        _ => None,
    };
    Some(match kind {
        PrimitiveType::Boolean => Arc::new(
            values.map(|value| if let Some(L::Boolean(value)) = value { Some(*value) } else { None }).collect::<BooleanArray>(),
        ),
        PrimitiveType::Int => Arc::new(values.map(int).collect::<Int32Array>()),
        PrimitiveType::Date => Arc::new(values.map(int).collect::<Date32Array>()),
        PrimitiveType::Long => Arc::new(values.map(long).collect::<Int64Array>()),
        PrimitiveType::Time => Arc::new(values.map(long).collect::<Time64MicrosecondArray>()),
        PrimitiveType::Timestamp => Arc::new(values.map(long).collect::<TimestampMicrosecondArray>()),
        PrimitiveType::Timestamptz => Arc::new(values.map(long).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        PrimitiveType::TimestampNs => Arc::new(values.map(long).collect::<TimestampNanosecondArray>()),
        PrimitiveType::TimestamptzNs => Arc::new(values.map(long).collect::<TimestampNanosecondArray>().with_timezone("UTC")),
        #[allow(clippy::cast_possible_truncation)] // The value was an f32.
        PrimitiveType::Float => Arc::new(values.map(|value| double(value).map(|value| value as f32)).collect::<Float32Array>()),
        PrimitiveType::Double => Arc::new(values.map(double).collect::<Float64Array>()),
        PrimitiveType::Decimal { precision, scale } => {
            let values: Decimal128Array =
                values.map(|value| if let Some(L::Int128(value)) = value { Some(*value) } else { None }).collect();
            let (precision, scale) = (u8::try_from(*precision).ok()?, i8::try_from(*scale).ok()?);
            Arc::new(values.with_precision_and_scale(precision, scale).ok()?)
        }
        PrimitiveType::String => Arc::new(values.map(text).collect::<StringArray>()),
        PrimitiveType::Binary => Arc::new(values.map(bytes).collect::<BinaryArray>()),
        PrimitiveType::Fixed(_) | PrimitiveType::Uuid => return None,
    })
}

/// A column of a file that the filter reads.
pub(crate) struct FileColumn {
    /// Index into the table's schema.
    pub column: usize,
    /// Index of the file's root column; `None`: the file was written before the column existed.
    pub root: Option<usize>,
    /// Whether the file may hold NaN in it.
    pub may_have_nan: bool,
}

/// Statistics of row groups.
pub(crate) fn of_row_groups(
    groups: &[RowGroupMetaData],
    file_schema: &SchemaRef,
    parquet: &SchemaDescriptor,
    clean: &SchemaRef,
    columns: &[FileColumn],
) -> Containers {
    let rows = groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0));
    let mut containers = Containers::new(rows.clone());
    for column in columns {
        let Some(root) = column.root else {
            let bounds = Bounds { lower: None, upper: None, nulls: UInt64Array::from_iter_values(rows.clone()) };
            containers.add(clean, column.column, bounds);
            continue;
        };
        let name = file_schema.field(root).name();
        let Ok(converter) = StatisticsConverter::try_new(name, file_schema, parquet) else { continue };
        let converter = converter.with_missing_null_counts_as_zero(false);
        let Ok(nulls) = converter.row_group_null_counts(groups) else { continue };
        let known = !column.may_have_nan;
        let bounds = Bounds {
            lower: known.then(|| converter.row_group_mins(groups).ok()).flatten(),
            upper: known.then(|| converter.row_group_maxes(groups).ok()).flatten(),
            nulls,
        };
        containers.add(clean, column.column, bounds);
    }
    containers
}
