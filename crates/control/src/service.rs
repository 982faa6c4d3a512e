//! The daemon's operations: one request in, one answer out. Each operation lives in the module of its noun.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use forebay_catalog::{Catalog, CommitInfo};
use forebay_lake::{StorageOptions, TableInfo};
use forebay_types::{BranchName, RefSpec, Report, TableName};
use forebay_worker::Worker;

use crate::api::{self, Actor, CommitWords, Daemon, Event, Op, Request};
use crate::config::{DEFAULT_NAMESPACE, lake_uri};
use crate::connection::{Answer, Connection};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::jobs::{self, JobHandle, Jobs, Wanted};
use crate::limits::{LIST_ROWS_MAX, TABLE_INFOS_MAX};
use crate::{external, history, imports, maintenance, queries, refs, runs, secrets, table_history, tables, version};

/// Everything the daemon has at hand, shared by all connections.
pub struct Service {
    pub(crate) home: Home,
    pub(crate) jobs: Arc<Jobs>,
    runtime: tokio::runtime::Runtime,
    worker: OnceLock<Worker>,
    lakes: Mutex<HashMap<String, Arc<Lake>>>,
    /// Runs in lakes in object stores that a killed daemon left; they are ended when their lake is opened.
    orphans: Mutex<Vec<api::Job>>,
    tables: Mutex<HashMap<String, Arc<TableInfo>>>,
    pub(crate) keys: forebay_worker::Keys,
    version: String,
    started_at: String,
}

/// An open lake.
pub(crate) struct Lake {
    /// `file:///…`, `s3://…`
    pub(crate) uri: String,
    pub(crate) catalog: Catalog,
    /// How its object store is reached.
    storage: StorageOptions,
    /// Folder of table folders.
    pub(crate) tables_root: String,
}

fn zygote(status: forebay_worker::ZygoteStatus) -> api::Zygote {
    api::Zygote {
        environment: status.environment,
        modules: status.modules,
        state: status.state,
        bytes: status.bytes,
        waiting: status.parked as u64,
        forks: status.forks,
    }
}

/// One request's surroundings.
pub(crate) struct Session<'a> {
    pub(crate) service: &'a Arc<Service>,
    pub(crate) lake: Arc<Lake>,
    pub(crate) author: Actor,
    /// How object stores are reached.
    pub(crate) storage: StorageOptions,
    pub(crate) connection: &'a Connection,
}

impl Service {
    /// Opens the records of a home. Jobs of a killed daemon are ended, and their branches sealed.
    pub fn open(home: &Home) -> Result<Self> {
        let (jobs, orphans) = Jobs::open(home.jobs_dir())?;
        queries::remove_spilled(home);
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("lake").enable_all().build();
        let service = Self {
            jobs: Arc::new(jobs),
            runtime: runtime.map_err(Error::storage("start the threads of", "/proc/self"))?,
            worker: OnceLock::new(),
            lakes: Mutex::default(),
            orphans: Mutex::default(),
            tables: Mutex::default(),
            keys: forebay_worker::Keys::default(),
            version: version::of_program(&program, home.cache_dir()),
            started_at: jobs::now(),
            home: home.clone(),
        };
        for job in orphans {
            if forebay_lake::remote_location(&job.lake).is_ok() {
                service.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(job);
            } else {
                runs::recover(&service, job);
            }
        }
        Ok(service)
    }

