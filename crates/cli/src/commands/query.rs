//! `query`: one SELECT, printed or written to a file.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use forebay_control::api::{Op, QueryResult};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::args::QueryArgs;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::output::SCHEMA;
use crate::render::rows;
use crate::render::text::{counted, duration};

/// Rows that are printed unless more are asked for.
const PRINTED_ROWS_MAX: u64 = 10;

pub fn run(context: &Context, args: QueryArgs) -> Result<()> {
    let began = std::time::Instant::now();
    // Both can fail without the control plane, so they come first.
    let form = args.to.as_deref().map(Form::of).transpose()?;
    let sql = sql(&args)?;
    let limit = limit(&args, form.is_none() && !context.out.is_json());
    let mut session = context.session()?;
    let op = Op::Query { sql, at: session.or_active(args.at), namespace: args.namespace, max_rows: limit.asked };
    let (result, schema, mut batches) = session.query(op)?;
    let more = limit.cut(&mut batches);
    let count = batches.iter().map(|batch| u64::try_from(batch.num_rows()).unwrap_or(u64::MAX)).sum::<u64>();
    match (&args.to, form) {
        (Some(path), Some(form)) => {
            write(path, form, &schema, &batches)?;
            context.out.talk(&format!(
                "wrote {} to {} ({})",
                counted(count, "row"),
                path.display(),
                duration(began.elapsed().as_secs_f64())
            ));
            if context.out.is_json() {
                context.out.object(json!({ "job_id": result.job_id, "fields": result.fields, "rows": count, "file": path }))?;
            }
        }
        _ if context.out.is_json() => print_json(context, &result, &batches)?,
        _ => {
            print(context, &schema, &batches, args.no_trunc)?;
            context.out.talk(&remark(count, more));
        }
    }
    Ok(())
}

fn sql(args: &QueryArgs) -> Result<String> {
    let Some(file) = &args.file else {
        return Ok(args.sql.clone().unwrap_or_default());
    };
    read_text(file)
}

/// The text of a file, or of stdin for `-`.
pub fn read_text(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        File::open(file).and_then(|mut file| file.read_to_string(&mut text)).map(drop)
    };
    read.map_err(|error| Error::file("read", file, &error))?;
    Ok(text)
}

/// How many rows to ask for, and how many to keep: one more is asked for, to know whether there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    asked: Option<u64>,
    kept: Option<u64>,
}

fn limit(args: &QueryArgs, is_printed: bool) -> Limit {
    match args.max_rows {
        Some(rows) => Limit { asked: Some(rows), kept: None },
        None if is_printed && !args.all_rows => Limit { asked: Some(PRINTED_ROWS_MAX + 1), kept: Some(PRINTED_ROWS_MAX) },
        None => Limit { asked: None, kept: None },
    }
}

impl Limit {
    /// Drops the rows that were asked for only to know that they are there, and says whether there were any.
    fn cut(self, batches: &mut Vec<RecordBatch>) -> bool {
        let Some(kept) = self.kept else { return false };
        let mut left = usize::try_from(kept).unwrap_or(usize::MAX);
        let mut more = false;
        for batch in batches.iter_mut() {
            more |= batch.num_rows() > left;
            *batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
        }
        batches.retain(|batch| batch.num_rows() > 0);
        more
    }
}

fn print(context: &Context, schema: &SchemaRef, batches: &[RecordBatch], whole_cells: bool) -> Result<()> {
    let cells = (!whole_cells).then_some(rows::CELL_CHARACTERS_MAX);
    let text = rows::table(schema, batches, cells).map_err(|error| unreadable(&error))?;
    context.out.data(&text)
}

/// What the printed rows do not say of themselves.
fn remark(count: u64, more: bool) -> String {
    match (count, more) {
        (0, _) => "No results".to_owned(),
        (_, true) => format!("the first {}; `--all-rows` or `--max-rows N` shows more", counted(count, "row")),
        (_, false) => counted(count, "row"),
    }
}

fn print_json(context: &Context, result: &QueryResult, batches: &[RecordBatch]) -> Result<()> {
    let (job, fields) = (json!(result.job_id), json!(result.fields));
    context.out.stream(|out| {
        write!(out, "{{\"schema\":{SCHEMA},\"job_id\":{job},\"fields\":{fields},\"results\":")?;
        rows::json_array(&mut *out, batches).map_err(io)?;
        out.write_all(b"}\n")
    })
}

fn unreadable(error: &ArrowError) -> Error {
    Error::Answer { why: error.to_string() }
}

/// The I/O error inside an Arrow error, so that a closed stdout is known as one.
fn io(error: ArrowError) -> std::io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => std::io::Error::other(other),
    }
}

/// Forms of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Arrow,
    Csv,
    Json,
    JsonLines,
    Parquet,
}

impl Form {
    fn of(path: &Path) -> Result<Self, Error> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        Ok(match ending.to_ascii_lowercase().as_str() {
            "arrow" | "feather" | "ipc" => Self::Arrow,
            "csv" => Self::Csv,
            "json" => Self::Json,
            "jsonl" | "ndjson" => Self::JsonLines,
            "parquet" => Self::Parquet,
            _ => return Err(Error::UnknownForm { file: path.to_owned() }),
        })
    }
}

