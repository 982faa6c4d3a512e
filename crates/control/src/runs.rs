//! A run as a transaction: everything happens on a branch of its own, and the target moves once, at the end, or not at all.
//!
//! ```text
//! target ──●──────────────────────────────●  one commit with every written table, by compare-and-swap; other tables
//!           \                                 may have moved meanwhile, a conflict on one of these fails the run
//!            forebay-run-<job> ─────────×       failed or cancelled: a tainted commit with what was written, kept to look at
//! ```
//!
//! Invariants: the target is moved by that commit alone; no commit with tables of a run that did not succeed can be
//! merged, because none is made untainted; a run that writes nothing commits nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_catalog::{Changes, CommitInfo, Ref, TableEntry};
use forebay_lake::StorageOptions;
use forebay_plan::LogicalPlan;
use forebay_plan::logical::Source;
use forebay_plan::physical::{PhysicalPlan, Strategy, Work};
use forebay_sipc::call::Preview;
use forebay_types::{BranchName, RefSpec, TableName};
use forebay_worker::{CancelToken, Execution, NodeOutcome, Outcome, RunStatus, Secrets, WorkerEvent, WrittenTable};
use serde_json::json;

use crate::api::{self, CommitWords, Event, NodeResult, PlanResult, PlannedNode, Properties, RunResult};
use crate::connection::Connection;
use crate::error::Error;
use crate::jobs::{self, JobHandle, NewJob};
use crate::limits::RECOVERY_COMMITS_MAX;
use crate::project::{self, Project};
use crate::replay::{self, Append};
use crate::service::{Lake, Service, Session, reports};
use crate::{secrets, snapshots, tables};

pub(crate) use forebay_catalog::JOB_PROPERTY;

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

/// Plans a project without running it.
pub(crate) fn plan(session: &Session<'_>, run: &api::Run) -> Result<PlanResult, api::Error> {
    let at = session.resolve(&run.at)?;
    let planned = planned(session, run, None, &at)?;
    Ok(PlanResult {
        schema: 1,
        logical: forebay_plan::render::logical_json(&planned.logical),
        physical: forebay_plan::render::physical_json(&planned.physical),
        drawing: forebay_plan::render::drawing(&planned.logical, &planned.physical),
    })
}

/// Runs a project. A detached run goes on in a thread of its own, and its job is answered at once.
pub(crate) fn run(session: &Session<'_>, mut run: api::Run) -> Result<RunResult, api::Error> {
    let secrets = secrets::open(session.service, run.secrets.take())?;
    let new = NewJob { kind: "run", user: &session.author.name, lake: &session.lake.uri, at: &run.at };
    let job = session.service.jobs.start(&new)?;
    if run.detach {
        return detach(session, run, secrets, job);
    }
    let _watch = session.connection.watch(job.cancel()).map_err(Error::storage("watch", "the connection"))?;
    Ok(run_job(session, &run, secrets, job))
}

/// Does the work of a job and writes its end down.
pub(crate) fn run_job(session: &Session<'_>, run: &api::Run, secrets: Secrets, job: JobHandle) -> RunResult {
    let result = Attempt { session, run, secrets, job: &job }.end();
    let value = serde_json::to_value(&result).expect("a result is JSON");
    // Only now may others see the end.
    job.finish(&result.status, result.error.clone(), Some(value));
    session.service.rest();
    result
}

fn detach(session: &Session<'_>, run: api::Run, secrets: Secrets, job: JobHandle) -> Result<RunResult, api::Error> {
    let answer = RunResult { at: None, ..empty_result(&job, jobs::RUNNING) };
    let (service, lake, author) = (Arc::clone(session.service), Arc::clone(&session.lake), session.author.clone());
    let storage = session.storage.clone();
    let work = move || {
        let connection = Connection::none();
        let session = Session { service: &service, lake, author, storage, connection: &connection };
        run_job(&session, &run, secrets, job);
    };
    let spawned = std::thread::Builder::new().name("detached".to_owned()).spawn(work);
    spawned.map_err(Error::storage("start a thread of", "/proc/self"))?;
    Ok(answer)
}

