//! What a supervisor says to a function process, and what it answers. JSON on a [`Frame`](../../shm) with
//! table messages as blobs and segments as file descriptors beside it.
//!
//! ```text
//! supervisor -> function   Call   blobs: one SIPC message per input    fds: the segments, in the order of `segments`
//! function -> supervisor   Reply  blobs: the output's SIPC message,    fds: the new segments, in the order of `segments`
//!                                 then what to keep of each segment
//! ```
//!
//! A function process gets its channel as file descriptor 0, takes one call, gives one reply, and exits.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Identities of segments a call may use: one for what is copied, the others for generations of its arena.
pub const SEGMENTS_PER_CALL: u64 = 128;

/// One function to execute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// The node's name, for messages.
    pub node: String,
    /// Segments whose descriptors come with the frame, in that order.
    pub segments: Vec<SegmentRef>,
    /// Inputs; the n-th input's message is the n-th blob.
    pub inputs: Vec<CallInput>,
    /// What to do.
    pub work: Work,
    /// First of the [`SEGMENTS_PER_CALL`] identities of segments this function may write.
    pub output_segment: u64,
    /// Rows of the output to print into the reply as a preview, if the user asked for one.
    pub preview: Option<Preview>,
    /// How object stores are reached. Never sent to user code.
    #[serde(default, skip_serializing_if = "Storage::is_empty")]
    pub storage: Storage,
}

/// Settings of object stores by name, some of them secret: only their names are ever shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Storage(pub BTreeMap<String, String>);

impl Storage {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A segment by identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Unique on this worker.
    pub id: u64,
    /// Length in bytes.
    pub length: u64,
}

/// An input table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallInput {
    /// The name the function knows it by.
    pub name: String,
    /// Columns handed over, in this order; `None`: all.
    pub columns: Option<Vec<String>>,
    /// Columns of strings to hand over as dictionaries ([`encode_columns`](crate::encode_columns)).
    #[serde(default)]
    pub dictionary: Vec<String>,
}

/// A table of the lake in a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryTable {
    /// Its name in the query.
    pub name: String,
    /// Iceberg metadata file.
    pub metadata_location: String,
    /// Snapshot; `None`: the current one.
    pub snapshot_id: Option<i64>,
}

/// Which rows a preview shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preview {
    /// The first ten.
    Head,
    /// The last ten.
    Tail,
}

/// What the operators of a query may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Memory, in bytes.
    pub bytes: u64,
    /// An empty folder for what does not fit; `None`: nothing may be spilled.
    pub spill_folder: Option<String>,
    /// Bytes in that folder, at most.
    pub spill_bytes_max: u64,
}

