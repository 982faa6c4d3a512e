//! An environment as a folder: an empty one, and one tree of hard links over the layers of its packages.
//!
//! Links, not symbolic ones: libraries that look for others beside themselves (`$ORIGIN`) must find them. Where links are not
//! possible (another file system, too many of them) files are copied, with their times, so that byte code stays valid.
//! When two packages hold the same path, the file of the one that comes first is taken, and the clash is written down.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::interpreters::Interpreter;
use crate::store::{self, FileState, Layer};
use crate::{Error, bytecode, parallel};

/// The folder of packages in an environment, relative to it.
pub(crate) fn site_packages(interpreter: &Interpreter) -> PathBuf {
    PathBuf::from(format!("lib/python{}/site-packages", interpreter.minor()))
}

/// An empty virtual environment, as `python -m venv` would make it. `relocatable` tells uv how to write scripts.
pub(crate) fn skeleton(folder: &Path, interpreter: &Interpreter) -> Result<(), Error> {
    let make = || {
        fs::create_dir_all(folder.join(site_packages(interpreter)))?;
        fs::create_dir_all(folder.join("bin"))?;
        symlink("lib", folder.join("lib64"))?;
        symlink(&interpreter.path, folder.join("bin/python"))?;
        symlink("python", folder.join("bin/python3"))?;
        symlink("python", folder.join(format!("bin/python{}", interpreter.minor())))?;
        let home = interpreter.path.parent().unwrap_or(Path::new("/usr/bin")).display();
        let version = &interpreter.version;
        let text = format!(
            "home = {home}\nimplementation = CPython\nversion_info = {version}\ninclude-system-site-packages = false\nrelocatable = true\n"
        );
        fs::write(folder.join("pyvenv.cfg"), text)
    };
    make().map_err(Error::io("create", folder))
}

/// Two packages hold different files under one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// Relative to the environment.
    pub path: String,
    /// The package whose file is there.
    pub taken: String,
    /// The package whose file is not.
    pub left: String,
}

/// Why a tree was not made.
pub(crate) enum Problem {
    /// This layer is not what it was: fetch it again.
    Damaged(String),
    Failed(Error),
}

/// Links every file of the layers into an environment made by [`skeleton`]; those of `linked` were linked there, in a call before.
pub(crate) fn assemble(folder: &Path, layers: &[Layer], linked: &[Layer]) -> Result<Vec<Clash>, Problem> {
    let linked: HashSet<&str> = linked.iter().map(|layer| layer.key.as_str()).collect();
    let is_linked = |layer: &Layer| linked.contains(layer.key.as_str());
    let mut clashes = Vec::new();
    let mut owners: HashMap<&str, &Layer> = HashMap::new();
    let mut links: Vec<(&Layer, &FileState)> = Vec::new();
    let mut sources: HashSet<(&Path, &Path)> = HashSet::new();
    let mut folders: BTreeSet<&Path> = BTreeSet::new();
    for layer in layers {
        for file in &layer.files {
            if let Some(first) = owners.get(file.path.as_str()) {
                if is_linked(layer) && !is_linked(first) {
                    let taken = folder.join(&file.path);
                    fs::remove_file(&taken).or_else(absent).map_err(Error::io("remove", taken)).map_err(Problem::Failed)?;
                }
                if !same_content(&layer.tree.join(&file.path), &first.tree.join(&file.path)).unwrap_or(false) {
                    let (taken, left) = (first.package.clone(), layer.package.clone());
                    clashes.push(Clash { path: file.path.clone(), taken, left });
                }
                continue;
            }
            owners.insert(&file.path, layer);
            if is_linked(layer) {
                continue;
            }
            links.push((layer, file));
            let parent = Path::new(&file.path).parent().unwrap_or(Path::new(""));
            folders.insert(parent);
            if file.path.ends_with(".py") {
                sources.insert((&layer.tree, parent));
            }
        }
    }
    for relative in folders {
        let made = folder.join(relative);
        fs::create_dir_all(&made).map_err(Error::io("create", made)).map_err(Problem::Failed)?;
    }
    parallel::each(&links, |(layer, file)| {
        let (from, to) = (layer.tree.join(&file.path), folder.join(&file.path));
        if !store::is_intact(&from, file) {
            return Err(Problem::Damaged(layer.key.clone()));
        }
        link_or_copy(&from, &to).map_err(Error::io("write", to)).map_err(Problem::Failed)
    })?;
    let sources: Vec<_> = sources.into_iter().collect();
    parallel::each(&sources, |(tree, relative)| link_byte_code(&tree.join(relative), &folder.join(relative)))
        .map_err(Problem::Failed)?;
    Ok(clashes)
}

/// A hard link, or where the file system makes none, a copy with the same time.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error)
            if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound | io::ErrorKind::StorageFull) =>
        {
            fs::copy(from, to)?;
            let modified = fs::metadata(from)?.modified()?;
            // A read-only file cannot be opened for writing, but its times are its owner's to set.
            fs::File::open(to)?.set_modified(modified)
        }
        other => other,
    }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Removes a folder with all that is in it, which somebody else may be doing as well.
