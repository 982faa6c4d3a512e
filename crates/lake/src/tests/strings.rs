//! The layouts of strings: what is written as views or dictionaries is stored and read as plain strings, and scans deliver
//! dictionaries and views where they are asked for.

use arrow::array::{Array, AsArray, BinaryViewArray, DictionaryArray, LargeStringArray, ListArray, StringViewArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use forebay_plan::dictionary_type;

use super::*;

/// A text per row: few distinct short ones, many distinct long ones, and some nulls.
fn texts(rows: std::ops::Range<i64>) -> RecordBatch {
    let country =
        |row: i64| (row % 13 != 5).then(|| ["nl", "us", "a country with a long name"][usize::try_from(row % 3).unwrap()]);
    let name = |row: i64| format!("{row:07} has a name of more than twelve bytes");
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.clone()));
    let countries: StringArray = rows.clone().map(country).collect();
    let names = StringArray::from_iter_values(rows.map(name));
    batch(vec![("id", ids), ("country", Arc::new(countries)), ("name", Arc::new(names))])
}

fn request(table: &Written, filter: &str, dictionary: &[&str], views: bool) -> ScanRequest {
    ScanRequest {
        metadata_location: table.metadata_location.clone(),
        filter: (!filter.is_empty()).then(|| filter.to_owned()),
        dictionary: dictionary.iter().map(|name| (*name).to_owned()).collect(),
        views,
        ..ScanRequest::default()
    }
}

/// The rows with plain strings, as one batch.
fn plain(scanned: &Scanned, schema: &SchemaRef) -> RecordBatch {
    let batches: Vec<RecordBatch> = scanned
        .batches
        .iter()
        .map(|batch| {
            assert_eq!(batch.schema(), scanned.schema);
            let columns = batch.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap()).collect();
            RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
        })
        .collect();
    concat_batches(schema, &batches).unwrap()
}

#[tokio::test]
async fn scans_deliver_what_is_asked_for_and_the_same_rows() {
    let lake = Lake::new();
    // The names do not fit into a dictionary page: the file changes to plain pages within a row group.
    let one = lake.table("", &texts(0..60_000)).await;
    let old = texts(60_000..70_000).project(&[0, 2]).unwrap();
    let table = lake.write(Some(&one), Mode::Append, "", &old).await.unwrap();
    for filter in [
        "",
        "id < 100",
        "id % 2 = 0",
        "country = 'us'",
        "upper(country) IN ('US', 'NL') AND id > 300",
        "country IS NULL",
        "name LIKE '00123%' OR country LIKE 'a %'",
        "id > 99999999",
    ] {
        let expected = scan(request(&table, filter, &[], false)).await.unwrap();
        let schema = Arc::clone(&expected.schema);
        assert_eq!(schema.field(1).data_type(), &DataType::Utf8);
        let rows = plain(&expected, &schema);
        for (dictionary, views) in
            [(vec!["country"], false), (vec!["name", "country"], true), (vec![], true), (vec!["name"], true)]
        {
            let scanned = scan(request(&table, filter, &dictionary, views)).await.unwrap();
            assert_eq!(plain(&scanned, &schema), rows, "{filter} {dictionary:?} {views}");
            assert_eq!(scanned.stats, expected.stats, "{filter}: other types skip as much");
            for name in ["country", "name"] {
                let kind = match dictionary.contains(&name) {
                    true => dictionary_type(),
                    false if views => DataType::Utf8View,
                    false => DataType::Utf8,
                };
                assert_eq!(scanned.schema.field_with_name(name).unwrap().data_type(), &kind, "{name}");
            }
            scanned.batches.iter().for_each(check_kept);
        }
    }
}

/// Views keep at most twice the bytes they use; dictionaries have distinct values, and no more than rows.
fn check_kept(batch: &RecordBatch) {
    for column in batch.columns() {
        if let Some(views) = column.as_string_view_opt() {
            let kept: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
            assert!(kept <= 2 * views.total_buffer_bytes_used(), "{kept} bytes kept");
        } else if let Some(dictionary) = column.as_any_dictionary_opt() {
            let mut values: Vec<&str> =
                dictionary.values().as_string::<i32>().iter().map(|value| value.expect("no nulls")).collect();
            assert!(values.len() <= batch.num_rows());
            values.sort_unstable();
            assert!(values.windows(2).all(|pair| pair[0] != pair[1]), "{values:?}");
        }
    }
}

#[tokio::test]
async fn each_row_group_brings_its_dictionary() {
    let lake = Lake::new();
    let table = lake.table("", &texts(0..200_000)).await;
    let scanned = scan(request(&table, "", &["country"], true)).await.unwrap();
    assert_eq!(scanned.batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [128 * 1024, 200_000 - 128 * 1024]);
    assert!(scanned.batches.iter().all(|batch| batch.column(1).as_dictionary::<Int32Type>().values().len() == 3));
}

