//! What a query does not read of data files, counted in bytes: pages, and what filters skip that are made while it runs.

use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::{ExecutionPlan, collect};

use super::*;
use crate::provider::BYTES_SCANNED;

/// `id` counting from `from`, and texts that do not compress.
fn texts(from: i64, to: i64) -> RecordBatch {
    let text = |id: i64| {
        let mixed = id.wrapping_add(1).wrapping_mul(-7_046_029_254_386_353_131);
        format!("{mixed:016x}{:016x}", (mixed ^ (mixed >> 29)).wrapping_mul(-4_658_895_280_553_007_687))
    };
    let values: StringArray = (from..to).map(|id| Some(text(id))).collect();
    batch(vec![("id", Arc::new(Int64Array::from_iter_values(from..to))), ("s", Arc::new(values))])
}

/// A table of so many files of 100,000 rows each, ids going up.
async fn files(lake: &Lake, count: i64) -> Written {
    let mut table = lake.table("", &texts(0, 100_000)).await;
    for file in 1..count {
        let rows = texts(file * 100_000, (file + 1) * 100_000);
        table = lake.write(Some(&table), Mode::Append, "", &rows).await.unwrap();
    }
    table
}

/// What a query gives, and what its scans say of themselves.
struct Ran {
    ids: Vec<i64>,
    bytes: usize,
    rows_skipped_by_pages: usize,
    files_and_groups_skipped: usize,
}

async fn run(tables: &[(&str, &Written)], sql: &str) -> Ran {
    // One partition: files are opened one after the other, so what is skipped does not depend on time.
    let config = forebay_plan::sql::session_config().with_target_partitions(1).with_batch_size(1024);
    let context = forebay_plan::sql::session_context(config);
    for (name, table) in tables {
        let table = LakeTable::open(&table.metadata_location, None).await.unwrap();
        context.register_table(*name, Arc::new(table)).unwrap();
    }
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let batches = collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
    let mut ran =
        Ran { ids: batches.iter().flat_map(ids).collect(), bytes: 0, rows_skipped_by_pages: 0, files_and_groups_skipped: 0 };
    count(plan.as_ref(), &mut ran);
    ran
}

fn count(plan: &dyn ExecutionPlan, ran: &mut Ran) {
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        match metric.value() {
            MetricValue::Count { name, count } if name == BYTES_SCANNED => ran.bytes += count.value(),
            MetricValue::PruningMetrics { name, pruning_metrics } => match name.as_ref() {
                "page_index_rows_pruned" => ran.rows_skipped_by_pages += pruning_metrics.pruned(),
                "files_ranges_pruned_statistics" | "row_groups_pruned_statistics" => {
                    ran.files_and_groups_skipped += pruning_metrics.pruned();
                }
                _ => {}
            },
            _ => {}
        }
    }
    for child in plan.children() {
        count(child.as_ref(), ran);
    }
}

#[tokio::test]
async fn pages_of_a_row_group_are_skipped() {
    let lake = Lake::new();
    let table = files(&lake, 1).await;
    let all = run(&[("t", &table)], "SELECT id, s FROM t").await;
    assert_eq!((all.ids.len(), all.rows_skipped_by_pages), (100_000, 0));
    let some = run(&[("t", &table)], "SELECT id, s FROM t WHERE id BETWEEN 30000 AND 30002").await;
    assert_eq!(some.ids, [30_000, 30_001, 30_002]);
    assert!(some.rows_skipped_by_pages >= 60_000, "{}", some.rows_skipped_by_pages);
    assert!(some.bytes * 2 < all.bytes, "{} of {}", some.bytes, all.bytes);
}

