//! Joins that are larger than memory, part by part.
//!
//! DataFusion's hash join holds one side as a whole and cannot spill it. Where that may not fit, the planner's hash joins are
//! replaced by [`Parted`] ones ([`state`]), which are hash joins as long as the side fits:
//!
//! ```text
//! left ──▶ held ──fits──▶ an ordinary hash join with the right side as it comes
//!            └─does not──▶ both sides are cut by a hash of their keys into parts, one file each ([`part`])
//!                             part of the left + part of the right ──▶ an ordinary hash join, built on the smaller of the two
//!                             both too large ──▶ cut again, by another hash
//!                             cutting does not help (one key) ──▶ one side in pieces that fit, the other once for each
//! ```
//!
//! # Memory
//! All parted joins of a plan share a [`Room`]. A part of it belongs to each of them, so that each can go on; the rest is for
//! whoever comes first. A side counts twice, because a hash join puts its batches together, and each row for its place in the hash
//! table. Batches on their way and those that are being written come on top, a few megabytes at most.
//!
//! # Invariants
//! - Rows with equal keys are in parts of the same number: keys of both sides have the same type, and hash alike.
//! - A file is gone when its last reader is, and all of them when the stream of the join is dropped.

mod part;
mod work;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool, MemoryReservation, UnboundedMemoryPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::physical_expr::Distribution;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{EmissionType, PlanProperties};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, Partitioning};
use datafusion::prelude::SessionConfig;

use crate::limits::JOINED_BATCHES_MAX;

pub(crate) use part::compact;

/// The planner's rule before which joins are replaced: distributions are settled then, and orders are not.
const BEFORE: &str = "EnforceSorting";

/// Memory for all parted joins of a plan.
#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes that are divided evenly.
    owned_bytes: usize,
    /// The others, for whoever comes first.
    shared: Arc<dyn MemoryPool>,
    /// Joins of the plan.
    joins: AtomicUsize,
}

impl Room {
    pub fn new(bytes: usize) -> Self {
        let shared = Arc::new(GreedyMemoryPool::new(bytes - bytes / 2));
        Self { owned_bytes: bytes / 2, shared, joins: AtomicUsize::new(0) }
    }

    /// Whether there is a join in the plan that was made with it.
    pub fn is_used(&self) -> bool {
        self.joins.load(Ordering::Relaxed) > 0
    }

    /// A place for one of `partitions` of one of the joins.
    fn place(&self, partitions: usize) -> Place {
        let places = self.joins.load(Ordering::Relaxed).max(1).saturating_mul(partitions.max(1));
        let more = MemoryConsumer::new("PartedJoin").register(&self.shared);
        Place { owned_bytes: self.owned_bytes / places, more }
    }
}

/// What one partition of a join may hold.
#[derive(Debug)]
struct Place {
    owned_bytes: usize,
    more: MemoryReservation,
}

impl Place {
    /// Whether it may hold so many bytes from now on, in the place of what it has held.
    fn holds(&self, bytes: usize) -> bool {
        if bytes <= self.owned_bytes {
            self.more.free();
            return true;
        }
        self.more.try_resize(bytes).is_ok()
    }
}

/// Settings under which joins can be replaced.
pub(crate) fn config(mut config: SessionConfig) -> SessionConfig {
    let optimizer = &mut config.options_mut().optimizer;
    optimizer.prefer_hash_join = true;
    // Both sides cut by their keys: none is expected to fit as a whole.
    optimizer.hash_join_single_partition_threshold = 0;
    optimizer.hash_join_single_partition_threshold_rows = 0;
    // Nobody would say what a side has held.
    optimizer.enable_join_dynamic_filter_pushdown = false;
    config
}

/// A planner whose hash joins are parted, within `room`. It wants the settings of [`config`].
pub(crate) fn state(state: SessionState, room: &Arc<Room>) -> SessionState {
    let mut rules = state.physical_optimizers().to_vec();
    let before = rules.iter().position(|rule| rule.name() == BEFORE).unwrap_or(rules.len());
    rules.insert(before, Arc::new(Rule { room: Arc::clone(room) }));
    SessionStateBuilder::new_from_existing(state).with_physical_optimizer_rules(rules).build()
}

