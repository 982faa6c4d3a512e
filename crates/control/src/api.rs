//! The protocol between clients (CLI, SDK) and the control plane: JSON on channel frames.
//!
//! ```text
//! client -> control   one Request
//! control -> client   any number of {"event": …} frames, then one {"result": …} or {"error": …} frame
//! ```
//!
//! A connection carries requests one after another. Closing it while a request runs cancels the request,
//! unless it was detached. Tables (`query`) travel as SIPC messages beside the result: blob 0 is the message, the
//! frame's descriptors are its segments in the order of `segments`.
//! The Python SDK speaks the same JSON; a change here is a change of protocol: raise [`VERSION`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod bytes;
mod caller;
mod daemon;
mod diff;
mod imports;
mod maintenance;
mod sealed;
mod tables;

pub use bytes::{Bytes, COPY_REASONS, Copied};
pub use caller::{Actor, Variables};
pub use daemon::{Daemon, Zygote};
pub use diff::{ColumnDiff, ColumnSide, Diff, TableDiff, TableSide};
pub use imports::ImportResult;
pub use maintenance::{Compacted, Expired, Garbage};
pub use sealed::{Sealed, SecretKey};
pub use tables::{TableChange, TableCreatePlan};

/// Version of the protocol. A daemon of another version is replaced by the client.
pub const VERSION: u32 = 2;

/// The version that `ping` and `shutdown` are asked in. They are the same in all versions, so that a client can replace a daemon
/// of any.
pub const PING_VERSION: u32 = 1;

/// Text properties of a commit or table.
pub type Properties = std::collections::BTreeMap<String, String>;

/// One request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// URI of the lake.
    pub lake: String,
    /// Who asks; becomes the author of commits.
    pub author: Actor,
    /// The profile in force at the client; empty: the default one. Says how object stores are reached.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
    /// The client's variables that say how object stores are reached, above the profile's settings.
    #[serde(default, skip_serializing_if = "Variables::is_empty")]
    pub variables: Variables,
    /// What is asked.
    #[serde(flatten)]
    pub op: Op,
}

/// Where commits of a write get their words from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CommitWords {
    /// First paragraph of the message; a default says what was done.
    #[serde(default)]
    pub message: Option<String>,
    /// The rest of the message.
    #[serde(default)]
    pub body: Option<String>,
    /// Properties.
    #[serde(default)]
    pub properties: Properties,
}

/// The operations. `result` of each is named behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op")]
pub enum Op {
    /// -> [`Daemon`]
    #[serde(rename = "ping")]
    Ping,
    /// Stops the daemon, cancelling what runs. -> `null`
    #[serde(rename = "shutdown")]
    Shutdown,
    /// -> [`RunResult`]; events: all kinds. With `detach` the result has status `RUNNING` and comes at once.
    #[serde(rename = "run")]
    Run(Run),
    /// A key to seal the secrets of one run with. -> [`SecretKey`]
    #[serde(rename = "secret.key")]
    SecretKey,
    /// -> [`PlanResult`]
    #[serde(rename = "plan")]
    Plan(Run),
    /// -> [`QueryResult`] with a table beside it. With `stream` the rows come as an Arrow IPC stream through the pipe that comes
    /// with [`Event::Stream`]; they are complete if a result follows, and not if an error does.
    #[serde(rename = "query")]
    Query {
        /// One SELECT.
        sql: String,
        #[serde(rename = "ref")]
        at: String,
        #[serde(default)]
        namespace: Option<String>,
        /// At most so many rows.
        #[serde(default)]
        max_rows: Option<u64>,
        #[serde(default)]
        stream: bool,
        /// Memory of its operators, in bytes; default: the configuration's.
        #[serde(default)]
        memory_bytes: Option<u64>,
    },

