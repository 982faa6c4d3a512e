//! What each mode does to a table: rows, identity, schema, partitions, history, summaries.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, Int16Array, Int64Array, LargeStringArray, NullArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::{Lake, all, batch, code, empty, fields, filtered, ids, rows, trips};
use crate::table::Table;
use crate::{Mode, ScanRequest, WriteRequest, create, load, scan, write};

#[tokio::test]
async fn an_empty_table_is_made_and_described() {
    let lake = Lake::new();
    let schema = trips(0, 0).schema();
    let properties = [("comment".to_owned(), "All trips".to_owned())];
    let uri = format!("file://{}/", lake.path("t"));
    let location = create(&uri, &schema, &fields("day(ts), region"), &[], &properties).await.unwrap();
    let info = load(&location).await.unwrap();
    assert_eq!(info.location, lake.path("t"));
    assert_eq!(info.arrow_schema, schema);
    assert_eq!(info.partition_by, fields("day(ts), region"));
    assert_eq!((info.snapshot_id, info.snapshots, info.records, info.file_bytes), (None, 0, Some(0), Some(0)));
    assert_eq!(info.comment.as_deref(), Some("All trips"));
    assert_eq!(info.properties["gc.enabled"], "false");
    let kinds: Vec<&str> = info.fields.iter().map(|field| field.type_name.as_str()).collect();
    assert_eq!(kinds, ["long", "string", "timestamp"]);
    assert_eq!(info.fields.iter().map(|field| field.id).collect::<Vec<_>>(), [1, 2, 3]);
    let scanned = scan(ScanRequest { metadata_location: info.metadata_location, ..ScanRequest::default() }).await;
    assert_eq!(rows(&scanned.unwrap()), 0);
}

#[tokio::test]
async fn appends_add_and_older_snapshots_stay() {
    let lake = Lake::new();
    let first = lake.table("region", &trips(0, 10)).await;
    let second = lake.write(Some(&first), Mode::Append, "region", &trips(10, 15)).await.unwrap();
    assert_eq!((second.rows, all(&second).await.num_rows()), (5, 15));
    assert_eq!(all(&first).await.num_rows(), 10);
    let before = load(&first.metadata_location).await.unwrap();
    let info = load(&second.metadata_location).await.unwrap();
    assert_eq!((info.uuid, info.snapshots, info.records), (before.uuid, 2, Some(15)));
    let back = scan(ScanRequest {
        metadata_location: second.metadata_location.clone(),
        snapshot_id: before.snapshot_id,
        ..ScanRequest::default()
    });
    assert_eq!(rows(&back.await.unwrap()), 10);
    let nothing = lake.write(Some(&second), Mode::Append, "", &trips(0, 0)).await.unwrap();
    assert_eq!(nothing.metadata_location, second.metadata_location, "nothing to add is nothing to commit");
}

#[tokio::test]
async fn appended_columns_are_found_by_name_and_widened() {
    let lake = Lake::new();
    let table = lake.table("", &trips(0, 3)).await;
    let narrow: ArrayRef = Arc::new(Int16Array::from(vec![7]));
    let region: ArrayRef = Arc::new(LargeStringArray::from(vec!["eu"]));
    let turned = batch(vec![("region", region), ("id", narrow)]);
    let more = lake.write(Some(&table), Mode::Append, "", &turned).await.unwrap();
    let null: ArrayRef = Arc::new(NullArray::new(1));
    let more = lake.write(Some(&more), Mode::Append, "", &batch(vec![("region", null)])).await.unwrap();
    let back = all(&more).await;
    assert_eq!(back.schema(), trips(0, 0).schema());
    assert_eq!(ids(&back)[3], 7);
    assert_eq!((back.column(2).null_count(), back.column(1).null_count()), (2, 1));
}

#[tokio::test]
async fn appended_values_must_fit_the_recorded_type() {
    let lake = Lake::new();
    let small: ArrayRef = Arc::new(Int8Array::from(vec![1]));
    let table = lake.table("", &batch(vec![("n", small)])).await;
    let words: ArrayRef = Arc::new(LargeStringArray::from(vec!["1"]));
    assert_eq!(code(lake.write(Some(&table), Mode::Append, "", &batch(vec![("n", words)])).await), "LAK0013");
}

