//! How schemas grow, what keeps its id, and what is refused; transforms and sort orders of what is written.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, UInt16Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type};
use forebay_types::parse_sort_fields;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Lake, all, batch, code, fields, filtered, ids, rows, trips};
use crate::table::Table;
use crate::{Mode, WriteRequest, Written, create, load, write};

fn one(name: &str, array: impl arrow::array::Array + 'static) -> RecordBatch {
    batch(vec![(name, Arc::new(array) as ArrayRef)])
}

async fn append(lake: &Lake, base: &Written, rows: &RecordBatch) -> crate::Result<Written> {
    lake.write(Some(base), Mode::Append, "", rows).await
}

async fn kinds(table: &Written) -> Vec<String> {
    let fields = load(&table.metadata_location).await.unwrap().fields;
    fields.iter().map(|field| format!("{} {} {}", field.id, field.name, field.type_name)).collect()
}

#[tokio::test]
async fn columns_are_added_at_the_end() {
    let lake = Lake::new();
    let base = lake.table("region", &trips(0, 3)).await;
    let strict = Field::new("extra", DataType::Int32, false);
    let extra =
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(vec![strict])), vec![Arc::new(Int32Array::from(vec![7]))]);
    let grown = append(&lake, &base, &extra.unwrap()).await.unwrap();
    assert_eq!(kinds(&grown).await, ["1 id long", "2 region string", "3 ts timestamp", "4 extra int"]);
    assert_eq!(grown.changes, ["added column `extra`"]);
    assert!(!load(&grown.metadata_location).await.unwrap().fields[3].required, "older rows have no value");
    assert_eq!(rows(&filtered(&grown, "extra = 7").await.unwrap()), 1);
    assert_eq!(rows(&filtered(&grown, "extra IS NULL").await.unwrap()), 3);
    // Turned and missing columns are found by name; nothing changes.
    let turned = trips(5, 6).project(&[1, 0]).unwrap();
    let more = append(&lake, &grown, &turned).await.unwrap();
    assert_eq!((kinds(&more).await, more.changes.len()), (kinds(&grown).await, 0));
    let (old, new) = (load(&grown.metadata_location).await.unwrap(), load(&more.metadata_location).await.unwrap());
    assert_eq!((old.schema_id, old.uuid), (new.schema_id, new.uuid));
    // No rows, but a column.
    let wider = append(&lake, &more, &one("late", StringArray::from(Vec::<&str>::new()))).await.unwrap();
    assert_eq!(load(&wider.metadata_location).await.unwrap().fields.len(), 5);
    // A column named like a partition field of another column.
    let dated = lake.write(None, Mode::Replace, "day(ts)", &trips(0, 1)).await.unwrap();
    assert_eq!(code(append(&lake, &dated, &one("ts_day", Int32Array::from(vec![1]))).await), "LAK0012");
}

#[tokio::test]
async fn types_are_widened_where_iceberg_can() {
    let decimal = |precision, scale| Decimal128Array::from(vec![150]).with_precision_and_scale(precision, scale).unwrap();
    let int32 = || Arc::new(Int32Array::from(vec![3])) as ArrayRef;
    let int64 = || Arc::new(Int64Array::from(vec![1 << 40])) as ArrayRef;
    let float32 = || Arc::new(Float32Array::from(vec![0.5])) as ArrayRef;
    let float64 = || Arc::new(Float64Array::from(vec![0.1])) as ArrayRef;
    let table: Vec<(ArrayRef, ArrayRef, Result<&str, ()>)> = vec![
        (int32(), int64(), Ok("long")),
        (int64(), int32(), Ok("long")),
        (float32(), float64(), Ok("double")),
        (float64(), float32(), Ok("double")),
        (float32(), Arc::new(Int16Array::from(vec![3])), Ok("float")),
        (float32(), int32(), Ok("double")),
        (Arc::new(decimal(9, 2)), Arc::new(decimal(12, 2)), Ok("decimal(12, 2)")),
        (Arc::new(decimal(12, 2)), Arc::new(decimal(9, 2)), Ok("decimal(12, 2)")),
        (Arc::new(decimal(9, 2)), Arc::new(decimal(9, 1)), Ok("decimal(10, 2)")),
        (Arc::new(Int8Array::from(vec![1])), int64(), Ok("long")),
        (Arc::new(Int8Array::from(vec![1])), Arc::new(UInt16Array::from(vec![60_000])), Ok("int")),
        (int32(), float64(), Err(())),
        (int64(), float64(), Err(())),
        (int64(), Arc::new(UInt64Array::from(vec![u64::MAX])), Err(())),
        (Arc::new(decimal(9, 2)), Arc::new(decimal(9, 3)), Err(())),
        (int32(), Arc::new(StringArray::from(vec!["3"])), Err(())),
        (Arc::new(StringArray::from(vec!["3"])), int32(), Err(())),
    ];
    for (before, rows, expect) in table {
        let lake = Lake::new();
        let shown = format!("{} {}", before.data_type(), rows.data_type());
        let base = lake.table("", &batch(vec![("v", before.clone())])).await;
        let grown = append(&lake, &base, &batch(vec![("v", rows.clone())])).await;
        let Ok(kind) = expect else {
            assert_eq!(code(grown), "LAK0013", "{shown}");
            continue;
        };
        let grown = grown.unwrap();
        assert_eq!(kinds(&grown).await, [format!("1 v {kind}")], "{shown}");
        // Both files, as one type, with the values they had.
        let read = all(&grown).await.column(0).clone();
        for (row, array) in [&before, &rows].into_iter().enumerate() {
            let expect = arrow::compute::cast(array, read.data_type()).unwrap();
            assert_eq!(read.slice(row, 1).to_data(), expect.slice(0, 1).to_data(), "{shown}");
        }
        // Reading the older commit stays as it was.
        assert_eq!(all(&base).await.column(0), &before, "{shown}");
    }
}

