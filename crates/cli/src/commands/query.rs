//! `query`: one SELECT, printed or written to a file, row by row as it comes.

mod form;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::JsonArray;
use forebay_control::api::Op;
use serde_json::{Map, Value, json};

use crate::args::QueryArgs;
use crate::context::{Context, Rows};
use crate::error::{Error, Failure, Result};
use crate::exit::Exit;
use crate::interrupt::on_interrupt;
use crate::output::SCHEMA;
use crate::render::rows;
use crate::render::text::{counted, duration};
use form::{Form, Target};

/// Rows that are printed unless more are asked for.
const PRINTED_ROWS_MAX: u64 = 10;

pub fn run(context: &Context, args: QueryArgs) -> Result<()> {
    let began = std::time::Instant::now();
    // These can fail without the control plane, so they come first.
    let form = args.to.as_deref().map(Form::of).transpose()?;
    let sql = sql(&args)?;
    let limit = limit(&args, form.is_none() && !context.out.is_json());
    let mut session = context.session()?;
    let at = session.or_active(args.at);
    let op = Op::Query { sql, at, namespace: args.namespace, max_rows: limit.asked, stream: true, memory_bytes: args.memory };
    match (&args.to, form) {
        (Some(path), Some(form)) => {
            let mut target = Target::create(path, form)?;
            remove_on_interrupt(target.beside())?;
            let mut fields = Value::Null;
            let result = session.rows(op, &mut |_, rows| {
                fields = json!(described(&rows.schema()));
                target.write(rows)
            })?;
            target.finish()?;
            let took = duration(began.elapsed().as_secs_f64());
            context.out.talk(&format!("wrote {} to {} ({took})", counted(result.rows, "row"), path.display()));
            if context.out.is_json() {
                context.out.object(json!({ "job_id": result.job_id, "fields": fields, "rows": result.rows, "file": path }))?;
            }
        }
        _ if context.out.is_json() => context.out.stream_to(&mut |out| {
            let mut document = Document::new(out);
            session.rows(op.clone(), &mut |job, rows| document.write(job, rows))?;
            document.finish()
        })?,
        _ => {
            let mut table = None;
            session.rows(op, &mut |_, rows| {
                table = Some(collected(rows)?);
                Ok(())
            })?;
            let Some((schema, mut batches)) = table else { return Err(Error::Answer { why: "no rows came".to_owned() }.into()) };
            let more = limit.cut(&mut batches);
            print(context, &schema, &batches, args.no_trunc)?;
            context.out.talk(&remark(count(&batches), more));
        }
    }
    Ok(())
}

/// At Ctrl-C the part that was written goes; the closed connection cancels the query.
fn remove_on_interrupt(part: &Path) -> Result<()> {
    let part = part.to_owned();
    on_interrupt(move || {
        let _ = std::fs::remove_file(part);
        std::process::exit(Exit::Failed.code().into());
    })
}

fn sql(args: &QueryArgs) -> Result<String> {
    let Some(file) = &args.file else {
        return Ok(args.sql.clone().unwrap_or_default());
    };
    read_text(file)
}

/// The text of a file, or of stdin for `-`.
pub fn read_text(file: &Path) -> Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().read_to_string(&mut text).map(drop)
    } else {
        File::open(file).and_then(|mut file| file.read_to_string(&mut text)).map(drop)
    };
    read.map_err(|error| Error::file("read", file, &error))?;
    Ok(text)
}

/// How many rows to ask for, and how many to keep: one more is asked for, to know whether there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    asked: Option<u64>,
    kept: Option<u64>,
}

fn limit(args: &QueryArgs, is_printed: bool) -> Limit {
    match args.max_rows {
        Some(rows) => Limit { asked: Some(rows), kept: None },
        None if is_printed && !args.all_rows => Limit { asked: Some(PRINTED_ROWS_MAX + 1), kept: Some(PRINTED_ROWS_MAX) },
        None => Limit { asked: None, kept: None },
    }
}

impl Limit {
    /// Drops the rows that were asked for only to know that they are there, and says whether there were any.
    fn cut(self, batches: &mut Vec<RecordBatch>) -> bool {
        let Some(kept) = self.kept else { return false };
        let mut left = usize::try_from(kept).unwrap_or(usize::MAX);
        let mut more = false;
        for batch in batches.iter_mut() {
            more |= batch.num_rows() > left;
            *batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
        }
        batches.retain(|batch| batch.num_rows() > 0);
        more
    }
}