    /// -> `[Ref]`
    #[serde(rename = "branch.list")]
    BranchList {
        /// Exact name, or a regular expression that begins with `^`.
        #[serde(default)]
        name: Option<String>,
        /// Only branches called `<user>.…`.
        #[serde(default)]
        user: Option<String>,
        #[serde(default)]
        limit: Option<u64>,
    },
    /// -> `Ref`
    #[serde(rename = "branch.get")]
    BranchGet { name: String },
    /// -> `Ref`
    #[serde(rename = "branch.create")]
    BranchCreate {
        name: String,
        from: String,
        #[serde(default)]
        if_not_exists: bool,
    },
    /// -> `{"deleted": bool}`
    #[serde(rename = "branch.delete")]
    BranchDelete {
        name: String,
        #[serde(default)]
        if_exists: bool,
    },
    /// -> `Ref`
    #[serde(rename = "branch.rename")]
    BranchRename { name: String, new_name: String },
    /// -> `Ref` of `into` after the merge
    #[serde(rename = "branch.merge")]
    BranchMerge {
        /// Any ref.
        source: String,
        into: String,
        /// Make a commit also where the branch could just move; then the words are always kept.
        #[serde(default)]
        always_commit: bool,
        #[serde(flatten)]
        words: CommitWords,
    },
    /// -> [`Diff`]: from `a` to `b`
    #[serde(rename = "branch.diff")]
    BranchDiff {
        a: String,
        b: String,
        #[serde(default)]
        namespace: Option<String>,
        /// Only names; no metadata file is opened.
        #[serde(default)]
        names_only: bool,
    },
    /// Only merges move a protected branch, and it stays. -> `Ref`
    #[serde(rename = "branch.protect")]
    BranchProtect {
        name: String,
        #[serde(default = "yes")]
        protected: bool,
    },

    /// -> `[Ref]`
    #[serde(rename = "tag.list")]
    TagList {
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        limit: Option<u64>,
    },
    /// -> `Ref`
    #[serde(rename = "tag.get")]
    TagGet { name: String },
    /// -> `Ref`
    #[serde(rename = "tag.create")]
    TagCreate {
        name: String,
        from: String,
        #[serde(default)]
        if_not_exists: bool,
    },
    /// -> `{"deleted": bool}`
    #[serde(rename = "tag.delete")]
    TagDelete {
        name: String,
        #[serde(default)]
        if_exists: bool,
    },
    /// -> `Ref`
    #[serde(rename = "tag.rename")]
    TagRename { name: String, new_name: String },

    /// -> `[Commit]`, newest first
    #[serde(rename = "commit.list")]
    CommitList {
        #[serde(rename = "ref")]
        at: String,
        /// Filters: exact text, or a regular expression that begins with `^`.
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        author_name: Option<String>,
        #[serde(default)]
        author_email: Option<String>,
        #[serde(default)]
        properties: Properties,
        /// That instant, that or later, that or earlier; as refs write times.
        #[serde(default)]
        authored_date: Option<String>,
        #[serde(default)]
        since: Option<String>,
        #[serde(default)]
        until: Option<String>,
        /// Hash of a parent, or how it begins.
        #[serde(default)]
        parent: Option<String>,
        #[serde(default)]
        limit: Option<u64>,
    },
    /// Undoes a commit, or all that a job committed, by one new commit. -> `Ref` of the branch
    #[serde(rename = "commit.revert")]
    CommitRevert {
        branch: String,
        /// The commit, as any ref. Either this or `job`.
        #[serde(rename = "ref", default)]
        at: Option<String>,
        /// Id of the job.
        #[serde(default)]
        job: Option<String>,
        #[serde(flatten)]
        words: CommitWords,
    },

    /// Removes objects of the catalog that no ref leads to. -> `{"removed", "kept"}`
    #[serde(rename = "gc")]
    Gc {
        /// Objects written or needed within this time stay.
        grace_seconds: u64,
        /// Only counts.
        #[serde(default)]
        dry_run: bool,
    },

    /// Makes few large files of the small ones of a table; the rows stay. -> [`Compacted`]; events: `job`
    #[serde(rename = "table.compact")]
    TableCompact {
        name: String,
        branch: String,
        #[serde(default)]
        namespace: Option<String>,
        /// Files below this size are small.
        small_bytes: u64,
    },
    /// Lets a table forget snapshots. -> [`Expired`]; events: `job`
    #[serde(rename = "table.expire")]
    TableExpire {
        name: String,
        branch: String,
        #[serde(default)]
        namespace: Option<String>,
        /// Younger ones stay.
        older_than_seconds: u64,
        /// So many of the newest stay, whatever their age.
        keep_last: u64,
    },

