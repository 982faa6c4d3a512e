//! Columns of strings as dictionaries, for consumers that asked for them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AnyDictionaryArray, Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::Error;

/// The type a column of strings is encoded to.
fn encoded() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// Strings in any layout. A column without a type holds nothing but nulls: it is what it is wanted as.
fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// Bytes of texts up to which rows are encoded at once: the values of a dictionary hold at most 2 GiB.
const PIECE_BYTES_MAX: usize = 1 << 30;

/// Bytes of the columns of `batches` that have another type than they had `before`: those were made anew for who reads them.
#[must_use]
pub fn converted_bytes(before: &Schema, batches: &[RecordBatch]) -> u64 {
    let bytes = |(field, column): (&FieldRef, &ArrayRef)| match field.data_type() == column.data_type() {
        true => 0,
        // What is no array of its own counts as nothing, and cannot be: all types were built here.
        false => column.to_data().get_slice_memory_size().unwrap_or(0) as u64,
    };
    batches.iter().flat_map(|batch| before.fields().iter().zip(batch.columns())).map(bytes).sum()
}

/// The table with the columns `names` as dictionaries of strings, one dictionary per batch, whose values are distinct and not
/// null, as pandas and Polars want them. Columns that are such dictionaries already stay the very arrays they are; a column named
/// twice is encoded once. Reads every value of the columns it encodes and allocates four bytes per row and the distinct values.
///
/// # Errors
/// [`Error::Column`] for a name that is not a column, [`Error::NotText`] for a column of another type, [`Error::Invalid`] if
/// a batch does not have the columns of `schema`, or a dictionary would pass Arrow's limits.
pub fn encode_columns(
    schema: &SchemaRef,
    batches: Vec<RecordBatch>,
    names: &[String],
) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
    let mut fields = schema.fields().to_vec();
    let mut columns = Vec::new();
    for name in names {
        let index = schema.index_of(name).map_err(|_| Error::Column {
            name: name.clone(),
            columns: schema.fields().iter().map(|field| field.name().clone()).collect(),
        })?;
        let kind = match schema.field(index).data_type() {
            DataType::Dictionary(key, value) if is_text(value) && **value != DataType::Null => {
                DataType::Dictionary(key.clone(), value.clone())
            }
            kind if is_text(kind) => encoded(),
            kind => return Err(Error::NotText { column: name.clone(), kind: kind.clone() }),
        };
        // Columns without a type need not say that they hold nulls.
        let nullable = fields[index].is_nullable() || fields[index].data_type() == &DataType::Null;
        fields[index] = Arc::new(Field::clone(&fields[index]).with_data_type(kind).with_nullable(nullable));
        columns.push(index);
    }
    if columns.is_empty() {
        return Ok((Arc::clone(schema), batches));
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let encode = |batch: RecordBatch| {
        let column = |(index, column): (usize, &ArrayRef)| match columns.contains(&index) {
            true => encode(column, schema.field(index).data_type()),
            false => Ok(Arc::clone(column)),
        };
        let arrays = batch.columns().iter().enumerate().map(column).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)
    };
    let batches = batches.into_iter().flat_map(|batch| pieces(batch, &columns)).map(encode).collect::<Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}

fn encode(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    match column.as_any_dictionary_opt() {
        Some(dictionary) if is_tidy(dictionary)? => Ok(Arc::clone(column)),
        Some(dictionary) => cast(&take(dictionary.values(), dictionary.keys(), None)?, kind),
        None if column.data_type() == &DataType::Null => Ok(new_null_array(kind, column.len())),
        None => cast(column, kind),
    }
}

/// Whether the values are distinct, not null, and no more than the rows.
fn is_tidy(dictionary: &dyn AnyDictionaryArray) -> Result<bool, ArrowError> {
    let values = dictionary.values();
    if values.len() > dictionary.keys().len() || values.null_count() > 0 {
        return Ok(false);
    }
    let texts = cast(values, &DataType::Utf8View)?;
    let distinct: HashSet<Option<&str>> = texts.as_string_view().iter().collect();
    Ok(distinct.len() == values.len())
}

