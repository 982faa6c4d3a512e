//! Python environments: an interpreter and an exact set of packages, made once by uv, named by a hash.
//!
//! ```text
//! request ──hash──▶ memo ──▶ environment          known: its files are looked at once per process, uv is not run
//!    │ unknown
//!    ├─▶ interpreter (found, or downloaded)
//!    ├─▶ lock (the project's `forebay.lock`; else uv pip compile, with hashes; again with constraints if a rule of
//!    │         `compatibility` is broken)
//!    ├─▶ layers: each package unpacked once, read-only (`store`)
//!    └─▶ hash of lock and interpreter ──▶ linked beside its place, renamed, imported once, described
//! ```
//!
//! Layout: `<cache>/store/<key>/` (a layer), `<cache>/envs/<hash>/` (a virtual environment of hard links, with `forebay.json`
//! and `forebay.lock` in it), `<cache>/envs/requests/<hash>.json` (the memo), `<cache>/envs/<hash>.{lock,used}` (file
//! locks, see `shelf`). Invariant: a folder `<hash>` with a `forebay.json` is complete; whatever is interrupted leaves one without, or
//! `<hash>.building-…`, which the next builder removes. The memo holds versions still: `""` and `2.0` mean what was newest when first asked for.

mod ahead;
mod build;
mod bytecode;
mod compatibility;
mod confined;
mod error;
mod interpreters;
mod lock;
mod parallel;
mod resolve;
mod shelf;
mod store;
#[cfg(test)]
mod tests;
mod tree;
mod uv;
mod version;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use bytecode::COMPILER_MARK;
pub use confined::{Confined, Confinement, Unconfined};
pub use error::Error;
pub use interpreters::{Interpreter, installed};
pub use lock::{LOCK_FILE, Lock, ProjectLock};
pub use shelf::{BYTES_MAX_DEFAULT, Collected, Lease, Listed, parse_bytes};
pub use uv::{find as find_uv, program_folders};
pub use version::Requirement;

/// Raised when environments must be made anew: part of every hash.
const LAYOUT_VERSION: u32 = 2;

/// How often a new environment is made again because somebody removed it before it could be used.
const ATTEMPTS_MAX: usize = 5;

/// Packages of one request.
pub const PACKAGES_MAX: usize = 500;

/// Where environments live and how they are made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Everything is kept in `envs/` of this folder.
    pub cache_dir: PathBuf,
    /// The uv binary; `None`: FOREBAY_UV, beside our program, PATH.
    pub uv: Option<PathBuf>,
    /// Interpreters (files or folders) to prefer.
    pub interpreters: Vec<PathBuf>,
    /// Never touch the network; also if FOREBAY_OFFLINE is set.
    pub offline: bool,
    /// Who builds packages that have no wheel, which executes their code; `None`: nobody.
    pub confinement: Option<Arc<dyn Confinement>>,
    /// Bytes of packages that [`Environments::collect`] leaves; `None`: FOREBAY_ENVIRONMENTS_MAX, else
    /// [`BYTES_MAX_DEFAULT`].
    pub bytes_max: Option<u64>,
}

/// What a function asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EnvironmentRequest {
    /// `3.11`
    pub python: String,
    /// Package and version as the user wrote them.
    pub packages: Vec<(String, String)>,
    /// Packages the runtime needs; the user's own version wins.
    pub needs: Vec<String>,
}

/// An environment that is there and imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Hash of lock and interpreter.
    pub hash: String,
    /// The folder.
    pub folder: PathBuf,
    /// Its interpreter, `bin/python`.
    pub python: PathBuf,
    /// `3.11.7`
    pub version: String,
    /// Every package and its version, sorted.
    pub packages: Vec<(String, String)>,
    /// One folder per package, shaped like the environment and read-only, for a file system that lays them over each other:
    /// of two that hold the same path, the first counts. Together with `bin/python` and `pyvenv.cfg` they are what is in `folder`.
    pub layers: Vec<PathBuf>,
    /// While it lives, nobody removes the environment.
    pub lease: Option<Lease>,
}

