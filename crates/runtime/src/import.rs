//! Files appended to a table: read one after another, written together.
//!
//! Memory is bounded by [`IMPORT_BYTES_MAX`] and the largest file: what has been read so far is written when it
//! reaches the bound, and the next write builds on that one. Only the last metadata file is ever committed, so readers
//! see all of the import or nothing.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use forebay_lake::{Error, Mode, Reading, SourceFile, Trouble, WriteRequest};
use forebay_types::Coded as _;

use crate::limits::IMPORT_BYTES_MAX;

/// What is forgiven.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Columns the table does not have are left out, text is parsed.
    pub best_effort: bool,
    /// A file that cannot be read is left out and reported.
    pub continue_on_error: bool,
}

/// How it went.
#[derive(Debug)]
pub struct Imported {
    pub metadata_location: String,
    pub rows: u64,
    pub files: Vec<String>,
    pub failed: Vec<(String, String)>,
}

/// Appends `files` to the table whose metadata file is `base`.
pub async fn import(base: &str, files: &[String], options: Options, properties: &[(String, String)]) -> Result<Imported, Error> {
    let table = forebay_lake::load(base).await?;
    let (schema, reading) = (table.arrow_schema, Reading::of(&table.properties, options.best_effort));
    let mut done = Imported { metadata_location: base.to_owned(), rows: 0, files: Vec::new(), failed: Vec::new() };
    let mut pending = Vec::new();
    let mut pending_bytes = 0;
    for file in files {
        match read(file, &schema, &reading).await {
            Ok(batches) => {
                pending_bytes += batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
                pending.extend(batches);
                done.files.push(file.clone());
            }
            Err(error) if options.continue_on_error && is_of_one_file(&error) => {
                done.failed.push((file.clone(), error.report().to_string()))
            }
            Err(error) => return Err(error),
        }
        if pending_bytes > IMPORT_BYTES_MAX {
            append(&mut done, &schema, std::mem::take(&mut pending), properties).await?;
            pending_bytes = 0;
        }
    }
    if !pending.is_empty() {
        append(&mut done, &schema, pending, properties).await?;
    }
    Ok(done)
}

/// Whether an error says something of a file, and not of the way to all of them.
fn is_of_one_file(error: &Error) -> bool {
    match error {
        Error::Remote(failure) => matches!(failure.trouble, Trouble::Missing | Trouble::Other),
        _ => true,
    }
}

/// One file's rows, in the table's columns. A name with a `*` in it is a name, not a pattern: the file is there.
async fn read(file: &str, schema: &SchemaRef, reading: &Reading) -> Result<Vec<RecordBatch>, Error> {
    let sources: Vec<SourceFile> = forebay_lake::sources(file).await?;
    let mut batches = Vec::new();
    for source in &sources {
        batches.extend(forebay_lake::read_source(source, schema, reading).await?);
    }
    Ok(batches)
}

async fn append(
    done: &mut Imported,
    schema: &SchemaRef,
    batches: Vec<RecordBatch>,
    properties: &[(String, String)],
) -> Result<(), Error> {
    let request = WriteRequest {
        location: String::new(),
        base: Some(done.metadata_location.clone()),
        mode: Mode::Append,
        partition_by: Vec::new(),
        sort_by: Vec::new(),
        docs: Vec::new(),
        properties: properties.to_vec(),
    };
    let written = forebay_lake::write(request, SchemaRef::clone(schema), batches).await?;
    done.metadata_location = written.metadata_location;
    done.rows += written.rows;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::future::Future;

    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn files_are_appended_and_bad_ones_reported() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_string_lossy().into_owned()
        };
        let files = [
            path("a.csv", "id,name\n1,one\n2,two\n"),
            path("b.csv", "id,name\nthree,3\n"),
            path("c[1].csv", "id,name\n4,four\n"),
        ];
        let location = folder.path().join("table").to_string_lossy().into_owned();
        wait(async {
            let schema = forebay_lake::infer_schema(&forebay_lake::sources(&files[0]).await.unwrap()).await.unwrap();
            let base = forebay_lake::create(&location, &schema, &[], &[], &[]).await.unwrap();
            let strict = Options { best_effort: false, continue_on_error: false };
            assert!(import(&base, &files, strict, &[]).await.is_err());
            let lenient = Options { continue_on_error: true, ..strict };
            let done = import(&base, &files, lenient, &[]).await.unwrap();
            assert_eq!((done.rows, done.files.len(), done.failed.len()), (3, 2, 1));
            assert!(done.failed[0].0.ends_with("b.csv") && done.failed[0].1.contains("LAK"), "{:?}", done.failed);
            assert_eq!(forebay_lake::load(&done.metadata_location).await.unwrap().records, Some(3));
            let nothing = import(&base, &files[1..2], lenient, &[]).await.unwrap();
            assert_eq!((nothing.metadata_location, nothing.rows), (base, 0));
        });
    }
}
