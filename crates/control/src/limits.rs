//! Named maxima of the control plane, each with its unit in its name.

/// Longest project source file that is read, in bytes. Larger files are data, not code.
pub const SOURCE_FILE_BYTES_MAX: u64 = 4 << 20;

/// All files of a project together, in bytes: every run reads them. More is data, which belongs into the lake.
pub const PROJECT_BYTES_MAX: u64 = 128 << 20;

/// Files of a project.
pub const PROJECT_FILES_MAX: usize = 4_000;

/// Project snapshots together, in bytes; of those that were not used lately, the oldest go first.
pub const PROJECTS_BYTES_MAX: u64 = 2 << 30;

/// A snapshot that was used less than so long ago may still be in use.
pub const PROJECT_USED_AGO_MIN: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Job records kept; the oldest finished ones go first.
pub const JOBS_KEPT_MAX: usize = 500;

/// Log of one job, in bytes. Later lines are dropped, and one line says so.
pub const JOB_LOG_BYTES_MAX: u64 = 64 << 20;

/// Project snapshots kept on disk; the least recently used go first.
pub const PROJECTS_KEPT_MAX: usize = 200;

/// Connections served at once; more wait in the listen queue.
pub const CONNECTIONS_MAX: usize = 256;

/// How long a client waits for a started daemon to say that it is ready.
pub const DAEMON_START_SECONDS_MAX: u64 = 60;

/// How long the daemon stays without a connection and without a job, unless `FOREBAY_DAEMON_IDLE_SECONDS` says otherwise.
pub const DAEMON_IDLE_SECONDS: u64 = 900;

/// How long a daemon that ends waits for clients to take their last answers.
pub const LAST_ANSWERS_SECONDS_MAX: u64 = 5;

/// Files the daemon wants to hold open: every segment of a run is one. The system may allow fewer.
pub const OPEN_FILES_MAX: u64 = 65_536;

/// Log of the daemon, in bytes; a longer one is set aside as `daemon.log.old` at the next start.
pub const DAEMON_LOG_BYTES_MAX: u64 = 16 << 20;

/// How often `connect` starts over when a daemon leaves under its hands.
pub const CONNECT_ATTEMPTS_MAX: usize = 5;

/// Table descriptions kept in memory, by metadata location (they never change).
pub const TABLE_INFOS_MAX: usize = 4_096;

/// Bytes that a pipe with the rows of a query holds, where the system allows so many.
pub const PIPE_BYTES: usize = 1 << 20;

/// Commits read back to see whether a run of a killed daemon had been committed.
pub const RECOVERY_COMMITS_MAX: usize = 1_000;

/// Rows of a list when the caller names no limit.
pub const LIST_ROWS_MAX: usize = 100_000;

/// How often an append is put upon another writer's append before the conflict is told.
pub const APPEND_REPLAYS_MAX: usize = 50;

/// Body of a request to the REST catalog, in bytes. A commit of a table with 10,000 columns is about 2 MB.
pub const REST_BODY_BYTES_MAX: usize = 16 << 20;

/// How long a client of the REST catalog may take to send the head of a request, or to send nothing.
pub const REST_HEAD_SECONDS_MAX: u64 = 30;

/// How long it may take to send the body.
pub const REST_BODY_SECONDS_MAX: u64 = 60;

/// How long one connection to the REST catalog lives, however busy: one that reads slowly ends, too.
pub const REST_CONNECTION_SECONDS_MAX: u64 = 600;

/// How long requests under way may take when a connection, or the server, ends.
pub const REST_LAST_SECONDS_MAX: u64 = 30;

/// Connections to the REST catalog at once; more wait in the listen queue.
pub const REST_CONNECTIONS_MAX: usize = 256;

/// Requests to the REST catalog that are worked on at once; more wait.
pub const REST_REQUESTS_MAX: usize = 16;

/// How often a write over REST is tried while other writers move its tables. Its own requirements end it much earlier.
pub const REST_ATTEMPTS_MAX: usize = 50;

/// Tables of one transaction over REST.
pub const REST_TABLES_AT_ONCE_MAX: usize = 1_000;

/// Metadata files the REST catalog keeps in memory.
pub const REST_TABLES_KEPT_MAX: usize = 256;

/// Characters of a client's `User-Agent` that are kept with its commits.
pub const REST_CLIENT_NAME_CHARS_MAX: usize = 200;
