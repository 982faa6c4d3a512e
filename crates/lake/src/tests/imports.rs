//! Finding, inferring and reading files to import.

use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;

use super::{Lake, batch, code};
use crate::{Error, SourceFile, SourceFormat, infer_schema, read_source, sources};

pub(super) fn csv(lake: &Lake, name: &str, text: &str) -> SourceFile {
    let path = lake.path(name);
    fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    SourceFile { path, format: SourceFormat::Csv, bytes: text.len() as u64 }
}

pub(super) fn parquet(lake: &Lake, name: &str, rows: &RecordBatch) -> SourceFile {
    let path = lake.path(name);
    let mut writer = ArrowWriter::try_new(fs::File::create(&path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    SourceFile { bytes: fs::metadata(&path).unwrap().len(), path, format: SourceFormat::Parquet }
}

async fn kinds(files: &[SourceFile]) -> Vec<String> {
    let schema = infer_schema(files).await.unwrap();
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>()))
}

async fn read_all(file: &SourceFile, target: &SchemaRef) -> RecordBatch {
    concat_batches(target, &read_source(file, target, false).await.unwrap()).unwrap()
}

#[tokio::test]
async fn files_are_found_by_path_folder_and_glob() {
    let lake = Lake::new();
    for name in ["d/b.csv", "d/a.CSV", "d/deep/year=1/c.csv", "d/_hidden.csv", "d/.x.csv", "d/notes.txt"] {
        csv(&lake, name, "a\n1\n");
    }
    let names = async |uri: String| -> Vec<String> {
        let found = sources(&uri).await.unwrap();
        found.iter().map(|file| file.path.strip_prefix(&lake.path("d/")).unwrap().to_owned()).collect()
    };
    assert_eq!(names(lake.path("d")).await, ["a.CSV", "b.csv", "deep/year=1/c.csv"]);
    assert_eq!(names(format!("file://{}/", lake.path("d"))).await, ["a.CSV", "b.csv", "deep/year=1/c.csv"]);
    assert_eq!(names(lake.path("d/b.csv")).await, ["b.csv"]);
    assert_eq!(names(lake.path("d/*.csv")).await, ["_hidden.csv", "b.csv"]);
    assert_eq!(names(lake.path("d/**/year=*")).await, ["deep/year=1/c.csv"]);
    for nothing in ["none", "d/*.parquet", "d/[", "none/*"] {
        assert_eq!(code(sources(&lake.path(nothing)).await), "LAK0018", "{nothing}");
    }
    assert_eq!(code(sources(&lake.path("d/notes.txt")).await), "LAK0019");
    assert_eq!(code(sources("d/b.csv").await), "LAK0026");
}

#[tokio::test]
async fn csv_types_come_from_all_rows() {
    let lake = Lake::new();
    let text = "i,f,b,d,t,z,s,na,zip,none\n\
        1,1,true,2013-01-01,2013-01-01 05:00:00,2013-01-01T05:00:00Z,x,NA,00501,\n\
        2,2.5,false,,2013-01-02,2013-01-01T05:00:00+01:00,NA,7,10001,\n\
        NA,,NA,2013-12-31,NA,,\"a, \"\"b\"\"\",,,\n";
    let file = csv(&lake, "a.csv", text);
    let expect = [
        "i Int64",
        "f Float64",
        "b Boolean",
        "d Date32",
        "t Timestamp(µs)",
        "z Timestamp(µs, \"UTC\")",
        "s Utf8",
        "na Int64",
        "zip Utf8",
        "none Utf8",
    ];
    assert_eq!(kinds(std::slice::from_ref(&file)).await, expect);
    let target = infer_schema(std::slice::from_ref(&file)).await.unwrap();
    let rows = read_all(&file, &target).await;
    let nulls: Vec<usize> = rows.columns().iter().map(|column| column.null_count()).collect();
    assert_eq!(nulls, [1, 1, 1, 1, 1, 1, 0, 2, 1, 3]);
    let words: ArrayRef = Arc::new(StringArray::from(vec!["x", "NA", "a, \"b\""]));
    assert_eq!(rows.column(6), &words);
    let table = lake.table("", &rows).await;
    assert_eq!(super::all(&table).await, rows);
}

