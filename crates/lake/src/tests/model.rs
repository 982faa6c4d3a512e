//! Random sequences of writes against a list of rows, and filters against plain Rust.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Lake, batch, filtered};
use crate::{Mode, Written};

const HOUR: i64 = 3_600_000_000;

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    region: Option<&'static str>,
    hour: Option<i64>,
    score: Option<f64>,
}

type Test = fn(&Row) -> Option<bool>;

/// SQL and what it means.
const FILTERS: &[(&str, Test)] = &[
    ("id < 20", |row| Some(row.id < 20)),
    ("region = 'eu'", |row| row.region.map(|region| region == "eu")),
    ("region IN ('us', 'ü') OR id = 3", |row| match row.region.map(|region| region == "us" || region == "ü") {
        Some(true) => Some(true),
        other => {
            if row.id == 3 {
                Some(true)
            } else {
                other
            }
        }
    }),
    ("NOT (region = 'eu')", |row| row.region.map(|region| region != "eu")),
    ("region IS NULL AND ts IS NOT NULL", |row| Some(row.region.is_none() && row.hour.is_some())),
    ("ts >= TIMESTAMP '1970-01-01T20:00:00' AND ts < TIMESTAMP '1970-01-03'", |row| {
        row.hour.map(|hour| (20..48).contains(&hour))
    }),
    ("score > 1.5", |row| row.score.map(|score| score.total_cmp(&1.5).is_gt())),
    ("score < 0", |row| row.score.map(|score| score.total_cmp(&0.0).is_lt())),
    ("score IS NULL OR id > 30", |row| Some(row.score.is_none() || row.id > 30)),
    ("region LIKE 'e%'", |row| row.region.map(|region| region.starts_with('e'))),
];

/// Filters over columns that `region, day(ts)` is made from.
const OVERWRITES: &[(&str, Test)] = &[
    ("region = 'eu'", |row| row.region.map(|region| region == "eu")),
    ("region IS NULL", |row| Some(row.region.is_none())),
    ("ts < TIMESTAMP '1970-01-02'", |row| row.hour.map(|hour| hour < 24)),
    ("ts >= TIMESTAMP '1970-01-01T10:00:00' AND ts < TIMESTAMP '1970-01-02T10:00:00'", |row| {
        row.hour.map(|hour| (10..34).contains(&hour))
    }),
    ("region = 'us' OR ts >= TIMESTAMP '1970-01-03'", |row| {
        match (row.region.map(|region| region == "us"), row.hour.map(|hour| hour >= 48)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (None, _) | (_, None) => None,
            _ => Some(false),
        }
    }),
    ("region <> 'eu'", |row| row.region.map(|region| region != "eu")),
    ("false", |_| Some(false)),
    ("true", |_| Some(true)),
];

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Row>),
    Replace(Vec<Row>),
    Overwrite(usize, Vec<Row>),
    /// By id; rows with a negative score delete.
    Merge(Vec<Row>),
}

