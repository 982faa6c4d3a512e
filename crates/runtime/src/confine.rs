//! The sandbox of each kind of function: what it may see, and what it is limited to.
//!
//! | kind | reads | writes | as whom |
//! |---|---|---|---|
//! | Python | its environment, its interpreter, our package, the project | `/tmp` | apart |
//! | scan | the tables of the lake | | the user |
//! | SQL | | | the user |
//! | query | the tables of the lake | its folder of spill files | the user |
//! | write, import | the tables of the lake; the files it imports | the tables of the lake | the user |
//!
//! The system's libraries are there for all; what an administrator has added is there for Python functions.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use forebay_sandbox::group::{Group, Groups};
use forebay_sandbox::limits::{PROCESSES_MAX, TMP_BYTES_MAX};
use forebay_sandbox::{Command, Feature, Host, Identity, Launcher, Order, Policy, host, plan, resource};

use crate::limits::{FUNCTION_MEMORY_PERCENT, QUERY_MEMORY_PERCENT, WORKER_MEMORY_PERCENT};
use crate::process::{Launch, Program};

/// Variables that a function with the network has of the background process, in capital and small letters.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// How much of the sandbox must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// As much as the host allows.
    #[default]
    Auto,
    /// All of it, or nothing runs.
    Strict,
    /// None of it: functions run as the user, with their files and the network.
    Off,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "strict" => Ok(Self::Strict),
            "off" => Ok(Self::Off),
            other => Err(format!("`{other}` is not one of `auto`, `strict`, `off`")),
        }
    }
}

/// What an administrator has set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// How much must be there.
    pub mode: Mode,
    /// Files and folders that Python functions may read as well.
    pub read: Vec<PathBuf>,
    /// Files and folders that they may change as well.
    pub write: Vec<PathBuf>,
}

/// What one function may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Files and folders to read.
    pub read: Vec<PathBuf>,
    /// Files and folders to change.
    pub write: Vec<PathBuf>,
    /// The network.
    pub internet: bool,
}

/// The sandboxes of one supervisor.
#[derive(Debug)]
pub struct Sandbox {
    launcher: Launcher,
    host: OnceLock<Host>,
    groups: OnceLock<Result<Groups, String>>,
    number: AtomicU32,
    /// What each interpreter needs, by the path it is called by.
    interpreters: Mutex<BTreeMap<PathBuf, Interpreter>>,
}

/// What an interpreter needs of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interpreter {
    pub read: Vec<PathBuf>,
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// An order for the launcher, and what must live as long as the function.
pub(crate) struct Confined {
    pub order: Order,
    pub group: Option<Group>,
    /// Bytes that the function may use.
    pub memory_bytes: u64,
    /// A folder in the place of `/tmp` where it has none of its own.
    #[expect(dead_code, reason = "removed when it is dropped")]
    pub scratch: Option<tempfile::TempDir>,
}

/// Why a function was not confined.
#[derive(Debug)]
pub(crate) enum Refusal {
    Strict(Vec<String>),
    System(io::Error),
}

impl Sandbox {
    /// How to get control groups.
    pub const GROUPS_REMEDY: &str = "let systemd delegate a group: start the background process with `systemd-run --user --scope \
        -p Delegate=yes forebay daemon start`";

    /// Sandboxes that this launcher makes.
    #[must_use]
    pub fn new(launcher: Launcher) -> Self {
        Self {
            launcher,
            host: OnceLock::new(),
            groups: OnceLock::new(),
            number: AtomicU32::new(0),
            interpreters: Mutex::default(),
        }
    }

    /// The launcher.
    pub(crate) fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// Tells functions of this supervisor apart.
    pub(crate) fn next_number(&self) -> u32 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// What this host allows; tried at the first call.
    ///
    /// # Errors
    /// The launcher cannot be started.
    pub fn host(&self) -> io::Result<&Host> {
        if let Some(host) = self.host.get() {
            return Ok(host);
        }
        let host = host::probe(&self.launcher, host::look()).map_err(|error| error.cause())?;
        Ok(self.host.get_or_init(|| host))
    }

    /// Control groups, or why there are none.
    pub fn groups(&self) -> &Result<Groups, String> {
        self.groups.get_or_init(|| Groups::open(Some(share(WORKER_MEMORY_PERCENT))))
    }

    /// What is missing here, each with what to do about it.
    ///
    /// # Errors
    /// The launcher cannot be started.
    pub fn missing(&self) -> io::Result<Vec<(String, String)>> {
        let lost = self.host()?.lost.iter();
        let mut missing: Vec<_> = lost.map(|(feature, why)| (format!("{feature}: {why}"), feature.remedy().to_owned())).collect();
        if let Err(why) = self.groups() {
            missing.push((format!("control groups: {why}"), Self::GROUPS_REMEDY.to_owned()));
        }
        Ok(missing)
    }