#[tokio::test]
async fn files_share_the_widest_type() {
    let lake = Lake::new();
    let a = csv(&lake, "a.csv", "n,s\n1,1\n");
    let b = csv(&lake, "b.csv", "s,n,more\nx,1.5,2013-01-01\n");
    assert_eq!(kinds(&[a, b]).await, ["n Float64", "s Utf8", "more Date32"]);
    let narrow = parquet(&lake, "a.parquet", &batch(vec![("n", Arc::new(Int32Array::from(vec![1])))]));
    let wide = parquet(&lake, "b.parquet", &batch(vec![("n", Arc::new(Int64Array::from(vec![1 << 40])))]));
    assert_eq!(kinds(&[wide.clone(), narrow.clone()]).await, ["n Int64"]);
    let target = schema(&[("n", DataType::Int64), ("later", DataType::Utf8)]);
    let rows = read_all(&narrow, &target).await;
    assert_eq!((rows.num_rows(), rows.column(1).null_count()), (1, 1));
    let words = parquet(&lake, "c.parquet", &batch(vec![("n", Arc::new(StringArray::from(vec!["x"])))]));
    let error = infer_schema(&[wide, narrow, words]).await.unwrap_err();
    let Error::SourceConflict { conflicts } = &error else { panic!("{error}") };
    for part in ["column `n`", "Int64 in", "b.parquet", "Utf8 in", "c.parquet"] {
        assert!(conflicts.contains(part), "{conflicts}");
    }
}

#[tokio::test]
async fn parquet_keeps_its_types() {
    let lake = Lake::new();
    let zoned: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1]).with_timezone("Europe/Berlin"));
    let rows = batch(vec![("größe", zoned), ("n", Arc::new(Int32Array::from(vec![None])))]);
    let file = parquet(&lake, "a.parquet", &rows);
    let target = infer_schema(std::slice::from_ref(&file)).await.unwrap();
    assert_eq!(target.field(0).data_type(), &DataType::Timestamp(TimeUnit::Millisecond, Some("Europe/Berlin".into())));
    assert_eq!(read_all(&file, &target).await, rows);
}

#[tokio::test]
async fn values_fit_or_are_named() {
    let lake = Lake::new();
    let file = csv(&lake, "a.csv", "n\n1\nx\n");
    let error = read_source(&file, &schema(&[("n", DataType::Int64)]), false).await.unwrap_err();
    assert!(error.to_string().contains("column `n`, row 2: the value `x`"), "{error}");
    let floats = parquet(&lake, "f.parquet", &batch(vec![("n", Arc::new(Int64Array::from(vec![1, 300])))]));
    let error = read_source(&floats, &schema(&[("n", DataType::Int8)]), false).await.unwrap_err();
    assert!(error.to_string().contains("row 2: the value `300`"), "{error}");
    let words = parquet(&lake, "w.parquet", &batch(vec![("n", Arc::new(StringArray::from(vec!["7"])))]));
    let target = schema(&[("n", DataType::Int64)]);
    assert_eq!(code(read_source(&words, &target, false).await), "LAK0023");
    assert_eq!(read_source(&words, &target, true).await.unwrap()[0].num_rows(), 1);
    let extra = csv(&lake, "e.csv", "n,extra\n1,2\n");
    assert_eq!(code(read_source(&extra, &target, false).await), "LAK0022");
    assert_eq!(read_source(&extra, &target, true).await.unwrap()[0].num_columns(), 1);
}

#[tokio::test]
async fn damaged_files_are_named() {
    let lake = Lake::new();
    for (name, text) in
        [("ragged.csv", "a,b\n1,2\n3\n"), ("empty.csv", ""), ("bytes.csv", "a\n\u{1}"), ("twice.csv", "a,a\n1,2\n")]
    {
        let mut file = csv(&lake, name, text);
        if name == "bytes.csv" {
            fs::write(&file.path, b"a\n\xff\xfe\n").unwrap();
        }
        let error = infer_schema(std::slice::from_ref(&file)).await.unwrap_err();
        assert!(matches!(&error, Error::Source { path, .. } if *path == file.path), "{name}: {error:?}");
        file.format = SourceFormat::Parquet;
        assert_eq!(code(infer_schema(&[file]).await), "LAK0020");
    }
}