fn count(batches: &[RecordBatch]) -> u64 {
    batches.iter().map(|batch| u64::try_from(batch.num_rows()).unwrap_or(u64::MAX)).sum()
}

/// All rows: a table for people is laid out when its widest cell is known.
fn collected(rows: Rows) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let schema = rows.schema();
    let batches = rows.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(&error))?;
    Ok((schema, batches))
}

fn print(context: &Context, schema: &SchemaRef, batches: &[RecordBatch], whole_cells: bool) -> Result<()> {
    let cells = (!whole_cells).then_some(rows::CELL_CHARACTERS_MAX);
    let text = rows::table(schema, batches, cells).map_err(|error| unreadable(&error))?;
    context.out.data(&text)
}

/// What the printed rows do not say of themselves.
fn remark(count: u64, more: bool) -> String {
    match (count, more) {
        (0, _) => "No results".to_owned(),
        (_, true) => format!("the first {}; `--all-rows` or `--max-rows N` shows more", counted(count, "row")),
        (_, false) => counted(count, "row"),
    }
}

/// Columns for a program.
fn described(schema: &Schema) -> Vec<Map<String, Value>> {
    let field = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        Map::from_iter([
            ("name".to_owned(), field.name().as_str().into()),
            ("type".to_owned(), field.data_type().to_string().into()),
            ("nullable".to_owned(), field.is_nullable().into()),
        ])
    };
    schema.fields().iter().map(field).collect()
}

/// `{"schema", "job_id", "fields", "results": […]}`. Nothing is written before the first row or the end, so that a query that
/// fails at once leaves stdout to its error.
struct Document<'a> {
    out: &'a mut dyn Write,
    head: String,
    begun: bool,
}

impl<'a> Document<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Self { out, head: String::new(), begun: false }
    }

    fn write(&mut self, job: &str, rows: Rows) -> Result<()> {
        let fields = json!(described(&rows.schema()));
        self.head = format!("{{\"schema\":{SCHEMA},\"job_id\":{},\"fields\":{fields},\"results\":", json!(job));
        let mut writer: Option<arrow::json::Writer<&mut dyn Write, JsonArray>> = None;
        for batch in rows {
            let batch = batch.map_err(|error| unreadable(&error))?;
            if writer.is_none() {
                self.out.write_all(self.head.as_bytes()).map_err(|error| stdout(&error))?;
                self.begun = true;
                writer = Some(rows::json_array(&mut *self.out));
            }
            if let Some(writer) = &mut writer {
                writer.write(&batch).map_err(|error| stdout(&io(error)))?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        let end = if self.begun { "]}\n".to_owned() } else { format!("{}[]}}\n", self.head) };
        self.out.write_all(end.as_bytes()).map_err(|error| stdout(&error))
    }
}

fn stdout(error: &std::io::Error) -> Failure {
    crate::output::stdout_failure(error)
}

fn unreadable(error: &ArrowError) -> Error {
    Error::Answer { why: error.to_string() }
}

/// The I/O error inside an Arrow error, so that a closed stdout is known as one.
fn io(error: ArrowError) -> std::io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => std::io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch(rows: std::ops::Range<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(rows)) as ArrayRef)]).unwrap()
    }

    #[test]
    fn one_row_more_tells_that_there_are_more() {
        let limit = Limit { asked: Some(11), kept: Some(10) };
        let mut eleven = vec![batch(0..11)];
        assert!(limit.cut(&mut eleven));
        assert_eq!(eleven[0].num_rows(), 10);
        let mut ten = vec![batch(0..10)];
        ten.push(ten[0].slice(0, 0));
        assert!(!limit.cut(&mut ten));
        assert_eq!(ten.len(), 1);
        ten.push(ten[0].slice(0, 1));
        assert!(limit.cut(&mut ten));
    }

    #[test]
    fn remarks() {
        assert_eq!(remark(0, false), "No results");
        assert_eq!(remark(1, false), "1 row");
        assert_eq!(remark(10, true), "the first 10 rows; `--all-rows` or `--max-rows N` shows more");
    }
}