fn empty_result(job: &JobHandle, status: &str) -> RunResult {
    RunResult {
        schema: 1,
        job_id: job.id().to_owned(),
        status: status.to_owned(),
        at: None,
        nodes: Vec::new(),
        environments: Vec::new(),
        bytes: api::Bytes::default(),
        error: None,
        failed_branch: None,
        kept_tables: Vec::new(),
    }
}

struct Planned {
    project: Project,
    logical: LogicalPlan,
    physical: PhysicalPlan,
    external_roots: Vec<String>,
}

fn planned(session: &Session<'_>, run: &api::Run, secrets: Option<&Secrets>, at: &Ref) -> Result<Planned, api::Error> {
    let home = &session.service.home;
    let lake = session.lake.uri.strip_prefix("file://").map(PathBuf::from);
    let others: Vec<PathBuf> = lake.into_iter().chain(home.root().map(Path::to_owned)).collect();
    let project = project::snapshot(Path::new(&run.project_dir), &home.projects_dir(), &others)?;
    let options = forebay_plan::Options {
        namespace: run.namespace.clone(),
        parameters: run.parameters.clone(),
        secrets: secrets.map(|secrets| secrets.names().map(str::to_owned).collect()),
        strict: run.strict,
        dry_run: run.dry_run,
    };
    let logical = forebay_plan::logical(&project.sources, &options).map_err(reports)?;
    let taken = snapshots::take(session, &logical, &at.hash)?;
    let mut physical = forebay_plan::physical(&logical, &taken.snapshot).map_err(reports)?;
    physical.limit(run.cpus, run.memory_bytes);
    Ok(Planned { project, logical, physical, external_roots: taken.external_roots })
}

/// One run on its way.
struct Attempt<'a> {
    session: &'a Session<'a>,
    run: &'a api::Run,
    secrets: Secrets,
    job: &'a JobHandle,
}

/// What stopped a run.
struct Stopped {
    error: api::Error,
    nodes: Vec<NodeResult>,
    /// What had been written, to be looked at.
    written: Vec<WrittenTable>,
    failed_branch: Option<String>,
    kept_tables: Vec<String>,
}

impl From<api::Error> for Stopped {
    fn from(error: api::Error) -> Self {
        Self { error, nodes: Vec::new(), written: Vec::new(), failed_branch: None, kept_tables: Vec::new() }
    }
}

