//! Files of a table on the local disk: plain absolute paths, put-if-absent, durable before anyone learns of them.
//!
//! Paths inside metadata are written as plain absolute paths (no `file://`): PyIceberg, DuckDB and this crate read
//! them literally, without percent-decoding. `file://` URIs are accepted wherever a location comes in.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The local path of a location: `/x/y`, `file:///x/y` or `file:/x/y`, without a trailing slash.
pub(crate) fn plain_path(location: &str) -> Result<PathBuf> {
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

/// [`plain_path`] as text.
pub(crate) fn plain_location(location: &str) -> Result<String> {
    let path = plain_path(location)?;
    Ok(path.to_str().unwrap_or(location).to_owned())
}

/// Makes a folder and its parents, durably.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(Error::storage("create the folder", path)(error)),
    }
    path.parent().map_or(Ok(()), sync)
}

/// Writes a file that must not exist yet, durably but for its folder's entry: [`sync`] the folder afterwards.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(Error::storage("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::storage("write", path))
}

/// Makes a file's bytes, or a folder's entries, durable.
pub(crate) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::storage("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        for (location, path) in [("/a/b/", "/a/b"), ("file:///a b", "/a b"), ("file:/a", "/a"), ("/", "/")] {
            assert_eq!(plain_path(location).unwrap(), Path::new(path));
        }
        for bad in ["a/b", "s3://bucket/t", "file://host", "", "/a\0b"] {
            assert!(plain_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        create_folder(&deep).unwrap();
        create_folder(&deep).unwrap();
        write_new(&deep.join("f"), b"one").unwrap();
        assert!(write_new(&deep.join("f"), b"two").is_err());
        assert_eq!(fs::read(deep.join("f")).unwrap(), b"one");
        sync(&deep).unwrap();
    }
}
