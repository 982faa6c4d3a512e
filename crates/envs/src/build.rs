//! Building an environment beside its place, trying its imports, and moving it into place with one rename.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::interpreters::Interpreter;
use crate::resolve::Lock;
use crate::{Environment, Error, Tools, uv};

/// The file that describes a finished environment, inside it.
const DESCRIPTION: &str = "forebay.json";

/// How soon a cancel is noticed while another process makes the same environment.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// Imports the declared packages, which also writes their byte code. Prints `{"package","version","error"}` of the
/// first that does not import. A package's module is the one named like it, else the first of its modules that imports.
const SMOKE_TEST: &str = r#"
import importlib, importlib.metadata as metadata, json, re, sys, traceback
def modules(name):
    distribution = metadata.distribution(name)
    found = (distribution.read_text("top_level.txt") or "").split()
    for file in distribution.files or []:
        head = file.parts[0]
        if len(file.parts) > 1 and file.parts[-1] == "__init__.py" and len(file.parts) == 2: found.append(head)
        elif len(file.parts) == 1 and head.endswith((".py", ".so")): found.append(head.split(".")[0])
    found = [m for m in dict.fromkeys(found) if m.isidentifier() and not m.startswith("_")]
    same = [m for m in found if re.sub("[-_.]+", "-", m).lower() == name]
    return (same or found)[:8], distribution.version
for name in sys.argv[1:]:
    try:
        candidates, version = modules(name)
    except Exception:
        continue
    error = None
    for module in candidates:
        try:
            importlib.import_module(module)
            error = None
            break
        except BaseException as problem:
            error = error or "".join(traceback.format_exception_only(type(problem), problem)).strip()
    if error:
        print("\n" + json.dumps({"package": name, "version": version, "error": error[:2000]}))
        sys.exit(3)
"#;