impl Attempt<'_> {
    fn end(&self) -> RunResult {
        self.session.emit(self.job, &Event::Job { job_id: self.job.id().to_owned() });
        let mut result = empty_result(self.job, jobs::SUCCESS);
        match self.attempt() {
            Ok(nodes) => result.nodes = nodes,
            Err(stopped) => {
                result.nodes = stopped.nodes;
                result.failed_branch = stopped.failed_branch;
                result.kept_tables = stopped.kept_tables;
                // Whatever it was that broke when everything was killed, the reason is the cancel.
                let cancelled = self.job.cancel().why().map(|why| api::Error::from(Error::Cancelled { why }));
                let is_cancelled = cancelled.is_some();
                result.status = if is_cancelled { jobs::CANCELLED } else { jobs::FAILED }.to_owned();
                result.error = Some(cancelled.unwrap_or(stopped.error));
            }
        }
        result.environments = self.job.environments();
        result.bytes = result.nodes.iter().map(NodeResult::moved).sum();
        // The target as it is now, which is another's work if this run failed.
        result.at = self.session.resolve(&self.run.at).ok().map(crate::refs::wire);
        result
    }

    fn attempt(&self) -> Result<Vec<NodeResult>, Stopped> {
        self.check_cancelled()?;
        let at = if self.run.dry_run {
            self.session.resolve(&self.run.at)?
        } else {
            let (name, head) = self.session.branch(&self.run.at)?;
            self.refuse_failed(&name, &head)?;
            self.refuse_protected(&name, &head)?;
            head
        };
        let preview = preview(&self.run.preview).map_err(api::Error::from)?;
        let planned = planned(self.session, self.run, Some(&self.secrets), &at)?;
        self.session.emit(self.job, &plan_event(&planned));
        for text in &planned.logical.warnings {
            self.session.emit(self.job, &Event::Warning { text: text.clone() });
        }
        self.refuse_external(&planned, &at)?;
        self.check_cancelled()?;
        if self.run.dry_run {
            let outcome = self.execute(&planned, preview)?;
            return self.delivered(outcome).map(|(nodes, _)| nodes);
        }
        let temporary = Temporary::create(self.session, self.job.id(), &at)?;
        let done = self.execute(&planned, preview).and_then(|outcome| {
            let (nodes, written) = self.delivered(outcome)?;
            match self.publish(&planned, &at, &written) {
                Ok(()) => Ok(nodes),
                Err(error) => Err(Stopped { nodes, written, ..error.into() }),
            }
        });
        match done {
            Ok(nodes) => {
                temporary.delete();
                Ok(nodes)
            }
            Err(mut stopped) => {
                stopped.kept_tables = self.leave(&planned, &temporary, &at, &stopped.written);
                stopped.failed_branch = Some(temporary.name.to_string());
                Err(stopped)
            }
        }
    }

    fn check_cancelled(&self) -> Result<(), api::Error> {
        self.job.cancel().why().map_or(Ok(()), |why| Err(Error::Cancelled { why }.into()))
    }

    /// The branch of a failed run is there to look at: what runs on it could not be merged either.
    fn refuse_failed(&self, name: &BranchName, head: &Ref) -> Result<(), api::Error> {
        match &head.failed_job {
            None => Ok(()),
            Some(job) => Err(told(forebay_catalog::Error::Tainted {
                action: format!("run on `{name}`"),
                branch_or_commit: name.to_string(),
                job: job.clone(),
            })),
        }
    }

    /// Tables of other engines are only read.
    fn refuse_external(&self, planned: &Planned, at: &Ref) -> Result<(), api::Error> {
        let tree = self.session.catalog().tree(&at.hash).map_err(told)?;
        let written = writes(&planned.physical).filter_map(|write| tree.tables.get_key_value(&write.table));
        written.map(|(table, entry)| tables::check_writable(table, entry)).collect::<Result<(), Error>>().map_err(Into::into)
    }

    /// What could not be committed in the end is not begun.
    fn refuse_protected(&self, name: &BranchName, head: &Ref) -> Result<(), api::Error> {
        if head.protected {
            let action = format!("run on `{name}`");
            return Err(told(forebay_catalog::Error::ProtectedBranch { action, branch: name.clone() }));
        }
        Ok(())
    }

    fn execute(&self, planned: &Planned, preview: Option<Preview>) -> Result<Outcome, Stopped> {
        let execution = Execution {
            plan: planned.physical.clone(),
            project_dir: planned.project.dir.clone(),
            job_id: self.job.id().to_owned(),
            tables_root: self.session.lake.tables_root.clone(),
            external_roots: planned.external_roots.clone(),
            strict: self.run.strict,
            preview,
            keep: Vec::new(),
            sandbox: self.session.service.sandbox()?,
            storage: self.session.worker_storage(),
            secrets: self.secrets.clone(),
            bounds: self.session.service.query_bounds()?,
        };
        Ok(execute(self.session, self.job, &execution)?)
    }

    /// The nodes and tables of a run that did what it should; else why it did not.
    fn delivered(&self, outcome: Outcome) -> Result<(Vec<NodeResult>, Vec<WrittenTable>), Stopped> {
        let nodes: Vec<NodeResult> = outcome.nodes.iter().map(node_result).collect();
        // A cancel that came when the last function had ended still comes before the merge.
        if outcome.status == RunStatus::Success && self.job.cancel().why().is_none() {
            return Ok((nodes, outcome.written));
        }
        let error = outcome_error(&outcome);
        Err(Stopped { nodes, written: outcome.written, ..error.into() })
    }

    /// One commit with every table, straight onto the target: there is no moment at which it is complete and lies elsewhere.
    fn publish(&self, planned: &Planned, at: &Ref, written: &[WrittenTable]) -> Result<(), api::Error> {
        if written.is_empty() {
            return Ok(());
        }
        let changes = self.changes(planned, at, written)?;
        let info = self.run_info(&format!("Run {}", planned.logical.project), planned, &changes);
        let target: BranchName = self.run.at.parse().map_err(Error::from)?;
        let appends = appends(planned, written);
        replay::commit(self.session, &target, &at.hash, changes, &info, &appends).map(drop)
    }

    /// Leaves what was written on the temporary branch, tainted: to be looked at, not to be merged. Gives the tables' names.
    fn leave(&self, planned: &Planned, temporary: &Temporary<'_>, at: &Ref, written: &[WrittenTable]) -> Vec<String> {
        let changes = self.changes(planned, at, written).unwrap_or_default();
        // Without its tables if they cannot be committed (a full disk): what counts is that the branch is marked.
        for changes in [changes, Changes::default()] {
            let info = self.run_info("Leave a failed run", planned, &changes);
            match self.session.catalog().commit(&temporary.name, &at.hash, &changes, &info, Some(self.job.id())) {
                Ok(_) => return changes.put.keys().map(ToString::to_string).collect(),
                Err(error) => tracing::error!(branch = %temporary.name, %error, "could not seal the branch of a failed run"),
            }
        }
        Vec::new()
    }

    /// What the written tables are to the catalog.
    fn changes(&self, planned: &Planned, at: &Ref, written: &[WrittenTable]) -> Result<Changes, api::Error> {
        let before = self.session.catalog().tree(&at.hash).map_err(told)?;
        let put = written.iter().map(|table| {
            let kept = before.tables.get(&table.table).filter(|_| !replaces(&planned.physical, table));
            let properties = kept.map(|entry| entry.properties.clone()).unwrap_or_default();
            (table.table.clone(), TableEntry { metadata_location: table.metadata_location.clone(), properties })
        });
        Ok(Changes { put: put.collect(), ..Changes::default() })
    }

    fn run_info(&self, subject: &str, planned: &Planned, changes: &Changes) -> CommitInfo {
        let mut info = self.info(subject);
        if !changes.put.is_empty() {
            let tables: Vec<String> = changes.put.keys().map(|table| format!("- {table}")).collect();
            info.message = format!("{}\n\n{}", info.message, tables.join("\n"));
        }
        info.properties.extend(self.properties(planned));
        info
    }

    fn info(&self, message: &str) -> CommitInfo {
        let mut info = self.session.info(CommitWords::default(), message.to_owned());
        info.properties.insert(JOB_PROPERTY.to_owned(), self.job.id().to_owned());
        info
    }

    fn properties(&self, planned: &Planned) -> Properties {
        let parameters: BTreeMap<&str, String> =
            planned.logical.parameters.iter().map(|(name, value)| (name.as_str(), literal(value))).collect();
        let mut properties = Properties::new();
        properties.insert("forebay.project".to_owned(), planned.logical.project.clone());
        properties.insert("forebay.project-hash".to_owned(), planned.project.hash.clone());
        properties.insert("forebay.parameters".to_owned(), json!(parameters).to_string());
        properties
    }
}

