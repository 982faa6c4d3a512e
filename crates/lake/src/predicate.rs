//! A filter: SQL text, checked against the table's Arrow schema, evaluated exactly on rows and used to skip files
//! and row groups whose statistics show that no row can match.
//!
//! Skipping and exact evaluation come from the same DataFusion expression, so they cannot disagree about meaning.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt64Array};
use arrow::compute::{cast, not, prep_null_mask_filter};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use datafusion::physical_optimizer::pruning::PruningPredicate;
use datafusion::prelude::{Expr, SessionContext};
use forebay_plan::sql::{FilterError, filter_expression};

use crate::error::{Error, Result, nearest};

/// A checked filter.
pub(crate) struct Filter {
    text: String,
    expression: Arc<dyn PhysicalExpr>,
    /// Indices of the columns it reads, ascending.
    columns: Vec<usize>,
    pruning: Option<PruningPredicate>,
}

/// Which rows a read keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Rows for which the filter is true.
    Matching,
    /// Rows for which it is false or null.
    NotMatching,
}

impl Filter {
    /// Parses and type-checks `text` against the table's Arrow schema.
    pub(crate) fn parse(text: &str, schema: &SchemaRef) -> Result<Self> {
        Self::build(text, schema, |expression| expression)
    }

    /// The filter that is true where `text` is false.
    pub(crate) fn parse_negated(text: &str, schema: &SchemaRef) -> Result<Self> {
        Self::build(text, schema, |expression| Expr::Not(Box::new(expression)))
    }

    /// An expression of a planned query over `schema`, for skipping; `None` if statistics could not say anything about it.
    pub(crate) fn planned(expression: Expr, schema: &SchemaRef) -> Option<Self> {
        let text = expression.to_string();
        let expression = bind(expression, schema).ok()?;
        let columns: BTreeSet<usize> = collect_columns(&expression).iter().map(|column| column.index()).collect();
        let pruning = PruningPredicate::try_new(Arc::clone(&expression), Arc::clone(schema)).ok()?;
        Some(Self { text, expression, columns: columns.into_iter().collect(), pruning: Some(pruning) })
    }

    fn build(text: &str, schema: &SchemaRef, change: fn(Expr) -> Expr) -> Result<Self> {
        let expression = filter_expression(text, schema).map_err(|error| {
            let near = match &error {
                FilterError::UnknownColumn { column, known } => nearest(column, known.iter().map(String::as_str)),
                _ => None,
            };
            Error::Filter { filter: text.to_owned(), near, cause: error.into() }
        })?;
        let expression = bind(change(expression), schema).map_err(unusable(text))?;
        let columns: BTreeSet<usize> = collect_columns(&expression).iter().map(|column| column.index()).collect();
        // An expression that statistics say nothing about is no error, it only skips nothing.
        let pruning = PruningPredicate::try_new(Arc::clone(&expression), Arc::clone(schema)).ok();
        Ok(Self { text: text.to_owned(), expression, columns: columns.into_iter().collect(), pruning })
    }

    /// Indices of the columns the filter reads, ascending.
    pub(crate) fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// For each container, whether it may hold a matching row.
    pub(crate) fn may_match(&self, containers: &Containers) -> Vec<bool> {
        let everything = || vec![true; containers.rows.len()];
        match &self.pruning {
            Some(pruning) => pruning.prune(containers).unwrap_or_else(|_| everything()),
            None => everything(),
        }
    }

    /// The filter over batches of `schema`, a projection of the table's.
    pub(crate) fn on(&self, schema: &SchemaRef) -> Result<RowFilter> {
        let expression = reassign_expr_columns(Arc::clone(&self.expression), schema).map_err(unusable(&self.text))?;
        Ok(RowFilter { text: self.text.clone(), expression })
    }
}

fn bind(expression: Expr, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
    let table = DFSchema::try_from(Arc::clone(schema))?;
    SessionContext::new().create_physical_expr(expression, &table)
}

fn unusable(text: &str) -> impl FnOnce(DataFusionError) -> Error + '_ {
    move |cause| Error::Filter { filter: text.to_owned(), near: None, cause: cause.into() }
}

/// A filter bound to the batches it sees.
pub(crate) struct RowFilter {
    text: String,
    expression: Arc<dyn PhysicalExpr>,
}

impl RowFilter {
    /// The rows to keep, without nulls.
    pub(crate) fn mask(&self, batch: &RecordBatch, keep: Keep) -> Result<BooleanArray> {
        let values = self.expression.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        // A filter that is always null has the type null.
        let values = values.and_then(|values| Ok(cast(&values, &DataType::Boolean)?)).map_err(unusable(&self.text))?;
        let mask = values.as_boolean();
        let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
        match keep {
            Keep::Matching => Ok(mask),
            Keep::NotMatching => not(&mask).map_err(|error| unusable(&self.text)(error.into())),
        }
    }
}

/// Statistics of containers (files or row groups), by column.
pub(crate) struct Containers {
    rows: UInt64Array,
    columns: HashMap<String, Bounds>,
}

/// One column's statistics, a value per container; null where unknown.
pub(crate) struct Bounds {
    /// Not greater than any value.
    pub lower: Option<ArrayRef>,
    /// Not less than any value.
    pub upper: Option<ArrayRef>,
    /// Nulls.
    pub nulls: UInt64Array,
}

impl Containers {
    /// Containers with these numbers of rows.
    pub(crate) fn new(rows: impl IntoIterator<Item = u64>) -> Self {
        Self { rows: UInt64Array::from_iter_values(rows), columns: HashMap::new() }
    }

    /// Adds a column's statistics. Bounds in another type than the column's are cast; what does not fit is unknown.
    pub(crate) fn add(&mut self, schema: &SchemaRef, column: usize, bounds: Bounds) {
        let field = schema.field(column);
        let typed = |bound: Option<ArrayRef>| bound.and_then(|bound| cast(&bound, field.data_type()).ok());
        let bounds = Bounds { lower: typed(bounds.lower), upper: typed(bounds.upper), nulls: bounds.nulls };
        self.columns.insert(field.name().clone(), bounds);
    }

    /// The bounds of `column`, if both are known of some container.
    pub(crate) fn bounds(&self, column: &str) -> Option<(&ArrayRef, &ArrayRef)> {
        let bounds = self.columns.get(column)?;
        Some((bounds.lower.as_ref()?, bounds.upper.as_ref()?))
    }

    /// Whether no container has a null in `column`.
    pub(crate) fn no_nulls(&self, column: &str, container: usize) -> bool {
        self.columns.get(column).is_some_and(|bounds| bounds.nulls.is_valid(container) && bounds.nulls.value(container) == 0)
    }
}

impl PruningStatistics for Containers {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.columns.get(&column.name)?.lower.clone()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.columns.get(&column.name)?.upper.clone()
    }

    fn num_containers(&self) -> usize {
        self.rows.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(Arc::new(self.columns.get(&column.name)?.nulls.clone()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(self.rows.clone()))
    }

    fn contained(&self, _column: &Column, _values: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}