    /// -> `[{"name"}]`
    #[serde(rename = "namespace.list")]
    NamespaceList {
        #[serde(rename = "ref")]
        at: String,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        limit: Option<u64>,
    },
    /// -> `Ref` of the branch
    #[serde(rename = "namespace.create")]
    NamespaceCreate {
        name: String,
        branch: String,
        #[serde(default)]
        if_not_exists: bool,
        #[serde(flatten)]
        words: CommitWords,
    },
    /// -> `Ref` of the branch
    #[serde(rename = "namespace.delete")]
    NamespaceDelete {
        name: String,
        branch: String,
        #[serde(default)]
        if_exists: bool,
        #[serde(flatten)]
        words: CommitWords,
    },

    /// -> `[{"namespace","name","kind"}]` (no metadata file is opened)
    #[serde(rename = "table.list")]
    TableList {
        #[serde(rename = "ref")]
        at: String,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        limit: Option<u64>,
    },
    /// -> [`Table`]
    #[serde(rename = "table.get")]
    TableGet {
        name: String,
        #[serde(rename = "ref")]
        at: String,
        #[serde(default)]
        namespace: Option<String>,
    },
    /// -> `Ref` of the branch
    #[serde(rename = "table.delete")]
    TableDelete {
        name: String,
        branch: String,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        if_exists: bool,
        #[serde(flatten)]
        words: CommitWords,
    },
    /// Puts tables on a branch as they are at another ref, in one commit. -> `Ref` of the branch
    #[serde(rename = "table.revert")]
    TableRevert {
        names: Vec<String>,
        #[serde(default)]
        namespace: Option<String>,
        /// Any ref.
        source: String,
        into: String,
        /// Tables that are there may be replaced.
        #[serde(default)]
        replace: bool,
        #[serde(flatten)]
        words: CommitWords,
    },
    /// Infers a schema from files and creates an empty table. -> [`Table`]
    #[serde(rename = "table.create")]
    TableCreate {
        name: String,
        /// Path, glob, folder or `file://` URI of Parquet, CSV or JSON lines files (absolute).
        search_uri: String,
        branch: String,
        #[serde(default)]
        namespace: Option<String>,
        /// `"day(ts), country"`
        #[serde(default)]
        partitioned_by: Option<String>,
        /// `"ts desc, country"`
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sorted_by: Option<String>,
        #[serde(default)]
        replace: bool,
    },
    /// The same, but only says what would be created. -> [`TableCreatePlan`]
    #[serde(rename = "table.create-plan")]
    TablePlan {
        name: String,
        search_uri: String,
        branch: String,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        partitioned_by: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sorted_by: Option<String>,
        #[serde(default)]
        replace: bool,
    },
    /// Creates the table of a plan. -> [`Table`]
    #[serde(rename = "table.create-plan-apply")]
    TableApply {
        /// YAML.
        plan: String,
    },
    /// Puts a table of another engine on a branch, to be read. -> [`Table`]
    #[serde(rename = "table.create-external")]
    TableExternal {
        name: String,
        /// Path or URI of an Iceberg metadata file (absolute): a table of another engine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata_uri: Option<String>,
        /// Files, folders and globs of Parquet files (absolute), which make the table. One of the two is given.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        search_patterns: Vec<String>,
        branch: String,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        overwrite: bool,
    },
    /// What commits did to a table, newest first. -> `[TableChange]`
    #[serde(rename = "table.history")]
    TableHistory {
        name: String,
        #[serde(rename = "ref")]
        at: String,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        limit: Option<u64>,
    },
    /// Appends files to a table. -> [`ImportResult`]; events: `log`
    #[serde(rename = "table.import")]
    TableImport {
        name: String,
        search_uri: String,
        branch: String,
        #[serde(default)]
        namespace: Option<String>,
        #[serde(default)]
        continue_on_error: bool,
        #[serde(default)]
        import_duplicate_files: bool,
        #[serde(default)]
        best_effort: bool,
    },

