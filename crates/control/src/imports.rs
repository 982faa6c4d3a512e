//! Files into tables. The files are read and written by a function process; here are only their names.
//!
//! A table's entry in the catalog remembers the files it was given ([`FILES_PROPERTY`]), so that an import can be
//! repeated safely. Rows that are replaced take this memory with them.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::SchemaRef;
use forebay_catalog::{Changes, CommitInfo, TableEntry};
use forebay_types::{BranchName, CommitHash, PartitionField, SortField, TableName, parse_partition_fields, parse_sort_fields};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::api::{self, CommitWords, Event, ImportResult, TableCreatePlan};
use crate::error::Error;
use crate::jobs::{self, JobHandle, NewJob};
use crate::replay::{self, Append};
use crate::service::Session;
use crate::table_plans::{Plan, SchemaInfo};
use crate::{refs, runs, tables};

/// Property of a table's entry: 16 digits of the SHA-256 of the URI of each file imported into it, separated by spaces.
pub(crate) const FILES_PROPERTY: &str = "forebay.imported-files";

/// `table.create` and `table.create-plan`
pub(crate) struct Create {
    pub(crate) name: String,
    pub(crate) search_uri: String,
    pub(crate) branch: String,
    pub(crate) namespace: Option<String>,
    pub(crate) partitioned_by: Option<String>,
    pub(crate) sorted_by: Option<String>,
    pub(crate) replace: bool,
}

/// `table.import`
pub(crate) struct Import {
    pub(crate) name: String,
    pub(crate) search_uri: String,
    pub(crate) branch: String,
    pub(crate) namespace: Option<String>,
    pub(crate) continue_on_error: bool,
    pub(crate) import_duplicate_files: bool,
    pub(crate) best_effort: bool,
}

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

/// Makes an empty table with the columns of the files.
pub(crate) fn create(session: &Session<'_>, create: &Create) -> Result<api::Table, api::Error> {
    as_job(session, "table-create", &create.branch, |job| {
        let new = New {
            table: Session::table_name(&create.name, create.namespace.as_deref())?,
            branch: create.branch.clone(),
            replace: create.replace,
            partition_by: fields("the partitioning", create.partitioned_by.as_deref(), parse_partition_fields)?,
            sort_by: fields("the sort order", create.sorted_by.as_deref(), parse_sort_fields)?,
            properties: Vec::new(),
        };
        // A name that is taken is told before files are read.
        new.check(session)?;
        let work = async { forebay_lake::infer_schema(&forebay_lake::sources(&create.search_uri).await?).await };
        let schema = session.service.runtime().block_on(work).map_err(|error| api::Error::of(&error))?;
        new.make(session, job, &schema)
    })
}

/// Says which table [`create`] would make.
pub(crate) fn plan(session: &Session<'_>, create: &Create) -> Result<TableCreatePlan, api::Error> {
    as_job(session, "table-plan-create", &create.branch, |job| {
        let table = Session::table_name(&create.name, create.namespace.as_deref())?;
        let partition_by = fields("the partitioning", create.partitioned_by.as_deref(), parse_partition_fields)?;
        let sort_by = fields("the sort order", create.sorted_by.as_deref(), parse_sort_fields)?;
        let work = async {
            let files = forebay_lake::sources(&create.search_uri).await?;
            Ok((forebay_lake::source_columns(&files).await?, files))
        };
        let found: Result<_, forebay_lake::Error> = session.service.runtime().block_on(work);
        let (columns, files) = found.map_err(|error| api::Error::of(&error))?;
        let plan = Plan {
            table: table.name().to_owned(),
            namespace: table.namespace().to_owned(),
            branch: create.branch.clone(),
            search_uri: create.search_uri.clone(),
            replace: create.replace,
            schema_info: SchemaInfo::of(&columns, &partition_by, &sort_by),
        };
        let conflicts: Vec<String> =
            plan.schema_info.conflicts.iter().map(|conflict| conflict.column_with_conflict.clone()).collect();
        Ok(TableCreatePlan {
            job_id: job.id().to_owned(),
            plan: plan.to_yaml(),
            can_auto_apply: conflicts.is_empty(),
            conflicts,
            files_to_be_imported: files.into_iter().map(|file| file.path).collect(),
        })
    })
}

/// Makes the empty table of a plan.
pub(crate) fn apply(session: &Session<'_>, text: &str) -> Result<api::Table, api::Error> {
    let plan = Plan::from_yaml(text)?;
    as_job(session, "table-plan-apply", &plan.branch, |job| {
        let (schema, casts) = plan.schema()?;
        let casts = (!casts.is_empty()).then(|| (forebay_lake::CASTS_PROPERTY.to_owned(), json!(casts).to_string()));
        let new = New {
            table: Session::table_name(&plan.table, Some(&plan.namespace))?,
            branch: plan.branch.clone(),
            replace: plan.replace,
            partition_by: plan.partition_by()?,
            sort_by: plan.sort_by()?,
            properties: casts.into_iter().collect(),
        };
        new.check(session)?;
        new.make(session, job, &schema)
    })
}

