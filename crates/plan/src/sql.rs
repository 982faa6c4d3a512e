//! What SQL means in Forebay, in one place: the planner checks with exactly the settings the executor runs with.
//!
//! Names are case-sensitive (Iceberg columns keep their case), unquoted names included.
//!
//! # Tables of a query
//! Inputs of a [`Sql`](crate::physical::Sql) node are registered under their names with [`register`], which takes them as *one*
//! identifier: an input named `raw.flights` is the table `"raw.flights"`, and the planner has rewritten the query that way.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Schema};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue, SchemaError, TableReference};
use datafusion::execution::context::ExecutionProps;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, ScalarUDF};
use datafusion::optimizer::Analyzer;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::planner::{PlannerContext, SqlToRel};

use crate::analyze::{Provider, parser_options};
use crate::comparisons::{self, ExactComparisons};
use crate::dictionary_functions::{self, Planner};
use crate::filters;
use crate::numbers;
use crate::suggest;

/// Settings of every DataFusion session of Forebay.
#[must_use]
pub fn session_config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(false);
    let parser = &mut config.options_mut().sql_parser;
    parser.enable_ident_normalization = false;
    parser.collect_spans = true;
    // Results go to Python of any age and to Parquet: plain strings suit all of them.
    parser.map_string_types_to_utf8view = false;
    config
}

/// A session with those settings, or ones made of them, and all functions, and no tables.
///
/// Functions of one string run on the values of a dictionary, where they are given one.
#[must_use]
pub fn session_context(config: SessionConfig) -> SessionContext {
    context(SessionStateBuilder::new().with_config(config))
}

/// The same, with bounds of memory and a place for spill files.
#[must_use]
pub fn session_context_within(config: SessionConfig, environment: Arc<RuntimeEnv>) -> SessionContext {
    context(SessionStateBuilder::new().with_config(config).with_runtime_env(environment))
}

fn context(builder: SessionStateBuilder) -> SessionContext {
    let mut rules = Analyzer::new().rules;
    rules.insert(0, Arc::new(ExactComparisons));
    let mut builder = builder.with_default_features().with_analyzer_rules(rules);
    if let Some(planners) = builder.expr_planners()
        && let Some(planner) = Planner::of(&FUNCTIONS)
    {
        planners.insert(0, Arc::new(planner));
    }
    let context = SessionContext::new_with_state(builder.build());
    for function in FUNCTIONS.iter() {
        context.register_udf(ScalarUDF::clone(function));
    }
    context
}

static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    let plain = SessionStateBuilder::new().with_config(session_config()).with_default_features().build();
    dictionary_functions::wrapped(&plain)
});

/// Makes `table` known to the session as input `name`.
pub fn register(context: &SessionContext, name: &str, table: Arc<dyn TableProvider>) -> Result<(), DataFusionError> {
    context.register_table(TableReference::bare(name), table).map(|_| ())
}

/// Plans one SELECT over the session's tables: nothing in it may change anything.
///
/// Numbers keep their digits, as in the planner; [`SessionContext::sql`] would read long ones as doubles.
pub async fn select(context: &SessionContext, query: &str) -> Result<DataFrame, DataFusionError> {
    let state = context.state();
    let mut statement = state.sql_to_statement(query, &state.config_options().sql_parser.dialect)?;
    if let Statement::Statement(query) = &mut statement {
        numbers::keep_digits(query.as_mut());
    }
    let plan = state.statement_to_plan(statement).await?;
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(&plan)?;
    context.execute_logical_plan(plan).await
}

/// Why a filter cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It does not parse.
    #[error("{0}")]
    Syntax(String),
    /// It names a column that is not there.
    #[error("there is no column `{column}`")]
    UnknownColumn {
        /// The name.
        column: String,
        /// Columns there are.
        known: Vec<String>,
    },
    /// Its types do not fit, or it is not a condition on single rows.
    #[error("{0}")]
    Type(String),
}