/// The batch in parts whose texts fit into one dictionary each.
fn pieces(batch: RecordBatch, columns: &[usize]) -> Vec<RecordBatch> {
    let rows = batch.num_rows();
    let bytes = |index: &usize| match batch.column(*index).data_type() {
        DataType::Utf8View => batch.column(*index).as_string_view().total_buffer_bytes_used(),
        _ => batch.column(*index).to_data().get_slice_memory_size().unwrap_or(0),
    };
    if rows < 2 || columns.iter().all(|index| bytes(index) <= PIECE_BYTES_MAX) {
        return vec![batch];
    }
    let halves = [batch.slice(0, rows / 2), batch.slice(rows / 2, rows - rows / 2)];
    halves.into_iter().flat_map(|half| pieces(half, columns)).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int8Array, Int64Array, LargeStringArray, NullArray, StringArray, StringViewArray};
    use arrow::datatypes::Int32Type;
    use forebay_types::Coded;

    use super::*;

    fn table() -> (SchemaRef, Vec<RecordBatch>) {
        let words = || (0..10).map(|row| (row % 4 != 3).then(|| ["ape", "a bee with a long name"][row % 2]));
        let batch = RecordBatch::try_from_iter_with_nullable(vec![
            ("n", Arc::new(Int64Array::from_iter_values(0..10)) as ArrayRef, true),
            ("plain", Arc::new(words().collect::<StringArray>()) as ArrayRef, true),
            ("large", Arc::new(words().collect::<LargeStringArray>()) as ArrayRef, true),
            ("view", Arc::new(words().collect::<StringViewArray>()) as ArrayRef, true),
        ])
        .expect("equal lengths");
        (batch.schema(), vec![batch.slice(0, 3), batch.slice(3, 0), batch.slice(3, 7)])
    }

    fn encode(names: &[&str]) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
        let (schema, batches) = table();
        encode_columns(&schema, batches, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn strings_of_every_layout_are_encoded_and_others_left_alone() {
        let (plain, before) = table();
        let (schema, batches) = encode(&["view", "plain", "large", "plain"]).expect("they are text");
        assert_eq!(schema.field(0), plain.field(0));
        assert!(schema.fields().iter().skip(1).all(|field| field.data_type() == &encoded()));
        for (batch, before) in batches.iter().zip(&before) {
            assert_eq!(batch.schema(), schema);
            for index in 0..4 {
                let back = cast(batch.column(index), plain.field(index).data_type()).expect("it unpacks");
                assert_eq!(&back, before.column(index));
            }
        }
        let dictionary = batches[2].column(1).as_dictionary::<Int32Type>();
        assert_eq!((dictionary.values().len(), dictionary.null_count()), (2, 2));
    }

    #[test]
    fn dictionaries_stay_the_arrays_they_are() {
        let (schema, batches) = encode(&["plain"]).expect("it is text");
        let (again, same) = encode_columns(&schema, batches.clone(), &["plain".to_owned()]).expect("it is a dictionary");
        assert_eq!(schema, again);
        assert!(same.iter().zip(&batches).all(|(same, batch)| Arc::ptr_eq(same.column(1), batch.column(1))));
    }

    #[test]
    fn values_that_repeat_or_are_null_or_many_are_encoded_anew() {
        let values = StringArray::from(vec![Some("nl"), None, Some("us"), Some("nl"), Some("never")]);
        let keys = Int8Array::from(vec![Some(3), Some(1), None, Some(2), Some(0), Some(0)]);
        let array: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(values)));
        let batch = RecordBatch::try_from_iter_with_nullable(vec![("d", Arc::clone(&array), true)]).expect("one column");
        let names = ["d".to_owned()];
        let batches = vec![batch.clone(), batch.slice(3, 2), batch.slice(2, 1), batch.slice(0, 0)];
        let (schema, tidy) = encode_columns(&batch.schema(), batches, &names).expect("it is text");
        assert_eq!(schema, batch.schema());
        let values = |batch: &RecordBatch| {
            let dictionary = batch.column(0).as_any_dictionary();
            dictionary.values().as_string::<i32>().iter().map(|value| value.expect("no nulls").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(tidy.iter().map(values).collect::<Vec<_>>(), [vec!["nl", "us"], vec!["us", "nl"], vec![], vec![]]);
        let plain = cast(tidy[0].column(0), &DataType::Utf8).expect("it unpacks");
        assert_eq!(
            plain.as_string::<i32>(),
            &StringArray::from(vec![Some("nl"), None, None, Some("us"), Some("nl"), Some("nl")])
        );
    }

    #[test]
    fn nothing_but_nulls_is_text_without_values() {
        let batch = RecordBatch::try_from_iter(vec![("n", Arc::new(NullArray::new(3)) as ArrayRef)]).expect("one column");
        let (schema, batches) = encode_columns(&batch.schema(), vec![batch], &["n".to_owned()]).expect("it can be text");
        assert_eq!(schema.field(0).data_type(), &encoded());
        assert_eq!(batches[0].column(0).logical_null_count(), 3);
    }

    #[test]
    fn other_columns_are_refused() {
        assert_eq!(encode(&["n"]).expect_err("a number").report().code.0, "IPC0009");
        assert_eq!(encode(&["plan"]).expect_err("no column").report().code.0, "IPC0006");
    }
}
