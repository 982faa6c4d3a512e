//! One SELECT over tables in memory.
//!
//! Order is kept where the query does not change it: an input is cut into contiguous runs of rows, one per thread,
//! nothing redistributes them, and the results are put together in the same order. Small inputs run on one thread, so that
//! small results are the same every time, down to the order of groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::physical_plan::collect_partitioned;
use datafusion::prelude::SessionContext;
use forebay_plan::sql;
use forebay_types::{Coded, Fault, Report};

use crate::limits::PARTITION_ROWS_MIN;

/// Average rows per batch below which a result is put together: readers pay per batch.
const BATCH_ROWS_MIN: usize = 2048;

/// A query that did not deliver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine says why.
    #[error("could not run the query")]
    Query(#[source] DataFusionError),
    /// A table needs names for its columns, one each.
    #[error("the query gives two columns named `{0}`")]
    DuplicateColumn(String),
}

impl Coded for Error {
    fn report(&self) -> Report {
        let message = self.to_string();
        match self {
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

/// A table in memory.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Schema of every batch.
    pub schema: SchemaRef,
    /// The rows, in order.
    pub batches: Vec<RecordBatch>,
}

/// Runs `query` over `inputs`, on at most `threads` threads.
pub async fn run(query: &str, inputs: Vec<(String, Rows)>, threads: usize) -> Result<Rows, Error> {
    let rows = |table: &Rows| table.batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    let largest = inputs.iter().map(|(_, table)| rows(table)).max().unwrap_or(0);
    let partitions = (largest / PARTITION_ROWS_MIN).clamp(1, threads.max(1));
    let mut config = sql::session_config().with_target_partitions(partitions).with_round_robin_repartition(false);
    // Results go to Python of any age and to Parquet: plain strings suit all of them.
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let context = SessionContext::new_with_config(config);
    for (name, table) in inputs {
        let parts = cut(&table.batches, rows(&table), partitions);
        sql::register(&context, &name, Arc::new(MemTable::try_new(table.schema, parts)?))?;
    }
    // A model is one SELECT: nothing in it may change anything.
    let only_select = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let plan = context.sql_with_options(query, only_select).await?.create_physical_plan().await?;
    let schema = plan.schema();
    let mut seen = BTreeSet::new();
    if let Some(twice) = schema.fields().iter().find(|field| !seen.insert(field.name().as_str())) {
        return Err(Error::DuplicateColumn(twice.name().clone()));
    }
    let batches: Vec<RecordBatch> = collect_partitioned(plan, context.task_ctx()).await?.into_iter().flatten().collect();
    Ok(plain(schema, batches)?)
}

/// Contiguous parts of about the same number of rows, without copying.
fn cut(batches: &[RecordBatch], rows: usize, parts: usize) -> Vec<Vec<RecordBatch>> {
    let rows_per_part = rows.div_ceil(parts).max(1);
    let mut cut = vec![Vec::new(); parts];
    let mut row = 0;
    for batch in batches {
        let mut start = 0;
        while start < batch.num_rows() {
            let part = (row / rows_per_part).min(parts - 1);
            let room = if part + 1 == parts { usize::MAX } else { (part + 1) * rows_per_part - row };
            let length = room.min(batch.num_rows() - start);
            cut[part].push(batch.slice(start, length));
            start += length;
            row += length;
        }
    }
    cut
}

/// Plain strings and binaries instead of views, and fewer, larger batches where they are tiny.
fn plain(schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Rows, DataFusionError> {
    let target: SchemaRef = Arc::new(Schema::new_with_metadata(plain_fields(schema.fields()), schema.metadata().clone()));
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut batches: Vec<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
    if batches.len() > 1 && rows / batches.len() < BATCH_ROWS_MIN {
        batches = vec![concat_batches(batches[0].schema_ref(), &batches)?];
    }
    if target == schema && batches.iter().all(|batch| batch.schema_ref() == &schema) {
        return Ok(Rows { schema, batches });
    }
    let convert = |batch: RecordBatch| {
        let columns = batch.columns().iter().zip(target.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<Vec<_>, _>>()?;
        RecordBatch::try_new(Arc::clone(&target), columns)
    };
    let batches = batches.into_iter().map(convert).collect::<Result<Vec<_>, _>>()?;
    Ok(Rows { schema: target, batches })
}

fn plain_fields(fields: &Fields) -> Fields {
    fields.iter().map(plain_field).collect()
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) => DataType::LargeList(plain_field(item)),
        DataType::FixedSizeList(item, length) => DataType::FixedSizeList(plain_field(item), *length),
        DataType::Struct(fields) => DataType::Struct(plain_fields(fields)),
        _ => return Arc::clone(field),
    };
    if data_type == *field.data_type() { Arc::clone(field) } else { Arc::new(Field::clone(field).with_data_type(data_type)) }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray as _, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn numbers(batches: &[std::ops::Range<i64>]) -> Rows {
        let schema =
            Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8View, true)]));
        let batch = |range: &std::ops::Range<i64>| {
            let strings: StringViewArray = range.clone().map(|n| Some(format!("row number {n}"))).collect();
            RecordBatch::try_new(
                Arc::clone(&schema),
                vec![Arc::new(Int64Array::from_iter_values(range.clone())), Arc::new(strings)],
            )
            .unwrap()
        };
        Rows { batches: batches.iter().map(batch).collect(), schema }
    }

    fn query(query: &str, inputs: Vec<(String, Rows)>) -> Result<Rows, Error> {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(run(query, inputs, 2))
    }

    #[test]
    fn a_filter_keeps_the_order_on_several_threads() {
        let input = numbers(&[0..100_000, 100_000..100_001, 100_001..300_000]);
        let out = query("SELECT n FROM \"raw.t\" WHERE n % 3 = 0", vec![("raw.t".into(), input)]).unwrap();
        let got: Vec<i64> = out.batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(got, (0..300_000).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    }

    #[test]
    fn parts_are_contiguous_and_complete() {
        let input = numbers(&[0..10, 10..11, 11..40]);
        let parts = cut(&input.batches, 40, 3);
        assert_eq!(parts.iter().map(|p| p.iter().map(RecordBatch::num_rows).sum::<usize>()).collect::<Vec<_>>(), [14, 14, 12]);
        assert_eq!(cut(&[], 0, 2), [vec![], vec![]]);
    }

    #[test]
    fn strings_are_plain_and_empty_results_have_a_schema() {
        let out = query("SELECT s, upper(s) AS t, 'x' AS c FROM t ORDER BY n DESC LIMIT 1", vec![("t".into(), numbers(&[0..3]))])
            .unwrap();
        assert!(out.schema.fields().iter().all(|f| f.data_type() == &DataType::Utf8), "{:?}", out.schema);
        let strings: &StringArray = out.batches[0].column(1).as_string();
        assert_eq!(strings.value(0), "ROW NUMBER 2");
        let empty = query("SELECT s FROM t WHERE n > 9", vec![("t".into(), numbers(&[0..3]))]).unwrap();
        assert_eq!((empty.schema.field(0).data_type(), empty.batches.len()), (&DataType::Utf8, 0));
    }

    #[test]
    fn failures_are_told() {
        let t = || vec![("t".to_owned(), numbers(&[0..3]))];
        assert_eq!(query("SELECT a.n, b.n FROM t a JOIN t b ON a.n = b.n", t()).unwrap_err().report().code.0, "RUN0018");
        let report = query("SELECT CAST(s AS INT) AS i FROM t", t()).unwrap_err().report();
        assert_eq!(report.code.0, "RUN0017");
        assert!(report.causes[0].contains("row number"), "{report}");
        assert_eq!(query("SELECT 1/0 AS x", vec![]).unwrap_err().report().code.0, "RUN0017");
        assert_eq!(query("CREATE TABLE x AS SELECT 1", vec![]).unwrap_err().report().code.0, "RUN0017");
    }
}
