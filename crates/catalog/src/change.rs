//! Trees, changes to them, and differences between them. Pure; a tree in memory is one namespace or the whole lake.

use crate::error::{ConflictReason, TableConflict};
use forebay_types::TableName;
use std::collections::{BTreeMap, BTreeSet};

/// The namespace every tree has.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Where a table's current metadata lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct TableEntry {
    /// URI of the Iceberg metadata file; a new one with each change of the table.
    pub metadata_location: String,
    /// Anything else the catalog should remember.
    pub properties: BTreeMap<String, String>,
}

impl TableEntry {
    /// An entry without properties.
    pub fn new(metadata_location: impl Into<String>) -> Self {
        Self { metadata_location: metadata_location.into(), properties: BTreeMap::new() }
    }
}

/// All tables of the lake at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Namespaces, among them those without tables and always [`DEFAULT_NAMESPACE`].
    pub namespaces: BTreeSet<String>,
    /// Tables.
    pub tables: BTreeMap<TableName, TableEntry>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { namespaces: BTreeSet::from([DEFAULT_NAMESPACE.to_owned()]), tables: BTreeMap::new() }
    }
}

/// What a commit does. Deletions come first, so a table may be deleted and its namespace with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Tables to create or replace; missing namespaces are created.
    pub put: BTreeMap<TableName, TableEntry>,
    /// Tables to delete.
    pub delete: BTreeSet<TableName>,
    /// Namespaces to create; one that exists is an error.
    pub create_namespaces: BTreeSet<String>,
    /// Namespaces to delete; they must be empty after the other changes.
    pub delete_namespaces: BTreeSet<String>,
    /// Properties of namespaces to set, or (`None`) to take away. The namespaces must be there after the other changes.
    pub namespace_properties: BTreeMap<String, BTreeMap<String, Option<String>>>,
    /// What the writer based its work on (`None`: the table was not there). A different state of the branch is a
    /// conflict. For changed tables without an entry here, it is their state in the commit the writer saw.
    pub expect: BTreeMap<TableName, Option<TableEntry>>,
}

impl Changes {
    /// The namespaces this touches.
    pub(crate) fn namespaces(&self) -> BTreeSet<&str> {
        let tables = self.put.keys().chain(&self.delete).chain(self.expect.keys()).map(TableName::namespace);
        let named = self.create_namespaces.iter().chain(&self.delete_namespaces).chain(self.namespace_properties.keys());
        let named = named.map(String::as_str);
        tables.chain(named).collect()
    }

    /// Tables whose state matters.
    pub(crate) fn tables(&self) -> BTreeSet<&TableName> {
        self.put.keys().chain(&self.delete).chain(self.expect.keys()).collect()
    }
}

/// A table that differs between two states of the lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: TableName,
    /// In the first; `None`: not there.
    pub before: Option<TableEntry>,
    /// In the second; `None`: not there.
    pub after: Option<TableEntry>,
}

/// Names of the tables in which two states of the lake differ.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Only in the second.
    pub added: BTreeSet<TableName>,
    /// Only in the first.
    pub removed: BTreeSet<TableName>,
    /// In both, with different metadata.
    pub changed: BTreeSet<TableName>,
}

impl Diff {
    /// What leads from `a` to `b`.
    #[must_use]
    pub fn between(a: &Tree, b: &Tree) -> Self {
        let mut diff = Self::default();
        for table in a.tables.keys().chain(b.tables.keys()) {
            let set = match (a.tables.get(table), b.tables.get(table)) {
                (None, _) => &mut diff.added,
                (_, None) => &mut diff.removed,
                (Some(old), Some(new)) if old != new => &mut diff.changed,
                _ => continue,
            };
            set.insert(table.clone());
        }
        diff
    }
}

/// How a table differs from what a writer expected, if it does.
pub(crate) fn unexpected(table: &TableName, expected: Option<&TableEntry>, now: Option<&TableEntry>) -> Option<TableConflict> {
    let reason = match (expected, now) {
        (expected, now) if expected == now => return None,
        (None, _) => ConflictReason::Created,
        (_, None) => ConflictReason::Deleted,
        _ => ConflictReason::Changed,
    };
    Some(TableConflict { table: table.clone(), reason })
}
