//! Arrays to a message. A [`Placer`] decides where each buffer lives; this module decides which bytes are worth placing.
//!
//! A slice of a big array refers to all of its parent's string data or list values. When those bytes must be copied anyway,
//! only the part in use is copied and the offsets are rewritten; when they already lie in a segment they are referred to as
//! they are. Views that use less than half of their data are compacted first.

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, OffsetSizeTrait, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, SchemaRef, StringViewType};
use arrow::record_batch::RecordBatch;

use crate::call::SegmentRef;
use crate::limits::INLINE_ALIGNMENT_BYTES;
use crate::message::{Batch, Message, Node, Place};
use crate::{Error, Limits, without_file_metadata};

/// Where a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Put it into the message.
    Inline,
    /// It is in this segment at this offset, or will be before the message is sent.
    Segment {
        /// Identity of the segment.
        id: u64,
        /// Bytes before it.
        offset: u64,
    },
}

/// How long the memory of a buffer stays what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Until [`Placer::end_batch`].
    Batch,
    /// Other batches may refer to the same buffer: worth remembering (and keeping alive) until the table is described.
    Table,
}

/// Finds or makes a place for the buffers of one table.
pub trait Placer {
    /// Where these bytes already are, if they lie in a segment.
    fn find(&self, bytes: &[u8]) -> Option<Placement>;

    /// Finds or makes a place for a buffer of at least one byte.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn place(&mut self, buffer: &Buffer, life: Life) -> Result<Placement, Error>;

    /// Length of a segment it has given out, once everything is placed.
    fn segment_length(&self, id: u64) -> u64;

    /// All buffers of a batch have been placed; their memory may be freed and used again.
    fn end_batch(&mut self) {}
}

/// Describes a table that is there as a whole. See [`Describer`] for one that comes batch by batch.
///
/// # Errors
/// [`Error::Mismatch`] or [`Error::Width`] for a batch of another schema, and what the placer returns.
pub fn describe(schema: &SchemaRef, batches: &[RecordBatch], placer: &mut dyn Placer) -> Result<Message, Error> {
    let mut describer = Describer::new(schema);
    for batch in batches {
        describer.push(batch, placer)?;
    }
    describer.finish(placer)
}

/// Describes a table batch by batch: a pushed batch may be dropped at once.
#[derive(Debug)]
pub struct Describer {
    schema: SchemaRef,
    segments: Vec<u64>,
    batches: Vec<Batch>,
    inline: Vec<u8>,
}

impl Describer {
    /// A table of this schema and no rows. File-bound field metadata (`PARQUET:field_id`) is left out.
    #[must_use]
    pub fn new(schema: &SchemaRef) -> Self {
        Self { schema: without_file_metadata(schema), segments: Vec::new(), batches: Vec::new(), inline: Vec::new() }
    }

    /// Adds the rows of `batch`. A batch without rows adds nothing.
    ///
    /// # Errors
    /// [`Error::Mismatch`] or [`Error::Width`] for a batch of another schema, and what the placer returns.
    pub fn push(&mut self, batch: &RecordBatch, placer: &mut dyn Placer) -> Result<(), Error> {
        self.check(batch)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut columns = Vec::with_capacity(batch.num_columns());
        for column in batch.columns() {
            let mut shelf = Shelf { segments: &mut self.segments, inline: &mut self.inline, placer, life: Life::Batch };
            columns.push(shelf.array(column)?);
        }
        placer.end_batch();
        self.batches.push(Batch { rows: batch.num_rows() as u64, columns });
        Ok(())
    }

    /// The message.
    ///
    /// # Errors
    /// [`Error::Limit`] if no reader would take it.
    pub fn finish(self, placer: &dyn Placer) -> Result<Message, Error> {
        let limits = Limits::default();
        for (what, found, max) in [
            ("columns", self.schema.fields().len(), limits.columns_max),
            ("batches", self.batches.len(), limits.batches_max),
            ("segments", self.segments.len(), limits.segments_max),
        ] {
            if found > max {
                return Err(Error::Limit { what, found: found as u64, max: max as u64 });
            }
        }
        let segments = self.segments.iter().map(|&id| SegmentRef { id, length: placer.segment_length(id) }).collect();
        Ok(Message { schema: self.schema, segments, batches: self.batches, inline: Buffer::from(self.inline.as_slice()) })
    }

