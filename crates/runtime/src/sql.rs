//! One SELECT over tables in memory.
//!
//! Order is kept where the query does not change it: an input is cut into contiguous runs of rows, one per thread,
//! nothing redistributes them, and the results are put together in the same order. Small inputs run on one thread, so that
//! small results are the same every time, down to the order of groups.
//!
//! # What is not copied
//! Columns that are passed through unchanged stay the buffers of the input. With [`Strings::Views`], strings and binaries are
//! views (see [`layout`]), and a filter, a sort or a join moves 16 bytes per row instead of the strings. DataFusion has one step
//! that copies them nevertheless: where it gathers small batches into larger ones, it copies the strings of a batch together if
//! they are less than half of what its buffers hold. It leaves batches alone that have more than half the rows it aims at, so
//! - a filter aims low ([`Plan::filter_rows`]): only one that leaves few rows of a batch copies, and keeps little memory;
//! - everything else aims high, at the rows inputs come in, which is what results should come in as well;
//! - joins do not redistribute rows by hash, which would make small batches of every batch, and carry views as numbers ([`joins`]).
//!
//! # Memory
//! Inputs are in shared memory as a whole, and so will be the result; what is bounded is what operators hold in between. Where sorts
//! or joins are expected to hold more than that, or did, the query runs in another way ([`spilled`]): over small copies of the
//! inputs, which can be accounted for, with operators that go to disk, as `forebay query` does it. Groups spill in both.

mod joins;
mod layout;
mod spilled;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::TrackConsumersPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_plan::collect_partitioned;
use datafusion::prelude::SessionConfig;
use forebay_plan::sql;
use forebay_types::{Coded, Fault, Report};

use crate::limits::{
    BATCH_BYTES_TARGET, BATCH_ROWS, FILTER_PART, JOIN_MEMORY_PERCENT, MEMORY_CONSUMERS_TOLD, PARTITION_BYTES_MIN,
    PARTITION_ROWS_MIN, QUERY_BATCH_BYTES_TARGET, QUERY_MEMORY_BATCHES, SORT_RESERVED_BYTES,
};
use crate::parted::Room;
use crate::pool::SharedPool;

/// A query that did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine says why.
    #[error("could not run the query")]
    Query(#[source] DataFusionError),
    /// A table needs names for its columns, one each.
    #[error("the query gives two columns named `{0}`")]
    DuplicateColumn(String),
    /// A table could not be opened.
    #[error(transparent)]
    Lake(#[from] forebay_lake::Error),
}

impl Error {
    /// Whether operators wanted more memory than there is.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Query(error) if kind(error) == Kind::Memory)
    }
}

/// What kind of failure an error of the engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the query or its data.
    Query,
    /// Operators wanted more memory than the limit.
    Memory,
    /// Spill files have reached their limit, or the disk is full.
    Disk,
}

/// Tells apart what the engine says.
pub(crate) fn kind(error: &DataFusionError) -> Kind {
    let disk = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
    };
    if chain(error).any(disk) {
        return Kind::Disk;
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(text) if text.contains("used disk space") => Kind::Disk,
        DataFusionError::ResourcesExhausted(_) => Kind::Memory,
        _ => Kind::Query,
    }
}

/// The error of the lake inside an error of the engine.
fn of_lake(error: &DataFusionError) -> Option<&forebay_lake::Error> {
    chain(error).find_map(|error| error.downcast_ref::<forebay_lake::Error>())
}

/// An error and its causes, through the boxes and pointers that hide them.
fn chain<'a>(error: &'a DataFusionError) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let inside = |error: &'a (dyn std::error::Error + 'static)| -> Option<&'a (dyn std::error::Error + 'static)> {
        match error.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::Shared(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::External(inner)) => Some(inner.as_ref()),
            Some(DataFusionError::IoError(inner)) => Some(inner),
            Some(DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner)) => Some(inner.as_ref()),
            Some(DataFusionError::ArrowError(inner, _)) => Some(inner.as_ref()),
            Some(DataFusionError::ParquetError(inner)) => Some(inner.as_ref()),
            _ => match error.downcast_ref::<arrow::error::ArrowError>() {
                Some(arrow::error::ArrowError::ExternalError(inner)) => Some(inner.as_ref()),
                Some(arrow::error::ArrowError::IoError(_, inner)) => Some(inner),
                _ => error.source(),
            },
        }
    };
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), move |error| inside(*error))
}