#[tokio::test]
async fn the_small_side_of_a_join_skips_files_and_row_groups_of_the_large_one() {
    let lake = Lake::new();
    let large = files(&lake, 4).await;
    let groups = lake.table("", &texts(0, 400_000)).await;
    let small = lake.table("", &texts(250_000, 250_010)).await;
    for large in [&large, &groups] {
        let tables = [("large", large), ("small", &small)];
        let all = run(&tables, "SELECT id, s FROM large").await;
        let sql = "SELECT large.id, large.s FROM large JOIN small ON large.id = small.id ORDER BY large.id";
        let joined = run(&tables, sql).await;
        assert_eq!(joined.ids, (250_000..250_010).collect::<Vec<_>>());
        assert!(joined.files_and_groups_skipped >= 3, "{}", joined.files_and_groups_skipped);
        assert!(joined.bytes * 2 < all.bytes, "{} of {}", joined.bytes, all.bytes);
    }
}

/// Rows of the side that the first hash join of a plan holds in memory.
fn built_rows(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    match plan.downcast_ref::<HashJoinExec>() {
        Some(join) => join.left().partition_statistics(None).unwrap().num_rows.get_value().copied(),
        None => plan.children().into_iter().find_map(built_rows),
    }
}

#[tokio::test]
async fn a_join_holds_the_side_with_fewer_rows_though_its_table_is_wider() {
    let lake = Lake::new();
    let long = texts(0, 30_000);
    let tags: StringArray = (0..30_000).map(|id| Some(["a", "b"][id % 2])).collect();
    let columns = [("id", long.column(0)), ("s", long.column(1)), ("tag", &(Arc::new(tags) as _))];
    let wide = lake.table("", &batch(columns.map(|(name, column)| (name, Arc::clone(column))).into())).await;
    let ids = Int64Array::from_iter_values(0..40_000);
    let narrow = lake.table("", &batch(vec![("id", Arc::new(ids))])).await;
    let context = forebay_plan::sql::session_context(forebay_plan::sql::session_config().with_target_partitions(1));
    for (name, table) in [("wide", &wide), ("narrow", &narrow)] {
        let table = LakeTable::open(&table.metadata_location, None).await.unwrap();
        context.register_table(name, Arc::new(table)).unwrap();
    }
    for tables in ["wide JOIN narrow", "narrow JOIN wide"] {
        let sql = format!("SELECT wide.tag FROM {tables} ON wide.id = narrow.id");
        let plan = context.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
        assert_eq!(built_rows(&plan), Some(30_000), "{tables}");
    }
}

#[tokio::test]
async fn the_first_rows_of_an_order_skip_files_that_cannot_hold_any() {
    let lake = Lake::new();
    let table = files(&lake, 6).await;
    let tables = [("t", &table)];
    let all = run(&tables, "SELECT id, s FROM t").await;
    for (order, wanted) in [("ASC", [0, 1, 2]), ("DESC", [599_999, 599_998, 599_997])] {
        let first = run(&tables, &format!("SELECT id, s FROM t ORDER BY id {order} LIMIT 3")).await;
        assert_eq!(first.ids, wanted);
        assert!(first.files_and_groups_skipped >= 3, "{order}: {}", first.files_and_groups_skipped);
        assert!(first.bytes * 2 < all.bytes, "{order}: {} of {}", first.bytes, all.bytes);
    }
}

/// Bounds that span all 64-bit integers: the planner cannot count what lies between them.
#[tokio::test]
async fn the_widest_bounds_are_no_obstacle() {
    let lake = Lake::new();
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN, 0, i64::MAX]));
    let table = lake.table("", &batch(vec![("id", ids)])).await;
    for id in [i64::MIN, 0, i64::MAX] {
        assert_eq!(run(&[("t", &table)], &format!("SELECT id FROM t WHERE id = {id}")).await.ids, [id]);
    }
    let both = lake.table("id", &batch(vec![("id", Arc::new(Int64Array::from(vec![i64::MIN, i64::MAX])))])).await;
    assert_eq!(run(&[("t", &both)], "SELECT id FROM t WHERE id <= -9223372036854775808").await.ids, [i64::MIN]);
}
