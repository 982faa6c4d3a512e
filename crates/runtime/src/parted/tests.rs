//! Joins in parts give what joins in memory give, whatever fits.

use std::path::Path;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{collect, displayable};
use datafusion::prelude::SessionContext;
use futures::StreamExt as _;

use super::*;

/// Keys of the rows of a table, by their numbers.
type Keys = fn(i64) -> Option<i64>;

fn table(rows: i64, key: Keys) -> Arc<MemTable> {
    let fields = vec![
        Field::new("n", DataType::Int64, false),
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8View, true),
    ];
    let schema = Arc::new(Schema::new(fields));
    let batch = |from: i64| {
        let numbers = from..rows.min(from + 300);
        let texts = StringArray::from_iter(numbers.clone().map(|n| key(n).map(|k| format!("text number {k} of some length"))));
        let texts = arrow::compute::cast(&texts, &DataType::Utf8View).unwrap();
        let keys = Int64Array::from_iter(numbers.clone().map(key));
        let columns = vec![Arc::new(Int64Array::from_iter_values(numbers)) as _, Arc::new(keys) as _, texts];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let batches: Vec<_> = (0..rows).step_by(300).map(batch).collect();
    let half = batches.len() / 2;
    let parts = vec![batches[..half].to_vec(), batches[half..].to_vec()];
    Arc::new(MemTable::try_new(schema, parts).unwrap())
}

struct Lab {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    environment: Arc<RuntimeEnv>,
    tables: Vec<(&'static str, Arc<MemTable>)>,
}

fn lab(rows: i64, key: Keys) -> Lab {
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![folder.path().to_owned()]));
    let environment = RuntimeEnvBuilder::new().with_disk_manager_builder(disk).build_arc().unwrap();
    let tables = vec![
        ("l", table(rows, key)),
        ("r", table(rows * 3 / 4, key)),
        ("whole", table(rows / 2, |n| Some(n * 2))),
        ("none", table(0, key)),
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    Lab { runtime, folder, environment, tables }
}

impl Lab {
    /// The plan of a query, with joins in `bytes`; `None`: as DataFusion plans them.
    fn plan(&self, sql: &str, bytes: Option<usize>) -> (Arc<dyn ExecutionPlan>, Arc<TaskContext>) {
        let settings = SessionConfig::new().with_target_partitions(2).with_batch_size(512);
        let settings = if bytes.is_some() { config(settings) } else { settings };
        let context = SessionContext::new_with_config_rt(settings, Arc::clone(&self.environment));
        for (name, table) in &self.tables {
            context.register_table(*name, Arc::clone(table) as _).unwrap();
        }
        self.runtime.block_on(async {
            let (planned, logical) = context.sql(sql).await.unwrap().into_parts();
            let planned = match bytes {
                Some(bytes) => state(planned, &Arc::new(Room::new(bytes))),
                None => planned,
            };
            (planned.create_physical_plan(&logical).await.unwrap(), planned.task_ctx())
        })
    }

    /// Rows as text, sorted.
    fn rows(&self, sql: &str, bytes: Option<usize>) -> Vec<String> {
        let (plan, task) = self.plan(sql, bytes);
        let shown = displayable(plan.as_ref()).indent(false).to_string();
        assert_eq!(bytes.is_some(), shown.contains("Parted"), "{shown}");
        let batches = self.runtime.block_on(collect(plan, task)).unwrap();
        let text = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        let mut lines: Vec<_> = text.lines().filter(|line| line.starts_with('|')).map(|line| line.replace(' ', "")).collect();
        lines.sort();
        assert_eq!(self.files(), 0, "{sql}");
        lines
    }

    fn files(&self) -> usize {
        files(self.folder.path())
    }
}

fn files(folder: &Path) -> usize {
    let count = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path) } else { 1 }
    };
    std::fs::read_dir(folder).unwrap().map(count).sum()
}

