//! Files to import: inferring one schema for all, reading them into a table's types. They are found by `found`.
//!
//! Values are kept or refused, never changed: see `cast`. Inferred columns are always nullable, so that a later file
//! may lack them. Folders called `name=value` give a column `name` to the files below them, unless the files have it.
//!
//! Where files disagree about a column's type, a plan says what the types are and which the column could have; a type
//! that was chosen is noted in the table ([`CASTS_PROPERTY`]), so that files are read into it from then on.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::cast::{NotKept, cast_exactly};
use crate::conform::conform;
use crate::error::{Error, Result, nearest, or_remote};
use crate::found::{SourceFile, SourceFormat};
use crate::schema::{self, common_type, widens};
use crate::storage::{Location, Reader};
use crate::{csv, json, scan};

/// Table property that notes the columns whose types were chosen: a JSON object from column to the `strptime` format of
/// their texts, or to null. Values of these columns are cast when files are imported; elsewhere only widened.
pub const CASTS_PROPERTY: &str = "forebay.import-casts";
/// Rows of a batch read from a file.
const BATCH_ROWS: usize = 128 * 1024;

/// One column over all files to import.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceColumn {
    /// Its name.
    pub name: String,
    /// The types it has, each with a file it has it in.
    pub seen: Vec<(DataType, String)>,
    /// The type all its values fit into, if there is one.
    pub kind: Option<DataType>,
}

impl SourceColumn {
    /// Types it could be given. Any value can be a string.
    #[must_use]
    pub fn choices(&self) -> Vec<DataType> {
        if let Some(kind) = &self.kind {
            return vec![kind.clone()];
        }
        let mut choices: Vec<DataType> = self.seen.iter().map(|(kind, _)| kind.clone()).collect();
        if !choices.contains(&DataType::Utf8) && choices.iter().all(|kind| !kind.is_nested()) {
            choices.push(DataType::Utf8);
        }
        choices
    }
}

/// Every column of any of the files, with the narrowest type all its values fit into.
///
/// Whole numbers and floats become float64 together (a value that does not fit is refused when read). CSV columns
/// that disagree otherwise become strings.
///
/// # Errors
/// [`Error::Source`] for a damaged file.
pub async fn source_columns(files: &[SourceFile]) -> Result<Vec<SourceColumn>> {
    let files = files.to_vec();
    let read = move || {
        let schemas = scan::parallel(&files, &schema_of)?;
        Ok(columns_of(&files, &schemas.iter().collect::<Vec<_>>()))
    };
    tokio::task::spawn_blocking(read).await.map_err(Error::internal("infer the schema"))?
}

/// The schema of a table for these files.
///
/// # Errors
/// [`Error::SourceConflict`] names each column whose types do not go together, with the files.
pub async fn infer_schema(files: &[SourceFile]) -> Result<SchemaRef> {
    one_schema(source_columns(files).await?)
}

/// The schema of columns that have a type each.
pub(crate) fn one_schema(columns: Vec<SourceColumn>) -> Result<SchemaRef> {
    let conflict = |column: &SourceColumn| {
        let files: Vec<String> = column.seen.iter().map(|(kind, file)| format!("{kind} in `{file}`")).collect();
        format!("column `{}` is {}", column.name, files.join(", "))
    };
    let conflicts: Vec<String> = columns.iter().filter(|column| column.kind.is_none()).map(conflict).collect();
    if !conflicts.is_empty() {
        return Err(Error::SourceConflict { conflicts: conflicts.join("; ") });
    }
    let fields = columns.into_iter().map(|column| Field::new(column.name, column.kind.unwrap_or(DataType::Utf8), true));
    let schema = ArrowSchema::new(fields.collect::<Vec<_>>());
    let iceberg = schema::to_iceberg(&schema)?;
    Ok(schema::clean_schema(&iceberg, &schema::notes(&schema, &iceberg)))
}

/// A column over the files seen so far.
struct Seen {
    column: SourceColumn,
    all_text: bool,
}

