//! Writes Parquet files: row groups one after another, the columns of a row group in parallel.
//!
//! Runs on threads of its own (never on the async executor). A file is complete and synced when it is returned.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema as ArrowSchema, SchemaRef};
use iceberg::spec::{DataFile, Schema};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;

use crate::conform::field_id;
use crate::error::{Error, Result};
use crate::metrics::{self, Written};
use crate::partition::Group;
use crate::storage;

/// Rows of a row group: the unit of parallel decoding and of pruning.
const ROW_GROUP_ROWS_MAX: usize = 128 * 1024;
/// A file that reached this size is closed, and the next row group opens a new one.
const FILE_BYTES_TARGET: usize = 384 * 1024 * 1024;
/// Below so many values (rows times columns), starting threads costs more than it gains.
const PARALLEL_VALUES_MIN: usize = 64 * 1024;

/// Where and as what the files are written.
pub(crate) struct Target {
    /// The table's `data` folder; exists.
    pub folder: PathBuf,
    /// The Iceberg schema.
    pub schema: Arc<Schema>,
    /// The stored Arrow schema, with field ids.
    pub arrow: SchemaRef,
    /// The partition spec the groups were split by.
    pub spec_id: i32,
    /// The sort order the rows of each group are in.
    pub order_id: Option<i32>,
    /// Files made so far: they go again if one of them cannot be finished, above all when the disk is full.
    pub created: Mutex<Vec<PathBuf>>,
}

/// Writes every group to files of its own, or none. Blocks.
pub(crate) fn write(groups: Vec<Group>, target: &Target) -> Result<Vec<DataFile>> {
    let written = write_groups(groups, target);
    if written.is_err() {
        for path in target.created.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // The error that matters is the write's; a file that stays belongs to no table.
            let _ = std::fs::remove_file(path);
        }
    }
    written
}

fn write_groups(groups: Vec<Group>, target: &Target) -> Result<Vec<DataFile>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = threads.min(groups.len()).max(1);
    let columns_at_once = threads.div_ceil(workers);
    let count = groups.len();
    let queue = Mutex::new(groups.into_iter().enumerate().collect::<VecDeque<_>>());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let mut done = Vec::new();
        while let Some((index, group)) = next() {
            let files = write_group(&group.batches, target, columns_at_once)?
                .into_iter()
                .map(|written| metrics::data_file(written, target, group.values.clone()))
                .collect::<Result<Vec<_>>>();
            match files {
                Ok(files) => done.push((index, files)),
                Err(error) => {
                    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    return Err(error);
                }
            }
        }
        Ok(done)
    };
    let mut files: Vec<Vec<DataFile>> = vec![Vec::new(); count];
    let done = if workers == 1 { vec![work()] } else { on_threads(workers, &work) };
    for done in done {
        for (index, group) in done? {
            files[index] = group;
        }
    }
    storage::sync(&target.folder)?;
    Ok(files.into_iter().flatten().collect())
}

/// Runs `work` on so many threads; a panic of one is a panic here.
pub(crate) fn on_threads<T: Send>(threads: usize, work: &(impl Fn() -> T + Sync)) -> Vec<T> {
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn write_group(batches: &[RecordBatch], target: &Target, columns_at_once: usize) -> Result<Vec<Written>> {
    let mut files = Vec::new();
    let mut open: Option<OpenFile> = None;
    for group in row_groups(batches) {
        let mut file = match open.take() {
            Some(file) => file,
            None => OpenFile::create(target)?,
        };
        file.add(&group, target, columns_at_once)?;
        if file.writer.bytes_written() >= FILE_BYTES_TARGET {
            files.push(file.close()?);
        } else {
            open = Some(file);
        }
    }
    if let Some(file) = open {
        files.push(file.close()?);
    }
    Ok(files)
}

/// Cuts batches into row groups of at most [`ROW_GROUP_ROWS_MAX`] rows, without copying.
fn row_groups(batches: &[RecordBatch]) -> Vec<Vec<RecordBatch>> {
    let mut groups = Vec::new();
    let mut group = Vec::new();
    let mut room = ROW_GROUP_ROWS_MAX;
    for batch in batches {
        let mut offset = 0;
        while offset < batch.num_rows() {
            let rows = room.min(batch.num_rows() - offset);
            group.push(batch.slice(offset, rows));
            offset += rows;
            room -= rows;
            if room == 0 {
                groups.push(std::mem::take(&mut group));
                room = ROW_GROUP_ROWS_MAX;
            }
        }
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}

struct OpenFile {
    path: PathBuf,
    writer: SerializedFileWriter<File>,
    columns: ArrowRowGroupWriterFactory,
    nans: HashMap<i32, u64>,
    groups: usize,
}

fn properties() -> WriterPropertiesPtr {
    // Statistics stay shortened to 64 bytes (the default): see `metrics` for why that is right.
    let created_by = concat!("forebay ", env!("CARGO_PKG_VERSION"));
    let properties = WriterProperties::builder()
        .set_created_by(created_by.to_owned())
        .set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::default()));
    Arc::new(properties.build())
}

