//! Overwriting where a filter over partition columns holds: files that match wholly go, files that cannot match stay,
//! and of files that match in part the rows that stay are written anew (copy on write).
//!
//! A row goes if the filter is true for it; where the filter is null, the row stays.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use iceberg::spec::DataContentType;

use crate::error::{Error, Result};
use crate::predicate::{Filter, Keep};
use crate::rows::Rows;
use crate::scan::{Plan, read_blocking};
use crate::statistics;
use crate::table::{LiveFile, LiveFiles, Table};

/// What an overwrite takes out of a table.
pub(crate) struct Cut {
    /// Files that go.
    pub dropped: HashSet<String>,
    /// Rows of dropped files that stay.
    pub kept: Rows,
}

/// Finds what goes.
pub(crate) async fn cut(base: &Table, filter: &str) -> Result<Cut> {
    let schema = Arc::clone(base.metadata.current_schema());
    let clean = base.clean_schema(&schema);
    let parsed = Filter::parse(filter, &clean)?;
    check_columns(base, &parsed, &clean, filter)?;
    let Some(snapshot) = base.metadata.current_snapshot() else {
        return Ok(Cut { dropped: HashSet::new(), kept: Rows { schema: clean, batches: Vec::new() } });
    };
    let live = base.live_files(snapshot).await?;
    let negated = Filter::parse_negated(filter, &clean)?;
    let containers = statistics::of_files(&live.data, &base.metadata, &schema, &clean, parsed.columns());
    let some = parsed.may_match(&containers);
    let some_not = negated.may_match(&containers);
    let mut dropped = HashSet::new();
    let mut partly = Vec::new();
    for (index, file) in live.data.iter().enumerate() {
        if !some[index] {
            continue;
        }
        // Where a column is null the filter may be null, neither true nor false: look at the rows.
        let no_nulls = parsed.columns().iter().all(|&column| containers.no_nulls(clean.field(column).name(), index));
        if some_not[index] || !no_nulls {
            partly.push(file.clone());
        } else {
            dropped.insert(file.file.file_path().to_owned());
        }
    }
    let mut kept = Vec::new();
    for file in partly {
        if let Some(rows) = rows_left(base, &file, &live.deletes, filter, &clean).await? {
            dropped.insert(file.file.file_path().to_owned());
            kept.extend(rows);
        }
    }
    drop_their_deletes(&live, &mut dropped);
    Ok(Cut { dropped, kept: Rows { schema: clean, batches: kept } })
}

fn check_columns(base: &Table, filter: &Filter, clean: &SchemaRef, text: &str) -> Result<()> {
    let spec = base.metadata.default_partition_spec();
    let refuse = |why: String| Err(Error::OverwriteFilter { filter: text.to_owned(), why });
    if spec.is_unpartitioned() {
        return refuse("the table is not partitioned".to_owned());
    }
    let sources: HashSet<i32> = spec.fields().iter().map(|field| field.source_id).collect();
    let fields = base.metadata.current_schema().as_struct().fields();
    match filter.columns().iter().find(|&&column| !sources.contains(&fields[column].id)) {
        Some(&column) => refuse(format!("the table is not partitioned by `{}`", clean.field(column).name())),
        None => Ok(()),
    }
}

/// The rows of a file that stay; `None` if all do, so that the file can stay as it is.
async fn rows_left(
    base: &Table,
    file: &LiveFile,
    deletes: &[LiveFile],
    filter: &str,
    clean: &SchemaRef,
) -> Result<Option<Vec<RecordBatch>>> {
    let plan = Plan {
        table: base.clone(),
        schema: Arc::clone(base.metadata.current_schema()),
        clean: Arc::clone(clean),
        delivered: Arc::clone(clean),
        output: (0..clean.fields().len()).collect(),
        filter: Some(Filter::parse(filter, clean)?),
        rows_filter: Some(Filter::parse(filter, clean)?),
        keep: Keep::NotMatching,
    };
    let left = read_blocking(plan, LiveFiles { data: vec![file.clone()], deletes: deletes.to_vec() }).await?;
    let rows: usize = left.batches.iter().map(RecordBatch::num_rows).sum();
    let all = u64::try_from(rows).is_ok_and(|rows| rows == file.file.record_count());
    Ok((!all).then_some(left.batches))
}

/// Drops position delete files that speak of dropped files only.
pub(crate) fn drop_their_deletes(live: &LiveFiles, dropped: &mut HashSet<String>) {
    let targets: HashMap<String, String> = live
        .deletes
        .iter()
        .filter(|delete| delete.file.content_type() == DataContentType::PositionDeletes)
        .filter_map(|delete| Some((delete.file.file_path().to_owned(), delete.file.referenced_data_file()?)))
        .collect();
    let gone: Vec<String> = targets.into_iter().filter(|(_, target)| dropped.contains(target)).map(|(path, _)| path).collect();
    dropped.extend(gone);
}
