//! SIPC: a table as a description. An Arrow schema, and batches whose buffers are (segment, offset, length), or inline when tiny.
//!
//! Pure: no I/O, no file descriptors. Everything decoded here comes from another process and is hostile until checked.

pub mod call;
