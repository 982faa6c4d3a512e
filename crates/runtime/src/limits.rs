//! Named bounds of function processes.

use std::time::Duration;

/// Bytes of one printed line; a longer one is cut into several.
pub const LOG_LINE_BYTES_MAX: usize = 64 * 1024;

/// Printed bytes of one function that are passed on; the rest is read and dropped, with a notice.
pub const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Time between a function's reply and its exit, before it is killed: its result is already there.
pub const EXIT_GRACE: Duration = Duration::from_secs(5);

/// Bytes of the Python runtime that is copied into the cache.
pub const RUNTIME_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Rows of a SQL input that are worth a partition (and a thread) of their own.
pub const PARTITION_ROWS_MIN: usize = 64 * 1024;

/// Bytes of rows of an import that are held in memory; more become a further snapshot of the same commit.
pub const IMPORT_BYTES_MAX: usize = 1 << 30;

/// Lines that a function printed last, to be told when it ends badly.
pub const LAST_LINES_MAX: usize = 5;

/// Characters of each.
pub const LAST_LINE_CHARS_MAX: usize = 200;

/// Of the machine's memory: what all functions together may use, in percent. The rest is the daemon's, and others'.
pub const WORKER_MEMORY_PERCENT: u64 = 90;

/// Of the machine's memory: what one function may use that declares nothing, in percent.
pub const FUNCTION_MEMORY_PERCENT: u64 = 80;
