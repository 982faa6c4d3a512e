//! Position deletes of another engine are honoured, equality deletes refused.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, MAIN_BRANCH, ManifestListWriter, ManifestWriterBuilder, Operation,
    Snapshot, SnapshotReference, SnapshotRetention, Struct, Summary,
};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};

use super::{Lake, all, code, filtered, ids, trips};
use crate::table::Table;
use crate::{Mode, Written, load};

/// Adds a snapshot with one delete file, as another engine would.
pub(super) async fn delete(lake: &Lake, written: &Written, content: DataContentType, positions: &[i64]) -> Written {
    let table = Table::open(&written.metadata_location).await.unwrap();
    let metadata = &table.metadata;
    let parent = metadata.current_snapshot().unwrap();
    let target = table.live_files(parent).await.unwrap().data[0].file.file_path().to_owned();
    let path = lake.path("t/data/deletes.parquet");
    write_positions(&path, &target, positions);
    let mut file = DataFileBuilder::default();
    file.content(content)
        .file_path(path.clone())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .record_count(positions.len() as u64)
        .file_size_in_bytes(std::fs::metadata(&path).unwrap().len());
    if content == DataContentType::EqualityDeletes {
        file.equality_ids(Some(vec![1]));
    } else {
        file.referenced_data_file(Some(target));
    }
    let (id, sequence) = (parent.snapshot_id() ^ 1, metadata.next_sequence_number());
    let output = table.io.new_output(lake.path("t/metadata/deletes.avro")).unwrap();
    let spec = metadata.default_partition_spec().as_ref().clone();
    let mut manifest =
        ManifestWriterBuilder::new(output, Some(id), Arc::clone(metadata.current_schema()), spec).build_v2_deletes();
    manifest.add_file(file.build().unwrap(), -1).unwrap();
    let mut manifests = table.manifests(parent).await.unwrap();
    manifests.push(manifest.write_manifest_file().await.unwrap());
    let list = lake.path("t/metadata/snap-deletes.avro");
    let output = table.io.new_output(&list).unwrap().writer().await.unwrap();
    let mut writer = ManifestListWriter::v2(output, id, Some(parent.snapshot_id()), sequence);
    writer.add_manifests(manifests.into_iter()).unwrap();
    writer.close().await.unwrap();
    let snapshot = Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(Some(parent.snapshot_id()))
        .with_sequence_number(sequence)
        .with_timestamp_ms(metadata.last_updated_ms() + 1)
        .with_manifest_list(list)
        .with_summary(Summary { operation: Operation::Delete, additional_properties: HashMap::new() })
        .with_schema_id(metadata.current_schema_id())
        .build();
    let reference = SnapshotReference::new(id, SnapshotRetention::branch(None, None, None));
    let builder = metadata.clone().into_builder(Some(table.location.clone()));
    let built = builder.add_snapshot(snapshot).unwrap().set_ref(MAIN_BRANCH, reference).unwrap().build().unwrap();
    let location = lake.path("t/metadata/00009-deletes.metadata.json");
    std::fs::write(&location, serde_json::to_vec(&built.metadata).unwrap()).unwrap();
    Written { metadata_location: location, ..written.clone() }
}

fn write_positions(path: &str, target: &str, positions: &[i64]) {
    let field = |name: &str, kind, id: &str| {
        let id = HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_owned())]);
        Field::new(name, kind, false).with_metadata(id)
    };
    let schema = Arc::new(Schema::new(vec![
        field("file_path", DataType::Utf8, "2147483546"),
        field("pos", DataType::Int64, "2147483545"),
    ]));
    let files: ArrayRef = Arc::new(StringArray::from(vec![target; positions.len()]));
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![files, Arc::new(Int64Array::from(positions.to_vec()))]);
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&rows.unwrap()).unwrap();
    writer.close().unwrap();
}

#[tokio::test]
async fn deleted_positions_are_gone_and_stay_gone() {
    let lake = Lake::new();
    let n: i64 = 128 * 1024 + 10;
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
    let written = lake.table("", &super::batch(vec![("id", numbers)])).await;
    let gone = [0, 1, 5, 128 * 1024 - 1, 128 * 1024, n - 1];
    let deleted = delete(&lake, &written, DataContentType::PositionDeletes, &gone).await;
    let expect: Vec<i64> = (0..n).filter(|id| !gone.contains(id)).collect();
    assert_eq!(ids(&all(&deleted).await), expect);
    assert_eq!(load(&deleted.metadata_location).await.unwrap().records, None);
    // Rows appended later are not deleted, though they have the same positions.
    let more = super::batch(vec![("id", Arc::new(Int64Array::from_iter_values(n..n + 3)))]);
    let appended = lake.write(Some(&deleted), Mode::Append, "", &more).await.unwrap();
    assert_eq!(all(&appended).await.num_rows(), expect.len() + 3);
    let one = super::batch(vec![("id", Arc::new(Int64Array::from(vec![1])))]);
    let replaced = lake.write(Some(&appended), Mode::Replace, "", &one).await.unwrap();
    assert_eq!(ids(&all(&replaced).await), [1]);
    let table = Table::open(&replaced.metadata_location).await.unwrap();
    let live = table.live_files(table.metadata.current_snapshot().unwrap()).await.unwrap();
    assert!(live.deletes.is_empty(), "the delete files went with the rows");
}

#[tokio::test]
async fn an_overwrite_honours_deleted_positions() {
    let lake = Lake::new();
    let rows = trips(0, 8).project(&[0]).unwrap();
    let written = lake.table("", &rows).await;
    let deleted = delete(&lake, &written, DataContentType::PositionDeletes, &[2]).await;
    assert_eq!(ids(&filtered(&deleted, "id < 5").await.unwrap().batches[0]), [0, 1, 3, 4]);
}

#[tokio::test]
async fn equality_deletes_are_refused() {
    let lake = Lake::new();
    let written = lake.table("", &trips(0, 8)).await;
    let deleted = delete(&lake, &written, DataContentType::EqualityDeletes, &[2]).await;
    assert_eq!(code(filtered(&deleted, "").await), "LAK0003");
}