impl Coded for Error {
    fn report(&self) -> Report {
        let message = self.to_string();
        match self {
            Self::Lake(error) => error.report(),
            Self::Query(error) if of_lake(error).is_some() => of_lake(error).expect("just found").report(),
            Self::Query(error) if kind(error) == Kind::Memory => {
                let report = Report::new("RUN0042", Fault::Request, "the query needs more memory than it has");
                report.with_cause(error.find_root().strip_backtrace().trim()).with_hint(
                    "give it more (`--memory`, or `memory` under `[query]` in config.toml), or join and group fewer rows at once",
                )
            }
            Self::Query(error) if kind(error) == Kind::Disk => {
                let what = "the query needs more room for spill files than there is";
                let report = Report::new("RUN0041", Fault::Platform, what);
                report
                    .with_cause(error.find_root().strip_backtrace().trim())
                    .with_hint("free disk space, raise `spill` under `[query]` in config.toml, or give the query more memory")
            }
            Self::Query(error) => {
                let text = error.strip_backtrace();
                let report = Report::new("RUN0017", Fault::Request, message).with_cause(text.trim());
                report.with_hint(
                    "the query was checked before, so a value is the likely reason: a cast, a division by zero, an overflow",
                )
            }
            Self::DuplicateColumn(name) => Report::new("RUN0018", Fault::Request, message)
                .with_hint(format!("give one of them another name: `… AS {name}_2`")),
        }
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        Self::Query(error)
    }
}

/// How strings leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strings {
    /// As every reader knows them.
    Plain,
    /// As views, which share the bytes of the inputs.
    Views,
}

/// A table in memory.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Schema of every batch.
    pub schema: SchemaRef,
    /// The rows, in order.
    pub batches: Vec<RecordBatch>,
}

/// What the operators of a query may use.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Threads at most.
    pub threads: usize,
    /// Memory, in bytes.
    pub memory_bytes: usize,
    /// A folder for what does not fit; it exists. `None`: nothing may be spilled.
    pub spill_folder: Option<PathBuf>,
    /// Bytes in that folder, at most.
    pub spill_bytes_max: u64,
}

impl Bounds {
    /// An environment in which operators have `pool`.
    pub(crate) fn environment(&self, pool: SharedPool) -> Result<Arc<RuntimeEnv>, Error> {
        let mode = match &self.spill_folder {
            Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
            None => DiskManagerMode::Disabled,
        };
        let disk = DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(self.spill_bytes_max);
        let pool = Arc::new(TrackConsumersPool::new(pool, MEMORY_CONSUMERS_TOLD));
        Ok(RuntimeEnvBuilder::new().with_memory_pool(pool).with_disk_manager_builder(disk).build_arc()?)
    }

    /// What parted joins share, of the memory.
    pub(crate) fn join_bytes(&self) -> usize {
        self.memory_bytes / 100 * JOIN_MEMORY_PERCENT
    }

    /// Rows of a batch, where rows have so many bytes. An operator that merges what it has spilled holds several batches of each
    /// file, so little memory means small batches.
    pub(crate) fn batch_rows(&self, row_bytes: usize) -> usize {
        (QUERY_BATCH_BYTES_TARGET.min(self.memory_bytes / QUERY_MEMORY_BATCHES) / row_bytes.max(1)).max(1)
    }

    /// Partitions of a plan whose operators are expected to spill. Each has sorts, and merges of what those have spilled: with little
    /// memory they would take it from each other.
    pub(crate) fn spilling_partitions(&self) -> usize {
        (self.memory_bytes / PARTITION_BYTES_MIN).min(self.threads).max(1)
    }

