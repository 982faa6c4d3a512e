//! Applies the changes of a commit to the head of a branch, or says which tables stand against it.
//!
//! What matters is not whether the branch moved, but whether the tables the writer looked at did: changes to other
//! tables commute. Only the namespaces a change touches are read and rewritten.

use crate::change::{Changes, DEFAULT_NAMESPACE, unexpected};
use crate::error::{Error, Result, TableConflict};
use crate::object::TreeObject;
use crate::objects::{Objects, Tables};
use crate::refs::nearest;
use forebay_types::{BranchName, TableName};
use std::collections::BTreeMap;

/// The tree of `head` with `changes`, which a writer made looking at `base`.
pub(crate) fn apply(
    objects: &Objects,
    branch: &BranchName,
    base: &TreeObject,
    head: &TreeObject,
    changes: &Changes,
) -> Result<TreeObject> {
    check_names(changes)?;
    let mut touched: BTreeMap<&str, Tables> = BTreeMap::new();
    let mut conflicts = Vec::new();
    for namespace in changes.namespaces() {
        let now = objects.namespace(head, namespace)?;
        if base.namespaces.get(namespace) == head.namespaces.get(namespace) {
            conflicts.extend(conflicts_in(namespace, &now, &now, changes));
        } else {
            conflicts.extend(conflicts_in(namespace, &*objects.namespace(base, namespace)?, &now, changes));
        }
        touched.insert(namespace, Tables::clone(&now));
    }
    if !conflicts.is_empty() {
        return Err(Error::Conflict { branch: branch.clone(), tables: conflicts });
    }
    check_namespaces(branch, head, changes)?;
    edit_tables(branch, &mut touched, changes)?;
    edit_properties(&mut touched, changes);

    let mut tree = head.clone();
    for (namespace, tables) in &touched {
        let deleted = changes.delete_namespaces.contains(*namespace);
        if deleted && !tables.is_empty() {
            let tables = tables.keys().map(|name| table_name(namespace, name)).collect();
            return Err(Error::NamespaceNotEmpty { namespace: (*namespace).to_owned(), tables });
        }
        let wanted = head.namespaces.contains_key(*namespace)
            || changes.create_namespaces.contains(*namespace)
            || !tables.is_empty()
            || !tables.properties.is_empty();
        objects.set_namespace(&mut tree, namespace, (wanted && !deleted).then_some(tables))?;
    }
    Ok(tree)
}

/// Tables of `namespace` that are not what the writer expected.
fn conflicts_in(namespace: &str, base: &Tables, now: &Tables, changes: &Changes) -> Vec<TableConflict> {
    let tables = changes.tables().into_iter().filter(|table| table.namespace() == namespace);
    let compare = |table: &TableName| {
        let expected = match changes.expect.get(table) {
            Some(stated) => stated.as_ref(),
            None => base.get(table.name()),
        };
        unexpected(table, expected, now.get(table.name()))
    };
    tables.filter_map(compare).collect()
}

fn check_names(changes: &Changes) -> Result<()> {
    for namespace in &changes.create_namespaces {
        TableName::new(namespace, "t")?;
    }
    if changes.delete_namespaces.contains(DEFAULT_NAMESPACE) {
        return Err(Error::Protected { verb: "delete", what: "namespace", name: DEFAULT_NAMESPACE.to_owned() });
    }
    Ok(())
}

fn check_namespaces(branch: &BranchName, head: &TreeObject, changes: &Changes) -> Result<()> {
    let exists = |namespace: &str| namespace == DEFAULT_NAMESPACE || head.namespaces.contains_key(namespace);
    let made = |namespace: &String| {
        changes.create_namespaces.contains(namespace) || changes.put.keys().any(|table| table.namespace() == namespace)
    };
    let described = changes.namespace_properties.keys().filter(|name| !made(name));
    if let Some(name) = changes.create_namespaces.iter().find(|name| exists(name)) {
        return Err(Error::Exists { what: "namespace", name: name.clone(), existing: "namespace" });
    }
    if let Some(name) = changes.delete_namespaces.iter().chain(described).find(|name| !exists(name)) {
        let nearest = nearest(name, head.namespaces.keys().cloned());
        return Err(Error::Unknown { what: "namespace", name: name.clone(), at: branch.to_string(), nearest });
    }
    Ok(())
}

fn edit_tables(branch: &BranchName, touched: &mut BTreeMap<&str, Tables>, changes: &Changes) -> Result<()> {
    for table in &changes.delete {
        let tables = touched.get_mut(table.namespace()).expect("every namespace of the change is loaded");
        if tables.remove(table.name()).is_none() {
            let nearest = nearest(table.name(), tables.keys().cloned());
            return Err(Error::Unknown { what: "table", name: table.to_string(), at: branch.to_string(), nearest });
        }
    }
    for (table, entry) in &changes.put {
        let tables = touched.get_mut(table.namespace()).expect("every namespace of the change is loaded");
        tables.insert(table.name().to_owned(), entry.clone());
    }
    Ok(())
}

/// Properties are set one by one, so that writers of different ones do not stand in each other's way.
fn edit_properties(touched: &mut BTreeMap<&str, Tables>, changes: &Changes) {
    for (namespace, edits) in &changes.namespace_properties {
        let properties = &mut touched.get_mut(namespace.as_str()).expect("every namespace of the change is loaded").properties;
        for (key, value) in edits {
            match value {
                Some(value) => properties.insert(key.clone(), value.clone()),
                None => properties.remove(key),
            };
        }
    }
}

fn table_name(namespace: &str, name: &str) -> TableName {
    TableName::new(namespace, name).expect("names were checked when the namespace was read")
}
