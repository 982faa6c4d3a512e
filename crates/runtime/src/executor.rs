//! The process of a system function: `forebay function`, started by a supervisor with a channel as descriptor 0.
//!
//! One call, one reply, exit. Everything that goes wrong is told in the reply as far as there is one to tell it with.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use forebay_lake::{Mode, ScanRequest, StorageOptions, WriteRequest};
use forebay_shm::arena::{self, Settings};
use forebay_shm::{Channel, Frame, Inputs, die_with_parent, monotonic_ns};
use forebay_sipc::call::{Call, CallInput, Memory, Preview, Reply, Times, Work};
use forebay_sipc::{Excerpt, Limits, Message, converted_bytes, encode_columns};
use forebay_types::{Coded, Fault, PartitionField, Report};

use crate::import;
use crate::limits::INLINE_TABLE_BYTES_MAX;
use crate::query;
use crate::sql::{self, Rows, Strings};

/// Stack of a worker thread: deep expressions are walked recursively.
const STACK_BYTES: usize = 8 << 20;

/// Smallest blocks that are born in shared memory: the validity bitmap of a batch of 32 Ki rows, half of what SQL aims at.
const ARENA_BLOCK_BYTES_MIN: usize = 4 << 10;

/// Takes one call from descriptor 0, executes it, replies, and gives the exit code of the process.
#[must_use]
pub fn run() -> i32 {
    match serve() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{}", error.report());
            3
        }
    }
}

fn serve() -> Result<(), forebay_shm::Error> {
    die_with_parent()?;
    let limit = std::env::var("FOREBAY_ARENA_LIMIT").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    // Where the host forbids an arena, tables are copied into a segment, and counted.
    let _ = arena::start(&Settings { min_bytes: ARENA_BLOCK_BYTES_MIN, ..Settings::within(limit) });
    let channel = Channel::from_stdin()?;
    // No call: the supervisor changed its mind, or is gone.
    let Some(frame) = channel.recv()? else { return Ok(()) };
    let outcome = catch_unwind(AssertUnwindSafe(|| execute(&frame)));
    let (reply, answer) = match outcome {
        Ok(Ok((reply, table))) => (reply, table),
        Ok(Err(report)) => (failed(&report), Frame::default()),
        Err(panic) => (failed(&panicked(panic.as_ref())), Frame::default()),
    };
    let header = serde_json::to_vec(&reply).expect("a reply has string keys only");
    channel.send(&Frame { header, ..answer })?;
    forebay_shm::leave(&channel)
}

/// An error of any of our crates, as a report.
struct Told(Report);

impl<E: Coded> From<E> for Told {
    fn from(error: E) -> Self {
        Self(error.report())
    }
}

type Outcome = (Reply, Frame);

fn execute(frame: &Frame) -> Result<Outcome, Report> {
    let call: Call = serde_json::from_slice(&frame.header).map_err(|error| nonsense(&error))?;
    let threads = std::env::var("FOREBAY_THREADS").ok().and_then(|text| text.parse().ok());
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(|error| nonsense(&error))?;
    let function = Function { call: &call, frame, threads, received_ns: Cell::new(0), converted_bytes: Cell::new(0) };
    let outcome = runtime.block_on(function.run()).map_err(|Told(report)| report);
    // Reading threads may still be at work on what nobody wants any more.
    runtime.shutdown_background();
    outcome
}

struct Function<'a> {
    call: &'a Call,
    frame: &'a Frame,
    threads: usize,
    /// From the call to its tables held, in nanoseconds.
    received_ns: Cell<u64>,
    /// Bytes of input columns made anew, as dictionaries.
    converted_bytes: Cell<u64>,
}

