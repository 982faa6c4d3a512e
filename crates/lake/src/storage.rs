//! Files of a table, on the local disk or in an object store: written once, durable before anyone learns of them.
//!
//! Paths inside metadata are written as plain absolute paths (no `file://`) or as `s3://bucket/key` and its like: PyIceberg,
//! DuckDB and this crate read them literally, without percent-decoding. `file://` URIs are accepted wherever a location
//! comes in. What a file system needs (folders, syncing of folders) does nothing in an object store.

mod file;
mod io;
mod remote;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;

use crate::error::{Error, Result};
use crate::reach::FoundFile;

pub(crate) use file::{Reader, Writer};
pub(crate) use io::file_io;
#[cfg(test)]
pub(crate) use remote::stand_in;
pub(crate) use remote::{Bucket, Opened, Place, ready, wait};
pub use remote::{Failure, Repeat, StorageOptions, Trouble, check_storage, object_store, remote_location, use_storage};

/// Where a file or folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// An absolute path without a slash at its end.
    Local(PathBuf),
    /// In an object store.
    Remote(remote::Place),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Remote(place) => write!(f, "{place}"),
        }
    }
}

impl Location {
    /// `/x/y`, `file:///x/y`, `file:/x/y`, or a URI of an object store.
    pub(crate) fn parse(location: &str) -> Result<Self> {
        match remote::Place::parse(location) {
            Some(Ok(place)) => Ok(Self::Remote(place)),
            Some(Err(())) => Err(Error::Location { location: location.to_owned() }),
            None => local(location).map(Self::Local),
        }
    }

    /// A file or folder below this one.
    pub(crate) fn join(&self, name: &str) -> Self {
        match self {
            Self::Local(path) => Self::Local(path.join(name)),
            Self::Remote(place) => {
                let key = if place.key.is_empty() { name.to_owned() } else { format!("{}/{name}", place.key) };
                Self::Remote(remote::Place { bucket: place.bucket.clone(), key })
            }
        }
    }

    /// As metadata has it. Locations come in as text, so paths are UTF-8.
    pub(crate) fn text(&self) -> String {
        self.to_string()
    }
}

fn local(location: &str) -> Result<PathBuf> {
    let path = match location.strip_prefix("file:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => location,
    };
    if !path.starts_with('/') || path.contains('\0') {
        return Err(Error::Location { location: location.to_owned() });
    }
    let trimmed = path.trim_end_matches('/');
    Ok(PathBuf::from(if trimmed.is_empty() { "/" } else { trimmed }))
}

/// A location in its one form.
pub(crate) fn plain_location(location: &str) -> Result<String> {
    Ok(Location::parse(location)?.text())
}

/// Makes a folder and its parents, durably.
pub(crate) fn create_folder(location: &Location) -> Result<()> {
    match location {
        Location::Local(path) => create_local_folder(path),
        Location::Remote(_) => Ok(()),
    }
}

fn create_local_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_local_folder(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(Error::storage("create the folder", path)(error)),
    }
    path.parent().map_or(Ok(()), sync_path)
}

/// Writes a file that must not exist yet, durably but for its folder's entry: [`sync`] the folder afterwards.
pub(crate) fn write_new(location: &Location, bytes: Vec<u8>) -> Result<()> {
    match location {
        Location::Local(path) => {
            let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(Error::storage("create", path))?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(Error::storage("write", path))
        }
        Location::Remote(place) => Ok(file::put_new(&remote::opened(place)?, place, bytes)?),
    }
}

/// Makes a file's bytes, or a folder's entries, durable.
pub(crate) fn sync(location: &Location) -> Result<()> {
    match location {
        Location::Local(path) => sync_path(path),
        Location::Remote(_) => Ok(()),
    }
}

fn sync_path(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::storage("sync", path))
}

/// Whether there is anything at a location or below it.
pub(crate) fn is_taken(location: &Location) -> Result<bool> {
    match location {
        Location::Local(path) => Ok(path.exists()),
        Location::Remote(place) => {
            let opened = remote::opened(place)?;
            let (store, prefix) = (Arc::clone(&opened.store), place.path());
            let first = remote::wait(async move { store.list(Some(&prefix)).next().await.transpose() });
            Ok(first.map_err(opened.failed("list", place))?.is_some())
        }
    }
}

