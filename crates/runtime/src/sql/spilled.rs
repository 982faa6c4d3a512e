//! SQL models that need more memory than they have: over copies of their inputs, batch by batch, with operators that go to disk.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{ExecutionPlan, collect_partitioned};
use forebay_plan::sql;
use forebay_shm::view_type;

use super::{Bounds, Error, Plan, Rows, Strings, check_names, layout};
use crate::limits::QUERY_BATCH_ROWS;
use crate::parted::{self, Room, compact};
use crate::pool::SharedPool;

/// Bytes of a view, or of what points at a value.
const VIEW_BYTES: usize = 16;

/// What a sort or a join takes while it works, over the rows that it holds.
const HELD_FACTOR: usize = 3;

/// Whether an operator of the plan holds rows of its inputs, other than a few.
pub(super) fn holds_rows(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let holds = match plan.downcast_ref::<SortExec>() {
        Some(sort) => sort.fetch().is_none(),
        None => {
            plan.is::<HashJoinExec>()
                || plan.is::<CrossJoinExec>()
                || plan.is::<NestedLoopJoinExec>()
                || plan.is::<WindowAggExec>()
        }
    };
    holds || plan.children().into_iter().any(holds_rows)
}

/// Bytes that operators over the inputs may hold, without those that stay where they are.
pub(super) fn held_bytes(inputs: &[(String, Rows)], strings: Strings) -> usize {
    let column = |rows: &Rows, index: usize| {
        let stays = strings == Strings::Views && view_type(rows.schema.field(index).data_type()).is_some();
        let bytes = |batch: &RecordBatch| match stays {
            true => batch.num_rows() * VIEW_BYTES,
            false => layout::bytes(batch.column(index)),
        };
        rows.batches.iter().map(bytes).sum::<usize>()
    };
    let table = |rows: &Rows| (0..rows.schema.fields().len()).map(|index| column(rows, index)).sum::<usize>();
    inputs.iter().map(|(_, rows)| table(rows)).sum::<usize>().saturating_mul(HELD_FACTOR)
}

/// Runs `query` in bounded memory, but for its result.
pub(super) async fn run(query: &str, inputs: Vec<(String, Rows)>, strings: Strings, bounds: &Bounds) -> Result<Rows, Error> {
    let cut = Plan::of(&inputs, bounds.spilling_partitions());
    // A row that is joined may hold the columns of all tables.
    let row_bytes = inputs.iter().map(|(_, rows)| row_bytes(rows)).sum();
    let batch_rows = bounds.batch_rows(row_bytes).min(QUERY_BATCH_ROWS);
    let config = sql::session_config()
        .with_target_partitions(cut.partitions)
        .with_round_robin_repartition(false)
        .with_batch_size(batch_rows)
        .with_sort_spill_reservation_bytes(bounds.sort_reserved_bytes(cut.partitions));
    let context = sql::session_context_within(parted::config(config), bounds.environment(SharedPool::new(bounds.memory_bytes))?);
    for (name, table) in inputs {
        let parts = cut.cut(&table).into_iter().map(|batches| {
            let copies = Copies { schema: Arc::clone(&table.schema), batches, batch_rows };
            Arc::new(copies) as Arc<dyn PartitionStream>
        });
        sql::register(&context, &name, Arc::new(StreamingTable::try_new(Arc::clone(&table.schema), parts.collect())?))?;
    }
    let (state, logical) = sql::select(&context, query).await?.into_parts();
    let room = Arc::new(Room::new(bounds.join_bytes()));
    let state = parted::state(state, &room);
    let planned = state.create_physical_plan(&logical).await?;
    let schema = planned.schema();
    check_names(&schema)?;
    let batches = collect_partitioned(planned, bounds.beside(&room, &state.task_ctx())?).await?.into_iter().flatten().collect();
    Ok(layout::result(schema, batches, strings).map_err(DataFusionError::from)?)
}

/// Bytes of a row on average, and of the rows of views what they show.
fn row_bytes(table: &Rows) -> usize {
    let viewed = |kind: &DataType| usize::from(matches!(kind, DataType::Utf8View | DataType::BinaryView));
    let bytes: usize = (0..table.schema.fields().len())
        .map(|index| {
            let shown = 2 * VIEW_BYTES * viewed(table.schema.field(index).data_type());
            table.batches.iter().map(|batch| layout::bytes(batch.column(index)) + batch.num_rows() * shown).sum::<usize>()
        })
        .sum();
    bytes / table.rows().max(1)
}

/// Batches that are copied when it is their turn: those of the inputs are a whole table's memory each, for all that operators know.
#[derive(Debug)]
struct Copies {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    batch_rows: usize,
}

impl PartitionStream for Copies {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let size = self.batch_rows;
        let pieces = self.batches.clone().into_iter().flat_map(move |batch| {
            let rows = batch.num_rows();
            (0..rows).step_by(size).map(move |start| copied(&batch.slice(start, size.min(rows - start))))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), futures::stream::iter(pieces)))
    }
}

fn copied(batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let rows = u32::try_from(batch.num_rows()).map_err(|error| DataFusionError::External(error.into()))?;
    compact(take_record_batch(batch, &UInt32Array::from_iter_values(0..rows))?)
}