#[tokio::test]
async fn views_and_dictionaries_are_written_as_plain_strings() {
    let words: Vec<Option<String>> =
        (0..40).map(|row| (row % 7 != 2).then(|| format!("{row:02} and a text of some length"))).collect();
    let few: DictionaryArray<Int32Type> = (0..40).map(|row| ["a", "b"].get(row % 3).copied()).collect();
    let as_values = |value: DataType| cast(&few, &DataType::Dictionary(Box::new(DataType::Int32), Box::new(value))).unwrap();
    let views: ArrayRef = Arc::new(StringViewArray::from_iter(words.clone()));
    let item = Arc::new(Field::new("item", DataType::Utf8View, true));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths((0..40).map(|_| 1));
    let list = ListArray::new(item, offsets, Arc::clone(&views), None);
    let inner = StructArray::from(vec![(Arc::new(Field::new("v", DataType::Utf8View, true)), Arc::clone(&views))]);
    let rows = batch(vec![
        ("view", Arc::clone(&views)),
        ("binary", Arc::new(BinaryViewArray::from_iter(words.iter().map(|word| word.as_ref().map(String::as_bytes))))),
        ("list", Arc::new(list)),
        ("struct", Arc::new(inner)),
        ("dictionary", Arc::new(few.clone())),
        ("large", as_values(DataType::LargeUtf8)),
        ("of_views", as_values(DataType::Utf8View)),
        ("id", Arc::new(Int64Array::from_iter_values(0..40))),
    ]);
    let lake = Lake::new();
    let first = lake.table("view", &rows.slice(0, 20)).await;
    let table = lake.write(Some(&first), Mode::Append, "", &rows.slice(20, 20)).await.unwrap();
    let scanned = filtered(&table, "").await.unwrap();
    let kinds: Vec<String> = scanned.schema.fields().iter().map(|field| field.data_type().to_string()).collect();
    assert_eq!(kinds, ["Utf8", "Binary", "List(Utf8)", "Struct(\"v\": Utf8)", "Utf8", "LargeUtf8", "Utf8", "Int64"]);
    let order = arrow::compute::sort_to_indices(all(&table).await.column(7), None, None).unwrap();
    let back = arrow::compute::take_record_batch(&all(&table).await, &order).unwrap();
    for (index, field) in back.schema().fields().iter().enumerate() {
        assert_eq!(back.column(index), &cast(rows.column(index), field.data_type()).unwrap(), "{}", field.name());
    }
    // Bounds: the second file's begin at 20, and null or not does not matter.
    assert_eq!(filtered(&table, "view = '03 and a text of some length'").await.unwrap().stats.files_read, 1);
    assert_eq!(super::rows(&filtered(&table, "binary < CAST('03' AS BYTEA)").await.unwrap()), 2);
    assert_eq!(filtered(&table, "view > '39'").await.unwrap().stats.files_read, 1);
    assert_eq!(filtered(&table, "view > '40'").await.unwrap().stats.files_read, 0);
}

#[tokio::test]
async fn rows_of_views_replace_rows_of_a_partition() {
    let lake = Lake::new();
    let rows = texts(0..90);
    let table = lake.table("country", &rows).await;
    let views = |rows: &RecordBatch| {
        let columns = rows.columns().iter().zip(["id", "country", "name"]).map(|(column, name)| {
            let kind = if name == "id" { DataType::Int64 } else { DataType::Utf8View };
            (name, cast(column, &kind).unwrap())
        });
        batch(columns.collect())
    };
    let mask = rows.column(1).as_string::<i32>().iter().map(|country| Some(country == Some("us"))).collect();
    let us = arrow::compute::filter_record_batch(&rows, &mask).unwrap();
    let mode = Mode::Overwrite { filter: "country = 'us'".to_owned() };
    let after = lake.write(Some(&table), mode, "", &views(&us)).await.unwrap();
    let back = all(&after).await;
    let order = arrow::compute::sort_to_indices(back.column(0), None, None).unwrap();
    assert_eq!(arrow::compute::take_record_batch(&back, &order).unwrap(), rows);
}

#[tokio::test]
async fn large_strings_and_partition_values_take_every_layout() {
    let places: ArrayRef = Arc::new(LargeStringArray::from_iter_values((0..20).map(|row| ["here", "there"][row % 2])));
    let rows = batch(vec![("place", places), ("id", Arc::new(Int64Array::from_iter_values(0..20)))]);
    let lake = Lake::new();
    let table = lake.table("place", &rows).await;
    let schema = Arc::new(Schema::new(vec![Field::new("place", DataType::Utf8, true), Field::new("id", DataType::Int64, true)]));
    let expected = plain(&scan(request(&table, "", &[], false)).await.unwrap(), &schema);
    assert_eq!(expected.num_rows(), 20);
    for (dictionary, views) in [(vec!["place"], false), (vec![], true)] {
        let scanned = scan(request(&table, "", &dictionary, views)).await.unwrap();
        assert_eq!(plain(&scanned, &schema), expected);
        assert_ne!(scanned.schema.field(0).data_type(), &DataType::LargeUtf8);
    }
}