    /// Runs async code of the lake.
    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        &self.runtime
    }

    /// How many jobs run now.
    pub fn running_jobs(&self) -> usize {
        self.jobs.running()
    }

    /// Cancels every job and waits for their ends.
    pub fn end(&self) {
        self.jobs.stop_all("the background process was told to end");
    }

    /// Answers one request. Events go to the connection meanwhile.
    pub fn answer(self: &Arc<Self>, request: Request, connection: &Connection) -> Result<Answer, api::Error> {
        match &request.op {
            Op::Ping => return Answer::of(self.describe()),
            Op::SecretKey => return secrets::key(self),
            Op::Shutdown => return Answer::of(()),
            Op::JobList { ids, kinds, statuses, limit } => {
                let mut jobs = self.jobs.list(&Wanted { ids, kinds, statuses })?;
                jobs.truncate(rows(*limit));
                return Answer::of(jobs);
            }
            Op::JobGet { id } => return Answer::of(self.jobs.get(id)?),
            Op::JobLogs { id } => return Answer::of(self.jobs.logs(id)?),
            Op::JobStop { id } => return Answer::of(self.jobs.stop(id)?),
            _ => {}
        }
        let storage = crate::storage::options(&self.home, &request.profile, &request.variables.0)?;
        let lake = self.lake(&request.lake, &storage)?;
        let session = Session { service: self, lake, author: request.author, storage, connection };
        session.answer(request.op)
    }

    fn describe(&self) -> Daemon {
        Daemon {
            version: self.version.clone(),
            protocol: api::VERSION,
            pid: std::process::id(),
            home: self.home.root().unwrap_or(self.home.state_dir()).display().to_string(),
            started_at: self.started_at.clone(),
            running_jobs: self.running_jobs() as u64,
            zygotes: self.worker.get().map(Worker::zygotes).unwrap_or_default().into_iter().map(zygote).collect(),
        }
    }

    /// When nothing runs, functions are got ready for what ran last; in a thread of its own, so that nobody waits for it.
    pub(crate) fn rest(self: &Arc<Self>) {
        if self.running_jobs() > 0 {
            return;
        }
        let service = Arc::clone(self);
        let work = move || {
            if let Some(worker) = service.worker.get() {
                worker.rest();
            }
        };
        // Without a thread the next functions are forked when they are called.
        let _ = std::thread::Builder::new().name("rest".to_owned()).spawn(work);
    }

    /// The lake at a URI, opened once.
    pub(crate) fn lake(&self, uri: &str, storage: &StorageOptions) -> Result<Arc<Lake>, api::Error> {
        // A client resolves relative paths; the daemon has no folder they could be relative to.
        let uri = lake_uri(uri, std::path::Path::new("/"))?;
        forebay_lake::use_storage(&uri, storage);
        let root = uri.strip_prefix("file://").map(PathBuf::from);
        let known = self.lakes.lock().unwrap_or_else(PoisonError::into_inner).get(&uri).cloned();
        let holds = |lake: &Arc<Lake>| match &root {
            // A lake whose folder went away is opened anew, so that it is there again or told to be missing.
            Some(root) => root.join("catalog").is_dir(),
            None => lake.storage == *storage,
        };
        if let Some(lake) = known.filter(holds) {
            return Ok(lake);
        }
        let catalog = crate::storage::open_catalog(&uri, storage).map_err(|error| api::Error::of(&error))?;
        let tables_root = format!("{uri}/tables");
        let lake = Arc::new(Lake { uri: uri.clone(), catalog, storage: storage.clone(), tables_root });
        self.lakes.lock().unwrap_or_else(PoisonError::into_inner).insert(uri.clone(), Arc::clone(&lake));
        if root.is_none() {
            let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            let ours: Vec<api::Job> = orphans.extract_if(.., |job| job.kind == "run" && job.lake == uri).collect();
            drop(orphans);
            ours.into_iter().for_each(|job| runs::recover_in(self, &lake, job));
        }
        Ok(lake)
    }

    /// The worker, opened when the first plan runs.
    pub(crate) fn worker(&self) -> Result<&Worker, api::Error> {
        if let Some(worker) = self.worker.get() {
            return Ok(worker);
        }
        let worker = Worker::new(forebay_worker::Options::new(self.home.cache_dir())).map_err(|error| api::Error::of(&error))?;
        // Two first plans at once open two workers; one of them is dropped.
        Ok(self.worker.get_or_init(|| worker))
    }

    /// How functions are confined, as the configuration says now.
    pub(crate) fn sandbox(&self) -> Result<forebay_worker::SandboxSettings, api::Error> {
        Ok(crate::config::Config::load(&self.home)?.sandbox())
    }

    /// What queries and SQL models may use that name no limits of their own.
    pub(crate) fn query_bounds(&self) -> Result<forebay_worker::Bounds, api::Error> {
        Ok(crate::config::Config::load(&self.home)?.query(&self.home))
    }

    /// What a metadata file says. Kept, since metadata files never change.
    pub(crate) fn table_info(&self, metadata_location: &str) -> Result<Arc<TableInfo>, api::Error> {
        let known = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(metadata_location).cloned();
        if let Some(info) = known {
            return Ok(info);
        }
        let loaded = self.runtime.block_on(forebay_lake::load(metadata_location));
        let info = Arc::new(loaded.map_err(|error| api::Error::of(&error))?);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.len() >= TABLE_INFOS_MAX {
            tables.clear();
        }
        tables.insert(metadata_location.to_owned(), Arc::clone(&info));
        Ok(info)
    }
}

