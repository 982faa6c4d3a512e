//! Message to arrays. Buffers are slices of the segments' buffers; nothing is copied unless it is misaligned.

use arrow::array::{Array, ArrayData, ArrayDataBuilder, ArrayRef, BooleanArray, BufferSpec, layout, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::Error;
use crate::decode::child_types;
use crate::message::{Batch, Message, Node, Place};

/// Where the bytes of segments come from, and how far their values are believed.
pub trait Source {
    /// The whole segment, if it is at hand.
    fn segment(&self, id: u64) -> Option<Buffer>;

    /// Makes an array of parts. The default checks every value (UTF-8, offsets, dictionary keys), which reads all of it.
    ///
    /// # Errors
    /// When the parts are no valid array.
    fn array(&self, parts: ArrayDataBuilder) -> Result<ArrayData, ArrowError> {
        parts.build()
    }

    /// Makes a null buffer. The default counts the nulls instead of believing `null_count`.
    fn nulls(&self, bits: BooleanBuffer, null_count: usize) -> NullBuffer {
        let _ = null_count;
        NullBuffer::new(bits)
    }
}

impl<F: Fn(u64) -> Option<Buffer>> Source for F {
    fn segment(&self, id: u64) -> Option<Buffer> {
        self(id)
    }
}

/// A table with its data.
#[derive(Debug, Clone)]
pub struct Table {
    /// Schema of every batch.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// Bytes that had to be copied because their address did not suit their type.
    pub realigned_bytes: u64,
}

impl Table {
    /// Rows of all batches.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.num_rows() as u64).sum()
    }
}

impl Message {
    /// The table over the bytes that `source` provides.
    ///
    /// # Errors
    /// [`Error::Segment`] when a segment is missing or too short, [`Error::Invalid`] when the buffers form no arrays.
    pub fn rebuild(&self, source: &dyn Source) -> Result<Table, Error> {
        let segments = self
            .segments
            .iter()
            .map(|segment| {
                let wrong = |what: String| Error::Segment { id: segment.id, what };
                let buffer = source.segment(segment.id).ok_or_else(|| wrong("missing".into()))?;
                if (buffer.len() as u64) < segment.length {
                    return Err(wrong(format!("{} bytes long, {} were declared", buffer.len(), segment.length)));
                }
                Ok(buffer)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut builder = Builder { source, segments, inline: &self.inline, realigned_bytes: 0 };
        let batches = self.batches.iter().map(|batch| builder.batch(&self.schema, batch)).collect::<Result<Vec<_>, _>>()?;
        Ok(Table { schema: SchemaRef::clone(&self.schema), batches, realigned_bytes: builder.realigned_bytes })
    }
}

struct Builder<'a> {
    source: &'a dyn Source,
    segments: Vec<Buffer>,
    inline: &'a Buffer,
    realigned_bytes: u64,
}

fn native(number: u64) -> Result<usize, Error> {
    usize::try_from(number).map_err(|_| Error::Damaged("a length does not fit this machine".into()))
}

impl Builder<'_> {
    fn batch(&mut self, schema: &SchemaRef, batch: &Batch) -> Result<RecordBatch, Error> {
        let columns = schema
            .fields()
            .iter()
            .zip(&batch.columns)
            .map(|(field, node)| self.column(field.data_type(), node))
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(native(batch.rows)?));
        Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)?)
    }

    fn column(&mut self, data_type: &DataType, node: &Node) -> Result<ArrayRef, Error> {
        Ok(make_array(self.data(data_type, node)?))
    }

    fn data(&mut self, data_type: &DataType, node: &Node) -> Result<ArrayData, Error> {
        let (length, offset) = (native(node.length)?, native(node.offset)?);
        let nulls = self.nulls(node, length)?;
        if *data_type == DataType::Boolean {
            // Booleans and their nulls begin at different bits, which the checks of `ArrayData` do not provide for.
            let values = BooleanBuffer::new(self.bytes(node.buffers[0])?, offset, length);
            return Ok(BooleanArray::new(values, nulls).into_data());
        }
        let mut children = Vec::with_capacity(node.children.len());
        for (child_type, child) in child_types(data_type).into_iter().zip(&node.children) {
            children.push(self.data(child_type, child)?);
        }
        let specs = layout(data_type).buffers;
        let mut buffers = Vec::with_capacity(node.buffers.len());
        for (position, place) in node.buffers.iter().enumerate() {
            let buffer = self.bytes(*place)?;
            buffers.push(self.aligned(buffer, specs.get(position)));
        }
        let parts = ArrayDataBuilder::new(data_type.clone()).len(length).offset(offset).nulls(nulls);
        Ok(self.source.array(parts.buffers(buffers).child_data(children))?)
    }

    fn nulls(&self, node: &Node, length: usize) -> Result<Option<NullBuffer>, Error> {
        if node.validity == Place::None || node.null_count == 0 {
            return Ok(None);
        }
        let bits = BooleanBuffer::new(self.bytes(node.validity)?, usize::from(node.validity_shift), length);
        Ok(Some(self.source.nulls(bits, native(node.null_count)?)))
    }

    fn bytes(&self, place: Place) -> Result<Buffer, Error> {
        let (whole, offset, length) = match place {
            Place::None => return Ok(MutableBuffer::new(0).into()),
            Place::Inline { offset, length } => (self.inline, offset, length),
            Place::Segment { index, offset, length } => (&self.segments[index as usize], offset, length),
        };
        if length == 0 {
            return Ok(MutableBuffer::new(0).into());
        }
        Ok(whole.slice_with_length(native(offset)?, native(length)?))
    }

    /// The buffer at an address that suits its type, without a last piece that is no whole value.
    fn aligned(&mut self, mut buffer: Buffer, spec: Option<&BufferSpec>) -> Buffer {
        let Some(BufferSpec::FixedWidth { byte_width, alignment }) = spec else { return buffer };
        let surplus = buffer.len().checked_rem(*byte_width).unwrap_or(0);
        if surplus > 0 {
            buffer = buffer.slice_with_length(0, buffer.len() - surplus);
        }
        if buffer.as_ptr().align_offset(*alignment) == 0 {
            return buffer;
        }
        self.realigned_bytes += buffer.len() as u64;
        Buffer::from_slice_ref(buffer.as_slice())
    }
}
