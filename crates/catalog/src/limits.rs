//! Named maxima of the catalog.

/// Longest object we read or write, in bytes. A namespace of 100,000 tables is about 20 MB.
pub(crate) const OBJECT_BYTES_MAX: u64 = 256 << 20;

/// How often a ref update is tried while other writers win the race. Each failure means another writer got ahead.
pub(crate) const SWAP_ATTEMPTS_MAX: u32 = 1000;

/// Decoded commits kept in memory; the cache starts anew when it is full.
pub(crate) const CACHED_COMMITS_MAX: usize = 16_384;

/// Names offered in "did you mean".
pub(crate) const NEAREST_NAMES_MAX: usize = 3;

/// Tables listed in the text of a conflict before "and n more".
pub(crate) const LISTED_TABLES_MAX: usize = 20;

/// Fast-forwards a branch remembers, so that times before them are resolved; the oldest go first.
pub(crate) const FORWARDS_MAX: usize = 256;

/// How often an update whose answer was lost is looked after before its outcome is told to be unknown.
pub(crate) const UNKNOWN_ATTEMPTS_MAX: u32 = 8;

/// Tables of trees kept decoded in memory, together; the cache starts anew when it is full. About 200 bytes each.
pub(crate) const CACHED_TABLES_MAX: usize = 400_000;

/// How often a read or an unconditional write of an object store is tried.
pub(crate) const BUCKET_READ_ATTEMPTS_MAX: u32 = 4;

/// How long a call of an object store may take; after that its answer counts as lost.
pub(crate) const BUCKET_CALL_SECONDS_MAX: u64 = 30;

/// Reads of an object store in flight at once, for one list.
pub(crate) const BUCKET_CALLS_AT_ONCE_MAX: usize = 64;

/// Refs whose versions in an object store are remembered, so that moving one needs no read; all are forgotten when full.
pub(crate) const KNOWN_VERSIONS_MAX: usize = 20_000;

/// Shortest wait before something is tried again in an object store; it doubles with each attempt, and is of random length.
pub(crate) const BUCKET_PAUSE_MILLIS: u64 = if cfg!(test) { 1 } else { 10 };

/// Longest wait before something is tried again in an object store.
pub(crate) const BUCKET_PAUSE_MILLIS_MAX: u64 = if cfg!(test) { 4 } else { 1000 };

/// Longest value that is kept as the target of a symbolic link: what every common file system takes.
pub(crate) const LINK_BYTES_MAX: usize = 1000;