/// The kinds of function; the wire twin of `plan::physical::Work`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Work {
    /// Read a lake table.
    Scan {
        /// Iceberg metadata file.
        metadata_location: String,
        /// Snapshot; `None`: no data.
        snapshot_id: Option<i64>,
        /// Columns in order; `None`: all.
        columns: Option<Vec<String>>,
        /// SQL boolean expression.
        filter: Option<String>,
        /// Columns of strings to read as dictionaries.
        #[serde(default)]
        dictionary: Vec<String>,
        /// Whether strings leave as views.
        #[serde(default)]
        views: bool,
    },
    /// Run one SELECT over the inputs.
    Sql {
        /// The statement.
        query: String,
        /// Whether strings leave as views.
        #[serde(default)]
        views: bool,
        /// What its operators may use.
        memory: Memory,
    },
    /// Run one SELECT over tables of the lake, which it reads itself. Takes no inputs. Rows leave through the pipe whose
    /// descriptor comes after those of the segments, as an Arrow IPC stream, answered by [`Reply::Streamed`]; without one as a
    /// table.
    Query {
        /// The statement.
        query: String,
        /// The tables in it.
        tables: Vec<QueryTable>,
        /// What its operators may use.
        memory: Memory,
        /// Whether there is a pipe.
        piped: bool,
    },
    /// Call a user's function.
    Python {
        /// Absolute path of the project's snapshot folder.
        project: String,
        /// File relative to it.
        file: String,
        /// Function name.
        function: String,
        /// Arguments in order.
        arguments: Vec<Argument>,
        /// `true`: an expectation, must return a truth value.
        truth: bool,
        /// Columns the output must have (strict) or should have.
        columns: Option<Vec<String>>,
        /// Whether a mismatch of `columns` is an error.
        strict: bool,
    },
    /// Write the input as an Iceberg table.
    Write {
        /// Folder of a new table.
        location: String,
        /// Metadata file the table has now.
        base: Option<String>,
        /// `replace`, `append`, `overwrite` or `merge`.
        strategy: String,
        /// For `overwrite`: the filter. For `merge`: which rows delete.
        filter: Option<String>,
        /// For `merge`: the columns that identify a row.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<String>,
        /// `(column, transform)`: transforms are `identity year month day hour bucket[n] truncate[n]`.
        partition_by: Vec<(String, String)>,
        /// Order of the rows of each file: `ts desc nulls first`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sort_by: Vec<String>,
        /// What columns mean, by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        column_docs: Vec<(String, String)>,
        /// Table properties to set (`comment`, …).
        properties: Vec<(String, String)>,
    },
    /// Make few large files of the small ones of an Iceberg table. Takes no inputs; answered by [`Reply::Compacted`].
    Compact {
        /// Metadata file the table has now.
        base: String,
        /// Files below this size are small.
        small_bytes: u64,
    },
    /// Append Parquet and CSV files to an Iceberg table, in one snapshot. Takes no inputs; answered by [`Reply::Imported`].
    Import {
        /// Metadata file the table has now.
        base: String,
        /// URIs or absolute paths of the files, in order.
        files: Vec<String>,
        /// Columns of a file that the table does not have are left out; otherwise they are an error.
        best_effort: bool,
        /// A file that cannot be imported is left out and reported; otherwise it ends the import.
        continue_on_error: bool,
        /// Table properties to set.
        properties: Vec<(String, String)>,
    },
}

/// One argument of a Python function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Argument {
    /// The input of that name, as `pyarrow`, `reader`, `pandas`, `polars`, `polars-lazy` or `duckdb`.
    Table {
        /// Parameter name.
        name: String,
        /// Form.
        form: String,
    },
    /// A plain value: null, bool, int, float or string.
    Value {
        /// Parameter name.
        name: String,
        /// The value.
        value: serde_json::Value,
    },
}

/// How a call ended, as far as the function can tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// A table: blob 0 is its message.
    Table {
        /// Rows.
        rows: u64,
        /// Bytes by how they got into the message.
        bytes: Bytes,
        /// Why bytes were copied; adds up to `bytes.copied`.
        #[serde(default)]
        copies: Vec<Copied>,
        /// Identities of the new segments, in the order of their descriptors. Blob n + 1 says what to keep of segment n.
        #[serde(default)]
        segments: Vec<u64>,
        /// When what happened.
        #[serde(default)]
        times: Times,
        /// Bytes of input columns that were made anew for the library that reads them, in another layout.
        #[serde(default)]
        converted_bytes: u64,
        /// Printed preview, if asked for.
        preview: Option<String>,
        /// Things the user should know (a declared column is missing, …).
        warnings: Vec<String>,
    },
    /// All rows of a query have left through its pipe.
    Streamed {
        /// Rows.
        rows: u64,
    },
    /// An expectation's verdict.
    Truth {
        /// Whether it holds.
        value: bool,
        /// The text of the `assert` that failed, if it failed by one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// An Iceberg table was written.
    Written {
        /// Its new metadata file.
        metadata_location: String,
        /// Rows written.
        rows: u64,
        /// Bytes of data files written.
        file_bytes: u64,
        /// How the table's schema grew: `added column ...`, `widened column ...`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<String>,
        /// Printed preview, if asked for.
        preview: Option<String>,
    },
    /// Files were appended to an Iceberg table.
    Imported {
        /// Its new metadata file; the base's if no file was imported.
        metadata_location: String,
        /// Rows appended.
        rows: u64,
        /// Files imported, as named in the call.
        files: Vec<String>,
        /// With `continue_on_error`: files left out, and why.
        failed: Vec<(String, String)>,
    },
    /// An Iceberg table was compacted.
    Compacted {
        /// Its new metadata file; the base's if there was nothing to do.
        metadata_location: String,
        /// Data files rewritten.
        files_before: u64,
        /// Data files they became.
        files_after: u64,
        /// Delete files that are gone.
        delete_files: u64,
        /// Rows rewritten.
        rows: u64,
    },
    /// It failed.
    Failed {
        /// Error code (`RUN0001`, …).
        code: String,
        /// "could not …".
        message: String,
        /// Causes.
        causes: Vec<String>,
        /// Next action.
        hint: Option<String>,
        /// The user's traceback, trimmed to their frames, if their code raised.
        traceback: Option<String>,
        /// `request` or `platform`.
        fault: String,
    },
}

