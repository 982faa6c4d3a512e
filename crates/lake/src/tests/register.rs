//! Parquet files of others as tables: read by both readers as they are, pruned, and refused where engines would read them wrongly.

use std::sync::Arc;

use arrow::array::{
    Array as _, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow::datatypes::{Field, Int32Type, Schema as ArrowSchema};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};

use super::*;
use crate::{load, register, sources};

fn store(lake: &Lake, name: &str, rows: &RecordBatch) {
    let path = lake.path(name);
    std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), rows.schema(), Some(properties)).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

async fn made(lake: &Lake, pattern: &str) -> Result<String, Error> {
    let files = sources(&lake.path(pattern)).await?;
    register(&lake.path(&format!("table-{}", uuid::Uuid::new_v4())), &files).await
}

/// The rows, by a scan and a query, and how many files the scan read.
async fn scanned(metadata_location: &str, filter: Option<&str>) -> (RecordBatch, usize) {
    let table = Written { metadata_location: metadata_location.to_owned(), rows: 0, file_bytes: 0, files: 0, changes: vec![] };
    let scanned = filtered(&table, filter.unwrap_or_default()).await.unwrap();
    (concat_batches(&scanned.schema, &scanned.batches).unwrap(), scanned.stats.files_read)
}

/// What a query says, without its frame.
async fn queried(metadata_location: &str, sql: &str) -> String {
    let context = SessionContext::new();
    let table = crate::LakeTable::open(metadata_location, None).await.unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let rows = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
    let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",");
    rows.lines().filter(|line| !line.starts_with('+')).skip(1).map(cells).collect::<Vec<_>>().join(";")
}

#[tokio::test]
async fn folders_are_partitions() {
    let lake = Lake::new();
    for (folder, first) in
        [("year=2023/city=a%2Fb", 0), ("year=2024/city=c", 10), ("year=2024/city=__HIVE_DEFAULT_PARTITION__", 20)]
    {
        let rows = batch(vec![("id", Arc::new(Int64Array::from_iter_values(first..first + 5)))]);
        store(&lake, &format!("d/{folder}/x.parquet"), &rows);
    }
    let location = made(&lake, "d").await.unwrap();
    let info = load(&location).await.unwrap();
    assert_eq!((info.records, info.partition_by.len(), info.fields.len()), (Some(15), 2, 3));
    let (rows, files) = scanned(&location, Some("year = 2024 AND id < 13")).await;
    assert_eq!((rows.num_rows(), files), (3, 1));
    let (rows, files) = scanned(&location, Some("city IS NULL")).await;
    assert_eq!((ids(&rows), files), ((20..25).collect(), 1));
    let (all, _) = scanned(&location, None).await;
    assert_eq!((all.num_rows(), all.column_by_name("city").unwrap().null_count()), (15, 5));
    // A query fills in the names of the folders as well.
    for (sql, expected) in [
        ("SELECT year, count(*), sum(id) FROM t GROUP BY year ORDER BY year", "2023,5,10;2024,10,170"),
        ("SELECT count(city), min(city), max(city) FROM t", "10,a/b,c"),
        ("SELECT id FROM t WHERE city = 'a/b' AND id > 3", "4"),
        ("SELECT count(*) FROM t WHERE city IS NULL OR year = 2023", "10"),
    ] {
        assert_eq!(queried(&location, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn columns_come_and_widen() {
    let lake = Lake::new();
    let times = TimestampMillisecondArray::from(vec![Some(1_700_000_000_123), None, Some(5)]);
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)]), None, Some(vec![])]);
    let first = batch(vec![
        ("id", Arc::new(Int32Array::from(vec![1, 2, 3]))),
        ("name", Arc::new(StringArray::from(vec![Some("a"), None, Some("zebra")]))),
        ("at", Arc::new(times)),
        ("many", Arc::new(lists)),
    ]);
    let floats = Float64Array::from(vec![0.5, f64::NAN, -0.0]);
    let second = batch(vec![("x", Arc::new(floats)), ("id", Arc::new(Int64Array::from(vec![1 << 40, 5, 6])))]);
    store(&lake, "d/1.parquet", &first);
    store(&lake, "d/2.parquet", &second);
    let location = made(&lake, "d/*.parquet").await.unwrap();
    let (rows, _) = scanned(&location, None).await;
    assert_eq!(ids(&rows), [1, 2, 3, 1 << 40, 5, 6]);
    for (filter, found, files) in [
        ("id > 1099511627775", 1, 1),
        ("name = 'zebra'", 1, 1),
        ("name IS NULL", 4, 2),
        ("x < 0.1", 1, 1),
        ("x > 1000000", 1, 1),
        ("at > TIMESTAMP '2023-01-01'", 1, 1),
        ("id < 2", 1, 1),
    ] {
        let (rows, read) = scanned(&location, Some(filter)).await;
        assert_eq!(rows.num_rows(), found, "{filter}");
        assert!(read >= files && read <= 2, "{filter} read {read} files");
    }
    assert_eq!(queried(&location, "SELECT sum(id), count(x), count(name) FROM t").await, "1099511627793,3,2");
}

