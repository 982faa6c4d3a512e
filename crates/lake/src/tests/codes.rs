//! Every code can happen, and has a page.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DurationSecondArray, Int32Array, Int64Array, RecordBatch, StringArray, StructArray, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use forebay_types::{Coded, Fault};

use super::imports::{csv, parquet};
use super::{Lake, batch, code, fields, filtered, trips};
use crate::{
    Error, Mode, Result, ScanRequest, SourceFile, WriteRequest, Written, create, infer_schema, load, read_source, scan, sources,
    write,
};

fn numbers(name: &str, values: Vec<i64>) -> RecordBatch {
    batch(vec![(name, Arc::new(Int64Array::from(values)) as ArrayRef)])
}

/// The only file of a folder with this ending.
fn only(folder: &str, ending: &str) -> std::path::PathBuf {
    let mut found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.to_str().unwrap().ends_with(ending)).unwrap()
}

#[tokio::test]
async fn damaged_metadata() {
    let lake = Lake::new();
    let table = lake.table("region", &trips(0, 5)).await;
    assert_eq!(code(load(&lake.path("t/metadata/none.json")).await), "LAK0001");
    let whole = fs::read_to_string(&table.metadata_location).unwrap();
    let broken = lake.path("t/metadata/broken.json");
    let cuts = (0..whole.len()).step_by(97).filter(|end| whole.is_char_boundary(*end)).map(|end| whole[..end].to_owned());
    let swaps = [
        whole.replace("\"current-schema-id\":0", "\"current-schema-id\":7"),
        whole.replace("\"default-spec-id\":0", "\"default-spec-id\":9"),
        whole.replace("\"format-version\":2", "\"format-version\":9"),
        whole.replace("\"long\"", "\"short\""),
        whole.replace("\"source-id\":2", "\"source-id\":77"),
        "null".to_owned(),
        "{}".to_owned(),
    ];
    for text in cuts.chain(swaps) {
        fs::write(&broken, &text).unwrap();
        assert_eq!(code(load(&broken).await), "LAK0001", "{text}");
    }
    let manifests = lake.path("t/metadata");
    for ending in ["-m0.avro", ".avro"] {
        let path = if ending == ".avro" { only_list(&manifests) } else { only(&manifests, ending) };
        let bytes = fs::read(&path).unwrap();
        for damaged in [&bytes[..bytes.len() / 2], b"", b"Obj\x01garbage"] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(code(filtered(&table, "").await), "LAK0001", "{ending}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(code(filtered(&table, "").await), "LAK0001", "{ending}");
        fs::write(&path, bytes).unwrap();
        assert!(filtered(&table, "").await.is_ok());
    }
}

fn only_list(folder: &str) -> std::path::PathBuf {
    let mut found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("snap-")).unwrap()
}

/// Whatever one changed byte does, it is an error or does not matter; never a crash.
#[tokio::test]
async fn a_flipped_byte_anywhere() {
    let lake = Lake::new();
    let table = lake.table("region, day(ts)", &trips(0, 20)).await;
    let folder = lake.path("t/metadata");
    let files = [
        only(&folder, "-m0.avro"),
        only_list(&folder),
        Path::new(&table.metadata_location).to_path_buf(),
        only(&lake.path("t/data"), ".parquet"),
    ];
    for path in &files {
        let whole = fs::read(path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 300 + 1) {
            for bit in [1, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] ^= bit;
                fs::write(path, damaged).unwrap();
                let request = ScanRequest {
                    metadata_location: table.metadata_location.clone(),
                    filter: Some("region = 'eu' AND ts < TIMESTAMP '1970-01-02'".into()),
                    ..ScanRequest::default()
                };
                let scanned = tokio::spawn(scan(request)).await;
                assert!(scanned.is_ok(), "byte {at} of {} ^ {bit}", path.display());
                let loaded = tokio::spawn({
                    let location = table.metadata_location.clone();
                    async move { load(&location).await }
                });
                assert!(loaded.await.is_ok(), "byte {at} of {} ^ {bit}", path.display());
            }
        }
        fs::write(path, whole).unwrap();
    }
}

