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
use crate::{Environment, Error, Requirement, Tools, bytecode, shelf, uv};

/// The file that describes a finished environment, inside it.
const DESCRIPTION: &str = "forebay.json";

/// How soon a cancel is noticed while another process makes the same environment.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// Damaged layers that are fetched again before a build gives up.
const DAMAGED_MAX: usize = 64;

/// Imports packages, given as `name=version=module,module`, which also writes their byte code. Prints `{"package","version","error"}`
/// of the first of which no module imports.
const SMOKE_TEST: &str = r#"
import importlib, json, sys, traceback
for argument in sys.argv[1:]:
    name, version, modules = argument.split("=")
    error = None
    for module in filter(None, modules.split(",")):
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
    // It may have been while something that is built ahead of the index's answer was waited for.
    if tools.watch.is_cancelled() {
        return Err(Error::Cancelled);
    }
    remove_leftovers(tools.folder, name)?;
    let prefix = format!("{name}.building-");
    let staging = tempfile::Builder::new().prefix(&prefix).tempdir_in(tools.folder).map_err(Error::io("create", tools.folder))?;
    store::spread(staging.path());
    let site = staging.path().join("site");
    let tried = tried_before(tools, interpreter, lock);
    let (layers, clashes) = fill(tools, staging.path(), &site, lock, interpreter)?;
    let asked = wanted.requirements.iter().filter(|requirement| !tried.contains(&requirement.name));
    let asked = asked.filter_map(|requirement| layers.iter().find(|layer| layer.package == requirement.name));
    let imports: Vec<Import> = asked.map(Import::of).collect();
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
    let new =
        New { tools, wanted, environment: &described(&place, tools.store, description).environment, staging: staging.path() };
    new.try_out(&layers, &imports)?;
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

/// What shows that a package can be imported: one of these modules can be.
pub(crate) struct Import {
    pub package: String,
    pub version: String,
    pub modules: Vec<String>,
}

impl Import {
    fn of(layer: &Layer) -> Self {
        Self { package: layer.package.clone(), version: layer.version.clone(), modules: layer.modules() }
    }

    fn is_among(&self, modules: &[String]) -> bool {
        modules.iter().any(|module| self.modules.iter().any(|own| module.split('.').next() == Some(own)))
    }
}

/// An environment at its place that has not been tried.
struct New<'a> {
    tools: &'a Tools<'a>,
    wanted: &'a Wanted<'a>,
    environment: &'a Environment,
    staging: &'a Path,
}

