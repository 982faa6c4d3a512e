//! The first or last rows of a table as text, for a terminal.

use std::collections::VecDeque;

use arrow::array::Array;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::call::Preview;

/// Rows a preview shows.
pub const PREVIEW_ROWS: usize = 10;

const COLUMNS_MAX: usize = 16;
const CELL_CHARS_MAX: usize = 32;

/// Keeps the rows a preview needs while batches go by.
#[derive(Debug)]
pub struct Excerpt {
    which: Preview,
    batches: VecDeque<RecordBatch>,
    rows: usize,
    total: u64,
}

impl Excerpt {
    /// An excerpt of a table that has not begun yet.
    #[must_use]
    pub fn new(which: Preview) -> Self {
        Self { which, batches: VecDeque::new(), rows: 0, total: 0 }
    }

    /// Sees the next batch, and keeps at most [`PREVIEW_ROWS`] rows (as a slice: the batch's memory stays alive).
    pub fn see(&mut self, batch: &RecordBatch) {
        self.total += batch.num_rows() as u64;
        match self.which {
            Preview::Head => {
                let wanted = (PREVIEW_ROWS - self.rows).min(batch.num_rows());
                if wanted > 0 {
                    self.batches.push_back(batch.slice(0, wanted));
                    self.rows += wanted;
                }
            }
            Preview::Tail => {
                let wanted = PREVIEW_ROWS.min(batch.num_rows());
                self.batches.push_back(batch.slice(batch.num_rows() - wanted, wanted));
                self.rows += wanted;
                self.forget();
            }
        }
    }

    fn forget(&mut self) {
        while self.rows > PREVIEW_ROWS {
            let oldest = self.batches.pop_front().expect("rows are those of the batches");
            let surplus = self.rows - PREVIEW_ROWS;
            if oldest.num_rows() > surplus {
                self.batches.push_front(oldest.slice(surplus, oldest.num_rows() - surplus));
                self.rows = PREVIEW_ROWS;
            } else {
                self.rows -= oldest.num_rows();
            }
        }
    }

    /// The rows as a text table, with a last line that says how many rows there are in all.
    ///
    /// # Errors
    /// When a value cannot be shown (a time zone nobody knows).
    pub fn render(self, schema: &SchemaRef) -> Result<String, ArrowError> {
        let batches: Vec<RecordBatch> = self.batches.into();
        let mut text = render(schema, &batches)?;
        let shown = self.rows as u64;
        text.push_str(&match self.which {
            _ if shown == self.total => format!("\n{} rows", self.total),
            Preview::Head => format!("\nfirst {shown} of {} rows", self.total),
            Preview::Tail => format!("\nlast {shown} of {} rows", self.total),
        });
        Ok(text)
    }
}

/// All rows as a text table. Long cells are cut, and of many columns the middle ones are left out.
///
/// # Errors
/// When a value cannot be shown.
pub fn render(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let width = schema.fields().len();
    let shown: Vec<Option<usize>> = if width <= COLUMNS_MAX {
        (0..width).map(Some).collect()
    } else {
        let half = COLUMNS_MAX / 2;
        (0..half).map(Some).chain([None]).chain((width - half..width).map(Some)).collect()
    };
    let columns = shown.iter().map(|column| Column::new(schema, batches, *column)).collect::<Result<Vec<_>, _>>()?;
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let line = |row: Option<usize>| {
        let cells: Vec<String> = columns.iter().map(|column| column.cell(row)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let rule = columns.iter().map(|column| "─".repeat(column.width)).collect::<Vec<_>>().join("  ");
    let lines = [line(None), rule].into_iter().chain((0..rows).map(|row| line(Some(row)))).collect::<Vec<_>>();
    Ok(lines.join("\n"))
}

struct Column {
    name: String,
    cells: Vec<String>,
    width: usize,
    right: bool,
}

impl Column {
    fn new(schema: &SchemaRef, batches: &[RecordBatch], position: Option<usize>) -> Result<Self, ArrowError> {
        let mut cells = Vec::new();
        let (mut name, mut right) = ("…".to_owned(), false);
        if let Some(position) = position {
            let field = schema.field(position);
            name = cut(field.name());
            right = field.data_type().is_numeric();
            let options = FormatOptions::default().with_null("null").with_display_error(true);
            for batch in batches {
                let array: &dyn Array = batch.column(position).as_ref();
                let formatter = ArrayFormatter::try_new(array, &options)?;
                cells.extend((0..array.len()).map(|row| cut(&formatter.value(row).to_string())));
            }
        } else {
            cells.resize(batches.iter().map(RecordBatch::num_rows).sum(), name.clone());
        }
        let width = cells.iter().chain([&name]).map(|cell| cell.chars().count()).max().unwrap_or(0);
        Ok(Self { name, cells, width, right })
    }

    fn cell(&self, row: Option<usize>) -> String {
        let text = row.map_or(&self.name, |row| &self.cells[row]);
        if self.right { format!("{text:>width$}", width = self.width) } else { format!("{text:<width$}", width = self.width) }
    }
}

/// One line of at most [`CELL_CHARS_MAX`] characters, without control characters.
fn cut(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    if text.chars().count() <= CELL_CHARS_MAX {
        return text.chars().map(clean).collect();
    }
    text.chars().map(clean).take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}
