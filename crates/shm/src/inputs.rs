//! The segments a function was handed: tables are rebuilt over them, and output buffers that lie in them are recognised.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use arrow::array::{ArrayData, ArrayDataBuilder};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::error::ArrowError;
use forebay_sipc::call::SegmentRef;
use forebay_sipc::{Message, Source, Table};

use crate::{Error, Mapping};

/// Mapped segments by identity and by address.
#[derive(Debug, Default)]
pub struct Inputs {
    mappings: HashMap<u64, (Arc<Mapping>, u64)>,
    /// `(first address, address past the end, segment)`, sorted.
    ranges: Vec<(usize, usize, u64)>,
}

impl Inputs {
    /// No segments.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Maps the segments whose descriptors are `files`, in the same order. The descriptors may be closed afterwards.
    ///
    /// # Errors
    /// [`Error::Frame`] if the counts differ, and what [`Mapping::map`] returns.
    pub fn map<F: AsFd>(segments: &[SegmentRef], files: &[F]) -> Result<Arc<Self>, Error> {
        if segments.len() != files.len() {
            return Err(Error::Frame(format!("{} segments, {} descriptors", segments.len(), files.len())));
        }
        let mut inputs = Self::default();
        for (segment, file) in segments.iter().zip(files) {
            let mapping = Mapping::map(segment.id, file, segment.length)?;
            let (start, end) = mapping.range();
            if inputs.mappings.insert(segment.id, (mapping, segment.length)).is_some() {
                return Err(Error::Frame(format!("segment {} comes twice", segment.id)));
            }
            if end > start {
                inputs.ranges.push((start, end, segment.id));
            }
        }
        inputs.ranges.sort_unstable();
        Ok(Arc::new(inputs))
    }

    /// The segment these bytes lie in, and where.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<(u64, u64)> {
        let start = bytes.as_ptr() as usize;
        let last = self.ranges.partition_point(|range| range.0 <= start).checked_sub(1)?;
        let (first, end, id) = self.ranges[last];
        (start + bytes.len() <= end).then(|| (id, (start - first) as u64))
    }

    /// Declared length of a segment.
    #[must_use]
    pub fn length(&self, id: u64) -> Option<u64> {
        self.mappings.get(&id).map(|(_, length)| *length)
    }

    /// Memory each segment holds, in bytes.
    pub(crate) fn held(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.mappings.iter().map(|(id, (mapping, _))| (*id, mapping.held()))
    }

    /// The table of a message, over the mapped pages. Its layout is checked, its values are believed: it costs a few
    /// microseconds per buffer, whatever the table's size.
    ///
    /// # Errors
    /// What [`Message::rebuild`] returns.
    pub fn rebuild(&self, message: &Message) -> Result<Table, Error> {
        Ok(message.rebuild(self)?)
    }

    /// As [`Inputs::rebuild`], but every value is checked (UTF-8, offsets, dictionary keys), which reads the whole table.
    ///
    /// # Errors
    /// What [`Message::rebuild`] returns.
    pub fn rebuild_checked(&self, message: &Message) -> Result<Table, Error> {
        Ok(message.rebuild(&|id| self.segment(id))?)
    }
}

impl Source for Inputs {
    fn segment(&self, id: u64) -> Option<Buffer> {
        self.mappings.get(&id).map(|(mapping, _)| mapping.buffer())
    }

    fn array(&self, parts: ArrayDataBuilder) -> Result<ArrayData, ArrowError> {
        // SAFETY: lengths, alignment, children and outer offsets are checked by `validate` before the array is used. The
        // values inside the buffers were written by an Arrow implementation in another process of the same run, and cannot
        // change any more; callers that do not trust that process use `rebuild_checked`. Checking them here would read
        // every byte of every table in every function, which is what shared memory is there to avoid.
        let data = unsafe { parts.build_unchecked() };
        data.validate()?;
        Ok(data)
    }

    fn nulls(&self, bits: BooleanBuffer, null_count: usize) -> NullBuffer {
        // SAFETY: the count was made by an Arrow implementation over these immutable bits; see `array` for who is believed.
        unsafe { NullBuffer::new_unchecked(bits, null_count) }
    }
}
