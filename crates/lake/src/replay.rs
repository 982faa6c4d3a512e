//! Putting a change upon what another writer made of the table meanwhile, where that gives what doing both one after
//! the other would have given. The data files stay as they are; only metadata is written anew.
//!
//! ```text
//! ours        commutes if, beside one table with one schema, partitioning and order,
//! append      always
//! overwrite   the files we dropped are still there, and no file that came can match the filter
//! merge       the files we dropped are still there, and no file that came has a key of the rows we touched;
//!             if a row was to delete a key that was not there: only if no file came at all
//! replace     never
//! ```
//!
//! What a snapshot was made by, its summary tells: see [`overwrite_told`] and [`merge_told`].

use std::collections::{HashMap, HashSet};

use iceberg::spec::{DataFile, Operation};

use crate::commit::{Change, Drop, Staged};
use crate::error::{Error, Result};
use crate::merge;
use crate::predicate::Filter;
use crate::statistics;
use crate::table::{LiveFile, LiveFiles, Table, live_paths};

/// The filter of an overwrite.
const FILTER: &str = "forebay.overwrite-filter";
/// The key columns of a merge, as a JSON list.
const KEYS: &str = "forebay.merge-keys";
/// Whether a merge was to delete a key that was not there.
const IDLE_DELETES: &str = "forebay.merge-idle-deletes";

/// What the summary of an overwrite's snapshot tells.
pub(crate) fn overwrite_told(filter: &str) -> Vec<(String, String)> {
    vec![(FILTER.to_owned(), filter.to_owned())]
}

/// What the summary of a merge's snapshot tells.
pub(crate) fn merge_told(keys: &[String], idle_deletes: bool) -> Vec<(String, String)> {
    let keys = serde_json::Value::from(keys.to_vec()).to_string();
    vec![(KEYS.to_owned(), keys), (IDLE_DELETES.to_owned(), idle_deletes.to_string())]
}

/// Does to the table at `onto` what led from `base` to `ours`. Returns the new metadata file, or `None` if it does not
/// commute: then the rows have to be written again.
///
/// # Errors
/// If a metadata file is missing or damaged, or the disk refuses.
pub async fn replay(base: &str, ours: &str, onto: &str) -> Result<Option<String>> {
    let (base, ours, onto) = (Table::open(base).await?, Table::open(ours).await?, Table::open(onto).await?);
    let Some(kind) = kind(&base, &ours).filter(|_| same_shape(&base, &ours, &onto)) else { return Ok(None) };
    onto.check_writable()?;
    let (before, after, now) = (live(&base).await?, live(&ours).await?, live(&onto).await?);
    let [old, new, theirs] = [&before, &after, &now].map(live_paths);
    let dropped: HashSet<String> = old.difference(&new).cloned().collect();
    let came = |files: &[LiveFile]| files.iter().filter(|live| !old.contains(live.file.file_path())).cloned().collect();
    let (came, deletes): (Vec<LiveFile>, Vec<LiveFile>) = (came(&now.data), came(&now.deletes));
    if !dropped.is_subset(&theirs) || (!dropped.is_empty() && !deletes.is_empty()) {
        return Ok(None);
    }
    let added: Vec<LiveFile> = after.data.into_iter().filter(|live| !old.contains(live.file.file_path())).collect();
    let met = match &kind {
        Kind::Append => false,
        Kind::Overwrite { filter } => may_match(&onto, &came, filter)?,
        Kind::Merge { idle_deletes: true, .. } => !came.is_empty(),
        Kind::Merge { keys, .. } => {
            let touched = before.data.into_iter().filter(|live| dropped.contains(live.file.file_path()));
            let ours_files = added.iter().cloned().chain(touched).collect();
            merge::share_keys((&ours, ours_files), (&onto, LiveFiles { data: came, deletes: now.deletes }), keys).await?
        }
    };
    if met {
        return Ok(None);
    }
    let summary = ours.metadata.current_snapshot().map(|snapshot| snapshot.summary().clone());
    let Some(summary) = summary else { return Ok(None) };
    let told = [FILTER, KEYS, IDLE_DELETES].iter().filter_map(|key| {
        let value = summary.additional_properties.get(*key)?;
        Some(((*key).to_owned(), value.clone()))
    });
    let change = Change {
        added: added.into_iter().map(|live| live.file).collect::<Vec<DataFile>>(),
        dropped: if dropped.is_empty() { Drop::Nothing } else { Drop::Paths(dropped) },
        operation: summary.operation,
        told: told.collect(),
    };
    let builder = onto.metadata.clone().into_builder(Some(onto.location.clone()));
    let builder = builder.upgrade_format_version(iceberg::spec::FormatVersion::V2);
    let builder = builder.map_err(Error::internal("change the table metadata"))?;
    Staged::new(builder, Some(onto))?.commit(change).await.map(Some)
}

/// What a change did.
enum Kind {
    Append,
    Overwrite { filter: String },
    Merge { keys: Vec<String>, idle_deletes: bool },
}

/// What led from `base` to `ours`, if it was one change of ours that can commute.
fn kind(base: &Table, ours: &Table) -> Option<Kind> {
    let snapshot = ours.metadata.current_snapshot()?;
    if snapshot.parent_snapshot_id() != base.metadata.current_snapshot_id() {
        return None;
    }
    let summary = snapshot.summary();
    let told: &HashMap<String, String> = &summary.additional_properties;
    if let Some(keys) = told.get(KEYS) {
        let idle_deletes = told.get(IDLE_DELETES).is_none_or(|text| text != "false");
        return Some(Kind::Merge { keys: serde_json::from_str(keys).ok()?, idle_deletes });
    }
    match (told.get(FILTER), &summary.operation) {
        (Some(filter), _) => Some(Kind::Overwrite { filter: filter.clone() }),
        (None, Operation::Append) => Some(Kind::Append),
        _ => None,
    }
}

fn same_shape(base: &Table, ours: &Table, onto: &Table) -> bool {
    let [b, o, n] = [base, ours, onto].map(|table| &table.metadata);
    b.uuid() == o.uuid()
        && o.uuid() == n.uuid()
        && o.current_schema().as_struct() == n.current_schema().as_struct()
        && o.default_partition_spec() == n.default_partition_spec()
        && o.default_sort_order() == n.default_sort_order()
        && ours.notes == onto.notes
}

async fn live(table: &Table) -> Result<LiveFiles> {
    match table.metadata.current_snapshot() {
        Some(snapshot) => table.live_files(snapshot).await,
        None => Ok(LiveFiles::default()),
    }
}

/// Whether a row that came may match the filter of an overwrite.
fn may_match(onto: &Table, came: &[LiveFile], filter: &str) -> Result<bool> {
    let schema = onto.metadata.current_schema();
    let clean = onto.clean_schema(schema);
    let filter = Filter::parse(filter, &clean)?;
    let containers = statistics::of_files(came, &onto.metadata, schema, &clean, filter.columns());
    Ok(filter.may_match(&containers).contains(&true))
}
