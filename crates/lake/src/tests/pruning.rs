//! What is skipped: files by partition and bounds, row groups by statistics, columns by projection.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

use super::{Lake, batch, filtered, rows, trips};
use crate::{Mode, ScanRequest, ScanStats, scan};

fn counts(stats: ScanStats) -> (usize, usize, usize, usize) {
    (stats.files_total, stats.files_read, stats.row_groups_total, stats.row_groups_read)
}

#[tokio::test]
async fn partitions_are_skipped() {
    let lake = Lake::new();
    let table = lake.table("region, day(ts)", &trips(0, 48)).await;
    let files = table.files;
    for (filter, expect_rows, expect_files) in [
        ("region = 'eu'", 12, 5),
        ("region IS NULL", 12, 5),
        ("region IS NOT NULL AND ts < TIMESTAMP '1970-01-02'", 9, 3),
        ("ts IS NULL", 4, 4),
        ("ts >= TIMESTAMP '1970-01-05'", 0, 0),
        ("region IN ('us', 'none') AND id > 100", 0, 0),
        ("false", 0, 0),
    ] {
        let scanned = filtered(&table, filter).await.unwrap();
        assert_eq!((rows(&scanned), scanned.stats.files_read), (expect_rows, expect_files), "{filter}");
        assert_eq!(scanned.stats.files_total, files);
    }
}

#[tokio::test]
async fn files_are_skipped_by_bounds() {
    let lake = Lake::new();
    let first = lake.table("", &trips(0, 100)).await;
    let both = lake.write(Some(&first), Mode::Append, "", &trips(100, 200)).await.unwrap();
    for (filter, expect_rows, expect_files) in
        [("id < 100", 100, 1), ("id BETWEEN 99 AND 100", 2, 2), ("id = 500", 0, 0), ("id + 1 = 5", 1, 2)]
    {
        let scanned = filtered(&both, filter).await.unwrap();
        assert_eq!((rows(&scanned), scanned.stats.files_read), (expect_rows, expect_files), "{filter}");
    }
}

/// Several row groups with strings longer than Parquet's shortened statistics: bounds must hold on both ends.
#[tokio::test]
async fn long_strings_in_several_row_groups() {
    let group = 128 * 1024;
    let letters = ["z", "m", "a"];
    let text = |row: i64| letters[usize::try_from(row / group).unwrap()];
    let long = |row: i64| if text(row) == "m" { "m".to_owned() } else { text(row).repeat(100) };
    let values: StringArray = (0..3 * group).map(|row| Some(long(row))).collect();
    let lake = Lake::new();
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3 * group));
    let table = lake.table("", &batch(vec![("s", Arc::new(values)), ("id", ids)])).await;
    let expect = usize::try_from(group).unwrap();
    for (filter, groups) in [("s > 'y'", 1), ("s < 'b'", 1), ("s = 'm'", 1), ("s > 'ma' AND s < 'zzzz'", 0)] {
        let scanned = filtered(&table, filter).await.unwrap();
        assert_eq!(counts(scanned.stats), (1, 1, 3, groups), "{filter}");
        assert_eq!(rows(&scanned), expect * groups, "{filter}");
    }
    let scanned = filtered(&table, &format!("s = '{}' AND id % 2 = 0", "z".repeat(100))).await.unwrap();
    assert_eq!((rows(&scanned), scanned.stats.row_groups_read), (expect / 2, 1));
    let outside = filtered(&table, "s > 'zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz'").await;
    assert_eq!(rows(&outside.unwrap()), expect);
}

/// SQL sorts NaN above all numbers; statistics leave it out.
#[tokio::test]
async fn not_a_number_is_not_skipped() {
    let lake = Lake::new();
    let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN), None]));
    let with = lake.table("", &batch(vec![("f", values)])).await;
    assert_eq!(rows(&filtered(&with, "f > 100").await.unwrap()), 1);
    let values: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None]));
    let without = lake.write(Some(&with), Mode::Replace, "", &batch(vec![("f", values)])).await.unwrap();
    assert_eq!(filtered(&without, "f > 100").await.unwrap().stats.files_read, 0);
}

#[tokio::test]
async fn only_the_columns_asked_for_are_read() {
    let lake = Lake::new();
    let table = lake.table("", &trips(0, 5000)).await;
    let request = |columns: &[&str], filter: Option<&str>| ScanRequest {
        metadata_location: table.metadata_location.clone(),
        columns: Some(columns.iter().map(ToString::to_string).collect()),
        filter: filter.map(str::to_owned),
        ..ScanRequest::default()
    };
    let all = filtered(&table, "").await.unwrap();
    let one = scan(request(&["region"], None)).await.unwrap();
    assert!(one.stats.bytes_read * 2 < all.stats.bytes_read);
    let turned = scan(request(&["ts", "id"], Some("region = 'eu'"))).await.unwrap();
    assert_eq!(turned.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["ts", "id"]);
    assert_eq!(rows(&turned), 1250);
    let none = scan(request(&[], Some("id < 10"))).await.unwrap();
    assert_eq!((rows(&none), none.schema.fields().len()), (10, 0));
    assert_eq!(rows(&scan(request(&[], None)).await.unwrap()), 5000);
}

#[tokio::test]
async fn rows_keep_their_order() {
    let lake = Lake::new();
    let n = 300_000;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
    let table = lake.table("", &batch(vec![("id", ids)])).await;
    let table = lake
        .write(Some(&table), Mode::Append, "", &batch(vec![("id", Arc::new(Int64Array::from_iter_values(n..n + 10)))]))
        .await
        .unwrap();
    let back = super::ids(&super::all(&table).await);
    assert!(back.iter().copied().eq(0..n + 10));
    let odd = filtered(&table, "id % 1000 = 1").await.unwrap();
    assert_eq!(odd.batches.len(), 1, "small batches are joined");
    assert!(super::ids(&odd.batches[0]).windows(2).all(|pair| pair[0] < pair[1]));
}
