//! Queries: one SELECT over tables of the lake, in one process that reads them itself.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_runtime::{
    Answer, CancelToken, Failure, FunctionProcess, Launch, ProcessLimits, SPILL_BYTES_MAX, query_memory_bytes,
};
use forebay_sipc::call::{Call, Memory, QueryTable, Reply, Work};

use crate::event::{KeptTable, NodeError, WorkerEvent};
use crate::run::{node_error, wrong_answer};
use crate::store::Table;
use crate::{SandboxSettings, Storage, Worker, access};

/// What a query is called in messages.
const NODE: &str = "query";

/// A query to run.
#[derive(Debug, Clone)]
pub struct Query {
    /// One SELECT, checked.
    pub sql: String,
    /// The tables in it.
    pub tables: Vec<QueryTable>,
    /// Folder of the lake's tables, a path or `file://` URI.
    pub tables_root: String,
    /// Files and folders, here or in object stores, that tables of others lie in.
    pub external_roots: Vec<String>,
    /// Memory and disk.
    pub bounds: Bounds,
    /// Where rows go as an Arrow IPC stream; `None`: they are kept as a table.
    pub pipe: Option<Arc<OwnedFd>>,
    /// How its process is confined.
    pub sandbox: SandboxSettings,
    /// How object stores are reached.
    pub storage: Storage,
}

/// What a query may use, or a SQL model of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Memory of its operators, in bytes; `None`: half of the machine's.
    pub memory_bytes: Option<u64>,
    /// The folder in which it gets one of its own for what does not fit into memory.
    pub spill_folder: PathBuf,
    /// Bytes there, at most; `None`: 100 GiB.
    pub spill_bytes_max: Option<u64>,
    /// Threads; `None`: one per processor.
    pub threads: Option<usize>,
}

impl Bounds {
    /// For a process; `bytes` where no limit is named.
    pub(crate) fn memory(&self, bytes: u64, spill_folder: Option<&Path>) -> Memory {
        Memory {
            bytes: self.memory_bytes.unwrap_or(bytes),
            spill_folder: spill_folder.and_then(Path::to_str).map(str::to_owned),
            spill_bytes_max: self.spill_bytes_max.unwrap_or(SPILL_BYTES_MAX),
        }
    }
}

/// How a query was answered.
#[derive(Debug)]
pub enum Answered {
    /// Through its pipe.
    Streamed {
        /// Rows.
        rows: u64,
    },
    /// By a table.
    Table(KeptTable),
}

impl Worker {
    /// Runs a query to its end. What it has spilled is gone when this returns.
    pub fn query(
        &self,
        query: Query,
        events: &(dyn Fn(WorkerEvent) + Sync),
        cancel: &CancelToken,
    ) -> Result<Answered, NodeError> {
        let spill = Folder::make(&query.bounds.spill_folder);
        let spill =
            spill.map_err(|source| Failure::Start { node: NODE.into(), program: query.bounds.spill_folder.clone(), source });
        let spill = spill.map_err(|failure| node_error(&failure))?;
        let first_id = self.segment_ids.next();
        let call = Call {
            node: NODE.to_owned(),
            segments: Vec::new(),
            inputs: Vec::new(),
            work: Work::Query {
                query: query.sql.clone(),
                tables: query.tables.clone(),
                memory: query.bounds.memory(query_memory_bytes(), Some(&spill.0)),
                piped: query.pipe.is_some(),
            },
            output_segment: first_id,
            preview: None,
            storage: access::query_storage(&query),
        };
        let answer = self.call_query(&call, query, &spill.0, events, cancel).map_err(|failure| node_error(&failure))?;
        match answer.reply {
            Reply::Streamed { rows } => Ok(Answered::Streamed { rows }),
            Reply::Table { .. } => table(answer, first_id).map(Answered::Table),
            _ => Err(wrong_answer(NODE, "a query answered with something else")),
        }
    }

    fn call_query(
        &self,
        call: &Call,
        query: Query,
        spill: &Path,
        events: &(dyn Fn(WorkerEvent) + Sync),
        cancel: &CancelToken,
    ) -> Result<Answer, Failure> {
        let program = self.system_program();
        let access = access::query(&query, spill);
        let launch = Launch {
            node: NODE,
            program: &program,
            folder: &self.options.cache_dir,
            limits: ProcessLimits { threads: query.bounds.threads, ..ProcessLimits::default() },
            sandbox: &self.sandbox,
            settings: &query.sandbox,
            access: &access,
            zygotes: None,
        };
        let process = FunctionProcess::spawn(&launch, cancel)?;
        let mut on_line = |stream, line: &str| events(WorkerEvent::Log { node: NODE.to_owned(), stream, line: line.to_owned() });
        // The pipe ends when the process does, and when nobody here holds it any more.
        let (answer, remains) = process.call(call, Vec::new(), query.pipe.into_iter().collect(), &mut on_line)?;
        // The kernel takes tens of milliseconds to take a process and its groups down. Where no thread can be started, dropping
        // the closure does the same here.
        let _ = std::thread::Builder::new().name("bury".into()).spawn(move || drop(remains));
        Ok(answer)
    }
}

fn table(answer: Answer, first_id: u64) -> Result<KeptTable, NodeError> {
    let message = answer.message.ok_or_else(|| wrong_answer(NODE, "its table is missing"))?;
    let table = Table::publish(message, &answer.segments, first_id, &[]).map_err(|why| wrong_answer(NODE, &why))?;
    let segments = table.segments.iter().map(|segment| (segment.id, segment.length, Arc::clone(&segment.file))).collect();
    Ok(KeptTable { node: 0, message: table.message, segments })
}

/// A folder that nobody else may look into, removed with everything in it when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub fn make(parent: &Path) -> io::Result<Self> {
        let path = parent.join(uuid::Uuid::now_v7().simple().to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the background process starts.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_and_goes_with_its_content() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::make(&root.path().join("spill")).unwrap();
        std::fs::write(folder.0.join("a"), "x").unwrap();
        assert_eq!(std::fs::metadata(&folder.0).unwrap().permissions().mode() & 0o777, 0o700);
        let path = folder.0.clone();
        drop(folder);
        assert!(!path.exists());
    }
}
