//! Message to bytes. The layout is drawn in the crate's header.

use crate::limits::{HEADER_BYTES, INLINE_ALIGNMENT_BYTES};
use crate::message::{Message, Node, Place};
use crate::{MAGIC, PLACE_INLINE, PLACE_NONE, VERSION, schema};

impl Message {
    /// The message as bytes. Inline bytes that no array refers to any more are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer { tree: Vec::new(), inline: Vec::new(), source: self.inline.as_slice() };
        for batch in &self.batches {
            writer.tree.extend_from_slice(&batch.rows.to_le_bytes());
            batch.columns.iter().for_each(|node| writer.node(node));
        }
        let schema = schema::encode(&self.schema);
        let total = HEADER_BYTES + self.segments.len() * 16 + schema.len() + writer.tree.len() + writer.inline.len();

        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&(total as u64).to_le_bytes());
        for count in [self.segments.len(), self.schema.fields().len(), self.batches.len(), schema.len()] {
            bytes.extend_from_slice(&count_u32(count));
        }
        for length in [self.rows(), writer.tree.len() as u64, writer.inline.len() as u64] {
            bytes.extend_from_slice(&length.to_le_bytes());
        }
        for segment in &self.segments {
            bytes.extend_from_slice(&segment.id.to_le_bytes());
            bytes.extend_from_slice(&segment.length.to_le_bytes());
        }
        for part in [&schema, &writer.tree, &writer.inline] {
            bytes.extend_from_slice(part);
        }
        debug_assert_eq!(bytes.len(), total);
        bytes
    }
}

fn count_u32(count: usize) -> [u8; 4] {
    u32::try_from(count).expect("counts of a message in memory are below the limits, which fit 32 bits").to_le_bytes()
}

struct Writer<'a> {
    tree: Vec<u8>,
    inline: Vec<u8>,
    source: &'a [u8],
}

impl Writer<'_> {
    fn node(&mut self, node: &Node) {
        for number in [node.length, node.null_count, node.offset] {
            self.tree.extend_from_slice(&number.to_le_bytes());
        }
        self.tree.extend_from_slice(&[node.validity_shift, 0, 0, 0]);
        self.tree.extend_from_slice(&count_u32(node.buffers.len()));
        self.tree.extend_from_slice(&count_u32(node.children.len()));
        self.tree.extend_from_slice(&[0; 4]);
        self.place(node.validity);
        node.buffers.iter().for_each(|place| self.place(*place));
        node.children.iter().for_each(|child| self.node(child));
    }

    fn place(&mut self, place: Place) {
        let (tag, offset, length) = match place {
            Place::None => (PLACE_NONE, 0, 0),
            Place::Segment { index, offset, length } => (index, offset, length),
            Place::Inline { offset, length } => {
                let at = self.inline.len();
                let start = usize::try_from(offset).expect("inline places lie inside the inline bytes");
                let end = start + usize::try_from(length).expect("inline places lie inside the inline bytes");
                self.inline.extend_from_slice(&self.source[start..end]);
                self.inline.resize(self.inline.len().next_multiple_of(INLINE_ALIGNMENT_BYTES), 0);
                (PLACE_INLINE, at as u64, length)
            }
        };
        self.tree.extend_from_slice(&tag.to_le_bytes());
        self.tree.extend_from_slice(&[0; 4]);
        self.tree.extend_from_slice(&offset.to_le_bytes());
        self.tree.extend_from_slice(&length.to_le_bytes());
    }
}
