//! What the worker tells while a plan runs, and at its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use forebay_plan::physical::NodeId;
use forebay_runtime::Stream;
use forebay_sipc::call::{Bytes, Copied};
use forebay_types::{Report, TableName};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum WorkerEvent {
    /// A node runs now.
    NodeStarted {
        /// The node.
        node: NodeId,
    },
    /// A node has ended, or will never run.
    NodeFinished {
        /// How.
        outcome: NodeOutcome,
    },
    /// A line it printed, or that the platform says of it.
    Log {
        /// Name of the node.
        node: String,
        /// Where it came from.
        stream: Stream,
        /// Without its line end.
        line: String,
    },
    /// Rows of its result as text.
    Preview {
        /// Name of the node.
        node: String,
        /// A text table.
        text: String,
    },
    /// Something the user should know.
    Warning {
        /// One line.
        text: String,
    },
    /// An environment is being made.
    EnvironmentProgress {
        /// `Python 3.11 with pandas 2.0`
        environment: String,
        /// One line.
        text: String,
    },
    /// Functions of the run have this environment.
    EnvironmentReady {
        /// It.
        environment: forebay_envs::Environment,
        /// Its versions are those of the project's `forebay.lock`.
        pinned: bool,
    },
}

/// How a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeStatus {
    /// It delivered.
    Done,
    /// It did not, or it is an expectation that does not hold.
    Failed,
    /// It was ended from outside.
    Cancelled,
    /// It never ran.
    Skipped,
}

impl NodeStatus {
    /// `done`, `failed`, `cancelled` or `skipped`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// An error of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeError {
    /// What happened.
    pub report: Report,
    /// The user's traceback, trimmed to their frames.
    pub traceback: Option<String>,
}

/// What became of a node.
#[derive(Debug, Clone)]
pub struct NodeOutcome {
    /// Its index in the plan.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// `scan sql python expectation write`
    pub kind: &'static str,
    /// How it ended.
    pub status: NodeStatus,
    /// Rows of its table.
    pub rows: Option<u64>,
    /// Bytes of its table, or of the files it wrote.
    pub total_bytes: Option<u64>,
    /// Bytes by how they got into shared memory.
    pub bytes: Bytes,
    /// Why bytes were copied.
    pub copies: Vec<Copied>,
    /// Bytes of its inputs' columns that it made anew for the library that reads them, in another layout.
    pub converted_bytes: u64,
    /// From the received call to its input tables held, inside the function.
    pub receive_seconds: Option<f64>,
    /// From the function's return to its table published: trim and seal included.
    pub publish_seconds: Option<f64>,
    /// From its start to its last trace.
    pub seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<NodeError>,
}

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// Everything delivered.
    Success,
    /// Something failed.
    Failed,
    /// The caller gave up.
    Cancelled,
}

/// A table that was written, not committed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenTable {
    /// The table.
    pub table: TableName,
    /// Its new metadata file.
    pub metadata_location: String,
    /// The metadata file the write was based on; `None`: the table is new.
    pub base: Option<String>,
}

/// A table the caller wanted back. Its segments live as long as this value.
#[derive(Debug, Clone)]
pub struct KeptTable {
    /// The node that made it.
    pub node: NodeId,
    /// Its SIPC message.
    pub message: Arc<Vec<u8>>,
    /// Identity, length and file of each segment.
    pub segments: Vec<(u64, u64, Arc<OwnedFd>)>,
}

/// The end of a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: RunStatus,
    /// The error that ended it, and the node's name if it belongs to one.
    pub error: Option<(Option<String>, NodeError)>,
    /// Every node, in the order of the plan.
    pub nodes: Vec<NodeOutcome>,
    /// Tables that were written: to be committed if the run succeeded, else only to be looked at.
    pub written: Vec<WrittenTable>,
    /// Tables asked for. Empty unless the run succeeded.
    pub kept: Vec<KeptTable>,
    /// Names of expectations that did not hold.
    pub failed_expectations: Vec<String>,
}

/// An import that was done, not committed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The table's new metadata file; the base's if no file was imported.
    pub metadata_location: String,
    /// Rows appended.
    pub rows: u64,
    /// Files imported.
    pub files: Vec<String>,
    /// Files left out, and why.
    pub failed: Vec<(String, String)>,
}
