//! Named bounds of a sandbox.

/// Bytes of the root file system, which holds mount points and a few small files.
pub const ROOT_BYTES: u64 = 4 << 20;

/// Bytes of `/tmp`, and of `/dev/shm`, of a function without a memory limit. Both are memory and count as such.
pub const TMP_BYTES_MAX: u64 = 4 << 30;

/// Processes and threads of one function.
pub const PROCESSES_MAX: u64 = 4096;

/// Descriptors that one order to the launcher carries: standard input, output, error, and where its end is told.
pub const ORDER_FDS: usize = 4;

/// Bytes of one order, and of one answer.
pub const ORDER_BYTES_MAX: usize = 128 << 10;

/// Bytes of what the first process of a sandbox tells of its end.
pub const ENDING_BYTES_MAX: usize = 4096;

/// User and group inside a sandbox.
pub const INSIDE_ID: u32 = 1000;

/// The first of [`APART_IDS`] user ids that functions of a supervisor with root's rights run under, outside. Nobody has them:
/// they lie above what `useradd`, directories, `subuid` and systemd give out.
pub const APART_ID_FIRST: u32 = 0x7f00_0000;

/// How many of them there are.
pub const APART_IDS: u32 = 0x1_0000;

/// The first of [`ZYGOTE_IDS`] user ids that zygotes run under, outside, where functions have ids of their own.
pub const ZYGOTE_ID_FIRST: u32 = APART_ID_FIRST + APART_IDS;

/// How many of them there are.
pub const ZYGOTE_IDS: u32 = 0x1000;

/// Descriptors that a zygote is handed for a child: a meeting point, and the namespaces it is born in.
pub const CHILD_FDS: usize = 1 + NAMESPACES;

/// Descriptors that a child is handed at its birth: the namespace of its files, and its standard input, output and error; beyond
/// them the doors of its control groups.
pub const BIRTH_FDS: usize = 4;

/// Control groups that a zygote's child joins by itself.
pub const DOORS_MAX: usize = 2;

/// Namespaces that a zygote's child is born in.
pub const NAMESPACES: usize = 5;

/// Bytes of each of the stacks on which a zygote forks.
pub const FORK_STACK_BYTES: usize = 256 << 10;

/// How eager the kernel is to kill a function before others when the machine is out of memory: of 1000.
pub const OUT_OF_MEMORY_SCORE: u32 = 800;

/// Ways in which the host can be less than wanted: probes of it end after as many.
pub const PROBES_MAX: usize = 16;