/// Fields written as text.
fn fields<F>(what: &'static str, text: Option<&str>, parse: fn(&str) -> Result<Vec<F>, String>) -> Result<Vec<F>, api::Error> {
    let text = text.unwrap_or_default();
    parse(text).map_err(|why| Error::BadValue { what, value: text.to_owned(), why }.into())
}

/// A table to be made.
struct New {
    table: TableName,
    branch: String,
    replace: bool,
    partition_by: Vec<PartitionField>,
    sort_by: Vec<SortField>,
    properties: Vec<(String, String)>,
}

impl New {
    /// Whether it may be made; the head it would be made upon.
    fn check(&self, session: &Session<'_>) -> Result<(BranchName, CommitHash), api::Error> {
        let (branch, head) = session.branch(&self.branch)?;
        let tree = session.catalog().tree(&head.hash).map_err(told)?;
        if let Some(entry) = tree.tables.get(&self.table) {
            if !self.replace {
                return Err(Error::TableExists { name: self.table.to_string(), branch: self.branch.clone() }.into());
            }
            tables::check_writable(&self.table, entry)?;
        }
        Ok((branch, head.hash))
    }

    fn make(&self, session: &Session<'_>, job: &JobHandle, schema: &SchemaRef) -> Result<api::Table, api::Error> {
        let (branch, base) = self.check(session)?;
        // A folder nobody has used.
        let folder = format!("{}-{}", self.table.name(), uuid::Uuid::new_v4());
        let location = format!("{}/{}/{folder}", session.lake.tables_root, self.table.namespace());
        let work = forebay_lake::create(&location, schema, &self.partition_by, &self.sort_by, &self.properties);
        let metadata = session.service.runtime().block_on(work).map_err(|error| api::Error::of(&error))?;
        let entry = TableEntry::new(metadata);
        put(session, job, &branch, &base, &self.table, entry.clone(), format!("Create the table `{}`", self.table))?;
        let info = session.service.table_info(&entry.metadata_location)?;
        Ok(tables::describe(&self.table, &entry, &info))
    }
}

/// Appends files to a table.
pub(crate) fn import(session: &Session<'_>, import: &Import) -> Result<ImportResult, api::Error> {
    as_job(session, "table-import", &import.branch, |job| {
        let table = Session::table_name(&import.name, import.namespace.as_deref())?;
        let (branch, head) = session.branch(&import.branch)?;
        let tree = session.catalog().tree(&head.hash).map_err(told)?;
        let entry = tree.tables.get(&table).ok_or_else(|| tables::missing(&table, branch.as_str(), &tree))?;
        tables::check_writable(&table, entry)?;
        let found = session.service.runtime().block_on(forebay_lake::sources(&import.search_uri));
        let found = found.map_err(|error| api::Error::of(&error))?;
        let known = remembered(entry);
        let is_new = |file: &String| import.import_duplicate_files || !known.contains(&mark(file));
        let (files, skipped): (Vec<String>, Vec<String>) = found.into_iter().map(|file| file.path).partition(is_new);
        for file in &skipped {
            job.log(table.name(), "system", &format!("left out {file}: it was imported before"));
        }
        if files.is_empty() {
            let at = refs::wire(head);
            return Ok(ImportResult { job_id: job.id().to_owned(), at, rows: 0, files, skipped, failed: Vec::new() });
        }
        let request = forebay_worker::Import {
            name: table.to_string(),
            base: entry.metadata_location.clone(),
            files,
            best_effort: import.best_effort,
            continue_on_error: import.continue_on_error,
            properties: Vec::new(),
            sandbox: session.service.sandbox()?,
            storage: session.worker_storage(),
        };
        let done = append(session, job, &request)?;
        if !done.files.is_empty() {
            let count = done.files.len();
            let message = format!("Import {count} {} into `{table}`", if count == 1 { "file" } else { "files" });
            let new: BTreeSet<String> = done.files.iter().map(|file| mark(file)).collect();
            let changed = TableEntry { metadata_location: done.metadata_location, properties: with_marks(entry, &new) };
            let changes = Changes { put: [(table.clone(), changed)].into(), ..Changes::default() };
            // What another import took in meanwhile is not taken in twice.
            let again = |now: &TableEntry| import.import_duplicate_files || remembered(now).is_disjoint(&new);
            let remember = |now: &TableEntry| again(now).then(|| with_marks(now, &new));
            let append = Append { base: entry.metadata_location.clone(), remember: Box::new(remember) };
            let info = job_info(session, job, message);
            replay::commit(session, &branch, &head.hash, changes, &info, &[(table, append)].into())?;
        }
        let failed = done.failed.into_iter().map(|(file, error)| json!({ "file": file, "error": error }));
        Ok(ImportResult {
            job_id: job.id().to_owned(),
            at: refs::wire(session.branch(&import.branch)?.1),
            rows: done.rows,
            files: done.files,
            skipped,
            failed: failed.collect(),
        })
    })
}