impl OpenFile {
    fn create(target: &Target) -> Result<Self> {
        let path = target.folder.join(format!("{}.parquet", uuid::Uuid::now_v7()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(Error::storage("create", &path))?;
        target.created.lock().unwrap_or_else(PoisonError::into_inner).push(path.clone());
        let failed = |error| failed(&path, error);
        let schema = ArrowSchemaConverter::new().schema_root("table").convert(&target.arrow).map_err(failed)?;
        let writer = SerializedFileWriter::new(file, schema.root_schema_ptr(), properties()).map_err(failed)?;
        let columns = ArrowRowGroupWriterFactory::new(&writer, Arc::clone(&target.arrow));
        Ok(Self { path, writer, columns, nans: HashMap::new(), groups: 0 })
    }

    fn add(&mut self, batches: &[RecordBatch], target: &Target, columns_at_once: usize) -> Result<()> {
        count_nans(batches, &target.arrow, &mut self.nans);
        let result = self.columns.create_column_writers(self.groups).and_then(|writers| {
            let chunks = encode(writers, batches, &target.arrow, columns_at_once)?;
            let mut group = self.writer.next_row_group()?;
            for chunk in chunks {
                chunk.append_to_row_group(&mut group)?;
            }
            group.close().map(drop)
        });
        self.groups += 1;
        result.map_err(|error| failed(&self.path, error))
    }

    fn close(mut self) -> Result<Written> {
        let footer = self.writer.finish().map_err(|error| failed(&self.path, error))?;
        let bytes = u64::try_from(self.writer.bytes_written()).expect("a file size fits into 64 bits");
        self.writer.inner().sync_all().map_err(Error::storage("sync", &self.path))?;
        Ok(Written { path: text(&self.path), bytes, footer, nans: self.nans })
    }
}

/// A path as text; locations come in as text, so they are UTF-8.
pub(crate) fn text(path: &Path) -> String {
    path.to_str().map_or_else(|| path.display().to_string(), str::to_owned)
}

/// A write error: the disk's if there is one inside, else Parquet's.
fn failed(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(cause) => Error::storage("write", path)(*cause),
            Err(cause) => Error::Internal { verb: "write a Parquet file", cause },
        },
        other => Error::Internal { verb: "write a Parquet file", cause: other.into() },
    }
}

/// Encodes the columns of one row group, in the order of the schema's leaves.
fn encode(
    writers: Vec<ArrowColumnWriter>,
    batches: &[RecordBatch],
    schema: &ArrowSchema,
    columns_at_once: usize,
) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
    let mut writers = writers.into_iter();
    let columns: VecDeque<(usize, Vec<ArrowColumnWriter>)> = (0..schema.fields().len())
        .map(|index| (index, writers.by_ref().take(leaves(schema.field(index).data_type())).collect()))
        .collect();
    let count = columns.len();
    let values = count * batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    let threads = if values < PARALLEL_VALUES_MIN { 1 } else { columns_at_once.min(count) };
    let queue = Mutex::new(columns);
    let work = || {
        let mut done = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((index, writers)) = next else { return Ok::<_, ParquetError>(done) };
            done.push((index, encode_column(writers, batches, schema, index)?));
        }
    };
    let mut chunks: Vec<Vec<ArrowColumnChunk>> = (0..count).map(|_| Vec::new()).collect();
    let done = if threads == 1 { vec![work()] } else { on_threads(threads, &work) };
    for done in done {
        for (index, column) in done? {
            chunks[index] = column;
        }
    }
    Ok(chunks.into_iter().flatten().collect())
}

fn encode_column(
    mut writers: Vec<ArrowColumnWriter>,
    batches: &[RecordBatch],
    schema: &ArrowSchema,
    index: usize,
) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
    for batch in batches {
        for (writer, leaf) in writers.iter_mut().zip(compute_leaves(schema.field(index), batch.column(index))?) {
            writer.write(&leaf)?;
        }
    }
    writers.into_iter().map(ArrowColumnWriter::close).collect()
}

/// Parquet columns a type becomes.
fn leaves(kind: &DataType) -> usize {
    match kind {
        DataType::Struct(fields) => fields.iter().map(|field| leaves(field.data_type())).sum(),
        DataType::Map(entries, _) => leaves(entries.data_type()),
        _ => crate::schema::list_item(kind).map_or(1, |item| leaves(item.data_type())),
    }
}

fn count_nans(batches: &[RecordBatch], schema: &ArrowSchema, nans: &mut HashMap<i32, u64>) {
    for (index, field) in schema.fields().iter().enumerate() {
        let Some(id) = field_id(field).filter(|_| field.data_type().is_floating()) else { continue };
        let count: usize = batches.iter().map(|batch| nan_count(batch.column(index))).sum();
        *nans.entry(id).or_default() += u64::try_from(count).expect("a count of rows fits into 64 bits");
    }
}

fn nan_count(column: &ArrayRef) -> usize {
    if let Some(column) = column.as_primitive_opt::<Float64Type>() {
        column.iter().flatten().filter(|value| value.is_nan()).count()
    } else if let Some(column) = column.as_primitive_opt::<Float32Type>() {
        column.iter().flatten().filter(|value| value.is_nan()).count()
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn row_groups_are_full_and_in_order() {
        let schema = Arc::new(ArrowSchema::new(vec![Field::new("a", DataType::Int64, false)]));
        let batch = |rows: usize| {
            let values = Int64Array::from_iter_values(0..i64::try_from(rows).unwrap());
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(values)]).unwrap()
        };
        let sizes = |batches: &[RecordBatch]| -> Vec<usize> {
            row_groups(batches).iter().map(|group| group.iter().map(RecordBatch::num_rows).sum()).collect()
        };
        assert_eq!(sizes(&[batch(10), batch(ROW_GROUP_ROWS_MAX * 2)]), [ROW_GROUP_ROWS_MAX, ROW_GROUP_ROWS_MAX, 10]);
        assert_eq!(sizes(&[batch(ROW_GROUP_ROWS_MAX)]), [ROW_GROUP_ROWS_MAX]);
        assert!(sizes(&[batch(0)]).is_empty());
    }
}