/// What is left of a segment: a blob of a [`Reply::Table`]. Everything outside `live` is erased before anybody sees the segment,
/// because it may be the function's heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Length it is cut off to, in bytes.
    pub length: u64,
    /// What the table needs, in bytes: sorted, apart, and within `length`.
    pub live: Vec<Range<u64>>,
}

impl Keep {
    /// As little-endian numbers: the length, then the start and end of each range.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let numbers = self.live.iter().flat_map(|range| [range.start, range.end]);
        std::iter::once(self.length).chain(numbers).flat_map(u64::to_le_bytes).collect()
    }

    /// The inverse. `None` for anything that is not sorted ranges, apart, within the length.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let length = numbers.next().filter(|_| rest.is_empty() && numbers.len() % 2 == 0)?;
        let mut live = Vec::with_capacity(numbers.len() / 2);
        let mut before = None;
        while let (Some(start), Some(end)) = (numbers.next(), numbers.next()) {
            if start >= end || end > length || before.is_some_and(|before| start <= before) {
                return None;
            }
            before = Some(end);
            live.push(start..end);
        }
        Some(Self { length, live })
    }
}

/// Bytes copied for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Why.
    pub reason: CopyReason,
    /// How many.
    pub bytes: u64,
}

/// Why a buffer could not be passed on where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyReason {
    /// It was not born in shared memory: too small a block, or memory that no allocator gave.
    Elsewhere,
    /// It was written to after a fork, which made its pages private.
    Rewritten,
    /// Its offsets had to be counted from zero: a slice of an array of lists.
    Rebased,
    /// It was a small part of a large segment, which would have had to be kept for it.
    Compacted,
}

impl CopyReason {
    /// `elsewhere`, `rewritten`, `rebased` or `compacted`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elsewhere => "elsewhere",
            Self::Rewritten => "rewritten",
            Self::Rebased => "rebased",
            Self::Compacted => "compacted",
        }
    }
}

/// Times of a call, as the function saw them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// From the received call to its tables held, in nanoseconds.
    pub received_ns: u64,
    /// When the function returned its table, on the clock `CLOCK_MONOTONIC`, in nanoseconds.
    pub returned_at_ns: u64,
}

/// Bytes of a table, by how each buffer got into its message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// In a segment the function wrote, without a copy (born there).
    pub referenced: u64,
    /// In a segment of an input.
    pub reshared: u64,
    /// Copied into the output segment.
    pub copied: u64,
    /// Inside the message itself.
    pub inline: u64,
}

impl Bytes {
    /// All bytes of the table.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.referenced + self.reshared + self.copied + self.inline
    }
}