impl Environment {
    /// The lock it was made from: exact versions with the hashes of their files.
    #[must_use]
    pub fn lock_text(&self) -> String {
        std::fs::read_to_string(self.folder.join(LOCK_FILE)).unwrap_or_default()
    }

    /// The installed version of a package.
    #[must_use]
    pub fn package(&self, name: &str) -> Option<&str> {
        self.packages.iter().find(|(package, _)| package == name).map(|(_, version)| version.as_str())
    }
}

/// Who waits for an environment: is told how it goes, may give up, and may kill what was started.
pub trait Watch: Sync {
    /// One line for a person: `installing 6 packages`.
    fn progress(&self, _text: &str) {}
    /// Whether to give up.
    fn is_cancelled(&self) -> bool {
        false
    }
    /// A child leads this process group now. If the caller has given up already, it kills the group in this call.
    fn child_started(&self, _group: u32) {}
    /// It has been reaped.
    fn child_ended(&self, _group: u32) {}
    /// The files of a new environment are in place, and its imports are to be tried: who will use it may get ready, and what that
    /// imports is not imported once more to try it. It goes again if imports fail.
    fn assembled(&self, _environment: &Environment) -> Option<Box<dyn Trial + '_>> {
        None
    }
}

/// Imports of a new environment under way, by who will use it.
pub trait Trial {
    /// The modules that are imported, in this order.
    fn modules(&self) -> &[String];
    /// Waits for the end, or until told to give up. Whether all of them were imported; if not, who builds the environment finds out
    /// why.
    fn has_succeeded(&self, is_cancelled: &dyn Fn() -> bool) -> bool;
}

/// Waits without a word.
#[derive(Debug, Clone, Copy)]
pub struct Quiet;

impl Watch for Quiet {}

/// The environments of one cache folder.
#[derive(Debug)]
pub struct Environments {
    options: Options,
    folder: PathBuf,
    store: PathBuf,
    known: Mutex<HashMap<String, Environment>>,
}

/// What a memo says.
#[derive(Serialize, Deserialize)]
struct Memo {
    environment: String,
}

impl Environments {
    /// Opens (and creates) the folders. uv is looked for only when an environment must be made.
    pub fn open(mut options: Options) -> Result<Self, Error> {
        let folder = options.cache_dir.join("envs");
        let requests = folder.join("requests");
        std::fs::create_dir_all(&requests).map_err(Error::io("create", requests))?;
        let store = store::folder(&options.cache_dir);
        std::fs::create_dir_all(&store).map_err(Error::io("create", &store))?;
        // Paths go into scripts and messages: make them independent of the current folder.
        let folder = folder.canonicalize().map_err(Error::io("open", &folder))?;
        let store = store.canonicalize().map_err(Error::io("open", &store))?;
        store::spread(&folder);
        options.offline |= std::env::var_os("FOREBAY_OFFLINE").is_some_and(|value| !value.is_empty() && value != "0");
        if std::env::var("FOREBAY_BUILDS").is_ok_and(|value| value == "trusted") {
            options.confinement = Some(Arc::new(confined::Trusted));
        }
        Ok(Self { options, folder, store, known: Mutex::default() })
    }

    /// Gives the environment for a request, making it if it is not there. Blocks; safe to call from many threads.
    ///
    /// With a `pinned` lock, exactly that is installed; without, versions are resolved when the request is met first.
    pub fn prepare(&self, request: &EnvironmentRequest, pinned: Option<&Lock>, watch: &dyn Watch) -> Result<Environment, Error> {
        let (environment, new) = self.prepared(request, pinned, watch)?;
        if let Some(built) = new {
            self.tend(&environment, built);
        }
        Ok(environment)
    }

    /// As [`Environments::prepare`], and waits until all byte code is compiled.
    pub fn prepare_fully(
        &self,
        request: &EnvironmentRequest,
        pinned: Option<&Lock>,
        watch: &dyn Watch,
    ) -> Result<Environment, Error> {
        let (environment, _) = self.prepared(request, pinned, watch)?;
        let keys =
            build::open(&environment.folder, &self.store).map(|described| described.description.layers).unwrap_or_default();
        let layers: Vec<_> = keys.iter().filter_map(|key| store::open(&self.store, key).ok()).collect();
        bytecode::compile(&environment.python, &environment.folder, &layers, Some(watch));
        Ok(environment)
    }

