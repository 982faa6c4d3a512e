//! SIPC: a table as a description. An Arrow schema, and batches whose buffers are (segment, offset, length), or inline when tiny.
//!
//! Pure: no I/O, no file descriptors. Everything decoded here comes from another process and is hostile until checked:
//! [`Message::decode`] never panics, allocates no more than a small multiple of the message's length, and returns only
//! messages whose every reference lies inside the segments it declares.
//!
//! ```text
//! producer   RecordBatch ──describe──> Message ──encode──> bytes       buffers go where a Placer says
//! consumer   bytes ──decode──> Message ──project──> Message ──rebuild──> RecordBatch   buffers come from a Source
//! ```
//!
//! # Version 1
//!
//! All numbers are little-endian; every part begins at a multiple of 8 bytes; reserved bytes are zero.
//!
//! ```text
//! header    0  magic "SIPC"           4  u16 version = 1       6  u16 reserved
//!           8  u64 message length    16  u32 segments S       20  u32 columns C
//!          24  u32 batches B         28  u32 schema length    32  u64 rows
//!          40  u64 tree length       48  u64 inline length
//! segments  S × { u64 id, u64 length }
//! schema    encapsulated Arrow IPC Schema message, padded to 8
//! tree      B × { u64 rows, C × node }
//!   node      u64 length   u64 null count   u64 offset   u8 validity shift   u8[3] reserved
//!             u32 data buffers N   u32 children M   u32 reserved   (1 + N) × buffer   M × node
//!   buffer    u32 segment index | 0xffff_ffff none | 0xffff_fffe inline   u32 reserved   u64 offset   u64 length
//! inline    bytes; buffers in it begin at multiples of 16 from its start
//! ```
//!
//! The first buffer of a node is its validity bitmap, whose first bit is number *validity shift*; the rest are the data
//! buffers of the type in Arrow's order (views append theirs). *offset* counts elements before the first in the data buffers;
//! it is zero but for booleans (bits, below 8) and run-end arrays (logical elements). A dictionary's values are its one child.

pub mod call;
mod decode;
mod describe;
mod dictionary;
mod encode;
mod error;
pub mod limits;
mod message;
mod preview;
pub mod ranges;
mod rebuild;
mod schema;
#[cfg(test)]
mod tests;

pub use describe::{Home, Placement, Placer, describe};
pub use dictionary::{converted_bytes, encode_columns};
pub use error::Error;
pub use limits::Limits;
pub use message::Message;
pub use preview::{Excerpt, PREVIEW_ROWS, render};
pub use rebuild::{Source, Table};
pub use schema::without_file_metadata;

/// The format version this build writes, and the only one it reads.
pub const VERSION: u16 = 1;

pub(crate) const MAGIC: [u8; 4] = *b"SIPC";
pub(crate) const PLACE_NONE: u32 = u32::MAX;
pub(crate) const PLACE_INLINE: u32 = u32::MAX - 1;