    fn check(&self, batch: &RecordBatch) -> Result<(), Error> {
        if batch.num_columns() != self.schema.fields().len() {
            return Err(Error::Width { expected: self.schema.fields().len(), found: batch.num_columns() });
        }
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            if !field.data_type().equals_datatype(column.data_type()) {
                return Err(Error::Mismatch {
                    column: field.name().clone(),
                    expected: field.data_type().clone(),
                    found: column.data_type().clone(),
                });
            }
        }
        Ok(())
    }
}

/// The message under construction, while the arrays of one column are put on it.
struct Shelf<'a> {
    segments: &'a mut Vec<u64>,
    inline: &'a mut Vec<u8>,
    placer: &'a mut dyn Placer,
    life: Life,
}

impl Shelf<'_> {
    fn array(&mut self, array: &ArrayRef) -> Result<Node, Error> {
        match array.data_type() {
            DataType::Utf8 | DataType::Binary => self.bytes::<i32>(&array.to_data()),
            DataType::LargeUtf8 | DataType::LargeBinary => self.bytes::<i64>(&array.to_data()),
            DataType::List(_) | DataType::Map(..) => self.list::<i32>(&array.to_data()),
            DataType::LargeList(_) => self.list::<i64>(&array.to_data()),
            DataType::Utf8View => self.views::<StringViewType>(array),
            DataType::BinaryView => self.views::<BinaryViewType>(array),
            DataType::Boolean => self.boolean(array),
            DataType::Dictionary(..) => self.dictionary(&array.to_data()),
            _ => self.plain(&array.to_data()),
        }
    }

    /// Any array: its buffers as they are, its children in turn.
    fn plain(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = self.node(data)?;
        node.offset = data.offset() as u64;
        for buffer in data.buffers() {
            node.buffers.push(self.place(buffer)?);
        }
        for child in data.child_data() {
            node.children.push(self.array(&make_array(child.clone()))?);
        }
        Ok(node)
    }

    /// Booleans begin at any bit; whole bytes before the first are left out.
    fn boolean(&mut self, array: &ArrayRef) -> Result<Node, Error> {
        let mut node = self.node(&array.to_data())?;
        let (bits, shift) = whole_bytes(array.as_boolean().values());
        node.offset = u64::from(shift);
        node.buffers.push(self.place(&bits)?);
        Ok(node)
    }

    /// Values of a dictionary are shared by many batches as a rule.
    fn dictionary(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = self.node(data)?;
        node.buffers.push(self.place(&data.buffers()[0])?);
        let before = std::mem::replace(&mut self.life, Life::Table);
        let values = self.array(&make_array(data.child_data()[0].clone()));
        self.life = before;
        node.children.push(values?);
        Ok(node)
    }

    fn bytes<O: OffsetSizeTrait>(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = self.node(data)?;
        let [offsets, values] = data.buffers() else { unreachable!("strings have two buffers") };
        let (first, last) = ends::<O>(offsets, data.len());
        let used = values.slice_with_length(first, last - first);
        let up_to_last = values.slice_with_length(0, last);
        if first == 0 || self.is_shared(&up_to_last) && self.is_shared(&used) {
            node.buffers = vec![self.place(offsets)?, self.place(&up_to_last)?];
        } else {
            node.buffers = vec![self.place(&rebase::<O>(offsets, data.len()))?, self.place(&used)?];
        }
        Ok(node)
    }

    fn list<O: OffsetSizeTrait>(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = self.node(data)?;
        let (offsets, values) = (&data.buffers()[0], make_array(data.child_data()[0].clone()));
        let (first, last) = ends::<O>(offsets, data.len());
        if self.lies_in_segment(&values.to_data()) {
            node.buffers.push(self.place(offsets)?);
            node.children.push(self.array(&values)?);
        } else {
            let offsets = if first == 0 { offsets.clone() } else { rebase::<O>(offsets, data.len()) };
            node.buffers.push(self.place(&offsets)?);
            node.children.push(self.array(&values.slice(first, last - first))?);
        }
        Ok(node)
    }

    fn views<T: ByteViewType>(&mut self, array: &ArrayRef) -> Result<Node, Error> {
        let views = array.as_byte_view::<T>();
        let foreign: usize = views.data_buffers().iter().filter(|b| !self.is_shared(b)).map(Buffer::len).sum();
        let in_segment = self.is_shared(views.views().inner()) || views.data_buffers().iter().any(|b| self.is_shared(b));
        let compact = !in_segment && foreign > 4096 && foreign / 2 > views.total_buffer_bytes_used();
        let data = if compact { views.gc().into_data() } else { views.to_data() };

        let mut node = self.node(&data)?;
        node.buffers.push(self.place(&data.buffers()[0])?);
        let life = if compact { Life::Batch } else { Life::Table };
        let before = std::mem::replace(&mut self.life, life);
        let placed = data.buffers()[1..].iter().map(|buffer| self.place(buffer)).collect::<Result<Vec<_>, _>>();
        self.life = before;
        node.buffers.extend(placed?);
        Ok(node)
    }

    /// The node of an array, with its validity and nothing else.
    fn node(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = Node {
            length: data.len() as u64,
            null_count: data.null_count() as u64,
            offset: 0,
            validity_shift: 0,
            validity: Place::None,
            buffers: Vec::new(),
            children: Vec::new(),
        };
        if let Some(nulls) = data.nulls().filter(|nulls| nulls.null_count() > 0) {
            let (bits, shift) = whole_bytes(nulls.inner());
            node.validity = self.place(&bits)?;
            node.validity_shift = shift;
        }
        Ok(node)
    }

    fn place(&mut self, buffer: &Buffer) -> Result<Place, Error> {
        let length = buffer.len() as u64;
        if length == 0 {
            return Ok(Place::Inline { offset: 0, length });
        }
        match self.placer.place(buffer, self.life)? {
            Placement::Inline => {
                let offset = self.inline.len() as u64;
                self.inline.extend_from_slice(buffer.as_slice());
                self.inline.resize(self.inline.len().next_multiple_of(INLINE_ALIGNMENT_BYTES), 0);
                Ok(Place::Inline { offset, length })
            }
            Placement::Segment { id, offset } => Ok(Place::Segment { index: self.segment(id), offset, length }),
        }
    }

    fn segment(&mut self, id: u64) -> u32 {
        let position = self.segments.iter().rposition(|&known| known == id).unwrap_or_else(|| {
            self.segments.push(id);
            self.segments.len() - 1
        });
        u32::try_from(position).expect("fewer segments than file descriptors")
    }

    fn is_shared(&self, buffer: &Buffer) -> bool {
        !buffer.is_empty() && self.placer.find(buffer.as_slice()).is_some()
    }

    /// Whether some buffer of the array or its children lies in a segment already.
    fn lies_in_segment(&self, data: &ArrayData) -> bool {
        data.buffers().iter().any(|buffer| self.is_shared(buffer)) || data.child_data().iter().any(|c| self.lies_in_segment(c))
    }
}

/// The bytes that hold the bits, and the number of the first bit in them.
fn whole_bytes(bits: &BooleanBuffer) -> (Buffer, u8) {
    let (start, shift) = (bits.offset() / 8, bits.offset() % 8);
    let bytes = (shift + bits.len()).div_ceil(8);
    (bits.inner().slice_with_length(start, bytes), u8::try_from(shift).expect("below 8"))
}

/// First and last of `length + 1` offsets. An empty array may come without any.
fn ends<O: OffsetSizeTrait>(offsets: &Buffer, length: usize) -> (usize, usize) {
    let offsets: &[O] = offsets.typed_data();
    match (offsets.first(), offsets.get(length)) {
        (Some(first), Some(last)) => (first.as_usize(), last.as_usize()),
        _ => (0, 0),
    }
}

/// The offsets of an array whose values begin at its first element.
fn rebase<O: OffsetSizeTrait>(offsets: &Buffer, length: usize) -> Buffer {
    let offsets: &[O] = &offsets.typed_data()[..=length];
    let first = offsets[0];
    let rebased: Vec<O> = offsets.iter().map(|&offset| offset - first).collect();
    ScalarBuffer::from(rebased).into_inner()
}
