//! Merges: what matches, what is put, what deletes, which files are rewritten.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, NullArray, RecordBatch, StringArray,
};
use arrow::datatypes::Int64Type;

use super::{Lake, all, batch, code, ids, trips};
use crate::table::Table;
use crate::{Mode, Written, load};

fn on(keys: &[&str]) -> Mode {
    Mode::Merge { keys: keys.iter().map(ToString::to_string).collect(), delete_when: None }
}

fn deleting(keys: &[&str], when: &str) -> Mode {
    Mode::Merge { keys: keys.iter().map(ToString::to_string).collect(), delete_when: Some(when.to_owned()) }
}

fn pairs(rows: &[(i64, Option<&str>)]) -> RecordBatch {
    let (ids, words): (Vec<i64>, Vec<Option<&str>>) = rows.iter().copied().unzip();
    batch(vec![("id", Arc::new(Int64Array::from(ids))), ("word", Arc::new(StringArray::from(words)))])
}

async fn shown(table: &Written) -> Vec<String> {
    let rows = all(table).await;
    let id = rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().clone();
    let word = rows.column_by_name("word").unwrap().as_string::<i32>().clone();
    let mut shown: Vec<String> = id.iter().zip(word.iter()).map(|(id, word)| format!("{id:?} {}", word.unwrap_or("-"))).collect();
    shown.sort();
    shown.iter().map(|row| row.replace("Some(", "").replace(')', "")).collect()
}

#[tokio::test]
async fn rows_are_put_by_key() {
    let lake = Lake::new();
    let made = lake.write(None, on(&["id"]), "", &pairs(&[(1, Some("a")), (2, None), (3, Some("c"))])).await.unwrap();
    let merged = lake.write(Some(&made), on(&["id"]), "", &pairs(&[(2, Some("B")), (9, Some("z"))])).await.unwrap();
    assert_eq!(shown(&merged).await, ["1 a", "2 B", "3 c", "9 z"]);
    assert_eq!((merged.rows, load(&merged.metadata_location).await.unwrap().records), (2, Some(4)));
    // The same again is the same.
    let again = lake.write(Some(&merged), on(&["id"]), "", &pairs(&[(2, Some("B")), (9, Some("z"))])).await.unwrap();
    assert_eq!(shown(&again).await, shown(&merged).await);
    let nothing = lake.write(Some(&again), on(&["id"]), "", &pairs(&[])).await.unwrap();
    assert_eq!(nothing.metadata_location, again.metadata_location);
    // A replaced row of an older commit is still there.
    assert_eq!(shown(&made).await, ["1 a", "2 -", "3 c"]);
}

#[tokio::test]
async fn files_without_a_match_stay() {
    let lake = Lake::new();
    let first = lake.table("", &pairs(&[(1, Some("a")), (5, Some("e"))])).await;
    let second = lake.write(Some(&first), Mode::Append, "", &pairs(&[(2, Some("b")), (4, Some("d"))])).await.unwrap();
    let third = lake.write(Some(&second), Mode::Append, "", &pairs(&[(100, Some("far"))])).await.unwrap();
    let merged = lake.write(Some(&third), on(&["id"]), "", &pairs(&[(4, Some("D"))])).await.unwrap();
    assert_eq!(shown(&merged).await, ["1 a", "100 far", "2 b", "4 D", "5 e"]);
    let table = Table::open(&merged.metadata_location).await.unwrap();
    let summary = &table.metadata.current_snapshot().unwrap().summary().additional_properties;
    // Of three files one is rewritten, with what stays and what is put.
    assert_eq!((summary["deleted-data-files"].as_str(), summary["added-data-files"].as_str()), ("1", "1"));
    assert_eq!((summary["total-records"].as_str(), summary["total-data-files"].as_str()), ("5", "3"));
    assert_eq!(summary["forebay.merge-keys"], "[\"id\"]");
}

#[tokio::test]
async fn marked_rows_delete() {
    let lake = Lake::new();
    let base = lake.table("", &pairs(&[(1, Some("a")), (2, Some("b")), (3, None)])).await;
    // An expression: its columns are stored.
    let rows = pairs(&[(1, Some("x")), (7, Some("x")), (3, Some("c"))]);
    let gone = lake.write(Some(&base), deleting(&["id"], "word = 'x'"), "", &rows);
    assert_eq!(shown(&gone.await.unwrap()).await, ["2 b", "3 c"]);
    // A mark: it is not.
    let marks: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]));
    let rows = pairs(&[(1, None), (2, Some("B")), (4, Some("d"))]);
    let marked = batch(vec![("id", rows.column(0).clone()), ("gone", marks), ("word", rows.column(1).clone())]);
    let merged = lake.write(Some(&base), deleting(&["id"], "gone"), "", &marked).await.unwrap();
    assert_eq!(shown(&merged).await, ["2 B", "3 -", "4 d"]);
    assert_eq!(load(&merged.metadata_location).await.unwrap().fields.len(), 2);
    let first = lake.write(None, deleting(&["id"], "\"gone\""), "", &marked).await.unwrap();
    assert_eq!(shown(&first).await, ["2 B", "4 d"]);
    // Only deletes: rows of the key alone are enough.
    let keys = batch(vec![("id", Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef)]);
    let empty = lake.write(Some(&base), deleting(&["id"], "true"), "", &keys).await.unwrap();
    assert!(shown(&empty).await.is_empty());
    let table = Table::open(&empty.metadata_location).await.unwrap();
    assert_eq!(table.metadata.current_snapshot().unwrap().summary().operation, iceberg::spec::Operation::Delete);
    assert_eq!(code(lake.write(Some(&base), deleting(&["id"], "nothing"), "", &keys).await), "LAK0016");
}