#[derive(Serialize, Deserialize)]
struct Description {
    version: String,
    interpreter: PathBuf,
    packages: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct BrokenImport {
    package: String,
    version: String,
    error: String,
}

/// Opens a finished environment; fails if it is not there, or if its interpreter has gone.
pub fn open(folder: &Path) -> io::Result<Environment> {
    let description: Description = serde_json::from_slice(&std::fs::read(folder.join(DESCRIPTION))?)?;
    let python = folder.join("bin/python");
    // Follows the link to the interpreter the environment was made with.
    std::fs::metadata(&python)?;
    let hash = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let packages = description.packages.into_iter().collect();
    Ok(Environment { hash, folder: folder.to_owned(), python, version: description.version, packages })
}

/// Makes the environment `name` unless it is there. Exactly one builder at a time; the others wait for it.
pub fn build(tools: &Tools<'_>, name: &str, lock: &Lock, interpreter: &Interpreter, imports: &[&str]) -> Result<(), Error> {
    let place = tools.folder.join(name);
    if open(&place).is_ok() {
        return Ok(());
    }
    let _guard = take_lock(tools, &tools.folder.join(format!("{name}.lock")))?;
    if open(&place).is_ok() {
        return Ok(());
    }
    remove_leftovers(tools.folder, name)?;
    let prefix = format!("{name}.building-");
    let site = tempfile::Builder::new().prefix(&prefix).tempdir_in(tools.folder).map_err(Error::io("create", tools.folder))?;
    fill(tools, site.path(), lock, interpreter)?;
    try_imports(tools, site.path(), lock, interpreter, imports)?;
    let description = Description {
        version: interpreter.version.clone(),
        interpreter: interpreter.path.clone(),
        packages: lock.packages.clone(),
    };
    let text = serde_json::to_vec_pretty(&description).map_err(|error| Error::io("write", DESCRIPTION)(error.into()))?;
    let file = site.path().join(DESCRIPTION);
    std::fs::write(&file, text).map_err(Error::io("write", file))?;
    let site = site.keep();
    std::fs::rename(&site, &place).map_err(|error| {
        // The error that matters is the rename's; the leftover is removed by the next builder.
        let _ = std::fs::remove_dir_all(&site);
        Error::io("create", &place)(error)
    })
}

/// What interrupted builders left, and an environment whose interpreter has gone.
fn remove_leftovers(folder: &Path, name: &str) -> Result<(), Error> {
    let entries = folder.read_dir().map_err(Error::io("read", folder))?;
    for entry in entries.filter_map(Result::ok) {
        let file_name = entry.file_name();
        let file_name = file_name.to_string_lossy();
        if file_name == name || file_name.strip_prefix(name).is_some_and(|rest| rest.starts_with(".building-")) {
            std::fs::remove_dir_all(entry.path()).map_err(Error::io("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Waits for another builder of the same environment, in a thread of its own so that a cancel is noticed.
fn take_lock(tools: &Tools<'_>, path: &Path) -> Result<File, Error> {
    let file = File::options().create(true).append(true).open(path).map_err(Error::io("open", path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    tools.watch.progress("waiting for another run that makes the same environment");
    let (taken, answer) = mpsc::channel();
    // After a cancel nobody receives: the lock is let go with the file as soon as it is had.
    std::thread::spawn(move || taken.send(file.lock().map(|()| file)));
    loop {
        match answer.recv_timeout(CANCEL_CHECK) {
            Ok(locked) => return locked.map_err(Error::io("lock", path)),
            Err(mpsc::RecvTimeoutError::Timeout) if tools.watch.is_cancelled() => return Err(Error::Cancelled),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Error::io("lock", path)(std::io::ErrorKind::Other.into())),
        }
    }
}

/// An empty virtual environment, then the packages of the lock.
pub(crate) fn fill(tools: &Tools<'_>, site: &Path, lock: &Lock, interpreter: &Interpreter) -> Result<(), Error> {
    let (folder, python) = (site.to_string_lossy(), interpreter.path.to_string_lossy());
    // Relocatable: it is renamed when it is ready.
    let venv = ["venv", "--relocatable", "--no-project", "--allow-existing", "--python", &python, &folder];
    let output = uv::run(uv::command(tools.uv, tools.folder, venv), "", tools.watch)?;
    let failed = |uv| Error::Install { packages: lock.listing(""), uv };
    if !output.status.success() {
        return Err(failed(uv::message_of(&output)));
    }
    if lock.packages.is_empty() {
        return Ok(());
    }
    tools.watch.progress(&format!("installing {} packages", lock.packages.len()));
    let file = site.join("forebay.lock");
    std::fs::write(&file, &lock.text).map_err(Error::io("write", &file))?;
    let (python, file) = (site.join("bin/python"), file.to_string_lossy());
    let python = python.to_string_lossy();
    let install = ["pip", "install", "--python", &python, "--no-deps", "--require-hashes", "--requirement", &file];
    let run = |offline: bool| {
        let arguments = install.iter().copied().chain(offline.then_some("--offline"));
        uv::run(uv::command(tools.uv, tools.folder, arguments), "", tools.watch)
    };
    let mut output = run(true)?;
    if !output.status.success() && !tools.offline {
        output = run(false)?;
    }
    if output.status.success() { Ok(()) } else { Err(failed(uv::message_of(&output))) }
}

pub(crate) fn try_imports(
    tools: &Tools<'_>,
    site: &Path,
    lock: &Lock,
    interpreter: &Interpreter,
    imports: &[&str],
) -> Result<(), Error> {
    if imports.is_empty() {
        return Ok(());
    }
    tools.watch.progress("trying the imports");
    let mut command = Command::new(site.join("bin/python"));
    command.args(["-I", "-c", SMOKE_TEST]).args(imports).current_dir(site);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", site).env("LANG", "C.UTF-8");
    let output = uv::run(command, "", tools.watch)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let broken = said.lines().rev().find_map(|line| serde_json::from_str::<BrokenImport>(line).ok());
    // Without its own words the interpreter crashed: then the last package named is all that is known.
    let broken = broken.unwrap_or_else(|| BrokenImport {
        package: imports.join("`, `"),
        version: String::new(),
        error: format!("the interpreter crashed: {}", uv::message_of(&output)),
    });
    Err(Error::Import {
        beside: lock.listing(&broken.package),
        package: broken.package,
        version: broken.version,
        python: interpreter.version.clone(),
        message: broken.error,
    })
}
