//! Brings arrays of nested types into a wanted shape: children matched by field id or name, values kept exactly.
//!
//! Used both ways. Writing: whatever Arrow type a function returned, to the type Parquet stores. Reading: what
//! Parquet says, to the table's Arrow type; there the table may have been renamed or widened since the file was
//! written, so children are found by the Iceberg field id that Parquet keeps in the field's metadata.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;
use iceberg::spec::{NestedFieldRef, Type};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;

use crate::cast::{NotKept, cast_exactly};
use crate::schema::list_item;

/// The Iceberg field id in an Arrow field's metadata.
pub(crate) fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

/// `array` as `target`. With `stored`, the table's Iceberg type, children are found by field id.
pub(crate) fn conform(array: &ArrayRef, target: &DataType, stored: Option<&Type>) -> Result<ArrayRef, NotKept> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    match (array.data_type(), target) {
        (DataType::Dictionary(_, value), _) if value.is_nested() => conform(&plain(array, value)?, target, stored),
        (DataType::RunEndEncoded(_, value), _) if value.data_type().is_nested() => {
            conform(&plain(array, value.data_type())?, target, stored)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let stored = if let Some(Type::Struct(stored)) = stored { Some(stored.fields()) } else { None };
            Ok(Arc::new(conform_struct(array.as_struct(), fields, stored)?))
        }
        (DataType::Map(..), DataType::Map(entries, _)) => conform_map(array.as_map(), entries, target, stored),
        (source, _) if list_item(source).is_some() && list_item(target).is_some() => conform_list(array, target, stored),
        _ => cast_exactly(array, target),
    }
}

fn fail(error: ArrowError) -> NotKept {
    NotKept { row: None, why: error.to_string() }
}

fn plain(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, NotKept> {
    cast(array, kind).map_err(fail)
}

fn conform_struct(array: &StructArray, fields: &Fields, stored: Option<&[NestedFieldRef]>) -> Result<StructArray, NotKept> {
    let children = fields
        .iter()
        .enumerate()
        .map(|(index, field)| {
            let stored = stored.and_then(|stored| stored.get(index));
            match find_child(array.fields(), field, stored) {
                Some(child) => conform(array.column(child), field.data_type(), stored.map(|stored| stored.field_type.as_ref())),
                None if field.is_nullable() => Ok(new_null_array(field.data_type(), array.len())),
                None => Err(NotKept { row: None, why: format!("the required field `{}` is missing", field.name()) }),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    StructArray::try_new_with_length(fields.clone(), children, array.nulls().cloned(), array.len()).map_err(fail)
}

fn find_child(fields: &Fields, wanted: &FieldRef, stored: Option<&NestedFieldRef>) -> Option<usize> {
    match stored {
        Some(stored) if fields.iter().any(|field| field_id(field).is_some()) => {
            fields.iter().position(|field| field_id(field) == Some(stored.id))
        }
        _ => fields.iter().position(|field| field.name() == wanted.name()),
    }
}

fn conform_map(array: &MapArray, entries: &FieldRef, target: &DataType, stored: Option<&Type>) -> Result<ArrayRef, NotKept> {
    let DataType::Struct(pair) = entries.data_type() else {
        return Err(NotKept { row: None, why: "a map without entries".into() });
    };
    let stored = if let Some(Type::Map(map)) = stored { Some(map) } else { None };
    let key = conform(array.keys(), pair[0].data_type(), stored.map(|map| map.key_field.field_type.as_ref()))?;
    let value = conform(array.values(), pair[1].data_type(), stored.map(|map| map.value_field.field_type.as_ref()))?;
    let inner = StructArray::try_new(pair.clone(), vec![key, value], None).map_err(fail)?;
    let sorted = matches!(target, DataType::Map(_, true));
    let map = MapArray::try_new(Arc::clone(entries), array.offsets().clone(), inner, array.nulls().cloned(), sorted);
    Ok(Arc::new(map.map_err(fail)?))
}

fn conform_list(array: &ArrayRef, target: &DataType, stored: Option<&Type>) -> Result<ArrayRef, NotKept> {
    let (Some(source), Some(item)) = (list_item(array.data_type()), list_item(target)) else {
        return Err(NotKept { row: None, why: "not a list".into() });
    };
    let stored = if let Some(Type::List(list)) = stored { Some(list.element_field.field_type.as_ref()) } else { None };
    if let (Some(fixed), DataType::FixedSizeList(_, size)) = (array.as_fixed_size_list_opt(), target)
        && fixed.value_length() == *size
    {
        let values = conform(fixed.values(), item.data_type(), stored)?;
        let list = FixedSizeListArray::try_new_with_length(Arc::clone(item), *size, values, fixed.nulls().cloned(), fixed.len());
        return Ok(Arc::new(list.map_err(fail)?));
    }
    let list = match array.data_type() {
        DataType::List(_) => Arc::clone(array),
        _ => plain(array, &DataType::List(Arc::clone(source)))?,
    };
    let list = list.as_list::<i32>();
    let values = conform(list.values(), item.data_type(), stored)?;
    let list = ListArray::try_new(Arc::clone(item), list.offsets().clone(), values, list.nulls().cloned());
    let list: ArrayRef = Arc::new(list.map_err(fail)?);
    if list.data_type() == target { Ok(list) } else { cast_exactly(&list, target) }
}
