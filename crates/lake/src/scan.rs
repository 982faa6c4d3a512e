//! Reads a table: only the files, row groups and columns that matter, decoded in parallel, rows in order.
//!
//! ```text
//! live files --manifest statistics--> files --Parquet footers--> row groups --decode, cast, filter--> batches
//! ```
//!
//! Skipping is an optimisation: the filter is always evaluated on the rows as well. Rows come in the order of commits,
//! within a commit in the order of files and rows. Decoding runs on as many threads as there are processors.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, SchemaRef};
use iceberg::spec::{DataFileFormat, PrimitiveLiteral, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection};

use crate::cast::cast_exactly;
use crate::conform::{conform, field_id};
use crate::deletes::{self, Deletes};
use crate::error::{Error, Result, nearest};
use crate::files::on_threads;
use crate::predicate::{Filter, Keep, RowFilter};
use crate::statistics::{self, FileColumn};
use crate::storage::{Location, Reader};
use crate::table::{LiveFile, LiveFiles, Table};
use crate::{join, strings};

/// Rows of a batch, at most.
const BATCH_ROWS_MAX: usize = 128 * 1024;
/// Bytes of a batch to aim at: Arrow's strings hold at most 2 GiB per batch.
const BATCH_BYTES_TARGET: usize = 256 * 1024 * 1024;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct ScanRequest {
    /// The table's metadata file.
    pub metadata_location: String,
    /// The snapshot to read; `None`: the current one.
    pub snapshot_id: Option<i64>,
    /// Columns to return, in this order; `None`: all.
    pub columns: Option<Vec<String>>,
    /// A SQL boolean expression over all columns of the table.
    pub filter: Option<String>,
    /// Columns of strings to return as [`dictionary_type`](forebay_plan::dictionary_type), each batch with a dictionary that no
    /// other batch needs to share.
    pub dictionary: Vec<String>,
    /// Whether to return other strings and binaries as views, which point into the decoded pages.
    pub views: bool,
}

/// The rows read.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// Types as in [`TableInfo::arrow_schema`](crate::TableInfo::arrow_schema), but for dictionaries and views that were asked for.
    pub schema: SchemaRef,
    /// The rows; no batch is empty.
    pub batches: Vec<RecordBatch>,
    /// How much was read.
    pub stats: ScanStats,
}

/// How much was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Live data files.
    pub files_total: usize,
    /// Files left after pruning by partition and bounds.
    pub files_read: usize,
    /// Row groups in the files read.
    pub row_groups_total: usize,
    /// Row groups left after pruning by statistics.
    pub row_groups_read: usize,
    /// Compressed bytes of the columns read.
    pub bytes_read: u64,
}

/// Reads a table.
///
/// # Errors
/// If a column or the filter does not fit the table, or a file is missing or damaged.
pub async fn scan(request: ScanRequest) -> Result<Scanned> {
    let table = Table::open(&request.metadata_location).await?;
    let (snapshot, schema) = table.snapshot(request.snapshot_id)?;
    let clean = table.clean_schema(&schema);
    let output = match &request.columns {
        Some(names) => names.iter().map(|name| column_index(&clean, name)).collect::<Result<Vec<_>>>()?,
        None => (0..clean.fields().len()).collect(),
    };
    let delivered = strings::wanted(&clean, &request.dictionary, request.views);
    let parse = |schema: &SchemaRef| request.filter.as_deref().map(|text| Filter::parse(text, schema)).transpose();
    let (filter, rows_filter) = (parse(&clean)?, parse(&delivered)?);
    let live = match snapshot {
        Some(snapshot) => table.live_files(snapshot).await?,
        None => LiveFiles::default(),
    };
    let plan = Plan { table, schema, clean, delivered, output, filter, rows_filter, keep: Keep::Matching };
    read_blocking(plan, live).await
}

fn column_index(schema: &SchemaRef, name: &str) -> Result<usize> {
    schema.index_of(name).map_err(|_| Error::Column {
        column: name.to_owned(),
        near: nearest(name, schema.fields().iter().map(|field| field.name().as_str())),
    })
}

