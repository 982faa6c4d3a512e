//! A table as a value: schema, segments, and per batch the array tree of each column. No bytes of data but the inline ones.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};

use crate::Error;
use crate::call::SegmentRef;

/// A described table. Cheap to project and to send on; [`crate::Message::rebuild`] makes arrays of it.
///
/// Invariant: every place lies inside its segment or the inline bytes, and every node has the children its type wants.
#[derive(Debug, Clone)]
pub struct Message {
    pub(crate) schema: SchemaRef,
    pub(crate) segments: Vec<SegmentRef>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) inline: Buffer,
}

/// Some rows of every column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Batch {
    pub rows: u64,
    pub columns: Vec<Node>,
}

/// One array, as `arrow::array::ArrayData` sees it; a dictionary's values are its only child.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Elements.
    pub length: u64,
    /// Nulls among them, as its writer counted.
    pub null_count: u64,
    /// Elements (bits) before the first; only booleans and run-end arrays have any.
    pub offset: u64,
    /// Bits before the first in the validity buffer, below 8.
    pub validity_shift: u8,
    /// The validity bitmap.
    pub validity: Place,
    /// Data buffers in Arrow's order; views append their variadic buffers.
    pub buffers: Vec<Place>,
    /// Child arrays in the type's order.
    pub children: Vec<Node>,
}

/// Where a buffer's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// There is no such buffer.
    None,
    /// In the message's inline bytes.
    Inline { offset: u64, length: u64 },
    /// In the segment with this index in the message's table.
    Segment { index: u32, offset: u64, length: u64 },
}

impl Place {
    pub(crate) fn length(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Inline { length, .. } | Self::Segment { length, .. } => length,
        }
    }
}

impl Node {
    /// All places of the node and its descendants.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(Place)) {
        see(self.validity);
        self.buffers.iter().for_each(|place| see(*place));
        self.children.iter().for_each(|child| child.visit(see));
    }

    /// The same tree with every place replaced.
    pub(crate) fn map(&self, replace: &mut dyn FnMut(Place) -> Place) -> Self {
        Self {
            validity: replace(self.validity),
            buffers: self.buffers.iter().map(|place| replace(*place)).collect(),
            children: self.children.iter().map(|child| child.map(replace)).collect(),
            ..*self
        }
    }
}

impl Message {
    /// The table's schema.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of the table.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.rows).sum()
    }

    /// Number of record batches.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// The segments the table lies in: what a reader must hold.
    #[must_use]
    pub fn segments(&self) -> &[SegmentRef] {
        &self.segments
    }

    /// Bytes of each column's buffers. A buffer that several batches or columns refer to counts each time.
    #[must_use]
    pub fn column_bytes(&self) -> Vec<u64> {
        let mut bytes = vec![0_u64; self.schema.fields().len()];
        for batch in &self.batches {
            for (sum, node) in bytes.iter_mut().zip(&batch.columns) {
                node.visit(&mut |place| *sum = sum.saturating_add(place.length()));
            }
        }
        bytes
    }

    /// The table with only these columns, in this order. Copies no data, and needs only the segments it still refers to.
    ///
    /// # Errors
    /// [`Error::Column`] if a name is not there. Of several columns with one name the first is taken.
    pub fn project(&self, names: &[impl AsRef<str>]) -> Result<Self, Error> {
        let mut positions = HashMap::new();
        for (position, field) in self.schema.fields().iter().enumerate() {
            positions.entry(field.name().as_str()).or_insert(position);
        }
        let picked = names
            .iter()
            .map(|name| {
                positions.get(name.as_ref()).copied().ok_or_else(|| Error::Column {
                    name: name.as_ref().to_owned(),
                    columns: self.schema.fields().iter().map(|field| field.name().clone()).collect(),
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let fields: Vec<_> = picked.iter().map(|&p| Arc::clone(&self.schema.fields()[p])).collect();
        let batches = self
            .batches
            .iter()
            .map(|batch| Batch { rows: batch.rows, columns: picked.iter().map(|&p| batch.columns[p].clone()).collect() })
            .collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, self.schema.metadata().clone()));
        Ok(Self { schema, segments: self.segments.clone(), batches, inline: self.inline.clone() }.without_unused_segments())
    }

    fn without_unused_segments(mut self) -> Self {
        let mut used = vec![false; self.segments.len()];
        let mut see = |place| {
            if let Place::Segment { index, .. } = place {
                used[index as usize] = true;
            }
        };
        self.batches.iter().flat_map(|batch| &batch.columns).for_each(|node| node.visit(&mut see));
        let mut next = 0;
        let renumbered: Vec<u32> = used
            .iter()
            .map(|&used| {
                if used {
                    next += 1;
                    next - 1
                } else {
                    u32::MAX
                }
            })
            .collect();
        for node in self.batches.iter_mut().flat_map(|batch| &mut batch.columns) {
            *node = node.map(&mut |place| match place {
                Place::Segment { index, offset, length } => Place::Segment { index: renumbered[index as usize], offset, length },
                other => other,
            });
        }
        let mut keep = used.iter();
        self.segments.retain(|_| *keep.next().expect("one flag per segment"));
        self
    }
}