impl Session<'_> {
    /// How functions reach object stores.
    pub(crate) fn worker_storage(&self) -> forebay_worker::Storage {
        forebay_worker::Storage {
            files: self.storage.files().into_iter().map(PathBuf::from).collect(),
            options: forebay_sipc::call::Storage(self.storage.0.clone()),
        }
    }

    fn answer(&self, op: Op) -> Result<Answer, api::Error> {
        match op {
            Op::Run(run) => Answer::of(runs::run(self, run)?),
            Op::Plan(run) => Answer::of(runs::plan(self, &run)?),
            Op::Query { sql, at, namespace, max_rows, stream, memory_bytes } => {
                queries::query(self, &queries::Query { sql, at, namespace, max_rows, stream, memory_bytes })
            }
            Op::TableCreate { name, search_uri, branch, namespace, partitioned_by, sorted_by, replace } => {
                let create = imports::Create { name, search_uri, branch, namespace, partitioned_by, sorted_by, replace };
                Answer::of(imports::create(self, &create)?)
            }
            Op::TablePlan { name, search_uri, branch, namespace, partitioned_by, sorted_by, replace } => {
                let create = imports::Create { name, search_uri, branch, namespace, partitioned_by, sorted_by, replace };
                Answer::of(imports::plan(self, &create)?)
            }
            Op::TableApply { plan } => Answer::of(imports::apply(self, &plan)?),
            Op::TableExternal { name, metadata_uri, search_patterns, branch, namespace, overwrite } => {
                let table = Session::table_name(&name, namespace.as_deref())?;
                let outside = external::Outside::of(metadata_uri, search_patterns)?;
                Answer::of(external::create(self, &table, &outside, &branch, overwrite)?)
            }
            Op::TableHistory { name, at, namespace, limit } => {
                let table = Session::table_name(&name, namespace.as_deref())?;
                Answer::of(table_history::history(self, &table, &at, rows(limit))?)
            }
            Op::TableImport { name, search_uri, branch, namespace, continue_on_error, import_duplicate_files, best_effort } => {
                let import = imports::Import {
                    name,
                    search_uri,
                    branch,
                    namespace,
                    continue_on_error,
                    import_duplicate_files,
                    best_effort,
                };
                Answer::of(imports::import(self, &import)?)
            }
            Op::TableCompact { name, branch, namespace, small_bytes } => {
                Answer::of(maintenance::compact(self, &name, &branch, namespace.as_deref(), small_bytes)?)
            }
            Op::TableExpire { name, branch, namespace, older_than_seconds, keep_last } => {
                let namespace = namespace.as_deref();
                Answer::of(maintenance::expire(self, &name, &branch, namespace, older_than_seconds, keep_last)?)
            }
            Op::TableList { .. } | Op::TableGet { .. } | Op::TableDelete { .. } => tables::answer(self, op),
            Op::CommitList { .. } | Op::CommitRevert { .. } | Op::TableRevert { .. } | Op::Gc { .. } => history::answer(self, op),
            Op::NamespaceList { .. } | Op::NamespaceCreate { .. } | Op::NamespaceDelete { .. } => {
                tables::answer_namespace(self, op)
            }
            Op::TagList { .. } | Op::TagGet { .. } | Op::TagCreate { .. } | Op::TagDelete { .. } | Op::TagRename { .. } => {
                refs::answer_tag(self, op)
            }
            _ => refs::answer(self, op),
        }
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.lake.catalog
    }

    /// What a ref means now.
    pub(crate) fn resolve(&self, at: &str) -> Result<forebay_catalog::Ref, api::Error> {
        let spec: RefSpec = at.parse().map_err(Error::from)?;
        self.catalog().resolve(&spec).map_err(|error| api::Error::of(&error))
    }

    /// A branch that can be written to, by name. A missing one is told how to create.
    pub(crate) fn branch(&self, name: &str) -> Result<(BranchName, forebay_catalog::Ref), api::Error> {
        match name.parse::<RefSpec>().map_err(Error::from)? {
            RefSpec::Commit { .. } | RefSpec::Relative { .. } => Err(Error::NotABranch { at: name.to_owned() }.into()),
            spec @ RefSpec::Name(_) => match self.catalog().resolve(&spec) {
                Ok(found) if found.kind == forebay_catalog::RefKind::Branch => Ok((name.parse().map_err(Error::from)?, found)),
                Ok(_) => Err(Error::NotABranch { at: name.to_owned() }.into()),
                Err(forebay_catalog::Error::UnknownRef { .. }) => {
                    let branches = self.catalog().branches().map_err(|error| api::Error::of(&error))?;
                    let known = branches.into_iter().map(|branch| branch.name).collect();
                    Err(Error::NoBranch { name: name.to_owned(), known }.into())
                }
                Err(error) => Err(api::Error::of(&error)),
            },
        }
    }

    /// Tells an event to the job's log and to the client; a client that went away cancels the job.
    pub(crate) fn emit(&self, job: &JobHandle, event: &Event) {
        match event {
            Event::Log { node, stream, line } => job.log(node, stream, line),
            Event::Warning { text } => job.log("", "system", text),
            Event::Preview { node, text } => job.log(node, "system", text),
            Event::Job { .. } | Event::Plan { .. } | Event::Node(_) | Event::Stream { .. } => {}
        }
        if !self.connection.event(event, job.cancel()) {
            job.cancel().cancel("its client went away");
        }
    }

    /// A full table name; a namespace inside the name and one beside it must agree.
    pub(crate) fn table_name(name: &str, namespace: Option<&str>) -> Result<TableName, api::Error> {
        let table = TableName::parse(name, namespace.unwrap_or(DEFAULT_NAMESPACE)).map_err(Error::from)?;
        match namespace {
            Some(namespace) if namespace != table.namespace() => Err(Error::BadValue {
                what: "the table",
                value: name.to_owned(),
                why: format!("its name says the namespace `{}`, and the request `{namespace}`", table.namespace()),
            }
            .into()),
            _ => Ok(table),
        }
    }

    /// The words of a commit of this request.
    pub(crate) fn info(&self, words: CommitWords, default: String) -> CommitInfo {
        let subject = words.message.filter(|message| !message.trim().is_empty()).unwrap_or(default);
        let message = match words.body.filter(|body| !body.trim().is_empty()) {
            Some(body) => format!("{subject}\n\n{body}"),
            None => subject,
        };
        CommitInfo {
            author_name: self.author.name.clone(),
            author_email: self.author.email.clone(),
            message,
            properties: words.properties,
        }
    }
}

/// Errors of the planner, for the wire.
pub(crate) fn reports(reports: Vec<Report>) -> api::Error {
    api::Error::all(reports)
}

/// A limit of a list.
pub(crate) fn rows(limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIST_ROWS_MAX).min(LIST_ROWS_MAX)
}
