//! What one partition of a parted join does.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, JoinType, NullEquality, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::StreamExt as _;
use tokio::sync::mpsc::Sender;

use super::Place;
use super::part::{Cut, Nulls, Part, Parts, Size, compact};
use crate::limits::{JOIN_CUTS_MAX, PART_GATHERED_BYTES_MAX, PART_GATHERED_BYTES_MIN};

/// One partition of a join.
pub(super) struct Work {
    pub join: Arc<HashJoinExec>,
    pub place: Place,
    /// In which the hash joins of parts are executed.
    pub context: Arc<TaskContext>,
    /// Where rows go.
    pub joined: Sender<Result<RecordBatch>>,
}

/// Rows of both sides that may find each other, and none that others may.
struct Pair {
    left: Part,
    right: Part,
    /// How often its rows have been cut.
    cuts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Work {
    /// Joins `left` and `right` to their end, or until nobody wants the rows.
    pub async fn run(self, mut left: SendableRecordBatchStream, right: SendableRecordBatchStream) -> Result<()> {
        let held = self.hold(&mut left, None).await?;
        if held.is_all {
            let join = self.join.builder().with_null_aware(self.join.null_aware);
            let plan = self.planned(join, held.stream(&left.schema()), right, Side::Left)?;
            return self.pass(plan, Ok).await.map(drop);
        }
        self.place.holds(0);
        let lefts = self.cut(Side::Left, held.batches, left, 0).await?;
        let rights = self.cut(Side::Right, Vec::new(), right, 0).await?;
        let mut pairs = if self.join.null_aware { not_in(lefts, rights) } else { paired(lefts, rights, 1) };
        while let Some(pair) = pairs.pop() {
            match self.pair(pair).await? {
                Next::Done => {}
                Next::Cut(smaller) => pairs.extend(smaller),
                Next::Unwanted => return Ok(()),
            }
        }
        Ok(())
    }

    /// Joins a pair, or cuts it where neither side of it fits.
    async fn pair(&self, pair: Pair) -> Result<Next> {
        if pair.left.size.rows + pair.right.size.rows == 0 {
            return Ok(Next::Done);
        }
        let (left, right) = (pair.left.size.built_bytes(), pair.right.size.built_bytes());
        let (side, bytes) = if right < left { (Side::Right, right) } else { (Side::Left, left) };
        if self.place.holds(bytes) {
            let plan = self.planned(self.join.builder().with_null_aware(false), self.lefts(&pair), self.rights(&pair), side)?;
            let is_wanted = self.pass(plan, Ok).await?;
            self.place.holds(0);
            return Ok(if is_wanted { Next::Done } else { Next::Unwanted });
        }
        if pair.cuts >= JOIN_CUTS_MAX {
            return Ok(if self.in_pieces(&pair).await? { Next::Done } else { Next::Unwanted });
        }
        let lefts = self.cut(Side::Left, Vec::new(), self.lefts(&pair), pair.cuts).await?;
        let rights = self.cut(Side::Right, Vec::new(), self.rights(&pair), pair.cuts).await?;
        let mut smaller = paired(lefts, rights, pair.cuts + 1);
        for small in &mut smaller {
            // Most rows have one key: cutting does not help.
            if small.left.size.built_bytes().min(small.right.size.built_bytes()) > bytes / 4 * 3 {
                small.cuts = JOIN_CUTS_MAX;
            }
        }
        Ok(Next::Cut(smaller))
    }

    /// Joins a pair with one side in pieces that fit, each with all of the other side. Every row of the side in pieces meets all
    /// rows of the other in one join, so it is the side whose rows are left over, if those of one side are.
    async fn in_pieces(&self, pair: &Pair) -> Result<bool> {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        match self.join.join_type() {
            kind @ (Inner | Left | LeftAnti | LeftMark | LeftSemi) => self.pieces(*kind, Side::Left, pair).await,
            kind @ (Right | RightAnti | RightMark | RightSemi) => self.pieces(*kind, Side::Right, pair).await,
            // Those of both sides are: first the left's, then the right's that are alone.
            Full => Ok(self.pieces(Left, Side::Left, pair).await? && self.pieces(RightAnti, Side::Right, pair).await?),
        }
    }

    async fn pieces(&self, kind: JoinType, side: Side, pair: &Pair) -> Result<bool> {
        let is_rest = *self.join.join_type() == JoinType::Full && kind == JoinType::RightAnti;
        let mut rows = if side == Side::Left { self.lefts(pair) } else { self.rights(pair) };
        let mut next = None;
        loop {
            let mut held = self.hold(&mut rows, next.take()).await?;
            if held.batches.is_empty() {
                return Ok(true);
            }
            // The one that was too much is the first of the next.
            if !held.is_all && held.batches.len() > 1 {
                next = held.batches.pop();
            }
            let is_last = held.is_all;
            let piece = held.stream(&rows.schema());
            let (left, right) = if side == Side::Left { (piece, self.rights(pair)) } else { (self.lefts(pair), piece) };
            let join = self.join.builder().with_null_aware(false).with_type(kind);
            let join = if is_rest { join.with_projection(None) } else { join };
            let plan = self.planned(join, left, right, side)?;
            let shape = |batch| if is_rest { self.padded(&batch) } else { Ok(batch) };
            if !self.pass(plan, shape).await? {
                return Ok(false);
            }
            if is_last {
                return Ok(true);
            }
        }
    }

    /// Rows of the right side that are alone in a full join.
    fn padded(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let nulls = self.join.left().schema();
        let nulls = nulls.fields().iter().map(|field| new_null_array(field.data_type(), batch.num_rows()));
        let all: Vec<ArrayRef> = nulls.chain(batch.columns().iter().cloned()).collect();
        let columns = match &self.join.projection {
            Some(projection) => projection.iter().map(|&column| Arc::clone(&all[column])).collect(),
            None => all,
        };
        let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.join.schema(), columns, &rows)?)
    }

    /// As many rows as there is a place for, after `first`, and one batch more than that.
    async fn hold(&self, rows: &mut SendableRecordBatchStream, first: Option<RecordBatch>) -> Result<Held> {
        let (mut batches, mut size) = (Vec::new(), Size::default());
        let mut next = first.map(Ok);
        loop {
            let batch = match next.take() {
                Some(batch) => batch,
                None => match rows.next().await {
                    Some(batch) => batch,
                    None => return Ok(Held { batches, is_all: true }),
                },
            };
            let batch = compact(batch?)?;
            size.add(&batch);
            batches.push(batch);
            if !self.place.holds(size.built_bytes()) {
                return Ok(Held { batches, is_all: false });
            }
        }
    }

    /// One side in parts: what has been held, and what is to come.
    async fn cut(
        &self,
        side: Side,
        held: Vec<RecordBatch>,
        mut rows: SendableRecordBatchStream,
        times: u64,
    ) -> Result<Vec<Part>> {
        let nulls = match self.join.null_equality() {
            _ if self.join.null_aware && times == 0 => Nulls::Apart,
            NullEquality::NullEqualsNull => Nulls::Keys,
            NullEquality::NullEqualsNothing => Nulls::Anywhere,
        };
        let gathered_bytes = (self.place.owned_bytes / 2).clamp(PART_GATHERED_BYTES_MIN, PART_GATHERED_BYTES_MAX);
        let cut = Cut { keys: self.keys(side), nulls, times, gathered_bytes };
        let mut parts = Parts::new(cut, rows.schema(), Arc::clone(&self.context.runtime_env().disk_manager));
        for batch in held {
            parts.push(&batch)?;
        }
        while let Some(batch) = rows.next().await {
            parts.push(&batch?)?;
        }
        parts.finish()
    }

    fn keys(&self, side: Side) -> Vec<Arc<dyn PhysicalExpr>> {
        let key = |(left, right): &(Arc<dyn PhysicalExpr>, _)| Arc::clone(if side == Side::Left { left } else { right });
        self.join.on().iter().map(key).collect()
    }

    fn lefts(&self, pair: &Pair) -> SendableRecordBatchStream {
        pair.left.read(&self.join.left().schema())
    }

    fn rights(&self, pair: &Pair) -> SendableRecordBatchStream {
        pair.right.read(&self.join.right().schema())
    }

    /// A hash join of these rows, built on one side.
    fn planned(
        &self,
        join: datafusion::physical_plan::joins::HashJoinExecBuilder,
        left: SendableRecordBatchStream,
        right: SendableRecordBatchStream,
        built: Side,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let children = vec![once(left)?, once(right)?];
        let join = join.reset_state().with_partition_mode(PartitionMode::Partitioned);
        let join = join.with_new_children(children)?.recompute_properties().build()?;
        match built {
            Side::Left => Ok(Arc::new(join)),
            Side::Right => join.swap_inputs(PartitionMode::Partitioned),
        }
    }

    /// Passes the rows of a join on. `false`: nobody wants more.
    async fn pass(&self, plan: Arc<dyn ExecutionPlan>, shape: impl Fn(RecordBatch) -> Result<RecordBatch>) -> Result<bool> {
        let mut rows = plan.execute(0, Arc::clone(&self.context))?;
        while let Some(batch) = rows.next().await {
            if self.joined.send(Ok(compact(shape(batch?)?)?)).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What to do after a pair.
enum Next {
    Done,
    Cut(Vec<Pair>),
    Unwanted,
}

fn paired(lefts: Vec<Part>, rights: Vec<Part>, cuts: u64) -> Vec<Pair> {
    lefts.into_iter().zip(rights).map(|(left, right)| Pair { left, right, cuts }).collect()
}

/// Pairs of NOT IN, whose last parts are the rows with null for a key: one among the right ones, and nothing is known not to be in
/// there; none, and nulls of the left are unknown as well, unless there are no rows to compare with.
fn not_in(lefts: Vec<Part>, mut rights: Vec<Part>) -> Vec<Pair> {
    let is_null = rights.last().is_some_and(|nulls| nulls.size.rows > 0);
    let is_empty = rights.iter().all(|part| part.size.rows == 0);
    if is_null {
        return Vec::new();
    }
    let kept = if is_empty { rights.len() } else { rights.len() - 1 };
    rights.truncate(kept);
    paired(lefts, rights, 1)
}

struct Held {
    batches: Vec<RecordBatch>,
    is_all: bool,
}

impl Held {
    fn stream(self, schema: &SchemaRef) -> SendableRecordBatchStream {
        let batches = futures::stream::iter(self.batches.into_iter().map(Ok::<_, DataFusionError>));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), batches))
    }
}

/// Rows as a plan, to be executed once.
fn once(rows: SendableRecordBatchStream) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = rows.schema();
    let once = Once { schema: Arc::clone(&schema), rows: Mutex::new(Some(rows)) };
    Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(once)], None, None, false, None)?))
}

struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).take();
        rows.unwrap_or_else(|| {
            let again = futures::stream::iter([Err(datafusion::common::internal_datafusion_err!("rows are read twice"))]);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), again))
        })
    }
}