/// Deletes a file.
pub(crate) fn remove(location: &Location) -> Result<()> {
    match location {
        Location::Local(path) => fs::remove_file(path).map_err(Error::storage("delete", path)),
        Location::Remote(place) => {
            let opened = remote::opened(place)?;
            let (store, path) = (Arc::clone(&opened.store), place.path());
            Ok(remote::wait(async move { store.delete(&path).await }).map_err(opened.failed("delete", place))?)
        }
    }
}

/// All regular files below a folder; of a folder that is not there none.
pub(crate) fn list(location: &Location) -> Result<Vec<FoundFile>> {
    let mut found = Vec::new();
    match location {
        Location::Local(path) => walk(path, &mut found)?,
        Location::Remote(place) => {
            let opened = remote::opened(place)?;
            let (store, prefix) = (Arc::clone(&opened.store), place.path());
            let listed = remote::wait(async move { store.list(Some(&prefix)).try_collect::<Vec<_>>().await });
            let bucket = &place.bucket;
            found.extend(listed.map_err(opened.failed("list", place))?.into_iter().map(|meta| FoundFile {
                location: format!("{bucket}/{}", meta.location),
                modified_ms: meta.last_modified.timestamp_millis(),
                bytes: meta.size,
            }));
        }
    }
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<FoundFile>) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::storage("list", folder))?,
    };
    for entry in entries {
        let path = entry.map_err(Error::storage("list", folder))?.path();
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(Error::storage("look at", &path))?,
        };
        if metadata.is_dir() {
            walk(&path, found)?;
        } else if let (true, Some(location)) = (metadata.is_file(), path.to_str()) {
            found.push(FoundFile { location: location.to_owned(), modified_ms: modified_ms(&metadata), bytes: metadata.len() });
        }
    }
    Ok(())
}

/// When a file or folder was changed, in milliseconds since 1970.
pub(crate) fn modified_ms(metadata: &fs::Metadata) -> i64 {
    let since = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Deletes files; those that are gone already do not matter.
pub(crate) fn remove_all(locations: Vec<Location>) -> Result<()> {
    let mut far: Vec<remote::Place> = Vec::new();
    for location in locations {
        match location {
            Location::Local(path) => match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::storage("delete", &path)(error)),
                _ => {}
            },
            Location::Remote(place) => far.push(place),
        }
    }
    let Some(first) = far.first() else { return Ok(()) };
    let opened = remote::opened(first)?;
    let (store, paths) = (Arc::clone(&opened.store), far.iter().map(remote::Place::path).collect::<Vec<_>>());
    let gone = remote::wait(async move {
        let deleted = store.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        let real = deleted.filter(|one| std::future::ready(!matches!(one, Err(object_store::Error::NotFound { .. }))));
        real.try_for_each(|_| std::future::ready(Ok(()))).await
    });
    Ok(gone.map_err(opened.failed("delete", first))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (location, path) in [("/a/b/", "/a/b"), ("file:///a b", "/a b"), ("file:/a", "/a"), ("/", "/")] {
            assert_eq!(Location::parse(location).unwrap(), Location::Local(path.into()));
        }
        for bad in ["a/b", "file://host", "", "/a\0b", "ftp://host/t"] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(plain_location("s3a://bucket/t/").unwrap(), "s3://bucket/t");
        assert!(plain_location("s3://bucket//t").is_err());
    }

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let deep = Location::Local(folder.path().join("a/b/c"));
        create_folder(&deep).unwrap();
        create_folder(&deep).unwrap();
        write_new(&deep.join("f"), b"one".to_vec()).unwrap();
        assert!(write_new(&deep.join("f"), b"two".to_vec()).is_err());
        assert_eq!(fs::read(folder.path().join("a/b/c/f")).unwrap(), b"one");
        sync(&deep).unwrap();
    }
}
