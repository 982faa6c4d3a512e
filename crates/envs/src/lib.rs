//! Python environments: an interpreter and an exact set of packages, made once by uv, named by a hash.
//!
//! ```text
//! request ──hash──▶ memo ──▶ environment          known: two small files are read, uv is not run
//!    │ unknown
//!    ├─▶ interpreter (found, or downloaded)
//!    ├─▶ lock (uv pip compile, with hashes; again with constraints if a rule of `compatibility` is broken)
//!    └─▶ hash of lock and interpreter ──▶ built beside its place, imported once, renamed into place
//! ```
//!
//! Layout: `<cache>/envs/<hash>/` (a virtual environment with `forebay.json` in it), `<cache>/envs/requests/<hash>.json`
//! (the memo), `<cache>/envs/<hash>.lock` (a file lock: two runs that want the same environment build it once).
//! Invariant: a folder `<hash>` is complete; whatever is interrupted leaves only `<hash>.building-…`, which the next
//! builder removes. The memo holds versions still: `""` and `2.0` mean what was newest when first asked for.

mod build;
mod compatibility;
mod error;
mod interpreters;
mod resolve;
#[cfg(test)]
mod tests;
mod uv;
mod version;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use error::Error;
pub use interpreters::{Interpreter, installed};
pub use uv::{find as find_uv, program_folders};
pub use version::Requirement;

/// Raised when environments must be made anew: part of every hash.
const LAYOUT_VERSION: u32 = 1;

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
    /// Never touch the network.
    pub offline: bool,
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
}

impl Environment {
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
    known: Mutex<HashMap<String, Environment>>,
}

/// What a memo says.
#[derive(Serialize, Deserialize)]
struct Memo {
    environment: String,
}

impl Environments {
    /// Opens (and creates) the folder. uv is looked for only when an environment must be made.
    pub fn open(options: Options) -> Result<Self, Error> {
        let folder = options.cache_dir.join("envs");
        let requests = folder.join("requests");
        std::fs::create_dir_all(&requests).map_err(Error::io("create", requests))?;
        // Paths go into scripts and messages: make them independent of the current folder.
        let folder = folder.canonicalize().map_err(Error::io("open", &folder))?;
        Ok(Self { options, folder, known: Mutex::default() })
    }

    /// Gives the environment for a request, making it if it is not there. Blocks; safe to call from many threads.
    pub fn prepare(&self, request: &EnvironmentRequest, watch: &dyn Watch) -> Result<Environment, Error> {
        let key = hash(&serde_json::json!({ "layout": LAYOUT_VERSION, "request": request }).to_string());
        if let Some(environment) = self.recall(&key) {
            return Ok(environment);
        }
        let requirements = requirements(request)?;
        let uv = uv::find(self.options.uv.as_deref())?;
        let downloader = (!self.options.offline).then_some(uv.as_path());
        let interpreter = interpreters::find(&request.python, &self.options.interpreters, downloader, watch)?;
        let tools = Tools { uv: &uv, folder: &self.folder, offline: self.options.offline, watch };
        let lock = resolve::resolve(&tools, &requirements, &request.python, &interpreter)?;
        let name = hash(&format!("{LAYOUT_VERSION}\n{}\n{}\n{}", interpreter.path.display(), interpreter.version, lock.text));
        let imports: Vec<&str> = requirements.iter().map(|r| r.name.as_str()).collect();
        build::build(&tools, &name, &lock, &interpreter, &imports)?;
        self.remember(&key, &name)?;
        let environment = build::open(&self.folder.join(&name)).map_err(Error::io("open", self.folder.join(&name)))?;
        self.lock_known().insert(key, environment.clone());
        Ok(environment)
    }

    /// A known environment, if it is still there and its interpreter too.
    fn recall(&self, key: &str) -> Option<Environment> {
        if let Some(environment) = self.lock_known().get(key).filter(|environment| environment.python.exists()) {
            return Some(environment.clone());
        }
        let memo: Memo = serde_json::from_slice(&std::fs::read(self.memo(key)).ok()?).ok()?;
        let is_name = memo.environment.len() == 64 && memo.environment.bytes().all(|b| b.is_ascii_hexdigit());
        let environment = is_name.then(|| build::open(&self.folder.join(&memo.environment)).ok())??;
        self.lock_known().insert(key.to_owned(), environment.clone());
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
struct Tools<'a> {
    uv: &'a Path,
    folder: &'a Path,
    offline: bool,
    watch: &'a dyn Watch,
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

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}