    /// What can wait until a new environment is in use, in a thread of its own: its byte code, and making room.
    fn tend(&self, environment: &Environment, built: build::Built) {
        let (folder, store, bytes_max) = (self.folder.clone(), self.store.clone(), self.bytes_max());
        let environment = environment.clone();
        let work = move || {
            // All of it: the lease in it keeps it from being removed meanwhile.
            let environment = &environment;
            let build::Built { layers, rubble } = built;
            drop(rubble);
            bytecode::compile(&environment.python, &environment.folder, &layers, None);
            // What could not be removed is tried again after the next new environment, or by `forebay env gc`.
            let _ = shelf::collect(&folder, &store, bytes_max, false);
        };
        // Without a thread, modules are compiled by each process that imports them.
        let _ = std::thread::Builder::new().name("environments".to_owned()).spawn(work);
    }

    fn prepared(
        &self,
        request: &EnvironmentRequest,
        pinned: Option<&Lock>,
        watch: &dyn Watch,
    ) -> Result<(Environment, Option<build::Built>), Error> {
        let pins = pinned.map(|lock| lock.text.as_str());
        let key = hash(&serde_json::json!({ "layout": LAYOUT_VERSION, "request": request, "pins": pins }).to_string());
        if let Some(environment) = self.recall(&key) {
            return Ok((environment, None));
        }
        let requirements = requirements(request)?;
        let uv = uv::find(self.options.uv.as_deref())?;
        let tools = self.tools(&uv, watch);
        let interpreter = self.interpreter(&tools, &request.python)?;
        let name = |lock: &Lock| {
            hash(&format!("{LAYOUT_VERSION}\n{}\n{}\n{}", interpreter.path.display(), interpreter.version, lock.text))
        };
        let make = |tools: &Tools<'_>, lock: &Lock| {
            let wanted = build::Wanted { name: &name(lock), lock, interpreter: &interpreter, requirements: &requirements };
            build::build(tools, &wanted)
        };
        let (lock, mut new) = match pinned {
            Some(lock) => (lock.clone(), None),
            None => ahead::resolve(&tools, &question(request, &requirements, &interpreter), &make)?,
        };
        let name = name(&lock);
        for attempt in 0..ATTEMPTS_MAX {
            // What was made ahead is there, unless somebody has removed it.
            if attempt > 0 || new.is_none() {
                new = make(&tools, &lock)?.or(new);
            }
            if let Ok(environment) = self.leased(&name) {
                self.remember(&key, &name)?;
                self.lock_known().insert(key, Environment { lease: None, ..environment.clone() });
                return Ok((environment, new));
            }
        }
        Err(Error::io("keep", self.folder.join(&name))(std::io::Error::other("somebody removes it again and again")))
    }

    /// Resolves a request anew, keeping versions of `preferences` (the text of an older lock) where they can be kept.
    pub fn resolve(&self, request: &EnvironmentRequest, preferences: &str, watch: &dyn Watch) -> Result<Lock, Error> {
        let requirements = requirements(request)?;
        let uv = uv::find(self.options.uv.as_deref())?;
        let tools = self.tools(&uv, watch);
        let interpreter = self.interpreter(&tools, &request.python)?;
        let question = question(request, &requirements, &interpreter);
        resolve::resolve(&tools, &resolve::Question { preferences, fresh: preferences.is_empty(), ..question })
    }

    /// Every finished environment, the one used last first.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        shelf::list(&self.folder, &self.store)
    }

    /// Removes what interrupted builders left, then what was not used for longest until packages take no more than the cap of
    /// the options. What a run uses stays. With `dry_run`, only tells.
    pub fn collect(&self, dry_run: bool) -> Result<Collected, Error> {
        shelf::collect(&self.folder, &self.store, self.bytes_max(), dry_run)
    }

    /// The cap: bytes of packages that [`Environments::collect`] leaves.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        shelf::bytes_max(&self.options)
    }

    fn tools<'a>(&'a self, uv: &'a Path, watch: &'a dyn Watch) -> Tools<'a> {
        let confinement = self.options.confinement.as_deref();
        Tools { uv, folder: &self.folder, store: &self.store, offline: self.options.offline, confinement, watch }
    }

    fn interpreter(&self, tools: &Tools<'_>, python: &str) -> Result<Interpreter, Error> {
        let downloader = (!self.options.offline).then_some(tools.uv);
        interpreters::find(python, &self.options.interpreters, downloader, tools.watch)
    }

    /// An environment that is there, kept from now on.
    fn leased(&self, name: &str) -> std::io::Result<Environment> {
        let lease = shelf::lease(&self.folder, name)?;
        let environment = build::open(&self.folder.join(name), &self.store)?.environment;
        Ok(Environment { lease: Some(lease), ..environment })
    }

    /// A known environment, if it is still there and its interpreter too. The first time in a process, every file of it is
    /// looked at.
    fn recall(&self, key: &str) -> Option<Environment> {
        let known = self.lock_known().get(key).cloned();
        if let Some(environment) = known.filter(|environment| environment.python.exists()) {
            let lease = shelf::lease(&self.folder, &environment.hash).ok()?;
            // It may have been removed before the lease was taken.
            return environment.python.exists().then(|| Environment { lease: Some(lease), ..environment });
        }
        let memo: Memo = serde_json::from_slice(&std::fs::read(self.memo(key)).ok()?).ok()?;
        let is_name = memo.environment.len() == 64 && memo.environment.bytes().all(|b| b.is_ascii_hexdigit());
        let environment = is_name.then(|| self.leased(&memo.environment).ok())??;
        build::open_intact(&environment.folder, &self.store).ok()?;
        self.lock_known().insert(key.to_owned(), Environment { lease: None, ..environment.clone() });
        Some(environment)
    }

    fn remember(&self, key: &str, name: &str) -> Result<(), Error> {
        let path = self.memo(key);
        let folder = self.folder.join("requests");
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            std::io::Write::write_all(&mut file, serde_json::json!({ "environment": name }).to_string().as_bytes())?;
            file.persist(&path).map_err(|error| error.error)
        };
        write().map(drop).map_err(Error::io("write", &path))
    }

    fn memo(&self, key: &str) -> PathBuf {
        self.folder.join("requests").join(format!("{key}.json"))
    }

    fn lock_known(&self) -> MutexGuard<'_, HashMap<String, Environment>> {
        // A poisoned cache is only a cache.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the steps of a build share.
