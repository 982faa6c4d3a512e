//! Building an environment beside its place, moving it there, and trying its imports: it is there when its description is.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::Builder;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::interpreters::Interpreter;
use crate::lock::{LOCK_FILE, Lock};
use crate::store::{self, Layer};
use crate::tree::{self, Clash, Problem};
use crate::{Environment, Error, Requirement, Tools, shelf, uv};

/// The file that describes a finished environment, inside it.
const DESCRIPTION: &str = "forebay.json";

/// How soon a cancel is noticed while another process makes the same environment.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// How often the byte code that the first imports make is shared while they go on.
const BYTE_CODE_SHARED: Duration = Duration::from_millis(100);

/// Damaged layers that are fetched again before a build gives up.
const DAMAGED_MAX: usize = 64;

/// Imports the declared packages, which also writes their byte code. Prints `{"package","version","error"}` of the
/// first that does not import. A package's module is the one named like it, else the first of its modules that imports.
const SMOKE_TEST: &str = r#"
import csv, importlib, importlib.metadata as metadata, json, re, sys, traceback
def modules(name):
    distribution = metadata.distribution(name)
    found = (distribution.read_text("top_level.txt") or "").split()
    for file, *_ in filter(None, csv.reader((distribution.read_text("RECORD") or "").splitlines())):
        head, _, rest = file.partition("/")
        if rest == "__init__.py": found.append(head)
        elif not rest and head.endswith((".py", ".so")): found.append(head.split(".")[0])
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
            error = error or "\n".join("".join(traceback.format_exception(type(problem), problem, problem.__traceback__)).strip().split("\n")[-6:])
    if error:
        print("\n" + json.dumps({"package": name, "version": version, "error": error[-2000:]}))
        sys.exit(3)
"#;

/// What is written about a finished environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Description {
    pub version: String,
    pub interpreter: PathBuf,
    pub packages: BTreeMap<String, String>,
    /// What was asked for.
    pub requirements: Vec<String>,
    /// Keys of its layers; of two that hold the same path, the first counts.
    pub layers: Vec<String>,
    /// Path, package whose file is there, package whose file is not.
    pub clashes: Vec<(String, String, String)>,
}

/// An environment with its description.
pub(crate) struct Described {
    pub environment: Environment,
    pub description: Description,
}

#[derive(Deserialize)]
struct BrokenImport {
    package: String,
    version: String,
    error: String,
}

/// Opens a finished environment; fails if it is not there, or if its interpreter has gone.
pub(crate) fn open(folder: &Path, store: &Path) -> io::Result<Described> {
    let description: Description = serde_json::from_slice(&std::fs::read(folder.join(DESCRIPTION))?)?;
    // Follows the link to the interpreter the environment was made with.
    std::fs::metadata(folder.join("bin/python"))?;
    Ok(described(folder, store, description))
}

fn described(folder: &Path, store: &Path, description: Description) -> Described {
    let python = folder.join("bin/python");
    let hash = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let packages = description.packages.clone().into_iter().collect();
    let layers = description.layers.iter().map(|key| store.join(key).join("tree")).collect();
    let version = description.version.clone();
    let environment = Environment { hash, folder: folder.to_owned(), python, version, packages, layers, lease: None };
    Described { environment, description }
}

/// Whether a builder has finished with the environment in this folder.
pub(crate) fn is_finished(folder: &Path) -> bool {
    folder.join(DESCRIPTION).exists()
}

/// Opens an environment and looks at every file of it: one `stat` each. Fails if one is not what was unpacked.
pub(crate) fn open_intact(folder: &Path, store: &Path) -> io::Result<Described> {
    let described = open(folder, store)?;
    let clashes: Vec<&str> = described.description.clashes.iter().map(|(path, _, _)| path.as_str()).collect();
    for key in &described.description.layers {
        let layer = store::open(store, key)?;
        let damaged = layer
            .files
            .iter()
            .find(|file| !clashes.contains(&file.path.as_str()) && !store::is_intact(&folder.join(&file.path), file));
        if let Some(file) = damaged {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("`{}` has changed", file.path)));
        }
    }
    Ok(described)
}

/// What is built.
pub(crate) struct Wanted<'a> {
    /// Hash of lock and interpreter.
    pub name: &'a str,
    pub lock: &'a Lock,
    pub interpreter: &'a Interpreter,
    /// What was asked for.
    pub requirements: &'a [Requirement],
}

/// An environment that was made just now.
pub(crate) struct Built {
    pub layers: Vec<Layer>,
    /// What is left of the building site: thousands of files, which need not be removed before the environment is used.
    pub rubble: tempfile::TempDir,
}