#[tokio::test]
async fn a_partition_source_is_not_widened_in_place() {
    let lake = Lake::new();
    let base = lake.table("id", &one("id", Int32Array::from(vec![1]))).await;
    let wide = one("id", Int64Array::from(vec![1 << 40]));
    assert_eq!(code(append(&lake, &base, &wide).await), "LAK0013");
    let before = load(&base.metadata_location).await.unwrap();
    let fresh = lake.write(Some(&base), Mode::Replace, "id", &wide).await.unwrap();
    assert_ne!(load(&fresh.metadata_location).await.unwrap().uuid, before.uuid);
    // Elsewhere a replace widens in place.
    let base = lake.table("", &one("id", Int32Array::from(vec![1]))).await;
    let wider = lake.write(Some(&base), Mode::Replace, "", &wide).await.unwrap();
    assert_eq!(kinds(&wider).await, ["1 id long"]);
    let narrower = lake.write(Some(&wider), Mode::Replace, "", &one("id", Int32Array::from(vec![1]))).await.unwrap();
    assert_eq!(kinds(&narrower).await, ["2 id int"], "not a promotion: another column");
}

#[tokio::test]
async fn nested_columns_grow() {
    let lake = Lake::new();
    let place = |names: &[&str], values: Vec<ArrayRef>| {
        let fields: Fields =
            names.iter().zip(&values).map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        one("place", StructArray::new(fields, values, None))
    };
    let small: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let words: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let large: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(4)])]));
    let base = lake.table("", &place(&["x", "list"], vec![small.clone(), list])).await;
    let grown = append(&lake, &base, &place(&["word", "x"], vec![words.clone(), large])).await.unwrap();
    assert_eq!(kinds(&grown).await, ["1 place struct<x: long, list: list<int>, word: string>"]);
    assert_eq!(grown.changes, ["widened column `place.x` from Int32 to Int64", "added column `place.word`"]);
    assert_eq!(all(&grown).await.num_rows(), 2);
    assert_eq!(code(append(&lake, &grown, &place(&["x"], vec![words])).await), "LAK0013");
    assert_eq!(code(append(&lake, &grown, &one("place", Int32Array::from(vec![1]))).await), "LAK0013");
}

#[tokio::test]
async fn documentation_is_set_and_kept() {
    let lake = Lake::new();
    let request = |base: Option<&Written>, mode, docs: &[(&str, &str)], partition_by: &str| WriteRequest {
        location: lake.path("t"),
        base: base.map(|written| written.metadata_location.clone()),
        mode,
        partition_by: fields(partition_by),
        sort_by: Vec::new(),
        docs: docs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        properties: Vec::new(),
    };
    let docs = async |table: &Written| {
        let fields = load(&table.metadata_location).await.unwrap().fields;
        fields.into_iter().map(|field| field.doc.unwrap_or_default()).collect::<Vec<_>>()
    };
    let put = async |request| write(request, trips(0, 0).schema(), vec![trips(0, 2)]).await.unwrap();
    let first = put(request(None, Mode::Replace, &[("id", "Which trip"), ("none", "?")], "")).await;
    assert_eq!(docs(&first).await, ["Which trip", "", ""]);
    let second = put(request(Some(&first), Mode::Append, &[("region", "Where")], "")).await;
    assert_eq!(docs(&second).await, ["Which trip", "Where", ""]);
    let third = put(request(Some(&second), Mode::Replace, &[("region", "There")], "")).await;
    assert_eq!(docs(&third).await, ["Which trip", "There", ""]);
    let fresh = put(request(Some(&third), Mode::Replace, &[], "region")).await;
    assert_eq!(docs(&fresh).await, ["Which trip", "There", ""]);
    assert_eq!(load(&third.metadata_location).await.unwrap().fields[0].id, 1);
}

