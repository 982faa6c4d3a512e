//! Schemas as bytes: the encapsulated Arrow IPC `Schema` message, which any Arrow implementation reads.
//!
//! The reader of `arrow-ipc` panics on schemas it does not know, and types it accepts may break later code
//! (`FixedSizeBinary(-1)`). [`decode`] therefore walks the flatbuffer first and lets only known shapes through.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, UnionFields};
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow::ipc::{self, DateUnit, IntervalUnit, Precision, TimeUnit, Type, UnionMode};

use crate::{Error, Limits};

/// Field metadata that belongs to one Parquet file, and must not follow the data out of it.
const FILE_METADATA: [&str; 1] = ["PARQUET:field_id"];

const CONTINUATION: [u8; 4] = [0xff; 4];

/// The schema a table has outside the file it came from: without `PARQUET:field_id` at any depth.
#[must_use]
pub fn without_file_metadata(schema: &SchemaRef) -> SchemaRef {
    if !schema.fields().iter().any(|field| is_marked(field)) {
        return Arc::clone(schema);
    }
    let fields: Fields = schema.fields().iter().map(strip).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn is_marked(field: &Field) -> bool {
    FILE_METADATA.iter().any(|key| field.metadata().contains_key(*key))
        || children(field.data_type()).iter().any(|f| is_marked(f))
}

fn children(data_type: &DataType) -> Vec<&FieldRef> {
    match data_type {
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
        | DataType::Map(f, _) => vec![f],
        DataType::Struct(fields) => fields.iter().collect(),
        DataType::Union(fields, _) => fields.iter().map(|(_, f)| f).collect(),
        DataType::RunEndEncoded(ends, values) => vec![ends, values],
        DataType::Dictionary(_, values) => children(values),
        _ => Vec::new(),
    }
}

fn strip(field: &FieldRef) -> FieldRef {
    let metadata: HashMap<String, String> = field
        .metadata()
        .iter()
        .filter(|(key, _)| !FILE_METADATA.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Arc::new(field.as_ref().clone().with_data_type(strip_type(field.data_type())).with_metadata(metadata))
}

fn strip_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::List(f) => DataType::List(strip(f)),
        DataType::LargeList(f) => DataType::LargeList(strip(f)),
        DataType::ListView(f) => DataType::ListView(strip(f)),
        DataType::LargeListView(f) => DataType::LargeListView(strip(f)),
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(strip(f), *n),
        DataType::Map(f, sorted) => DataType::Map(strip(f), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(strip).collect()),
        DataType::Union(fields, mode) => {
            DataType::Union(fields.iter().map(|(id, f)| (id, strip(f))).collect::<UnionFields>(), *mode)
        }
        DataType::RunEndEncoded(ends, values) => DataType::RunEndEncoded(strip(ends), strip(values)),
        DataType::Dictionary(keys, values) => DataType::Dictionary(keys.clone(), Box::new(strip_type(values))),
        other => other.clone(),
    }
}

/// The schema as an encapsulated IPC message, padded to 8 bytes.
pub(crate) fn encode(schema: &Schema) -> Vec<u8> {
    let message = IpcDataGenerator::default()
        .schema_to_bytes_with_dictionary_tracker(schema, &mut DictionaryTracker::new(false), &IpcWriteOptions::default())
        .ipc_message;
    let padded = message.len().next_multiple_of(8);
    let mut bytes = Vec::with_capacity(8 + padded);
    bytes.extend_from_slice(&CONTINUATION);
    bytes.extend_from_slice(&u32::try_from(padded).expect("a schema is built in memory and below 2 GiB").to_le_bytes());
    bytes.extend_from_slice(&message);
    bytes.resize(8 + padded, 0);
    bytes
}

/// Reads hostile bytes.
pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<SchemaRef, Error> {
    let damaged = |why: &str| Error::Damaged(format!("its schema {why}"));
    let flatbuffer = match bytes.split_at_checked(8) {
        Some((head, rest)) if head[..4] == CONTINUATION => rest,
        _ => return Err(damaged("has no header")),
    };
    let message = ipc::root_as_message(flatbuffer).map_err(|_| damaged("is not a flatbuffer"))?;
    let schema = message.header_as_schema().ok_or_else(|| damaged("is another message"))?;
    if schema.endianness() != ipc::Endianness::Little {
        return Err(damaged("is big-endian"));
    }
    let fields = schema.fields().ok_or_else(|| damaged("has no fields"))?;
    if fields.len() > limits.columns_max {
        return Err(Error::Limit { what: "columns", found: fields.len() as u64, max: limits.columns_max as u64 });
    }
    for field in fields {
        check(field, limits.depth_max).ok_or_else(|| damaged("has a type this build does not know"))?;
    }
    Ok(Arc::new(try_schema_from_ipc_buffer(bytes).map_err(|_| damaged("cannot be read"))?))
}

