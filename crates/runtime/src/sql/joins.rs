//! Joins that carry views instead of copying strings.
//!
//! DataFusion's hash join gathers its results into batches, and copies the strings of views together where less than half of a batch's
//! rows is left, which is what a join does as a rule. So views cross a join as numbers ([`ViewNumbers`]):
//!
//! ```text
//! AsViews                   views again, over the buffers that are needed
//! └─ HashJoinExec           carries 16 bytes per row; keys and conditions are read from the views, which stay where those need them
//!    ├─ AsNumbers           a number in the place of each view, or beside it
//!    └─ AsNumbers
//! ```

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinSide, JoinType, Result, internal_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use forebay_shm::{NUMBER, ViewNumbers};
use futures::StreamExt;

/// The plan with all its hash joins carrying numbers for views.
pub(super) fn by_reference(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|plan| match plan.downcast_ref::<HashJoinExec>() {
        Some(join) => Ok(carrying(join)?.map_or_else(|| Transformed::no(Arc::clone(&plan)), Transformed::yes)),
        None => Ok(Transformed::no(plan)),
    })
    .data()
}

/// `None` if no views come out of the join.
fn carrying(join: &HashJoinExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let result = join.schema();
    if !result.fields().iter().any(|field| is_view(field.data_type())) {
        return Ok(None);
    }
    let origins: Vec<Origin> = match &join.projection {
        Some(columns) => columns.iter().map(|&column| Origin::of(column, join)).collect(),
        None => (0..result.fields().len()).map(|column| Origin::of(column, join)).collect(),
    };
    let all = Arc::new(ViewNumbers::default());
    let mut used = [HashSet::new(), HashSet::new()];
    for (left, right) in join.on() {
        used[0].extend(collect_columns(left).iter().map(|column| column.index()));
        used[1].extend(collect_columns(right).iter().map(|column| column.index()));
    }
    for column in join.filter().iter().flat_map(|filter| filter.column_indices()) {
        match column.side {
            JoinSide::Left => used[0].insert(column.index),
            JoinSide::Right => used[1].insert(column.index),
            JoinSide::None => false,
        };
    }
    let wanted = |side: JoinSide| origins.iter().filter(move |origin| origin.side == side).map(|origin| origin.column).collect();
    let left = Side::of(join.left(), &wanted(JoinSide::Left), &used[0], &all);
    let right = Side::of(join.right(), &wanted(JoinSide::Right), &used[1], &all);
    let projection = origins.iter().map(|origin| origin.place(&left, &right, join.join_type())).collect();
    let children = vec![left.plan, right.plan];
    let numbers =
        join.builder().with_new_children(children)?.with_projection(Some(projection)).recompute_properties().build_exec()?;
    let column =
        |(index, field): (usize, &Arc<Field>)| if is_view(field.data_type()) { Column::View(index) } else { Column::Same(index) };
    let columns = result.fields().iter().enumerate().map(column).collect();
    Ok(Some(Arc::new(Convert { input: numbers, properties: Arc::clone(join.properties()), schema: result, columns, all })))
}

fn is_view(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8View | DataType::BinaryView)
}

/// Where a column of a join's result comes from; no side: it says whether a row matched.
struct Origin {
    side: JoinSide,
    column: usize,
}

impl Origin {
    /// Of a column of the join before its projection.
    fn of(column: usize, join: &HashJoinExec) -> Self {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        let (left, right) = (join.left().schema().fields().len(), join.right().schema().fields().len());
        let (side, column) = match join.join_type() {
            Inner | Left | Right | Full if column >= left => (JoinSide::Right, column - left),
            Inner | Left | Right | Full | LeftSemi | LeftAnti => (JoinSide::Left, column),
            RightSemi | RightAnti => (JoinSide::Right, column),
            LeftMark if column < left => (JoinSide::Left, column),
            RightMark if column < right => (JoinSide::Right, column),
            LeftMark | RightMark => (JoinSide::None, 0),
        };
        Self { side, column }
    }