const JOINS: [&str; 8] =
    ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN", "LEFT ANTI JOIN", "RIGHT SEMI JOIN", "RIGHT ANTI JOIN"];

fn queries() -> Vec<String> {
    let mut all = Vec::new();
    for kind in JOINS {
        let columns = match kind {
            "LEFT SEMI JOIN" | "LEFT ANTI JOIN" => "l.s, l.n",
            "RIGHT SEMI JOIN" | "RIGHT ANTI JOIN" => "r.s, r.n",
            _ => "r.s AS rs, l.n, l.s, r.n AS rn",
        };
        for on in ["l.k = r.k", "l.s = r.s AND l.n % 50 < r.n % 40", "(l.k IS NOT DISTINCT FROM r.k) AND l.n % 7 = r.n % 7"] {
            all.push(format!("SELECT {columns} FROM l {kind} r ON {on}"));
        }
        all.push(format!("SELECT {columns} FROM l {kind} (SELECT * FROM none) r ON l.k = r.k"));
        all.push(format!("SELECT {columns} FROM none l {kind} r ON l.k = r.k"));
    }
    all.extend(
        [
            "SELECT n FROM l WHERE k IN (SELECT k FROM r) OR n < 3",
            "SELECT n FROM l WHERE k NOT IN (SELECT k FROM r)",
            "SELECT n FROM l WHERE k NOT IN (SELECT k FROM whole)",
            "SELECT n FROM l WHERE k NOT IN (SELECT k FROM none)",
            "SELECT l.s, count(*) AS c FROM l JOIN r ON l.s = r.s JOIN whole ON whole.k = l.k GROUP BY l.s ORDER BY c, s",
            "SELECT a.n FROM (SELECT * FROM l ORDER BY n LIMIT 90) a JOIN r ON a.k = r.k ORDER BY a.n",
        ]
        .map(str::to_owned),
    );
    all
}

/// Every kind of join, from where all fits down to pieces of a batch each.
#[test]
fn parts_give_what_the_whole_gives() {
    let keys: [(i64, Keys); 2] = [
        (1400, |n| (n % 11 != 0).then_some(n * 7919 % 1000)),
        // One key, among few others, and nulls.
        (400, |n| (n % 13 != 0).then_some(if n % 3 == 0 { n } else { 5 })),
    ];
    for (rows, key) in keys {
        let lab = lab(rows, key);
        for sql in queries() {
            let wanted = lab.rows(&sql, None);
            for bytes in [1 << 30, 200_000, 20_000] {
                let got = lab.rows(&sql, Some(bytes));
                assert!(wanted == got, "{sql} in {bytes} bytes: {} rows, not {}", got.len(), wanted.len());
            }
        }
    }
}

#[test]
fn what_is_dropped_leaves_no_file() {
    let lab = lab(20_000, |n| Some(n / 50));
    let (plan, task) = lab.plan("SELECT l.n, r.s FROM l JOIN r ON l.k = r.k", Some(50_000));
    lab.runtime.block_on(async {
        let mut rows = datafusion::physical_plan::execute_stream(plan, task).unwrap();
        assert!(rows.next().await.unwrap().unwrap().num_rows() > 0);
        assert!(lab.files() > 0);
    });
    // Its tasks end with the runtime.
    drop(lab.runtime);
    assert_eq!(files(lab.folder.path()), 0);
}

#[test]
fn a_full_disk_is_told() {
    let mut lab = lab(20_000, Some);
    let disk = DiskManagerBuilder::default().with_max_temp_directory_size(1 << 10);
    lab.environment = RuntimeEnvBuilder::new().with_disk_manager_builder(disk).build_arc().unwrap();
    let (plan, task) = lab.plan("SELECT l.n FROM l JOIN r ON l.k = r.k AND l.s <> r.s", Some(50_000));
    let error = lab.runtime.block_on(collect(plan, task)).unwrap_err();
    assert_eq!(crate::sql::kind(&error), crate::sql::Kind::Disk, "{error}");
}
