//! Python interpreters of this machine: found in folders, never by running what a shell would run.
//!
//! Order: configured (FOREBAY_PYTHONS, a list of files or folders), managed by uv, pyenv, PATH, system folders. Shims are
//! left out (they depend on the folder they are run in); links are followed, so that an environment stays what it was.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Quiet, Watch, uv};

/// Interpreters looked at; a machine with more has something wrong.
const CANDIDATES_MAX: usize = 256;

/// An interpreter that was run and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// Real path of the binary.
    pub path: PathBuf,
    /// `3.11.7`
    pub version: String,
}

/// Finds an interpreter of `major.minor`, or downloads one with uv if that is allowed.
pub fn find(wanted: &str, extra: &[PathBuf], downloader: Option<&Path>, watch: &dyn Watch) -> Result<Interpreter, Error> {
    let candidates = candidates(extra);
    if let Some(found) = best(&candidates, wanted, watch)? {
        return Ok(found);
    }
    let mut download = None;
    if let Some(uv) = downloader {
        watch.progress(&format!("downloading Python {wanted}"));
        let mut command = uv::command(uv, Path::new("/"), ["python", "install", wanted]);
        command.env("UV_PYTHON_DOWNLOADS", "manual").env("UV_HTTP_TIMEOUT", "30");
        let output = uv::run(command, "", watch)?;
        if output.status.success() {
            if let Some(found) = best(&self::candidates(extra), wanted, watch)? {
                return Ok(found);
            }
        } else {
            download = uv::message_of(&output).lines().last().map(str::to_owned);
        }
    }
    let mut found: Vec<String> =
        candidates.iter().filter_map(|path| Some(format!("{} (`{}`)", version_in_name(path)?, path.display()))).collect();
    found.sort();
    Err(Error::NoInterpreter { wanted: wanted.to_owned(), found, download })
}

/// The interpreter that [`find`] would take of each minor version that is installed, newest first.
#[must_use]
pub fn installed(extra: &[PathBuf]) -> Vec<Interpreter> {
    let mut chosen: Vec<Interpreter> = Vec::new();
    for path in candidates(extra) {
        let known = |version: &str| chosen.iter().any(|other| minor(&other.version) == version);
        if version_in_name(&path).is_some_and(known) {
            continue;
        }
        // Nobody can cancel a quiet watch.
        if let Some(version) =
            ask(&path, &Quiet).ok().flatten().filter(|version| version.starts_with("3.") && !known(minor(version)))
        {
            chosen.push(Interpreter { path, version });
        }
    }
    let numbers = |version: &str| version.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>();
    chosen.sort_by_key(|interpreter| std::cmp::Reverse(numbers(&interpreter.version)));
    chosen
}

/// `3.11` of `3.11.7`.
fn minor(version: &str) -> &str {
    version.rsplit_once('.').map_or(version, |(minor, _)| minor)
}

/// The first candidate of that version that answers; among those of one folder tree the newest.
fn best(candidates: &[PathBuf], wanted: &str, watch: &dyn Watch) -> Result<Option<Interpreter>, Error> {
    for path in candidates.iter().filter(|path| version_in_name(path).is_none_or(|version| version == wanted)) {
        if let Some(version) = ask(path, watch)? {
            if version.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.')) {
                return Ok(Some(Interpreter { path: path.clone(), version }));
            }
        }
    }
    Ok(None)
}

/// The full version, by running it; `None` if it does not run or is no CPython.
fn ask(path: &Path, watch: &dyn Watch) -> Result<Option<String>, Error> {
    let mut command = Command::new(path);
    command.env_clear().args(["-I", "-S", "-c", "import sys; print(sys.implementation.name, '%d.%d.%d' % sys.version_info[:3])"]);
    match uv::run(command, "", watch) {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.trim().strip_prefix("cpython ").map(str::to_owned))
        }
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(_) => Ok(None),
    }
}