    /// -> `[Job]`, newest first
    #[serde(rename = "job.list")]
    JobList {
        /// Ids or prefixes; empty: all.
        #[serde(default)]
        ids: Vec<String>,
        /// `run`, `query`, `table-create`, `table-plan-create`, `table-plan-apply`, `table-import`, `external-table-create`
        #[serde(default)]
        kinds: Vec<String>,
        /// `RUNNING SUCCESS FAILED CANCELLED`
        #[serde(default)]
        statuses: Vec<String>,
        #[serde(default)]
        limit: Option<u64>,
    },
    /// -> [`Job`]
    #[serde(rename = "job.get")]
    JobGet { id: String },
    /// -> `[{"timestamp","node","stream","line"}]`
    #[serde(rename = "job.logs")]
    JobLogs { id: String },
    /// Cancels and waits until it has ended. -> [`Job`]
    #[serde(rename = "job.stop")]
    JobStop { id: String },
}

/// A run or a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Absolute path of the project folder.
    pub project_dir: String,
    /// Branch to run on (a plan or a dry run may take any ref).
    #[serde(rename = "ref")]
    pub at: String,
    #[serde(default)]
    pub namespace: Option<String>,
    /// Values as text, read by the declared type.
    #[serde(default)]
    pub parameters: std::collections::BTreeMap<String, String>,
    /// Values of secret parameters, which a plan needs none of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Sealed>,
    #[serde(default = "yes")]
    pub strict: bool,
    #[serde(default)]
    pub dry_run: bool,
    /// `off`, `on` (= head), `head` or `tail`.
    #[serde(default = "off")]
    pub preview: String,
    #[serde(default)]
    pub detach: bool,
    /// Processors of each function, whatever it declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory limit of each model, whatever it declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

fn yes() -> bool {
    true
}

fn off() -> String {
    "off".into()
}

/// What happens while a request runs: `{"event": "log", …}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The job exists now.
    Job { job_id: String },
    /// The plan: nodes in topological order, and its drawing.
    Plan { nodes: Vec<PlannedNode>, drawing: String },
    /// A node's state changed.
    Node(NodeResult),
    /// A line that user code printed, or the platform says of a node (`stream`: `stdout`, `stderr`, `system`).
    Log { node: String, stream: String, line: String },
    /// Rows of a node's result, as text.
    Preview { node: String, text: String },
    /// Something the user should know; always actionable.
    Warning { text: String },
    /// The rows of a query are about to come through the descriptor beside it.
    Stream { job_id: String },
}

/// A node as the client must know it to draw progress.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedNode {
    pub name: String,
    pub kind: String,
    pub inputs: Vec<String>,
}

/// What `forebay run -o json` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunResult {
    /// 1
    pub schema: u32,
    pub job_id: String,
    /// `SUCCESS FAILED CANCELLED`, and `RUNNING` for a detached run
    pub status: String,
    /// The target ref after the run.
    #[serde(rename = "ref")]
    pub at: Option<Ref>,
    pub nodes: Vec<NodeResult>,
    /// The environments of its Python functions. Their locks are kept with the job: `environments/<hash>.lock`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<Environment>,
    /// Bytes of all nodes' tables, by how they got into shared memory. Records of older versions have zeros here.
    #[serde(default)]
    pub bytes: Bytes,
    pub error: Option<Error>,
    /// The temporary branch of a failed run, kept for inspection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_branch: Option<String>,
    /// Tables on `failed_branch` as the run left them: those it had written before it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept_tables: Vec<String>,
}

/// An exact environment that functions of a run had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Names interpreter and packages; `forebay env show` knows it.
    pub hash: String,
    /// `3.11.7`
    pub python: String,
    /// Package to version.
    pub packages: std::collections::BTreeMap<String, String>,
    /// Its versions are those of the project's `forebay.lock`.
    pub pinned: bool,
}

