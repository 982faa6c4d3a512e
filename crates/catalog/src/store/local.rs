//! A store in a folder of a local file system.
//!
//! ```text
//! create: tmp/<n>  ── fsync ──>  rename (or link) to its name  ── fsync of the folder ──>  done
//! swap:   the same, but compare and rename happen under an exclusive lock on `refs.lock`, and a short value is not the
//!         content of a file but the target of a symbolic link: name and value become durable by one fsync, of the folder
//! ```
//!
//! A link's target lies in metadata, which file systems with a journal write in order: a link is never there without it. So
//! creating a branch costs one write that waits for the disk, not two. Values that are longer, and those of older lakes,
//! are files; both are read.
//!
//! A name therefore appears with its whole, durable content or not at all, and `kill -9` leaves at most a file in
//! `tmp/`. Each open store holds a shared lock on `tmp.lock`; the first one to open alone sweeps `tmp/`.

use super::{Store, StoreError};
use crate::limits::{LINK_BYTES_MAX, OBJECT_BYTES_MAX};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const TEMPORARY: &str = "tmp";
const TEMPORARY_LOCK: &str = "tmp.lock";
const SWAP_LOCK: &str = "refs.lock";

/// The moment the file system takes for now.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };

/// A folder.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    /// Held (shared) while the store is open, so that nobody sweeps our temporary files.
    _in_use: File,
    next_temporary: AtomicU64,
    /// Folders whose own entry in their parent is known to be durable.
    durable: Mutex<HashSet<PathBuf>>,
}

impl LocalStore {
    /// Opens `root`, creating it if need be. A folder that holds files but not `marker` is not ours and is left alone.
    pub fn open(root: &Path, marker: &str) -> Result<Self, StoreError> {
        create_folders(root)?;
        if let Some(parent) = root.parent() {
            // Another process may have created the root just now. A parent we cannot read is not ours to sync.
            let _ = sync_folder(parent);
        }
        refuse_foreign(root, marker)?;
        let temporary = root.join(TEMPORARY);
        create_folders(&temporary)?;
        let in_use = open_lock(&root.join(TEMPORARY_LOCK))?;
        if rustix::fs::flock(&in_use, FlockOperation::NonBlockingLockExclusive).is_ok() {
            sweep(&temporary);
        }
        lock(&in_use, FlockOperation::LockShared).map_err(failed("lock", &root.join(TEMPORARY_LOCK)))?;
        let root = root.to_path_buf();
        Ok(Self { root, _in_use: in_use, next_temporary: AtomicU64::new(0), durable: Mutex::default() })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Creates the folder of `path` and makes its entry durable, once per folder and process.
    fn prepare_folder<'p>(&self, path: &'p Path) -> Result<&'p Path, StoreError> {
        let folder = path.parent().expect("a key lies below the root");
        let known = |set: &Mutex<HashSet<PathBuf>>| set.lock().unwrap_or_else(PoisonError::into_inner).contains(folder);
        if folder != self.root && !known(&self.durable) {
            // The root is synced by `open`; everything between it and `folder` here.
            let between: Vec<&Path> = folder.ancestors().take_while(|ancestor| *ancestor != self.root).collect();
            for step in between.into_iter().rev() {
                create_folder(step)?;
                self::step();
                sync_folder(step.parent().expect("below the root"))?;
            }
            self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_path_buf());
        }
        Ok(folder)
    }

    fn temporary_path(&self) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.root.join(TEMPORARY).join(format!("{}-{:p}-{number}", std::process::id(), self))
    }

    /// A value that is about to be swapped in: durable, or so that it will be with its name.
    fn prepare(&self, bytes: &[u8]) -> Result<Temporary, StoreError> {
        if bytes.is_empty() || bytes.len() > LINK_BYTES_MAX || bytes.contains(&0) {
            return self.write_temporary(bytes);
        }
        let path = self.temporary_path();
        step();
        match std::os::unix::fs::symlink(OsStr::from_bytes(bytes), &path) {
            Ok(()) => {
                step();
                Ok(Temporary { path })
            }
            // A file system without links, or with shorter ones.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(failed("create", &path)(error)),
            Err(_) => self.write_temporary(bytes),
        }
    }

    fn write_temporary(&self, bytes: &[u8]) -> Result<Temporary, StoreError> {
        let path = self.temporary_path();
        step();
        let mut file = File::options().write(true).create_new(true).open(&path).map_err(failed("create", &path))?;
        let temporary = Temporary { path };
        step();
        file.write_all(bytes).map_err(failed("write", &temporary.path))?;
        step();
        file.sync_all().map_err(failed("sync", &temporary.path))?;
        step();
        Ok(temporary)
    }
}