/// Makes the environment unless it is there. Exactly one builder at a time; the others wait for it.
pub(crate) fn build(tools: &Tools<'_>, wanted: &Wanted<'_>) -> Result<Option<Built>, Error> {
    let (name, lock, interpreter) = (wanted.name, wanted.lock, wanted.interpreter);
    let place = tools.folder.join(name);
    let is_there = || open_intact(&place, tools.store).is_ok();
    if is_there() {
        return Ok(None);
    }
    let _guard = take_lock(tools, &shelf::lock_file(tools.folder, name))?;
    if is_there() {
        return Ok(None);
    }
    remove_leftovers(tools.folder, name)?;
    let prefix = format!("{name}.building-");
    let staging = tempfile::Builder::new().prefix(&prefix).tempdir_in(tools.folder).map_err(Error::io("create", tools.folder))?;
    store::spread(staging.path());
    let site = staging.path().join("site");
    let mut imports: Vec<&str> = wanted.requirements.iter().map(|requirement| requirement.name.as_str()).collect();
    let tried = tried_before(tools, interpreter, lock);
    imports.retain(|name| !tried.contains(*name));
    let mut early = Early { tools, wanted, imports: &imports, trial: None };
    let (layers, clashes) = fill(tools, staging.path(), &site, lock, interpreter, &mut |unpacked| early.start(unpacked))?;
    let description = Description {
        version: interpreter.version.clone(),
        interpreter: interpreter.path.clone(),
        packages: lock.packages.clone(),
        requirements: wanted.requirements.iter().map(ToString::to_string).collect(),
        layers: layers.iter().map(|layer| layer.key.clone()).collect(),
        clashes: clashes.into_iter().map(|clash| (clash.path, clash.taken, clash.left)).collect(),
    };
    let text = serde_json::to_vec_pretty(&description).map_err(|error| Error::io("write", DESCRIPTION)(error.into()))?;
    write(&site.join(LOCK_FILE), lock.text.as_bytes())?;
    std::fs::rename(&site, &place).map_err(Error::io("create", &place))?;
    let unfinished = Unfinished(Some(&place));
    tools.watch.assembled(&described(&place, tools.store, description).environment);
    if !early.has_succeeded(&place, &layers)? {
        try_imports(tools, &place, &staging.path().join("home"), wanted, &imports)?;
        tree::harvest_byte_code(&place, &layers);
    }
    // Last, and at once: an environment without it is not there, and one with it is whole.
    let described = staging.path().join(DESCRIPTION);
    write(&described, &text)?;
    std::fs::rename(&described, place.join(DESCRIPTION)).map_err(Error::io("create", &place))?;
    unfinished.keep();
    Ok(Some(Built { layers, rubble: staging }))
}

/// An environment at its place that has not been found good. Dropping it removes it.
struct Unfinished<'a>(Option<&'a Path>);

impl Unfinished<'_> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // What is left is not taken for an environment.
        let _ = self.0.map(tree::remove_if_there);
    }
}

/// The imports of an environment, tried where its new packages were unpacked while they are copied into the store.
struct Early<'a> {
    tools: &'a Tools<'a>,
    wanted: &'a Wanted<'a>,
    imports: &'a [&'a str],
    trial: Option<(uv::Started<'a>, PathBuf)>,
}

impl Early<'_> {
    /// Adds the packages that are known to the new ones, and starts importing. Where that is not as simple as it sounds (files of
    /// one path in two packages, something missing), nothing is started, and the finished environment is tried.
    fn start(&mut self, unpacked: &Path) {
        let Wanted { lock, interpreter, .. } = *self.wanted;
        // Of an attempt before, whose store had a damaged file.
        self.trial = None;
        let keys = store::keys(lock, interpreter);
        let known: Vec<Layer> = keys.iter().filter_map(|(_, key)| store::open(self.tools.store, key).ok()).collect();
        if self.imports.is_empty() || !tree::add(unpacked, &known) {
            return;
        }
        self.tools.watch.progress("trying the imports");
        let command = import_command(unpacked, &unpacked.with_file_name("home"), self.imports);
        self.trial = command
            .ok()
            .and_then(|command| uv::Started::new(command, self.tools.watch).ok())
            .map(|started| (started, unpacked.to_owned()));
    }

    /// Waits for the imports, and gives their byte code to the layers and the environment at `place`. If something failed, the
    /// environment itself has the last word.
    fn has_succeeded(self, place: &Path, layers: &[Layer]) -> Result<bool, Error> {
        let Some((started, unpacked)) = self.trial else { return Ok(self.imports.is_empty()) };
        let (over, wait) = mpsc::channel::<()>();
        let share = || {
            tree::harvest_byte_code(&unpacked, layers);
            tree::refresh_byte_code(place, layers)
        };
        let output = std::thread::scope(|scope| {
            // Who gets ready in the environment meanwhile needs not compile the same once more. What fails here fails again below.
            let work = move || {
                while wait.recv_timeout(BYTE_CODE_SHARED).is_err_and(|why| why == RecvTimeoutError::Timeout) {
                    let _ = share();
                }
            };
            // Without a thread it is shared at the end.
            let _ = Builder::new().name("byte code".to_owned()).spawn_scoped(scope, work);
            let output = started.finish();
            drop(over);
            output
        })?;
        if !output.status.success() {
            return Ok(false);
        }
        share()?;
        Ok(true)
    }
}

