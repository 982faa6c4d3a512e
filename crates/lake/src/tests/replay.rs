//! Appends put upon each other, and what manifests tell of columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};

use super::{Lake, all, batch, ids, trips};
use crate::{Mode, Written, facts, load};

async fn replay(base: &Written, ours: &Written, onto: &Written) -> Option<Written> {
    let [base, ours, onto] = [base, ours, onto].map(|written| written.metadata_location.as_str());
    let made = crate::replay(base, ours, onto).await.unwrap()?;
    Some(Written { metadata_location: made, rows: 0, file_bytes: 0, files: 0, changes: Vec::new() })
}

#[tokio::test]
async fn two_appends_become_one_line() {
    for partition_by in ["", "region"] {
        let lake = Lake::new();
        let base = lake.table(partition_by, &trips(0, 10)).await;
        let ours = lake.write(Some(&base), Mode::Append, "", &trips(10, 13)).await.unwrap();
        let theirs = lake.write(Some(&base), Mode::Append, "", &trips(20, 25)).await.unwrap();
        let both = replay(&base, &ours, &theirs).await.unwrap();
        let mut found = ids(&all(&both).await);
        found.sort_unstable();
        assert_eq!(found, (0..13).chain(20..25).collect::<Vec<i64>>());
        let info = load(&both.metadata_location).await.unwrap();
        assert_eq!((info.records, info.snapshots), (Some(18), 3));
        assert_eq!(all(&ours).await.num_rows(), 13, "what was there stays as it is");
    }
}

#[tokio::test]
async fn a_first_append_replays_upon_a_first_append() {
    let lake = Lake::new();
    let schema = trips(0, 0).schema();
    let empty = crate::create(&lake.path("t"), &schema, &[], &[], &[]).await.unwrap();
    let empty = Written { metadata_location: empty, rows: 0, file_bytes: 0, files: 0, changes: Vec::new() };
    let ours = lake.write(Some(&empty), Mode::Append, "", &trips(0, 2)).await.unwrap();
    let theirs = lake.write(Some(&empty), Mode::Append, "", &trips(5, 6)).await.unwrap();
    let both = replay(&empty, &ours, &theirs).await.unwrap();
    assert_eq!(all(&both).await.num_rows(), 3);
}

#[tokio::test]
async fn what_does_not_commute_is_left_to_its_writer() {
    let lake = Lake::new();
    let base = lake.table("region", &trips(0, 10)).await;
    let append = lake.write(Some(&base), Mode::Append, "", &trips(10, 13)).await.unwrap();
    let replaced = lake.write(Some(&base), Mode::Replace, "region", &trips(30, 31)).await.unwrap();
    let cut = lake.write(Some(&base), Mode::Overwrite { filter: "region = 'eu'".into() }, "", &trips(0, 1)).await.unwrap();
    let twice = lake.write(Some(&append), Mode::Append, "", &trips(13, 14)).await.unwrap();
    // Ours must be one append upon the base.
    for ours in [&replaced, &cut, &twice, &base] {
        assert!(replay(&base, ours, &append).await.is_none());
    }
    // Theirs may be anything that keeps the table and its shape: rows they took away stay away.
    let onto_cut = replay(&base, &append, &cut).await.unwrap();
    assert_eq!(all(&onto_cut).await.num_rows(), all(&cut).await.num_rows() + 3);
    let other = Lake::new();
    let stranger = other.table("region", &trips(0, 1)).await;
    assert!(replay(&base, &append, &stranger).await.is_none());
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let reshaped = lake.write(Some(&base), Mode::Replace, "", &batch(vec![("id", column)])).await.unwrap();
    assert!(replay(&base, &append, &reshaped).await.is_none());
}

fn merge(delete_when: Option<&str>) -> Mode {
    Mode::Merge { keys: vec!["id".into()], delete_when: delete_when.map(str::to_owned) }
}

