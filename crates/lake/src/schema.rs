//! Arrow types and Iceberg types, both ways.
//!
//! Iceberg v2 has fewer types than Arrow. Each Arrow type is stored as the narrowest Iceberg type that holds all its
//! values, so that any engine reads equal values:
//!
//! ```text
//! int8 int16 int32 uint8 uint16 -> int        date32 date64 (whole days)  -> date
//! int64 uint32                  -> long       time32 time64 (whole µs)    -> time
//! uint64                        -> decimal(20, 0)  timestamp (whole µs)   -> timestamp, with a zone: timestamptz
//! float16 float32 -> float, float64 -> double utf8 large view, null       -> string
//! decimal32 64 128 256 (<= 38)  -> decimal    binary large view           -> binary, fixed size: fixed
//! list, large, fixed size, view -> list       struct -> struct, map -> map; dictionary, run-end: their values
//! ```
//!
//! Where the way back would not give the Arrow type again, the type is noted in the table property
//! [`TYPES_PROPERTY`], a JSON object from field id to Arrow type (`{"3":"UInt64","5":"Timestamp(ns)"}`). A note is
//! used only while the field's Iceberg type is still the one that Arrow type is stored as; so a column that another
//! engine has widened is read as Iceberg says. Dictionaries, views of lists and null columns are not noted: they are
//! read back as their values, lists and strings.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, SchemaRef, TimeUnit};
use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type};

use crate::error::{Error, Result};

/// Table property that keeps Arrow types Iceberg cannot express.
pub const TYPES_PROPERTY: &str = "forebay.arrow-types";

/// Nesting of a column's type, at most.
const TYPE_DEPTH_MAX: usize = 64;

/// Arrow types by field id, as text; see [`TYPES_PROPERTY`].
pub(crate) type Notes = BTreeMap<i32, String>;

/// Refuses what cannot be a table: no columns, empty names, a name twice.
pub(crate) fn check_columns(schema: &ArrowSchema) -> Result<()> {
    if schema.fields().is_empty() {
        return Err(Error::NoColumns);
    }
    let mut names = BTreeSet::new();
    for (index, field) in schema.fields().iter().enumerate() {
        if field.name().is_empty() {
            return Err(Error::ColumnName { why: format!("column {} has an empty name", index + 1) });
        }
        if !names.insert(field.name().as_str()) {
            return Err(Error::ColumnName { why: format!("two columns are called `{}`", field.name()) });
        }
    }
    Ok(())
}

/// The Iceberg schema an Arrow schema is stored as, with field ids from 1.
pub(crate) fn to_iceberg(schema: &ArrowSchema) -> Result<Schema> {
    check_columns(schema)?;
    let mut next_id = 1;
    let fields =
        schema.fields().iter().map(|field| nested_field(field.name(), field, &mut next_id, 0)).collect::<Result<Vec<_>>>()?;
    Schema::builder().with_fields(fields).build().map_err(|error| Error::ColumnName { why: error.message().to_owned() })
}

pub(crate) fn nested_field(column: &str, field: &Field, next_id: &mut i32, depth: usize) -> Result<NestedFieldRef> {
    let id = *next_id;
    *next_id += 1;
    let kind = iceberg_type(column, field.data_type(), next_id, depth + 1)?;
    Ok(Arc::new(NestedField::new(id, field.name(), kind, !field.is_nullable())))
}

fn iceberg_type(column: &str, kind: &DataType, next_id: &mut i32, depth: usize) -> Result<Type> {
    if depth > TYPE_DEPTH_MAX {
        return Err(refused(column, "nested more than 64 levels deep", "flatten the column"));
    }
    let mut child = |field: &Field| nested_field(column, field, next_id, depth);
    Ok(match kind {
        DataType::Struct(fields) if fields.is_empty() => {
            return Err(refused(column, "struct without fields", "drop the column"));
        }
        DataType::Struct(fields) => {
            let mut names = BTreeSet::new();
            if let Some(twice) = fields.iter().find(|field| !names.insert(field.name())) {
                let why = format!("two fields of the struct `{column}` are called `{}`", twice.name());
                return Err(Error::ColumnName { why });
            }
            Type::Struct(StructType::new(fields.iter().map(|field| child(field)).collect::<Result<_>>()?))
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return Err(refused(column, &kind.to_string(), "rebuild the column as a map of keys and values"));
            };
            let (key, value) = (child(&pair[0])?, child(&pair[1])?);
            Type::Map(MapType::new(
                Arc::new(NestedField::map_key_element(key.id, (*key.field_type).clone())),
                Arc::new(NestedField::map_value_element(value.id, (*value.field_type).clone(), value.required)),
            ))
        }
        DataType::Dictionary(_, value) => return iceberg_type(column, value, next_id, depth + 1),
        DataType::RunEndEncoded(_, value) => return iceberg_type(column, value.data_type(), next_id, depth + 1),
        _ => match list_item(kind) {
            Some(item) => {
                let item = child(item)?;
                let element = NestedField::list_element(item.id, (*item.field_type).clone(), item.required);
                Type::List(ListType::new(Arc::new(element)))
            }
            None => Type::Primitive(stored_as(kind).ok_or_else(|| refused(column, &kind.to_string(), advice(kind)))?),
        },
    })
}