/// Writes the file beside its place and moves it there: a reader sees the old one or the new one.
fn write(path: &Path, form: Form, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    if form == Form::Csv {
        check_csv(schema)?;
    }
    let beside = beside(path);
    let result = File::create(&beside)
        .map_err(ArrowError::from)
        .and_then(|file| encode(BufWriter::new(file), form, schema, batches))
        .and_then(|()| Ok(std::fs::rename(&beside, path)?));
    result.map_err(|error| {
        // If it cannot be removed either, the error that is told says enough.
        let _ = std::fs::remove_file(&beside);
        Error::file("write", path, &io(error)).into()
    })
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

fn check_csv(schema: &SchemaRef) -> Result<(), Error> {
    let nested = schema.fields().iter().find(|field| {
        let kind = field.data_type();
        kind.is_nested() || matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
    });
    nested.map_or(Ok(()), |field| Err(Error::NoCsvForm { column: field.name().clone(), kind: rows::kind(field.data_type()) }))
}

fn encode(mut out: BufWriter<File>, form: Form, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(), ArrowError> {
    match form {
        Form::Arrow => {
            let mut writer = FileWriter::try_new(&mut out, schema)?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.finish()?;
        }
        Form::Csv => {
            let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(&mut out);
            // The writer puts its header before the first batch, so an empty result gets an empty batch.
            writer.write(&RecordBatch::new_empty(schema.clone()))?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
        }
        Form::Json => rows::json_array(&mut out, batches)?,
        Form::JsonLines => rows::json_lines(&mut out, batches)?,
        Form::Parquet => {
            let compression = Compression::ZSTD(ZstdLevel::default());
            let properties = WriterProperties::builder().set_compression(compression).build();
            let mut writer = ArrowWriter::try_new(&mut out, schema.clone(), Some(properties))?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.close()?;
        }
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use forebay_types::Coded;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn batches(rows: &[i64]) -> (SchemaRef, Vec<RecordBatch>) {
        let numbers: ArrayRef = Arc::new(Int64Array::from(rows.to_vec()));
        let names: ArrayRef = Arc::new(StringArray::from_iter(rows.iter().map(|row| (row % 2 == 0).then(|| format!("n{row}")))));
        let batch = RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("name", names, true)]).unwrap();
        (batch.schema(), vec![batch])
    }

    #[test]
    fn one_row_more_tells_that_there_are_more() {
        let limit = Limit { asked: Some(11), kept: Some(10) };
        let (_, mut eleven) = batches(&(0..11).collect::<Vec<_>>());
        assert!(limit.cut(&mut eleven));
        assert_eq!(eleven[0].num_rows(), 10);
        let (_, mut ten) = batches(&(0..10).collect::<Vec<_>>());
        ten.push(ten[0].slice(0, 0));
        assert!(!limit.cut(&mut ten));
        assert_eq!(ten.len(), 1);
        ten.push(ten[0].slice(0, 1));
        assert!(limit.cut(&mut ten));
    }

    #[test]
    fn remarks() {
        assert_eq!(remark(0, false), "No results");
        assert_eq!(remark(1, false), "1 row");
        assert_eq!(remark(10, true), "the first 10 rows; `--all-rows` or `--max-rows N` shows more");
    }

    #[test]
    fn files_hold_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let (schema, batches) = batches(&[1, 2, 3]);
        let text = |name: &str| {
            let path = folder.path().join(name);
            write(&path, Form::of(&path).unwrap(), &schema, &batches).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(text("a.csv"), "n,name\n1,\n2,n2\n3,\n");
        assert_eq!(text("a.jsonl"), "{\"n\":1,\"name\":null}\n{\"n\":2,\"name\":\"n2\"}\n{\"n\":3,\"name\":null}\n");
        assert_eq!(text("a.json"), "[{\"n\":1,\"name\":null},{\"n\":2,\"name\":\"n2\"},{\"n\":3,\"name\":null}]");

        let parquet = folder.path().join("a.parquet");
        write(&parquet, Form::Parquet, &schema, &batches).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(parquet).unwrap()).unwrap().build().unwrap();
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), batches);

        let ipc = folder.path().join("a.ARROW");
        write(&ipc, Form::of(&ipc).unwrap(), &schema, &batches).unwrap();
        let reader = arrow::ipc::reader::FileReader::try_new(File::open(ipc).unwrap(), None).unwrap();
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), batches);

        // Nothing but the five files: the parts are gone.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn empty_results_are_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let (schema, _) = batches(&[]);
        for (name, expected) in [("a.csv", "n,name\n"), ("a.jsonl", ""), ("a.json", "[]")] {
            let path = folder.path().join(name);
            write(&path, Form::of(&path).unwrap(), &schema, &[]).unwrap();
            assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        assert_eq!(Form::of(Path::new("a.xlsx")).unwrap_err().report().code.0, "CLI0006");
        assert!(Form::of(Path::new("csv")).is_err());
        let list = arrow::array::ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([Some([Some(1)])]);
        let batch = RecordBatch::try_from_iter([("l", Arc::new(list) as ArrayRef)]).unwrap();
        assert_eq!(check_csv(&batch.schema()).unwrap_err().report().code.0, "CLI0007");
        let (schema, batches) = self::batches(&[1]);
        let error = write(Path::new("/nowhere/a.csv"), Form::Csv, &schema, &batches).unwrap_err();
        assert!(matches!(error, crate::error::Failure::Error(error) if error.code == "CLI0008" && error.fault == "usage"));
    }
}