impl Store for LocalStore {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(key);
        read_regular(&path).map_err(failed("read", &path))
    }

    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let path = self.path(key);
        let folder = self.prepare_folder(&path)?;
        let created = !self.touch(key)? && self.write_temporary(bytes)?.publish_new(&path)?;
        // Also when another writer was first: it may not have synced the folder yet.
        step();
        sync_folder(folder)?;
        step();
        Ok(created)
    }

    fn swap(&self, key: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
        let path = self.path(key);
        let folder = self.prepare_folder(&path)?;
        let temporary = new.map(|bytes| self.prepare(bytes)).transpose()?;
        let _guard = SwapGuard::lock(&self.root.join(SWAP_LOCK))?;
        let current = read_regular(&path).map_err(failed("read", &path))?;
        if current.as_deref() != expected {
            return Ok(false);
        }
        match temporary {
            Some(temporary) => temporary.publish(&path)?,
            None if current.is_some() => fs::remove_file(&path).map_err(failed("delete", &path))?,
            None => {}
        }
        step();
        sync_folder(folder)?;
        step();
        Ok(true)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(folder);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", &path))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("list", &path))?;
            let not_text = || io::Error::new(io::ErrorKind::InvalidData, "its name is not UTF-8 text");
            let name = entry.file_name().into_string().map_err(|_| failed("read", &entry.path())(not_text()))?;
            if !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn touch(&self, key: &str) -> Result<bool, StoreError> {
        let path = self.path(key);
        if path.symlink_metadata().is_err() {
            return Ok(false);
        }
        let _guard = SwapGuard::lock(&self.root.join(SWAP_LOCK))?;
        let now = Timestamps { last_access: NOW, last_modification: NOW };
        match rustix::fs::utimensat(CWD, &path, &now, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            // A lake that others own can be read and, as far as its folders allow, written to; it is not collected by us.
            Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(true),
            Err(error) => Err(failed("touch", &path)(io::Error::from(error))),
        }
    }

    fn exclusively(&self, work: &mut dyn FnMut()) -> Result<bool, StoreError> {
        let _guard = SwapGuard::lock(&self.root.join(SWAP_LOCK))?;
        work();
        Ok(true)
    }

    fn stamps(&self, folder: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let mut found = Vec::new();
        for name in self.list(folder)? {
            let path = self.path(folder).join(&name);
            let changed = path.symlink_metadata().and_then(|metadata| metadata.modified()).map_err(failed("read", &path))?;
            let since = changed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            found.push((name, i64::try_from(since.as_millis()).unwrap_or(i64::MAX)));
        }
        Ok(found)
    }

    fn remove(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key);
        fs::remove_file(&path).map_err(failed("delete", &path))?;
        step();
        Ok(())
    }

    fn location(&self) -> String {
        self.root.display().to_string()
    }
}

/// A place between two changes of the disk. Tests end the process here.
fn step() {
    #[cfg(test)]
    crate::tests::crash::step();
}

/// A file in `tmp/` that disappears unless it is published.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn publish(self, target: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, target).map_err(failed("write", target))?;
        std::mem::forget(self);
        Ok(())
    }

    /// Says whether the target did not exist yet; it is never replaced.
    fn publish_new(self, target: &Path) -> Result<bool, StoreError> {
        match rustix::fs::renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                std::mem::forget(self);
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            // File systems without this flag know links instead; the temporary name is dropped afterwards.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::hard_link(&self.path, target) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(failed("write", target)(error)),
            },
            Err(error) => Err(failed("write", target)(io::Error::from(error))),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Best effort: a leftover is swept when the store is next opened.
        let _ = fs::remove_file(&self.path);
    }
}

/// The exclusive lock under which refs move. Unlocked explicitly: a process forked meanwhile shares the descriptor.
struct SwapGuard {
    file: File,
}

impl SwapGuard {
    fn lock(path: &Path) -> Result<Self, StoreError> {
        let file = open_lock(path)?;
        lock(&file, FlockOperation::LockExclusive).map_err(failed("lock", path))?;
        Ok(Self { file })
    }
}

impl Drop for SwapGuard {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

fn failed<E: Into<io::Error>>(verb: &'static str, path: &Path) -> impl FnOnce(E) -> StoreError {
    let place = path.display().to_string();
    move |error| StoreError { verb, place, source: error.into(), unknown: false }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    File::options().write(true).create(true).truncate(false).open(path).map_err(failed("open", path))
}

fn lock(file: &File, operation: FlockOperation) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))
}

/// Reads a value: a regular file of bounded size, or the target of a link. Never blocks on a pipe that somebody put there.
fn read_regular(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::LOOP) => match rustix::fs::readlinkat(CWD, path, Vec::new()) {
            Ok(target) => return Ok(Some(target.into_bytes())),
            // Replaced by a file meanwhile, or gone.
            Err(Errno::INVAL | Errno::NOENT) => return read_regular(path),
            Err(error) => return Err(error.into()),
        },
        file => File::from(file?),
    };
    let metadata = file.metadata()?;
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if !metadata.is_file() {
        return invalid("it is not a regular file");
    }
    if metadata.len() > OBJECT_BYTES_MAX {
        return invalid("it is larger than any catalog object");
    }
    let mut bytes = Vec::new();
    file.take(OBJECT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn create_folder(path: &Path) -> Result<(), StoreError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", path)(error)),
        _ => Ok(()),
    }
}

/// Creates `path` and its missing parents, each durable in its parent.
fn create_folders(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folders(parent)?;
        create_folder(path)?;
        return sync_folder(parent);
    }
    create_folder(path)
}

fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("sync", path))
}

fn refuse_foreign(root: &Path, marker: &str) -> Result<(), StoreError> {
    if root.join(marker).symlink_metadata().is_ok() {
        return Ok(());
    }
    for entry in fs::read_dir(root).map_err(failed("list", root))? {
        let name = entry.map_err(failed("list", root))?.file_name();
        let ours = [TEMPORARY, TEMPORARY_LOCK, SWAP_LOCK].iter().any(|own| name == *own);
        // Another process that creates the store right now writes the marker before anything else.
        if !ours && root.join(marker).symlink_metadata().is_err() {
            let why = format!("the folder holds `{}` but no `{marker}`", name.to_string_lossy());
            return Err(failed("use", root)(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
    }
    Ok(())
}

/// Removes what crashed writers left. Best effort: a leftover is harmless.
fn sweep(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path());
    }
}