/// Reads a filter: parses, resolves columns against `schema`, coerces types, and makes sure it is a condition on one row.
///
/// The expression is ready for `create_physical_expr`. Parameters and bare dates must have been filled in, as the planner does.
pub fn filter_expression(text: &str, schema: &Schema) -> Result<Expr, FilterError> {
    let mut parsed = filters::parse(text).map_err(FilterError::Syntax)?;
    numbers::keep_digits(&mut parsed);
    if filters::has_subquery(&parsed) {
        return Err(FilterError::Type("a filter looks at one row at a time, and it holds a subquery".to_owned()));
    }
    let known = || schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let wrong = |error: DataFusionError| match unknown_column(&error) {
        Some(column) => FilterError::UnknownColumn { column, known: known() },
        None => FilterError::Type(message(&error)),
    };
    let df_schema = Arc::new(DFSchema::try_from(schema.clone()).map_err(wrong)?);
    let state = state();
    let provider = Provider::without_tables(&state);
    let planner = SqlToRel::new_with_options(&provider, parser_options());
    let expression = planner.sql_to_expr(parsed, &df_schema, &mut PlannerContext::new()).map_err(wrong)?;
    check_row_condition(&expression)?;
    let expression = comparisons::exact(expression, &df_schema).map_err(wrong)?.data;
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(&df_schema)).build());
    let expression = simplifier.coerce(expression, &df_schema).map_err(wrong)?;
    let kind = expression.get_type(df_schema.as_ref()).map_err(wrong)?;
    if !matches!(kind, DataType::Boolean | DataType::Null) {
        return Err(FilterError::Type(format!("it is not a condition: its type is {kind}")));
    }
    check_literal_casts(&expression)?;
    Ok(expression)
}

/// Subqueries and aggregates have no value on a single row.
fn check_row_condition(expression: &Expr) -> Result<(), FilterError> {
    let mut culprit = None;
    let visit = expression.apply(|part| {
        let what = match part {
            Expr::AggregateFunction(_) => "an aggregate",
            Expr::WindowFunction(_) => "a window function",
            Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) => "a subquery",
            Expr::Placeholder(_) => "a placeholder",
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        culprit = Some(what);
        Ok(TreeNodeRecursion::Stop)
    });
    match (visit, culprit) {
        (Err(error), _) => Err(FilterError::Type(message(&error))),
        (_, Some(what)) => Err(FilterError::Type(format!("a filter looks at one row at a time, and it holds {what}"))),
        (Ok(_), None) => Ok(()),
    }
}