    /// The same column in the join of numbers, before its projection.
    fn place(&self, left: &Side, right: &Side, kind: &JoinType) -> usize {
        let both = matches!(kind, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
        match self.side {
            JoinSide::Left => left.places[self.column],
            JoinSide::Right if both => left.width() + right.places[self.column],
            JoinSide::Right => right.places[self.column],
            JoinSide::None if *kind == JoinType::LeftMark => left.width(),
            JoinSide::None => right.width(),
        }
    }
}

/// One input of a join.
struct Side {
    plan: Arc<dyn ExecutionPlan>,
    /// Of each column, where to take it from for the result.
    places: Vec<usize>,
}

impl Side {
    /// With numbers for the `wanted` views, in their place, or beside them if they are also `used` by the join itself.
    fn of(plan: &Arc<dyn ExecutionPlan>, wanted: &HashSet<usize>, used: &HashSet<usize>, all: &Arc<ViewNumbers>) -> Self {
        let mut fields: Vec<Arc<Field>> = plan.schema().fields().iter().cloned().collect();
        let mut places: Vec<usize> = (0..fields.len()).collect();
        let mut columns: Vec<Column> = places.iter().map(|&column| Column::Same(column)).collect();
        for column in 0..places.len() {
            if !wanted.contains(&column) || !is_view(fields[column].data_type()) {
                continue;
            }
            let number = Arc::new(Field::clone(&fields[column]).with_data_type(NUMBER));
            if used.contains(&column) {
                places[column] = fields.len();
                fields.push(number);
                columns.push(Column::Number(column));
            } else {
                fields[column] = number;
                columns[column] = Column::Number(column);
            }
        }
        if columns.iter().all(|column| matches!(column, Column::Same(_))) {
            return Self { plan: Arc::clone(plan), places };
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, plan.schema().metadata().clone()));
        let partitioning = Partitioning::UnknownPartitioning(plan.output_partitioning().partition_count());
        let (emission, boundedness) = (plan.pipeline_behavior(), plan.boundedness());
        let properties =
            PlanProperties::new(EquivalenceProperties::new(Arc::clone(&schema)), partitioning, emission, boundedness);
        let (properties, columns, all) = (Arc::new(properties), columns.into(), Arc::clone(all));
        Self { plan: Arc::new(Convert { input: Arc::clone(plan), properties, schema, columns, all }), places }
    }

    fn width(&self) -> usize {
        self.plan.schema().fields().len()
    }
}

/// A column of a converted batch.
#[derive(Debug, Clone, Copy)]
enum Column {
    /// The input's.
    Same(usize),
    /// The input's views, as numbers.
    Number(usize),
    /// The input's numbers, as views.
    View(usize),
}

/// Puts numbers in the place of views, or views in the place of numbers. Rows, their order and their partitions stay.
#[derive(Debug, Clone)]
struct Convert {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    schema: SchemaRef,
    columns: Arc<[Column]>,
    all: Arc<ViewNumbers>,
}

fn convert(batch: &RecordBatch, schema: &SchemaRef, columns: &[Column], all: &ViewNumbers) -> Result<RecordBatch> {
    let column = |(column, field): (&Column, &Arc<Field>)| match *column {
        Column::Same(index) => Some(Arc::clone(batch.column(index))),
        Column::Number(index) => all.encode(batch.column(index)),
        Column::View(index) => all.decode(batch.column(index), field.data_type()),
    };
    let arrays: Option<Vec<ArrayRef>> = columns.iter().zip(schema.fields()).map(column).collect();
    let arrays = arrays.ok_or_else(|| internal_datafusion_err!("a view could not cross a join"))?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?)
}

impl DisplayAs for Convert {
    fn fmt_as(&self, _: DisplayFormatType, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl ExecutionPlan for Convert {
    fn name(&self) -> &str {
        if self.columns.iter().any(|column| matches!(column, Column::View(_))) { "AsViews" } else { "AsNumbers" }
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self { input, ..Self::clone(&self) })),
            Err(_) => Err(internal_datafusion_err!("{} has one input", self.name())),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (schema, columns, all) = (Arc::clone(&self.schema), Arc::clone(&self.columns), Arc::clone(&self.all));
        let batches = self.input.execute(partition, context)?.map(move |batch| convert(&batch?, &schema, &columns, &all));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }
}
