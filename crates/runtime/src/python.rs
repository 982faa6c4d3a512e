//! The Python side of Forebay (the package `forebay` with its native module): found once, copied by content.
//!
//! Functions run in environments that know nothing of Forebay; they get the package through `sys.path`, from a copy
//! in the cache that holds nothing else, so that no other package of the folder it was installed in is visible.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::error::Failure;
use crate::limits::RUNTIME_BYTES_MAX;

/// Where the package is copied from and to.
#[derive(Debug)]
pub struct PythonRuntime {
    cache_dir: PathBuf,
    /// The copy made last, and what the source looked like then.
    current: Mutex<Option<(Vec<FileState>, PathBuf)>>,
}

/// A file as `stat` sees it: enough to notice a new build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct FileState {
    path: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
}

impl PythonRuntime {
    /// Copies will be made in `runtime/` of this folder.
    #[must_use]
    pub fn new(cache_dir: &Path) -> Self {
        Self { cache_dir: cache_dir.join("runtime"), current: Mutex::default() }
    }

    /// The folder to put on `sys.path`. Copies when there is no copy of what is installed now.
    pub fn folder(&self) -> Result<PathBuf, Failure> {
        let source = find()?;
        let failed = |error: io::Error| Failure::Runtime { why: format!("`{}`: {error}", source.display()) };
        let files = list(&source.join("forebay")).map_err(failed)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((seen, folder)) = &*current {
            if *seen == files && folder.is_dir() {
                return Ok(folder.clone());
            }
        }
        let folder = copy(&source, &files, &self.cache_dir).map_err(failed)?;
        *current = Some((files, folder.clone()));
        Ok(folder)
    }
}

/// The folder that holds `forebay/`: FOREBAY_RUNTIME, the installed layout, the development layout.
fn find() -> Result<PathBuf, Failure> {
    let mut tried = Vec::new();
    if let Some(folder) = std::env::var_os("FOREBAY_RUNTIME") {
        tried.push(PathBuf::from(folder));
    } else {
        for bin in forebay_envs::program_folders() {
            tried.extend(site_packages(&bin.join("../lib")));
        }
    }
    let whole = |folder: &&PathBuf| folder.join("forebay/_function.py").is_file();
    tried.iter().find(whole).cloned().ok_or_else(|| {
        let tried: Vec<String> = tried.iter().map(|folder| format!("`{}`", folder.display())).collect();
        Failure::Runtime {
            why: format!(
                "there is no package `forebay` in {}",
                if tried.is_empty() { "any known place".into() } else { tried.join(", ") }
            ),
        }
    })
}

/// `lib/python3*/site-packages`, newest name first.
fn site_packages(lib: &Path) -> Vec<PathBuf> {
    let entries = lib.read_dir().into_iter().flatten().filter_map(Result::ok);
    let is_python = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("python3");
    let mut folders: Vec<PathBuf> =
        entries.filter(|entry| is_python(&entry.file_name())).map(|entry| entry.path().join("site-packages")).collect();
    folders.sort();
    folders.reverse();
    folders
}

/// Every file of the package, sorted, without byte code.
fn list(package: &Path) -> io::Result<Vec<FileState>> {
    let mut files = Vec::new();
    let mut folders = vec![package.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir()? {
            let entry = entry?;
            let meta = fs::metadata(entry.path())?;
            if meta.is_dir() {
                if entry.file_name() != "__pycache__" {
                    folders.push(entry.path());
                }
            } else {
                files.push(FileState { path: entry.path(), length: meta.len(), modified: meta.modified().ok() });
            }
        }
    }
    if files.iter().map(|file| file.length).sum::<u64>() > RUNTIME_BYTES_MAX {
        return Err(io::Error::other("the package is too large to be ours"));
    }
    files.sort();
    Ok(files)
}

/// Copies the package to `<cache>/<hash>/forebay`, unless it is there; complete or not at all.
fn copy(source: &Path, files: &[FileState], cache: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(cache)?;
    let staging = tempfile::Builder::new().prefix("copy-").tempdir_in(cache)?;
    let mut hash = Sha256::new();
    for file in files {
        let relative = file.path.strip_prefix(source).map_err(io::Error::other)?;
        let bytes = fs::read(&file.path)?;
        hash.update(relative.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
        let target = staging.path().join(relative);
        fs::create_dir_all(target.parent().unwrap_or(staging.path()))?;
        fs::write(target, bytes)?;
    }
    let place = cache.join(&hex::encode(hash.finalize())[..32]);
    match fs::rename(staging.path(), &place) {
        Ok(()) => drop(staging.keep()),
        // Another process was faster; the staging folder removes itself.
        Err(_) if place.is_dir() => {}
        Err(error) => return Err(error),
    }
    place.canonicalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_by_content_and_notices_changes() {
        let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let package = source.path().join("forebay");
        fs::create_dir_all(package.join("__pycache__")).unwrap();
        fs::write(package.join("_function.py"), "one").unwrap();
        fs::write(package.join("__pycache__/x.pyc"), "byte code").unwrap();
        let make = || copy(source.path(), &list(&package).unwrap(), cache.path()).unwrap();
        let first = make();
        assert_eq!(make(), first);
        assert_eq!(fs::read_to_string(first.join("forebay/_function.py")).unwrap(), "one");
        assert!(!first.join("forebay/__pycache__").exists());
        fs::write(package.join("_function.py"), "two").unwrap();
        assert_ne!(make(), first);
        let left =
            cache.path().read_dir().unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("copy-"));
        assert_eq!(left.count(), 0);
    }
}
