//! Shared memory: segments, their mappings, and the channel that carries their descriptors between processes.
//!
//! A *segment* is one memfd. A function writes it once, sends its descriptor and exits; the supervisor seals it; from then on
//! nobody can change it, and readers map it. Tables in segments are described by messages of crate `sipc`.
//!
//! ```text
//! function    Output ──place──> SegmentWriter ──finish──> fd ──Channel──> supervisor ──seal──> published
//! function    Channel ──fds──> Inputs (Mapping per segment) ──rebuild──> RecordBatch over the mapped pages
//! ```
//!
//! Invariants: a mapping exists only of a sealed file that is at least as long as declared, so it can neither change nor raise
//! SIGBUS; a segment that is sent has no writable mapping (it never has one here: bytes go in by `pwrite`).
//!
//! `unsafe` is allowed in this crate: memory mappings, file descriptor 0, and arrays made without reading their values.

#![allow(unsafe_code)]

pub mod channel;
mod error;
mod inputs;
mod mapping;
mod output;
mod process;
mod segment;
#[cfg(test)]
mod tests;
mod views;

pub use channel::{Channel, Frame, Listener};
pub use error::Error;
pub use inputs::Inputs;
pub use mapping::Mapping;
pub use output::{Output, Written};
pub use process::die_with_parent;
pub use segment::{SegmentWriter, is_sealed, seal};
pub use views::{as_views, view_type};
