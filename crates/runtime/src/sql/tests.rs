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

fn plenty() -> Bounds {
    Bounds { threads: 2, memory_bytes: 1 << 30, spill_folder: None, spill_bytes_max: 0 }
}

fn query(query: &str, inputs: Vec<(String, Rows)>) -> Result<Rows, Error> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(run(
        query,
        inputs,
        Strings::Plain,
        &plenty(),
    ))
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
    let plan = |partitions| Plan { partitions, batch_rows: 10, input_rows: 40 };
    let parts = plan(3).cut(&input);
    let rows = |part: &Vec<RecordBatch>| part.iter().map(RecordBatch::num_rows).collect::<Vec<_>>();
    assert_eq!(parts.iter().map(rows).collect::<Vec<_>>(), [vec![10, 1], vec![10, 10], vec![9]]);
    let numbers_of = |batch: &RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(parts.iter().flatten().flat_map(numbers_of).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
    assert_eq!(plan(2).cut(&numbers(&[])), [vec![], vec![]]);
}

/// Every kind of join gives the same rows whether strings leave plain or as views, with string keys, conditions and nulls.
#[test]
fn joins_give_the_same_with_views() {
    let some = |n: i64, m: i64| if n % 5 == 0 { "NULL".to_owned() } else { format!("'row number {n} of {m}'") };
    let table = |m: i64| {
        let rows: Vec<String> = (0..60)
            .map(|n| {
                format!(
                    "({n}, {}, 'a text of row {n} and table {m}', arrow_cast('bytes of the row {n}', 'BinaryView'))",
                    some(n * m % 30, 7)
                )
            })
            .collect();
        query(&format!("SELECT * FROM (VALUES {}) AS t(n, k, s, b)", rows.join(", ")), vec![]).unwrap()
    };
    let sorted = |strings: Strings, sql: &str| {
        let inputs = vec![("l".to_owned(), table(1)), ("r".to_owned(), table(2))];
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let rows = runtime.block_on(run(sql, inputs, strings, &plenty())).unwrap();
        let schema = layout::result(rows.schema, rows.batches, Strings::Plain).unwrap();
        let mut lines = Vec::new();
        for batch in &schema.batches {
            let text = arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string();
            lines.extend(
                text.lines()
                    .filter(|line| !line.starts_with('+'))
                    .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")),
            );
        }
        lines.sort();
        lines.dedup();
        lines
    };
    for kind in
        ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN", "LEFT ANTI JOIN", "RIGHT SEMI JOIN", "RIGHT ANTI JOIN"]
    {
        let columns = match kind {
            "LEFT SEMI JOIN" | "LEFT ANTI JOIN" => "l.s, l.n, l.k, l.b",
            "RIGHT SEMI JOIN" | "RIGHT ANTI JOIN" => "r.s, r.n, r.k, r.b",
            _ => "r.s AS rs, l.n, l.s, l.b, r.k AS rk, l.k",
        };
        for on in ["l.k = r.k", "l.n = r.n", "l.k = r.k AND l.s < r.s", "l.n = r.n AND l.s || 'x' <> r.k"] {
            let sql = format!("SELECT {columns} FROM l {kind} r ON {on}");
            assert_eq!(sorted(Strings::Views, &sql), sorted(Strings::Plain, &sql), "{sql}");
        }
    }
    for sql in [
        "SELECT s FROM l WHERE k IN (SELECT k FROM r) OR n < 3",
        "SELECT s, k FROM l WHERE k NOT IN (SELECT k FROM r WHERE k IS NOT NULL)",
        "SELECT l.s, r.s AS rs FROM l JOIN r USING (k) JOIN l m ON m.n = r.n WHERE m.s > 'a text of row 2' ORDER BY l.s",
        "SELECT k, count(*) AS c, min(l.s) AS s FROM l JOIN r USING (k) GROUP BY k",
    ] {
        assert_eq!(sorted(Strings::Views, sql), sorted(Strings::Plain, sql), "{sql}");
    }
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

/// A table of 200,000 rows and 20 MiB, whose batches are slices of one.
fn texts(step: i64) -> Rows {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]));
    let numbers = 0..200_000_i64;
    let strings: StringArray = numbers.clone().map(|n| Some(format!("{:080}", n * step % 200_000))).collect();
    let whole =
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from_iter_values(numbers)), Arc::new(strings)]);
    let whole = whole.unwrap();
    Rows { batches: (0..20).map(|part| whole.slice(part * 10_000, 10_000)).collect(), schema }
}

/// With a third of the inputs' memory the results are the same, whether strings are to leave plain or as views.
#[test]
fn what_is_larger_than_memory_goes_to_disk() {
    let folder = tempfile::tempdir().unwrap();
    let little =
        Bounds { memory_bytes: 12 << 20, spill_folder: Some(folder.path().to_owned()), spill_bytes_max: 1 << 32, ..plenty() };
    let numbers = |rows: &Rows| -> Vec<i64> {
        rows.batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for sql in [
        "SELECT min(n) AS n, s FROM a GROUP BY s",
        "SELECT b.n, a.s FROM a JOIN b ON a.s = b.s",
        "SELECT a.n, b.s FROM a LEFT JOIN b ON a.s = b.s AND b.n % 3 = 0",
        "SELECT coalesce(a.n, b.n) AS n FROM a FULL JOIN b ON a.n = b.n + 100000",
    ] {
        for strings in [Strings::Plain, Strings::Views] {
            let inputs = || vec![("a".to_owned(), texts(7919)), ("b".to_owned(), texts(1))];
            let wanted = runtime.block_on(run(sql, inputs(), strings, &plenty())).unwrap();
            assert!(held(&inputs(), strings) > 12 << 20);
            let got = runtime.block_on(run(sql, inputs(), strings, &little)).unwrap();
            assert_eq!(wanted.schema, got.schema, "{sql}");
            let (mut wanted, mut got) = (numbers(&wanted), numbers(&got));
            wanted.sort_unstable();
            got.sort_unstable();
            assert!(wanted == got, "{sql}, {strings:?}: {} rows, not {}", got.len(), wanted.len());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{sql}");
        }
    }
    let nowhere = Bounds { spill_folder: None, ..little };
    let inputs = vec![("a".to_owned(), texts(1))];
    let failed = runtime.block_on(run("SELECT n, s FROM a ORDER BY s DESC", inputs, Strings::Plain, &nowhere)).unwrap_err();
    assert_eq!(failed.report().code.0, "RUN0042");
}

fn held(inputs: &[(String, Rows)], strings: Strings) -> usize {
    spilled::held_bytes(inputs, strings)
}