fn refused(column: &str, kind: &str, hint: &'static str) -> Error {
    Error::Type { column: column.to_owned(), kind: kind.to_owned(), hint }
}

fn advice(kind: &DataType) -> &'static str {
    match kind {
        DataType::Duration(_) | DataType::Interval(_) => "convert the duration to a number, for example of seconds",
        DataType::Decimal256(..) | DataType::Decimal128(..) => "cast it to a decimal of at most 38 digits",
        DataType::Union(..) => "split the union into one column per type",
        _ => "cast the column to another type, or drop it",
    }
}

/// The item of any kind of list.
pub(crate) fn list_item(kind: &DataType) -> Option<&FieldRef> {
    match kind {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => Some(item),
        _ => None,
    }
}

/// The Iceberg type that holds every value of a flat Arrow type.
pub(crate) fn stored_as(kind: &DataType) -> Option<PrimitiveType> {
    let decimal = |precision: u8, scale: i8| {
        let (precision, scale) = (u32::from(precision), u32::try_from(scale).ok()?);
        (precision <= 38 && scale <= precision).then_some(PrimitiveType::Decimal { precision, scale })
    };
    Some(match kind {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => PrimitiveType::Int,
        DataType::Int64 | DataType::UInt32 => PrimitiveType::Long,
        DataType::UInt64 => PrimitiveType::Decimal { precision: 20, scale: 0 },
        DataType::Float16 | DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => decimal(*precision, *scale)?,
        DataType::Date32 | DataType::Date64 => PrimitiveType::Date,
        DataType::Time32(_) | DataType::Time64(_) => PrimitiveType::Time,
        DataType::Timestamp(_, None) => PrimitiveType::Timestamp,
        DataType::Timestamp(_, Some(_)) => PrimitiveType::Timestamptz,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => PrimitiveType::String,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => PrimitiveType::Binary,
        DataType::FixedSizeBinary(bytes) => PrimitiveType::Fixed(u64::try_from(*bytes).ok()?),
        _ => return None,
    })
}

/// The Arrow type a flat Iceberg type is read as when nothing is noted.
pub(crate) fn read_as(kind: &PrimitiveType) -> DataType {
    let narrow = |number: u32| u8::try_from(number).unwrap_or(38);
    match kind {
        PrimitiveType::Boolean => DataType::Boolean,
        PrimitiveType::Int => DataType::Int32,
        PrimitiveType::Long => DataType::Int64,
        PrimitiveType::Float => DataType::Float32,
        PrimitiveType::Double => DataType::Float64,
        PrimitiveType::Decimal { precision, scale } => {
            DataType::Decimal128(narrow(*precision), i8::try_from(*scale).unwrap_or(38))
        }
        PrimitiveType::Date => DataType::Date32,
        PrimitiveType::Time => DataType::Time64(TimeUnit::Microsecond),
        PrimitiveType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        PrimitiveType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        PrimitiveType::TimestampNs => DataType::Timestamp(TimeUnit::Nanosecond, None),
        PrimitiveType::TimestamptzNs => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        PrimitiveType::String => DataType::Utf8,
        PrimitiveType::Uuid => DataType::FixedSizeBinary(16),
        PrimitiveType::Fixed(bytes) => i32::try_from(*bytes).map_or(DataType::Binary, DataType::FixedSizeBinary),
        PrimitiveType::Binary => DataType::Binary,
    }
}

/// Notes for the columns of `arrow`, which was stored as `iceberg`: same columns in the same order.
pub(crate) fn notes(arrow: &ArrowSchema, iceberg: &Schema) -> Notes {
    let mut notes = Notes::new();
    for (field, stored) in arrow.fields().iter().zip(iceberg.as_struct().fields()) {
        note(field.data_type(), stored, &mut notes);
    }
    notes
}

