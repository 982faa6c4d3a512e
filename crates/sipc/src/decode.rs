//! Hostile bytes to a checked message.
//!
//! Every length is compared with the bytes that are left before anything is allocated for it, so a message costs a small
//! multiple of its own length. What is checked here: structure, bounds, bitmaps' lengths, children and buffers per type. What
//! is checked when arrays are made: lengths of data buffers, alignment. The values themselves are only checked on request.

use arrow::array::layout;
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, SchemaRef};

use crate::call::SegmentRef;
use crate::limits::{BUFFER_BYTES, HEADER_BYTES, NODE_BYTES, SEGMENT_BYTES};
use crate::message::{Batch, Message, Node, Place};
use crate::{Error, Limits, MAGIC, PLACE_INLINE, PLACE_NONE, VERSION, schema};

impl Message {
    /// Reads a message that another process sent.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Version`] or [`Error::Limit`].
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, Error> {
        let header = Header::read(bytes, limits)?;
        let mut rest = Bytes(&bytes[HEADER_BYTES..]);
        let segments = rest.segments(header.segments)?;
        let schema = schema::decode(rest.take(header.schema_bytes)?, limits)?;
        if schema.fields().len() != header.columns {
            return Err(damaged("its schema has another number of columns than its header says"));
        }
        let mut tree = Bytes(rest.take(header.tree_bytes)?);
        let inline = rest.take(header.inline_bytes)?;
        if !rest.0.is_empty() {
            return Err(damaged("there are bytes behind its end"));
        }
        let bounds = Bounds { segments: &segments, inline_bytes: inline.len() as u64, limits };
        let batches = tree.batches(header.batches, &schema, &bounds)?;
        if !tree.0.is_empty() {
            return Err(damaged("there are bytes behind its last batch"));
        }
        let inline = Buffer::from(inline);
        let message = Self { schema, segments, batches, inline };
        if message.batches.iter().try_fold(0_u64, |sum, batch| sum.checked_add(batch.rows)) != Some(header.rows) {
            return Err(damaged("its batches do not add up to its rows"));
        }
        Ok(message)
    }
}

fn damaged(why: &str) -> Error {
    Error::Damaged(why.to_owned())
}

fn within(what: &'static str, found: usize, max: usize) -> Result<(), Error> {
    if found > max { Err(Error::Limit { what, found: found as u64, max: max as u64 }) } else { Ok(()) }
}

struct Header {
    segments: usize,
    columns: usize,
    batches: usize,
    schema_bytes: usize,
    rows: u64,
    tree_bytes: usize,
    inline_bytes: usize,
}

impl Header {
    fn read(bytes: &[u8], limits: &Limits) -> Result<Self, Error> {
        within("bytes of a message", bytes.len(), limits.message_bytes_max)?;
        if bytes.len() < HEADER_BYTES || bytes[..4] != MAGIC {
            return Err(damaged("it does not begin like one"));
        }
        let mut rest = Bytes(&bytes[4..]);
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        rest.take(4)?;
        if version != VERSION {
            return Err(Error::Version { found: version, known: VERSION });
        }
        if rest.u64()? != bytes.len() as u64 || bytes[6..8] != [0; 2] {
            return Err(damaged("its length is not what it says"));
        }
        let (segments, columns, batches, schema_bytes) = (rest.count()?, rest.count()?, rest.count()?, rest.count()?);
        let rows = rest.u64()?;
        let (tree_bytes, inline_bytes) = (rest.length()?, rest.length()?);
        within("segments", segments, limits.segments_max)?;
        within("columns", columns, limits.columns_max)?;
        within("batches", batches, limits.batches_max)?;
        Ok(Self { segments, columns, batches, schema_bytes, rows, tree_bytes, inline_bytes })
    }
}

/// What the places of a tree may refer to.
struct Bounds<'a> {
    segments: &'a [SegmentRef],
    inline_bytes: u64,
    limits: &'a Limits,
}

impl Bounds<'_> {
    fn place(&self, tag: u32, offset: u64, length: u64) -> Result<Place, Error> {
        let end = offset.checked_add(length).ok_or_else(|| damaged("a buffer's end overflows"))?;
        match tag {
            PLACE_NONE if end == 0 => Ok(Place::None),
            PLACE_INLINE if end <= self.inline_bytes => Ok(Place::Inline { offset, length }),
            PLACE_NONE | PLACE_INLINE => Err(damaged("an inline buffer lies outside the message")),
            index => match self.segments.get(index as usize) {
                Some(segment) if end <= segment.length => Ok(Place::Segment { index, offset, length }),
                Some(_) => Err(damaged("a buffer lies outside its segment")),
                None => Err(damaged("a buffer lies in an undeclared segment")),
            },
        }
    }
}

