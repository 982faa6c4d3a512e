//! Takes the steps of a plan, in the process that enters the sandbox.
//!
//! A process that wants its children in sandboxes of their own (one that forks a function per call) calls [`enter`] in the
//! child, with the steps that the parent has not taken yet. It needs one thread there, as after any fork.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};

use crate::limits::ROOT_BYTES;
use crate::step::{Bind, Step};
use crate::{filter, sys};

/// Any folder that every host has: the new root grows on top of it, unseen by others.
const GROUND: &str = "/usr";

/// Landlock's kinds of access, by the version that brought them.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 2;
const READ: u64 = 4 | 8;
const MAKE: u64 = 0x1ff0;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
/// No signals to, and no abstract sockets of, what is outside.
const SCOPES: u64 = 3;

/// A step that could not be taken.
#[derive(Debug)]
pub struct Refused {
    /// Which, counted from 0.
    pub step: usize,
    /// The cause.
    pub error: io::Error,
}

/// Takes all steps, in order, in the process that enters the sandbox.
///
/// # Errors
/// The first that is refused. The process is then neither outside nor inside and should end.
pub fn enter(steps: &[Step]) -> Result<(), Refused> {
    let mut sources = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        take(step, &mut sources).map_err(|error| Refused { step: index, error })?;
    }
    Ok(())
}

type Sources = Vec<(PathBuf, bool, OwnedFd)>;

fn take(step: &Step, sources: &mut Sources) -> io::Result<()> {
    match step {
        Step::Unshare { files, network, ipc } => unshare(*files, *network, *ipc),
        Step::Sources(binds) => {
            for bind in binds {
                sources.extend(source(bind)?);
            }
            Ok(())
        }
        Step::Become { id, leave_groups } => sys::become_user(*id, *leave_groups),
        Step::Loopback => sys::start_loopback(),
        Step::Root => {
            sys::mount(c"tmpfs", Path::new(GROUND), libc::MS_NOSUID | libc::MS_NODEV, &format!("size={ROOT_BYTES},mode=755"))?;
            std::env::set_current_dir(GROUND)
        }
        Step::Folder(path) => folder(&here(path)),
        Step::Link { path, to } => {
            let path = here(path);
            folder(path.parent().unwrap_or(Path::new(".")))?;
            match std::os::unix::fs::symlink(to, path) {
                // Something else is there already, which serves.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EROFS) => Ok(()),
                result => result,
            }
        }
        Step::Text { path, text } => {
            let path = here(path);
            folder(path.parent().unwrap_or(Path::new(".")))?;
            std::fs::write(path, text)
        }
        Step::Attach => std::mem::take(sources).iter().try_for_each(|(path, is_folder, tree)| attach(path, *is_folder, tree)),
        Step::Memory { path, bytes } => {
            let path = here(path);
            folder(&path)?;
            sys::mount(c"tmpfs", &path, libc::MS_NOSUID | libc::MS_NODEV, &format!("size={bytes},mode=1777"))
        }
        Step::Proc => sys::mount(c"proc", Path::new("proc"), libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, ""),
        Step::Pivot => {
            sys::pivot_here()?;
            sys::read_only_root()
        }
        Step::Drop => sys::drop_rights(),
        Step::Landlock { version, read, write } => landlock(*version, read, write),
        Step::Scopes => sys::landlock_obey(&sys::landlock_rules(0, SCOPES)?),
        Step::Forget(paths) => paths.iter().try_for_each(|path| match sys::let_go(path) {
            // It lies in a part that is there anyway.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            result => result,
        }),
        Step::Calls { no_sockets, joins } => sys::filter_calls(&filter::program(*no_sockets, *joins)),
    }
}

fn unshare(files: bool, network: bool, ipc: bool) -> io::Result<()> {
    let flag = |wanted: bool, flag| if wanted { flag } else { 0 };
    let files_flags = flag(files, libc::CLONE_NEWNS | libc::CLONE_NEWUTS);
    sys::unshare(files_flags | flag(network, libc::CLONE_NEWNET) | flag(ipc, libc::CLONE_NEWIPC))?;
    if files { sys::keep_mounts_private() } else { Ok(()) }
}

/// The path in the new root, which is the current folder.
fn here(path: &Path) -> PathBuf {
    Path::new(".").join(path.strip_prefix("/").unwrap_or(path))
}

fn folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Takes hold of one part of the host. A part that is not there is not there inside either.
fn source(bind: &Bind) -> io::Result<Option<(PathBuf, bool, OwnedFd)>> {
    let kind = match std::fs::metadata(&bind.path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let tree = if kind.is_char_device() { sys::open_device(&bind.path) } else { sys::open_tree(&bind.path, bind.write) };
    tree.map(|tree| Some((bind.path.clone(), kind.is_dir(), tree)))
}

fn attach(path: &Path, is_folder: bool, tree: &OwnedFd) -> io::Result<()> {
    let place = here(path);
    // In a part that was attached before, the place is there already, and cannot be made.
    if !place.exists() {
        if is_folder {
            folder(&place)?;
        } else {
            folder(place.parent().unwrap_or(Path::new(".")))?;
            std::fs::File::create_new(&place)?;
        }
    }
    sys::attach(tree, &place)
}

fn landlock(version: u32, read: &[PathBuf], write: &[PathBuf]) -> io::Result<()> {
    let mut all = EXECUTE | WRITE_FILE | READ | MAKE;
    if version >= 2 {
        all |= REFER;
    }
    if version >= 3 {
        all |= TRUNCATE;
    }
    let rules = sys::landlock_rules(all, if version >= 6 { SCOPES } else { 0 })?;
    let of_files = EXECUTE | WRITE_FILE | 4 | (all & TRUNCATE);
    let allow = |access: u64, path: &PathBuf| {
        let access = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => access,
            Ok(_) => access & of_files,
            // What is not there, or out of reach, needs no rule.
            Err(_) => return Ok(()),
        };
        sys::landlock_allow(&rules, access, path)
    };
    read.iter().try_for_each(|path| allow(EXECUTE | READ, path))?;
    write.iter().try_for_each(|path| allow(all, path))?;
    sys::landlock_obey(&rules)
}