/// Files that were part of a table have ids, which are found again whatever the order of columns.
#[tokio::test]
async fn ids_of_files_are_kept() {
    let lake = Lake::new();
    let with = |name: &str, id: i32, array: ArrayRef| {
        let field = Field::new(name, array.data_type().clone(), true);
        (field.with_metadata([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into()), array)
    };
    let rows = |columns: Vec<(Field, ArrayRef)>| {
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), arrays).unwrap()
    };
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
    let (inner_field, inner) = with("b", 12, inner);
    let structs: ArrayRef = Arc::new(StructArray::new(vec![inner_field].into(), vec![inner], None));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    store(
        &lake,
        "d/1.parquet",
        &rows(vec![with("name", 9, Arc::clone(&names)), with("id", 4, Arc::clone(&numbers)), with("s", 5, structs)]),
    );
    store(&lake, "d/2.parquet", &rows(vec![with("id", 4, Arc::clone(&numbers)), with("name", 9, Arc::clone(&names))]));
    let location = made(&lake, "d").await.unwrap();
    let info = load(&location).await.unwrap();
    let fields: Vec<(&str, i32)> = info.fields.iter().map(|field| (field.name.as_str(), field.id)).collect();
    assert_eq!(fields, [("name", 9), ("id", 4), ("s", 5)]);
    let (read, _) = scanned(&location, None).await;
    assert_eq!((ids(&read), read.column_by_name("s").unwrap().null_count()), (vec![1, 2, 1, 2], 2));
    assert_eq!(queried(&location, "SELECT max(s['b']), min(name), sum(id) FROM t").await, "8,x,6");
    store(&lake, "d/3.parquet", &rows(vec![with("id", 9, Arc::clone(&numbers))]));
    assert_eq!(code(made(&lake, "d").await), "LAK0050");
    store(&lake, "d/3.parquet", &rows(vec![with("other", 4, numbers)]));
    assert_eq!(code(made(&lake, "d").await), "LAK0050");
}

#[tokio::test]
async fn what_would_be_read_wrongly_is_refused() {
    let lake = Lake::new();
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    store(&lake, "types/1.parquet", &batch(vec![("v", Arc::clone(&numbers))]));
    store(&lake, "types/2.parquet", &batch(vec![("v", floats)]));
    assert_eq!(code(made(&lake, "types").await), "LAK0050", "no engine reads long as double");
    store(&lake, "folder/v=1/1.parquet", &batch(vec![("id", Arc::clone(&numbers))]));
    store(&lake, "folder/v=2/2.parquet", &batch(vec![("id", Arc::clone(&numbers)), ("v", Arc::clone(&numbers))]));
    assert_eq!(code(made(&lake, "folder").await), "LAK0050", "a column here, a folder there");
    store(&lake, "words/1.parquet", &batch(vec![("v", Arc::clone(&numbers))]));
    store(&lake, "words/2.parquet", &batch(vec![("v", Arc::new(StringArray::from(vec!["x"])))]));
    assert_eq!(code(made(&lake, "words").await), "LAK0021");
    std::fs::write(lake.path("types/3.csv"), "v\n1\n").unwrap();
    assert_eq!(code(made(&lake, "types/3.csv").await), "LAK0050");
    std::fs::write(lake.path("broken.parquet"), "PAR1 no").unwrap();
    assert_eq!(code(made(&lake, "broken.parquet").await), "LAK0020");
    assert_eq!(code(made(&lake, "none/*.parquet").await), "LAK0018");
}
