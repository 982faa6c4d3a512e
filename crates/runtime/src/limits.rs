//! Named bounds of function processes.

use std::time::Duration;

/// Bytes of one printed line; a longer one is cut into several.
pub const LOG_LINE_BYTES_MAX: usize = 64 * 1024;

/// Printed bytes of one function that are passed on; the rest is read and dropped, with a notice.
pub const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Time between a function's reply and its exit, before it is killed: its result is already there.
pub const EXIT_GRACE: Duration = Duration::from_secs(5);

/// Time between two looks whether the kernel has taken a process of a function for its memory, after it has said that it will.
pub const STARVED_LOOK: Duration = Duration::from_millis(10);

/// So many looks; then it was another function's.
pub const STARVED_LOOKS_MAX: u32 = 300;

/// The longest that packages are built from sources.
pub const BUILD_TIME_MAX: Duration = Duration::from_secs(3600);

/// How soon a cancel is noticed while packages are built.
pub const BUILD_CANCEL_CHECK: Duration = Duration::from_millis(100);

/// Bytes of what a build prints that are kept.
pub const BUILD_OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Bytes of the Python runtime that is copied into the cache.
pub const RUNTIME_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Rows of a SQL input that are worth a partition (and a thread) of their own.
pub const PARTITION_ROWS_MIN: usize = 64 * 1024;

/// Rows of a batch that SQL makes, and that its inputs are cut into. Larger batches have larger buffers, which can be passed on
/// where they are, and cost readers less each; smaller ones stay in the processor's caches.
pub const BATCH_ROWS: usize = 64 * 1024;

/// Bytes of a column in a batch that SQL aims at: plain strings hold at most 2 GiB.
pub const BATCH_BYTES_TARGET: usize = 256 * 1024 * 1024;

/// Average rows per batch below which a result is put together: readers pay per batch.
pub const BATCH_ROWS_MIN: usize = 2048;

/// A filter that leaves more than one row in so many of a batch passes strings on by reference; one that leaves fewer copies
/// them together, because their buffers would keep as many times the memory.
pub const FILTER_PART: usize = 16;

/// Bytes a column of a result may keep in memory for each byte its views use; beyond that its strings are copied together.
pub const KEPT_PER_USED_MAX: usize = 16;

/// Bytes of rows of an import that are held in memory; more become a further snapshot of the same commit.
pub const IMPORT_BYTES_MAX: usize = 1 << 30;

/// Lines that a function printed last, to be told when it ends badly.
pub const LAST_LINES_MAX: usize = 5;

/// Characters of each.
pub const LAST_LINE_CHARS_MAX: usize = 200;

/// Of the machine's memory: what all functions together may use, in percent. The rest is the daemon's, and others'.
pub const WORKER_MEMORY_PERCENT: u64 = 90;

/// Of the machine's memory: what one zygote may use while it imports, in percent.
pub const ZYGOTE_MEMORY_PERCENT: u64 = 25;

/// Of the machine's memory: what zygotes and children that wait may hold together, in percent.
pub const ZYGOTES_MEMORY_PERCENT: u64 = 5;

/// Bytes that they may hold together on a machine with much memory.
pub const ZYGOTES_BYTES_MAX: u64 = 1 << 30;

/// Bytes that a child holds while it waits: what it has copied of its zygote, and its sandbox.
pub const PARKED_BYTES: u64 = 8 << 20;

/// Children of one zygote that wait for a call.
pub const PARKED_MAX: usize = 4;

/// Zygotes at a time.
pub const ZYGOTES_MAX: usize = 32;

/// Time that a function waits for a zygote that is still importing, before it is started afresh.
pub const ZYGOTE_WAIT: Duration = Duration::from_secs(3);

/// How long a new environment waits for the zygote that imports its packages before these are tried by an interpreter of their own. More
/// than large packages take; a module that hangs in a zygote alone holds an environment up for so long, once.
pub const TRIAL_WAIT: Duration = Duration::from_secs(10);

/// Time that one import in a zygote may take, before its module is given up for good.
pub const IMPORT_PATIENCE: Duration = Duration::from_secs(60);

/// Time that a zygote may take to fork, before it is given up.
pub const FORK_PATIENCE: Duration = Duration::from_secs(5);

/// Forks of zygotes of one environment that may fail before there are no more of them for it.
pub const FORK_FAILURES_MAX: u32 = 2;

/// Modules that one zygote imports.
pub const ZYGOTE_MODULES_MAX: usize = 100;

/// Of the machine's memory: what one function may use that declares nothing, in percent.
pub const FUNCTION_MEMORY_PERCENT: u64 = 80;

/// Of the machine's memory: what the operators of a query may use that names no limit, in percent.
pub const QUERY_MEMORY_PERCENT: u64 = 50;

/// Bytes that a query may spill that names no limit.
pub const SPILL_BYTES_MAX: u64 = 100 << 30;

/// Bytes of the result of a query that travel in its message, so that nobody waits for the end of its process.
pub const INLINE_TABLE_BYTES_MAX: usize = 512 << 10;

/// Rows of a batch inside a query.
pub const QUERY_BATCH_ROWS: usize = 8 * 1024;

/// Bytes of a batch of a query to aim at, where rows are long.
pub const QUERY_BATCH_BYTES_TARGET: usize = 32 << 20;

/// Memory of a query per partition, at least, where its joins go to disk, in bytes.
pub const PARTITION_BYTES_MIN: usize = 32 << 20;

/// Batches that the memory of a query holds at least.
pub const QUERY_MEMORY_BATCHES: usize = 128;

/// Bytes of files that are one piece of a query that keeps the order of rows: pieces are read ahead of those that leave.
pub const PIECE_BYTES_TARGET: u64 = 16 << 20;

/// Pieces of such a query.
pub const PIECES_MAX: usize = 256;

/// Batches of a piece that is read ahead.
pub const PIECE_BATCHES_MAX: usize = 16;

/// Memory that a sort keeps back for merging what it has spilled, per partition, in bytes; less where the limit is low.
pub const SORT_RESERVED_BYTES: usize = 10 << 20;

/// Files into which a side of a join is cut that does not fit into memory.
pub const JOIN_PARTS: usize = 32;

/// How often rows are cut, before it is taken for certain that they have one key.
pub const JOIN_CUTS_MAX: u64 = 4;

/// Bytes of rows that are gathered before they are written to the files of a cut side; more where there is memory, since batches of
/// a file are a part of it.
pub const PART_GATHERED_BYTES_MIN: usize = 1 << 20;

/// The most of them.
pub const PART_GATHERED_BYTES_MAX: usize = 32 << 20;

/// Buffer before such a file, in bytes.
pub const PART_WRITE_BYTES: usize = 16 << 10;

/// Batches that are read ahead of one.
pub const PART_BATCHES_MAX: usize = 2;

/// Batches between the task of a join and those who take its rows.
pub const JOINED_BATCHES_MAX: usize = 2;

/// Of the memory of a query whose joins may be larger: what they share, in percent. The rest is for sorts and aggregates.
pub const JOIN_MEMORY_PERCENT: usize = 33;

/// Operators that are named when memory runs out.
pub const MEMORY_CONSUMERS_TOLD: std::num::NonZeroUsize = std::num::NonZeroUsize::new(3).expect("three is not zero");

/// Batches between a query and the thread that writes them to its client.
pub const PIPE_BATCHES_MAX: usize = 4;

/// Buffer before the pipe to a client, in bytes.
pub const PIPE_BUFFER_BYTES: usize = 1 << 20;