    /// What it takes to start this program confined.
    pub(crate) fn confine(&self, launch: &Launch<'_>) -> Result<Confined, Refusal> {
        let system = Refusal::System;
        let settings = launch.settings;
        let mut host = self.host().map_err(system)?.clone();
        if settings.mode == Mode::Strict {
            let missing = self.missing().map_err(system)?;
            if !missing.is_empty() {
                return Err(Refusal::Strict(missing.into_iter().map(|(what, _)| what).collect()));
            }
        }
        if settings.mode == Mode::Off {
            Feature::ALL.iter().for_each(|feature| host.lose(*feature, "switched off"));
        }
        let memory_bytes = launch.limits.memory_bytes.unwrap_or_else(|| share(FUNCTION_MEMORY_PERCENT));
        let mut policy = self.policy(launch, &host, memory_bytes).map_err(system)?;
        let is_user = policy.identity == Identity::Apart;
        let scratch = (is_user && !host.has(Feature::Files)).then(tempfile::tempdir).transpose().map_err(system)?;
        policy.write.extend(scratch.iter().map(|scratch| scratch.path().to_owned()));
        let group = match self.groups() {
            Ok(groups) => Some(groups.create(Some(memory_bytes), PROCESSES_MAX).map_err(system)?),
            Err(_) => None,
        };
        let mut limits = vec![(resource::CORE, 0)];
        if launch.limits.memory_bytes.is_some() || group.is_none() {
            limits.push((resource::DATA, memory_bytes));
        }
        // Without a user namespace this would count the user's other processes, too.
        if is_user && host.has(Feature::Users) {
            limits.push((resource::PROCESSES, PROCESSES_MAX));
        }
        let number = self.next_number();
        let groups = group.as_ref().map(Group::doors).unwrap_or_default();
        let command = command(launch, scratch.as_ref().map(tempfile::TempDir::path)).map_err(system)?;
        let order = Order { plan: plan(&policy, &host, number), groups, limits, command: Some(command) };
        Ok(Confined { order, group, memory_bytes, scratch })
    }

    fn policy(&self, launch: &Launch<'_>, host: &Host, memory_bytes: u64) -> io::Result<Policy> {
        let access = launch.access.clone();
        let mut policy = Policy {
            read: access.read,
            write: access.write,
            links: vec![],
            internet: access.internet,
            identity: Identity::Own,
            // What lies there is memory.
            tmp_bytes: TMP_BYTES_MAX.min(memory_bytes / 2).max(1 << 20),
            processes_max: PROCESSES_MAX,
        };
        match launch.program {
            Program::System { binary } => {
                if !binary.starts_with("/proc") {
                    policy.read.push(binary.clone());
                }
            }
            Program::Python { python, runtime, .. } => {
                let interpreter = self.interpreter(python, host)?;
                policy.read.extend(interpreter.read);
                policy.links = interpreter.links;
                policy.read.extend([runtime.clone(), launch.folder.to_owned()]);
                policy.read.extend(launch.settings.read.iter().cloned());
                policy.write.extend(launch.settings.write.iter().cloned());
                policy.identity = Identity::Apart;
                if host.uid == 0 {
                    readable(runtime)?;
                }
            }
        }
        Ok(policy)
    }

    fn interpreter(&self, python: &Path, host: &Host) -> io::Result<Interpreter> {
        let mut known = self.interpreters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(interpreter) = known.get(python) {
            return Ok(interpreter.clone());
        }
        let found = interpreter(python, host)?;
        if let (0, Some(environment)) = (host.uid, environment_of(python)) {
            readable(environment)?;
        }
        known.insert(python.to_owned(), found.clone());
        Ok(found)
    }
}

/// Memory of the operators of a query that names no limit, in bytes.
#[must_use]
pub fn query_memory_bytes() -> u64 {
    share(QUERY_MEMORY_PERCENT)
}

/// So many hundredths of this machine's memory.
pub(crate) fn share(percent: u64) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    total.map_or(u64::MAX / 2, |total| (total << 10) / 100 * percent)
}

fn environment_of(python: &Path) -> Option<&Path> {
    python.parent()?.parent()
}

/// Lets those who are neither the owner nor in their group read a folder of ours. It lies in a private one.
fn readable(folder: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(folder)?.permissions().mode();
    if mode & 0o5 == 0o5 {
        return Ok(());
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode | 0o055))
}

