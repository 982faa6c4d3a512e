//! Finding, inferring and reading files to import.

use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;

use super::{Lake, batch, code};
use crate::{Error, Reading, SourceFile, SourceFormat, infer_schema, read_source, sources};

/// Best effort.
const BEST: Reading = Reading { best_effort: true, casts: std::collections::BTreeMap::new() };

pub(super) fn csv(lake: &Lake, name: &str, text: &str) -> SourceFile {
    let path = lake.path(name);
    fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    SourceFile { path, format: SourceFormat::Csv, bytes: text.len() as u64, folders: Vec::new(), version: None }
}

pub(super) fn parquet(lake: &Lake, name: &str, rows: &RecordBatch) -> SourceFile {
    let path = lake.path(name);
    let mut writer = ArrowWriter::try_new(fs::File::create(&path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    SourceFile {
        bytes: fs::metadata(&path).unwrap().len(),
        path,
        format: SourceFormat::Parquet,
        folders: Vec::new(),
        version: None,
    }
}

async fn kinds(files: &[SourceFile]) -> Vec<String> {
    let schema = infer_schema(files).await.unwrap();
    schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
}

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>()))
}

async fn read_all(file: &SourceFile, target: &SchemaRef) -> RecordBatch {
    concat_batches(target, &read_source(file, target, &Reading::default()).await.unwrap()).unwrap()
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
    let error = read_source(&file, &schema(&[("n", DataType::Int64)]), &Reading::default()).await.unwrap_err();
    assert!(error.to_string().contains("column `n`, row 2: the value `x`"), "{error}");
    let floats = parquet(&lake, "f.parquet", &batch(vec![("n", Arc::new(Int64Array::from(vec![1, 300])))]));
    let error = read_source(&floats, &schema(&[("n", DataType::Int8)]), &Reading::default()).await.unwrap_err();
    assert!(error.to_string().contains("row 2: the value `300`"), "{error}");
    let words = parquet(&lake, "w.parquet", &batch(vec![("n", Arc::new(StringArray::from(vec!["7"])))]));
    let target = schema(&[("n", DataType::Int64)]);
    assert_eq!(code(read_source(&words, &target, &Reading::default()).await), "LAK0023");
    assert_eq!(read_source(&words, &target, &BEST).await.unwrap()[0].num_rows(), 1);
    let extra = csv(&lake, "e.csv", "n,extra\n1,2\n");
    assert_eq!(code(read_source(&extra, &target, &Reading::default()).await), "LAK0022");
    assert_eq!(read_source(&extra, &target, &BEST).await.unwrap()[0].num_columns(), 1);
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

fn json(lake: &Lake, name: &str, text: &str) -> SourceFile {
    SourceFile { format: SourceFormat::JsonLines, ..csv(lake, name, text) }
}

#[tokio::test]
async fn json_lines_are_read() {
    let lake = Lake::new();
    let text = "{\"id\": 1, \"name\": \"a\", \"tags\": [\"x\"], \"at\": {\"day\": \"2024-01-31\"}, \"mixed\": 1}\n\n\
        {\"name\": null, \"id\": 2.5, \"mixed\": \"two\", \"at\": {\"n\": 7}, \"none\": null, \"big\": 18446744073709551615}\n";
    let file = json(&lake, "a.jsonl", text);
    let expect = [
        "id Float64",
        "name Utf8",
        "tags List(Utf8)",
        "at Struct(\"day\": Utf8, \"n\": Int64)",
        "mixed Utf8",
        "none Utf8",
        "big Utf8",
    ];
    assert_eq!(kinds(std::slice::from_ref(&file)).await, expect);
    let target = infer_schema(std::slice::from_ref(&file)).await.unwrap();
    let rows = read_all(&file, &target).await;
    let shown = arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string();
    for value in ["| 2.5 |", "| [x]  |", "| {day: 2024-01-31, n: } |", "| 1     |", "| two   |", "18446744073709551615"] {
        assert!(shown.contains(value), "{value} in\n{shown}");
    }
    // A file of another run fits the table, too; strings become the dates a table has.
    let later = json(&lake, "b.json", "{\"id\": 3, \"name\": \"2024-02-29\"}");
    let dates = schema(&[("name", DataType::Date32), ("id", DataType::Int64)]);
    assert_eq!(read_all(&later, &dates).await.num_rows(), 1);
    let wrong = read_source(&file, &schema(&[("id", DataType::Int64)]), &BEST).await.unwrap_err();
    assert!(wrong.to_string().contains("row 2: the value `2.5`"), "{wrong}");
    for (text, why) in [
        ("{\"a\": 1}\n[1]\n", "line 2: it is not an object"),
        ("{\"a\": 1}\n{\"a\"\n", "line 2"),
        ("{\"a\": [1]}\n{\"a\": 1}\n", "objects or lists in some rows"),
        (&format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100)), "nested more than"),
    ] {
        let error = infer_schema(&[json(&lake, "bad.jsonl", text)]).await.unwrap_err();
        let report = forebay_types::Coded::report(&error).to_string();
        assert!(report.contains("LAK0020") && report.contains(why), "{report}");
    }
}