#[tokio::test]
async fn damaged_data_files() {
    let lake = Lake::new();
    let table = lake.table("", &trips(0, 500)).await;
    let path = only(&lake.path("t/data"), ".parquet");
    let bytes = fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[4..200].fill(0xAA);
    for damaged in [&bytes[..bytes.len() - 9], b"", b"PAR1PAR1", &flipped] {
        fs::write(&path, damaged).unwrap();
        let error = filtered(&table, "").await.unwrap_err();
        assert!(matches!(&error, Error::DataFile { path: named, .. } if Path::new(named) == path), "{error:?}");
    }
    fs::remove_file(&path).unwrap();
    let error = filtered(&table, "").await.unwrap_err().report();
    assert_eq!((error.code.to_string().as_str(), error.fault), ("LAK0002", Fault::Platform));
    assert!(error.message.contains(path.to_str().unwrap()));
}

/// What a case needs.
struct Case {
    lake: Lake,
    table: Written,
}

impl Case {
    async fn new(partition_by: &str) -> Self {
        let lake = Lake::new();
        let table = lake.table(partition_by, &trips(0, 9)).await;
        Self { lake, table }
    }

    async fn append(&self, rows: &RecordBatch) -> Result<Written> {
        self.lake.write(Some(&self.table), Mode::Append, "", rows).await
    }

    async fn made(&self, partition_by: &str, rows: &RecordBatch) -> Result<Written> {
        self.lake.write(None, Mode::Replace, partition_by, rows).await
    }
}

#[tokio::test]
async fn codes_of_types_and_names() {
    let case = Case::new("").await;
    let duration: ArrayRef = Arc::new(DurationSecondArray::from(vec![1]));
    assert_eq!(code(case.made("", &batch(vec![("d", duration)])).await), "LAK0004");
    let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_000, 1_001]));
    let error = case.made("", &batch(vec![("t", nanos)])).await.unwrap_err().report();
    assert_eq!(error.code.to_string(), "LAK0005");
    assert!(error.message.contains("`t`") && error.message.contains("000001001"), "{}", error.message);
    assert!(error.hint.unwrap().contains("floor"));
    let none = RecordBatch::new_empty(Arc::new(Schema::empty()));
    assert_eq!(code(case.made("", &none).await), "LAK0006");
    assert_eq!(code(create(&case.lake.path("x"), &none.schema(), &[], &[], &[]).await), "LAK0006");
    let number: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let twice = Schema::new(vec![Field::new("a", DataType::Int32, true), Field::new("a", DataType::Int32, true)]);
    let twice = RecordBatch::try_new(Arc::new(twice), vec![Arc::clone(&number), Arc::clone(&number)]).unwrap();
    assert_eq!(code(case.made("", &twice).await), "LAK0007");
    assert_eq!(code(case.made("", &batch(vec![("", number)])).await), "LAK0007");
}

#[tokio::test]
async fn codes_of_partitions() {
    let case = Case::new("region").await;
    let error = case.made("regoin", &trips(0, 1)).await.unwrap_err().report();
    assert_eq!((error.code.to_string().as_str(), error.hint.as_deref()), ("LAK0008", Some("did you mean `region`?")));
    for field in ["day(region)", "hour(id)", "month(id)"] {
        assert_eq!(code(case.made(field, &trips(0, 1)).await), "LAK0009", "{field}");
    }
    assert_eq!(code(case.made("id", &numbers("id", (0..10_001).collect())).await), "LAK0010");
    let asked = case.lake.write(Some(&case.table), Mode::Append, "day(ts)", &trips(0, 1)).await;
    assert_eq!(code(asked), "LAK0011");
    for filter in ["id = 1", "region = 'eu' AND id = 1"] {
        let mode = Mode::Overwrite { filter: filter.into() };
        assert_eq!(code(case.lake.write(Some(&case.table), mode, "", &trips(0, 1)).await), "LAK0017");
    }
}