pub(crate) fn note(kind: &DataType, stored: &NestedField, notes: &mut Notes) {
    match (kind, stored.field_type.as_ref()) {
        (DataType::Dictionary(_, value), _) => note(value, stored, notes),
        (DataType::RunEndEncoded(_, value), _) => note(value.data_type(), stored, notes),
        (DataType::Struct(fields), Type::Struct(stored)) => {
            fields.iter().zip(stored.fields()).for_each(|(field, stored)| note(field.data_type(), stored, notes));
        }
        (DataType::Map(entries, _), Type::Map(stored)) => {
            if let DataType::Struct(pair) = entries.data_type() {
                note(pair[0].data_type(), &stored.key_field, notes);
                note(pair[1].data_type(), &stored.value_field, notes);
            }
        }
        (_, Type::List(list)) => {
            match kind {
                DataType::LargeList(_) | DataType::LargeListView(_) => {
                    notes.insert(stored.id, "LargeList".into());
                }
                DataType::FixedSizeList(_, size) => {
                    notes.insert(stored.id, format!("FixedSizeList({size})"));
                }
                _ => {}
            }
            if let Some(item) = list_item(kind) {
                note(item.data_type(), &list.element_field, notes);
            }
        }
        // How an engine lays out strings says nothing about the table: views are read as what they are stored as.
        (DataType::Null | DataType::Utf8View | DataType::BinaryView, _) => {}
        (kind, Type::Primitive(primitive)) if *kind != read_as(primitive) => {
            notes.insert(stored.id, kind.to_string());
        }
        _ => {}
    }
}

/// The notes as the property's text; `None` without notes.
pub(crate) fn notes_to_text(notes: &Notes) -> Option<String> {
    (!notes.is_empty()).then(|| {
        let object: serde_json::Map<String, serde_json::Value> =
            notes.iter().map(|(id, kind)| (id.to_string(), kind.clone().into())).collect();
        serde_json::Value::Object(object).to_string()
    })
}

/// Reads the property; text that is not ours counts as no notes.
pub(crate) fn notes_from_text(properties: &HashMap<String, String>) -> Notes {
    let Some(text) = properties.get(TYPES_PROPERTY) else { return Notes::new() };
    serde_json::from_str::<BTreeMap<String, String>>(text)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(id, kind)| Some((id.parse().ok()?, kind)))
        .collect()
}

/// The Arrow schema a table is read as: no metadata, Iceberg names, Arrow's own names inside lists and maps.
pub(crate) fn clean_schema(iceberg: &Schema, notes: &Notes) -> SchemaRef {
    let fields: Fields = iceberg.as_struct().fields().iter().map(|field| clean_field(field, notes)).collect();
    Arc::new(ArrowSchema::new(fields))
}

/// One column of [`clean_schema`].
pub(crate) fn clean_field(field: &NestedField, notes: &Notes) -> Field {
    Field::new(&field.name, clean_type(field, notes), !field.required)
}

pub(crate) fn clean_type(field: &NestedField, notes: &Notes) -> DataType {
    let noted = notes.get(&field.id).map(String::as_str);
    match field.field_type.as_ref() {
        Type::Primitive(kind) => noted
            .and_then(|text| text.parse::<DataType>().ok())
            .filter(|noted| {
                stored_as(noted).as_ref() == Some(kind) && !matches!(noted, DataType::Utf8View | DataType::BinaryView)
            })
            .unwrap_or_else(|| read_as(kind)),
        Type::Struct(kind) => DataType::Struct(kind.fields().iter().map(|field| clean_field(field, notes)).collect()),
        Type::List(list) => {
            let item = Arc::new(clean_field(&list.element_field, notes).with_name("item"));
            let size = noted.and_then(|text| text.strip_prefix("FixedSizeList(")?.strip_suffix(')')?.parse().ok());
            match (noted, size) {
                (_, Some(size)) if size >= 0 => DataType::FixedSizeList(item, size),
                (Some("LargeList"), _) => DataType::LargeList(item),
                _ => DataType::List(item),
            }
        }
        Type::Map(map) => {
            let key = clean_field(&map.key_field, notes).with_name("key").with_nullable(false);
            let value = clean_field(&map.value_field, notes).with_name("value");
            let entries = Field::new("entries", DataType::Struct(vec![key, value].into()), false);
            DataType::Map(Arc::new(entries), false)
        }
    }
}

