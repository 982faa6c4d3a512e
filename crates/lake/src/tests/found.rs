//! Files to import in an object store: the same are found and read as in a folder; a version is read as a whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use parquet::arrow::ArrowWriter;

use super::*;
use crate::storage::stand_in;
use crate::{Reading, SourceFile, infer_schema, read_source, search_root, sources};

/// The same files in a folder and in a bucket.
struct Both {
    lake: Lake,
    store: Arc<InMemory>,
    bucket: String,
}

impl Both {
    async fn new(bucket: &str, files: &[(&str, &str)]) -> Self {
        let store = Arc::new(InMemory::new());
        let bucket = format!("s3://{bucket}");
        stand_in(&bucket, Arc::clone(&store) as Arc<dyn ObjectStore>);
        let both = Self { lake: Lake::new(), store, bucket };
        for (name, text) in files {
            both.put(name, text.as_bytes().to_vec()).await;
        }
        both
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) {
        let path = self.lake.path(name);
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
        self.store.put(&Key::parse(name).unwrap(), PutPayload::from(bytes)).await.unwrap();
    }

    /// What is found, in both, without where it lies; or the error's code.
    async fn found(&self, pattern: &str) -> [Result<Vec<SourceFile>, String>; 2] {
        let mut found = Vec::new();
        for root in [self.lake.path(""), format!("{}/", self.bucket)] {
            let mut files = sources(&format!("{root}{pattern}")).await.map_err(|error| error.report().code.0.to_string());
            for file in files.iter_mut().flatten() {
                file.path = file.path.strip_prefix(&root).unwrap().to_owned();
                file.version = None;
            }
            found.push(files);
        }
        found.try_into().unwrap()
    }
}

#[tokio::test]
async fn the_same_is_found_as_in_a_folder() {
    let names = [
        "d/year=2023/a.csv",
        "d/year=2024/city=x%2Fy/b.csv",
        "d/year=2024/_temporary/c.csv",
        "d/.hidden/d.csv",
        "d/_SUCCESS",
        "d/notes.txt",
        "d/e.jsonl",
        "d/x-1.parquet",
        "d/x-22.parquet",
        "d/.x-3.parquet",
        "d/deep/er/x-4.parquet",
        "d/star*.csv",
        "other/a.csv",
        "d2/a.csv",
        "d/year=__HIVE_DEFAULT_PARTITION__/f.csv",
        "d/lit[1].csv",
        "d/lit1.csv",
    ];
    let files: Vec<(&str, &str)> = names.iter().map(|name| (*name, "id\n1\n")).collect();
    let both = Both::new("found", &files).await;
    let mut counts = BTreeMap::new();
    for pattern in [
        "d",
        "d/",
        "d/*.csv",
        "d/*",
        "d/**/*.csv",
        "**/*.parquet",
        "d/x-?.parquet",
        "d/x-[0-9].parquet",
        "d/year=*/*.csv",
        "*/a.csv",
        "d/year=2024",
        "d/*/city=*",
        "d/star*.csv",
        "d/lit[1].csv",
        "d/e.jsonl",
        "d/**",
        "d/deep/**/x-4.parquet",
        "nothing",
        "d/*.orc",
        "d/notes.txt",
        "d/_SUCCESS",
        "d/[",
        "d/year=2024/_temporary",
        "d/_temp*",
        "d/.hidden/*.csv",
        "*/*/a.csv",
        "d/ye",
        "?",
    ] {
        let [near, far] = both.found(pattern).await;
        assert_eq!(near, far, "{pattern}");
        counts.insert(pattern, near.map(|files| files.len()));
    }
    assert_eq!((&counts["d"], &counts["d/x-?.parquet"], &counts["d/lit[1].csv"]), (&Ok(10), &Ok(1), &Ok(1)), "{counts:?}");
    assert_eq!((&counts["nothing"], &counts["d/notes.txt"]), (&Err("LAK0018".into()), &Err("LAK0019".into())));
    let [_, far] = both.found("d/year=2024").await;
    assert_eq!(far.unwrap()[0].folders, [("city".to_owned(), Some("x/y".to_owned()))], "what is above was not searched for");
    assert_eq!(search_root("s3://found/d/*/x?").unwrap(), "s3://found/d");
    assert_eq!(search_root(&both.lake.path("d/*.csv")).unwrap(), both.lake.path("d"));
}

/// Some programs write an empty object for a folder.
#[tokio::test]
async fn an_object_for_a_folder_is_no_file() {
    let store = Arc::new(InMemory::new());
    stand_in("s3://markers", Arc::clone(&store) as Arc<dyn ObjectStore>);
    for (key, text) in [("t.parquet", ""), ("t.parquet/part.csv", "id\n1\n"), ("u", ""), ("u/v.csv", "id\n2\n")] {
        store.put(&Key::parse(key).unwrap(), text.into()).await.unwrap();
    }
    for (uri, path) in [("s3://markers/t.parquet", "s3://markers/t.parquet/part.csv"), ("s3://markers/u", "s3://markers/u/v.csv")]
    {
        let found = sources(uri).await.unwrap();
        assert_eq!(found.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), [path]);
    }
    assert_eq!(sources("s3://markers").await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_same_is_read_as_in_a_folder() {
    let both =
        Both::new("read", &[("a.csv", "id,name\n1,one\n2,\n"), ("b.jsonl", "{\"id\": 3, \"name\": \"three\"}\n\n{\"id\": 4}\n")])
            .await;
    let rows = trips(0, 3000);
    let mut bytes = Vec::new();
    let properties = parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(500)).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    both.put("c.parquet", bytes).await;
    for name in ["a.csv", "b.jsonl", "c.parquet"] {
        let mut read = Vec::new();
        for root in [both.lake.path(""), format!("{}/", both.bucket)] {
            let files = sources(&format!("{root}{name}")).await.unwrap();
            let schema = infer_schema(&files).await.unwrap();
            let batches = read_source(&files[0], &schema, &Reading::default()).await.unwrap();
            read.push(concat_batches(&schema, &batches).unwrap());
        }
        assert_eq!(read[0], read[1], "{name}");
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_is_not_read_in_halves() {
    let both = Both::new("replaced", &[("a.csv", "id\n1\n"), ("b.jsonl", "{\"id\": 1}\n")]).await;
    for name in ["a.csv", "b.jsonl"] {
        let files = sources(&format!("s3://replaced/{name}")).await.unwrap();
        let schema = infer_schema(&files).await.unwrap();
        both.put(name, b"id\n2\n{}".to_vec()).await;
        let error = read_source(&files[0], &schema, &Reading::default()).await.unwrap_err();
        assert!(error.to_string().contains("it was replaced while it was read"), "{}", error.report());
        assert_eq!(error.report().code.0, "LAK0025");
    }
}