fn row() -> impl Strategy<Value = Row> {
    let region = prop_oneof![Just(None), Just(Some("eu")), Just(Some("us")), Just(Some("ü"))];
    let score = prop_oneof![Just(None), Just(Some(f64::NAN)), (-3i32..4).prop_map(|half| Some(f64::from(half)))];
    (0i64..40, region, proptest::option::weighted(0.9, 0i64..72), score).prop_map(|(id, region, hour, score)| Row {
        id,
        region,
        hour,
        score,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let rows = || proptest::collection::vec(row(), 0..12);
    prop_oneof![
        3 => rows().prop_map(Step::Append),
        1 => rows().prop_map(Step::Replace),
        3 => (0..OVERWRITES.len(), rows()).prop_map(|(filter, rows)| Step::Overwrite(filter, rows)),
        3 => rows().prop_map(|mut rows| {
            rows.sort_by_key(|row| row.id);
            rows.dedup_by_key(|row| row.id);
            Step::Merge(rows)
        }),
    ]
}

fn to_batch(rows: &[Row]) -> RecordBatch {
    batch(vec![
        ("id", Arc::new(rows.iter().map(|row| Some(row.id)).collect::<Int64Array>())),
        ("region", Arc::new(rows.iter().map(|row| row.region).collect::<StringArray>())),
        ("ts", Arc::new(rows.iter().map(|row| row.hour.map(|hour| hour * HOUR)).collect::<TimestampMicrosecondArray>())),
        ("score", Arc::new(rows.iter().map(|row| row.score).collect::<Float64Array>())),
    ])
}

/// Rows as sorted text, so that order does not matter and NaN equals NaN.
fn bag(rows: impl Iterator<Item = String>) -> Vec<String> {
    let mut rows: Vec<String> = rows.collect();
    rows.sort();
    rows
}

fn show(id: i64, region: Option<&str>, ts: Option<i64>, score: Option<f64>) -> String {
    format!("{id} {region:?} {ts:?} {score:?}")
}

fn expected<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
    bag(rows.map(|row| show(row.id, row.region, row.hour.map(|hour| hour * HOUR), row.score)))
}

async fn actual(table: &Written, filter: &str) -> Vec<String> {
    let scanned = filtered(table, filter).await.unwrap();
    bag(scanned.batches.iter().flat_map(|batch| {
        let (ids, regions) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
        let times = batch.column(2).as_primitive::<TimestampMicrosecondType>();
        let scores = batch.column(3).as_primitive::<Float64Type>();
        (0..batch.num_rows()).map(move |row| {
            show(
                ids.value(row),
                regions.is_valid(row).then(|| regions.value(row)),
                times.is_valid(row).then(|| times.value(row)),
                scores.is_valid(row).then(|| scores.value(row)),
            )
        })
    }))
}

async fn check(table: &Written, rows: &[Row]) {
    assert_eq!(actual(table, "").await, expected(rows.iter()));
    for (sql, test) in FILTERS {
        let matching = rows.iter().filter(|row| test(row) == Some(true));
        assert_eq!(actual(table, sql).await, expected(matching), "{sql}");
    }
}

async fn play(partition_by: &str, first: &[Row], steps: &[Step]) {
    let lake = Lake::new();
    let mut model = first.to_vec();
    let mut table = lake.table(partition_by, &to_batch(first)).await;
    check(&table, &model).await;
    for step in steps {
        let (mode, rows) = match step {
            Step::Append(rows) => (Mode::Append, rows),
            Step::Replace(rows) => {
                model.clear();
                (Mode::Replace, rows)
            }
            Step::Overwrite(_, rows) if partition_by.is_empty() => (Mode::Append, rows),
            Step::Overwrite(index, rows) => {
                let (sql, test) = OVERWRITES[*index];
                model.retain(|row| test(row) != Some(true));
                (Mode::Overwrite { filter: sql.to_owned() }, rows)
            }
            Step::Merge(rows) => {
                model.retain(|row| !rows.iter().any(|given| given.id == row.id));
                (Mode::Merge { keys: vec!["id".to_owned()], delete_when: Some("score < 0".to_owned()) }, rows)
            }
        };
        table = lake.write(Some(&table), mode, partition_by, &to_batch(rows)).await.unwrap();
        let deletes = |row: &&Row| matches!(step, Step::Merge(_)) && row.score.is_some_and(|score| score < 0.0);
        model.extend(rows.iter().filter(|row| !deletes(row)).cloned());
        check(&table, &model).await;
    }
}

#[test]
fn tables_behave_like_lists_of_rows() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ProptestConfig { cases: 32, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() };
    let specs =
        ["region, day(ts)", "month(ts), region", "region, hour(ts)", "bucket(3, region), truncate(2, region), day(ts)", ""];
    let specs = proptest::sample::select(specs.to_vec());
    let input = (specs, proptest::collection::vec(row(), 0..20), proptest::collection::vec(step(), 0..5));
    TestRunner::new(config)
        .run(&input, |(partition_by, first, steps)| {
            runtime.block_on(play(partition_by, &first, &steps));
            Ok(())
        })
        .unwrap();
}
