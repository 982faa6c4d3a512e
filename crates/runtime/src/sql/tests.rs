//! Queries over tables in memory.

use arrow::array::{AsArray as _, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::*;

fn numbers(batches: &[std::ops::Range<i64>]) -> Rows {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8View, true)]));
    let batch = |range: &std::ops::Range<i64>| {
        let strings: StringViewArray = range.clone().map(|n| Some(format!("row number {n}"))).collect();
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from_iter_values(range.clone())), Arc::new(strings)])
            .unwrap()
    };
    Rows { batches: batches.iter().map(batch).collect(), schema }
}

fn query(query: &str, inputs: Vec<(String, Rows)>) -> Result<Rows, Error> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(run(query, inputs, Strings::Plain, 2))
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
    let plan = |partitions| Plan { partitions, batch_rows: 100, input_rows: 40 };
    let parts = plan(3).cut(&input);
    assert_eq!(parts.iter().map(|p| p.iter().map(RecordBatch::num_rows).sum::<usize>()).collect::<Vec<_>>(), [14, 14, 12]);
    assert_eq!(plan(2).cut(&numbers(&[])), [vec![], vec![]]);
}

#[test]
fn strings_are_plain_and_empty_results_have_a_schema() {
    let out =
        query("SELECT s, upper(s) AS t, 'x' AS c FROM t ORDER BY n DESC LIMIT 1", vec![("t".into(), numbers(&[0..3]))]).unwrap();
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