#[tokio::test]
async fn codes_of_appends() {
    let case = Case::new("").await;
    let dated = Case::new("day(ts)").await;
    let error = dated.append(&numbers("ts_day", vec![1])).await.unwrap_err().report();
    assert_eq!(error.code.to_string(), "LAK0012");
    assert!(error.message.contains("added column `ts_day`"), "{}", error.message);
    let merge = |keys: &[&str]| Mode::Merge { keys: keys.iter().map(ToString::to_string).collect(), delete_when: None };
    for (keys, rows, expect) in [("none", numbers("id", vec![1]), "LAK0042"), ("id", numbers("id", vec![1, 1]), "LAK0043")] {
        assert_eq!(code(case.lake.write(Some(&case.table), merge(&[keys]), "", &rows).await), expect);
    }
    let order = forebay_types::parse_sort_fields("regoin").unwrap();
    let error = create(&case.lake.path("x"), &trips(0, 0).schema(), &[], &order, &[]).await.unwrap_err().report();
    assert_eq!((error.code.to_string().as_str(), error.hint.as_deref()), ("LAK0041", Some("did you mean `region`?")));
    let words: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    assert_eq!(code(case.append(&batch(vec![("id", words)])).await), "LAK0013");
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("m", DataType::Int64, true)]));
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let strict = RecordBatch::try_new(schema, vec![Arc::clone(&column), column]).unwrap();
    let strict = Lake::new().keep(&strict).await;
    let nulls = batch(vec![("n", Arc::new(Int64Array::from(vec![None])) as ArrayRef)]);
    for rows in [nulls, numbers("m", vec![1])] {
        assert_eq!(code(strict.lake.write(Some(&strict.table), Mode::Append, "", &rows).await), "LAK0014");
    }
}

impl Lake {
    /// A table whose metadata says that it is partitioned by `place.zip`, as another engine could make it.
    async fn table_by_nested_field(self) -> Case {
        let zip: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let place = StructArray::from(vec![(Arc::new(Field::new("zip", DataType::Int64, true)), zip)]);
        let id: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let table = self.table("id", &batch(vec![("id", id), ("place", Arc::new(place))])).await;
        let text = fs::read_to_string(&table.metadata_location).unwrap();
        let text = text.replace("\"source-id\":1", "\"source-id\":3");
        let metadata_location = self.path("t/metadata/nested.json");
        fs::write(&metadata_location, text).unwrap();
        Case { table: Written { metadata_location, ..table }, lake: self }
    }

    async fn keep(self, rows: &RecordBatch) -> Case {
        let table = self.table("", rows).await;
        Case { lake: self, table }
    }
}

#[tokio::test]
async fn codes_of_scans() {
    let case = Case::new("").await;
    let request = |columns: &[&str], snapshot_id| ScanRequest {
        metadata_location: case.table.metadata_location.clone(),
        columns: Some(columns.iter().map(ToString::to_string).collect()),
        snapshot_id,
        ..ScanRequest::default()
    };
    let error = scan(request(&["id", "regiom"], None)).await.unwrap_err().report();
    assert_eq!((error.code.to_string().as_str(), error.hint.as_deref()), ("LAK0015", Some("did you mean `region`?")));
    for filter in ["id <", "nope = 1", "id", "region > 1 + ", "count(id) > 1", "id IN (SELECT 1)", "id = 'x'"] {
        assert_eq!(code(filtered(&case.table, filter).await), "LAK0016", "{filter}");
    }
    assert_eq!(code(scan(request(&["id"], Some(1))).await), "LAK0024");
}

#[tokio::test]
async fn codes_of_imports() {
    let lake = Lake::new();
    assert_eq!(code(sources(&lake.path("none")).await), "LAK0018");
    csv(&lake, "a.txt", "a\n");
    assert_eq!(code(sources(&lake.path("a.txt")).await), "LAK0019");
    let missing = SourceFile {
        path: lake.path("gone.csv"),
        format: crate::SourceFormat::Csv,
        bytes: 0,
        folders: Vec::new(),
        version: None,
    };
    assert_eq!(code(infer_schema(&[missing]).await), "LAK0020");
    let words = parquet(&lake, "w.parquet", &batch(vec![("n", Arc::new(StringArray::from(vec!["7"])) as ArrayRef)]));
    let number = parquet(&lake, "n.parquet", &numbers("n", vec![7]));
    assert_eq!(code(infer_schema(&[words, number.clone()]).await), "LAK0021");
    let target = |name: &str, kind, nullable| Arc::new(Schema::new(vec![Field::new(name, kind, nullable)]));
    let strict = crate::Reading::default();
    assert_eq!(code(read_source(&number, &target("m", DataType::Int64, true), &strict).await), "LAK0022");
    assert_eq!(code(read_source(&number, &target("n", DataType::Date32, true), &strict).await), "LAK0023");
    assert_eq!(
        code(read_source(&number, &target("m", DataType::Int64, false), &crate::Reading { best_effort: true, ..strict }).await),
        "LAK0023"
    );
}