#[tokio::test]
async fn every_transform_is_written() {
    for spec in
        ["bucket(4, id)", "truncate(2, region)", "truncate(10, id)", "bucket(3, region), day(ts)", "year(ts), bucket(2, ts)"]
    {
        let lake = Lake::new();
        let table = lake.table(spec, &trips(0, 50)).await;
        let more = lake.write(Some(&table), Mode::Append, spec, &trips(50, 60)).await.unwrap();
        assert_eq!(load(&more.metadata_location).await.unwrap().partition_by, fields(spec));
        assert_eq!(rows(&filtered(&more, "").await.unwrap()), 60, "{spec}");
        for filter in ["id = 17", "region = 'eu' AND id < 20", "ts >= TIMESTAMP '1970-01-03'"] {
            let plain = Lake::new();
            let expect = rows(&filtered(&plain.table("", &trips(0, 60)).await, filter).await.unwrap());
            assert_eq!(rows(&filtered(&more, filter).await.unwrap()), expect, "{spec}: {filter}");
        }
        let cut = Mode::Overwrite { filter: "id >= 0".to_owned() };
        let cut = lake.write(Some(&more), cut, "", &trips(0, 1)).await;
        match spec.contains("id") {
            true => assert_eq!(ids(&all(&cut.unwrap()).await), [0], "{spec}"),
            false => assert_eq!(code(cut), "LAK0017", "{spec}"),
        }
    }
    let lake = Lake::new();
    for wrong in ["bucket(4, f)", "truncate(4, f)", "truncate(3, ts)"] {
        let float: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        let rows = batch(vec![("f", float), ("ts", trips(0, 1).column(2).clone())]);
        assert_eq!(code(lake.write(None, Mode::Replace, wrong, &rows).await), "LAK0009", "{wrong}");
    }
}

/// The ids in each data file, in the order they are stored, and the sort order the manifest states.
async fn files(table: &Written) -> Vec<(Vec<i64>, Option<i32>)> {
    let table = Table::open(&table.metadata_location).await.unwrap();
    let live = table.live_files(table.metadata.current_snapshot().unwrap()).await.unwrap();
    live.data
        .iter()
        .map(|live| {
            let file = File::open(live.file.file_path()).unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            (reader.flat_map(|batch| ids(&batch.unwrap())).collect(), live.file.sort_order_id())
        })
        .collect()
}

#[tokio::test]
async fn files_are_sorted_and_say_so() {
    let lake = Lake::new();
    let order = parse_sort_fields("region desc nulls last, id desc").unwrap();
    let location = create(&lake.path("t"), &trips(0, 0).schema(), &[], &order, &[]).await.unwrap();
    let base = Written { metadata_location: location, rows: 0, file_bytes: 0, files: 0, changes: Vec::new() };
    assert_eq!(load(&base.metadata_location).await.unwrap().sort_by, order);
    let table = append(&lake, &base, &trips(0, 9)).await.unwrap();
    assert_eq!(files(&table).await, [(vec![5, 1, 6, 2, 8, 4, 0, 7, 3], Some(1))]);
    // The order changes in place; files keep saying theirs. A replace without an order has none.
    let request = WriteRequest {
        location: lake.path("t"),
        base: Some(table.metadata_location.clone()),
        mode: Mode::Append,
        partition_by: Vec::new(),
        sort_by: parse_sort_fields("id").unwrap(),
        docs: Vec::new(),
        properties: Vec::new(),
    };
    let more = write(request, trips(0, 0).schema(), vec![trips(12, 14), trips(10, 12)]).await.unwrap();
    assert_eq!(files(&more).await[1], (vec![10, 11, 12, 13], Some(2)));
    let plain = lake.write(Some(&more), Mode::Replace, "", &trips(0, 2)).await.unwrap();
    assert!(load(&plain.metadata_location).await.unwrap().sort_by.is_empty());
    assert_eq!(files(&plain).await, [(vec![0, 1], None)]);
    for wrong in ["nothing", "id desc, ids"] {
        let refused = create(&lake.path("w"), &trips(0, 0).schema(), &[], &parse_sort_fields(wrong).unwrap(), &[]).await;
        assert_eq!(code(refused), "LAK0041");
    }
}
