//! Files to import: finding them, inferring one schema for all, reading them into a table's types.
//!
//! Values are kept or refused, never changed: see `cast`. Inferred columns are always nullable, so that a later file
//! may lack them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::cast::{NotKept, cast_exactly};
use crate::conform::conform;
use crate::error::{Error, Result, nearest};
use crate::files::text;
use crate::schema::{self, widens};
use crate::{csv, scan, storage};

/// Files of one import, at most.
pub const SOURCE_FILES_MAX: usize = 100_000;
/// Rows of a batch read from a file.
const BATCH_ROWS: usize = 128 * 1024;

/// A file to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Absolute path.
    pub path: String,
    /// What it holds, by its name.
    pub format: SourceFormat,
    /// Size.
    pub bytes: u64,
}

/// What a file to import holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFormat {
    /// `.parquet`
    Parquet,
    /// `.csv`, with a header line.
    Csv,
}

impl SourceFormat {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// The Parquet and CSV files at a path, in a folder (with its subfolders), or matched by a glob; sorted by path.
/// Names that start with `.` or `_` inside folders are left out.
///
/// # Errors
/// [`Error::NoSources`] if nothing is there, [`Error::SourceFormat`] for a single file of another kind.
pub async fn sources(search_uri: &str) -> Result<Vec<SourceFile>> {
    let uri = search_uri.to_owned();
    tokio::task::spawn_blocking(move || find(&uri)).await.map_err(Error::internal("look for files"))?
}

fn find(uri: &str) -> Result<Vec<SourceFile>> {
    let nothing = |why: &str| Error::NoSources { uri: uri.to_owned(), why: why.to_owned() };
    let path = storage::plain_path(uri)?;
    let mut found = Vec::new();
    if path.is_file() {
        let format = SourceFormat::of(&path).ok_or_else(|| Error::SourceFormat { path: text(&path) })?;
        return Ok(vec![source(&path, format)?]);
    }
    if path.is_dir() {
        walk(&path, &mut found)?;
    } else if text(&path).contains(['*', '?', '[']) {
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
        let matches = glob::glob_with(&text(&path), options).map_err(|error| nothing(&error.to_string()))?;
        for path in matches {
            let path = path.map_err(|error| nothing(&error.to_string()))?;
            if path.is_dir() {
                walk(&path, &mut found)?;
            } else if let Some(format) = SourceFormat::of(&path) {
                found.push(source(&path, format)?);
            }
        }
    } else {
        return Err(nothing("there is no such file or folder"));
    }
    if found.is_empty() {
        return Err(nothing("no Parquet or CSV file is there"));
    }
    if found.len() > SOURCE_FILES_MAX {
        return Err(nothing(&format!("there are more than {SOURCE_FILES_MAX} files")));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup();
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<SourceFile>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(Error::storage("list", folder))?;
    for entry in entries {
        let entry = entry.map_err(Error::storage("list", folder))?;
        let path: PathBuf = entry.path();
        if entry.file_name().to_str().is_none_or(|name| name.starts_with(['.', '_'])) {
            continue;
        }
        let kind = entry.file_type().map_err(Error::storage("list", folder))?;
        if kind.is_dir() {
            walk(&path, found)?;
        } else if path.is_file()
            && let Some(format) = SourceFormat::of(&path)
        {
            found.push(source(&path, format)?);
        }
    }
    Ok(())
}

fn source(path: &Path, format: SourceFormat) -> Result<SourceFile> {
    let bytes = fs::metadata(path).map_err(Error::storage("look at", path))?.len();
    Ok(SourceFile { path: text(path), format, bytes })
}

/// One schema for all files: every column of any of them, with the narrowest type all its values fit into.
///
/// Whole numbers and floats become float64 together (a value that does not fit is refused when read). CSV columns
/// that disagree otherwise become strings.
///
/// # Errors
/// [`Error::SourceConflict`] names each column whose types do not go together, with the files.
pub async fn infer_schema(files: &[SourceFile]) -> Result<SchemaRef> {
    let files = files.to_vec();
    tokio::task::spawn_blocking(move || infer(&files)).await.map_err(Error::internal("infer the schema"))?
}

/// A column over the files seen so far.
struct Seen {
    kind: Option<DataType>,
    all_csv: bool,
    /// The first file of each type.
    files: Vec<(DataType, String)>,
}

fn infer(files: &[SourceFile]) -> Result<SchemaRef> {
    let schemas = scan::parallel(files, &schema_of)?;
    let mut order: Vec<String> = Vec::new();
    let mut columns: BTreeMap<String, Seen> = BTreeMap::new();
    for (file, schema) in files.iter().zip(&schemas) {
        for field in schema.fields() {
            let kind = field.data_type().clone();
            let seen = columns.entry(field.name().clone()).or_insert_with(|| {
                order.push(field.name().clone());
                Seen { kind: Some(DataType::Null), all_csv: true, files: Vec::new() }
            });
            seen.kind = seen.kind.take().and_then(|so_far| common(&so_far, &kind));
            seen.all_csv &= file.format == SourceFormat::Csv;
            if !seen.files.iter().any(|(known, _)| *known == kind) {
                seen.files.push((kind, file.path.clone()));
            }
        }
    }
    let mut conflicts = Vec::new();
    let mut fields = Vec::new();
    for name in order {
        let seen = &columns[&name];
        match &seen.kind {
            Some(kind) => fields.push(Field::new(name, kind.clone(), true)),
            None if seen.all_csv => fields.push(Field::new(name, DataType::Utf8, true)),
            None => {
                let files: Vec<String> = seen.files.iter().map(|(kind, file)| format!("{kind} in `{file}`")).collect();
                conflicts.push(format!("column `{name}` is {}", files.join(", ")));
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(Error::SourceConflict { conflicts: conflicts.join("; ") });
    }
    let schema = ArrowSchema::new(fields);
    let iceberg = schema::to_iceberg(&schema)?;
    Ok(schema::clean_schema(&iceberg, &schema::notes(&schema, &iceberg)))
}

/// The narrowest type that holds both.
fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    if widens(a, b) {
        return Some(b.clone());
    }
    if widens(b, a) {
        return Some(a.clone());
    }
    let candidates = [DataType::Int16, DataType::Int32, DataType::Int64, DataType::Float64];
    if a.is_numeric() && b.is_numeric() {
        if let Some(kind) = candidates.iter().find(|kind| widens(a, kind) && widens(b, kind)) {
            return Some(kind.clone());
        }
        let plain = |kind: &DataType| kind.is_integer() || kind.is_floating();
        if plain(a) && plain(b) && (a.is_floating() || b.is_floating()) {
            return Some(DataType::Float64);
        }
    }
    None
}

fn schema_of(file: &SourceFile) -> Result<ArrowSchema> {
    let schema = match file.format {
        SourceFormat::Parquet => parquet(file)?.schema().as_ref().clone(),
        SourceFormat::Csv => csv::infer(&file.path)?,
    };
    schema::check_columns(&schema).map_err(|error| Error::Source { path: file.path.clone(), cause: error.into() })?;
    Ok(schema)
}

fn parquet(file: &SourceFile) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    open(&file.path).and_then(|open| ParquetRecordBatchReaderBuilder::try_new(open).map_err(unreadable(&file.path)))
}

/// Opens a file to import.
pub(crate) fn open(path: &str) -> Result<File> {
    File::open(path).map_err(unreadable(path))
}

/// An [`Error::Source`] maker for `map_err`.
pub(crate) fn unreadable<E: Into<crate::Cause>>(path: &str) -> impl FnOnce(E) -> Error + '_ {
    move |cause| Error::Source { path: path.to_owned(), cause: cause.into() }
}

/// Reads a file into the columns and types of `target`.
///
/// A column the target lacks is an error, or left out with `best_effort`. A column the file lacks is null. Text in a
/// CSV file is parsed; in a Parquet file it stays text, unless `best_effort` allows to parse it.
///
/// # Errors
/// [`Error::SourceColumn`], [`Error::SourceValue`] with column and row, [`Error::Source`] for a damaged file.
pub async fn read_source(file: &SourceFile, target: &SchemaRef, best_effort: bool) -> Result<Vec<RecordBatch>> {
    let (file, target) = (file.clone(), Arc::clone(target));
    tokio::task::spawn_blocking(move || read(&file, &target, best_effort)).await.map_err(Error::internal("read a file"))?
}

fn read(file: &SourceFile, target: &SchemaRef, best_effort: bool) -> Result<Vec<RecordBatch>> {
    match file.format {
        SourceFormat::Parquet => {
            let reader = parquet(file)?;
            check_columns(file, reader.schema(), target, best_effort)?;
            let reader = reader.with_batch_size(BATCH_ROWS).build().map_err(unreadable(&file.path))?;
            shape_all(file, reader.map(|batch| batch.map_err(unreadable(&file.path))), target, &|array, kind| {
                from_parquet(array, kind, best_effort)
            })
        }
        SourceFormat::Csv => {
            let reader = csv::text_columns(&file.path, BATCH_ROWS)?;
            check_columns(file, &reader.schema(), target, best_effort)?;
            shape_all(file, reader.map(|batch| batch.map_err(unreadable(&file.path))), target, &csv::parse)
        }
    }
}

fn check_columns(file: &SourceFile, schema: &SchemaRef, target: &SchemaRef, best_effort: bool) -> Result<()> {
    schema::check_columns(schema).map_err(|error| Error::Source { path: file.path.clone(), cause: error.into() })?;
    if best_effort {
        return Ok(());
    }
    match schema.fields().iter().find(|field| target.index_of(field.name()).is_err()) {
        None => Ok(()),
        Some(field) => Err(Error::SourceColumn {
            path: file.path.clone(),
            column: field.name().clone(),
            near: nearest(field.name(), target.fields().iter().map(|field| field.name().as_str())),
        }),
    }
}

type Convert<'a> = &'a dyn Fn(&ArrayRef, &DataType) -> Result<ArrayRef, NotKept>;

fn shape_all(
    file: &SourceFile,
    batches: impl Iterator<Item = Result<RecordBatch>>,
    target: &SchemaRef,
    convert: Convert<'_>,
) -> Result<Vec<RecordBatch>> {
    let mut shaped = Vec::new();
    let mut first_row = 0;
    for batch in batches {
        let batch = batch?;
        shaped.push(shape(file, &batch, target, first_row, convert)?);
        first_row += batch.num_rows();
    }
    shaped.retain(|batch: &RecordBatch| batch.num_rows() > 0);
    Ok(shaped)
}

fn shape(
    file: &SourceFile,
    batch: &RecordBatch,
    target: &SchemaRef,
    first_row: usize,
    convert: Convert<'_>,
) -> Result<RecordBatch> {
    let columns = target
        .fields()
        .iter()
        .map(|field| {
            let wrong = |row: Option<usize>, why: String| {
                let why = row.map_or_else(|| why.clone(), |row| format!("row {}: {why}", first_row + row + 1));
                Error::SourceValue { path: file.path.clone(), column: field.name().clone(), why }
            };
            let array = match batch.schema().index_of(field.name()) {
                Ok(index) => {
                    convert(batch.column(index), field.data_type()).map_err(|problem| wrong(problem.row, problem.why))?
                }
                Err(_) => new_null_array(field.data_type(), batch.num_rows()),
            };
            if !field.is_nullable() && array.null_count() > 0 {
                let row = (0..array.len()).find(|&row| array.is_null(row));
                return Err(wrong(row, "the table requires a value".to_owned()));
            }
            Ok(array)
        })
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(target), columns, &options).map_err(Error::internal("shape the rows"))
}

fn from_parquet(array: &ArrayRef, kind: &DataType, best_effort: bool) -> Result<ArrayRef, NotKept> {
    let from = array.data_type();
    if widens(from, kind) {
        return conform(array, kind, None);
    }
    if best_effort || (from.is_numeric() && kind.is_numeric()) {
        return cast_exactly(array, kind);
    }
    Err(NotKept { row: None, why: format!("{from} does not widen to {kind}") })
}
