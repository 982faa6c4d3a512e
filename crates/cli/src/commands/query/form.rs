//! Results as files: Arrow, CSV, JSON, JSON lines, Parquet, written batch by batch.
//!
//! A file is written beside its place and moved there when it is complete: a reader sees the old one or the new one.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use arrow::json::writer::{JsonArray, LineDelimited};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::{io, unreadable};
use crate::context::Rows;
use crate::error::{Error, Result};
use crate::render::rows;

/// Forms of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Arrow,
    Csv,
    Json,
    JsonLines,
    Parquet,
}

impl Form {
    /// By the file's ending.
    pub fn of(path: &Path) -> Result<Self, Error> {
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

/// A file that is being written. Dropped before it is finished, it leaves nothing.
pub struct Target {
    path: PathBuf,
    beside: PathBuf,
    form: Form,
    file: Option<BufWriter<File>>,
}

type Out<'a> = &'a mut BufWriter<File>;

enum Writer<'a> {
    Arrow(FileWriter<Out<'a>>),
    Csv(arrow::csv::Writer<Out<'a>>),
    Json(arrow::json::Writer<Out<'a>, JsonArray>),
    JsonLines(arrow::json::Writer<Out<'a>, LineDelimited>),
    Parquet(Box<ArrowWriter<Out<'a>>>),
}

impl Target {
    /// Makes the file beside `path`.
    pub fn create(path: &Path, form: Form) -> Result<Self> {
        let beside = beside(path);
        let file = File::create(&beside).map_err(|error| Error::file("write", path, &error))?;
        Ok(Self { path: path.to_owned(), beside, form, file: Some(BufWriter::new(file)) })
    }

    /// Where it is until it is complete.
    pub fn beside(&self) -> &Path {
        &self.beside
    }

    /// Writes all rows.
    pub fn write(&mut self, rows: Rows) -> Result<()> {
        let schema = rows.schema();
        self.encode(&schema, rows)
    }

    fn encode(&mut self, schema: &SchemaRef, rows: impl Iterator<Item = Result<RecordBatch, ArrowError>>) -> Result<()> {
        if self.form == Form::Csv {
            check_csv(schema)?;
        }
        let path = self.path.clone();
        let failed = |error: ArrowError| Error::file("write", &path, &io(error));
        let form = self.form;
        let out = self.file.as_mut().expect("there until it is finished");
        let mut writer = Writer::new(form, out, schema).map_err(failed)?;
        for batch in rows {
            let batch = batch.map_err(|error| unreadable(&error))?;
            writer.write(&batch).map_err(failed)?;
        }
        writer.finish().map_err(failed)?;
        Ok(())
    }

    /// Moves the complete file to its place.
    pub fn finish(mut self) -> Result<()> {
        let moved =
            self.file.take().map_or(Ok(()), |mut file| file.flush()).and_then(|()| std::fs::rename(&self.beside, &self.path));
        moved.map_err(|error| Error::file("write", &self.path, &error).into())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It is not there any more if it was finished; if it cannot be removed, the error that is told says enough.
        let _ = std::fs::remove_file(&self.beside);
    }
}

impl<'a> Writer<'a> {
    fn new(form: Form, out: Out<'a>, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(match form {
            Form::Arrow => Self::Arrow(FileWriter::try_new(out, schema)?),
            Form::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
                // The writer puts its header before the first batch, so an empty result gets an empty batch.
                writer.write(&RecordBatch::new_empty(SchemaRef::clone(schema)))?;
                Self::Csv(writer)
            }
            Form::Json => Self::Json(rows::json_array(out)),
            Form::JsonLines => Self::JsonLines(rows::json_lines(out)),
            Form::Parquet => {
                let compression = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(compression).build();
                Self::Parquet(Box::new(ArrowWriter::try_new(out, SchemaRef::clone(schema), Some(properties))?))
            }
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Self::Arrow(writer) => writer.write(batch),
            Self::Csv(writer) => writer.write(batch),
            Self::Json(writer) => writer.write(batch),
            Self::JsonLines(writer) => writer.write(batch),
            Self::Parquet(writer) => Ok(writer.write(batch)?),
        }
    }

    fn finish(self) -> Result<(), ArrowError> {
        match self {
            Self::Arrow(mut writer) => writer.finish(),
            Self::Csv(_) => Ok(()),
            Self::Json(mut writer) => writer.finish(),
            Self::JsonLines(mut writer) => writer.finish(),
            Self::Parquet(writer) => Ok(writer.close().map(drop)?),
        }
    }
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

    fn write(path: &Path, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
        let mut target = Target::create(path, Form::of(path)?)?;
        target.encode(schema, batches.iter().cloned().map(Ok))?;
        target.finish()
    }

    #[test]
    fn files_hold_the_rows() {
        let folder = tempfile::tempdir().unwrap();
        let (schema, batches) = batches(&[1, 2, 3]);
        let text = |name: &str| {
            let path = folder.path().join(name);
            write(&path, &schema, &batches).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(text("a.csv"), "n,name\n1,\n2,n2\n3,\n");
        assert_eq!(text("a.jsonl"), "{\"n\":1,\"name\":null}\n{\"n\":2,\"name\":\"n2\"}\n{\"n\":3,\"name\":null}\n");
        assert_eq!(text("a.json"), "[{\"n\":1,\"name\":null},{\"n\":2,\"name\":\"n2\"},{\"n\":3,\"name\":null}]");

        let parquet = folder.path().join("a.parquet");
        write(&parquet, &schema, &batches).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(parquet).unwrap()).unwrap().build().unwrap();
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), batches);

        let ipc = folder.path().join("a.ARROW");
        write(&ipc, &schema, &batches).unwrap();
        let reader = arrow::ipc::reader::FileReader::try_new(File::open(ipc).unwrap(), None).unwrap();
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), batches);

        // Nothing but the five files: the parts are gone.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 5);
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "old").unwrap();
        let (schema, batches) = batches(&[1]);
        let mut target = Target::create(&path, Form::Csv).unwrap();
        let rows = batches.into_iter().map(Ok).chain([Err(ArrowError::ComputeError("x".to_owned()))]);
        assert!(target.encode(&schema, rows).is_err());
        drop(target);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn empty_results_are_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let (schema, _) = batches(&[]);
        for (name, expected) in [("a.csv", "n,name\n"), ("a.jsonl", ""), ("a.json", "[]")] {
            let path = folder.path().join(name);
            write(&path, &schema, &[]).unwrap();
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
        let error = write(Path::new("/nowhere/a.csv"), &schema, &batches).unwrap_err();
        assert!(matches!(error, crate::error::Failure::Error(error) if error.code == "CLI0008" && error.fault == "usage"));
    }
}
