//! Keeping tables small changes no row, and what is collected is exactly what no table needs.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use iceberg::spec::{DataContentType, Operation};
use proptest::prelude::*;

use super::row_deletes::delete;
use super::*;
use crate::storage::stand_in;
use crate::table::Table;
use crate::{compact, create, expire, files_below, files_of, load, name, remove_files};

const SMALL: u64 = 1 << 20;

fn written(metadata_location: &str) -> Written {
    Written { metadata_location: metadata_location.to_owned(), rows: 0, file_bytes: 0, files: 0, changes: vec![] }
}

fn sorted(batch: &RecordBatch) -> Vec<i64> {
    let mut ids = ids(batch);
    ids.sort_unstable();
    ids
}

async fn live_files(metadata_location: &str) -> (usize, usize) {
    let table = Table::open(metadata_location).await.unwrap();
    let live = table.live_files(table.metadata.current_snapshot().unwrap()).await.unwrap();
    (live.data.len(), live.deletes.len())
}

#[tokio::test]
async fn small_files_become_one_per_partition() {
    let lake = Lake::new();
    let mut table = lake.table("region", &trips(0, 40)).await;
    for from in [40, 80, 120] {
        table = lake.write(Some(&table), Mode::Append, "", &trips(from, from + 40)).await.unwrap();
    }
    assert_eq!(live_files(&table.metadata_location).await, (16, 0));
    let done = compact(&table.metadata_location, SMALL).await.unwrap();
    assert_eq!((done.files_before, done.files_after, done.delete_files, done.rows), (16, 4, 0, 160));
    assert_eq!(live_files(&done.metadata_location).await, (4, 0));
    assert_eq!(sorted(&all(&written(&done.metadata_location)).await), (0..160).collect::<Vec<_>>());
    let opened = Table::open(&done.metadata_location).await.unwrap();
    let summary = opened.metadata.current_snapshot().unwrap().summary().clone();
    assert_eq!(summary.operation, Operation::Replace);
    assert_eq!(summary.additional_properties["total-records"], "160");
    // Nothing is left to do, and large files are left alone.
    let again = compact(&done.metadata_location, SMALL).await.unwrap();
    assert_eq!((again.files_before, &again.metadata_location), (0, &done.metadata_location));
    assert_eq!(compact(&table.metadata_location, 1).await.unwrap().metadata_location, table.metadata_location);
}

#[tokio::test]
async fn deleted_rows_are_taken_out_for_good() {
    let lake = Lake::new();
    let rows = trips(0, 8).project(&[0]).unwrap();
    let table = lake.table("", &rows).await;
    let deleted = delete(&lake, &table, DataContentType::PositionDeletes, &[2, 5]).await;
    let done = compact(&deleted.metadata_location, 1).await.unwrap();
    assert_eq!((done.files_before, done.files_after, done.delete_files, done.rows), (1, 1, 1, 6));
    assert_eq!(live_files(&done.metadata_location).await, (1, 0));
    assert_eq!(ids(&all(&written(&done.metadata_location)).await), [0, 1, 3, 4, 6, 7]);
    assert_eq!(load(&done.metadata_location).await.unwrap().records, Some(6));
    let refused = delete(&lake, &table, DataContentType::EqualityDeletes, &[2]).await;
    assert_eq!(code(compact(&refused.metadata_location, SMALL).await), "LAK0003");
}

#[tokio::test]
async fn a_table_forgets_snapshots() {
    let lake = Lake::new();
    let mut table = lake.table("", &trips(0, 10)).await;
    for from in [10, 20, 30] {
        table = lake.write(Some(&table), Mode::Append, "", &trips(from, from + 10)).await.unwrap();
    }
    let never = expire(&table.metadata_location, 0, 1).await.unwrap();
    assert_eq!((never.removed, never.kept, &never.metadata_location), (0, 4, &table.metadata_location));
    let two = expire(&table.metadata_location, i64::MAX, 2).await.unwrap();
    assert_eq!((two.removed, two.kept), (2, 2));
    let one = expire(&two.metadata_location, i64::MAX, 0).await.unwrap();
    assert_eq!((one.removed, one.kept), (1, 1));
    assert_eq!(ids(&all(&written(&one.metadata_location)).await), (0..40).collect::<Vec<_>>());
    let more = lake.write(Some(&written(&one.metadata_location)), Mode::Append, "", &trips(40, 41)).await.unwrap();
    assert_eq!(all(&more).await.num_rows(), 41);
    assert_eq!(load(&more.metadata_location).await.unwrap().snapshots, 2);
}

/// What a writer of a random history does to a table.
#[derive(Debug, Clone)]
enum Step {
    Append(i64),
    Replace(i64),
    Overwrite,
    Compact,
    Expire(usize),
    /// Starts again from an earlier state, as a branch would.
    Back(prop::sample::Index),
    /// Written, and never committed.
    Lost(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..30_i64).prop_map(Step::Append),
        (1..30_i64).prop_map(Step::Replace),
        Just(Step::Overwrite),
        Just(Step::Compact),
        (1..3_usize).prop_map(Step::Expire),
        any::<prop::sample::Index>().prop_map(Step::Back),
        (1..30_i64).prop_map(Step::Lost),
    ]
}

