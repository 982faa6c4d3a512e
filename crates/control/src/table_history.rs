//! What happened to one table, commit by commit.

use forebay_catalog::{Commit, TableEntry};
use forebay_types::{CommitHash, TableName};

use crate::api::{self, TableChange};
use crate::error::Error;
use crate::service::Session;
use crate::tables;

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

/// The commits below a ref that changed a table, newest first, at most `limit`. What a merge brought in, the commits below
/// it did.
pub(crate) fn history(session: &Session<'_>, table: &TableName, at: &str, limit: usize) -> Result<Vec<TableChange>, api::Error> {
    let from = session.resolve(at)?;
    let mut changes = Vec::new();
    for commit in session.catalog().log(&from.hash) {
        if changes.len() == limit {
            break;
        }
        let commit = commit.map_err(told)?;
        let now = entry(session, &commit.hash, table)?;
        let mut before = Vec::new();
        for parent in &commit.parents {
            before.push(entry(session, parent, table)?);
        }
        let unchanged = if before.is_empty() { now.is_none() } else { before.contains(&now) };
        if !unchanged {
            changes.push(change(session, &commit, before.into_iter().next().flatten().as_ref(), now.as_ref()));
        }
    }
    if changes.is_empty() {
        let tree = session.catalog().tree(&from.hash).map_err(told)?;
        return Err(Error::from(tables::missing(table, at, &tree)).into());
    }
    Ok(changes)
}

fn entry(session: &Session<'_>, commit: &CommitHash, table: &TableName) -> Result<Option<TableEntry>, api::Error> {
    session.catalog().entry(commit, table).map_err(told)
}

fn change(session: &Session<'_>, commit: &Commit, before: Option<&TableEntry>, now: Option<&TableEntry>) -> TableChange {
    // Files of old states may be gone; the commit is still there to tell.
    let info = now.and_then(|entry| session.service.table_info(&entry.metadata_location).ok());
    let snapshot = info.as_ref().and_then(|info| info.snapshot.as_ref());
    let number = |key: &str| snapshot.and_then(|snapshot| snapshot.summary.get(key)?.parse().ok());
    TableChange {
        hash: commit.hash.to_string(),
        authored_date: commit.authored_at.clone(),
        author: commit.author_name.clone(),
        message: commit.message.lines().next().unwrap_or_default().to_owned(),
        change: match (before, now) {
            (_, None) => "deleted",
            (None, Some(_)) => "created",
            (Some(_), Some(_)) => "changed",
        }
        .to_owned(),
        operation: snapshot.map(|snapshot| snapshot.operation.clone()),
        snapshot_id: info.as_ref().and_then(|info| info.snapshot_id),
        records: info.as_ref().and_then(|info| info.records),
        added_records: number("added-records"),
        deleted_records: number("deleted-records"),
        metadata_location: now.map(|entry| entry.metadata_location.clone()),
    }
}
