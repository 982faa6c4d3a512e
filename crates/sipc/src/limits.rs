//! Every number that bounds a message. A message that exceeds one is refused with `IPC0003` before anything is allocated for it.

/// Buffers shorter than this travel inside the message: a reference would cost more than the bytes.
pub const INLINE_BUFFER_BYTES_MAX: usize = 1024;

/// Bytes of one table that may travel inside its message; further small buffers go into the segment.
pub const INLINE_TOTAL_BYTES_MAX: u64 = 1 << 20;

/// Data buffers of views that hold less than this are never compacted, in bytes.
pub(crate) const VIEWS_USE_MIN: usize = 4096;

/// A table that needs less than one part in so many of a segment's bytes is not worth keeping the segment for: copying that
/// part costs at most this share of what writing the segment did (`bench/reshare.py`).
pub const WORTH_KEEPING: usize = 32;

/// Alignment of inline buffers inside a message, in bytes: the widest Arrow value needs 16.
pub const INLINE_ALIGNMENT_BYTES: usize = 16;

/// Length of a message's fixed header, in bytes.
pub(crate) const HEADER_BYTES: usize = 56;

/// Length of a segment entry, in bytes.
pub(crate) const SEGMENT_BYTES: usize = 16;

/// Length of a node without its buffers, in bytes.
pub(crate) const NODE_BYTES: usize = 40;

/// Length of a buffer entry, in bytes.
pub(crate) const BUFFER_BYTES: usize = 24;

/// What a decoder accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Length of the whole message, in bytes.
    pub message_bytes_max: usize,
    /// Entries of the segment table.
    pub segments_max: usize,
    /// Top-level columns.
    pub columns_max: usize,
    /// Record batches.
    pub batches_max: usize,
    /// Nesting of one column: a plain column has depth 1. The walk is recursive, so this bounds the stack.
    pub depth_max: usize,
    /// Rows of one batch, and elements of one array.
    pub rows_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 30,
            segments_max: 65_536,
            columns_max: 262_144,
            batches_max: 1 << 22,
            depth_max: 48,
            rows_max: 1 << 48,
        }
    }
}