/// Packages that were imported in an environment of which this one has every package: they find here what they found there.
fn tried_before(tools: &Tools<'_>, interpreter: &Interpreter, lock: &Lock) -> HashSet<String> {
    let keys = store::keys(lock, interpreter);
    let here: HashSet<&str> = keys.iter().map(|(_, key)| key.as_str()).collect();
    let entries = tools.folder.read_dir().into_iter().flatten().filter_map(Result::ok);
    let descriptions = entries.filter_map(|entry| {
        let text = std::fs::read(entry.path().join(DESCRIPTION)).ok()?;
        serde_json::from_slice::<Description>(&text).ok()
    });
    let is_part = |other: &Description| {
        (&other.version, &other.interpreter) == (&interpreter.version, &interpreter.path)
            && other.clashes.is_empty()
            && other.layers.iter().all(|key| here.contains(key.as_str()))
    };
    let name = |requirement: &String| requirement.split(|c: char| "=<>!~; [".contains(c)).next().map(str::to_owned);
    descriptions.filter(is_part).flat_map(|other| other.requirements).filter_map(|requirement| name(&requirement)).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}

/// What interrupted builders left, and an environment whose interpreter has gone.
fn remove_leftovers(folder: &Path, name: &str) -> Result<(), Error> {
    let entries = folder.read_dir().map_err(Error::io("read", folder))?;
    for entry in entries.filter_map(Result::ok) {
        let file_name = entry.file_name();
        let file_name = file_name.to_string_lossy();
        if file_name == name || file_name.strip_prefix(name).is_some_and(|rest| rest.starts_with(".building-")) {
            tree::remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

/// Waits for another builder of the same environment, in a thread of its own so that a cancel is noticed.
fn take_lock(tools: &Tools<'_>, path: &Path) -> Result<File, Error> {
    let file = shelf::open_lock(path).map_err(Error::io("open", path))?;
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
            Err(RecvTimeoutError::Timeout) if tools.watch.is_cancelled() => return Err(Error::Cancelled),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Error::io("lock", path)(std::io::ErrorKind::Other.into())),
        }
    }
}

/// An empty virtual environment, then a link for every file of the lock's packages.
pub(crate) fn fill(
    tools: &Tools<'_>,
    staging: &Path,
    site: &Path,
    lock: &Lock,
    interpreter: &Interpreter,
    unpacked: &mut dyn FnMut(&Path),
) -> Result<(Vec<Layer>, Vec<Clash>), Error> {
    // Nobody removes layers meanwhile.
    let _held = shelf::hold_store(tools.store).map_err(Error::io("lock", tools.store))?;
    for _ in 0..DAMAGED_MAX {
        let layers = store::ensure(tools, staging, lock, interpreter, unpacked)?;
        tree::remove_if_there(site)?;
        tree::skeleton(site, interpreter)?;
        match tree::assemble(site, &layers) {
            Ok(clashes) => return Ok((layers, clashes)),
            Err(Problem::Failed(error)) => return Err(error),
            Err(Problem::Damaged(key)) => {
                tools.watch.progress("a file in the store of packages has changed: fetching its package again");
                store::discard(tools.store, &key)?;
            }
        }
    }
    Err(Error::Install { packages: lock.listing(""), uv: "files in the store of packages change all the time".to_owned() })
}

/// Imports packages in the environment at `site`. What they keep at home is no part of it.
pub(crate) fn try_imports(
    tools: &Tools<'_>,
    site: &Path,
    home: &Path,
    wanted: &Wanted<'_>,
    imports: &[&str],
) -> Result<(), Error> {
    let Wanted { lock, interpreter, .. } = *wanted;
    if imports.is_empty() {
        return Ok(());
    }
    tools.watch.progress("trying the imports");
    let output = uv::run(import_command(site, home, imports)?, "", tools.watch)?;
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

/// The command that imports packages in an environment.
fn import_command(site: &Path, home: &Path, imports: &[&str]) -> Result<Command, Error> {
    let mut command = Command::new(site.join("bin/python"));
    command.args(["-I", "-c", SMOKE_TEST]).args(imports).current_dir(site);
    // Packages keep things there (a cache of fonts).
    std::fs::create_dir_all(home).map_err(Error::io("create", home))?;
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", home).env("LANG", "C.UTF-8");
    Ok(command)
}
