//! Tables in an object store: the same rows as on a disk, and failures that say what is wrong.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;
use crate::storage::{StorageOptions, check_storage, stand_in, use_storage};
use crate::{create, load};

fn options(pairs: &[(&str, &str)]) -> StorageOptions {
    StorageOptions(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

/// Answers every request with a status and a text, on a port of its own.
fn server(status: &'static str, text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
        }
    });
    format!("http://{address}")
}

fn with_keys(endpoint: &str) -> StorageOptions {
    options(&[("aws_access_key_id", "key"), ("aws_secret_access_key", "s3cr3ts3cr3t"), ("aws_endpoint_url", endpoint)])
}

#[test]
fn what_is_wrong_with_a_bucket_is_told() {
    let nowhere = "http://127.0.0.1:1";
    let cases = [
        (options(&[("aws_metadata_endpoint", nowhere)]), "LAK0080"),
        (with_keys(&server("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>")), "LAK0081"),
        (with_keys(&server("403 Forbidden", "<Error><Code>AccessDenied</Code><Key>s3cr3ts3cr3t</Key></Error>")), "LAK0082"),
        (with_keys(nowhere), "LAK0083"),
        (with_keys(&server("503 Slow Down", "")), "LAK0083"),
    ];
    for (options, expected) in cases {
        let report = check_storage("s3://no-such-bucket/lake", &options).unwrap_err().report();
        assert_eq!(report.code.0, expected, "{report}");
        assert!(report.hint.is_some() && !format!("{report}").contains("s3cr3t"), "{report}");
    }
}

#[test]
fn what_is_missing_for_other_stores_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.json");
    std::fs::write(&key, "{}").unwrap();
    let nobody = server("403 Forbidden", "");
    let account = [("azure_storage_account_name", "somebody"), ("azure_msi_endpoint", nobody.as_str())];
    let cases = [
        ("az://container/lake", options(&[]), "LAK0080", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("az://container/lake", options(&account), "LAK0080", "AZURE_STORAGE_ACCOUNT_KEY"),
        (
            "az://container/lake",
            options(&[account[0], ("azure_storage_account_key", "not base 64")]),
            "LAK0080",
            "AZURE_STORAGE_ACCOUNT_KEY",
        ),
        ("gs://bucket/lake", options(&[("google_service_account", "/nowhere/key.json")]), "LAK0080", "GOOGLE_SERVICE_ACCOUNT"),
        ("gs://bucket/lake", options(&[("google_service_account", key.to_str().unwrap())]), "LAK0080", "GOOGLE_SERVICE_ACCOUNT"),
    ];
    for (uri, options, expected, hint) in cases {
        let report = check_storage(uri, &options).unwrap_err().report();
        assert_eq!(report.code.0, expected, "{uri} {options:?}: {report}");
        assert!(report.hint.as_ref().is_some_and(|told| told.to_string().contains(hint)), "{report}");
        assert!(!report.to_string().contains("AWS_") && !report.to_string().contains("not base 64"), "{report}");
    }
}

#[tokio::test]
async fn a_store_that_fails_is_no_damaged_file() {
    use_storage("s3://far-away", &with_keys(&server("403 Forbidden", "")));
    assert_eq!(code(load("s3://far-away/t/metadata/v1.metadata.json").await), "LAK0082");
    stand_in("s3://empty", Arc::new(InMemory::new()));
    assert_eq!(code(load("s3://empty/t/metadata/v1.metadata.json").await), "LAK0001");
    assert_eq!(code(load("s3://empty//t").await), "LAK0026");
}

/// The same changes of a table on a disk and in an object store.
#[tokio::test]
async fn a_table_in_an_object_store_is_a_table() {
    stand_in("s3://tables", Arc::new(InMemory::new()));
    let disk = Lake::new();
    let mut seen = Vec::new();
    for location in [disk.path("t"), "s3://tables/some/lake/t".to_owned()] {
        let mut base: Option<String> = None;
        let mut states = Vec::new();
        let steps = [
            (Mode::Replace, trips(0, 300)),
            (Mode::Append, trips(300, 450)),
            (Mode::Overwrite { filter: "region = 'eu'".into() }, trips(1000, 1010)),
            (Mode::Append, trips(450, 451)),
        ];
        for (mode, batch) in steps {
            let partition_by = if base.is_none() { fields("region") } else { vec![] };
            let request = WriteRequest {
                location: location.clone(),
                base,
                mode,
                partition_by,
                sort_by: vec![],
                docs: vec![],
                properties: vec![],
            };
            let written = write(request, batch.schema(), vec![batch]).await.unwrap();
            assert!(written.metadata_location.starts_with(&location), "{}", written.metadata_location);
            for filter in ["", "id >= 440", "region = 'us' AND id < 20", "ts IS NULL"] {
                let scanned = filtered(&written, filter).await.unwrap();
                let rows = concat_batches(&scanned.schema, &scanned.batches).unwrap();
                // Sizes of files differ by nothing but what is random in them.
                states.push((filter, ids(&rows), scanned.stats.files_read, scanned.stats.row_groups_read));
            }
            let info = load(&written.metadata_location).await.unwrap();
            states.push(("", vec![i64::try_from(info.records.unwrap()).unwrap()], info.snapshots, 0));
            base = Some(written.metadata_location);
        }
        seen.push(states);
    }
    assert_eq!(seen[0], seen[1]);
    let again = create("s3://tables/some/lake/t", &trips(0, 1).schema(), &[], &[], &[]).await.unwrap();
    assert!(again.starts_with("s3://tables/some/lake/t-"), "a place that is taken is not used: {again}");
}

/// A file of several parts and row groups: no number of it can be compressed away.
#[tokio::test]
async fn a_large_file_goes_in_parts() {
    stand_in("s3://large", Arc::new(InMemory::new()));
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::from_le_bytes((state ^ (state >> 29)).to_le_bytes())
    };
    let ids: Vec<i64> = (0..3_000_000).map(|_| random()).collect();
    let batch = batch(vec![("id", Arc::new(Int64Array::from(ids.clone())))]);
    let request = WriteRequest {
        location: "s3://large/t".into(),
        base: None,
        mode: Mode::Replace,
        partition_by: vec![],
        sort_by: vec![],
        docs: vec![],
        properties: vec![],
    };
    let written = write(request, batch.schema(), vec![batch]).await.unwrap();
    assert!(written.files == 1 && written.file_bytes > 20 << 20, "{written:?}");
    assert!(super::ids(&all(&written).await) == ids);
}
