//! Arrays to a message. A [`Placer`] decides where each buffer lives; this module decides which bytes are worth placing.
//!
//! A slice of a big array refers to all of its parent's string data or list values. Only the part in use is *live*: where the
//! bytes lie in a segment already they are referred to as they are, and the rest of the buffer may be dropped by whoever owns
//! it; where they must be copied, only that part is, and the offsets are rewritten. Views tell what is live of their data
//! one by one; data of which views use less than a quarter is compacted (the rule Polars has for its own filters).

use std::collections::HashMap;
use std::ops::Range;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, GenericByteViewArray, OffsetSizeTrait, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, ScalarBuffer};
use arrow::datatypes::{BinaryViewType, ByteViewType, DataType, SchemaRef, StringViewType};
use arrow::record_batch::RecordBatch;

use crate::call::{CopyReason, SegmentRef};
use crate::limits::{INLINE_ALIGNMENT_BYTES, VIEWS_USE_MIN, WORTH_KEEPING};
use crate::message::{Batch, Message, Node, Place};
use crate::{Error, Limits, ranges, without_file_metadata};

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

/// Whose segment some bytes lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// An input's: immutable, and published already.
    Input,
    /// This function's own: what is not live of it will be erased before it is published.
    Own,
}

/// Finds or makes a place for the buffers of one table.
pub trait Placer {
    /// Whose segment these bytes lie in, if any.
    fn home(&self, bytes: &[u8]) -> Option<Home>;

    /// Finds or makes a place for a buffer of at least one byte, of which the ranges `live` (sorted, apart) matter. `made` says
    /// why the buffer was made just now, instead of being the table's own.
    ///
    /// # Errors
    /// When it cannot be stored.
    fn place(&mut self, buffer: &Buffer, live: &[Range<usize>], made: Option<CopyReason>) -> Result<Placement, Error>;

    /// Length of a segment it has given out, once everything is placed.
    fn segment_length(&self, id: u64) -> u64;
}

/// Describes a table. Its batches must outlive whatever the placer refers to.
///
/// # Errors
/// [`Error::Mismatch`] or [`Error::Width`] for a batch of another schema, [`Error::Limit`] for a message no reader would take,
/// and what the placer returns.
pub fn describe(schema: &SchemaRef, batches: &[RecordBatch], placer: &mut dyn Placer) -> Result<Message, Error> {
    for batch in batches {
        check(schema, batch)?;
    }
    let batches = || batches.iter().filter(|batch| batch.num_rows() > 0);
    let mut used = Used::default();
    batches().flat_map(RecordBatch::columns).for_each(|column| used.see(&column.to_data(), placer));
    used.0.values_mut().for_each(ranges::merge);

    let mut shelf = Shelf { segments: Vec::new(), inline: Vec::new(), used: &used, placer };
    let mut described = Vec::new();
    for batch in batches() {
        let columns = batch.columns().iter().map(|column| shelf.array(column)).collect::<Result<_, _>>()?;
        described.push(Batch { rows: batch.num_rows() as u64, columns });
    }
    let Shelf { segments, inline, placer, .. } = shelf;
    let limits = Limits::default();
    for (what, found, max) in [
        ("columns", schema.fields().len(), limits.columns_max),
        ("batches", described.len(), limits.batches_max),
        ("segments", segments.len(), limits.segments_max),
    ] {
        if found > max {
            return Err(Error::Limit { what, found: found as u64, max: max as u64 });
        }
    }
    let segments = segments.iter().map(|&id| SegmentRef { id, length: placer.segment_length(id) }).collect();
    Ok(Message { schema: without_file_metadata(schema), segments, batches: described, inline: Buffer::from(inline.as_slice()) })
}