/// The tables whose changes may commute with what others do meanwhile: the run did not read them, and does not replace
/// them. Whether they do, their snapshots tell (see `lake::replay`).
fn appends(planned: &Planned, written: &[WrittenTable]) -> BTreeMap<TableName, Append<'static>> {
    let inputs = planned.logical.nodes.iter().flat_map(|node| &node.inputs);
    let read: BTreeSet<&TableName> = inputs
        .filter_map(|input| match &input.source {
            Source::Lake(table) => Some(table),
            Source::Node(_) => None,
        })
        .collect();
    let changed: BTreeSet<&TableName> = writes(&planned.physical)
        .filter(|write| write.strategy != Strategy::Replace && !read.contains(&write.table))
        .map(|write| &write.table)
        .collect();
    let found = written.iter().filter(|table| changed.contains(&table.table)).filter_map(|table| {
        let remember = |now: &TableEntry| Some(now.properties.clone());
        Some((table.table.clone(), Append { base: table.base.clone()?, remember: Box::new(remember) }))
    });
    found.collect()
}

fn writes(plan: &PhysicalPlan) -> impl Iterator<Item = &forebay_plan::physical::Write> {
    plan.nodes.iter().filter_map(|node| match &node.work {
        Work::Write(write) => Some(write),
        _ => None,
    })
}