/// The Iceberg name of a type, as SQL people write it: `long`, `decimal(9, 2)`, `list<string>`.
pub(crate) fn type_name(kind: &Type) -> String {
    match kind {
        Type::Primitive(PrimitiveType::Decimal { precision, scale }) => format!("decimal({precision}, {scale})"),
        Type::Primitive(PrimitiveType::Fixed(bytes)) => format!("fixed[{bytes}]"),
        Type::Primitive(primitive) => primitive.to_string(),
        Type::List(list) => format!("list<{}>", type_name(&list.element_field.field_type)),
        Type::Map(map) => {
            format!("map<{}, {}>", type_name(&map.key_field.field_type), type_name(&map.value_field.field_type))
        }
        Type::Struct(fields) => {
            let fields: Vec<String> =
                fields.fields().iter().map(|field| format!("{}: {}", field.name, type_name(&field.field_type))).collect();
            format!("struct<{}>", fields.join(", "))
        }
    }
}

/// Whether Iceberg lets a column of type `old` become `new` and keep its id: the same, or one of its promotions.
pub(crate) fn promotes(old: &PrimitiveType, new: &PrimitiveType) -> bool {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (old, new) {
        (Int, Long) | (Float, Double) => true,
        (Decimal { precision, scale }, Decimal { precision: to, scale: same }) => to >= precision && same == scale,
        (old, new) => old == new,
    }
}

/// The narrowest type that holds every value of both.
pub(crate) fn common_type(a: &DataType, b: &DataType) -> Option<DataType> {
    if widens(a, b) {
        return Some(b.clone());
    }
    if widens(b, a) {
        return Some(a.clone());
    }
    let decimal = |kind: &DataType| match kind {
        DataType::Decimal128(precision, scale) => Some((i16::from(*precision) - i16::from(*scale), i16::from(*scale))),
        _ => None,
    };
    if let (Some((before, after)), Some((to_before, to_after))) = (decimal(a), decimal(b)) {
        let (before, after) = (before.max(to_before), after.max(to_after));
        let precision = u8::try_from(before + after).ok().filter(|precision| *precision <= 38)?;
        return Some(DataType::Decimal128(precision, i8::try_from(after).ok()?));
    }
    let candidates = [DataType::Int16, DataType::Int32, DataType::Int64, DataType::Float64];
    candidates.into_iter().find(|kind| a.is_numeric() && b.is_numeric() && widens(a, kind) && widens(b, kind))
}

/// `new`, with the ids `old` gave to the same columns, widened or not; new columns, and those of another type, get ids
/// above `last_id`.
pub(crate) fn with_ids_of(new: &Schema, old: &Schema, last_id: i32) -> Result<Schema> {
    let mut next_id = last_id + 1;
    let fields = reuse_fields(new.as_struct().fields(), old.as_struct().fields(), &mut next_id);
    Schema::builder().with_fields(fields).build().map_err(Error::internal("give the schema its field ids"))
}

fn reuse_fields(new: &[NestedFieldRef], old: &[NestedFieldRef], next_id: &mut i32) -> Vec<NestedFieldRef> {
    let old: HashMap<&str, &NestedFieldRef> = old.iter().map(|field| (field.name.as_str(), field)).collect();
    new.iter().map(|field| reuse_field(field, old.get(field.name.as_str()).copied(), next_id)).collect()
}

fn reuse_field(new: &NestedFieldRef, old: Option<&NestedFieldRef>, next_id: &mut i32) -> NestedFieldRef {
    let same_kind = |old: &&NestedFieldRef| match (new.field_type.as_ref(), old.field_type.as_ref()) {
        (Type::Primitive(new), Type::Primitive(old)) => promotes(old, new),
        (Type::Struct(_), Type::Struct(_)) | (Type::List(_), Type::List(_)) | (Type::Map(_), Type::Map(_)) => true,
        _ => false,
    };
    let old = old.filter(same_kind);
    let mut fresh = || {
        let id = *next_id;
        *next_id += 1;
        id
    };
    let id = old.map_or_else(&mut fresh, |old| old.id);
    let kind = match (new.field_type.as_ref(), old.map(|old| old.field_type.as_ref())) {
        (Type::Primitive(kind), _) => Type::Primitive(kind.clone()),
        (Type::Struct(new), old) => {
            let old = if let Some(Type::Struct(old)) = old { old.fields() } else { &[] };
            Type::Struct(StructType::new(reuse_fields(new.fields(), old, next_id)))
        }
        (Type::List(new), old) => {
            let old = if let Some(Type::List(old)) = old { Some(&old.element_field) } else { None };
            Type::List(ListType::new(reuse_field(&new.element_field, old, next_id)))
        }
        (Type::Map(new), old) => {
            let old = if let Some(Type::Map(old)) = old { Some(old) } else { None };
            Type::Map(MapType::new(
                reuse_field(&new.key_field, old.map(|old| &old.key_field), next_id),
                reuse_field(&new.value_field, old.map(|old| &old.value_field), next_id),
            ))
        }
    };
    let mut field = NestedField::new(id, &new.name, kind, new.required);
    field.doc = old.and_then(|old| old.doc.clone());
    Arc::new(field)
}

