//! Shared memory: segments, their mappings, and the channel that carries their descriptors between processes.
//!
//! A *segment* is one memfd: as a rule the memory a function's arena was (crate `arena`), so its table was born in it. The
//! function describes the table, sends the description and the descriptor, lets go of its memory, and exits; meanwhile the
//! supervisor erases what is not the table's and seals the file; from then on nobody can change it, and readers map it. Tables in segments are
//! described by messages of crate `sipc`.
//!
//! ```text
//! function    batches ──write──> message, fds, what to keep ──Channel──> supervisor ──(let go) trim, seal──> published
//! function    Channel ──fds──> Inputs (Mapping per segment) ──rebuild──> RecordBatch over the mapped pages
//! ```
//!
//! Invariants: a mapping exists only of a sealed file that is at least as long as declared, so it can neither change nor raise
//! SIGBUS; a segment is trimmed before it is sealed, and sealed before any other function gets it.
//!
//! `unsafe` is allowed in this crate: memory mappings, file descriptor 0, a clock, and arrays made without reading their values.

#![allow(unsafe_code)]

pub mod channel;
mod error;
mod inputs;
mod mapping;
mod numbers;
mod output;
mod process;
mod segment;
#[cfg(test)]
mod tests;
mod views;

pub use channel::{Channel, Frame, Listener};
pub use error::Error;
pub use forebay_arena as arena;
pub use inputs::Inputs;
pub use mapping::Mapping;
pub use numbers::{NUMBER, ViewNumbers};
pub use output::{NewSegment, Written, write, write_inline};
pub use process::{die_with_parent, leave, monotonic_ns};
pub use segment::{SegmentWriter, is_sealed, publish, seal, trim};
pub use views::{as_views, view_type};