#[derive(Clone, Copy)]
struct Tools<'a> {
    uv: &'a Path,
    folder: &'a Path,
    store: &'a Path,
    offline: bool,
    confinement: Option<&'a dyn Confinement>,
    watch: &'a dyn Watch,
}

fn question<'a>(
    request: &'a EnvironmentRequest,
    asked: &'a [Requirement],
    interpreter: &'a Interpreter,
) -> resolve::Question<'a> {
    resolve::Question { asked, python: &request.python, interpreter, preferences: "", fresh: false }
}

/// The user's packages, then those the runtime needs and the user did not name.
fn requirements(request: &EnvironmentRequest) -> Result<Vec<Requirement>, Error> {
    let parse = |(name, version): &(String, String)| Requirement::parse(name, version);
    let mut requirements = request.packages.iter().take(PACKAGES_MAX).map(parse).collect::<Result<Vec<_>, _>>()?;
    for need in &request.needs {
        let need = Requirement::any(need);
        if !requirements.iter().any(|r| r.name == need.name) {
            requirements.push(need);
        }
    }
    Ok(requirements)
}

/// Whether the environment that this interpreter belongs to has been made to its end.
#[must_use]
pub fn is_finished(python: &Path) -> bool {
    python.parent().and_then(Path::parent).is_some_and(build::is_finished)
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