/// Finds literals the coercion wants as another type but that have no such value: `day > 'soon'`.
fn check_literal_casts(expression: &Expr) -> Result<(), FilterError> {
    let mut wrong = None;
    let visit = expression.apply(|part| {
        if let Expr::Cast(Cast { expr, field }) = part
            && let Expr::Literal(value, _) = expr.as_ref()
            && !value.is_null()
            && let Some(text) = text_of(value)
            && value.cast_to(field.data_type()).is_err()
        {
            wrong = Some(format!("`'{text}'` cannot be read as {}", type_word(field.data_type())));
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match (visit, wrong) {
        (Err(error), _) => Err(FilterError::Type(message(&error))),
        (_, Some(why)) => Err(FilterError::Type(why)),
        (Ok(_), None) => Ok(()),
    }
}

fn text_of(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

/// An Arrow type in the words of a person.
fn type_word(kind: &DataType) -> String {
    match kind {
        DataType::Date32 | DataType::Date64 => "a date".to_owned(),
        DataType::Timestamp(..) => "a timestamp".to_owned(),
        kind if kind.is_integer() => "an integer".to_owned(),
        kind if kind.is_numeric() => "a number".to_owned(),
        DataType::Boolean => "a bool".to_owned(),
        other => other.to_string(),
    }
}

static STATE: LazyLock<SessionState> = LazyLock::new(|| session_context(session_config()).state());

/// A state of its own for one planning: alias numbers start anew, and no clock is read, so equal queries give equal plans.
pub(crate) fn state() -> SessionState {
    let mut state = STATE.clone();
    *state.execution_props_mut() = ExecutionProps::new();
    state
}

/// The innermost error that says something.
pub(crate) fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, root),
        DataFusionError::Shared(inner) => root(inner),
        other => other,
    }
}

/// The column an error misses.
pub(crate) fn unknown_column(error: &DataFusionError) -> Option<String> {
    match root(error) {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, .. } => Some(field.name.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// An error without the prefixes and backtraces that mean nothing to a user.
pub(crate) fn message(error: &DataFusionError) -> String {
    let text = match root(error) {
        DataFusionError::SQL(parser, _) => return parser_message(&parser.to_string()),
        other => other.strip_backtrace(),
    };
    plain(&text)
}

/// The sentence of a DataFusion message that a person can act on.
fn plain(text: &str) -> String {
    if let Some(name) = unknown_function(text) {
        return format!("there is no function `{name}`");
    }
    if let Some((_, rest)) = text.split_once("No function matches the given name and argument types '") {
        let call = rest.split('\'').next().unwrap_or(rest);
        return format!("no function takes these arguments: `{call}`");
    }
    if let (Some(start), Some(end)) = (text.find("column \""), text.find(", currently only")) {
        return text.get(start..end).unwrap_or(text).to_owned();
    }
    let text = text.split("\nThis issue was likely caused by a bug").next().unwrap_or(text);
    let text = text.strip_prefix("Error during planning: ").unwrap_or(text);
    let text = text.strip_prefix("type_coercion\ncaused by\n").unwrap_or(text);
    text.strip_prefix("Error during planning: ").unwrap_or(text).trim_end_matches(['.', ' ']).to_owned()
}

fn unknown_function(text: &str) -> Option<&str> {
    text.split_once("Invalid function '")?.1.split('\'').next()
}

/// The functions an error about an unknown one may have meant.
pub(crate) fn function_hint(error: &DataFusionError) -> Option<String> {
    let text = root(error).strip_backtrace();
    let name = unknown_function(&text)?;
    let scalar = STATE.scalar_functions().keys();
    suggest::hint(
        name,
        scalar
            .chain(STATE.aggregate_functions().keys())
            .chain(STATE.window_functions().keys())
            .map(String::as_str)
            .collect::<BTreeSet<_>>(),
    )
}

/// A parser's message without its prefix and its place, which is told apart.
pub(crate) fn parser_message(text: &str) -> String {
    let text = text.strip_prefix("sql parser error: ").unwrap_or(text);
    let end = text.rfind(" at Line: ").unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, TimeUnit};

    use super::*;

    fn check(filter: &str) -> Result<String, String> {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("Name", DataType::Utf8, true),
            Field::new("day", DataType::Date32, true),
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("ok", DataType::Boolean, true),
        ]);
        filter_expression(filter, &schema).map(|expression| expression.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_are_checked_against_the_schema() {
        for good in [
            "id > 5",
            "ok",
            "NOT ok AND \"Name\" LIKE 'a%'",
            "Name = 'x'",
            "day >= DATE '2023-01-01'",
            "ts < TIMESTAMP '2023-01-01T10:00:00Z'",
            "day > '2023-01-01'",
            "ts BETWEEN DATE '2023-01-01' AND '2023-02-01'",
            "id IN (1, 2)",
            "lower(Name) = 'x' OR ok IS NULL",
            "NULL",
            "id = NULL",
        ] {
            assert!(check(good).is_ok(), "{good}: {:?}", check(good));
        }
        assert_eq!(check("name = 'x'"), Err("there is no column `name`".to_owned()));
        assert_eq!(check("day > 'soon'"), Err("`'soon'` cannot be read as a date".to_owned()));
        assert_eq!(check("id + 1"), Err("it is not a condition: its type is Int64".to_owned()));
        for bad in [
            "id >",
            "id > 5 id",
            "day > 5.5 AND id LIKE ts",
            "count(id) > 1",
            "id IN (SELECT 1)",
            "nofunction(id)",
            "ok = ts",
            "$p = 1",
            "id > 1; id",
        ] {
            assert!(check(bad).is_err(), "{bad}: {:?}", check(bad));
        }
    }
}
