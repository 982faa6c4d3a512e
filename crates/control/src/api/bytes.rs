//! Bytes of tables by how they got from function to function, as the protocol says them.

use serde::{Deserialize, Serialize};

/// Bytes of tables, by how they got into shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Born there.
    pub referenced: u64,
    /// Shared again from an input.
    pub reshared: u64,
    /// Copied there.
    pub copied: u64,
    /// So small that they travel in the message.
    pub inline: u64,
}

impl Bytes {
    /// All bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.referenced + self.reshared + self.copied + self.inline
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            referenced: a.referenced + b.referenced,
            reshared: a.reshared + b.reshared,
            copied: a.copied + b.copied,
            inline: a.inline + b.inline,
        })
    }
}

/// The reasons for copies, as [`Copied`] names them. A later version may know more.
pub const COPY_REASONS: [&str; 4] = ["elsewhere", "rewritten", "rebased", "compacted"];

/// Bytes that were copied for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// One of [`COPY_REASONS`].
    pub reason: String,
    pub bytes: u64,
}
