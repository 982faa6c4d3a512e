//! Iceberg v2 tables on a local disk or in an object store: create, write, scan, import. Metadata and files are what any other engine reads.
//!
//! A table is named by the location of one immutable metadata file; which one is current is the catalog's business.
//! So nothing here locks: a write makes new files and a new metadata file, durable when the call returns, and two
//! writers never touch each other's files. Rows come and go as Arrow batches in memory.
//!
//! ```text
//! <location>/data/<uuid>.parquet                         rows
//! <location>/metadata/<uuid>-m<n>.avro                   manifests: which files, with statistics
//! <location>/metadata/snap-<id>-1-<uuid>.avro            manifest lists: which manifests
//! <location>/metadata/<version>-<uuid>.metadata.json     schema, partitioning, snapshots
//! ```
//!
//! Invariants: a file is never changed once written; equality deletes are never written; row-level deletes never are
//! (a partly matching file is rewritten); `gc.enabled` is false, because branches of the catalog share files.
//! No thread outlives a call, and no call blocks the async executor with decoding or encoding.

mod cast;
mod commit;
mod compact;
mod conform;
mod csv;
mod deletes;
mod error;
mod evolve;
mod expire;
mod facts;
mod files;
mod foreign;
mod found;
mod join;
mod json;
mod merge;
mod metrics;
mod overwrite;
mod partition;
mod predicate;
mod provider;
mod reach;
mod register;
mod replay;
mod rows;
mod scan;
mod schema;
mod sort;
mod source;
mod statistics;
mod storage;
mod strings;
mod summary;
mod table;
mod type_names;
mod write;

#[cfg(test)]
mod tests;

pub use compact::{Compacted, compact};
pub use error::{Cause, Error, Result};
pub use expire::{Expired, expire};
pub use facts::{ColumnFacts, TableFacts, facts};
pub use foreign::{Change, Creation, Foreign, Refusal, Rules};
pub use found::{SOURCE_FILES_MAX, SourceFile, SourceFormat, search_root, sources};
pub use partition::PARTITIONS_MAX;
pub use provider::LakeTable;
pub use reach::{FoundFile, files_below, files_of, name, remove_file, remove_files};
pub use register::register;
pub use replay::replay;
pub use scan::{ScanRequest, ScanStats, Scanned, scan};
pub use schema::TYPES_PROPERTY;
pub use source::{CASTS_PROPERTY, Reading, SourceColumn, infer_schema, read_source, source_columns};
pub use storage::{Failure, Repeat, StorageOptions, Trouble, check_storage, object_store, remote_location, use_storage};
pub use strings::within_offsets;
pub use table::{FieldInfo, SnapshotInfo, TableInfo, load};
pub use type_names::{parse_type, stored_name};
pub use write::{Mode, WriteRequest, Written, create, write};