#[tokio::test]
async fn a_replace_keeps_the_table_where_it_can() {
    let lake = Lake::new();
    let first = lake.table("day(ts)", &trips(0, 10)).await;
    let before = load(&first.metadata_location).await.unwrap();
    // Same columns: same ids.
    let same = lake.write(Some(&first), Mode::Replace, "day(ts)", &trips(20, 25)).await.unwrap();
    let info = load(&same.metadata_location).await.unwrap();
    assert_eq!((&info.uuid, &info.fields, info.records), (&before.uuid, &before.fields, Some(5)));
    // A column dropped, the others turned: ids stay by name.
    let turned = trips(0, 4).project(&[2, 0]).unwrap();
    let turned = lake.write(Some(&same), Mode::Replace, "day(ts)", &turned).await.unwrap();
    let info = load(&turned.metadata_location).await.unwrap();
    assert_eq!(info.uuid, before.uuid);
    assert_eq!(info.fields.iter().map(|field| field.id).collect::<Vec<_>>(), [3, 1]);
    // Added again: a new id, because the old one means the old values.
    let again = lake.write(Some(&turned), Mode::Replace, "day(ts)", &trips(0, 3)).await.unwrap();
    let info = load(&again.metadata_location).await.unwrap();
    assert_eq!(info.fields.iter().map(|field| field.id).collect::<Vec<_>>(), [1, 4, 3]);
    assert_eq!(all(&again).await, super::all(&again).await);
    // An older snapshot is read with its own schema.
    let old = scan(ScanRequest {
        metadata_location: again.metadata_location.clone(),
        snapshot_id: before.snapshot_id,
        ..ScanRequest::default()
    });
    assert_eq!(old.await.unwrap().schema, trips(0, 0).schema());
}

#[tokio::test]
async fn a_replace_that_repartitions_makes_a_fresh_table() {
    let lake = Lake::new();
    let first = lake.table("day(ts)", &trips(0, 10)).await;
    let before = load(&first.metadata_location).await.unwrap();
    for (partition_by, rows) in [("region", trips(0, 4)), ("", trips(0, 4)), ("", trips(0, 4).project(&[0, 1]).unwrap())] {
        let fresh = lake.write(Some(&first), Mode::Replace, partition_by, &rows).await.unwrap();
        let info = load(&fresh.metadata_location).await.unwrap();
        assert_ne!(info.uuid, before.uuid);
        assert_ne!(info.location, before.location);
        assert_eq!((info.snapshots, info.partition_by), (1, fields(partition_by)));
        assert_eq!(all(&fresh).await.num_rows(), 4);
    }
    assert_eq!(all(&first).await.num_rows(), 10);
}

#[tokio::test]
async fn replacing_types_renews_the_notes() {
    let lake = Lake::new();
    let noted: ArrayRef = Arc::new(Int8Array::from(vec![1]));
    let table = lake.table("", &batch(vec![("n", noted)])).await;
    let plain: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
    let table = lake.write(Some(&table), Mode::Replace, "", &batch(vec![("n", Arc::clone(&plain))])).await.unwrap();
    assert_eq!(all(&table).await.column(0), &plain);
    assert!(!load(&table.metadata_location).await.unwrap().properties.contains_key(crate::TYPES_PROPERTY));
}

fn overwrite(filter: &str) -> Mode {
    Mode::Overwrite { filter: filter.to_owned() }
}

#[tokio::test]
async fn an_overwrite_drops_whole_partitions() {
    let lake = Lake::new();
    let table = lake.table("region", &trips(0, 20)).await;
    let cut = lake.write(Some(&table), overwrite("region = 'eu'"), "", &trips(100, 102)).await.unwrap();
    let mut left = ids(&all(&cut).await);
    left.sort_unstable();
    let expect: Vec<i64> = (0..20).filter(|id| id % 4 != 0).chain([100, 101]).collect();
    assert_eq!(left, expect);
    let table = Table::open(&cut.metadata_location).await.unwrap();
    let summary = &table.metadata.current_snapshot().unwrap().summary().additional_properties;
    assert_eq!((summary["deleted-data-files"].as_str(), summary["added-data-files"].as_str()), ("1", "2"));
    assert_eq!(summary["total-records"], "17");
}

#[tokio::test]
async fn an_overwrite_rewrites_partly_matching_files() {
    let lake = Lake::new();
    let table = lake.table("day(ts)", &trips(0, 30)).await;
    let filter = "ts >= TIMESTAMP '1970-01-01T12:00:00' AND ts < TIMESTAMP '1970-01-02T12:00:00'";
    let cut = lake.write(Some(&table), overwrite(filter), "", &empty(&trips(0, 0).schema())).await.unwrap();
    let mut left = ids(&all(&cut).await);
    left.sort_unstable();
    let expect: Vec<i64> = (0..30).filter(|id| !(6..18).contains(id) || id % 11 == 7).collect();
    assert_eq!(left, expect, "rows with a null ts stay");
}

