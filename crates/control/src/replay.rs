//! Commits of changes that may commute. Where another writer was first at the same table, our change is put upon what
//! that writer made (see `lake::replay`, which says when that is right) and the commit is tried again; no row is read or
//! written a second time.
//!
//! Everything else about the commit stays as strict as it was: tables it replaces must not have moved.

use std::collections::BTreeMap;

use forebay_catalog::{Changes, CommitInfo, ConflictReason, TableConflict, TableEntry};
use forebay_types::{BranchName, CommitHash, TableName};

use crate::api;
use crate::limits::APPEND_REPLAYS_MAX;
use crate::service::Session;

/// A table whose new state is one append, overwrite or merge upon another.
pub(crate) struct Append<'a> {
    /// Metadata file before.
    pub(crate) base: String,
    /// What the catalog is to remember of the table, given what it remembers now; `None`: the change does not commute
    /// with what happened.
    pub(crate) remember: Box<dyn Fn(&TableEntry) -> Option<BTreeMap<String, String>> + 'a>,
}

/// Commits `changes`, made looking at `base`. Tables among `appends` may have changed meanwhile.
pub(crate) fn commit(
    session: &Session<'_>,
    branch: &BranchName,
    base: &CommitHash,
    mut changes: Changes,
    info: &CommitInfo,
    appends: &BTreeMap<TableName, Append<'_>>,
) -> Result<CommitHash, api::Error> {
    let appended = changes.put.iter().filter(|(table, _)| appends.contains_key(*table));
    let ours: BTreeMap<TableName, String> =
        appended.map(|(table, entry)| (table.clone(), entry.metadata_location.clone())).collect();
    for _ in 0..APPEND_REPLAYS_MAX {
        let error = match session.catalog().commit(branch, base, &changes, info, None) {
            Ok(hash) => return Ok(hash),
            Err(error) => error,
        };
        let forebay_catalog::Error::Conflict { tables, .. } = &error else { return Err(api::Error::of(&error)) };
        if !replay(session, branch, tables, appends, &ours, &mut changes)? {
            return Err(api::Error::of(&error));
        }
    }
    session.catalog().commit(branch, base, &changes, info, None).map_err(|error| api::Error::of(&error))
}

/// Puts our changes upon the present states of the tables in conflict. `false`: they do not commute.
fn replay(
    session: &Session<'_>,
    branch: &BranchName,
    conflicts: &[TableConflict],
    appends: &BTreeMap<TableName, Append<'_>>,
    ours: &BTreeMap<TableName, String>,
    changes: &mut Changes,
) -> Result<bool, api::Error> {
    let head = session.branch(branch.as_str())?.1;
    let tree = session.catalog().tree(&head.hash).map_err(|error| api::Error::of(&error))?;
    for TableConflict { table, reason } in conflicts {
        let (Some(append), Some(ours), Some(now)) = (appends.get(table), ours.get(table), tree.tables.get(table)) else {
            return Ok(false);
        };
        let Some(properties) = (append.remember)(now).filter(|_| *reason == ConflictReason::Changed) else { return Ok(false) };
        let replayed = forebay_lake::replay(&append.base, ours, &now.metadata_location);
        let replayed = session.service.runtime().block_on(replayed).map_err(|error| api::Error::of(&error))?;
        let Some(metadata_location) = replayed else { return Ok(false) };
        changes.put.insert(table.clone(), TableEntry { metadata_location, properties });
        changes.expect.insert(table.clone(), Some(now.clone()));
    }
    Ok(true)
}
