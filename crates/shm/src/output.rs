//! A function's output: each buffer is reshared, put into the message, or copied once into the function's own segment.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrow::buffer::Buffer;
use forebay_sipc::call::Bytes;
use forebay_sipc::limits::{INLINE_BUFFER_BYTES_MAX, INLINE_TOTAL_BYTES_MAX};
use forebay_sipc::{Life, Placement, Placer};

use crate::{Error, Inputs, SegmentWriter};

/// Places the buffers of one table and counts their bytes. A buffer that is referred to several times counts once.
#[derive(Debug)]
pub struct Output {
    id: u64,
    inputs: Arc<Inputs>,
    writer: SegmentWriter,
    bytes: Bytes,
    /// Copies of this batch's buffers, by address and length of the original.
    of_batch: HashMap<(usize, usize), u64>,
    /// The same for buffers that later batches may refer to; each is kept, so that its address stays its own.
    of_table: HashMap<(usize, usize), (u64, Buffer)>,
    reshared: HashSet<(u64, u64, usize)>,
}

/// What an output came to.
#[derive(Debug)]
pub struct Written {
    /// The new segment and its length in bytes; `None` if nothing had to be copied.
    pub segment: Option<(OwnedFd, u64)>,
    /// Bytes by how they got into the message.
    pub bytes: Bytes,
}

impl Output {
    /// An output whose new bytes go into a segment with this identity.
    #[must_use]
    pub fn new(id: u64, inputs: Arc<Inputs>) -> Self {
        Self {
            id,
            inputs,
            writer: SegmentWriter::new(),
            bytes: Bytes::default(),
            of_batch: HashMap::new(),
            of_table: HashMap::new(),
            reshared: HashSet::new(),
        }
    }

    /// Ends the output. The segment is not sealed: its supervisor does that after this process has exited.
    #[must_use]
    pub fn finish(self) -> Written {
        Written { segment: self.writer.finish(), bytes: self.bytes }
    }

    fn copied(&self, key: (usize, usize)) -> Option<u64> {
        self.of_batch.get(&key).copied().or_else(|| self.of_table.get(&key).map(|(offset, _)| *offset))
    }

    fn copy(&mut self, buffer: &Buffer, life: Life) -> Result<u64, Error> {
        let key = (buffer.as_ptr() as usize, buffer.len());
        if let Some(offset) = self.copied(key) {
            return Ok(offset);
        }
        let offset = self.writer.append(buffer.as_slice())?;
        self.bytes.copied += buffer.len() as u64;
        match life {
            Life::Batch => drop(self.of_batch.insert(key, offset)),
            Life::Table => drop(self.of_table.insert(key, (offset, buffer.clone()))),
        }
        Ok(offset)
    }
}

impl Placer for Output {
    fn find(&self, bytes: &[u8]) -> Option<Placement> {
        self.inputs.find(bytes).map(|(id, offset)| Placement::Segment { id, offset })
    }

    fn place(&mut self, buffer: &Buffer, life: Life) -> Result<Placement, forebay_sipc::Error> {
        let length = buffer.len() as u64;
        if buffer.len() < INLINE_BUFFER_BYTES_MAX && self.bytes.inline + length <= INLINE_TOTAL_BYTES_MAX {
            self.bytes.inline += length;
            return Ok(Placement::Inline);
        }
        if let Some((id, offset)) = self.inputs.find(buffer.as_slice()) {
            if self.reshared.insert((id, offset, buffer.len())) {
                self.bytes.reshared += length;
            }
            return Ok(Placement::Segment { id, offset });
        }
        let offset = self
            .copy(buffer, life)
            .map_err(|source| forebay_sipc::Error::Place { bytes: buffer.len(), source: Box::new(source) })?;
        Ok(Placement::Segment { id: self.id, offset })
    }

    fn segment_length(&self, id: u64) -> u64 {
        if id == self.id { self.writer.length() } else { self.inputs.length(id).expect("placed in an input") }
    }

    fn end_batch(&mut self) {
        self.of_batch.clear();
    }
}
