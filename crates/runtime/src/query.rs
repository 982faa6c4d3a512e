//! One SELECT over tables of the lake, read by the process that runs it, in bounded memory.
//!
//! ```text
//! files ─▶ scans ─▶ filters, joins, aggregates, sorts ─▶ batches ─▶ sink: a pipe to the client, or a table in shared memory
//!                     │ more than the memory limit
//!                     └─▶ spill files, in a folder of the query's own
//! ```
//!
//! # Memory
//! Sorts and aggregates spill. A hash join's build side does not, so it is planned only where the build side is expected to fit
//! ([`joins`]); where that was wrong and nothing has left yet, the query runs again with joins that go to disk ([`parted`]).
//! What operators do not account for (pages being decoded, batches on their way) comes on top of the limit.
//!
//! # Order
//! As in a SQL model, rows keep the order of the table where the query does not change it ([`order`]).

mod joins;
mod order;
mod sink;

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider as _;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use forebay_lake::LakeTable;
use forebay_plan::sql;
use forebay_sipc::call::QueryTable;
use futures::StreamExt as _;

use crate::limits::{BATCH_ROWS, PARTITION_ROWS_MIN, PIECE_BYTES_TARGET, PIECES_MAX, QUERY_BATCH_ROWS};
use crate::parted::{self, Room};
use crate::pool::SharedPool;
use crate::sql::{Bounds, Error};

pub(crate) use sink::{Collect, Pipe, Sink};

/// A query and its bounds.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// One SELECT.
    pub sql: &'a str,
    /// The tables in it.
    pub tables: &'a [QueryTable],
    /// What its operators may use.
    pub bounds: Bounds,
}

/// Runs the query and gives its rows to `sink`.
pub(crate) async fn run(request: &Request<'_>, sink: &mut dyn Sink) -> Result<(), Error> {
    let tables = open(request.tables).await?;
    let first = attempt(request, &tables, Joins::Hash, sink).await;
    match first {
        Err(error) if error.is_out_of_memory() && !sink.has_rows() => attempt(request, &tables, Joins::Parted, sink).await,
        other => other,
    }
}

/// How equal keys find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joins {
    /// One side in memory.
    Hash,
    /// The same while that fits, on disk where it does not.
    Parted,
}

type Tables = Vec<(String, Arc<LakeTable>)>;

async fn open(tables: &[QueryTable]) -> Result<Tables, Error> {
    let open = tables.iter().map(|table| async {
        let opened = LakeTable::open(&table.metadata_location, table.snapshot_id).await?;
        Ok::<_, forebay_lake::Error>((table.name.clone(), Arc::new(opened)))
    });
    Ok(futures::future::try_join_all(open).await?)
}

async fn attempt(request: &Request<'_>, tables: &Tables, wanted: Joins, sink: &mut dyn Sink) -> Result<(), Error> {
    let mut planned = plan(request, tables, wanted).await?;
    if wanted == Joins::Hash && joins::exceed(&planned.plan, request.bounds.memory_bytes) {
        planned = plan(request, tables, Joins::Parted).await?;
    }
    let schema = planned.plan.schema();
    crate::sql::check_names(&schema)?;
    sink.begin(&schema)?;
    let mut batches = execute_stream(planned.plan, planned.task)?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if batch.num_rows() > 0 {
            sink.rows(batch).await?;
        }
    }
    Ok(())
}

struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<datafusion::execution::TaskContext>,
}

async fn plan(request: &Request<'_>, tables: &Tables, wanted: Joins) -> Result<Planned, Error> {
    let environment = request.bounds.environment(SharedPool::new(request.bounds.memory_bytes))?;
    let context = sql::session_context_within(sql::session_config(), environment);
    for (name, table) in tables {
        sql::register(&context, name, Arc::clone(table) as _)?;
    }
    let (mut state, logical) = sql::select(&context, request.sql).await?.into_parts();
    let in_order = order::keeps(&logical);
    *state.config_mut() = config(state.config().clone(), request, tables, wanted, in_order);
    let room = Arc::new(Room::new(request.bounds.join_bytes()));
    if wanted == Joins::Parted {
        *state.config_mut() = parted::config(state.config().clone());
        state = parted::state(state, &room);
    }
    let plan = state.create_physical_plan(&logical).await?;
    let plan = if in_order { order::in_order(plan, request.bounds.threads)? } else { plan };
    let task = state.task_ctx();
    Ok(Planned { plan, task: if room.is_used() { request.bounds.beside(&room, &task)? } else { task } })
}

/// Settings for this query over these tables.
fn config(config: SessionConfig, request: &Request<'_>, tables: &Tables, wanted: Joins, in_order: bool) -> SessionConfig {
    let most = |number: fn(&LakeTable) -> u64| tables.iter().map(|(_, table)| number(table)).max().unwrap_or(0);
    let rows = usize::try_from(most(LakeTable::rows)).unwrap_or(usize::MAX);
    let pieces = usize::try_from(most(LakeTable::file_bytes) / PIECE_BYTES_TARGET).unwrap_or(PIECES_MAX);
    let partitions = match in_order {
        // More than threads: pieces are read ahead whole, so that the first ones can leave while the next are read.
        true => pieces.clamp(request.bounds.threads, PIECES_MAX.max(request.bounds.threads)),
        false => request.bounds.threads,
    };
    let partitions = match wanted {
        Joins::Parted => partitions.min(request.bounds.spilling_partitions()),
        Joins::Hash => partitions,
    };
    let partitions = (rows / PARTITION_ROWS_MIN).clamp(1, partitions);
    let batch_rows = if in_order { BATCH_ROWS } else { QUERY_BATCH_ROWS };
    let widths = tables.iter().map(|(_, table)| row_bytes(table));
    // A row of parted joins may hold the columns of all tables.
    let row_bytes = if wanted == Joins::Parted { widths.sum() } else { widths.max().unwrap_or(1) };
    let batch_rows = batch_rows.min(request.bounds.batch_rows(row_bytes));
    config
        .with_target_partitions(partitions)
        .with_batch_size(batch_rows)
        .with_round_robin_repartition(!in_order)
        .with_sort_spill_reservation_bytes(request.bounds.sort_reserved_bytes(partitions))
}

/// Bytes of a row in memory, roughly and rather too many.
fn row_bytes(table: &LakeTable) -> usize {
    let rows = usize::try_from(table.rows()).unwrap_or(usize::MAX).max(1);
    // Compressed; text grows by a small factor, numbers are counted by their width.
    let stored = usize::try_from(table.file_bytes()).unwrap_or(usize::MAX).saturating_mul(4) / rows;
    stored.max(joins::row_bytes(&table.schema()))
}

/// Bytes of a fixed part of a value: its own, or those that point at it.
fn width(kind: &DataType) -> usize {
    kind.primitive_width().unwrap_or(16)
}

/// The schema as it leaves: strings and binaries plain.
fn leaving(schema: &SchemaRef) -> SchemaRef {
    crate::sql::plain_schema(schema)
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Query(DataFusionError::IoError(error))
    }
}

#[cfg(test)]
mod tests;
