//! Queries over tables of the lake: order, types, memory.

use std::ops::Range;
use std::path::Path;

use arrow::array::{AsArray as _, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Int64Type, Schema};
use forebay_lake::{Mode, WriteRequest};
use forebay_types::Coded as _;

use super::*;

const MEBIBYTE: usize = 1 << 20;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A table of `n`, `n % 1000`, and a text of 40 characters.
fn table(folder: &Path, name: &str, rows: Range<i64>) -> QueryTable {
    let fields = vec![
        Field::new("n", DataType::Int64, true),
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
    ];
    let schema = Arc::new(Schema::new(fields));
    let batch = |rows: Range<i64>| {
        let texts: StringArray = rows.clone().map(|n| Some(format!("the text of row number {n:016}"))).collect();
        let k = Int64Array::from_iter_values(rows.clone().map(|n| n % 1000));
        let columns = vec![Arc::new(Int64Array::from_iter_values(rows)) as _, Arc::new(k) as _, Arc::new(texts) as _];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let batches = (rows.start..rows.end).step_by(50_000).map(|start| batch(start..rows.end.min(start + 50_000))).collect();
    let request = WriteRequest {
        location: folder.join(name).display().to_string(),
        base: None,
        mode: Mode::Replace,
        partition_by: vec![],
        sort_by: vec![],
        docs: vec![],
        properties: vec![],
    };
    let written = runtime().block_on(forebay_lake::write(request, Arc::clone(&schema), batches)).unwrap();
    QueryTable { name: name.to_owned(), metadata_location: written.metadata_location, snapshot_id: None }
}

struct Bounds {
    memory_bytes: usize,
    spill_bytes_max: u64,
}

const PLENTY: Bounds = Bounds { memory_bytes: 1 << 30, spill_bytes_max: 1 << 34 };

fn query(sql: &str, tables: &[QueryTable], bounds: &Bounds, spill: Option<&Path>) -> Result<crate::sql::Rows, Error> {
    let request = Request {
        sql,
        tables,
        bounds: crate::sql::Bounds {
            threads: 2,
            memory_bytes: bounds.memory_bytes,
            spill_folder: spill.map(Path::to_owned),
            spill_bytes_max: bounds.spill_bytes_max,
        },
    };
    let mut rows = Collect::default();
    runtime().block_on(run(&request, &mut rows))?;
    rows.finish()
}

fn numbers(rows: &crate::sql::Rows, column: usize) -> Vec<i64> {
    rows.batches.iter().flat_map(|batch| batch.column(column).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[test]
fn rows_keep_the_order_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let tables = [table(folder.path(), "t", 0..400_000)];
    let all = query("SELECT n, s FROM t", &tables, &PLENTY, None).unwrap();
    assert_eq!(numbers(&all, 0), (0..400_000).collect::<Vec<_>>());
    assert_eq!(all.schema.field(1).data_type(), &DataType::Utf8);
    let some = query("SELECT n FROM (SELECT n, k FROM t WHERE k = 7) AS u LIMIT 5", &tables, &PLENTY, None).unwrap();
    assert_eq!(numbers(&some, 0), [7, 1007, 2007, 3007, 4007]);
    let counted = query("SELECT count(*) AS c, max(n) AS m FROM t", &tables, &PLENTY, None).unwrap();
    assert_eq!((numbers(&counted, 0), numbers(&counted, 1)), (vec![400_000], vec![399_999]));
    let none = query("SELECT n FROM t WHERE n < 0", &tables, &PLENTY, None).unwrap();
    assert_eq!((none.batches.len(), none.schema.fields().len()), (0, 1));
}

#[test]
fn what_is_larger_than_memory_spills_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    std::fs::create_dir(&spill).unwrap();
    let tables = [table(folder.path(), "a", 0..300_000)];
    for (sql, rows, first, mebibytes) in [
        ("SELECT n, s FROM a ORDER BY s DESC", 300_000, 299_999, 12),
        ("SELECT min(n) AS n, s FROM a GROUP BY s ORDER BY n", 300_000, 0, 12),
    ] {
        let little = Bounds { memory_bytes: mebibytes * MEBIBYTE, spill_bytes_max: 1 << 34 };
        let got = query(sql, &tables, &little, Some(&spill)).unwrap();
        let got = numbers(&got, 0);
        assert_eq!((got.len(), got[0]), (rows, first), "{sql}");
        assert_eq!(std::fs::read_dir(&spill).unwrap().count(), 0, "{sql}");
    }
}

/// A sort of all columns of three tables, none of which fits.
#[test]
fn sorts_above_several_joins_spill() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    std::fs::create_dir(&spill).unwrap();
    let tables = ["a", "b", "c", "d"].map(|name| table(folder.path(), name, 0..300_000));
    let two = "SELECT a.n, a.s, b.s AS t, c.s AS u FROM a JOIN b ON a.s = b.s JOIN c ON b.s = c.s ORDER BY u DESC";
    let three = "SELECT a.n, a.s, b.s AS t, c.s AS u, d.s AS v FROM a JOIN b ON a.s = b.s JOIN c ON b.s = c.s JOIN d ON c.n = d.n ORDER BY v DESC, a.s";
    for (sql, mebibytes) in [(two, 8), (two, 24), (three, 12), (three, 24)] {
        let little = Bounds { memory_bytes: mebibytes * MEBIBYTE, spill_bytes_max: 1 << 34 };
        let got = query(sql, &tables, &little, Some(&spill)).unwrap_or_else(|error| panic!("{}", error.report()));
        assert_eq!(numbers(&got, 0), (0..300_000).rev().collect::<Vec<_>>(), "{sql}");
        assert_eq!(std::fs::read_dir(&spill).unwrap().count(), 0, "{sql}");
    }
}

