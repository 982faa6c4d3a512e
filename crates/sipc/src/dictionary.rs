//! Columns of strings as dictionaries, for consumers that asked for them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::Error;

/// The type a column of strings is encoded to.
fn encoded() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// Strings in any layout. A column without a type holds nothing but nulls: it is what it is wanted as.
fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// The table with the columns `names` as dictionaries of strings, one dictionary per batch. Columns that are dictionaries
/// of strings already stay the very arrays they are; a column named twice is encoded once. Reads every value of the columns
/// it encodes and allocates four bytes per row and the distinct values.
///
/// # Errors
/// [`Error::Column`] for a name that is not a column, [`Error::NotText`] for a column of another type, [`Error::Invalid`] if
/// a batch does not have the columns of `schema`.
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
        let kind = schema.field(index).data_type();
        match kind {
            DataType::Dictionary(_, value) if is_text(value) => {}
            kind if is_text(kind) => {
                fields[index] = Arc::new(Field::clone(&fields[index]).with_data_type(encoded()));
                columns.push(index);
            }
            kind => return Err(Error::NotText { column: name.clone(), kind: kind.clone() }),
        }
    }
    if columns.is_empty() {
        return Ok((Arc::clone(schema), batches));
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let encode = |batch: RecordBatch| {
        let column = |(index, column): (usize, &ArrayRef)| match columns.contains(&index) {
            true => cast(column, &encoded()),
            false => Ok(Arc::clone(column)),
        };
        let arrays = batch.columns().iter().enumerate().map(column).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)
    };
    let batches = batches.into_iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int64Array, LargeStringArray, StringArray, StringViewArray};
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
        assert!(Arc::ptr_eq(&schema, &again));
        assert!(same.iter().zip(&batches).all(|(same, batch)| Arc::ptr_eq(same.column(1), batch.column(1))));
    }

    #[test]
    fn other_columns_are_refused() {
        assert_eq!(encode(&["n"]).expect_err("a number").report().code.0, "IPC0009");
        assert_eq!(encode(&["plan"]).expect_err("no column").report().code.0, "IPC0006");
    }
}
