//! Parts of one side of a join: files of the rows whose keys have one number in common.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::disk_manager::{DiskManager, RefCountedTempFile};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::{RecordBatchReceiverStream, RecordBatchStreamAdapter};

use crate::limits::{JOIN_PARTS, PART_BATCHES_MAX, PART_WRITE_BYTES};

/// Bytes of a row's place in a hash table, rather too many.
const HASH_BYTES: usize = 32;

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub rows: usize,
    pub bytes: usize,
}

impl Size {
    pub fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows();
        self.bytes += bytes(batch);
    }

    /// Bytes it takes to build a hash join on it.
    pub fn built_bytes(self) -> usize {
        2 * self.bytes + self.rows * HASH_BYTES
    }
}

/// Bytes that the rows of a batch take by themselves.
fn bytes(batch: &RecordBatch) -> usize {
    let column = |column: &ArrayRef| {
        let fixed = column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
        fixed + viewed(column).map_or(0, |viewed| viewed.used_bytes)
    };
    batch.columns().iter().map(column).sum()
}

struct Viewed {
    used_bytes: usize,
    kept_bytes: usize,
}

/// Bytes behind the views of a column, where it has views.
fn viewed(column: &ArrayRef) -> Option<Viewed> {
    let (used_bytes, buffers) = match column.data_type() {
        DataType::Utf8View => (column.as_string_view().total_buffer_bytes_used(), column.as_string_view().data_buffers()),
        DataType::BinaryView => (column.as_binary_view().total_buffer_bytes_used(), column.as_binary_view().data_buffers()),
        _ => return None,
    };
    Some(Viewed { used_bytes, kept_bytes: buffers.iter().map(arrow::buffer::Buffer::capacity).sum() })
}

/// Bytes that views may keep beyond twice of what they use.
const KEPT_BYTES_MAX: usize = 4096;

/// The batch with the strings of its views copied together where they keep much more memory than they use: a few rows of a batch
/// would otherwise hold all of it, and be charged for it.
pub(crate) fn compact(batch: RecordBatch) -> Result<RecordBatch> {
    let is_wide = |column: &ArrayRef| viewed(column).is_some_and(|all| all.kept_bytes > 2 * all.used_bytes + KEPT_BYTES_MAX);
    if !batch.columns().iter().any(is_wide) {
        return Ok(batch);
    }
    let (schema, columns, _) = batch.into_parts();
    let columns = columns.into_iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View if is_wide(&column) => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView if is_wide(&column) => Arc::new(column.as_binary_view().gc()),
            _ => column,
        }
    });
    // A join has columns: its keys.
    Ok(RecordBatch::try_new(schema, columns.collect())?)
}

/// Some rows of one side, in a file. No file: no rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    file: Option<RefCountedTempFile>,
    pub size: Size,
}

impl Part {
    /// Its rows. Can be read as often as there is use for them.
    pub fn read(&self, schema: &SchemaRef) -> SendableRecordBatchStream {
        let Some(file) = self.file.clone() else {
            return Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), futures::stream::empty()));
        };
        let mut rows = RecordBatchReceiverStream::builder(Arc::clone(schema), PART_BATCHES_MAX);
        let sender = rows.tx();
        rows.spawn_blocking(move || {
            let batches = StreamReader::try_new(BufReader::new(File::open(file.path())?), None)?;
            for batch in batches {
                // Nobody wants the rest.
                if sender.blocking_send(batch.map_err(DataFusionError::from)).is_err() {
                    break;
                }
            }
            Ok(())
        });
        rows.build()
    }
}

/// Where rows go whose key is null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    /// Null is a key like others.
    Keys,
    /// Anywhere, as they find nobody: evenly.
    Anywhere,
    /// Into a part of their own, the last.
    Apart,
}

/// How a side is cut.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    pub nulls: Nulls,
    /// How often its rows have been cut before: each time by another hash.
    pub times: u64,
    /// Bytes that are gathered before they are written.
    pub gathered_bytes: usize,
}

struct Writer {
    file: RefCountedTempFile,
    out: StreamWriter<BufWriter<File>>,
}

/// One side on its way into parts.
pub(super) struct Parts {
    cut: Cut,
    schema: SchemaRef,
    disk: Arc<DiskManager>,
    gathered: Vec<Vec<RecordBatch>>,
    gathered_bytes: usize,
    writers: Vec<Option<Writer>>,
    sizes: Vec<Size>,
    /// Rows so far, which spreads those that may go anywhere.
    rows: usize,
}

