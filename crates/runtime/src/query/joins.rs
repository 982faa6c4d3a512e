//! Whether the hash joins of a plan are expected to fit into memory: nothing of a build side can be spilled.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;

use super::width;

/// Bytes that the hash table needs for a row, beside the row.
const HASH_BYTES: usize = 24;

/// Bytes of a string or list of which only the number of rows is known, beside those that point at it.
const TEXT_BYTES_GUESS: usize = 24;

/// Of the memory, in percent: what all build sides together may be expected to need. Estimates are rough, and other operators
/// want to live, too.
const BUILD_MEMORY_PERCENT: usize = 60;

/// Whether the build sides are expected to need more than `memory_bytes` allows them. What cannot be estimated is expected to fit.
pub(super) fn exceed(plan: &Arc<dyn ExecutionPlan>, memory_bytes: usize) -> bool {
    needed(plan) > memory_bytes / 100 * BUILD_MEMORY_PERCENT
}

fn needed(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let here = plan.downcast_ref::<HashJoinExec>().map_or(0, |join| build_bytes(join.left()));
    plan.children().into_iter().map(needed).fold(here, usize::saturating_add)
}

fn build_bytes(build: &Arc<dyn ExecutionPlan>) -> usize {
    let Ok(statistics) = build.partition_statistics(None) else { return 0 };
    let Some(rows) = statistics.num_rows.get_value() else { return 0 };
    rows.saturating_mul(row_bytes(&build.schema()) + HASH_BYTES)
}

/// Bytes of a row in memory, by its types alone.
pub(super) fn row_bytes(schema: &Schema) -> usize {
    let bytes = |kind: &DataType| if kind.primitive_width().is_some() { width(kind) } else { width(kind) + TEXT_BYTES_GUESS };
    schema.fields().iter().map(|field| bytes(field.data_type())).sum()
}
