//! The catalog: git for tables, on an object store.
//!
//! A commit is an immutable state of the whole lake. Objects are named by the SHA-256 of their bytes, refs are the
//! only things that change, and they change by compare-and-swap:
//!
//! ```text
//! refs/branches/main ──> commit ──> tree ──> namespace `default`  ──> flights: metadata_location
//! refs/tags/v1       ──> commit       │                               planes:  metadata_location
//!                          │          └────> namespace `raw`      ──> …
//!                        parents
//! ```
//!
//! Invariants:
//! - An object is durable before anything that names it is: a crash at any instruction leaves a lake that opens,
//!   with every finished commit in it. What a crash may leave behind is an object nobody names.
//! - A branch moves from a commit to one that was built upon it, or not at all. Writers that touch different tables
//!   are replayed on each other; writers of one table get a conflict that names it.
//! - A commit of a failed run is *tainted*: nothing that contains it can be merged, reverted to, branched or tagged, and
//!   only tainted commits follow it.
//! - A commit of several tables is reverted whole or not at all.
//! - The namespace `default` is part of every tree and cannot be deleted.
//!
//! Absent on purpose: data of tables (see `lake`), permissions.

mod apply;
mod catalog;
mod change;
mod error;
mod gc;
mod history;
mod limits;
mod merge;
mod object;
mod objects;
mod refs;
mod resolve;
mod revert;
mod store;
#[cfg(test)]
mod tests;

pub use catalog::{Catalog, Clock, CommitInfo, FastForward, Merge, MergeKind, SystemClock};
pub use change::{Changes, DEFAULT_NAMESPACE, Diff, Difference, TableEntry, Tree};
pub use error::{ConflictReason, Error, Result, TableConflict};
pub use gc::{Collected, Live, Sweep};
pub use history::Log;
pub use object::Commit;
pub use refs::{MAIN, Ref, RefKind};
pub use revert::{JOB_PROPERTY, REVERTS_PROPERTY, Replace};
pub use store::{BucketStore, LocalStore, MemoryStore, Store, StoreError};
