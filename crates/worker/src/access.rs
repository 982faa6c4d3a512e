//! What the process of each node may use of the host. Our own functions get the tables of the lake, as far as they need them.

use std::path::{Path, PathBuf};

use forebay_plan::physical::{Node, Work};
use forebay_runtime::Access;

use crate::{Execution, Import, Query};

/// For a node of a plan.
pub fn node(node: &Node, execution: &Execution) -> Access {
    let tables = path(&execution.tables_root);
    match &node.work {
        Work::Python(python) => Access { internet: python.internet_access, ..Access::default() },
        Work::Sql(_) => Access::default(),
        Work::Scan(scan) => {
            Access { read: [Some(tables), table(&scan.metadata_location)].into_iter().flatten().collect(), ..Access::default() }
        }
        Work::Write(write) => {
            // The first table makes the folder, which must be there to be let in. What fails here is told by the write.
            let _ = std::fs::create_dir_all(&tables);
            let base = write.base.as_deref().and_then(table);
            Access { write: std::iter::once(tables).chain(base).collect(), ..Access::default() }
        }
    }
}

/// For a query, which may spill into `spill`.
pub fn query(query: &Query, spill: &Path) -> Access {
    let tables = query.tables.iter().filter_map(|one| table(&one.metadata_location));
    Access {
        read: std::iter::once(path(&query.tables_root)).chain(tables).collect(),
        write: vec![spill.to_owned()],
        internet: false,
    }
}

/// For an import.
pub fn import(import: &Import) -> Access {
    Access {
        read: import.files.iter().map(|file| path(file)).collect(),
        write: table(&import.base).into_iter().collect(),
        internet: false,
    }
}

/// A path or `file://` URI as a path.
fn path(uri: &str) -> PathBuf {
    PathBuf::from(uri.strip_prefix("file://").unwrap_or(uri))
}

/// The folder of a table, by its metadata file: `<table>/metadata/<file>`.
fn table(metadata_location: &str) -> Option<PathBuf> {
    let folder = path(metadata_location).parent().and_then(Path::parent).map(Path::to_owned);
    folder.filter(|folder| folder.parent().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_tables() {
        assert_eq!(table("file:///lake/tables/n/t-1/metadata/v1.json"), Some("/lake/tables/n/t-1".into()));
        assert_eq!(table("/nowhere.json"), None);
        assert_eq!(table("/metadata/nowhere.json"), None, "never the root");
    }
}