fn append(
    session: &Session<'_>,
    job: &JobHandle,
    import: &forebay_worker::Import,
) -> Result<forebay_worker::Imported, api::Error> {
    let token = runs::worker_token(job);
    let events = |event| {
        if let forebay_worker::WorkerEvent::Log { node, stream, line } = event {
            session.emit(job, &Event::Log { node, stream: stream.as_str().to_owned(), line });
        }
    };
    let done = session.service.worker()?.import(import, &events, &token).map_err(|error| runs::node_error(&error, None))?;
    match job.cancel().why() {
        Some(why) => Err(Error::Cancelled { why }.into()),
        None => Ok(done),
    }
}

/// Puts a table's new metadata on a branch, in one commit. What another writer did to the table meanwhile is a conflict.
pub(crate) fn put(
    session: &Session<'_>,
    job: &JobHandle,
    branch: &BranchName,
    base: &CommitHash,
    table: &TableName,
    entry: TableEntry,
    message: String,
) -> Result<(), api::Error> {
    let changes = Changes { put: [(table.clone(), entry)].into(), ..Changes::default() };
    let info = job_info(session, job, message);
    session.catalog().commit(branch, base, &changes, &info, None).map(drop).map_err(told)
}

/// The words of a job's commit.
pub(crate) fn job_info(session: &Session<'_>, job: &JobHandle, message: String) -> CommitInfo {
    let mut info = session.info(CommitWords::default(), message);
    info.properties.insert(runs::JOB_PROPERTY.to_owned(), job.id().to_owned());
    info
}

/// An entry's properties, with more files remembered.
fn with_marks(entry: &TableEntry, new: &BTreeSet<String>) -> BTreeMap<String, String> {
    let marks: Vec<String> = remembered(entry).union(new).cloned().collect();
    let mut properties = entry.properties.clone();
    properties.insert(FILES_PROPERTY.to_owned(), marks.join(" "));
    properties
}

/// Marks of the files a table was given.
fn remembered(entry: &TableEntry) -> BTreeSet<String> {
    let marks = entry.properties.get(FILES_PROPERTY).map(String::as_str).unwrap_or_default();
    marks.split_whitespace().map(str::to_owned).collect()
}

/// What is remembered of a file. A file is the same by whichever way it is named: links and `..` are followed, as far as it is there.
fn mark(file: &str) -> String {
    let path = std::fs::canonicalize(file).ok().and_then(|path| path.into_os_string().into_string().ok());
    hex::encode(&Sha256::digest(path.as_deref().unwrap_or(file))[..8])
}

/// Does `work` as a job: its record says how it ended, and it is cancelled when its client goes away.
pub(crate) fn as_job<T: serde::Serialize>(
    session: &Session<'_>,
    kind: &'static str,
    at: &str,
    work: impl FnOnce(&JobHandle) -> Result<T, api::Error>,
) -> Result<T, api::Error> {
    let job = session.service.jobs.start(&NewJob { kind, user: &session.author.name, lake: &session.lake.uri, at })?;
    let _watch = session.connection.watch(job.cancel()).map_err(Error::storage("watch", "the connection"))?;
    session.emit(&job, &Event::Job { job_id: job.id().to_owned() });
    match work(&job) {
        Ok(result) => {
            job.finish(jobs::SUCCESS, None, serde_json::to_value(&result).ok());
            Ok(result)
        }
        Err(error) => {
            let cancelled = job.cancel().why().map(|why| api::Error::from(Error::Cancelled { why }));
            let status = if cancelled.is_some() { jobs::CANCELLED } else { jobs::FAILED };
            let error = cancelled.unwrap_or(error);
            job.finish(status, Some(error.clone()), None);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_remembered_by_their_mark() {
        let mut entry = TableEntry::new("/t/metadata.json");
        assert!(remembered(&entry).is_empty());
        let marks = ["/a.csv", "/b c.csv"].map(mark);
        assert_ne!(marks[0], marks[1]);
        entry.properties.insert(FILES_PROPERTY.to_owned(), marks.join(" "));
        assert_eq!(remembered(&entry), marks.into_iter().collect());
        // A change here forgets every import of every lake.
        assert_eq!(mark("/a.csv"), "48c0dcaa961ed486");
    }
}
