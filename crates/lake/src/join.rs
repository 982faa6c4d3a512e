//! Joins neighbouring small batches, so that few large ones travel on, without making one too large.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

use crate::error::{Error, Result};
use crate::strings;

/// Rows of a joined batch, at most.
const ROWS_MAX: usize = 128 * 1024;
/// Batches with so many rows are left alone.
const ROWS_ENOUGH: usize = 64 * 1024;
/// Bytes of a joined batch, at most. Arrow's strings hold at most 2 GiB per batch.
const BYTES_MAX: usize = 128 * 1024 * 1024;

/// `batches` with runs of small ones joined; the order of rows is kept.
pub(crate) fn small(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let mut joined = Vec::new();
    let mut run = Vec::new();
    let (mut run_rows, mut run_bytes) = (0, 0);
    for batch in batches {
        let (rows, bytes) = (batch.num_rows(), batch.get_array_memory_size());
        let large = rows >= ROWS_ENOUGH || bytes >= BYTES_MAX;
        if large || run_rows + rows > ROWS_MAX || run_bytes + bytes > BYTES_MAX {
            flush(schema, &mut run, &mut joined)?;
            (run_rows, run_bytes) = (0, 0);
        }
        if large {
            joined.push(batch);
        } else {
            run.push(batch);
            (run_rows, run_bytes) = (run_rows + rows, run_bytes + bytes);
        }
    }
    flush(schema, &mut run, &mut joined)?;
    Ok(joined)
}

fn flush(schema: &SchemaRef, run: &mut Vec<RecordBatch>, joined: &mut Vec<RecordBatch>) -> Result<()> {
    if run.len() < 2 {
        joined.append(run);
        return Ok(());
    }
    let batch = if schema.fields().is_empty() {
        let rows = run.iter().map(RecordBatch::num_rows).sum();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(schema), vec![], &options)
    } else {
        concat_batches(schema, run.iter())
    };
    joined.push(batch.and_then(strings::tidy).map_err(Error::internal("join rows"))?);
    run.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, StringArray};

    use super::*;

    fn of(rows: usize, bytes: usize) -> RecordBatch {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(bytes); rows]));
        RecordBatch::try_from_iter(vec![("s", text)]).unwrap()
    }

    #[test]
    fn small_batches_are_joined_up_to_limits() {
        let sizes = |batches: Vec<RecordBatch>| -> Vec<usize> {
            let schema = batches[0].schema();
            small(&schema, batches).unwrap().iter().map(RecordBatch::num_rows).collect()
        };
        assert_eq!(sizes(vec![of(1, 1), of(2, 1), of(ROWS_ENOUGH, 1), of(3, 1)]), [3, ROWS_ENOUGH, 3]);
        assert_eq!(sizes(vec![of(15_000, 1); 10]), [120_000, 30_000]);
        let large = sizes(vec![of(30, 1024 * 1024); 6]);
        assert!(large.len() > 1 && large.len() < 6, "{large:?}");
    }
}