#[derive(Debug)]
struct Rule {
    room: Arc<Room>,
}

impl PhysicalOptimizerRule for Rule {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| match plan.downcast_ref::<HashJoinExec>() {
            // What a condition means for keys that are null is known to the hash join alone.
            Some(join) if join.null_aware && join.filter().is_some() => Ok(Transformed::no(plan)),
            Some(join) => {
                self.room.joins.fetch_add(1, Ordering::Relaxed);
                Ok(Transformed::yes(Arc::new(Parted::of(join, &self.room)?)))
            }
            None => Ok(Transformed::no(plan)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "PartedJoins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// A hash join that goes to disk where its build side does not fit.
#[derive(Debug, Clone)]
struct Parted {
    join: Arc<HashJoinExec>,
    room: Arc<Room>,
    properties: Arc<PlanProperties>,
}

impl Parted {
    fn of(join: &HashJoinExec, room: &Arc<Room>) -> Result<Self> {
        let is_one = |side: &Arc<dyn ExecutionPlan>| side.output_partitioning().partition_count() == 1;
        let together = |side: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
            if is_one(side) { Arc::clone(side) } else { Arc::new(CoalescePartitionsExec::new(Arc::clone(side))) }
        };
        let is_cut = join.mode == PartitionMode::Partitioned && !join.null_aware;
        let children = match is_cut {
            true => vec![Arc::clone(join.left()), Arc::clone(join.right())],
            // What is collected is collected on both sides.
            false => vec![together(join.left()), together(join.right())],
        };
        Self::with(&join.builder().reset_state().with_new_children(children)?.recompute_properties().build()?, room)
    }

    fn with(join: &HashJoinExec, room: &Arc<Room>) -> Result<Self> {
        let join = Arc::new(join.builder().build()?);
        let mut equivalence = join.properties().equivalence_properties().clone();
        equivalence.clear_orderings();
        let count = join.right().output_partitioning().partition_count();
        let partitioning = match join.properties().output_partitioning() {
            kept if count == kept.partition_count() => kept.clone(),
            _ => Partitioning::UnknownPartitioning(count),
        };
        let properties = PlanProperties::new(equivalence, partitioning, EmissionType::Final, join.properties().boundedness);
        Ok(Self { join, room: Arc::clone(room), properties: Arc::new(properties) })
    }
}

impl DisplayAs for Parted {
    fn fmt_as(&self, kind: DisplayFormatType, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Parted")?;
        self.join.fmt_as(kind, out)
    }
}

impl ExecutionPlan for Parted {
    fn name(&self) -> &str {
        "PartedHashJoin"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        match self.join.mode {
            PartitionMode::Partitioned if !self.join.null_aware => self.join.required_input_distribution(),
            _ => vec![Distribution::SinglePartition, Distribution::SinglePartition],
        }
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.join.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let join = self.join.builder().with_new_children(children)?.recompute_properties().build()?;
        Ok(Arc::new(Self::with(&join, &self.room)?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let partitions = self.join.left().output_partitioning().partition_count();
        if partitions != self.join.right().output_partitioning().partition_count() {
            return Err(internal_datafusion_err!("the sides of a parted join are cut differently"));
        }
        let left = self.join.left().execute(partition, Arc::clone(&context))?;
        let right = self.join.right().execute(partition, Arc::clone(&context))?;
        // What its hash joins hold is counted here, before they do.
        let unbounded = Arc::new(UnboundedMemoryPool::default());
        let environment = RuntimeEnvBuilder::from_runtime_env(&context.runtime_env()).with_memory_pool(unbounded).build_arc()?;
        let inner = crate::sql::task(&context, context.session_config().clone(), environment);
        let place = self.room.place(partitions);
        let mut joined = RecordBatchReceiverStream::builder(self.schema(), JOINED_BATCHES_MAX);
        let work = work::Work { join: Arc::clone(&self.join), place, context: inner, joined: joined.tx() };
        joined.spawn(work.run(left, right));
        Ok(joined.build())
    }
}

#[cfg(test)]
mod tests;