/// Whether the write took the table's old rows, and what the catalog remembers of them, away.
fn replaces(plan: &PhysicalPlan, written: &WrittenTable) -> bool {
    writes(plan).any(|write| write.table == written.table && write.strategy == Strategy::Replace)
}

fn literal(value: &forebay_plan::physical::Literal) -> String {
    use forebay_plan::physical::Literal;
    match value {
        Literal::Null => "null".to_owned(),
        Literal::Bool(value) => value.to_string(),
        Literal::Int(value) => value.to_string(),
        Literal::Float(value) => value.to_string(),
        Literal::Str(value) => value.clone(),
        Literal::Secret(_) => "<secret>".to_owned(),
    }
}

fn preview(text: &str) -> Result<Option<Preview>, Error> {
    match text {
        "off" => Ok(None),
        "on" | "head" => Ok(Some(Preview::Head)),
        "tail" => Ok(Some(Preview::Tail)),
        other => Err(Error::BadValue {
            what: "the preview",
            value: other.to_owned(),
            why: "previews are `off`, `on`, `head` and `tail`".to_owned(),
        }),
    }
}

fn plan_event(planned: &Planned) -> Event {
    let plan = &planned.physical;
    let nodes = plan.nodes.iter().map(|node| PlannedNode {
        name: node.name.clone(),
        kind: node.work.kind().to_owned(),
        inputs: node.inputs.iter().map(|input| plan.nodes[input.producer].name.clone()).collect(),
    });
    Event::Plan { nodes: nodes.collect(), drawing: forebay_plan::render::drawing(&planned.logical, plan) }
}

/// Lets the worker run a plan; its events go to the job's log and client.
pub(crate) fn execute(session: &Session<'_>, job: &JobHandle, execution: &Execution) -> Result<Outcome, api::Error> {
    let worker = session.service.worker()?;
    let token = worker_token(job);
    let events = |event: WorkerEvent| match event {
        WorkerEvent::EnvironmentReady { environment, pinned } => job.keep_environment(&environment, pinned),
        other => session.emit(job, &wire_event(other, &execution.plan)),
    };
    Ok(worker.execute(execution, &events, &token))
}

/// The worker's switch, thrown when the job's is.
pub(crate) fn worker_token(job: &JobHandle) -> CancelToken {
    let token = CancelToken::default();
    let thrown = token.clone();
    job.cancel().on_cancel(move || thrown.cancel());
    token
}

fn wire_event(event: WorkerEvent, plan: &PhysicalPlan) -> Event {
    match event {
        WorkerEvent::NodeStarted { node } => Event::Node(NodeResult {
            name: plan.nodes[node].name.clone(),
            kind: plan.nodes[node].work.kind().to_owned(),
            status: "running".to_owned(),
            cache: "none".to_owned(),
            ..NodeResult::default()
        }),
        WorkerEvent::NodeFinished { outcome } => Event::Node(node_result(&outcome)),
        WorkerEvent::Log { node, stream, line } => Event::Log { node, stream: stream.as_str().to_owned(), line },
        WorkerEvent::Preview { node, text } => Event::Preview { node, text },
        WorkerEvent::Warning { text } => Event::Warning { text },
        WorkerEvent::EnvironmentProgress { environment, text } => {
            Event::Log { node: environment, stream: "system".to_owned(), line: text }
        }
        WorkerEvent::EnvironmentReady { environment, .. } => {
            let line = format!("environment {}", environment.hash);
            Event::Log { node: String::new(), stream: "system".to_owned(), line }
        }
    }
}

fn node_result(outcome: &NodeOutcome) -> NodeResult {
    NodeResult {
        name: outcome.name.clone(),
        kind: outcome.kind.to_owned(),
        status: outcome.status.as_str().to_owned(),
        rows: outcome.rows,
        bytes: outcome.total_bytes,
        seconds: outcome.seconds,
        bytes_copied: outcome.bytes.copied,
        bytes_referenced: outcome.bytes.referenced,
        bytes_reshared: outcome.bytes.reshared,
        bytes_inline: outcome.bytes.inline,
        copies: outcome
            .copies
            .iter()
            .map(|copied| api::Copied { reason: copied.reason.as_str().to_owned(), bytes: copied.bytes })
            .collect(),
        bytes_converted: outcome.converted_bytes,
        receive_seconds: outcome.receive_seconds,
        publish_seconds: outcome.publish_seconds,
        cache: "none".to_owned(),
    }
}