/// A checked read.
pub(crate) struct Plan {
    pub table: Table,
    /// The Iceberg schema read with.
    pub schema: Arc<Schema>,
    /// Its Arrow form.
    pub clean: SchemaRef,
    /// The same with the types of strings that are delivered.
    pub delivered: SchemaRef,
    /// Columns to return, as indices.
    pub output: Vec<usize>,
    /// The filter over `clean`, for statistics.
    pub filter: Option<Filter>,
    /// The same filter over `delivered`, for rows.
    pub rows_filter: Option<Filter>,
    /// With [`Keep::NotMatching`] nothing is skipped.
    pub keep: Keep,
}

/// Runs [`Plan::read`] where blocking is allowed.
pub(crate) async fn read_blocking(plan: Plan, live: LiveFiles) -> Result<Scanned> {
    tokio::task::spawn_blocking(move || plan.read(live)).await.map_err(Error::internal("read the table"))?
}

impl Plan {
    /// Reads the live files. Blocks.
    fn read(&self, live: LiveFiles) -> Result<Scanned> {
        let mut stats = ScanStats { files_total: live.data.len(), ..ScanStats::default() };
        let files = self.prune_files(live.data);
        stats.files_read = files.len();
        let deletes = deletes::load(&live.deletes, &files, &self.table.location)?;
        let columns = self.read_columns()?;
        let opened = parallel(&files, &|live| self.open(live, &columns, &deletes))?;
        let mut groups = Vec::new();
        for file in &opened {
            stats.row_groups_total += file.metadata.metadata().num_row_groups();
            stats.row_groups_read += file.groups.len();
            stats.bytes_read += file.bytes;
            groups.extend(file.groups.iter().map(|group| (file, group)));
        }
        let batches = parallel(&groups, &|(file, group)| self.decode(file, group, &columns))?;
        let schema = Arc::new(self.delivered.project(&self.output).map_err(Error::internal("project the schema"))?);
        let batches = join::small(&schema, batches.into_iter().flatten().collect())?;
        Ok(Scanned { schema, batches, stats })
    }

    /// Leaves out files that cannot hold a matching row.
    fn prune_files(&self, files: Vec<LiveFile>) -> Vec<LiveFile> {
        let Some(filter) = self.filter.as_ref().filter(|_| self.keep == Keep::Matching) else { return files };
        let containers = statistics::of_files(&files, &self.table.metadata, &self.schema, &self.clean, filter.columns());
        let keep = filter.may_match(&containers);
        files.into_iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect()
    }

    /// The columns to decode: those returned and those the filter reads.
    fn read_columns(&self) -> Result<ReadColumns> {
        let mut read: BTreeSet<usize> = self.output.iter().copied().collect();
        if let Some(filter) = &self.filter {
            read.extend(filter.columns());
        }
        let read: Vec<usize> = read.into_iter().collect();
        let schema = Arc::new(self.delivered.project(&read).map_err(Error::internal("project the schema"))?);
        let filter = self.rows_filter.as_ref().map(|filter| filter.on(&schema)).transpose()?;
        let position = |column: &usize| read.iter().position(|read| read == column).expect("output is in read");
        let output = self.output.iter().map(position).collect();
        Ok(ReadColumns { read, schema, filter, output })
    }