fn check(schema: &SchemaRef, batch: &RecordBatch) -> Result<(), Error> {
    if batch.num_columns() != schema.fields().len() {
        return Err(Error::Width { expected: schema.fields().len(), found: batch.num_columns() });
    }
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
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

/// What all views of a table together use of each data buffer, by the buffer's address and length.
#[derive(Default)]
struct Used(HashMap<(usize, usize), Vec<Range<usize>>>);

impl Used {
    fn see(&mut self, data: &ArrayData, placer: &dyn Placer) {
        match data.data_type() {
            DataType::Utf8View => self.views::<StringViewType>(data, placer),
            DataType::BinaryView => self.views::<BinaryViewType>(data, placer),
            DataType::List(_) | DataType::Map(..) => self.list::<i32>(data, placer),
            DataType::LargeList(_) => self.list::<i64>(data, placer),
            _ => data.child_data().iter().for_each(|child| self.see(child, placer)),
        }
    }

    fn list<O: OffsetSizeTrait>(&mut self, data: &ArrayData, placer: &dyn Placer) {
        let (first, last) = ends::<O>(&data.buffers()[0], data.len(), data.offset());
        self.see(&data.child_data()[0].slice(first, last - first), placer);
    }

    fn views<T: ByteViewType>(&mut self, data: &ArrayData, placer: &dyn Placer) {
        let views = GenericByteViewArray::<T>::from(data.clone());
        if keeps_its_data(&views, placer) {
            return;
        }
        for (buffer, parts) in views.data_buffers().iter().zip(parts(&views)) {
            self.0.entry(key(buffer)).or_default().extend(parts);
        }
    }
}

fn key(buffer: &Buffer) -> (usize, usize) {
    (buffer.as_ptr() as usize, buffer.len())
}

/// Whether these views lie in an input's segment and are so many that the segment is worth keeping for them alone: then what
/// they use was kept when that segment was written, and nobody needs to look at each.
fn keeps_its_data<T: ByteViewType>(views: &GenericByteViewArray<T>, placer: &dyn Placer) -> bool {
    let data: usize = views.data_buffers().iter().map(Buffer::len).sum();
    let own = views.views().inner();
    data == 0 || own.len() >= data / WORTH_KEEPING && placer.home(own.as_slice()) == Some(Home::Input)
}

/// What views use of each of their data buffers, in the order of the views.
fn parts<T: ByteViewType>(views: &GenericByteViewArray<T>) -> Vec<Vec<Range<usize>>> {
    let mut parts = vec![Vec::new(); views.data_buffers().len()];
    for (row, view) in views.views().iter().enumerate() {
        // A view: length, then either 12 bytes, or a prefix, the number of a buffer and an offset (32 bits each).
        let length = (*view & u128::from(u32::MAX)) as usize;
        if length > 12 && views.is_valid(row) {
            let (buffer, offset) = ((*view >> 64) as u32 as usize, (*view >> 96) as usize);
            ranges::push(&mut parts[buffer], offset..offset + length);
        }
    }
    parts
}

/// The message under construction.
struct Shelf<'a> {
    segments: Vec<u64>,
    inline: Vec<u8>,
    used: &'a Used,
    placer: &'a mut dyn Placer,
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

    fn dictionary(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = self.node(data)?;
        node.buffers.push(self.place(&data.buffers()[0])?);
        node.children.push(self.array(&make_array(data.child_data()[0].clone()))?);
        Ok(node)
    }

    fn bytes<O: OffsetSizeTrait>(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = self.node(data)?;
        let [offsets, values] = data.buffers() else { unreachable!("strings have two buffers") };
        let (first, last) = ends::<O>(offsets, data.len(), 0);
        let up_to_last = values.slice_with_length(0, last);
        if first == 0 || self.home(&up_to_last).is_some() {
            let live = [first..last];
            node.buffers = vec![self.place(offsets)?, self.place_parts(&up_to_last, &live, None)?];
        } else {
            let used = values.slice_with_length(first, last - first);
            node.buffers = vec![self.place_made(&rebase::<O>(offsets, data.len()), CopyReason::Rebased)?, self.place(&used)?];
        }
        Ok(node)
    }

    fn list<O: OffsetSizeTrait>(&mut self, data: &ArrayData) -> Result<Node, Error> {
        let mut node = self.node(data)?;
        let (offsets, values) = (&data.buffers()[0], &data.child_data()[0]);
        let (first, last) = ends::<O>(offsets, data.len(), 0);
        if self.lies_in_input(values) {
            node.buffers.push(self.place(offsets)?);
            node.children.push(self.array(&make_array(values.clone()))?);
            return Ok(node);
        }
        node.buffers.push(match first {
            0 => self.place(offsets)?,
            _ => self.place_made(&rebase::<O>(offsets, data.len()), CopyReason::Rebased)?,
        });
        node.children.push(self.array(&make_array(values.clone()).slice(first, last - first))?);
        Ok(node)
    }

    fn views<T: ByteViewType>(&mut self, array: &ArrayRef) -> Result<Node, Error> {
        let views = array.as_byte_view::<T>();
        if keeps_its_data(views, self.placer) {
            return self.plain(&views.to_data());
        }
        let (used, buffers) = (self.used, views.data_buffers());
        // Values of a dictionary that no key refers to are no rows; they are met here first.
        let is_known = buffers.iter().all(|buffer| used.0.contains_key(&key(buffer)));
        let fresh = if is_known { Vec::new() } else { merged(parts(views)) };
        let live = |(n, buffer): (usize, &Buffer)| used.0.get(&key(buffer)).unwrap_or_else(|| &fresh[n]).as_slice();
        let live: Vec<&[Range<usize>]> = buffers.iter().enumerate().map(live).collect();
        let (mut whole, mut in_use, mut in_input) = (0, 0, false);
        for (buffer, live) in views.data_buffers().iter().zip(&live) {
            in_input |= self.home(buffer) == Some(Home::Input);
            whole += buffer.len();
            in_use += ranges::total(live);
        }
        if !in_input && whole > VIEWS_USE_MIN && in_use < whole / 4 {
            return self.compacted(&views.gc());
        }
        let data = views.to_data();
        let mut node = self.node(&data)?;
        node.buffers.push(self.place(&data.buffers()[0])?);
        for (buffer, live) in data.buffers()[1..].iter().zip(live) {
            node.buffers.push(self.place_parts(buffer, live, None)?);
        }
        Ok(node)
    }

    fn compacted<T: ByteViewType>(&mut self, views: &GenericByteViewArray<T>) -> Result<Node, Error> {
        let data = views.to_data();
        let mut node = self.node(&data)?;
        for buffer in data.buffers() {
            node.buffers.push(self.place_made(buffer, CopyReason::Compacted)?);
        }
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
        self.place_parts(buffer, &[0..buffer.len()], None)
    }

    /// Places a buffer that is not the table's own, but was made for the message.
    fn place_made(&mut self, buffer: &Buffer, why: CopyReason) -> Result<Place, Error> {
        self.place_parts(buffer, &[0..buffer.len()], Some(why))
    }

    fn place_parts(&mut self, buffer: &Buffer, live: &[Range<usize>], made: Option<CopyReason>) -> Result<Place, Error> {
        let length = buffer.len() as u64;
        if length == 0 {
            return Ok(Place::Inline { offset: 0, length });
        }
        match self.placer.place(buffer, live, made)? {
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

    fn home(&self, buffer: &Buffer) -> Option<Home> {
        if buffer.is_empty() { None } else { self.placer.home(buffer.as_slice()) }
    }

    /// Whether some buffer of the array or its children lies in an input's segment.
    fn lies_in_input(&self, data: &ArrayData) -> bool {
        data.buffers().iter().any(|buffer| self.home(buffer) == Some(Home::Input))
            || data.child_data().iter().any(|child| self.lies_in_input(child))
    }
}

fn merged(mut parts: Vec<Vec<Range<usize>>>) -> Vec<Vec<Range<usize>>> {
    parts.iter_mut().for_each(ranges::merge);
    parts
}

/// The bytes that hold the bits, and the number of the first bit in them.
fn whole_bytes(bits: &BooleanBuffer) -> (Buffer, u8) {
    let (start, shift) = (bits.offset() / 8, bits.offset() % 8);
    let bytes = (shift + bits.len()).div_ceil(8);
    (bits.inner().slice_with_length(start, bytes), u8::try_from(shift).expect("below 8"))
}

/// First and last of `length + 1` offsets, from the one numbered `from`. An empty array may come without any.
fn ends<O: OffsetSizeTrait>(offsets: &Buffer, length: usize, from: usize) -> (usize, usize) {
    let offsets: &[O] = offsets.typed_data();
    match (offsets.get(from), offsets.get(from + length)) {
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