pub(crate) fn remove_if_there(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn same_content(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(fs::metadata(a)?.len() == fs::metadata(b)?.len() && fs::read(a)? == fs::read(b)?)
}

/// Links the byte code of one folder of a layer, if it has any, into an environment; what is there stays.
fn link_byte_code(from: &Path, to: &Path) -> Result<(), Error> {
    let Ok(entries) = from.join("__pycache__").read_dir() else { return Ok(()) };
    let cache = to.join("__pycache__");
    fs::create_dir_all(&cache).map_err(Error::io("create", &cache))?;
    for entry in entries.filter_map(Result::ok) {
        let to = cache.join(entry.file_name());
        match link_or_copy(&entry.path(), &to) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                return Err(Error::io("write", to)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Brings byte code that layers have got meanwhile into an environment.
pub(crate) fn refresh_byte_code(folder: &Path, layers: &[Layer]) -> Result<(), Error> {
    for layer in layers {
        for relative in folders(layer) {
            link_byte_code(&layer.tree.join(relative), &folder.join(relative))?;
        }
    }
    Ok(())
}

/// Gives byte code that the first imports wrote into an environment to the layers, for all environments to come.
pub(crate) fn harvest_byte_code(folder: &Path, layers: &[Layer]) {
    for layer in layers.iter().filter(|layer| !bytecode::is_complete(layer)) {
        harvest_from(folder, &layer.tree, folders(layer));
    }
}

fn harvest_from(site: &Path, tree: &Path, folders: HashSet<&Path>) {
    for relative in folders {
        let Ok(entries) = site.join(relative).join("__pycache__").read_dir() else { continue };
        let home = tree.join(relative);
        let cache = home.join("__pycache__");
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let name_text = name.to_string_lossy();
            // A file with another end is still being written.
            let stem = name_text.strip_suffix(".pyc").and_then(|name| name.split(".cpython-").next());
            // Of this layer, and not of another that shares the folder.
            if stem.map(|stem| format!("{stem}.py")).is_some_and(|source| home.join(source).is_file())
                && fs::create_dir_all(&cache).is_ok()
            {
                // Byte code that is not kept is made again.
                let _ = fs::hard_link(entry.path(), cache.join(&name));
            }
        }
    }
}

fn folders(layer: &Layer) -> HashSet<&Path> {
    layer.files.iter().filter(|file| file.path.ends_with(".py")).filter_map(|file| Path::new(&file.path).parent()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_of_another_file_system_are_copied_with_time_and_mode() {
        let folder = tempfile::tempdir().unwrap();
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else { return eprintln!("skipped: no /dev/shm") };
        for place in [folder.path(), other.path()] {
            let (from, to) = (place.join("a"), folder.path().join("b"));
            fs::write(&from, "x").unwrap();
            let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
            fs::File::open(&from).unwrap().set_modified(old).unwrap();
            fs::set_permissions(&from, fs::Permissions::from_mode(0o555)).unwrap();
            link_or_copy(&from, &to).unwrap();
            let metadata = fs::metadata(&to).unwrap();
            assert_eq!((metadata.modified().unwrap(), metadata.permissions().mode() & 0o777), (old, 0o555));
            assert!(same_content(&from, &to).unwrap());
            // What is there is not overwritten.
            assert_eq!(link_or_copy(&from, &to).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            fs::remove_file(to).unwrap();
        }
    }
    #[test]
    fn what_is_linked_first_gives_way_to_what_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let layer = |name: &str, files: &[&str]| {
            let tree = folder.path().join(name);
            fs::create_dir(&tree).unwrap();
            for file in files {
                fs::write(tree.join(file), name).unwrap();
            }
            store::layer_of(name, &tree, files.iter().map(|file| (*file).to_owned())).unwrap()
        };
        let known = [layer("b", &["x", "b"]), layer("d", &["x", "y", "d"])];
        let [new_first, new_last] = [layer("a", &["x", "a"]), layer("c", &["y", "b"])];
        let site = folder.path().join("site");
        fs::create_dir(&site).unwrap();
        assert!(assemble(&site, &known, &[]).is_ok_and(|clashes| clashes.len() == 1));
        let all = [new_first, known[0].clone(), new_last, known[1].clone()];
        let clashes = assemble(&site, &all, &known).map_err(|_| "not assembled").unwrap();
        let clashes: Vec<String> =
            clashes.into_iter().map(|Clash { path, taken, left }| format!("{path} {taken} {left}")).collect();
        assert_eq!(clashes, ["x a b", "b b c", "x a d", "y c d"]);
        let there = ["a", "b", "d", "x", "y"].map(|file| fs::read_to_string(site.join(file)).unwrap());
        assert_eq!(there, ["a", "b", "d", "a", "c"]);
    }
}