    /// Reads a file's footer and chooses its row groups.
    fn open(&self, live: &LiveFile, columns: &ReadColumns, deletes: &Deletes) -> Result<OpenFile> {
        let path = live.file.file_path().to_owned();
        if live.file.file_format() != DataFileFormat::Parquet {
            let feature = format!("a data file in {} format", live.file.file_format());
            return Err(Error::Unsupported { table: self.table.location.clone(), feature });
        }
        let mut file = open_file(&path, Some(live.file.file_size_in_bytes()))?;
        file.prefetch_tail().map_err(Error::data_file(&path))?;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(Error::data_file(&path))?;
        let sources: Vec<Source> = columns.read.iter().map(|&column| self.source(column, live, &metadata)).collect();
        let roots: BTreeSet<usize> =
            sources.iter().filter_map(|source| if let Source::Root(root) = source { Some(*root) } else { None }).collect();
        let roots: Vec<usize> = roots.into_iter().collect();
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots.iter().copied());
        let chosen = self.choose_row_groups(live, &metadata);
        let mut groups = Vec::new();
        let mut bytes = 0;
        let mut first_row = 0;
        for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
            let rows = usize::try_from(group.num_rows()).map_err(Error::data_file(&path))?;
            if chosen[index] && rows > 0 {
                let chunks = group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
                bytes += chunks.map(|(_, chunk)| u64::try_from(chunk.compressed_size()).unwrap_or(0)).sum::<u64>();
                groups.push(Group { index, rows, selection: deletes.selection(&path, first_row, rows) });
            }
            first_row += rows;
        }
        let kinds = sources.iter().zip(columns.schema.fields());
        let kinds: Vec<_> = kinds
            .filter_map(|(source, field)| if let Source::Root(root) = source { Some((*root, field.data_type())) } else { None })
            .collect();
        let metadata = strings::retyped(metadata, &kinds).map_err(Error::data_file(&path))?;
        let size = live.file.file_size_in_bytes();
        Ok(OpenFile { path, size, metadata, sources, roots, mask, groups, bytes })
    }

    fn choose_row_groups(&self, live: &LiveFile, metadata: &ArrowReaderMetadata) -> Vec<bool> {
        let groups = metadata.metadata().row_groups();
        let Some(filter) = self.filter.as_ref().filter(|_| self.keep == Keep::Matching) else {
            return vec![true; groups.len()];
        };
        let mut columns = Vec::new();
        for &column in filter.columns() {
            let root = match self.source(column, live, metadata) {
                Source::Root(root) => Some(root),
                Source::Null => None,
                Source::Constant(_) => continue, // The partition has been looked at already.
            };
            let id = self.schema.as_struct().fields()[column].id;
            let may_have_nan =
                self.clean.field(column).data_type().is_floating() && live.file.nan_value_counts().get(&id) != Some(&0);
            columns.push(FileColumn { column, root, may_have_nan });
        }
        let containers = statistics::of_row_groups(groups, metadata.schema(), metadata.parquet_schema(), &self.clean, &columns);
        filter.may_match(&containers)
    }

    /// Where a column's values come from in this file.
    fn source(&self, column: usize, live: &LiveFile, metadata: &ArrowReaderMetadata) -> Source {
        let field = &self.schema.as_struct().fields()[column];
        let fields = metadata.schema().fields();
        let root = if fields.iter().any(|field| field_id(field).is_some()) {
            fields.iter().position(|candidate| field_id(candidate) == Some(field.id))
        } else {
            fields.iter().position(|candidate| *candidate.name() == field.name)
        };
        match (root, statistics::identity_value(live, &self.table.metadata, field.id)) {
            (Some(root), _) => Source::Root(root),
            (None, Some(Some(value))) => Source::Constant(value),
            (None, _) => Source::Null,
        }
    }

    /// Decodes, casts and filters one row group.
    fn decode(&self, file: &OpenFile, group: &Group, columns: &ReadColumns) -> Result<Vec<RecordBatch>> {
        // A handle of its own: a cloned one would share its position with other threads.
        let mut handle = open_file(&file.path, Some(file.size))?;
        handle.prefetch(&Self::ranges(file, group)).map_err(Error::data_file(&file.path))?;
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(handle, file.metadata.clone())
            .with_row_groups(vec![group.index])
            .with_projection(file.mask.clone())
            .with_batch_size(batch_rows(group.rows, file.metadata.metadata().row_group(group.index).total_byte_size()));
        if let Some(selection) = &group.selection {
            builder = builder.with_row_selection(selection.clone());
        }
        let reader = builder.build().map_err(Error::data_file(&file.path))?;
        let mut batches = Vec::new();
        for raw in reader {
            let raw = raw.map_err(Error::data_file(&file.path))?;
            let batch = self.shape(file, &raw, columns)?;
            let mask = match &columns.filter {
                Some(filter) => Some(filter.mask(&batch, self.keep)?),
                None => None,
            };
            let mut batch = batch.project(&columns.output).map_err(Error::internal("project the rows"))?;
            if let Some(mask) = mask.filter(|mask| mask.true_count() < mask.len()) {
                batch = filter_record_batch(&batch, &mask).map_err(Error::internal("filter the rows"))?;
            }
            if batch.num_rows() > 0 {
                batches.push(strings::tidy(batch).map_err(Error::internal("tidy the rows"))?);
            }
        }
        Ok(batches)
    }

    /// Where the bytes of a row group are that will be decoded.
    fn ranges(file: &OpenFile, group: &Group) -> Vec<Range<u64>> {
        let columns = file.metadata.metadata().row_group(group.index).columns().iter().enumerate();
        let read = columns.filter(|(leaf, _)| file.mask.leaf_included(*leaf)).map(|(_, chunk)| chunk.byte_range());
        read.map(|(start, bytes)| start..start + bytes).collect()
    }

    /// Brings what the file holds to the table's columns and types.
    fn shape(&self, file: &OpenFile, raw: &RecordBatch, columns: &ReadColumns) -> Result<RecordBatch> {
        let rows = raw.num_rows();
        let arrays = columns
            .read
            .iter()
            .zip(columns.schema.fields())
            .zip(&file.sources)
            .map(|((&column, field), source)| {
                let stored = &self.schema.as_struct().fields()[column].field_type;
                let array = match source {
                    Source::Root(root) => {
                        let position = file.roots.binary_search(root).expect("roots hold every source");
                        conform(raw.column(position), field.data_type(), Some(stored)).map_err(|problem| {
                            let (column, kind) = (field.name().clone(), field.data_type().to_string());
                            Error::Recorded { column, kind, why: format!("{} (file `{}`)", problem.why, file.path) }
                        })?
                    }
                    Source::Constant(value) => constant(field, stored.as_primitive_type(), value, rows, &file.path)?,
                    Source::Null => new_null_array(field.data_type(), rows),
                };
                if !field.is_nullable() && array.null_count() > 0 {
                    let why = format!("the required column `{}` holds nulls", field.name());
                    return Err(Error::data_file(&file.path)(why));
                }
                Ok(array)
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&columns.schema), arrays, &options)
            .map_err(Error::internal("shape the rows"))
    }
}

