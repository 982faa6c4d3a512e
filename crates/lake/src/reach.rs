//! Which files tables are made of, and which files lie where tables are: what a collection of garbage needs to know.
//!
//! A file is known by its name alone, wherever metadata says it is: names of data, manifests and metadata are never used
//! twice, and folders can be written in many ways (links, `file://`, other engines' habits). Equal names can only keep a file
//! too long, never remove one that is needed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use iceberg::spec::ManifestFile;

use crate::error::{Error, Result};
use crate::storage::{self, Location};
use crate::table::{Table, load_manifest};

/// Files read at the same time.
const READS_AT_ONCE_MAX: usize = 16;

/// A file below the folder of all tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Where.
    pub location: String,
    /// When it was written, in milliseconds since 1970, by the clock of the disk or store.
    pub modified_ms: i64,
    /// Size.
    pub bytes: u64,
}

/// Names of all files that the tables at these metadata files need, for any of their snapshots. A table outside `tables_root`
/// that is gone needs none.
///
/// # Errors
/// [`Error::Metadata`] if another of these files, or one they name, is missing or damaged: then nothing is known.
pub async fn files_of(metadata_locations: &BTreeSet<String>, tables_root: &str) -> Result<HashSet<String>> {
    let root = format!("{}/", Location::parse(tables_root)?);
    let open = async |location: &String| match Table::open(location).await {
        Err(Error::Metadata { .. } | Error::Location { .. }) if !location.starts_with(&root) => Ok(None),
        opened => opened.map(Some),
    };
    let mut names = HashSet::new();
    let mut lists: HashMap<String, (Arc<Table>, i64)> = HashMap::new();
    let mut tables = futures::stream::iter(metadata_locations.iter().map(open)).buffer_unordered(READS_AT_ONCE_MAX);
    while let Some(table) = tables.try_next().await? {
        let Some(table) = table.map(Arc::new) else { continue };
        names.insert(name(&table.location));
        let metadata = &table.metadata;
        names.extend(metadata.statistics_iter().map(|file| name(&file.statistics_path)));
        names.extend(metadata.partition_statistics_iter().map(|file| name(&file.statistics_path)));
        for snapshot in metadata.snapshots() {
            lists.entry(snapshot.manifest_list().to_owned()).or_insert((Arc::clone(&table), snapshot.snapshot_id()));
        }
    }
    drop(tables);
    let read_list = |(list, (table, id)): (String, (Arc<Table>, i64))| async move {
        let snapshot = table.metadata.snapshot_by_id(id).ok_or_else(|| Error::metadata(&list)("its snapshot is gone"))?;
        Ok::<_, Error>((name(&list), table.manifests(snapshot).await?))
    };
    let mut manifests: HashMap<String, ManifestFile> = HashMap::new();
    let mut read = futures::stream::iter(lists.into_iter().map(read_list)).buffer_unordered(READS_AT_ONCE_MAX);
    while let Some((list, found)) = read.try_next().await? {
        names.insert(list);
        manifests.extend(found.into_iter().map(|manifest| (manifest.manifest_path.clone(), manifest)));
    }
    drop(read);
    let io = storage::file_io();
    let read_manifest = |(path, manifest): (String, ManifestFile)| {
        let io = io.clone();
        async move { Ok::<_, Error>((name(&path), load_manifest(&manifest, &io).await?)) }
    };
    let mut read = futures::stream::iter(manifests.into_iter().map(read_manifest)).buffer_unordered(READS_AT_ONCE_MAX);
    while let Some((path, manifest)) = read.try_next().await? {
        names.insert(path);
        names.extend(manifest.entries().iter().filter(|entry| entry.is_alive()).map(|entry| name(entry.file_path())));
    }
    Ok(names)
}

/// The last part of a location.
#[must_use]
pub fn name(location: &str) -> String {
    location.rsplit('/').next().unwrap_or(location).to_owned()
}

/// Files of tables below the folder of all tables: those in `<namespace>/<table>/data` and `…/metadata`. Others are nobody's
/// business here. A folder that is not there has none.
///
/// # Errors
/// [`Error::Storage`] or [`Error::Remote`].
pub async fn files_below(tables_root: &str) -> Result<Vec<FoundFile>> {
    let root = Location::parse(tables_root)?;
    let listed = root.clone();
    let found = tokio::task::spawn_blocking(move || storage::list(&listed)).await.map_err(Error::internal("list files"))??;
    let prefix = format!("{}/", root.text());
    let is_table_file = |file: &FoundFile| {
        let parts: Vec<&str> = file.location.strip_prefix(&prefix).unwrap_or_default().split('/').collect();
        parts.len() >= 4 && ["data", "metadata"].contains(&parts[2])
    };
    Ok(found.into_iter().filter(is_table_file).collect())
}

/// Removes files, and on a disk the folders that are empty then and have not changed since `cutoff_ms`. Files that are gone
/// already do not matter.
///
/// # Errors
/// [`Error::Storage`] or [`Error::Remote`]; some files may have been removed.
pub async fn remove_files(tables_root: &str, files: Vec<FoundFile>, cutoff_ms: i64) -> Result<()> {
    let root = Location::parse(tables_root)?;
    let work = move || {
        storage::remove_all(files.iter().map(|file| Location::parse(&file.location)).collect::<Result<Vec<_>>>()?)?;
        if let Location::Local(root) = &root {
            remove_empty(root, cutoff_ms, 0);
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.map_err(Error::internal("remove files"))?
}

/// Removes one file.
///
/// # Errors
/// [`Error::Storage`] or [`Error::Remote`].
pub fn remove_file(location: &str) -> Result<()> {
    storage::remove(&Location::parse(location)?)
}

/// Folders of a table, and of a namespace: `<namespace>/<table>/data/…`.
const FOLDERS_DEEP: usize = 8;

/// Removes old empty folders, best effort: one that is in use is young, or not empty.
fn remove_empty(folder: &Path, cutoff_ms: i64, depth: usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if depth < FOLDERS_DEEP && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path(), cutoff_ms, depth + 1);
        }
    }
    let is_old = fs::symlink_metadata(folder).is_ok_and(|metadata| storage::modified_ms(&metadata) < cutoff_ms);
    if depth > 0 && is_old {
        // Fails if anything is in it.
        let _ = fs::remove_dir(folder);
    }
}
