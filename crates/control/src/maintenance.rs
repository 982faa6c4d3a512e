//! Keeping a lake small: files that nothing leads to go (`gc`), small files become large ones (`table.compact`), and tables
//! forget old snapshots (`table.expire`). All of it while others work.
//!
//! The order of a collection is what makes it safe. First the catalog: after it, whatever no ref led to and nobody was about
//! to name cannot be named again. Then the files of all tables that are left are counted; a table that is committed from now on
//! was written from one of these, or just now. What is neither needed by them nor young belongs to nobody.

use std::time::Duration;

use forebay_catalog::{Changes, Sweep, TableEntry};
use forebay_types::{CommitHash, TableName};

use crate::api::{self, Compacted, Expired, Garbage};
use crate::error::Error;
use crate::imports::{as_job, job_info};
use crate::jobs::JobHandle;
use crate::limits::MAINTENANCE_ATTEMPTS_MAX;
use crate::refs;
use crate::runs;
use crate::service::Session;
use crate::tables;

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

fn of_lake(error: forebay_lake::Error) -> api::Error {
    api::Error::of(&error)
}

/// Removes what nothing leads to and what is older than the grace time.
pub(crate) fn collect(session: &Session<'_>, grace_seconds: u64, dry_run: bool) -> Result<Garbage, api::Error> {
    let sweep = if dry_run { Sweep::Dry } else { Sweep::Remove };
    let grace = Duration::from_secs(grace_seconds);
    // Our own jobs may take longer than any grace time: what they wrote stays.
    let oldest = session.service.jobs.oldest_start_ms();
    let now = session.catalog().now_millis(sweep).map_err(told)?;
    let cutoff = now.saturating_sub(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX)).min(oldest.unwrap_or(i64::MAX));
    let (catalog, live) = session.catalog().collect_and_list(grace, sweep).map_err(told)?;
    let root = session.lake.tables_root.clone();
    let work = async {
        let mut needed = forebay_lake::files_of(&live.tables, &root).await?;
        for table in &live.doubtful {
            // What of it is gone needs nothing.
            needed.extend(forebay_lake::files_of(&[table.clone()].into(), &root).await.unwrap_or_default());
        }
        let (mut gone, mut garbage) = (Vec::new(), Garbage::default());
        for file in forebay_lake::files_below(&root).await? {
            if file.modified_ms < cutoff && !needed.contains(&forebay_lake::name(&file.location)) {
                garbage.table_bytes += file.bytes;
                gone.push(file);
            } else {
                garbage.table_files_kept += 1;
            }
        }
        garbage.table_files = gone.len() as u64;
        if sweep == Sweep::Remove {
            forebay_lake::remove_files(&root, gone, cutoff).await?;
        }
        Ok(garbage)
    };
    let garbage = session.service.runtime().block_on(work).map_err(of_lake)?;
    Ok(Garbage { removed: catalog.removed as u64, kept: catalog.kept as u64, ..garbage })
}

/// A table on a branch, for changes of it.
struct Target {
    table: TableName,
    branch: forebay_types::BranchName,
    head: CommitHash,
    entry: TableEntry,
}

fn target(session: &Session<'_>, name: &str, branch: &str, namespace: Option<&str>) -> Result<Target, api::Error> {
    let table = Session::table_name(name, namespace)?;
    let (branch, head) = session.branch(branch)?;
    let tree = session.catalog().tree(&head.hash).map_err(told)?;
    let entry = tree.tables.get(&table).ok_or_else(|| tables::missing(&table, branch.as_str(), &tree))?.clone();
    tables::check_writable(&table, &entry)?;
    Ok(Target { table, branch, head: head.hash, entry })
}

/// Puts the same rows, or fewer snapshots, in the place of a table. `Some`: somebody changed the table meanwhile.
fn put(
    session: &Session<'_>,
    job: &JobHandle,
    target: &Target,
    location: String,
    message: String,
) -> Result<Option<api::Error>, api::Error> {
    let entry = TableEntry { metadata_location: location, properties: target.entry.properties.clone() };
    let changes = Changes { put: [(target.table.clone(), entry)].into(), ..Changes::default() };
    match session.catalog().commit(&target.branch, &target.head, &changes, &job_info(session, job, message), None) {
        Ok(_) => Ok(None),
        Err(error) if error.is_conflict() => Ok(Some(told(error))),
        Err(error) => Err(told(error)),
    }
}

/// Tries again what another writer of the table came in the way of: the work starts from the table as it is then.
fn insist<T>(mut attempt: impl FnMut() -> Result<Result<T, api::Error>, api::Error>) -> Result<T, api::Error> {
    let mut last = attempt()?;
    for _ in 1..MAINTENANCE_ATTEMPTS_MAX {
        if last.is_ok() {
            break;
        }
        last = attempt()?;
    }
    last
}

/// Rewrites the small files of a table.
pub(crate) fn compact(
    session: &Session<'_>,
    name: &str,
    branch: &str,
    namespace: Option<&str>,
    small_bytes: u64,
) -> Result<Compacted, api::Error> {
    as_job(session, "table-compact", branch, |job| {
        insist(|| {
            let target = target(session, name, branch, namespace)?;
            let request = forebay_worker::Compact {
                name: target.table.to_string(),
                base: target.entry.metadata_location.clone(),
                small_bytes,
                sandbox: session.service.sandbox()?,
                storage: session.worker_storage(),
            };
            let token = runs::worker_token(job);
            let done = session.service.worker()?.compact(&request, &|_| (), &token);
            let done = done.map_err(|error| runs::node_error(&error, None))?;
            if let Some(why) = job.cancel().why() {
                return Err(Error::Cancelled { why }.into());
            }
            let changed = done.metadata_location != target.entry.metadata_location;
            let message = format!("Compact `{}`: {} files become {}", target.table, done.files_before, done.files_after);
            if changed && let Some(conflict) = put(session, job, &target, done.metadata_location, message)? {
                return Ok(Err(conflict));
            }
            let (_, at) = session.branch(branch)?;
            Ok(Ok(Compacted {
                job_id: job.id().to_owned(),
                at: refs::wire(at),
                files_before: done.files_before,
                files_after: done.files_after,
                delete_files: done.delete_files,
                rows: done.rows,
            }))
        })
    })
}

/// Lets a table forget snapshots.
pub(crate) fn expire(
    session: &Session<'_>,
    name: &str,
    branch: &str,
    namespace: Option<&str>,
    older_than_seconds: u64,
    keep_last: u64,
) -> Result<Expired, api::Error> {
    as_job(session, "table-expire", branch, |job| {
        let age = i64::try_from(older_than_seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        let before = chrono::Utc::now().timestamp_millis().saturating_sub(age);
        let keep_last = usize::try_from(keep_last).unwrap_or(usize::MAX);
        insist(|| {
            let target = target(session, name, branch, namespace)?;
            let work = forebay_lake::expire(&target.entry.metadata_location, before, keep_last);
            let done = session.service.runtime().block_on(work).map_err(of_lake)?;
            let message = format!("Expire {} snapshots of `{}`", done.removed, target.table);
            if done.removed > 0
                && let Some(conflict) = put(session, job, &target, done.metadata_location, message)?
            {
                return Ok(Err(conflict));
            }
            let (_, at) = session.branch(branch)?;
            let (removed, kept) = (done.removed as u64, done.kept as u64);
            Ok(Ok(Expired { job_id: job.id().to_owned(), at: refs::wire(at), removed, kept }))
        })
    })
}