/// Rows per batch for a row group of so many rows and bytes.
fn batch_rows(rows: usize, bytes: i64) -> usize {
    let bytes = usize::try_from(bytes).unwrap_or(0).max(1);
    let fitting = rows.saturating_mul(BATCH_BYTES_TARGET) / bytes;
    fitting.clamp(1, BATCH_ROWS_MAX.min(rows))
}

/// A partition value for every row.
fn constant(
    field: &Field,
    kind: Option<&iceberg::spec::PrimitiveType>,
    value: &PrimitiveLiteral,
    rows: usize,
    path: &str,
) -> Result<ArrayRef> {
    let unknown = || Error::data_file(path)(format!("column `{}` is neither in the file nor a value", field.name()));
    let one = kind.and_then(|kind| statistics::literals(kind, std::iter::once(Some(value)))).ok_or_else(unknown)?;
    let one = cast_exactly(&one, field.data_type()).map_err(|_| unknown())?;
    let indices = arrow::array::UInt32Array::from(vec![0; rows]);
    arrow::compute::take(&one, &indices, None).map_err(Error::internal("repeat a partition value"))
}

/// The columns decoded, and what becomes of them.
struct ReadColumns {
    /// Indices into the table's schema, ascending.
    read: Vec<usize>,
    /// Their fields.
    schema: SchemaRef,
    filter: Option<RowFilter>,
    /// Positions in `read` of what is returned.
    output: Vec<usize>,
}

/// Where a column's values come from.
enum Source {
    /// A root column of the file.
    Root(usize),
    /// The file's partition value.
    Constant(PrimitiveLiteral),
    /// The file is older than the column.
    Null,
}

struct OpenFile {
    path: String,
    /// Of the whole file, in bytes.
    size: u64,
    metadata: ArrowReaderMetadata,
    /// One per column read.
    sources: Vec<Source>,
    /// Root columns decoded, ascending.
    roots: Vec<usize>,
    mask: ProjectionMask,
    groups: Vec<Group>,
    bytes: u64,
}

struct Group {
    index: usize,
    rows: usize,
    /// Rows that are not deleted, if any is.
    selection: Option<RowSelection>,
}

/// Opens a file that metadata names, of so many bytes if that is known.
pub(crate) fn open_file(path: &str, bytes: Option<u64>) -> Result<Reader> {
    Reader::open(&Location::parse(path)?, bytes).map_err(Error::data_file(path))
}

/// Applies `work` to every item on a bounded number of threads; results in the order of items, or an error.
pub(crate) fn parallel<T: Sync, R: Send>(items: &[T], work: &(impl Fn(&T) -> Result<R> + Sync)) -> Result<Vec<R>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::with_capacity(items.len()));
    on_threads(threads, &|| {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            let result = work(item);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