impl New<'_> {
    /// Tries the imports, each once: what its first user imports to get ready is tried by that; the rest, and all of it if that fails,
    /// here. Byte code for it is compiled meanwhile.
    fn try_out(&self, layers: &[Layer], imports: &[Import]) -> Result<(), Error> {
        let watch = self.tools.watch;
        let trial = watch.assembled(self.environment);
        let theirs = trial.as_ref().map_or(&[][..], |trial| trial.modules());
        let needed: Vec<String> = theirs.iter().chain(imports.iter().flat_map(|import| &import.modules)).cloned().collect();
        let _compiling = bytecode::ahead(&self.environment.python, self.staging, layers, &needed, watch);
        let (tried, left): (Vec<&Import>, Vec<&Import>) = imports.iter().partition(|import| import.is_among(theirs));
        self.try_here(layers, &left)?;
        if tried.is_empty() {
            return Ok(());
        }
        watch.progress("trying the imports");
        match trial {
            Some(trial) if trial.has_succeeded(&|| watch.is_cancelled()) => Ok(()),
            _ if watch.is_cancelled() => Err(Error::Cancelled),
            _ => self.try_here(layers, &tried),
        }
    }

    fn try_here(&self, layers: &[Layer], imports: &[&Import]) -> Result<(), Error> {
        if !imports.is_empty() {
            try_imports(self.tools, &self.environment.folder, &self.staging.join("home"), self.wanted, imports)?;
            tree::harvest_byte_code(&self.environment.folder, layers);
        }
        Ok(())
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
) -> Result<(Vec<Layer>, Vec<Clash>), Error> {
    // Nobody removes layers meanwhile.
    let _held = shelf::hold_store(tools.store).map_err(Error::io("lock", tools.store))?;
    for _ in 0..DAMAGED_MAX {
        tree::remove_if_there(site)?;
        tree::skeleton(site, interpreter)?;
        let known = store::known(tools.store, lock, interpreter);
        // What is there is linked while uv works, which leaves a processor free.
        let (layers, linked) = std::thread::scope(|scope| {
            let link = || tree::assemble(site, &known, &[]).map(|_| &known[..]);
            let linked = Builder::new().name("links".to_owned()).spawn_scoped(scope, link);
            let layers = store::ensure(tools, staging, lock, interpreter);
            // Without a thread all is linked below.
            let linked = linked.map_or(Ok(&[][..]), |thread| thread.join().unwrap_or(Ok(&[][..])));
            layers.map(|layers| (layers, linked))
        })?;
        match linked.and_then(|linked| tree::assemble(site, &layers, linked)) {
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
    imports: &[&Import],
) -> Result<(), Error> {
    let Wanted { lock, interpreter, .. } = *wanted;
    tools.watch.progress("trying the imports");
    let output = uv::run(import_command(site, home, imports)?, "", tools.watch)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let broken = said.lines().rev().find_map(|line| serde_json::from_str::<BrokenImport>(line).ok());
    // Without its own words the interpreter crashed: then the last package named is all that is known.
    let broken = broken.unwrap_or_else(|| BrokenImport {
        package: imports.iter().map(|import| import.package.as_str()).collect::<Vec<_>>().join("`, `"),
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
fn import_command(site: &Path, home: &Path, imports: &[&Import]) -> Result<Command, Error> {
    let mut command = Command::new(site.join("bin/python"));
    let argument = |import: &&Import| format!("{}={}={}", import.package, import.version, import.modules.join(","));
    command.args(["-I", "-c", SMOKE_TEST]).args(imports.iter().map(argument)).current_dir(site);
    // Packages keep things there (a cache of fonts).
    std::fs::create_dir_all(home).map_err(Error::io("create", home))?;
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", home).env("LANG", "C.UTF-8");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Trial, Watch, interpreters};

    /// Who will use an environment, and what became of its imports.
    struct User(Vec<String>, bool);

    impl Trial for &User {
        fn modules(&self) -> &[String] {
            &self.0
        }
        fn has_succeeded(&self, _: &dyn Fn() -> bool) -> bool {
            self.1
        }
    }

    impl Watch for User {
        fn assembled(&self, _: &Environment) -> Option<Box<dyn Trial + '_>> {
            Some(Box::new(self))
        }
    }

    #[test]
    fn what_the_user_of_an_environment_has_imported_is_not_imported_again() {
        let found = ["3.11", "3.12", "3.13", "3.10"].map(|version| interpreters::find(version, &[], None, &crate::Quiet).ok());
        let Some(interpreter) = found.into_iter().flatten().next() else { return eprintln!("skipped: no Python") };
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().canonicalize().unwrap().join("site");
        tree::skeleton(&site, &interpreter).unwrap();
        let packages = site.join(tree::site_packages(&interpreter));
        for (name, text) in [("good", ""), ("bad", "raise ValueError('no')")] {
            std::fs::write(packages.join(name).with_extension("py"), text).unwrap();
        }
        let lock = Lock::parse(String::new());
        let wanted = Wanted { name: "", lock: &lock, interpreter: &interpreter, requirements: &[] };
        let description = Description {
            version: interpreter.version.clone(),
            interpreter: interpreter.path.clone(),
            packages: BTreeMap::new(),
            requirements: Vec::new(),
            layers: Vec::new(),
            clashes: Vec::new(),
        };
        let environment = described(&site, folder.path(), description).environment;
        let of = |package: &str, modules: &[&str]| Import {
            package: package.to_owned(),
            version: "1.0".to_owned(),
            modules: modules.iter().map(|module| (*module).to_owned()).collect(),
        };
        let broken = |modules: &[&str], succeeds: bool, imports: &[Import]| {
            let user = User(modules.iter().map(|module| (*module).to_owned()).collect(), succeeds);
            let (uv, place) = (Path::new("/nowhere/uv"), folder.path());
            let tools = Tools { uv, folder: place, store: place, offline: true, confinement: None, watch: &user };
            let new = New { tools: &tools, wanted: &wanted, environment: &environment, staging: place };
            match new.try_out(&[], imports) {
                Ok(()) => None,
                Err(Error::Import { package, .. }) => Some(package),
                Err(other) => panic!("{other:?}"),
            }
        };
        let bad = || [of("good", &["good"]), of("bad", &["bad"])];
        assert_eq!(broken(&["bad.deep", "good"], true, &bad()), None);
        assert_eq!(broken(&["bad", "good"], false, &bad()), Some("bad".to_owned()));
        // It imports something else.
        assert_eq!(broken(&["good"], true, &bad()), Some("bad".to_owned()));
        assert_eq!(broken(&[], true, &bad()), Some("bad".to_owned()));
        // One of a package's modules will do, and a package without any has nothing to try.
        assert_eq!(broken(&[], true, &[of("both", &["bad", "good"]), of("stubs", &[])]), None);
    }
}
