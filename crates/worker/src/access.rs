//! What the process of each node may use of the host. Our own functions get the tables of the lake, as far as they need them.

use std::path::{Path, PathBuf};

use forebay_plan::physical::{Node, Work};
use forebay_runtime::Access;
use forebay_sipc::call;

use crate::{Compact, Execution, Import, Query, Storage};

/// For a node of a plan, which may spill into `spill` if it is a SQL model.
pub fn node(node: &Node, execution: &Execution, spill: Option<&Path>) -> Access {
    let tables = path(&execution.tables_root);
    if locations(node, execution).any(is_remote) {
        return remote(local(node, execution, None), &execution.storage);
    }
    let write = spill.filter(|_| matches!(node.work, Work::Sql(_))).map(Path::to_owned);
    let access = local(node, execution, Some(tables));
    Access { write: access.write.into_iter().chain(write).collect(), ..access }
}

/// Where a node of ours reads and writes tables.
fn locations<'a>(node: &'a Node, execution: &'a Execution) -> impl Iterator<Item = &'a str> {
    let (first, second, others) = match &node.work {
        Work::Scan(scan) => (Some(scan.metadata_location.as_str()), None, execution.external_roots.as_slice()),
        Work::Write(write) => (Some(execution.tables_root.as_str()), write.base.as_deref(), [].as_slice()),
        Work::Python(_) | Work::Sql(_) => (None, None, [].as_slice()),
    };
    first.into_iter().chain(second).chain(others.iter().map(String::as_str))
}

/// How a node of ours reaches object stores, if it has to. User code is never told.
pub fn storage(node: &Node, execution: &Execution) -> call::Storage {
    if locations(node, execution).any(is_remote) { execution.storage.options.clone() } else { call::Storage::default() }
}

/// The same for an import.
pub fn import_storage(import: &Import) -> call::Storage {
    let far = import.files.iter().chain([&import.base]).any(|file| is_remote(file));
    if far { import.storage.options.clone() } else { call::Storage::default() }
}

/// For a compaction.
pub fn compact(compact: &Compact) -> Access {
    let access = Access { write: table(&compact.base).into_iter().collect(), ..Access::default() };
    if is_remote(&compact.base) { remote(access, &compact.storage) } else { access }
}

/// How a compaction reaches object stores.
pub fn compact_storage(compact: &Compact) -> call::Storage {
    if is_remote(&compact.base) { compact.storage.options.clone() } else { call::Storage::default() }
}

/// Whether a location is in an object store.
fn is_remote(location: &str) -> bool {
    location.contains("://") && !location.starts_with("file://")
}

/// With the network, and the files that credentials are in.
fn remote(access: Access, storage: &Storage) -> Access {
    Access { internet: true, read: access.read.into_iter().chain(storage.files.iter().cloned()).collect(), ..access }
}

/// On the local disk. `tables` is where new tables are made there.
fn local(node: &Node, execution: &Execution, tables: Option<PathBuf>) -> Access {
    match &node.work {
        Work::Python(python) => Access { internet: python.internet_access, ..Access::default() },
        Work::Sql(_) => Access::default(),
        Work::Scan(scan) => {
            // A table of a lake elsewhere may still name files of this disk.
            let tables = tables.or_else(|| local_root(execution));
            let own = tables.into_iter().chain(table(&scan.metadata_location));
            Access { read: own.chain(near(&execution.external_roots)).collect(), ..Access::default() }
        }
        Work::Write(write) => {
            let tables = tables.or_else(|| local_root(execution));
            // The first table makes the folder, which must be there to be let in. What fails here is told by the write.
            let _ = tables.as_ref().map(std::fs::create_dir_all);
            let base = write.base.as_deref().and_then(table);
            Access { write: tables.into_iter().chain(base).collect(), ..Access::default() }
        }
    }
}

/// For a query, which may spill into `spill`.
pub fn query(query: &Query, spill: &Path) -> Access {
    let tables = query.tables.iter().filter_map(|one| table(&one.metadata_location));
    let root = (!is_remote(&query.tables_root)).then(|| path(&query.tables_root));
    let read = root.into_iter().chain(tables).chain(near(&query.external_roots)).collect();
    let access = Access { read, write: vec![spill.to_owned()], internet: false };
    if reaches_out(query) { remote(access, &query.storage) } else { access }
}

/// How a query reaches object stores.
pub fn query_storage(query: &Query) -> call::Storage {
    if reaches_out(query) { query.storage.options.clone() } else { call::Storage::default() }
}

fn reaches_out(query: &Query) -> bool {
    let tables = query.tables.iter().map(|one| &one.metadata_location);
    tables.chain([&query.tables_root]).chain(&query.external_roots).any(|location| is_remote(location))
}

/// Those of these places that are on this disk, and there.
fn near(roots: &[String]) -> impl Iterator<Item = PathBuf> {
    roots.iter().filter(|root| !is_remote(root)).map(|root| path(root)).filter(|path| path.exists())
}

/// For an import.
pub fn import(import: &Import) -> Access {
    let access = Access {
        read: import.files.iter().filter(|file| !is_remote(file)).map(|file| path(file)).collect(),
        write: table(&import.base).into_iter().collect(),
        internet: false,
    };
    if import.files.iter().chain([&import.base]).any(|file| is_remote(file)) { remote(access, &import.storage) } else { access }
}

/// The folder of the lake's tables, if it is on this disk.
fn local_root(execution: &Execution) -> Option<PathBuf> {
    (!is_remote(&execution.tables_root)).then(|| path(&execution.tables_root))
}

/// A path or `file://` URI as a path.
fn path(uri: &str) -> PathBuf {
    PathBuf::from(uri.strip_prefix("file://").unwrap_or(uri))
}

/// The folder of a table, by its metadata file: `<table>/metadata/<file>`.
fn table(metadata_location: &str) -> Option<PathBuf> {
    if is_remote(metadata_location) {
        return None;
    }
    let folder = path(metadata_location).parent().and_then(Path::parent).map(Path::to_owned);
    folder.filter(|folder| folder.parent().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_tables() {
        assert_eq!(table("file:///lake/tables/n/t-1/metadata/v1.json"), Some("/lake/tables/n/t-1".into()));
        assert_eq!(table("s3://bucket/tables/n/t-1/metadata/v1.json"), None);
        assert_eq!(table("/nowhere.json"), None);
        assert_eq!(table("/metadata/nowhere.json"), None, "never the root");
    }
}
