//! Packages without a wheel: built by uv as ever, but where what they execute can do no harm.
//!
//! Everything else uv does with `--no-build`, so no code of a package is executed outside. Where that does not suffice, the same uv
//! command runs once more without it, in a sandbox ([`Confinement`], which the runtime has) with the network (the build's own
//! requirements come from the index), a cache that is thrown away, and one folder to write to. What it leaves there is looked at
//! with distrust: a link in it could lead to any file of the host.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{Error, Tools, Watch, uv};

/// What uv says when only a build would do.
const WORDS: &str = "building from source is disabled";

/// Variables of ours that a build gets: uv's settings of indexes and their credentials, how to reach them, and compilers.
const VARIABLES: [&str; 22] = [
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_INSECURE_HOST",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "UV_HTTP_TIMEOUT",
    "UV_EXCLUDE_NEWER",
    "UV_BUILD_CONSTRAINT",
    "SSL_CERT_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "CC",
    "CXX",
    "CFLAGS",
    "LDFLAGS",
];

/// A command to run confined.
#[derive(Debug)]
pub struct Confined<'a> {
    /// The program.
    pub program: PathBuf,
    /// Its arguments, without its own name.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The interpreter that it uses, by the path it calls it by.
    pub python: PathBuf,
    /// Files and folders to read.
    pub read: Vec<PathBuf>,
    /// The one folder to write to; it starts there.
    pub folder: &'a Path,
}

/// Why there is no sandbox.
#[derive(Debug)]
pub enum Unconfined {
    /// The host does not allow what it takes.
    Host(String),
    /// It could not be started or waited for.
    System(io::Error),
}

/// Runs what may execute anything, so that it can touch nothing but one folder.
pub trait Confinement: fmt::Debug + Send + Sync {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// There is no sandbox, or the command was not started.
    fn run(&self, command: &Confined<'_>, watch: &dyn Watch) -> Result<Output, Unconfined>;
}

/// No sandbox, because the user trusts what is built.
#[derive(Debug)]
pub(crate) struct Trusted;

impl Confinement for Trusted {
    fn run(&self, command: &Confined<'_>, watch: &dyn Watch) -> Result<Output, Unconfined> {
        let mut process = Command::new(&command.program);
        process.args(&command.arguments).env_clear().envs(command.environment.iter().cloned()).current_dir(command.folder);
        uv::run(process, "", watch).map_err(|error| Unconfined::System(io::Error::other(error)))
    }
}

/// Whether uv failed only because it was told not to build.
pub(crate) fn needs_build(output: &Output) -> bool {
    !output.status.success() && String::from_utf8_lossy(&output.stderr).contains(WORDS)
}

/// Runs uv where it may build. `python` is the interpreter among the arguments.
pub(crate) fn run(tools: &Tools<'_>, folder: &Path, arguments: &[&str], python: &Path, packages: &str) -> Result<Output, Error> {
    let refused = |why: String| Error::Unconfined { packages: packages.to_owned(), why };
    let confinement = tools.confinement.ok_or_else(|| refused("there is no sandbox here".to_owned()))?;
    tools.watch.progress(&format!("building {packages} from sources, in a sandbox"));
    // It may be another user who writes there.
    let opened = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777));
    opened.map_err(Error::io("open", folder))?;
    let program = tools.uv.canonicalize().map_err(Error::io("find", tools.uv))?;
    let given = |name: &&str| std::env::var(name).ok().map(|value| ((*name).to_owned(), value));
    let named = std::env::vars()
        .filter(|(name, _)| name.starts_with("UV_INDEX_") && (name.ends_with("_USERNAME") || name.ends_with("_PASSWORD")));
    let lower = VARIABLES.iter().filter(|name| name.ends_with("_PROXY")).map(|name| name.to_lowercase());
    let lower = lower.filter_map(|name| std::env::var(&name).ok().map(|value| (name, value)));
    let mut environment: Vec<(String, String)> = VARIABLES.iter().filter_map(given).chain(named).chain(lower).collect();
    let mut read = local(&environment);
    read.push(program.clone());
    let mut add = |name: &str, value: String| environment.push((name.to_owned(), value));
    let bin = python.parent().unwrap_or(Path::new("/usr/bin")).display();
    add("PATH", format!("{bin}:/usr/local/bin:/usr/bin:/bin"));
    add("HOME", folder.join("home").display().to_string());
    add("UV_CACHE_DIR", folder.join("cache").display().to_string());
    add("UV_PYTHON_DOWNLOADS", "never".to_owned());
    add("LANG", "C.UTF-8".to_owned());
    let arguments = arguments.iter().copied().chain(["--no-progress", "--color", "never", "--quiet", "--no-config"]);
    let arguments = arguments.map(str::to_owned).collect();
    let command = Confined { program, arguments, environment, python: python.to_owned(), read, folder };
    let ended = confinement.run(&command, tools.watch);
    if tools.watch.is_cancelled() {
        return Err(Error::Cancelled);
    }
    match ended {
        Ok(output) => Ok(output),
        Err(Unconfined::Host(why)) => Err(refused(why)),
        Err(Unconfined::System(error)) => Err(Error::io("start", &command.program)(error)),
    }
}