/// Both sides are several times larger than the memory: 40 MiB of texts each.
#[test]
fn joins_of_what_is_larger_than_memory_spill_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    std::fs::create_dir(&spill).unwrap();
    let tables = [table(folder.path(), "a", 0..300_000), table(folder.path(), "b", 100_000..500_000)];
    let little = Bounds { memory_bytes: 8 * MEBIBYTE, spill_bytes_max: 1 << 34 };
    for (join, rows, first) in [
        ("a JOIN b ON a.s = b.s", 200_000, 100_000),
        ("a LEFT JOIN b ON a.s = b.s AND b.k > 500", 300_000, 0),
        ("a RIGHT JOIN b ON a.s = b.s", 400_000, 100_000),
        ("a FULL JOIN b ON a.s = b.s", 500_000, 0),
        ("(SELECT * FROM a WHERE s IN (SELECT s FROM b)) a JOIN b ON a.s = b.s", 200_000, 100_000),
        ("a LEFT JOIN b ON a.s = b.s WHERE b.n IS NULL", 100_000, 0),
    ] {
        let sql = format!("SELECT coalesce(a.n, b.n) AS n, concat(a.s, b.s) AS s FROM {join}");
        let mut got = numbers(&query(&sql, &tables, &little, Some(&spill)).unwrap(), 0);
        got.sort_unstable();
        assert!(got == (first..first + rows).collect::<Vec<_>>(), "{join}: {} rows", got.len());
        assert_eq!(std::fs::read_dir(&spill).unwrap().count(), 0, "{join}");
    }
}

#[test]
fn no_memory_and_no_disk_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let spill = folder.path().join("spill");
    std::fs::create_dir(&spill).unwrap();
    let tables = [table(folder.path(), "a", 0..300_000)];
    let sql = "SELECT n, s FROM a ORDER BY s DESC";
    let code = |bounds: &Bounds, spill: Option<&Path>| query(sql, &tables, bounds, spill).unwrap_err().report().code.0;
    assert_eq!(code(&Bounds { memory_bytes: 8 * MEBIBYTE, spill_bytes_max: 1 << 34 }, None), "RUN0042");
    assert_eq!(code(&Bounds { memory_bytes: 8 * MEBIBYTE, spill_bytes_max: 1 << 20 }, Some(&spill)), "RUN0041");
    assert_eq!(std::fs::read_dir(&spill).unwrap().count(), 0);
    let full = DataFusionError::IoError(std::io::Error::from(std::io::ErrorKind::StorageFull)).context("while spilling");
    assert_eq!(Error::Query(full).report().code.0, "RUN0041");
}

#[test]
fn a_damaged_table_keeps_its_own_code() {
    let gone = QueryTable { name: "t".to_owned(), metadata_location: "/nowhere/metadata/v1.json".to_owned(), snapshot_id: None };
    assert_eq!(query("SELECT 1 AS x FROM t", &[gone], &PLENTY, None).unwrap_err().report().code.0, "LAK0001");
}
