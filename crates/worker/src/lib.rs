//! The worker: executes physical plans, each node in a process of its own, and touches the data; it never sees the catalog.
//!
//! ```text
//! control ── Execution ──▶ Worker::execute ── events ──▶ control
//!                             │ sched: what starts when
//!                             ├─ one thread per environment that is made
//!                             └─ one thread per process, which starts, calls and buries it
//! ```
//!
//! Invariants: when [`Worker::execute`] returns, no process of the run is left; a table is visible to a function only
//! after its segment is sealed; whether what was written may be committed is said by the status.

mod access;
mod call;
mod event;
mod gate;
mod query;
mod run;
mod seal;
mod secrets;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_envs::Environments;
use forebay_plan::physical::{NodeId, PhysicalPlan};
use forebay_runtime::{Builds, FunctionProcess, Launch, Launcher, ProcessLimits, Program, PythonRuntime, Sandbox, Zygotes};
use forebay_sipc::call::{Call, Preview, Reply};
use forebay_types::{Coded, Fault, Report};

pub use call::new_location;
pub use event::{
    Compacted, Imported, KeptTable, NodeError, NodeOutcome, NodeStatus, Outcome, RunStatus, WorkerEvent, WrittenTable,
};
pub use forebay_envs::{Environment, parse_bytes};
pub use forebay_runtime::{CancelToken, Mode as SandboxMode, Settings as SandboxSettings, Stream, ZygoteStatus};
pub use forebay_sipc::call::QueryTable;
pub use query::{Answered, Bounds, Query};
pub use seal::{Error as SealError, Keys, PublicKey, SEALED_BYTES_MAX, Sealed, seal};
pub use secrets::{SECRET_BYTES_MIN, Secrets};

use store::SegmentIds;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Environments and copies of the Python runtime.
    pub cache_dir: PathBuf,
    /// Functions at the same time, per run; `None`: one per processor.
    pub parallelism: Option<usize>,
    /// Memory of all functions of a run that declare theirs; `None`: no admission by memory.
    pub memory_bytes_max: Option<u64>,
    /// The binary of system functions; `None`: this program, also when its file has been replaced since it was started.
    pub executor: Option<PathBuf>,
    /// Starts functions from a fork of this process, not from a fresh one: for tests, whose program has no such role.
    pub forked_launcher: bool,
    /// The uv binary; `None`: it is looked for.
    pub uv: Option<PathBuf>,
    /// Never touch the network for environments.
    pub offline: bool,
}

impl Options {
    /// Defaults, with this cache folder.
    #[must_use]
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            cache_dir: cache_dir.into(),
            parallelism: None,
            memory_bytes_max: None,
            executor: None,
            forked_launcher: false,
            uv: None,
            offline: false,
        }
    }
}

/// How object stores are reached.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    /// Settings by name, some of them secret.
    pub options: forebay_sipc::call::Storage,
    /// Files that these settings point to.
    pub files: Vec<PathBuf>,
}

/// A plan to run.
#[derive(Debug, Clone)]
pub struct Execution {
    /// What.
    pub plan: PhysicalPlan,
    /// The project's files as they were when the plan was made; must not change meanwhile.
    pub project_dir: PathBuf,
    /// For messages.
    pub job_id: String,
    /// Folder for new tables, a path or `file://` URI.
    pub tables_root: String,
    /// Files and folders, here or in object stores, that tables of others lie in.
    pub external_roots: Vec<String>,
    /// Failed expectations and mismatching columns are errors.
    pub strict: bool,
    /// Rows of results to show.
    pub preview: Option<Preview>,
    /// Nodes whose tables the caller wants.
    pub keep: Vec<NodeId>,
    /// How functions are confined.
    pub sandbox: SandboxSettings,
    /// How object stores are reached: told to our own functions that need it, never to user code.
    pub storage: Storage,
    /// Values of the plan's secret parameters.
    pub secrets: Secrets,
    /// What the operators of a SQL model may use that declares no memory, and where they spill.
    pub bounds: Bounds,
}

/// Files to append to a table.
#[derive(Debug, Clone)]
pub struct Import {
    /// Shown in messages, usually the table's name.
    pub name: String,
    /// Metadata file of the table.
    pub base: String,
    /// URIs or absolute paths.
    pub files: Vec<String>,
    /// Columns the table does not have are left out.
    pub best_effort: bool,
    /// Files that cannot be imported are left out.
    pub continue_on_error: bool,
    /// Table properties to set.
    pub properties: Vec<(String, String)>,
    /// How its process is confined.
    pub sandbox: SandboxSettings,
    /// How object stores are reached.
    pub storage: Storage,
}

/// A table whose small files are rewritten.
#[derive(Debug, Clone)]
pub struct Compact {
    /// Shown in messages, usually the table's name.
    pub name: String,
    /// Metadata file of the table.
    pub base: String,
    /// Files below this size are small.
    pub small_bytes: u64,
    /// How its process is confined.
    pub sandbox: SandboxSettings,
    /// How object stores are reached.
    pub storage: Storage,
}