impl Parts {
    pub fn new(cut: Cut, schema: SchemaRef, disk: Arc<DiskManager>) -> Self {
        let count = JOIN_PARTS + usize::from(cut.nulls == Nulls::Apart);
        let writers = std::iter::repeat_with(|| None).take(count).collect();
        let (gathered, sizes) = (vec![Vec::new(); count], vec![Size::default(); count]);
        Self { cut, schema, disk, gathered, gathered_bytes: 0, writers, sizes, rows: 0 }
    }

    /// Takes rows.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let parts = self.parts_of(batch)?;
        self.rows += batch.num_rows();
        let mut starts = vec![0; self.sizes.len() + 1];
        parts.iter().for_each(|part| starts[part + 1] += 1);
        (1..starts.len()).for_each(|part| starts[part] += starts[part - 1]);
        let mut places = starts.clone();
        let mut order = vec![0_u32; parts.len()];
        for (row, part) in (0_u32..).zip(&parts) {
            order[places[*part]] = row;
            places[*part] += 1;
        }
        let batch = compact(take_record_batch(batch, &UInt32Array::from(order))?)?;
        self.gathered_bytes += bytes(&batch);
        for (part, gathered) in self.gathered.iter_mut().enumerate() {
            let rows = starts[part + 1] - starts[part];
            if rows > 0 {
                gathered.push(batch.slice(starts[part], rows));
            }
        }
        if self.gathered_bytes >= self.cut.gathered_bytes { self.write() } else { Ok(()) }
    }

    /// The part of each row.
    fn parts_of(&self, batch: &RecordBatch) -> Result<Vec<usize>> {
        let rows = batch.num_rows();
        let keys = self.cut.keys.iter().map(|key| key.evaluate(batch)?.into_array(rows)).collect::<Result<Vec<_>>>()?;
        let mut hashes = vec![0; rows];
        // Neither the seed by which rows come to their partition nor that of hash tables.
        create_hashes(&keys, &RandomState::with_seed(SEED.wrapping_add(self.cut.times)), &mut hashes)?;
        let count = JOIN_PARTS as u64;
        let mut parts: Vec<usize> = hashes.iter().map(|hash| usize::try_from(hash % count).unwrap_or(0)).collect();
        if self.cut.nulls != Nulls::Keys {
            let nulls: Vec<_> =
                keys.iter().filter_map(|key| key.logical_nulls()).filter(|nulls| nulls.null_count() > 0).collect();
            for (row, part) in parts.iter_mut().enumerate() {
                if nulls.iter().any(|nulls| nulls.is_null(row)) {
                    *part = if self.cut.nulls == Nulls::Apart { JOIN_PARTS } else { (self.rows + row) % JOIN_PARTS };
                }
            }
        }
        Ok(parts)
    }

    fn write(&mut self) -> Result<()> {
        self.gathered_bytes = 0;
        for part in 0..self.gathered.len() {
            let gathered = std::mem::take(&mut self.gathered[part]);
            if gathered.is_empty() {
                continue;
            }
            let batch = compact(concat_batches(&self.schema, &gathered)?)?;
            self.sizes[part].add(&batch);
            let writer = match &mut self.writers[part] {
                Some(writer) => writer,
                none => none.insert(Writer::new(&self.disk, &self.schema)?),
            };
            writer.out.write(&batch)?;
            writer.file.update_disk_usage()?;
        }
        Ok(())
    }

    /// The parts, by their numbers.
    pub fn finish(mut self) -> Result<Vec<Part>> {
        self.write()?;
        let part = |(writer, size): (Option<Writer>, Size)| {
            let Some(Writer { mut file, mut out }) = writer else { return Ok(Part::default()) };
            out.finish()?;
            drop(out);
            file.update_disk_usage()?;
            Ok(Part { file: Some(file), size })
        };
        self.writers.into_iter().zip(self.sizes).map(part).collect()
    }
}

const SEED: u64 = 0x666f_7265_6261_7921;

impl Writer {
    fn new(disk: &Arc<DiskManager>, schema: &SchemaRef) -> Result<Self> {
        let file = disk.create_tmp_file("a join in parts")?;
        let out = BufWriter::with_capacity(PART_WRITE_BYTES, file.inner().as_file().try_clone()?);
        Ok(Self { out: StreamWriter::try_new(out, schema)?, file })
    }
}