/// The columns of files with these schemas.
pub(crate) fn columns_of(files: &[SourceFile], schemas: &[&ArrowSchema]) -> Vec<SourceColumn> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut columns: Vec<Seen> = Vec::new();
    for (file, schema) in files.iter().zip(schemas) {
        let own = schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone(), file.format == SourceFormat::Csv));
        let lacks = |name: &str| schema.field_with_name(name).is_err();
        let given = file.folders.iter().filter(|(name, _)| lacks(name));
        let given = given.map(|(name, value)| (name.clone(), csv::look_type(value.as_deref().unwrap_or_default()), true));
        for (name, kind, is_text) in own.chain(given) {
            let place = *places.entry(name.clone()).or_insert_with(|| {
                let column = SourceColumn { name, seen: Vec::new(), kind: Some(DataType::Null) };
                columns.push(Seen { column, all_text: true });
                columns.len() - 1
            });
            let Seen { column, all_text } = &mut columns[place];
            column.kind = column.kind.take().and_then(|so_far| common(&so_far, &kind));
            *all_text &= is_text;
            if !column.seen.iter().any(|(known, _)| *known == kind) {
                column.seen.push((kind, file.path.clone()));
            }
        }
    }
    let settled = |Seen { mut column, all_text }: Seen| {
        if column.kind.is_none() && all_text {
            column.kind = Some(DataType::Utf8);
        }
        if column.kind == Some(DataType::Null) {
            column.kind = Some(DataType::Utf8);
        }
        column
    };
    columns.into_iter().map(settled).collect()
}

/// The narrowest type that holds both; whole numbers and floats that do not fit exactly become float64, and each value
/// is checked when it is read.
fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    let plain = |kind: &DataType| kind.is_integer() || kind.is_floating();
    let float = || (plain(a) && plain(b) && (a.is_floating() || b.is_floating())).then_some(DataType::Float64);
    common_type(a, b).or_else(float)
}

fn schema_of(file: &SourceFile) -> Result<ArrowSchema> {
    let schema = match file.format {
        SourceFormat::Parquet => parquet(file)?.schema().as_ref().clone(),
        SourceFormat::Csv => csv::infer(file)?,
        SourceFormat::JsonLines => json::infer(file)?,
    };
    schema::check_columns(&schema).map_err(|error| Error::Source { path: file.path.clone(), cause: error.into() })?;
    Ok(schema)
}

pub(crate) fn parquet(file: &SourceFile) -> Result<ParquetRecordBatchReaderBuilder<Reader>> {
    let mut reader = opened(file)?;
    reader.prefetch_tail().map_err(unreadable(&file.path))?;
    ParquetRecordBatchReaderBuilder::try_new(reader).map_err(unreadable(&file.path))
}

/// Opens a file to import, at any place of it.
pub(crate) fn opened(file: &SourceFile) -> Result<Reader> {
    let opened = Location::parse(&file.path).map(|place| Reader::open_version(&place, file.bytes, file.version.clone()))?;
    opened.map_err(unreadable(&file.path))
}

/// Opens a file to import, from its beginning to its end.
pub(crate) fn open(file: &SourceFile) -> Result<Box<dyn Read + Send>> {
    Ok(Box::new(opened(file)?.through()))
}

/// An [`Error::Source`] maker for `map_err`. What an object store has to say is told as that.
pub(crate) fn unreadable<E: Into<crate::Cause>>(path: &str) -> impl FnOnce(E) -> Error + '_ {
    move |cause| or_remote(cause.into(), |cause| Error::Source { path: path.to_owned(), cause })
}

/// How files are read into a table.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Columns the table lacks are left out, values of another type are cast where they fit.
    pub best_effort: bool,
    /// Columns whose values are cast, and the `strptime` format of those that are text; see [`CASTS_PROPERTY`].
    pub casts: BTreeMap<String, Option<String>>,
}

impl Reading {
    /// Reading into a table with these properties.
    #[must_use]
    pub fn of(properties: &BTreeMap<String, String>, best_effort: bool) -> Self {
        let casts = properties.get(CASTS_PROPERTY).and_then(|text| serde_json::from_str(text).ok());
        Self { best_effort, casts: casts.unwrap_or_default() }
    }
}

/// Reads a file into the columns and types of `target`.
///
/// A column the target lacks is an error, or left out with `best_effort`. A column the file lacks has the value of the
/// file's folder, or null. Text in CSV files, JSON lines and names of folders is parsed; in a Parquet file it stays
/// text, unless `best_effort` or a cast allows to parse it.
///
/// # Errors
/// [`Error::SourceColumn`], [`Error::SourceValue`] with column and row, [`Error::Source`] for a damaged file.
pub async fn read_source(file: &SourceFile, target: &SchemaRef, reading: &Reading) -> Result<Vec<RecordBatch>> {
    let (file, target, reading) = (file.clone(), Arc::clone(target), reading.clone());
    tokio::task::spawn_blocking(move || read(&file, &target, &reading)).await.map_err(Error::internal("read a file"))?
}

