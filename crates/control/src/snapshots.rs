//! What the planner must know of the lake, as a value: the tables a plan names, at one commit.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use forebay_catalog::Tree;
use forebay_lake::TableInfo;
use forebay_plan::{LogicalPlan, Snapshot, TableState};
use forebay_types::CommitHash;

use crate::api;
use crate::service::Session;
use crate::tables;

/// What a plan is made from.
pub(crate) struct Taken {
    pub(crate) snapshot: Snapshot,
    /// Where the files of external tables are.
    pub(crate) external_roots: Vec<String>,
}

/// The state of every table that `plan` names and that exists: at `commit`, or at the `ref` of the input.
pub(crate) fn take(session: &Session<'_>, plan: &LogicalPlan, commit: &CommitHash) -> Result<Taken, api::Error> {
    let tree = |at: &CommitHash| session.catalog().tree(at).map_err(|error| api::Error::of(&error));
    let mut trees: HashMap<Option<String>, Tree> = HashMap::from([(None, tree(commit)?)]);
    let mut states = BTreeMap::new();
    let mut external_roots = BTreeSet::new();
    for (table, reference) in plan.lake_tables() {
        if let Some(at) = &reference
            && !trees.contains_key(&reference)
        {
            trees.insert(reference.clone(), tree(&session.resolve(at)?.hash)?);
        }
        if let Some(entry) = trees[&reference].tables.get(&table) {
            let info = session.service.table_info(&entry.metadata_location)?;
            states.insert((table, reference), state(&info));
            external_roots.extend(tables::external_roots(entry));
        }
    }
    let names = trees[&None].tables.keys().cloned().collect();
    let snapshot = Snapshot { commit: commit.clone(), names, tables: states };
    Ok(Taken { snapshot, external_roots: external_roots.into_iter().collect() })
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