/// One node of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeResult {
    pub name: String,
    /// `scan sql python expectation write`
    pub kind: String,
    /// `waiting running done failed cancelled skipped`
    pub status: String,
    pub rows: Option<u64>,
    pub bytes: Option<u64>,
    pub seconds: Option<f64>,
    pub bytes_copied: u64,
    pub bytes_referenced: u64,
    pub bytes_reshared: u64,
    pub bytes_inline: u64,
    /// Why bytes were copied; adds up to `bytes_copied`.
    #[serde(default)]
    pub copies: Vec<Copied>,
    /// Bytes of input columns that were made anew for the library that reads them, in another layout.
    #[serde(default)]
    pub bytes_converted: u64,
    /// From the received call to the input tables held, inside the function.
    #[serde(default)]
    pub receive_seconds: Option<f64>,
    /// From the function's return to its table published: trim and seal included.
    #[serde(default)]
    pub publish_seconds: Option<f64>,
    /// `none` until results are cached.
    pub cache: String,
}

impl NodeResult {
    /// The four counts of bytes.
    #[must_use]
    pub fn moved(&self) -> Bytes {
        Bytes {
            referenced: self.bytes_referenced,
            reshared: self.bytes_reshared,
            copied: self.bytes_copied,
            inline: self.bytes_inline,
        }
    }
}

/// A ref and the commit it points to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    pub name: String,
    pub hash: String,
    /// `BRANCH TAG DETACHED`
    #[serde(rename = "type", default)]
    pub kind: String,
    /// For the branch of a failed run: the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_job: Option<String>,
    /// Only merges move this branch, and it stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
}

/// One commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Commit {
    pub hash: String,
    pub message: String,
    pub author: Actor,
    /// RFC 3339, UTC.
    pub authored_date: String,
    pub parent_hashes: Vec<String>,
    pub properties: Properties,
    /// The job, if a failed run left this commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_job: Option<String>,
}

/// One table at a ref.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Table {
    pub id: String,
    pub namespace: String,
    pub name: String,
    /// `TABLE`, or `EXTERNAL_TABLE`, which is read only
    pub kind: String,
    pub fields: Vec<Field>,
    /// `[{"name","transform"}]`
    pub partitions: Vec<Map<String, Value>>,
    /// `["ts desc", "country nulls last"]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sort_order: Vec<String>,
    pub records: Option<u64>,
    /// Bytes of the data files.
    pub size: Option<u64>,
    pub snapshots: u64,
    pub metadata_location: String,
    pub current_snapshot_id: Option<i64>,
    pub current_schema_id: i32,
    /// RFC 3339, UTC.
    pub last_updated_at: String,
    pub properties: Properties,
    pub comment: Option<String>,
}

/// One column of a table; `type` is an Iceberg type name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Field {
    pub id: i32,
    pub name: String,
    pub required: bool,
    #[serde(rename = "type")]
    pub kind: String,
    pub doc: Option<String>,
}

/// `{"logical": …, "physical": …, "drawing": …}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanResult {
    pub schema: u32,
    pub logical: Value,
    pub physical: Value,
    /// Text drawing of both.
    pub drawing: String,
}

/// Describes the table beside it. Of a stream, which describes itself, only the number of rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryResult {
    pub job_id: String,
    /// Arrow columns: `[{"name","type","nullable"}]`
    pub fields: Vec<Map<String, Value>>,
    pub rows: u64,
    /// `[{"id","length"}]`, in the order of the frame's descriptors.
    pub segments: Vec<Value>,
}

/// A tracked piece of work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    /// `run query table-create table-plan-create table-plan-apply table-import table-compact table-expire external-table-create`
    pub kind: String,
    pub user: String,
    /// `RUNNING SUCCESS FAILED CANCELLED`
    pub status: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub finished_at: Option<String>,
    pub lake: String,
    #[serde(rename = "ref")]
    pub at: Option<String>,
    pub error: Option<Error>,
    /// The run's result, once there is one.
    pub result: Option<Value>,
}

/// An error over the wire; the twin of `types::Report`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub code: String,
    pub message: String,
    pub causes: Vec<String>,
    pub hint: Option<String>,
    /// `{"file","line","column","excerpt"}`
    pub at: Option<Place>,
    /// `request usage platform`
    pub fault: String,
    /// Further errors found at the same time (a plan reports all).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Error>,
    /// The user's traceback, if their code raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// The node that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// A place in the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub excerpt: Option<String>,
}