#[tokio::test]
async fn an_overwrite_may_empty_the_table() {
    let lake = Lake::new();
    let table = lake.table("region", &trips(0, 20)).await;
    let none = empty(&trips(0, 0).schema());
    let cut = lake.write(Some(&table), overwrite("region = region OR region IS NULL"), "", &none).await.unwrap();
    assert_eq!(all(&cut).await.num_rows(), 0);
    let more = lake.write(Some(&cut), Mode::Append, "", &trips(0, 3)).await.unwrap();
    assert_eq!(load(&more.metadata_location).await.unwrap().records, Some(3));
}

/// Totals equal the sums over live files, after every kind of change.
#[tokio::test]
async fn summaries_add_up() {
    let lake = Lake::new();
    let mut table = lake.table("region, day(ts)", &trips(0, 40)).await;
    for (mode, rows) in [
        (Mode::Append, trips(40, 50)),
        (overwrite("region = 'us'"), trips(50, 60)),
        (overwrite("ts < TIMESTAMP '1970-01-02T03:00:00'"), trips(60, 61)),
        (Mode::Replace, trips(0, 5)),
        (Mode::Replace, trips(0, 0)),
        (Mode::Append, trips(0, 7)),
    ] {
        table = lake.write(Some(&table), mode, "region, day(ts)", &rows).await.unwrap();
        let opened = Table::open(&table.metadata_location).await.unwrap();
        let snapshot = opened.metadata.current_snapshot().unwrap();
        let live = opened.live_files(snapshot).await.unwrap().data;
        let sums = HashMap::from([
            ("total-data-files", live.len() as u64),
            ("total-records", live.iter().map(|live| live.file.record_count()).sum()),
            ("total-files-size", live.iter().map(|live| live.file.file_size_in_bytes()).sum()),
            ("total-delete-files", 0),
        ]);
        for (key, sum) in sums {
            assert_eq!(snapshot.summary().additional_properties[key], sum.to_string(), "{key}");
        }
        for live in &live {
            assert_eq!(std::fs::metadata(live.file.file_path()).unwrap().len(), live.file.file_size_in_bytes());
        }
        let info = load(&table.metadata_location).await.unwrap();
        assert_eq!(info.records, Some(all(&table).await.num_rows() as u64));
    }
}

#[tokio::test]
async fn two_writers_on_one_base_do_not_touch_each_other() {
    let lake = Lake::new();
    let base = lake.table("", &trips(0, 5)).await;
    let (left, right) = (trips(5, 8), trips(8, 10));
    let (left, right) =
        tokio::join!(lake.write(Some(&base), Mode::Append, "", &left), lake.write(Some(&base), Mode::Replace, "", &right),);
    assert_eq!(ids(&all(&left.unwrap()).await), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(ids(&all(&right.unwrap()).await), [8, 9]);
    assert_eq!(ids(&all(&base).await), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn properties_are_set_and_kept() {
    let lake = Lake::new();
    let table = lake.table("", &trips(0, 5)).await;
    let request = WriteRequest {
        location: lake.path("t"),
        base: Some(table.metadata_location),
        mode: Mode::Append,
        partition_by: Vec::new(),
        sort_by: Vec::new(),
        docs: Vec::new(),
        properties: vec![("comment".into(), "more".into())],
    };
    let table = write(request, trips(0, 0).schema(), vec![trips(5, 6)]).await.unwrap();
    let fresh = lake.write(Some(&table), Mode::Replace, "region", &trips(0, 1)).await.unwrap();
    for table in [&table, &fresh] {
        assert_eq!(load(&table.metadata_location).await.unwrap().comment.as_deref(), Some("more"));
    }
}

#[tokio::test]
async fn names_are_free_in_filters_and_partitions() {
    let lake = Lake::new();
    let schema =
        Schema::new(vec![Field::new("Größe 1", DataType::Int64, true), Field::new("Größe_x20_1", DataType::Int64, true)]);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    let rows = arrow::array::RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&numbers), numbers]).unwrap();
    let table = lake.table("Größe 1", &rows).await;
    let scanned = filtered(&table, "\"Größe 1\" = 3").await.unwrap();
    assert_eq!((super::rows(&scanned), scanned.stats.files_read), (1, 1));
}