/// The environment of `python`, the installation it leads to, and every link on the way.
pub(crate) fn interpreter(python: &Path, host: &Host) -> io::Result<Interpreter> {
    let real = python.canonicalize()?;
    let mut found = Interpreter::default();
    found.read.extend(environment_of(python).map(Path::to_owned));
    if let Some(prefix) = environment_of(&real).filter(|prefix| !host.is_system(prefix)) {
        // Not the whole folder: it may be somebody's home.
        let parts = ["bin", "lib", "lib64", "libexec", "include", "ssl"].map(|part| prefix.join(part));
        found.read.extend(parts.into_iter().filter(|part| part.is_dir()));
    }
    let is_there =
        |path: &Path, found: &Interpreter| host.is_system(path) || found.read.iter().any(|part| path.starts_with(part));
    let mut at = python.to_owned();
    // The kernel follows as many links.
    for _ in 0..40 {
        if !is_there(&at, &found) {
            if let Some(folder) = at.parent() {
                let real_folder = folder.canonicalize()?;
                if real_folder == folder {
                    found.links.push((at.clone(), real.clone()));
                } else {
                    found.links.push((folder.to_owned(), real_folder));
                }
            }
        }
        let Ok(to) = std::fs::read_link(&at) else { break };
        at = at.parent().unwrap_or(Path::new("/")).join(to);
    }
    let settings = environment_of(python).and_then(|folder| std::fs::read_to_string(folder.join("pyvenv.cfg")).ok());
    let home = settings.as_deref().and_then(|text| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(name, _)| name.trim() == "home").map(|(_, value)| PathBuf::from(value.trim()))
    });
    if let Some(home) = home.filter(|home| !is_there(home, &found)) {
        let real_home = home.canonicalize()?;
        if !found.links.iter().any(|(link, _)| *link == home) && real_home != home {
            found.links.push((home, real_home));
        }
    }
    Ok(found)
}

/// The program with its arguments and its whole environment.
fn command(launch: &Launch<'_>, scratch: Option<&Path>) -> io::Result<Command> {
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path is not UTF-8"))
    };
    let (program, arguments, mut environment) = launch.program.command(scratch);
    if launch.access.internet {
        // The way out, where there is but one.
        let names = PROXIES.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]);
        environment.extend(names.filter_map(|name| std::env::var(&name).ok().map(|value| (name, value))));
    }
    if let Some(bytes) = launch.limits.memory_bytes {
        environment.push(("FOREBAY_ARENA_LIMIT".into(), bytes.to_string()));
    }
    if let Some(threads) = launch.limits.threads {
        let names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "FOREBAY_THREADS"];
        environment.extend(names.map(|name| (name.to_owned(), threads.to_string())));
    }
    let program = text(&program)?;
    let arguments = std::iter::once(Ok(program.clone())).chain(arguments.iter().map(|path| text(path)));
    Ok(Command {
        arguments: arguments.collect::<io::Result<_>>()?,
        environment,
        folder: match launch.program {
            Program::Python { .. } => text(launch.folder)?,
            Program::System { .. } => "/".to_owned(),
        },
        program,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_there_with_every_link_on_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let make = |path: &str| std::fs::create_dir_all(root.join(path)).unwrap();
        let link = |to: &str, path: &str| std::os::unix::fs::symlink(root.join(to), root.join(path)).unwrap();
        ["home/versions/3.11.7/bin", "home/versions/3.11.7/lib", "home/versions/3.11.7/secrets", "home/bin", "env/bin"]
            .iter()
            .for_each(|path| make(path));
        std::fs::write(root.join("home/versions/3.11.7/bin/python3.11"), "").unwrap();
        link("home/versions/3.11.7", "home/versions/3.11");
        link("home/versions/3.11/bin/python3.11", "home/bin/python");
        link("home/bin/python", "env/bin/python");
        std::fs::write(
            root.join("env/pyvenv.cfg"),
            format!("home = {}\nversion = 3\n", root.join("home/versions/3.11/bin").display()),
        )
        .unwrap();
        let found = interpreter(&root.join("env/bin/python"), &Host::default()).unwrap();
        let short = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
        let read: Vec<String> = found.read.iter().map(|path| short(path)).collect();
        assert_eq!(read, ["env", "home/versions/3.11.7/bin", "home/versions/3.11.7/lib"]);
        let links: Vec<String> = found.links.iter().map(|(path, to)| format!("{} -> {}", short(path), short(to))).collect();
        let real = "home/versions/3.11.7/bin";
        assert_eq!(links, [format!("home/bin/python -> {real}/python3.11"), format!("home/versions/3.11/bin -> {real}")]);
    }

    #[test]
    fn folders_of_ours_become_readable() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        readable(folder.path()).unwrap();
        assert_eq!(std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn modes_are_words() {
        assert_eq!("strict".parse(), Ok(Mode::Strict));
        assert!("on".parse::<Mode>().unwrap_err().contains("`auto`"));
    }
}