/// `Some` for a field `arrow-ipc` converts without a panic into a type that every later step can handle.
fn check(field: ipc::Field<'_>, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    if let Some(dictionary) = field.dictionary() {
        check_int(dictionary.indexType()?)?;
    }
    let children = field.children();
    let count = children.map_or(0, |c| c.len());
    let wanted = check_type(field, count)?;
    if count != wanted {
        return None;
    }
    for child in children.into_iter().flatten() {
        check(child, depth)?;
    }
    match field.type_type() {
        Type::Map => check_map(children?.get(0)),
        Type::RunEndEncoded => check_run_ends(children?.get(0)),
        _ => Some(()),
    }
}

fn check_int(int: ipc::Int<'_>) -> Option<()> {
    matches!(int.bitWidth(), 8 | 16 | 32 | 64).then_some(())
}

/// A map's only child is a struct of two.
fn check_map(entries: ipc::Field<'_>) -> Option<()> {
    let plain = entries.type_type() == Type::Struct_ && entries.dictionary().is_none();
    (plain && entries.children()?.len() == 2).then_some(())
}

/// Run ends are signed integers of 16 bits or more, never null.
fn check_run_ends(ends: ipc::Field<'_>) -> Option<()> {
    let int = ends.type_as_int()?;
    (int.is_signed() && int.bitWidth() >= 16 && !ends.nullable() && ends.dictionary().is_none()).then_some(())
}

/// The number of children the field's type has, if the type is known.
fn check_type(field: ipc::Field<'_>, count: usize) -> Option<usize> {
    let known = |unit: TimeUnit| (TimeUnit::SECOND..=TimeUnit::NANOSECOND).contains(&unit).then_some(0);
    match field.type_type() {
        Type::Null | Type::Bool => Some(0),
        Type::Binary | Type::BinaryView | Type::LargeBinary | Type::Utf8 | Type::Utf8View | Type::LargeUtf8 => Some(0),
        Type::Int => check_int(field.type_as_int()?).map(|()| 0),
        Type::FixedSizeBinary => (field.type_as_fixed_size_binary()?.byteWidth() >= 0).then_some(0),
        Type::FloatingPoint => {
            let precision = field.type_as_floating_point()?.precision();
            [Precision::HALF, Precision::SINGLE, Precision::DOUBLE].contains(&precision).then_some(0)
        }
        Type::Date => [DateUnit::DAY, DateUnit::MILLISECOND].contains(&field.type_as_date()?.unit()).then_some(0),
        Type::Time => {
            let time = field.type_as_time()?;
            let units: [TimeUnit; 2] = match time.bitWidth() {
                32 => [TimeUnit::SECOND, TimeUnit::MILLISECOND],
                64 => [TimeUnit::MICROSECOND, TimeUnit::NANOSECOND],
                _ => return None,
            };
            units.contains(&time.unit()).then_some(0)
        }
        Type::Timestamp => known(field.type_as_timestamp()?.unit()),
        Type::Duration => known(field.type_as_duration()?.unit()),
        Type::Interval => {
            let unit = field.type_as_interval()?.unit();
            [IntervalUnit::YEAR_MONTH, IntervalUnit::DAY_TIME, IntervalUnit::MONTH_DAY_NANO].contains(&unit).then_some(0)
        }
        Type::List | Type::LargeList | Type::ListView | Type::LargeListView => Some(1),
        Type::FixedSizeList => (field.type_as_fixed_size_list()?.listSize() >= 0).then_some(1),
        Type::Map => field.type_as_map().map(|_| 1),
        Type::Struct_ => Some(count),
        Type::RunEndEncoded => Some(2),
        Type::Decimal => check_decimal(field.type_as_decimal()?),
        Type::Union => check_union(field.type_as_union()?, count),
        _ => None,
    }
}

fn check_decimal(decimal: ipc::Decimal<'_>) -> Option<usize> {
    let digits = match decimal.bitWidth() {
        32 => 9,
        64 => 18,
        128 => 38,
        256 => 76,
        _ => return None,
    };
    ((1..=digits).contains(&decimal.precision()) && (-digits..=digits).contains(&decimal.scale())).then_some(0)
}

fn check_union(union: ipc::Union<'_>, count: usize) -> Option<usize> {
    if ![UnionMode::Dense, UnionMode::Sparse].contains(&union.mode()) || count > 128 {
        return None;
    }
    if let Some(ids) = union.typeIds() {
        let mut seen = 0_u128;
        for id in ids {
            let bit = 1_u128 << u32::try_from(id).ok().filter(|id| *id < 128)?;
            if seen & bit != 0 {
                return None;
            }
            seen |= bit;
        }
        if ids.len() != count {
            return None;
        }
    }
    Some(count)
}