#[tokio::test]
async fn merges_replay_where_no_key_is_met() {
    for partition_by in ["", "region", "bucket(3, id)"] {
        let lake = Lake::new();
        let base = lake.table(partition_by, &trips(0, 10)).await;
        let base = lake.write(Some(&base), Mode::Append, "", &trips(50, 60)).await.unwrap();
        let ours = lake.write(Some(&base), merge(None), "", &trips(8, 13)).await.unwrap();
        let far = lake.write(Some(&base), Mode::Append, "", &trips(100, 103)).await.unwrap();
        let both = replay(&base, &ours, &far).await.unwrap();
        let mut found = ids(&all(&both).await);
        found.sort_unstable();
        assert_eq!(found, (0..13).chain(50..60).chain(100..103).collect::<Vec<i64>>());
        // A key that came meanwhile would be there twice.
        for near in [trips(12, 13), trips(9, 10)] {
            let near = lake.write(Some(&base), Mode::Append, "", &near).await.unwrap();
            assert!(replay(&base, &ours, &near).await.is_none());
        }
        // A file that we rewrote was rewritten.
        let same = lake.write(Some(&base), merge(None), "", &trips(9, 10)).await.unwrap();
        assert!(replay(&base, &ours, &same).await.is_none());
        // Two merges beside each other, in different files.
        let other = lake.write(Some(&base), merge(None), "", &trips(55, 56)).await.unwrap();
        if partition_by.is_empty() {
            assert_eq!(all(&replay(&base, &ours, &other).await.unwrap()).await.num_rows(), 23);
        }
        // A delete of a key that is not there would have deleted what came.
        let idle = lake.write(Some(&base), merge(Some("id = 100")), "", &trips(100, 102)).await.unwrap();
        assert!(replay(&base, &idle, &far).await.is_none());
        let apart = lake.write(Some(&base), merge(Some("id = 55")), "", &trips(55, 56)).await.unwrap();
        assert_eq!(all(&replay(&base, &apart, &far).await.unwrap()).await.num_rows(), 22);
    }
}

#[tokio::test]
async fn overwrites_replay_where_no_row_is_met() {
    let lake = Lake::new();
    let base = lake.table("region", &trips(0, 8)).await;
    let mode = Mode::Overwrite { filter: "region = 'eu'".to_owned() };
    let ours = lake.write(Some(&base), mode.clone(), "", &trips(40, 41)).await.unwrap();
    let us = lake.write(Some(&base), Mode::Append, "", &trips(21, 22)).await.unwrap();
    let eu = lake.write(Some(&base), Mode::Append, "", &trips(20, 21)).await.unwrap();
    let mut found = ids(&all(&replay(&base, &ours, &us).await.unwrap()).await);
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3, 5, 6, 7, 21, 40]);
    assert!(replay(&base, &ours, &eu).await.is_none(), "it would have gone");
    let again = lake.write(Some(&base), mode, "", &trips(44, 45)).await.unwrap();
    assert!(replay(&base, &ours, &again).await.is_none());
    // A replayed change can be replayed again.
    let both = replay(&base, &ours, &us).await.unwrap();
    let more = lake.write(Some(&us), Mode::Append, "", &trips(25, 26)).await.unwrap();
    assert_eq!(all(&replay(&us, &both, &more).await.unwrap()).await.num_rows(), 9);
}

#[tokio::test]
async fn facts_come_from_manifests() {
    let lake = Lake::new();
    let part = |n: Vec<Option<i64>>, s: Vec<Option<&str>>, f: Vec<f64>| {
        let columns: [(&str, ArrayRef); 3] =
            [("n", Arc::new(Int64Array::from(n))), ("s", Arc::new(StringArray::from(s))), ("f", Arc::new(Float64Array::from(f)))];
        batch(columns.to_vec())
    };
    let first = lake.table("", &part(vec![Some(3), None], vec![Some("b"), Some("x")], vec![0.5, f64::NAN])).await;
    let second = lake.write(Some(&first), Mode::Append, "", &part(vec![Some(-1)], vec![None], vec![2.5])).await.unwrap();
    let known = facts(&second.metadata_location).await.unwrap();
    assert_eq!((known.files, known.delete_files, known.columns.len()), (2, 0, 3));
    let shown: Vec<String> = known
        .columns
        .iter()
        .map(|c| format!("{} {:?} {:?} {:?}", c.name, c.nulls, c.lower.as_deref(), c.upper.as_deref()))
        .collect();
    assert_eq!(shown[0], r#"n Some(1) Some("-1") Some("3")"#);
    assert_eq!(shown[1], r#"s Some(1) Some("b") Some("x")"#);
    assert_eq!(known.columns[2].nulls, Some(0));
    let none = crate::create(&lake.path("empty"), &trips(0, 0).schema(), &[], &[], &[]).await.unwrap();
    let none = facts(&none).await.unwrap();
    assert_eq!((none.files, none.columns[0].nulls, none.columns[0].lower.clone()), (0, Some(0), None));
}