fn read(file: &SourceFile, target: &SchemaRef, reading: &Reading) -> Result<Vec<RecordBatch>> {
    let failed = |error| unreadable::<arrow::error::ArrowError>(&file.path)(error);
    let (schema, batches): (SchemaRef, Box<dyn Iterator<Item = Result<RecordBatch>>>) = match file.format {
        SourceFormat::Parquet => {
            let reader = parquet(file)?;
            (Arc::clone(reader.schema()), Box::new(row_groups(file, &reader)))
        }
        SourceFormat::Csv => {
            let reader = csv::text_columns(file, BATCH_ROWS)?;
            (reader.schema(), Box::new(reader.map(|batch| batch.map_err(failed))))
        }
        SourceFormat::JsonLines => {
            let schema = json::infer(file)?;
            let reader = json::rows(file, &schema, BATCH_ROWS)?;
            (Arc::new(schema), Box::new(reader.map(|batch| batch.map_err(failed))))
        }
    };
    check_columns(file, &schema, target, reading.best_effort)?;
    shape_all(file, batches, target, &|name, array, kind| convert(file.format, reading, name, array, kind))
}

/// The rows of a Parquet file, one row group after the other: in an object store each is fetched at once.
fn row_groups<'a>(
    file: &'a SourceFile,
    builder: &ParquetRecordBatchReaderBuilder<Reader>,
) -> impl Iterator<Item = Result<RecordBatch>> + 'a {
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(builder.metadata()), ArrowReaderOptions::new());
    let groups = 0..builder.metadata().num_row_groups();
    let group = move |index: usize| {
        let metadata = metadata.as_ref().map_err(|error| unreadable(&file.path)(error.to_string()))?;
        let mut reader = opened(file)?;
        let chunks = metadata.metadata().row_group(index).columns().iter().map(|chunk| chunk.byte_range());
        let ranges: Vec<_> = chunks.map(|(start, bytes)| start..start.saturating_add(bytes).min(file.bytes)).collect();
        reader.prefetch(&ranges).map_err(unreadable(&file.path))?;
        let rows = ParquetRecordBatchReaderBuilder::new_with_metadata(reader, metadata.clone());
        rows.with_row_groups(vec![index]).with_batch_size(BATCH_ROWS).build().map_err(unreadable(&file.path))
    };
    groups.map(group).flat_map(move |group| {
        let (rows, failed) = match group {
            Ok(rows) => (Some(rows), None),
            Err(error) => (None, Some(Err(error))),
        };
        let read = move |batch: Result<RecordBatch, ArrowError>| batch.map_err(unreadable(&file.path));
        rows.into_iter().flatten().map(read).chain(failed)
    })
}

/// One column of a file as the table's type.
fn convert(format: SourceFormat, reading: &Reading, name: &str, array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, NotKept> {
    let is_text = matches!(array.data_type(), DataType::Utf8);
    match (format, reading.casts.get(name)) {
        (_, Some(Some(format))) if is_text && kind.is_temporal() => csv::parse_time(array, kind, format),
        (SourceFormat::Csv, _) => csv::parse(array, kind),
        (SourceFormat::JsonLines, _) if is_text && !is_string(kind) => csv::parse(array, kind),
        (_, Some(_)) if is_text && !is_string(kind) => csv::parse(array, kind),
        (_, cast) => from_typed(array, kind, reading.best_effort || cast.is_some()),
    }
}

fn is_string(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
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

/// Column, values, wanted type.
type Convert<'a> = &'a dyn Fn(&str, &ArrayRef, &DataType) -> Result<ArrayRef, NotKept>;

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
                Ok(index) => convert(field.name(), batch.column(index), field.data_type())
                    .map_err(|problem| wrong(problem.row, problem.why))?,
                Err(_) => of_folder(file, field, batch.num_rows()).map_err(|problem| wrong(None, problem.why))?,
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

/// A column the file lacks: the value of its innermost folder of that name, or null.
fn of_folder(file: &SourceFile, field: &Field, rows: usize) -> Result<ArrayRef, NotKept> {
    let value = file.folders.iter().rev().find(|(name, _)| name == field.name()).and_then(|(_, value)| value.clone());
    match value {
        None => Ok(new_null_array(field.data_type(), rows)),
        Some(value) => {
            let text: ArrayRef = Arc::new(StringArray::from(vec![value]));
            let one = csv::parse(&text, field.data_type())?;
            let zeros = UInt32Array::from(vec![0; rows]);
            take(&one, &zeros, None).map_err(|error| NotKept { row: None, why: error.to_string() })
        }
    }
}

fn from_typed(array: &ArrayRef, kind: &DataType, best_effort: bool) -> Result<ArrayRef, NotKept> {
    let from = array.data_type();
    if widens(from, kind) {
        return conform(array, kind, None);
    }
    if best_effort || (from.is_numeric() && kind.is_numeric()) {
        return cast_exactly(array, kind);
    }
    Err(NotKept { row: None, why: format!("{from} does not widen to {kind}") })
}
