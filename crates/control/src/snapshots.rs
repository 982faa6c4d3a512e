//! What the planner must know of the lake, as a value: the tables a plan names, at one commit.

use std::collections::{BTreeMap, HashMap};

use forebay_catalog::Tree;
use forebay_lake::TableInfo;
use forebay_plan::{LogicalPlan, Snapshot, TableState};
use forebay_types::CommitHash;

use crate::api;
use crate::service::Session;

/// The state of every table that `plan` names and that exists: at `commit`, or at the `ref` of the input.
pub(crate) fn take(session: &Session<'_>, plan: &LogicalPlan, commit: &CommitHash) -> Result<Snapshot, api::Error> {
    let tree = |at: &CommitHash| session.catalog().tree(at).map_err(|error| api::Error::of(&error));
    let mut trees: HashMap<Option<String>, Tree> = HashMap::from([(None, tree(commit)?)]);
    let mut tables = BTreeMap::new();
    for (table, reference) in plan.lake_tables() {
        if let Some(at) = &reference
            && !trees.contains_key(&reference)
        {
            trees.insert(reference.clone(), tree(&session.resolve(at)?.hash)?);
        }
        if let Some(entry) = trees[&reference].tables.get(&table) {
            let info = session.service.table_info(&entry.metadata_location)?;
            tables.insert((table, reference), state(&info));
        }
    }
    let names = trees[&None].tables.keys().cloned().collect();
    Ok(Snapshot { commit: commit.clone(), names, tables })
}

fn state(info: &TableInfo) -> TableState {
    TableState {
        metadata_location: info.metadata_location.clone(),
        snapshot_id: info.snapshot_id,
        schema: info.arrow_schema.clone(),
        partition_by: info.partition_by.clone(),
        rows: info.records,
        bytes: info.file_bytes,
    }
}
