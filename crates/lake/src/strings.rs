//! How a scan delivers strings: plain, as views, or as dictionaries, and how little of the file's memory that holds on to.
//!
//! Parquet's own reader makes all three. Views point into the decompressed pages (and into the dictionary page, where there is
//! one), so they cost no copy but keep whole pages; dictionaries are the dictionary page and keys, one per row group.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, Field, Schema, SchemaRef, StringViewType};
use arrow::error::ArrowError;
use forebay_plan::{dictionary_type, tidy_dictionary};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::ParquetError;

/// Views are copied together where they use less than one in so many bytes of the pages they keep.
const KEPT_PER_USED_MAX: usize = 2;

/// The table's schema with the columns of `dictionary` as dictionaries and, with `views`, other strings and binaries as views.
pub(crate) fn wanted(schema: &SchemaRef, dictionary: &[String], views: bool) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let kind = match field.data_type() {
            kind if dictionary.contains(field.name()) && kind.is_string() => dictionary_type(),
            DataType::Utf8 | DataType::LargeUtf8 if views => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary if views => DataType::BinaryView,
            _ => return Arc::clone(field),
        };
        Arc::new(Field::clone(field).with_data_type(kind))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A file's footer such that its reader makes `kind` of root columns, where it can; elsewhere a cast must follow.
pub(crate) fn retyped(file: ArrowReaderMetadata, roots: &[(usize, &DataType)]) -> Result<ArrowReaderMetadata, ParquetError> {
    let mut fields: Vec<Arc<Field>> = file.schema().fields().iter().cloned().collect();
    let mut changed = false;
    for (root, kind) in roots {
        let direct = match (fields[*root].data_type(), kind) {
            (DataType::Utf8, DataType::Utf8View) | (DataType::Binary, DataType::BinaryView) => true,
            (DataType::Utf8, kind) => **kind == dictionary_type(),
            _ => false,
        };
        if direct {
            fields[*root] = Arc::new(Field::clone(&fields[*root]).with_data_type((*kind).clone()));
            changed = true;
        }
    }
    if !changed {
        return Ok(file);
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, file.schema().metadata().clone()));
    ArrowReaderMetadata::try_new(Arc::clone(file.metadata()), ArrowReaderOptions::new().with_schema(schema))
}

/// A batch whose views keep no more than they use, within limits, and whose dictionaries have distinct values.
pub(crate) fn tidy(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let special = |kind: &DataType| matches!(kind, DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(..));
    if !batch.schema_ref().fields().iter().any(|field| special(field.data_type())) {
        return Ok(batch);
    }
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => Ok(compact::<StringViewType>(column)),
        DataType::BinaryView => Ok(compact::<BinaryViewType>(column)),
        _ => tidy_dictionary(column),
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    RecordBatch::try_new(batch.schema(), columns)
}

fn compact<T: ByteViewType>(array: &ArrayRef) -> ArrayRef {
    let views: &GenericByteViewArray<T> = array.as_byte_view();
    let kept: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if kept > views.total_buffer_bytes_used().saturating_mul(KEPT_PER_USED_MAX) {
        Arc::new(views.gc())
    } else {
        Arc::clone(array)
    }
}

/// Bytes of one column's strings up to which a batch is turned into plain ones: their offsets count to 2 GiB.
const PLAIN_BYTES_MAX: usize = 1 << 30;

/// The batch in parts whose views fit into plain strings: views of a join may stand for more bytes than there are.
#[must_use]
pub fn within_offsets(batch: RecordBatch) -> Vec<RecordBatch> {
    let bytes = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => column.as_string_view().total_buffer_bytes_used(),
        DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used(),
        _ => 0,
    };
    let rows = batch.num_rows();
    if rows < 2 || batch.columns().iter().all(|column| bytes(column) <= PLAIN_BYTES_MAX) {
        return vec![batch];
    }
    let (first, second) = (batch.slice(0, rows / 2), batch.slice(rows / 2, rows - rows / 2));
    [first, second].into_iter().flat_map(within_offsets).collect()
}