#[tokio::test]
async fn codes_of_disks_and_engines() {
    let case = Case::new("").await;
    let file = case.lake.path("file");
    fs::write(&file, "").unwrap();
    let schema = trips(0, 0).schema();
    assert_eq!(code(create(&format!("{file}/t"), &schema, &[], &[], &[]).await), "LAK0025");
    for location in ["relative/t", "ftp://host/t", "s3://bucket//t"] {
        assert_eq!(code(create(location, &schema, &[], &[], &[]).await), "LAK0026");
    }
    // Another engine has written a value that the recorded type does not hold.
    let large = Lake::new().keep(&batch(vec![("n", Arc::new(Int32Array::from(vec![300])) as ArrayRef)])).await;
    let noted = large.lake.path("t/metadata/noted.json");
    let text = fs::read_to_string(&large.table.metadata_location).unwrap();
    let note = format!("\"gc.enabled\":\"false\",\"{}\":\"{{\\\"1\\\":\\\"Int8\\\"}}\"", crate::TYPES_PROPERTY);
    fs::write(&noted, text.replace("\"gc.enabled\":\"false\"", &note)).unwrap();
    let noted = Written { metadata_location: noted, ..large.table.clone() };
    assert_eq!(code(filtered(&noted, "").await), "LAK0027");
    // A widened column is read as Iceberg says.
    let widened = fs::read_to_string(&noted.metadata_location).unwrap().replace("\"type\":\"int\"", "\"type\":\"long\"");
    fs::write(&noted.metadata_location, widened).unwrap();
    assert_eq!(filtered(&noted, "").await.unwrap().schema.field(0).data_type(), &DataType::Int64);
    // A newer format.
    let text = fs::read_to_string(&case.table.metadata_location).unwrap();
    let newer = case.lake.path("t/metadata/newer.json");
    fs::write(&newer, text.replace("\"format-version\":2", "\"format-version\":3,\"next-row-id\":0")).unwrap();
    let newer = Written { metadata_location: newer, ..case.table.clone() };
    assert_eq!(code(case.lake.write(Some(&newer), Mode::Append, "", &trips(0, 1)).await), "LAK0003");
    // A partition of a nested field can be read, not written.
    let nested = Lake::new().table_by_nested_field().await;
    assert_eq!(load(&nested.table.metadata_location).await.unwrap().partition_by, fields(""));
    assert_eq!(filtered(&nested.table, "").await.unwrap().stats.files_read, 1);
    assert_eq!(code(nested.append(&numbers("id", vec![1])).await), "LAK0003");
    let replaced = nested.lake.write(Some(&nested.table), Mode::Replace, "", &trips(0, 1)).await.unwrap();
    assert_ne!(load(&replaced.metadata_location).await.unwrap().location, nested.lake.path("t"));
    // A property that Iceberg keeps for itself.
    let request = WriteRequest {
        location: case.lake.path("x"),
        base: None,
        mode: Mode::Replace,
        partition_by: fields(""),
        sort_by: Vec::new(),
        docs: Vec::new(),
        properties: vec![("format-version".into(), "1".into())],
    };
    assert_eq!(code(write(request, schema, vec![]).await), "LAK0028");
}

#[test]
fn every_code_has_a_page_and_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut codes = BTreeSet::new();
    for part in fs::read_to_string(root.join("src/error.rs")).unwrap().split("\"LAK").skip(1) {
        codes.insert(format!("LAK{}", &part[..4]));
    }
    assert!(codes.len() > 30);
    let tests: String = ["codes", "imports", "register", "remote"]
        .map(|name| fs::read_to_string(root.join(format!("src/tests/{name}.rs"))).unwrap())
        .concat();
    for code in codes {
        assert!(root.join(format!("../../docs/errors/{code}.md")).is_file(), "{code} has no page");
        assert!(tests.contains(&code), "{code} has no test");
    }
}