    /// Bytes that each of the sorts of `partitions` keeps back for merging what it has spilled.
    pub(crate) fn sort_reserved_bytes(&self, partitions: usize) -> usize {
        SORT_RESERVED_BYTES.min(self.memory_bytes / (16 * partitions.max(1)))
    }

    /// A context for a plan whose joins have `room`: the other operators have the rest of the memory.
    pub(crate) fn beside(&self, room: &Room, planned: &TaskContext) -> Result<Arc<TaskContext>, Error> {
        let joins = if room.is_used() { self.join_bytes() } else { 0 };
        let environment = self.environment(SharedPool::new(self.memory_bytes - joins))?;
        Ok(task(planned, planned.session_config().clone(), environment))
    }
}

/// Runs `query` over `inputs`.
pub async fn run(query: &str, inputs: Vec<(String, Rows)>, strings: Strings, bounds: &Bounds) -> Result<Rows, Error> {
    match by_reference(query, &inputs, strings, bounds).await {
        Ok(Some(rows)) => Ok(rows),
        Ok(None) => spilled::run(query, inputs, strings, bounds).await,
        Err(error) if error.is_out_of_memory() => spilled::run(query, inputs, strings, bounds).await,
        Err(error) => Err(error),
    }
}

/// Runs it over the inputs where they are; `None`: that is expected to take more memory than there is.
async fn by_reference(query: &str, inputs: &[(String, Rows)], strings: Strings, bounds: &Bounds) -> Result<Option<Rows>, Error> {
    let plan = Plan::of(inputs, bounds.threads);
    let mut config = sql::session_config()
        .with_target_partitions(plan.partitions)
        .with_round_robin_repartition(false)
        .with_batch_size(plan.filter_rows(strings));
    if strings == Strings::Views {
        config = config.with_repartition_joins(false);
        config.options_mut().optimizer.hash_join_single_partition_threshold = usize::MAX;
        config.options_mut().optimizer.hash_join_single_partition_threshold_rows = usize::MAX;
    }
    // Sorts and joins take the inputs' buffers for their own, again for each batch that refers to them.
    let environment = bounds.environment(SharedPool::of_groups(bounds.memory_bytes))?;
    let context = sql::session_context_within(config.clone(), environment);
    for (name, table) in inputs {
        let parts = plan.cut(table);
        let (schema, parts) = match strings {
            Strings::Plain => (Arc::clone(&table.schema), parts),
            Strings::Views => layout::with_views(&table.schema, parts).map_err(DataFusionError::from)?,
        };
        sql::register(&context, name, Arc::new(MemTable::try_new(schema, parts)?))?;
    }
    let planned = sql::select(&context, query).await?.create_physical_plan().await?;
    if spilled::holds_rows(&planned) && spilled::held_bytes(inputs, strings) > bounds.memory_bytes {
        return Ok(None);
    }
    let planned = if strings == Strings::Views { joins::by_reference(planned)? } else { planned };
    let schema = planned.schema();
    check_names(&schema)?;
    // Filters have their number of rows from the plan, everything else asks for it when it runs.
    let task = task(&context.task_ctx(), config.with_batch_size(plan.batch_rows), context.runtime_env());
    let batches: Vec<RecordBatch> = collect_partitioned(planned, task).await?.into_iter().flatten().collect();
    Ok(Some(layout::result(schema, batches, strings).map_err(DataFusionError::from)?))
}

/// A table needs names for its columns, one each.
pub(crate) fn check_names(schema: &SchemaRef) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    match schema.fields().iter().find(|field| !seen.insert(field.name().as_str())) {
        Some(twice) => Err(Error::DuplicateColumn(twice.name().clone())),
        None => Ok(()),
    }
}

/// A schema with plain strings and binaries.
pub(crate) fn plain_schema(schema: &SchemaRef) -> SchemaRef {
    layout::plain_schema(schema)
}

