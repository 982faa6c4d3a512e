//! Words every crate shares: names, refs, hashes, and how an error is told to a person.
//!
//! No I/O and no workspace dependency. Text becomes one of these types once, at the edge
//! ("parse, don't validate"); after that, a `TableName` is a table name.

mod names;
mod partition;
mod refspec;
mod report;
mod sort;

pub use names::{BranchName, CommitHash, InvalidName, TableName};
pub use partition::{PartitionField, Transform, parse_partition_fields};
pub use refspec::{REF_STEPS_MAX, RefSpec, RefStep, parse_time};
pub use report::{Code, Coded, Fault, Location, OPEN_FILES_HINT, Report, is_out_of_files};
pub use sort::{SortField, parse_sort_fields};
