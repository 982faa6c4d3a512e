//! Where everything outside the lake lives: configuration, caches, job records, the daemon's socket and log.
//!
//! ```text
//! FOREBAY_HOME set                          unset
//! <home>/config.toml                        $XDG_CONFIG_HOME/forebay/config.toml
//! <home>/cache/                             $XDG_CACHE_HOME/forebay/
//! <home>/state/{jobs,projects,spill}/       $XDG_STATE_HOME/forebay/{jobs,projects,spill}/
//! <home>/run/daemon.{sock,lock,log}         $XDG_RUNTIME_DIR/forebay/…   (without it: <state>/run/…)
//! <home>/lake/                              $XDG_DATA_HOME/forebay/lake/
//! ```
//!
//! Invariants: two homes share no path (unless `FOREBAY_CACHE` says so for caches, which are safe to share);
//! folders are private to the user (0700).

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// The folders of one home. Nothing is created before [`Home::prepare`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: Option<PathBuf>,
    config_dir: PathBuf,
    cache_dir: PathBuf,
    state_dir: PathBuf,
    run_dir: PathBuf,
    data_dir: PathBuf,
}

impl Home {
    /// Reads `FOREBAY_HOME`, `FOREBAY_CACHE`, the XDG variables and `HOME`.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// A home with everything under one folder, as `FOREBAY_HOME` makes it.
    pub fn at(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(Error::storage("resolve", root))?;
        Ok(Self {
            config_dir: root.clone(),
            cache_dir: root.join("cache"),
            state_dir: root.join("state"),
            run_dir: root.join("run"),
            data_dir: root.clone(),
            root: Some(root),
        })
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let mut home = match variable("FOREBAY_HOME") {
            Some(root) => Self::at(Path::new(&root))?,
            None => Self::from_xdg(&variable)?,
        };
        if let Some(cache) = variable("FOREBAY_CACHE") {
            home.cache_dir = std::path::absolute(&cache).map_err(Error::storage("resolve", &cache))?;
        }
        Ok(home)
    }

    fn from_xdg(variable: &impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let user = variable("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        // The XDG rules say that relative paths are ignored.
        let folder = |name: &str, default: &str| {
            let given = variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
            given.or_else(|| user.as_ref().map(|user| user.join(default))).map(|path| path.join("forebay")).ok_or_else(|| {
                Error::Config {
                    path: PathBuf::from("$HOME"),
                    line: None,
                    why: format!("neither `FOREBAY_HOME` nor `{name}` nor `HOME` is set to an absolute path"),
                }
            })
        };
        let state_dir = folder("XDG_STATE_HOME", ".local/state")?;
        let runtime = variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        Ok(Self {
            root: None,
            config_dir: folder("XDG_CONFIG_HOME", ".config")?,
            cache_dir: folder("XDG_CACHE_HOME", ".cache")?,
            run_dir: runtime.map_or_else(|| state_dir.join("run"), |path| path.join("forebay")),
            data_dir: folder("XDG_DATA_HOME", ".local/share")?,
            state_dir,
        })
    }

    /// `FOREBAY_HOME`, if that is where this home comes from.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The configuration file; it need not exist.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config_dir.join("config.toml")
    }

    /// What can be made again: environments, wheels, the copied Python runtime.
    #[must_use]
    pub fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// Jobs and project snapshots.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Job records.
    #[must_use]
    pub fn jobs_dir(&self) -> PathBuf {
        self.state_dir.join("jobs")
    }

    /// Project snapshots.
    #[must_use]
    pub fn projects_dir(&self) -> PathBuf {
        self.state_dir.join("projects")
    }

    /// What queries spill, in `parent` (a folder other homes may use as well) or here.
    #[must_use]
    pub fn spill_dir(&self, parent: Option<&Path>) -> PathBuf {
        match parent {
            Some(parent) => {
                let digest = Sha256::digest(self.state_dir.as_os_str().as_encoded_bytes());
                parent.join(format!("forebay-spill-{}", &hex::encode(digest)[..16]))
            }
            None => self.state_dir.join("spill"),
        }
    }