/// A reader over the bytes that are left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.0.split_at_checked(count).ok_or_else(|| damaged("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as asked for"))
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> Result<usize, Error> {
        Ok(self.u32()? as usize)
    }

    fn length(&mut self) -> Result<usize, Error> {
        usize::try_from(self.u64()?).map_err(|_| damaged("a length does not fit this machine"))
    }

    /// Fails unless `count` things of at least `bytes` each can still follow.
    fn expect(&self, count: usize, bytes: usize) -> Result<(), Error> {
        match count.checked_mul(bytes) {
            Some(needed) if needed <= self.0.len() => Ok(()),
            _ => Err(damaged("it ends too early")),
        }
    }

    fn segments(&mut self, count: usize) -> Result<Vec<SegmentRef>, Error> {
        self.expect(count, SEGMENT_BYTES)?;
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            segments.push(SegmentRef { id: self.u64()?, length: self.u64()? });
        }
        let mut ids: Vec<u64> = segments.iter().map(|segment| segment.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(damaged("it declares a segment twice"));
        }
        Ok(segments)
    }

    fn batches(&mut self, count: usize, schema: &SchemaRef, bounds: &Bounds<'_>) -> Result<Vec<Batch>, Error> {
        self.expect(count, 8)?;
        let mut batches = Vec::with_capacity(count);
        for _ in 0..count {
            let rows = self.u64()?;
            if rows > bounds.limits.rows_max {
                return Err(Error::Limit { what: "rows of a batch", found: rows, max: bounds.limits.rows_max });
            }
            self.expect(schema.fields().len(), NODE_BYTES + BUFFER_BYTES)?;
            let mut columns = Vec::with_capacity(schema.fields().len());
            for field in schema.fields() {
                let node = self.node(field.data_type(), bounds, bounds.limits.depth_max)?;
                if node.length != rows {
                    return Err(damaged("a column has another length than its batch"));
                }
                columns.push(node);
            }
            batches.push(Batch { rows, columns });
        }
        Ok(batches)
    }

    fn node(&mut self, data_type: &DataType, bounds: &Bounds<'_>, depth: usize) -> Result<Node, Error> {
        let depth = depth.checked_sub(1).ok_or_else(|| damaged("its arrays nest too deeply"))?;
        let (length, null_count, offset) = (self.u64()?, self.u64()?, self.u64()?);
        let [validity_shift, reserved @ ..] = self.array::<4>()?;
        let (buffer_count, child_count) = (self.count()?, self.count()?);
        if self.u32()? != 0 || reserved != [0; 3] {
            return Err(damaged("reserved bytes are in use"));
        }
        let max = bounds.limits.rows_max;
        if length > max || offset > max {
            return Err(Error::Limit { what: "elements of an array", found: length.max(offset), max });
        }
        let child_types = child_types(data_type);
        if child_count != child_types.len() {
            return Err(damaged("an array has another number of children than its type"));
        }
        let validity = self.place(bounds)?;
        self.expect(buffer_count, BUFFER_BYTES)?;
        let buffers = (0..buffer_count).map(|_| self.place(bounds)).collect::<Result<Vec<_>, _>>()?;
        self.expect(child_count, NODE_BYTES + BUFFER_BYTES)?;
        let children = child_types.iter().map(|child| self.node(child, bounds, depth)).collect::<Result<Vec<_>, _>>()?;
        let node = Node { length, null_count, offset, validity_shift, validity, buffers, children };
        check_node(&node, data_type)?;
        Ok(node)
    }

    fn place(&mut self, bounds: &Bounds<'_>) -> Result<Place, Error> {
        let (tag, reserved, offset, length) = (self.u32()?, self.u32()?, self.u64()?, self.u64()?);
        if reserved != 0 {
            return Err(damaged("reserved bytes are in use"));
        }
        bounds.place(tag, offset, length)
    }
}

/// Types of an array's children, in order.
pub(crate) fn child_types(data_type: &DataType) -> Vec<&DataType> {
    match data_type {
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
        | DataType::Map(f, _) => vec![f.data_type()],
        DataType::Struct(fields) => fields.iter().map(|f| f.data_type()).collect(),
        DataType::Union(fields, _) => fields.iter().map(|(_, f)| f.data_type()).collect(),
        DataType::RunEndEncoded(ends, values) => vec![ends.data_type(), values.data_type()],
        DataType::Dictionary(_, values) => vec![values],
        _ => Vec::new(),
    }
}

fn check_node(node: &Node, data_type: &DataType) -> Result<(), Error> {
    let layout = layout(data_type);
    let too_few = node.buffers.len() < layout.buffers.len();
    if too_few || (!layout.variadic && node.buffers.len() > layout.buffers.len()) {
        return Err(damaged("an array has another number of buffers than its type"));
    }
    if node.buffers.contains(&Place::None) {
        return Err(damaged("an array lacks a data buffer"));
    }
    let bits = match data_type {
        DataType::Boolean => 8,
        DataType::RunEndEncoded(..) => u64::MAX,
        _ => 1,
    };
    if node.offset >= bits || node.validity_shift >= 8 {
        return Err(damaged("an array begins inside a buffer whose type does not allow it"));
    }
    check_validity(node, layout.can_contain_null_mask)?;
    check_sizes(node, data_type)
}

fn check_validity(node: &Node, nullable: bool) -> Result<(), Error> {
    let present = node.validity != Place::None;
    let honest = if present { nullable && node.null_count <= node.length } else { node.null_count == 0 };
    if !honest || (!present && node.validity_shift != 0) {
        return Err(damaged("an array's nulls contradict its type"));
    }
    if present && node.validity.length() < bytes_of_bits(u64::from(node.validity_shift), node.length) {
        return Err(damaged("a validity bitmap is too short"));
    }
    Ok(())
}

/// Sizes that later code computes with before it checks them.
fn check_sizes(node: &Node, data_type: &DataType) -> Result<(), Error> {
    match data_type {
        DataType::Boolean if node.buffers[0].length() < bytes_of_bits(node.offset, node.length) => {
            Err(damaged("a boolean buffer is too short"))
        }
        DataType::FixedSizeList(_, size) => {
            let needed = u64::try_from(*size).ok().and_then(|size| size.checked_mul(node.length));
            match needed {
                Some(needed) if needed <= node.children[0].length => Ok(()),
                _ => Err(damaged("a fixed-size list is longer than its values")),
            }
        }
        DataType::Struct(_) if node.children.iter().any(|child| child.length != node.length) => {
            Err(damaged("a struct's child has another length"))
        }
        _ => Ok(()),
    }
}

/// Bytes that hold `length` bits after the first `shift`; both are below the row limit, so nothing overflows.
fn bytes_of_bits(shift: u64, length: u64) -> u64 {
    (shift + length).div_ceil(8)
}