/// Whether every value of `from` is a value of `to`, up to checks of units and lengths that are made value by value.
pub(crate) fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    if from == to {
        return true;
    }
    if let (Some(from), Some(to)) = (list_item(from), list_item(to)) {
        return widens(from.data_type(), to.data_type());
    }
    match (from, to) {
        (T::Null, _) => true,
        (T::Dictionary(_, from), to) => widens(from, to),
        (T::RunEndEncoded(_, from), to) => widens(from.data_type(), to),
        (T::Timestamp(_, from), T::Timestamp(_, to)) => from.is_some() == to.is_some(),
        (T::Date32 | T::Date64, T::Date32 | T::Date64)
        | (T::Time32(_) | T::Time64(_), T::Time32(_) | T::Time64(_))
        | (T::Utf8 | T::LargeUtf8 | T::Utf8View, T::Utf8 | T::LargeUtf8 | T::Utf8View) => true,
        (T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_), T::Binary | T::LargeBinary | T::BinaryView) => true,
        (T::Struct(from), T::Struct(to)) => {
            let find = |fields: &Fields, name: &str| fields.iter().find(|field| field.name() == name).cloned();
            from.iter().all(|field| find(to, field.name()).is_some_and(|to| widens(field.data_type(), to.data_type())))
                && to.iter().all(|field| field.is_nullable() || find(from, field.name()).is_some())
        }
        (T::Map(from, _), T::Map(to, _)) => match (from.data_type(), to.data_type()) {
            (T::Struct(from), T::Struct(to)) => from.iter().zip(to).all(|(from, to)| widens(from.data_type(), to.data_type())),
            _ => false,
        },
        _ => number_widens(from, to),
    }
}

/// A number type's room: digits before and after the point, or bits of mantissa for floats.
fn number_widens(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    let whole_bits = |kind: &DataType| match kind {
        T::Int8 => Some((true, 7)),
        T::Int16 => Some((true, 15)),
        T::Int32 => Some((true, 31)),
        T::Int64 => Some((true, 63)),
        T::UInt8 => Some((false, 8)),
        T::UInt16 => Some((false, 16)),
        T::UInt32 => Some((false, 32)),
        T::UInt64 => Some((false, 64)),
        _ => None,
    };
    let mantissa_bits = |kind: &DataType| match kind {
        T::Float16 => Some(11),
        T::Float32 => Some(24),
        T::Float64 => Some(53),
        _ => None,
    };
    let decimal = |kind: &DataType| match kind {
        T::Decimal32(precision, scale)
        | T::Decimal64(precision, scale)
        | T::Decimal128(precision, scale)
        | T::Decimal256(precision, scale) => Some((i16::from(*precision) - i16::from(*scale), i16::from(*scale))),
        _ => None,
    };
    if let Some((signed, bits)) = whole_bits(from) {
        if let Some((to_signed, to_bits)) = whole_bits(to) {
            return to_bits >= bits && (to_signed || !signed);
        }
        if let Some(mantissa) = mantissa_bits(to) {
            return mantissa >= bits;
        }
        let digits = [(7, 3), (8, 3), (15, 5), (16, 5), (31, 10), (32, 10), (63, 19), (64, 20)];
        let digits = digits.iter().find(|(of, _)| *of == bits).map_or(20, |(_, digits)| *digits);
        return decimal(to).is_some_and(|(before, _)| before >= digits);
    }
    if let (Some(from), Some(to)) = (mantissa_bits(from), mantissa_bits(to)) {
        return to >= from;
    }
    match (decimal(from), decimal(to)) {
        (Some((before, after)), Some((to_before, to_after))) => to_before >= before && to_after >= after,
        _ => false,
    }
}