#[tokio::test]
async fn folders_give_columns() {
    let lake = Lake::new();
    for (name, text) in [
        ("h/year=2023/city=a%2Fb/1.csv", "id\n1\n"),
        ("h/year=2024/city=__HIVE_DEFAULT_PARTITION__/2.csv", "id\n2\n"),
        ("h/year=2024/city=c/3.jsonl", "{\"id\": 3, \"year\": 1999}"),
    ] {
        csv(&lake, name, text);
    }
    let files = sources(&lake.path("h")).await.unwrap();
    assert_eq!(kinds(&files).await, ["id Int64", "year Int64", "city Utf8"]);
    assert_eq!(kinds(&sources(&lake.path("h/year=*/*/*.csv")).await.unwrap()).await, ["id Int64", "year Int64", "city Utf8"]);
    // What is above the search is none of its business.
    assert_eq!(kinds(&sources(&lake.path("h/year=2023")).await.unwrap()).await, ["id Int64", "city Utf8"]);
    let target = schema(&[("id", DataType::Int32), ("year", DataType::Int64), ("city", DataType::Utf8)]);
    let mut shown = Vec::new();
    for file in &files {
        let rows = read_all(file, &target).await;
        shown.push(format!("{:?} {:?}", rows.column(1), rows.column(2)).split_whitespace().collect::<String>());
    }
    assert!(shown[0].contains("2023") && shown[0].contains("a/b"), "{shown:?}");
    assert!(shown[1].contains("2024") && shown[1].contains("null"), "{shown:?}");
    assert!(shown[2].contains("1999"), "the file's own column counts: {shown:?}");
    // One file at a time, as imports read them.
    let one = sources(&files[0].path).await.unwrap();
    assert_eq!(read_all(&one[0], &target).await, read_all(&files[0], &target).await);
}

#[tokio::test]
async fn chosen_types_are_cast_and_times_parsed() {
    let lake = Lake::new();
    let ints = parquet(&lake, "i.parquet", &batch(vec![("v", Arc::new(Int64Array::from(vec![7])) as ArrayRef)]));
    let words =
        parquet(&lake, "w.parquet", &batch(vec![("v", Arc::new(StringArray::from(vec!["31/01/2024 10:00"])) as ArrayRef)]));
    let columns = crate::source_columns(&[ints.clone(), words.clone()]).await.unwrap();
    assert_eq!((columns[0].kind.clone(), columns[0].choices()), (None, vec![DataType::Int64, DataType::Utf8]));
    let text = schema(&[("v", DataType::Utf8)]);
    assert_eq!(code(read_source(&ints, &text, &Reading::default()).await), "LAK0023");
    let casts =
        |format: Option<&str>| Reading { best_effort: false, casts: [("v".to_owned(), format.map(str::to_owned))].into() };
    assert_eq!(read_source(&ints, &text, &casts(None)).await.unwrap()[0].num_rows(), 1);
    let time = schema(&[("v", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())))]);
    let read = read_source(&words, &time, &casts(Some("%d/%m/%Y %H:%M"))).await.unwrap();
    let micros =
        arrow::array::cast::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(read[0].column(0)).value(0);
    assert_eq!(micros, 1_706_695_200_000_000);
    let error = read_source(&words, &time, &casts(Some("%Y"))).await.unwrap_err();
    assert!(error.to_string().contains("is not of the format `%Y`"), "{error}");
    assert_eq!(
        Reading::of(&[(crate::CASTS_PROPERTY.to_owned(), r#"{"v": "%d", "w": null}"#.to_owned())].into(), false).casts.len(),
        2
    );
}

#[tokio::test]
async fn times_need_no_seconds() {
    let lake = Lake::new();
    let file = csv(&lake, "t.csv", "t,z\n2013-01-31 05:00,2013-01-31T05:00Z\n2013-01-31T06:30:15,2013-01-31 05:00+01:00\n");
    let target = infer_schema(std::slice::from_ref(&file)).await.unwrap();
    let rows = read_all(&file, &target).await;
    let shown = arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string();
    for value in ["2013-01-31T05:00:00 |", "2013-01-31T06:30:15", "2013-01-31T05:00:00Z", "2013-01-31T04:00:00Z"] {
        assert!(shown.contains(value), "{value} in\n{shown}");
    }
}