/// Rows with plain strings and binaries, none of the batches tiny.
pub(crate) fn plain_result(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Rows, Error> {
    let batches = batches.into_iter().flat_map(forebay_lake::within_offsets).collect();
    Ok(layout::result(schema, batches, Strings::Plain).map_err(DataFusionError::from)?)
}

/// A batch as `schema`, of [`plain_schema`], says; several where its strings are too long for one.
pub(crate) fn plain_batches(batch: RecordBatch, schema: &SchemaRef) -> Result<Vec<RecordBatch>, arrow::error::ArrowError> {
    forebay_lake::within_offsets(batch).into_iter().map(|batch| layout::plain_batch(&batch, schema)).collect()
}

/// A context to execute in with other settings than those that were planned with.
pub(crate) fn task(planned: &TaskContext, config: SessionConfig, environment: Arc<RuntimeEnv>) -> Arc<TaskContext> {
    Arc::new(TaskContext::new(
        planned.task_id(),
        planned.session_id(),
        config,
        planned.scalar_functions().clone(),
        planned.higher_order_functions().clone(),
        planned.aggregate_functions().clone(),
        planned.window_functions().clone(),
        environment,
    ))
}

/// How a query is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Threads worth their while.
    partitions: usize,
    /// Rows of a batch.
    batch_rows: usize,
    /// Average rows of the batches the largest input is cut into.
    input_rows: usize,
}

impl Plan {
    fn of(inputs: &[(String, Rows)], threads: usize) -> Self {
        let largest = inputs.iter().map(|(_, table)| table).max_by_key(|table| table.rows());
        let rows = largest.map_or(0, Rows::rows);
        // Plain strings of one batch have less than 2 GiB, so few long rows go into one.
        let fitting = inputs.iter().map(|(_, table)| table.rows().saturating_mul(BATCH_BYTES_TARGET) / table.bytes().max(1));
        let fitting = inputs.iter().zip(fitting).filter(|((_, table), _)| table.rows() > 0).map(|(_, rows)| rows).min();
        let batch_rows = fitting.unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS);
        let pieces = largest.map_or(0, |table| table.batches.iter().map(|batch| batch.num_rows().div_ceil(batch_rows)).sum());
        let partitions = (rows / PARTITION_ROWS_MIN).clamp(1, threads.max(1));
        Self { partitions, batch_rows, input_rows: rows.div_ceil(usize::max(pieces, 1)).max(1) }
    }

    /// Rows a filter gathers: it passes a batch on as it is if more than half as many of its rows are left.
    fn filter_rows(self, strings: Strings) -> usize {
        match strings {
            Strings::Plain => self.batch_rows,
            Strings::Views => (2 * self.input_rows / FILTER_PART).clamp(2, self.batch_rows.max(2)),
        }
    }

    /// Contiguous parts of about the same number of rows, in batches of at most `batch_rows`, none of them cut for the sake of the
    /// parts: small batches would be gathered later on, which copies.
    fn cut(self, table: &Rows) -> Vec<Vec<RecordBatch>> {
        let rows = table.rows().max(1);
        let mut cut = vec![Vec::new(); self.partitions];
        let mut row = 0;
        for piece in table.batches.iter().flat_map(|batch| self.even(batch)) {
            let middle = row + piece.num_rows() / 2;
            row += piece.num_rows();
            cut[(middle * self.partitions / rows).min(self.partitions - 1)].push(piece);
        }
        cut
    }

    /// A batch in pieces of the same size, so that none is small.
    fn even(self, batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
        let rows = batch.num_rows();
        let size = rows.div_ceil(rows.div_ceil(self.batch_rows).max(1)).max(1);
        (0..rows).step_by(size).map(move |start| batch.slice(start, size.min(rows - start))).collect::<Vec<_>>().into_iter()
    }
}

impl Rows {
    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Bytes of the largest column.
    fn bytes(&self) -> usize {
        let column = |index: usize| self.batches.iter().map(|batch| layout::bytes(batch.column(index))).sum::<usize>();
        (0..self.schema.fields().len()).map(column).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