/// The worker could not be opened, or was given a plan it cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache folder.
    #[error(transparent)]
    Environments(#[from] forebay_envs::Error),
    /// A defect of the planner.
    #[error("could not run the plan")]
    Plan(#[from] forebay_sched::Error),
}

impl Coded for Error {
    fn report(&self) -> Report {
        match self {
            Self::Environments(error) => error.report(),
            Self::Plan(error) => Report::new("RUN0022", Fault::Request, self.to_string())
                .with_cause(error)
                .with_hint("split the project into smaller ones; with few models, this is a defect of Forebay"),
        }
    }
}

/// Executes plans. Shared by all jobs of a process.
#[derive(Debug)]
pub struct Worker {
    options: Options,
    parallelism: usize,
    environments: Environments,
    runtime: PythonRuntime,
    segment_ids: SegmentIds,
    sandbox: Arc<Sandbox>,
    zygotes: Zygotes,
}

impl Worker {
    /// Opens the caches.
    pub fn new(options: Options) -> Result<Self, Error> {
        let sandbox = Arc::new(Sandbox::new(if options.forked_launcher {
            Launcher::forked()
        } else {
            Launcher::new(Path::new(forebay_runtime::OWN_PROGRAM))
        }));
        let environments = Environments::open(forebay_envs::Options {
            confinement: Some(Arc::new(Builds::new(Arc::clone(&sandbox)))),
            cache_dir: options.cache_dir.clone(),
            uv: options.uv.clone(),
            offline: options.offline,
            ..forebay_envs::Options::default()
        })?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            parallelism: options.parallelism.unwrap_or(processors).max(1),
            runtime: PythonRuntime::new(&options.cache_dir),
            segment_ids: SegmentIds::default(),
            environments,
            zygotes: Zygotes::new(Arc::clone(&sandbox), &options.cache_dir),
            sandbox,
            options,
        })
    }

    /// Runs a plan to its end, whatever the end. Blocks; events come from several threads. Neither they nor the outcome hold a
    /// secret of the run.
    pub fn execute(&self, execution: &Execution, events: &(dyn Fn(WorkerEvent) + Sync), cancel: &CancelToken) -> Outcome {
        let secrets = &execution.secrets;
        let masked = |event| events(secrets.event(event));
        secrets.outcome(run::execute(self, execution, &masked, cancel))
    }

    /// Gets functions ready ahead, for projects as they were run last: to be called when nothing runs.
    pub fn rest(&self) {
        self.zygotes.refill(self.parallelism);
    }

    /// Warm interpreters, and what became of them.
    #[must_use]
    pub fn zygotes(&self) -> Vec<ZygoteStatus> {
        self.zygotes.status()
    }

    /// Appends files to a table, in a process of its own.
    pub fn import(
        &self,
        import: &Import,
        events: &(dyn Fn(WorkerEvent) + Sync),
        cancel: &CancelToken,
    ) -> Result<Imported, NodeError> {
        let node = format!("import:{}", import.name);
        let call = Call {
            node: node.clone(),
            segments: Vec::new(),
            inputs: Vec::new(),
            work: forebay_sipc::call::Work::Import {
                base: import.base.clone(),
                files: import.files.clone(),
                best_effort: import.best_effort,
                continue_on_error: import.continue_on_error,
                properties: import.properties.clone(),
            },
            output_segment: self.segment_ids.next(),
            preview: None,
            storage: access::import_storage(import),
        };
        match self.alone(&call, &access::import(import), &import.sandbox, events, cancel)? {
            Reply::Imported { metadata_location, rows, files, failed } => Ok(Imported { metadata_location, rows, files, failed }),
            _ => Err(run::wrong_answer(&node, "an import answered with something else")),
        }
    }

    /// Rewrites the small files of a table, in a process of its own.
    pub fn compact(
        &self,
        compact: &Compact,
        events: &(dyn Fn(WorkerEvent) + Sync),
        cancel: &CancelToken,
    ) -> Result<Compacted, NodeError> {
        let node = format!("compact:{}", compact.name);
        let call = Call {
            node: node.clone(),
            segments: Vec::new(),
            inputs: Vec::new(),
            work: forebay_sipc::call::Work::Compact { base: compact.base.clone(), small_bytes: compact.small_bytes },
            output_segment: self.segment_ids.next(),
            preview: None,
            storage: access::compact_storage(compact),
        };
        match self.alone(&call, &access::compact(compact), &compact.sandbox, events, cancel)? {
            Reply::Compacted { metadata_location, files_before, files_after, delete_files, rows } => {
                Ok(Compacted { metadata_location, files_before, files_after, delete_files, rows })
            }
            _ => Err(run::wrong_answer(&node, "a compaction answered with something else")),
        }
    }

    /// Makes one call of one of our own functions, which takes no tables.
    fn alone(
        &self,
        call: &Call,
        access: &forebay_runtime::Access,
        settings: &SandboxSettings,
        events: &(dyn Fn(WorkerEvent) + Sync),
        cancel: &CancelToken,
    ) -> Result<Reply, NodeError> {
        let program = self.system_program();
        let node = call.node.as_str();
        let launch = Launch {
            node,
            program: &program,
            folder: &self.options.cache_dir,
            limits: ProcessLimits::default(),
            sandbox: &self.sandbox,
            settings,
            access,
            zygotes: None,
        };
        let answer = FunctionProcess::spawn(&launch, cancel).and_then(|process| {
            let mut on_line =
                |stream, line: &str| events(WorkerEvent::Log { node: node.to_owned(), stream, line: line.to_owned() });
            process.call(call, Vec::new(), Vec::new(), &mut on_line)
        });
        let (answer, _remains) = answer.map_err(|failure| run::node_error(&failure))?;
        Ok(answer.reply)
    }

    fn system_program(&self) -> Program {
        let binary = self.options.executor.clone().unwrap_or_else(|| PathBuf::from(forebay_runtime::OWN_PROGRAM));
        Program::System { binary }
    }
}

/// Limits of a node's process.
fn process_limits(resources: &forebay_plan::physical::Resources) -> ProcessLimits {
    let threads = resources.cpus.map(|cpus| cpus.ceil().clamp(1.0, 1024.0));
    ProcessLimits {
        timeout: resources.timeout_seconds.map(Duration::from_secs),
        memory_bytes: resources.memory_bytes,
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 1 and 1024
        threads: threads.map(|threads| threads as usize),
    }
}