#[tokio::test]
async fn keys_of_several_columns_and_kinds() {
    let lake = Lake::new();
    let rows = |days: Vec<Option<i32>>, words: Vec<&str>, ids: Vec<i64>| {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("day", Arc::new(Date32Array::from(days))),
            ("word", Arc::new(StringArray::from(words))),
            ("id", Arc::new(Int64Array::from(ids))),
        ];
        batch(columns)
    };
    let long = "x".repeat(100);
    let base = rows(vec![Some(1), Some(1), Some(2), None, Some(2)], vec!["a", "b", "a", "a", &long], vec![1, 2, 3, 4, 5]);
    let base = lake.table("word", &base).await;
    let given = rows(vec![Some(1), Some(2), Some(2)], vec!["b", &long, ""], vec![20, 50, 60]);
    let merged = lake.write(Some(&base), on(&["day", "word"]), "", &given).await.unwrap();
    let mut found = ids(&all(&merged).await);
    found.sort_unstable();
    assert_eq!(found, [1, 3, 4, 20, 50, 60], "a null in the table's key is equal to nothing");
}

#[tokio::test]
async fn columns_that_are_not_given_stay() {
    let lake = Lake::new();
    let base = lake.table("region", &trips(0, 8)).await;
    let given: ArrayRef = Arc::new(Int64Array::from(vec![2, 100]));
    let score: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 1.5]));
    let merged = lake.write(Some(&base), on(&["id"]), "", &batch(vec![("score", score), ("id", given)])).await.unwrap();
    let rows = all(&merged).await;
    let before = trips(0, 8);
    assert_eq!(rows.num_rows(), 9);
    let at = |id: i64| ids(&rows).iter().position(|found| *found == id).unwrap();
    for column in ["region", "ts"] {
        let (new, old) = (rows.column_by_name(column).unwrap(), before.column_by_name(column).unwrap());
        assert_eq!(new.slice(at(2), 1).to_data(), old.slice(2, 1).to_data(), "{column}");
        assert!(new.is_null(at(100)));
    }
    assert!(rows.column_by_name("score").unwrap().is_null(at(3)), "a new column is null where nothing was given");
    assert_eq!(rows.schema().field(3).name(), "score");
}

#[tokio::test]
async fn required_columns_are_kept_and_needed() {
    let lake = Lake::new();
    let fields = vec![
        arrow::datatypes::Field::new("id", arrow::datatypes::DataType::Int64, false),
        arrow::datatypes::Field::new("n", arrow::datatypes::DataType::Int64, false),
    ];
    let numbers = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let strict =
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), vec![numbers(vec![1, 2]), numbers(vec![10, 20])]);
    let base = lake.table("", &strict.unwrap()).await;
    let known = lake.write(Some(&base), on(&["id"]), "", &batch(vec![("id", numbers(vec![2]))])).await.unwrap();
    assert_eq!(all(&known).await.num_rows(), 2, "what a row lacks, it had");
    let gone = lake.write(Some(&base), deleting(&["id"], "true"), "", &batch(vec![("id", numbers(vec![2]))])).await.unwrap();
    assert_eq!(ids(&all(&gone).await), [1]);
    let new = lake.write(Some(&base), on(&["id"]), "", &batch(vec![("id", numbers(vec![3]))])).await;
    assert_eq!(code(new), "LAK0014");
}

#[tokio::test]
async fn keys_widen() {
    let lake = Lake::new();
    let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let base = lake.table("", &batch(vec![("id", narrow)])).await;
    let wide: ArrayRef = Arc::new(Int64Array::from(vec![2, 1 << 40]));
    let merged = lake.write(Some(&base), on(&["id"]), "", &batch(vec![("id", wide)])).await.unwrap();
    let mut found = ids(&all(&merged).await);
    found.sort_unstable();
    assert_eq!(found, [1, 2, 1 << 40]);
    assert_eq!(merged.changes, ["widened column `id` from Int32 to Int64"]);
}

#[tokio::test]
async fn rows_of_one_key_in_the_table_become_one() {
    let lake = Lake::new();
    let base = lake.table("", &pairs(&[(1, Some("a")), (1, Some("b")), (2, Some("c"))])).await;
    let more = lake.write(Some(&base), Mode::Append, "", &pairs(&[(1, Some("d"))])).await.unwrap();
    let merged = lake.write(Some(&more), on(&["id"]), "", &pairs(&[(1, Some("one"))])).await.unwrap();
    assert_eq!(shown(&merged).await, ["1 one", "2 c"]);
}

#[tokio::test]
async fn merges_that_do_not_say_what_to_do_are_refused() {
    let lake = Lake::new();
    let base = lake.table("", &pairs(&[(1, Some("a"))])).await;
    let null: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), None]));
    for base in [None, Some(&base)] {
        let twice = lake.write(base, on(&["id"]), "", &pairs(&[(3, None), (4, None), (3, Some("x"))])).await;
        let error = twice.unwrap_err();
        assert_eq!(error.to_string(), "could not merge: rows 1 and 3 have the same key (3)");
        let nulls =
            lake.write(base, on(&["id"]), "", &batch(vec![("id", null.clone()), ("word", Arc::new(NullArray::new(2)))])).await;
        assert_eq!(nulls.unwrap_err().to_string(), "could not merge: the key `id` of row 2 is null");
        for keys in [&["nothing"][..], &[], &["id", "id"]] {
            assert_eq!(code(lake.write(base, on(keys), "", &pairs(&[(1, None)])).await), "LAK0042", "{keys:?}");
        }
    }
    assert_eq!(code(lake.write(Some(&base), on(&["word"]), "", &trips(0, 1)).await), "LAK0042", "the rows lack the key");
}