/// `3.11` of `…/bin/python3.11`.
fn version_in_name(path: &Path) -> Option<&str> {
    let version = path.file_name()?.to_str()?.strip_prefix("python")?;
    let (major, minor) = version.split_once('.')?;
    (major == "3" && minor.bytes().all(|b| b.is_ascii_digit())).then_some(version)
}

/// Real paths of everything that looks like a Python 3, without duplicates, in order of preference.
fn candidates(extra: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let configured = std::env::var_os("FOREBAY_PYTHONS").unwrap_or_default();
    for path in extra.iter().cloned().chain(std::env::split_paths(&configured)) {
        if path.is_file() { add(&mut found, &path) } else { add_folder(&mut found, &path) }
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let of_home = |folder: &str| home.as_ref().map(|home| home.join(folder));
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let managed = variable("UV_PYTHON_INSTALL_DIR")
        .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("uv/python")))
        .or_else(|| of_home(".local/share/uv/python"));
    let pyenv = variable("PYENV_ROOT").or_else(|| of_home(".pyenv")).map(|root| root.join("versions"));
    for tree in [managed, pyenv].into_iter().flatten() {
        for version in subfolders_newest_first(&tree) {
            add_folder(&mut found, &version.join("bin"));
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"].map(PathBuf::from);
    for folder in std::env::split_paths(&path).chain(uv::program_folders()).chain(system) {
        if !folder.ends_with("shims") {
            add_folder(&mut found, &folder);
        }
    }
    found
}

fn add_folder(found: &mut Vec<PathBuf>, folder: &Path) {
    let Ok(entries) = folder.read_dir() else { return };
    let mut names: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    names.retain(|path| path.file_name().is_some_and(|name| name == "python3") || version_in_name(path).is_some());
    names.sort();
    names.iter().for_each(|path| add(found, path));
}

fn add(found: &mut Vec<PathBuf>, path: &Path) {
    let Ok(real) = path.canonicalize() else { return };
    if real.is_file() && !found.contains(&real) && found.len() < CANDIDATES_MAX {
        found.push(real);
    }
}

/// Folders of one version each, newest first by the numbers in their names.
fn subfolders_newest_first(tree: &Path) -> Vec<PathBuf> {
    let Ok(entries) = tree.read_dir() else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    let numbers = |path: &PathBuf| -> Vec<u64> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    folders.sort_by_key(|path| std::cmp::Reverse(numbers(path)));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_what_would_be_taken() {
        let installed = installed(&[]);
        for interpreter in &installed {
            assert_eq!(find(minor(&interpreter.version), &[], None, &Quiet).unwrap(), *interpreter);
        }
        let mut minors: Vec<&str> = installed.iter().map(|interpreter| minor(&interpreter.version)).collect();
        minors.dedup();
        assert_eq!(minors.len(), installed.len(), "{installed:?}");
    }

    #[test]
    fn names_tell_versions() {
        assert_eq!(version_in_name(Path::new("/usr/bin/python3.11")), Some("3.11"));
        for other in ["python3", "python3.11-config", "python2.7", "pypy3.9", "python3.13t"] {
            assert_eq!(version_in_name(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn newest_folder_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["3.9.18", "3.11.7", "3.11.12"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let names: Vec<String> = subfolders_newest_first(folder.path())
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["3.11.12", "3.11.7", "3.9.18"]);
    }

    #[test]
    fn a_missing_version_lists_what_is_there() {
        let error = find("3.99", &[], None, &Quiet).unwrap_err();
        assert!(matches!(&error, Error::NoInterpreter { wanted, download: None, .. } if wanted == "3.99"), "{error:?}");
    }

    #[test]
    fn what_does_not_run_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("python3.98"), "not a program").unwrap();
        let error = find("3.98", &[folder.path().to_owned()], None, &Quiet).unwrap_err();
        assert!(
            matches!(&error, Error::NoInterpreter { found, .. } if found.iter().any(|f| f.starts_with("3.98 "))),
            "{error:?}"
        );
    }
}
