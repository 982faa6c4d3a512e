//! Queries that do not change the order of rows: their partitions are contiguous, and leave one after another.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::stream::{RecordBatchReceiverStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties as _, Partitioning, PlanProperties,
};
use futures::StreamExt as _;

use crate::limits::PIECE_BATCHES_MAX;

/// Whether rows of the result come in the order of the table: scans, filters, projections and limits, and nothing else.
pub(super) fn keeps(plan: &LogicalPlan) -> bool {
    let mut keeps = true;
    // A walk that cannot fail: the closure does not.
    let _ = plan.apply_with_subqueries(|node| {
        keeps &= matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Filter(_)
                | LogicalPlan::TableScan(_)
                | LogicalPlan::SubqueryAlias(_)
                | LogicalPlan::Limit(_)
                | LogicalPlan::EmptyRelation(_)
                | LogicalPlan::Values(_)
        );
        Ok(if keeps { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    keeps
}

/// The plan with one partition at its top and its partitions in their order wherever they come together.
pub(super) fn in_order(plan: Arc<dyn ExecutionPlan>, ahead: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let merged = plan.transform_up(|plan| match plan.downcast_ref::<CoalescePartitionsExec>() {
        Some(merge) => {
            let joined: Arc<dyn ExecutionPlan> = Arc::new(InOrder::new(Arc::clone(merge.input()), ahead));
            Ok(Transformed::yes(match merge.fetch() {
                Some(rows) => Arc::new(GlobalLimitExec::new(joined, 0, Some(rows))),
                None => joined,
            }))
        }
        None => Ok(Transformed::no(plan)),
    });
    let plan = merged.data()?;
    Ok(match plan.output_partitioning().partition_count() {
        0 | 1 => plan,
        _ => Arc::new(InOrder::new(plan, ahead)),
    })
}

/// The partitions of its input one after another, with some of them read ahead.
#[derive(Debug, Clone)]
struct InOrder {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    /// Partitions that are read at the same time.
    ahead: usize,
}

impl InOrder {
    fn new(input: Arc<dyn ExecutionPlan>, ahead: usize) -> Self {
        let equivalence = EquivalenceProperties::new(input.schema());
        let one = Partitioning::UnknownPartitioning(1);
        let properties = PlanProperties::new(equivalence, one, input.pipeline_behavior(), input.boundedness());
        Self { input, properties: Arc::new(properties), ahead: ahead.max(1) }
    }
}

impl DisplayAs for InOrder {
    fn fmt_as(&self, _: DisplayFormatType, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("InOrder")
    }
}

impl ExecutionPlan for InOrder {
    fn name(&self) -> &str {
        "InOrder"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::new(input, self.ahead))),
            Err(_) => Err(internal_datafusion_err!("InOrder has one input")),
        }
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (input, schema) = (Arc::clone(&self.input), self.schema());
        let count = input.output_partitioning().partition_count();
        let started = move |partition: usize| {
            let mut piece = RecordBatchReceiverStream::builder(input.schema(), PIECE_BATCHES_MAX);
            let (sender, input, context) = (piece.tx(), Arc::clone(&input), Arc::clone(&context));
            piece.spawn(async move {
                let mut rows = input.execute(partition, context)?;
                while let Some(batch) = rows.next().await {
                    let failed = batch.is_err();
                    // Nobody wants the rest, or what comes after an error.
                    if sender.send(batch).await.is_err() || failed {
                        break;
                    }
                }
                Ok(())
            });
            futures::future::ready(piece.build())
        };
        // Pieces start when they are asked for; dropping the stream ends those that run.
        let rows = futures::stream::iter(0..count).map(started).buffered(self.ahead).flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