/// Why a plan did not run to its end.
pub(crate) fn outcome_error(outcome: &Outcome) -> api::Error {
    match &outcome.error {
        Some((node, error)) => node_error(error, node.clone()),
        None => Error::Cancelled { why: "it was stopped" }.into(),
    }
}

/// An error of a function, for the wire.
pub(crate) fn node_error(error: &forebay_worker::NodeError, node: Option<String>) -> api::Error {
    api::Error { traceback: error.traceback.clone(), node, ..api::Error::from(error.report.clone()) }
}

/// The branch a run works on.
struct Temporary<'a> {
    session: &'a Session<'a>,
    name: BranchName,
}

impl<'a> Temporary<'a> {
    fn create(session: &'a Session<'a>, job: &str, at: &Ref) -> Result<Self, api::Error> {
        let name = branch_of(job);
        session.catalog().create_branch(&name, &at.hash).map_err(told)?;
        Ok(Self { session, name })
    }

    /// The run is on its target: its branch says nothing that the target does not.
    fn delete(&self) {
        if let Err(error) = self.session.catalog().delete_branch(&self.name) {
            tracing::warn!(branch = %self.name, %error, "could not delete the branch of a run");
        }
    }
}

fn branch_of(job: &str) -> BranchName {
    format!("forebay-run-{job}").parse().expect("an id makes a branch name")
}

/// Ends what a killed daemon left of a run: either it was committed, and only its record is behind, or its branch is sealed.
pub(crate) fn recover(service: &Service, job: api::Job) {
    let root = job.lake.strip_prefix("file://").unwrap_or(&job.lake);
    if job.kind != "run" || !Path::new(root).join("catalog").is_dir() {
        return;
    }
    if let Ok(lake) = service.lake(&job.lake, &StorageOptions::default()) {
        recover_in(service, &lake, job);
    }
}

/// The same, of a lake that is open. Those in object stores are opened only when somebody comes with credentials.
pub(crate) fn recover_in(service: &Service, lake: &Lake, mut job: api::Job) {
    let name = branch_of(&job.id);
    // A branch that is tainted already was left by a run that had failed before the kill.
    let Some(head) = lake.catalog.resolve(&RefSpec::Name(name.clone())).ok().filter(|head| head.failed_job.is_none()) else {
        return;
    };
    if was_committed(&lake.catalog, &job) {
        tracing::info!(job = job.id, "the run had been committed when its daemon was killed");
        job.status = jobs::SUCCESS.to_owned();
        job.error = None;
        if let Err(error) = service.jobs.amend(&job) {
            tracing::error!(job = job.id, %error, "could not write the record of a job");
        }
        let _ = lake.catalog.delete_branch(&name);
        return;
    }
    let info = CommitInfo {
        author_name: job.user.clone(),
        message: "Leave a run whose background process was killed".to_owned(),
        properties: [(JOB_PROPERTY.to_owned(), job.id.clone())].into(),
        ..CommitInfo::default()
    };
    if let Err(error) = lake.catalog.commit(&name, &head.hash, &Changes::default(), &info, Some(&job.id)) {
        tracing::error!(branch = %name, %error, "could not seal the branch of a killed run");
    }
}

fn was_committed(catalog: &forebay_catalog::Catalog, job: &api::Job) -> bool {
    let target = job.at.as_deref().and_then(|at| at.parse::<RefSpec>().ok());
    let Some(head) = target.and_then(|target| catalog.resolve(&target).ok()) else { return false };
    let mut recent = catalog.log(&head.hash).take(RECOVERY_COMMITS_MAX).filter_map(Result::ok);
    recent.any(|commit| commit.tainted.is_none() && commit.properties.get(JOB_PROPERTY) == Some(&job.id))
}

#[cfg(test)]
mod tests;
