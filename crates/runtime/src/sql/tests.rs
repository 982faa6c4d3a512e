//! Queries over tables in memory.

use arrow::array::{AsArray as _, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use super::*;

fn numbers(batches: &[std::ops::Range<i64>]) -> Rows {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8View, true)]));
    let batch = |range: &std::ops::Range<i64>| {
        let strings: StringViewArray = range.clone().map(|n| Some(format!("row number {n}"))).collect();
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from_iter_values(range.clone())), Arc::new(strings)]).unwrap()
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
    let out = query("SELECT s, upper(s) AS t, 'x' AS c FROM t ORDER BY n DESC LIMIT 1", vec![("t".into(), numbers(&[0..3]))]).unwrap();
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

/// TIMING (temporary)
#[test]
#[ignore]
fn timing() {
    use arrow::array::ArrayRef;
    let rows = 3_000_000_i64;
    let cpu = || { let t = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<&str> = t.split(' ').collect(); (f[13].parse::<f64>().unwrap() + f[14].parse::<f64>().unwrap()) * 10.0 };
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true), Field::new("k", DataType::Int64, true), Field::new("v", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true), Field::new("c", DataType::Utf8, true)]));
    let batch = |r: std::ops::Range<i64>| {
        let n: ArrayRef = Arc::new(Int64Array::from_iter_values(r.clone()));
        let k: ArrayRef = Arc::new(Int64Array::from_iter_values(r.clone().map(|n| n.wrapping_mul(7919) % 100_003)));
        let v: ArrayRef = Arc::new(arrow::array::Float64Array::from_iter_values(r.clone().map(|n| n as f64 / 3.0)));
        let s: ArrayRef = Arc::new(StringArray::from_iter_values(r.clone().map(|n| format!("a string of row number {n:09}"))));
        let c: ArrayRef = Arc::new(StringArray::from_iter_values(r.map(|n| format!("country {}", n % 200))));
        RecordBatch::try_new(Arc::clone(&schema), vec![n, k, v, s, c]).unwrap()
    };
    let table = Rows { batches: (0..rows / 131_072 + 1).map(|i| batch(i * 131_072..((i + 1) * 131_072).min(rows))).collect(), schema: Arc::clone(&schema) };
    let dim = Rows { batches: vec![batch(0..100_003)], schema: Arc::clone(&schema) };
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (name, q) in [
        ("project", "SELECT n, v * 2 AS w, s FROM t"),
        ("filter50", "SELECT * FROM t WHERE n % 2 = 0"),
        ("filter10", "SELECT * FROM t WHERE n % 10 = 0"),
        ("filter1", "SELECT * FROM t WHERE n % 100 = 0"),
        ("group_int", "SELECT k, sum(v) AS x, count(*) AS y FROM t GROUP BY k"),
        ("group_str", "SELECT c, sum(v) AS x, count(*) AS y FROM t GROUP BY c"),
        ("group_hi", "SELECT s, count(*) AS y FROM t GROUP BY s"),
        ("sort", "SELECT n, s FROM t ORDER BY n DESC"),
        ("sort_rand", "SELECT n, k, s FROM t ORDER BY k, n"),
        ("join_dim", "SELECT t.n, t.s, d.c AS dc FROM t JOIN d ON t.k = d.n"),
        ("join_self", "SELECT a.n, a.s, b.c FROM t a JOIN t b ON a.n = b.n"),
        ("upper", "SELECT upper(c) AS u, length(s) AS l FROM t"),
        ("window", "SELECT n, row_number() OVER (PARTITION BY c ORDER BY n) AS r FROM t"),
    ] {
        for strings in [Strings::Plain, Strings::Views] {
            let (mut best, mut bestc) = (f64::MAX, f64::MAX);
            let mut shape = (0, 0);
            for _ in 0..3 {
                let inputs = vec![("t".to_owned(), table.clone()), ("d".to_owned(), dim.clone())];
                let start = std::time::Instant::now();
                let c0 = cpu();
                let out = rt.block_on(run(q, inputs, strings, 2)).unwrap();
                best = best.min(start.elapsed().as_secs_f64());
                bestc = bestc.min(cpu() - c0);
                shape = (out.batches.len(), out.rows());
            }
            println!("{name:10} {strings:?} {:7.0} ms cpu {:6.0} {} batches of {} rows", best * 1e3, bestc, shape.0, shape.1 / shape.0.max(1));
        }
    }
}
