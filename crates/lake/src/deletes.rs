//! Row-level deletes of other engines: position deletes are honoured, equality deletes refused.
//!
//! This crate never writes row-level deletes (it rewrites files instead), but DuckDB's DELETE and UPDATE write
//! position deletes, so tables that were changed there hold them.

use std::collections::HashMap;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use iceberg::spec::{DataContentType, DataFileFormat};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};

use crate::cast::cast_exactly;
use crate::error::{Error, Result};
use crate::scan::open_file;
use crate::table::LiveFile;

/// Deleted positions by data file, ascending.
#[derive(Default)]
pub(crate) struct Deletes {
    positions: HashMap<String, Vec<usize>>,
}

/// Reads the delete files that apply to `data`. Blocks.
pub(crate) fn load(deletes: &[LiveFile], data: &[LiveFile], table: &str) -> Result<Deletes> {
    if deletes.is_empty() || data.is_empty() {
        return Ok(Deletes::default());
    }
    let sequences: HashMap<&str, i64> = data.iter().map(|live| (live.file.file_path(), live.sequence)).collect();
    let mut positions: HashMap<String, Vec<usize>> = HashMap::new();
    for delete in deletes {
        let file = &delete.file;
        let refuse = |feature: &str| Error::Unsupported { table: table.to_owned(), feature: feature.to_owned() };
        match file.content_type() {
            DataContentType::EqualityDeletes => {
                if sequences.values().any(|sequence| *sequence < delete.sequence) {
                    return Err(refuse("reading equality deletes"));
                }
                continue;
            }
            DataContentType::PositionDeletes if file.file_format() == DataFileFormat::Parquet => {}
            DataContentType::PositionDeletes => return Err(refuse("reading deletion vectors")),
            DataContentType::Data => continue,
        }
        if file.referenced_data_file().is_some_and(|path| !sequences.contains_key(path.as_str())) {
            continue;
        }
        read(file.file_path(), |path, position| {
            if sequences.get(path).is_some_and(|sequence| *sequence <= delete.sequence) {
                positions.entry(path.to_owned()).or_default().push(position);
            }
        })?;
    }
    for positions in positions.values_mut() {
        positions.sort_unstable();
        positions.dedup();
    }
    Ok(Deletes { positions })
}

/// Calls `each` with every row of a position delete file.
fn read(path: &str, mut each: impl FnMut(&str, usize)) -> Result<()> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(open_file(path)?).map_err(Error::data_file(path))?;
    for batch in builder.build().map_err(Error::data_file(path))? {
        let batch = batch.map_err(Error::data_file(path))?;
        let column = |name: &str, kind: &DataType| {
            let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column `{name}`"))?;
            cast_exactly(column, kind).map_err(|problem| problem.why)
        };
        let files = column("file_path", &DataType::Utf8).map_err(Error::data_file(path))?;
        let rows = column("pos", &DataType::Int64).map_err(Error::data_file(path))?;
        for (file, row) in files.as_string::<i32>().iter().zip(rows.as_primitive::<Int64Type>().iter()) {
            if let (Some(file), Some(Ok(row))) = (file, row.map(usize::try_from)) {
                each(file, row);
            }
        }
    }
    Ok(())
}

impl Deletes {
    /// Whether a row of this file is deleted.
    pub(crate) fn touch(&self, path: &str) -> bool {
        self.positions.contains_key(path)
    }

    /// The rows of a row group that are left, if any of its rows is deleted.
    pub(crate) fn selection(&self, path: &str, first_row: usize, rows: usize) -> Option<RowSelection> {
        let positions = self.positions.get(path)?;
        let start = positions.partition_point(|position| *position < first_row);
        let end = positions.partition_point(|position| *position < first_row + rows);
        if start == end {
            return None;
        }
        let mut left = Vec::new();
        let mut next = 0;
        for position in &positions[start..end] {
            let row = position - first_row;
            if next < row {
                left.push(next..row);
            }
            next = row + 1;
        }
        if next < rows {
            left.push(next..rows);
        }
        Some(RowSelection::from_consecutive_ranges(left.into_iter(), rows))
    }
}
