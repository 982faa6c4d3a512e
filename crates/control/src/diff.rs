//! `branch.diff`: which tables differ between two refs, and in what. From metadata alone; no data file is opened.

use std::collections::HashMap;

use forebay_catalog::{Difference, TableEntry};
use forebay_lake::{ColumnFacts, FieldInfo, TableFacts, TableInfo};
use forebay_types::TableName;

use crate::api::{self, ColumnDiff, ColumnSide, Diff, TableDiff, TableSide};
use crate::connection::Answer;
use crate::service::Session;

/// Answers the request.
pub(crate) fn answer(
    session: &Session<'_>,
    [a, b]: [&str; 2],
    namespace: Option<&str>,
    names_only: bool,
) -> Result<Answer, api::Error> {
    let told = |error: forebay_catalog::Error| api::Error::of(&error);
    let (a, b) = (session.resolve(a)?.hash, session.resolve(b)?.hash);
    let catalog = session.catalog();
    let wanted = |name: &str| namespace.is_none_or(|namespace| name == namespace);
    let [old, new] = [catalog.namespaces(&a).map_err(told)?, catalog.namespaces(&b).map_err(told)?];
    let only = |here: &std::collections::BTreeSet<String>, there: &std::collections::BTreeSet<String>| {
        here.difference(there).filter(|name| wanted(name)).cloned().collect::<Vec<_>>()
    };
    let mut diff = Diff { added_namespaces: only(&new, &old), removed_namespaces: only(&old, &new), ..Diff::default() };
    let mut found = catalog.differences(&a, &b).map_err(told)?;
    found.retain(|difference| wanted(difference.table.namespace()));
    for Difference { table, before, after } in found {
        let names = match (&before, &after) {
            (None, _) => &mut diff.added,
            (_, None) => &mut diff.removed,
            _ => &mut diff.changed,
        };
        names.push(table.to_string());
        if !names_only {
            diff.tables.push(table_diff(session, &table, before.as_ref(), after.as_ref())?);
        }
    }
    Answer::of(diff)
}

/// One side, read from its metadata.
struct Side {
    info: std::sync::Arc<TableInfo>,
    facts: TableFacts,
}

impl Side {
    fn read(session: &Session<'_>, entry: &TableEntry) -> Result<Self, api::Error> {
        let info = session.service.table_info(&entry.metadata_location)?;
        let facts = session.service.runtime().block_on(forebay_lake::facts(&entry.metadata_location));
        Ok(Self { info, facts: facts.map_err(|error| api::Error::of(&error))? })
    }

    fn wire(&self) -> TableSide {
        TableSide {
            records: self.info.records,
            files: self.facts.files,
            size: self.info.file_bytes,
            partitions: self.info.partition_by.iter().map(ToString::to_string).collect(),
            snapshot_id: self.info.snapshot_id,
            metadata_location: self.info.metadata_location.clone(),
            comment: self.info.comment.clone(),
        }
    }

    fn column(&self, field: &FieldInfo) -> ColumnSide {
        let facts = self.facts.columns.iter().find(|column| column.id == field.id);
        let of = |pick: fn(&ColumnFacts) -> Option<String>| facts.and_then(pick);
        ColumnSide {
            name: field.name.clone(),
            kind: field.type_name.clone(),
            required: field.required,
            doc: field.doc.clone(),
            nulls: facts.and_then(|column| column.nulls),
            lower: of(|column| column.lower.clone()),
            upper: of(|column| column.upper.clone()),
        }
    }
}

fn table_diff(
    session: &Session<'_>,
    table: &TableName,
    before: Option<&TableEntry>,
    after: Option<&TableEntry>,
) -> Result<TableDiff, api::Error> {
    let read = |entry: &TableEntry| Side::read(session, entry);
    let (before, after) = (before.map(read).transpose()?, after.map(read).transpose()?);
    Ok(TableDiff {
        table: table.to_string(),
        change: change(before.is_some(), after.is_some()).to_owned(),
        columns: columns(before.as_ref(), after.as_ref()),
        before: before.as_ref().map(Side::wire),
        after: after.as_ref().map(Side::wire),
    })
}

fn change(before: bool, after: bool) -> &'static str {
    match (before, after) {
        (false, _) => "added",
        (_, false) => "removed",
        _ => "changed",
    }
}

/// The columns that differ. A column is known again by its id while the table is the same one, else by its name.
fn columns(before: Option<&Side>, after: Option<&Side>) -> Vec<ColumnDiff> {
    let same_table = matches!((before, after), (Some(a), Some(b)) if a.info.uuid == b.info.uuid);
    let key = |field: &FieldInfo| if same_table { field.id.to_string() } else { field.name.clone() };
    let sides = |side: Option<&Side>| -> Vec<(String, ColumnSide)> {
        let of = |side: &Side| side.info.fields.iter().map(|field| (key(field), side.column(field))).collect();
        side.map(of).unwrap_or_default()
    };
    let (old, new) = (sides(before), sides(after));
    let mut gone: HashMap<&str, &ColumnSide> = old.iter().map(|(key, side)| (key.as_str(), side)).collect();
    let mut found = Vec::new();
    for (key, after) in &new {
        let before = gone.remove(key.as_str());
        if before != Some(after) {
            let change = change(before.is_some(), true).to_owned();
            found.push(ColumnDiff { name: after.name.clone(), change, before: before.cloned(), after: Some(after.clone()) });
        }
    }
    for (_, before) in old.iter().filter(|(key, _)| gone.contains_key(key.as_str())) {
        found.push(ColumnDiff {
            name: before.name.clone(),
            change: "removed".to_owned(),
            before: Some(before.clone()),
            after: None,
        });
    }
    found
}