/// Folders and files of this machine that settings of indexes name.
fn local(environment: &[(String, String)]) -> Vec<PathBuf> {
    let words = environment.iter().filter(|(name, _)| name.starts_with("UV_") || name == "SSL_CERT_FILE");
    let words = words.flat_map(|(_, value)| value.split([' ', ',']));
    let paths = words
        .map(|word| word.split_once('=').map_or(word, |(_, path)| path))
        .map(|word| word.strip_prefix("file://").unwrap_or(word));
    paths.map(PathBuf::from).filter(|path| path.is_absolute() && path.exists()).collect()
}

/// Refuses a folder in which a build has left a link, but for those an empty environment has.
pub(crate) fn check_links(folder: &Path, packages: &str) -> Result<(), Error> {
    let known = |path: &Path| {
        let below = path.strip_prefix(folder).unwrap_or(path);
        below == Path::new("lib64") || (below.starts_with("bin") && below.to_string_lossy().starts_with("bin/python"))
    };
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(Error::io("read", &folder))?.filter_map(Result::ok) {
            let kind = entry.file_type().map_err(Error::io("read", entry.path()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if !kind.is_file() && !known(&entry.path()) {
                let why = format!("it left something that is no file: `{}`", entry.path().display());
                return Err(Error::Build { packages: packages.to_owned(), uv: why });
            }
        }
    }
    Ok(())
}

/// What a failed build said.
pub(crate) fn failure(packages: &str, output: &Output) -> Error {
    Error::Build { packages: packages.to_owned(), uv: uv::message_of(output) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_leaves_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join("lib/python3.11/site-packages/x")).unwrap();
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::os::unix::fs::symlink("lib", root.join("lib64")).unwrap();
        std::os::unix::fs::symlink("/usr/bin/python3", root.join("bin/python")).unwrap();
        check_links(root, "x").unwrap();
        for (place, to) in [("lib/python3.11/site-packages/x/etc", "/etc"), ("lib/python3.11/site-packages/y", "x")] {
            std::os::unix::fs::symlink(to, root.join(place)).unwrap();
            assert!(matches!(check_links(root, "x"), Err(Error::Build { .. })), "{place}");
            std::fs::remove_file(root.join(place)).unwrap();
        }
    }

    #[test]
    fn local_indexes_are_let_in() {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let found = local(&[
            set("UV_FIND_LINKS", "/usr /nowhere,https://u:p@h/x"),
            set("UV_INDEX", "mine=file:///etc"),
            set("CC", "/bin"),
        ]);
        assert_eq!(found, [PathBuf::from("/usr"), PathBuf::from("/etc")]);
    }
}