/// Plays steps at a location; states that a catalog still leads to are those kept by `kept`.
async fn play(root: &str, steps: &[Step], kept: &[prop::sample::Index]) {
    let location = format!("{root}/ns/t-1");
    let request = |base: Option<String>, mode, partition_by: &str| {
        let partition_by = if base.is_none() { fields(partition_by) } else { vec![] };
        WriteRequest { location: location.clone(), base, mode, partition_by, sort_by: vec![], docs: vec![], properties: vec![] }
    };
    let put = async |base: Option<String>, mode, rows: i64| {
        let batch = trips(0, rows);
        write(request(base, mode, "region"), batch.schema(), vec![batch]).await.unwrap().metadata_location
    };
    let mut states = vec![put(None, Mode::Replace, 8).await];
    let mut now = states[0].clone();
    for step in steps {
        now = match step {
            Step::Append(rows) => put(Some(now), Mode::Append, *rows).await,
            Step::Replace(rows) => {
                let batch = trips(0, *rows);
                let partitioned = WriteRequest { partition_by: fields("region"), ..request(Some(now), Mode::Replace, "") };
                write(partitioned, batch.schema(), vec![batch]).await.unwrap().metadata_location
            }
            Step::Overwrite => put(Some(now), Mode::Overwrite { filter: "region = 'eu'".into() }, 3).await,
            Step::Compact => compact(&now, SMALL).await.unwrap().metadata_location,
            Step::Expire(keep) => expire(&now, i64::MAX, *keep).await.unwrap().metadata_location,
            Step::Back(index) => index.get(&states).clone(),
            Step::Lost(rows) => {
                put(Some(now.clone()), Mode::Append, *rows).await;
                now
            }
        };
        states.push(now.clone());
    }
    let live: BTreeSet<String> = kept.iter().map(|index| index.get(&states).clone()).chain([now]).collect();
    let mut before = Vec::new();
    for state in &live {
        before.push(sorted(&all(&written(state)).await));
    }
    let needed = files_of(&live, root).await.unwrap();
    let (kept, gone): (Vec<_>, Vec<_>) =
        files_below(root).await.unwrap().into_iter().partition(|file| needed.contains(&name(&file.location)));
    assert_eq!(kept.len(), needed.len(), "every file that is needed is there");
    remove_files(root, gone, 0).await.unwrap();
    // No live file went: every state that is left can be read, at every snapshot it knows.
    for (state, rows) in live.iter().zip(before) {
        assert_eq!(sorted(&all(&written(state)).await), rows);
        let table = Table::open(state).await.unwrap();
        for snapshot in table.metadata.snapshots() {
            table.live_files(snapshot).await.unwrap();
        }
    }
    // And nothing is left that is not needed.
    let left: HashSet<String> = files_below(root).await.unwrap().iter().map(|file| name(&file.location)).collect();
    assert_eq!(left, needed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_collected_is_what_no_table_needs(
        steps in prop::collection::vec(step(), 1..10),
        kept in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        far in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lake = Lake::new();
        let root = if far { "s3://collected/lake/tables".to_owned() } else { lake.path("tables") };
        stand_in("s3://collected", Arc::new(object_store::memory::InMemory::new()));
        runtime.block_on(play(&root, &steps, &kept));
    }
}

#[tokio::test]
async fn files_that_are_nobodys_business_stay() {
    let lake = Lake::new();
    let root = lake.path("tables");
    for path in ["ns/t/notes.txt", "ns/data/x.parquet", "data/metadata/x", "ns/t/data/deep/x.parquet", "ns/t/metadata/x.avro"] {
        let path = format!("{root}/{path}");
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    std::os::unix::fs::symlink("/nowhere", format!("{root}/ns/t/data/link")).unwrap();
    let found = files_below(&root).await.unwrap();
    let names: BTreeSet<&str> = found.iter().map(|file| file.location.strip_prefix(&root).unwrap()).collect();
    assert_eq!(names, ["/ns/t/data/deep/x.parquet", "/ns/t/metadata/x.avro"].into());
    remove_files(&root, found, 0).await.unwrap();
    assert!(files_below(&root).await.unwrap().is_empty() && std::path::Path::new(&format!("{root}/ns/t/notes.txt")).exists());
    assert!(files_below(&lake.path("none")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_table_that_cannot_be_read_stops_a_collection() {
    let lake = Lake::new();
    let (root, outside) = (lake.path("tables"), lake.path("elsewhere/t"));
    let inside = create(&format!("{root}/ns/t"), &trips(0, 1).schema(), &[], &[], &[]).await.unwrap();
    let external = create(&outside, &trips(0, 1).schema(), &[], &[], &[]).await.unwrap();
    let both: BTreeSet<String> = [inside.clone(), external.clone()].into();
    assert_eq!(files_of(&both, &root).await.unwrap().len(), 2);
    std::fs::remove_file(&external).unwrap();
    assert_eq!(files_of(&both, &root).await.unwrap().len(), 1, "an external table may go");
    std::fs::remove_file(&inside).unwrap();
    assert_eq!(code(files_of(&both, &root).await), "LAK0001");
}