impl Function<'_> {
    async fn run(&self) -> Result<Outcome, Told> {
        let segments = self.frame.fds.get(..self.call.segments.len()).unwrap_or(&self.frame.fds);
        let inputs = Inputs::map(&self.call.segments, segments)?;
        if !self.call.storage.is_empty() {
            forebay_lake::use_storage("", &StorageOptions(self.call.storage.0.clone()));
        }
        match &self.call.work {
            Work::Scan { metadata_location, snapshot_id, columns, filter, dictionary, views } => {
                let request = ScanRequest {
                    metadata_location: metadata_location.clone(),
                    snapshot_id: *snapshot_id,
                    columns: columns.clone(),
                    filter: filter.clone(),
                    dictionary: dictionary.clone(),
                    views: *views,
                };
                let scanned = forebay_lake::scan(request).await?;
                self.table(Rows { schema: scanned.schema, batches: scanned.batches }, &inputs)
            }
            Work::Sql { query, views, memory } => {
                let tables = self.tables(&inputs)?;
                let strings = if *views { Strings::Views } else { Strings::Plain };
                self.table(sql::run(query, tables, strings, &self.bounds(memory)).await?, &inputs)
            }
            Work::Query { .. } => self.query(&inputs).await,
            Work::Write { .. } => self.write(&inputs).await,
            Work::Import { .. } => self.import().await,
            Work::Compact { base, small_bytes } => {
                let done = forebay_lake::compact(base, *small_bytes).await?;
                let reply = Reply::Compacted {
                    metadata_location: done.metadata_location,
                    files_before: done.files_before as u64,
                    files_after: done.files_after as u64,
                    delete_files: done.delete_files as u64,
                    rows: done.rows,
                };
                Ok((reply, Frame::default()))
            }
            Work::Python { .. } => Err(nonsense(&"our own binary runs no Python").into()),
        }
    }

    async fn query(&self, inputs: &Arc<Inputs>) -> Result<Outcome, Told> {
        let Work::Query { query, tables, memory, piped } = &self.call.work else {
            return Err(nonsense(&"not a query").into());
        };
        let request = query::Request { sql: query, tables, bounds: self.bounds(memory) };
        if !*piped {
            let mut rows = query::Collect::default();
            query::run(&request, &mut rows).await?;
            return self.table(rows.finish()?, inputs);
        }
        let pipe = self.frame.fds.get(self.call.segments.len()).ok_or_else(|| nonsense(&"a stream without its pipe"))?;
        let mut pipe = query::Pipe::new(pipe.try_clone().map_err(|error| nonsense(&error))?);
        query::run(&request, &mut pipe).await?;
        Ok((Reply::Streamed { rows: pipe.finish().await? }, Frame::default()))
    }

    fn bounds(&self, memory: &Memory) -> sql::Bounds {
        sql::Bounds {
            threads: self.threads,
            memory_bytes: usize::try_from(memory.bytes).unwrap_or(usize::MAX),
            spill_folder: memory.spill_folder.as_ref().map(PathBuf::from),
            spill_bytes_max: memory.spill_bytes_max,
        }
    }

    /// The inputs, with the columns the call wants, as dictionaries where it wants them.
    fn tables(&self, inputs: &Inputs) -> Result<Vec<(String, Rows)>, Told> {
        if self.call.inputs.len() != self.frame.blobs.len() {
            return Err(nonsense(&"inputs without messages").into());
        }
        let table = |(input, blob): (&CallInput, &Vec<u8>)| {
            let message = Message::decode(blob, &Limits::default())?;
            let message = match &input.columns {
                Some(columns) => message.project(columns)?,
                None => message,
            };
            let table = inputs.rebuild(&message)?;
            let (schema, batches) = encode_columns(&table.schema, table.batches, &input.dictionary)?;
            self.converted_bytes.set(self.converted_bytes.get() + converted_bytes(&table.schema, &batches));
            Ok((input.name.clone(), Rows { schema, batches }))
        };
        let started = Instant::now();
        let tables = self.call.inputs.iter().zip(&self.frame.blobs).map(table).collect();
        self.received_ns.set(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        tables
    }

    /// A reply with a table.
    fn table(&self, rows: Rows, inputs: &Arc<Inputs>) -> Result<Outcome, Told> {
        if rows.schema.fields().is_empty() {
            return Err(Told(
                Report::new("RUN0019", Fault::Request, format!("`{}` gives a table without columns", self.call.node))
                    .with_hint("a table needs at least one column"),
            ));
        }
        let preview = preview(self.call.preview, &rows)?;
        let returned_at_ns = monotonic_ns();
        let bytes: usize = rows.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let written = if matches!(self.call.work, Work::Query { .. }) && bytes <= INLINE_TABLE_BYTES_MAX {
            forebay_shm::write_inline(self.call.output_segment, &rows.schema, rows.batches)?
        } else {
            forebay_shm::write(self.call.output_segment, inputs, &rows.schema, rows.batches)?
        };
        let reply = Reply::Table {
            rows: written.message.rows(),
            bytes: written.bytes,
            copies: written.copies,
            segments: written.segments.iter().map(|segment| segment.id).collect(),
            times: Times { received_ns: self.received_ns.get(), returned_at_ns },
            converted_bytes: self.converted_bytes.get(),
            preview,
            warnings: Vec::new(),
        };
        let keep = written.segments.iter().map(|segment| segment.keep.encode());
        let blobs = std::iter::once(written.message.encode()).chain(keep).collect();
        let fds = written.segments.into_iter().map(|segment| segment.file).collect();
        Ok((reply, Frame { header: Vec::new(), blobs, fds }))
    }

    async fn write(&self, inputs: &Inputs) -> Result<Outcome, Told> {
        let Work::Write { location, base, strategy, filter, keys, partition_by, sort_by, column_docs, properties } =
            &self.call.work
        else {
            return Err(nonsense(&"not a write").into());
        };
        let mode = match (strategy.as_str(), filter) {
            ("replace", _) => Mode::Replace,
            ("append", _) => Mode::Append,
            ("overwrite", Some(filter)) => Mode::Overwrite { filter: filter.clone() },
            ("merge", delete_when) => Mode::Merge { keys: keys.clone(), delete_when: delete_when.clone() },
            (other, _) => return Err(nonsense(&format!("strategy `{other}`")).into()),
        };
        let field = |(column, transform): &(String, String)| {
            let transform = transform.parse().map_err(|error: String| nonsense(&error))?;
            Ok::<_, Report>(PartitionField { column: column.clone(), transform })
        };
        let request = WriteRequest {
            location: location.clone(),
            base: base.clone(),
            mode,
            partition_by: partition_by.iter().map(field).collect::<Result<_, _>>()?,
            sort_by: sort_by
                .iter()
                .map(|text| text.parse().map_err(|error: String| nonsense(&error)))
                .collect::<Result<_, _>>()?,
            docs: column_docs.clone(),
            properties: properties.clone(),
        };
        let (_, rows) = self.tables(inputs)?.into_iter().next().ok_or_else(|| nonsense(&"a write without its table"))?;
        let preview = preview(self.call.preview, &rows)?;
        let written = forebay_lake::write(request, rows.schema, rows.batches).await?;
        let reply = Reply::Written {
            metadata_location: written.metadata_location,
            rows: written.rows,
            file_bytes: written.file_bytes,
            changes: written.changes,
            preview,
        };
        Ok((reply, Frame::default()))
    }

    async fn import(&self) -> Result<Outcome, Told> {
        let Work::Import { base, files, best_effort, continue_on_error, properties } = &self.call.work else {
            return Err(nonsense(&"not an import").into());
        };
        let options = import::Options { best_effort: *best_effort, continue_on_error: *continue_on_error };
        let imported = import::import(base, files, options, properties).await?;
        let reply = Reply::Imported {
            metadata_location: imported.metadata_location,
            rows: imported.rows,
            files: imported.files,
            failed: imported.failed,
        };
        Ok((reply, Frame::default()))
    }
}

fn preview(which: Option<Preview>, rows: &Rows) -> Result<Option<String>, Report> {
    let Some(which) = which else { return Ok(None) };
    let mut excerpt = Excerpt::new(which);
    rows.batches.iter().for_each(|batch| excerpt.see(batch));
    excerpt.render(&rows.schema).map(Some).map_err(|error| nonsense(&error))
}

/// What cannot happen between two ends of the same build.
fn nonsense(why: &dyn std::fmt::Display) -> Report {
    Report::new("RUN0020", Fault::Platform, "could not execute a call")
        .with_cause(why)
        .with_hint("this is a defect of Forebay: please report it")
}

fn panicked(panic: &(dyn Any + Send)) -> Report {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    nonsense(&text.unwrap_or("panic"))
}

fn failed(report: &Report) -> Reply {
    let fault = match report.fault {
        Fault::Request => "request",
        Fault::Usage => "usage",
        Fault::Platform => "platform",
    };
    Reply::Failed {
        code: report.code.0.clone(),
        message: report.message.clone(),
        causes: report.causes.clone(),
        hint: report.hint.clone(),
        traceback: None,
        fault: fault.to_owned(),
    }
}