    /// Lock, log and socket of the daemon.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Held by the daemon for its whole life.
    #[must_use]
    pub fn daemon_lock(&self) -> PathBuf {
        self.run_dir.join("daemon.lock")
    }

    /// Held by a client while it starts a daemon.
    #[must_use]
    pub fn start_lock(&self) -> PathBuf {
        self.run_dir.join("start.lock")
    }

    /// The token of the REST catalog.
    #[must_use]
    pub fn rest_token_file(&self) -> PathBuf {
        self.state_dir.join("rest-token")
    }

    /// The daemon's log.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.run_dir.join("daemon.log")
    }

    /// Where the daemon listens. The path may be longer than a socket address; the channel knows how to reach it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("daemon.sock")
    }

    /// URI of the lake where no profile and no variable names one.
    #[must_use]
    pub fn default_lake(&self) -> String {
        format!("file://{}", self.data_dir.join("lake").display())
    }

    /// Creates the folders, private to the user. Needed by the daemon and by clients that start it.
    pub fn prepare(&self) -> Result<()> {
        for dir in [&self.config_dir, &self.cache_dir, &self.state_dir, &self.run_dir] {
            private_dir(dir)?;
        }
        private_dir(&self.jobs_dir())?;
        private_dir(&self.projects_dir())?;
        check_owner(&self.run_dir)
    }
}

fn private_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::storage("create the folder", dir))
}

/// The socket's folder decides who may talk to the daemon: it must be ours alone.
fn check_owner(dir: &Path) -> Result<()> {
    let metadata = std::fs::symlink_metadata(dir).map_err(Error::storage("read the folder", dir))?;
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        let why = std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it belongs to another user");
        return Err(Error::storage("use the folder", dir)(why));
    }
    if metadata.mode() & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir, private).map_err(Error::storage("make private the folder", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn home(variables: &[(&str, &str)]) -> Home {
        let map: HashMap<String, OsString> = variables.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(v))).collect();
        Home::from_variables(|name| map.get(name).cloned()).unwrap()
    }

    #[test]
    fn one_folder_holds_everything() {
        let home = home(&[("FOREBAY_HOME", "/h"), ("HOME", "/u"), ("XDG_CACHE_HOME", "/c")]);
        assert_eq!(home.config_file(), Path::new("/h/config.toml"));
        assert_eq!(home.cache_dir(), Path::new("/h/cache"));
        assert_eq!(home.jobs_dir(), Path::new("/h/state/jobs"));
        assert_eq!(home.socket(), Path::new("/h/run/daemon.sock"));
        assert_eq!(home.default_lake(), "file:///h/lake");
    }

    #[test]
    fn xdg_folders_without_a_home() {
        let home =
            home(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/c"), ("XDG_STATE_HOME", "relative"), ("FOREBAY_CACHE", "/shared")]);
        assert_eq!(home.config_file(), Path::new("/u/.config/forebay/config.toml"));
        assert_eq!(home.cache_dir(), Path::new("/shared"));
        assert_eq!(home.run_dir(), Path::new("/u/.local/state/forebay/run"));
        assert_eq!(home.default_lake(), "file:///u/.local/share/forebay/lake");
        let with_runtime = self::home(&[("HOME", "/u"), ("XDG_RUNTIME_DIR", "/run/user/1")]);
        assert_eq!(with_runtime.socket(), Path::new("/run/user/1/forebay/daemon.sock"));
        assert!(Home::from_variables(|_| None).is_err());
    }

    #[test]
    fn folders_are_private() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(&root.path().join("h")).unwrap();
        home.prepare().unwrap();
        for dir in [home.jobs_dir(), home.run_dir().to_owned(), home.cache_dir().to_owned()] {
            assert_eq!(std::fs::metadata(dir).unwrap().mode() & 0o777, 0o700);
        }
        let blocked = root.path().join("file");
        std::fs::write(&blocked, "").unwrap();
        let error = Home::at(&blocked.join("h")).unwrap().prepare().unwrap_err();
        assert_eq!(forebay_types::Coded::report(&error).code.to_string(), "CTL0001");
    }
}
