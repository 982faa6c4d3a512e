//! The three-way merge of trees, table by table.
//!
//! A table takes the value of the side that changed it; both changing it to different values is a conflict. Namespaces
//! whose objects are equal on two sides are merged without being read.

use crate::change::{DEFAULT_NAMESPACE, TableEntry};
use crate::error::{ConflictReason, Result, TableConflict};
use crate::object::TreeObject;
use crate::objects::{Objects, Tables};
use forebay_types::TableName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A merged tree, or the tables that stand against it.
pub(crate) type Outcome = std::result::Result<TreeObject, Vec<TableConflict>>;

/// Merges `source` into `target`. With several bases (histories merged crosswise) each must lead to the same result.
pub(crate) fn trees(objects: &Objects, bases: &[Arc<TreeObject>], target: &TreeObject, source: &TreeObject) -> Result<Outcome> {
    let mut merged: Option<TreeObject> = None;
    for base in bases {
        let next = match three_way(objects, [base, target, source], Kept::AsMerged)? {
            Ok(tree) => tree,
            Err(conflicts) => return Ok(Err(conflicts)),
        };
        merged = Some(match merged {
            Some(before) if before != next => match agreement(objects, &before, &next)? {
                Ok(tree) => tree,
                Err(conflicts) => return Ok(Err(conflicts)),
            },
            _ => next,
        });
    }
    Ok(Ok(merged.unwrap_or_else(|| target.clone())))
}

/// Undoes on `target` what led from `before` to `after`. A table that is no longer as in `after` is a conflict.
pub(crate) fn undo(objects: &Objects, before: &TreeObject, after: &TreeObject, target: &TreeObject) -> Result<Outcome> {
    let since = |conflict: TableConflict| {
        let reason = match conflict.reason {
            ConflictReason::CreatedOnBoth => ConflictReason::CreatedSince,
            ConflictReason::DeletedAndChanged => ConflictReason::DeletedSince,
            _ => ConflictReason::ChangedSince,
        };
        TableConflict { reason, ..conflict }
    };
    let outcome = three_way(objects, [after, target, before], Kept::WhileUsed)?;
    Ok(outcome.map_err(|conflicts| conflicts.into_iter().map(since).collect()))
}

/// What becomes of a namespace that one side deleted and the other put tables into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Its tables are conflicts.
    AsMerged,
    /// It stays.
    WhileUsed,
}

fn three_way(objects: &Objects, [base, target, source]: [&TreeObject; 3], kept: Kept) -> Result<Outcome> {
    let mut merged = TreeObject::default();
    let mut conflicts = Vec::new();
    for namespace in names(&[base, target, source]) {
        let [b, t, s] = [base, target, source].map(|tree| tree.namespaces.get(namespace));
        let quick = if t == s || b == s {
            Some(t)
        } else if b == t {
            Some(s)
        } else {
            None
        };
        if let Some(unread) = quick {
            merged.namespaces.extend(unread.map(|hash| (namespace.to_owned(), hash.clone())));
            continue;
        }
        let b = objects.namespace(base, namespace)?;
        let t = objects.namespace(target, namespace)?;
        let s = objects.namespace(source, namespace)?;
        let present = [base, target, source].map(|tree| has(tree, namespace));
        let mut tables = merge_tables(namespace, [&b, &t, &s], &mut conflicts);
        tables.properties = merge_properties([&b, &t, &s], kept);
        let stays = one_of(present[0], present[1], present[2]) || (kept == Kept::WhileUsed && !tables.is_empty());
        if !stays {
            conflicts.extend(tables.keys().map(|name| conflict(namespace, name, ConflictReason::NamespaceDeleted)));
        }
        objects.set_namespace(&mut merged, namespace, stays.then_some(&tables))?;
    }
    Ok(if conflicts.is_empty() { Ok(merged) } else { Err(conflicts) })
}

/// The merge of a value that has only two: there can be no conflict.
fn one_of(base: bool, target: bool, source: bool) -> bool {
    if base == target { source } else { target }
}

fn merge_tables(namespace: &str, [base, target, source]: [&Tables; 3], conflicts: &mut Vec<TableConflict>) -> Tables {
    let mut merged = Tables::default();
    let names: BTreeSet<&String> = target.keys().chain(source.keys()).collect();
    for name in names {
        let [b, t, s] = [base.get(name), target.get(name), source.get(name)];
        if t == s || b == s {
            merged.extend(t.map(|entry| (name.clone(), entry.clone())));
        } else if b == t {
            merged.extend(s.map(|entry| (name.clone(), entry.clone())));
        } else {
            conflicts.push(conflict(namespace, name, reason(b, t, s)));
        }
    }
    merged
}

/// Properties of a namespace, one by one. One that both sides changed is no conflict: a merge takes what is merged, and an undoing
/// leaves what came since.
fn merge_properties([base, target, source]: [&Tables; 3], kept: Kept) -> BTreeMap<String, String> {
    let names: BTreeSet<&String> = target.properties.keys().chain(source.properties.keys()).collect();
    let value = |name: &String| {
        let [b, t, s] = [base, target, source].map(|tables| tables.properties.get(name));
        let stays = b == s || (b != t && kept == Kept::WhileUsed);
        if stays { t } else { s }
    };
    names.into_iter().filter_map(|name| Some((name.clone(), value(name)?.clone()))).collect()
}

fn reason(base: Option<&TableEntry>, target: Option<&TableEntry>, source: Option<&TableEntry>) -> ConflictReason {
    match (base, target, source) {
        (None, ..) => ConflictReason::CreatedOnBoth,
        (_, None, _) => ConflictReason::DeletedAndChanged,
        (_, _, None) => ConflictReason::ChangedAndDeleted,
        _ => ConflictReason::ChangedOnBoth,
    }
}

fn conflict(namespace: &str, name: &str, reason: ConflictReason) -> TableConflict {
    let table = TableName::new(namespace, name).expect("names were checked when the namespace was read");
    TableConflict { table, reason }
}

fn has(tree: &TreeObject, namespace: &str) -> bool {
    namespace == DEFAULT_NAMESPACE || tree.namespaces.contains_key(namespace)
}

fn names<'t>(trees: &[&'t TreeObject]) -> BTreeSet<&'t str> {
    trees.iter().flat_map(|tree| tree.namespaces.keys()).map(String::as_str).collect()
}

/// Two merges of the same trees from different bases: they may differ in namespaces without tables, which are kept.
fn agreement(objects: &Objects, a: &TreeObject, b: &TreeObject) -> Result<Outcome> {
    let mut both = a.clone();
    let mut conflicts = Vec::new();
    for namespace in names(&[a, b]) {
        if a.namespaces.get(namespace) == b.namespaces.get(namespace) {
            continue;
        }
        let [left, right] = [objects.namespace(a, namespace)?, objects.namespace(b, namespace)?];
        let differing = left.keys().chain(right.keys()).filter(|name| left.get(*name) != right.get(*name));
        let differing: BTreeSet<&String> = differing.collect();
        conflicts.extend(differing.into_iter().map(|name| conflict(namespace, name, ConflictReason::SeveralBases)));
        both.namespaces.extend(b.namespaces.get(namespace).map(|hash| (namespace.to_owned(), hash.clone())));
    }
    Ok(if conflicts.is_empty() { Ok(both) } else { Err(conflicts) })
}
