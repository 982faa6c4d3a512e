//! The store of unpacked packages: each once per interpreter version, read-only, shared by every environment that has it.
//!
//! ```text
//! <cache>/store/<key>/layer.json                            what is in it: every file with its size and time
//! <cache>/store/<key>/tree/lib/python3.11/site-packages/…   the files, as they lie in an environment
//! <cache>/store/<key>/tree/{bin,share,include,…}            scripts (relocatable), data, headers
//! ```
//!
//! The key is a hash of name, version, the hashes of the package's files and the interpreter's version. uv downloads, checks
//! and unpacks into a folder beside the store; what each package put there (its `RECORD` tells) becomes a layer, with one
//! rename. Files are copies of uv's cache, not links: nothing that happens to one harms the other. uv links, which is quick, and the
//! copies are made here, many at a time.
//! Invariants: a folder `<key>` is complete; a file that is not as `layer.json` says is noticed before it is used, and the
//! layer fetched again. Byte code may be added to a layer; nothing else changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::interpreters::Interpreter;
use crate::lock::{Lock, Pin};
use crate::{Error, Tools, confined, parallel, tree, uv};

/// Raised when layers must be made anew: part of every key.
const STORE_VERSION: u32 = 1;

/// The file that describes a layer.
const DESCRIPTION: &str = "layer.json";

/// The files of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Normalised name of the package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// Hash that names it.
    pub key: String,
    /// Folder of its files, shaped like an environment.
    pub tree: PathBuf,
    pub(crate) files: Vec<FileState>,
}

impl Layer {
    /// Bytes of its files, without byte code.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The modules one of which shows, when it is imported, that the package can be: the one named like it, else all at its top.
    pub(crate) fn modules(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for file in self.files.iter().filter(|file| file.path.ends_with(".dist-info/top_level.txt")) {
            let text = fs::read_to_string(self.tree.join(&file.path)).unwrap_or_default();
            found.extend(text.split_whitespace().map(str::to_owned));
        }
        for file in &self.files {
            let Some((_, path)) = file.path.split_once("/site-packages/") else { continue };
            found.extend(match path.split_once('/') {
                Some((head, "__init__.py")) => Some(head.to_owned()),
                None if path.ends_with(".py") || path.ends_with(".so") => path.split('.').next().map(str::to_owned),
                _ => None,
            });
        }
        let mut seen = HashSet::new();
        let is_name = |name: &str| {
            name.starts_with(char::is_alphabetic) && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
        };
        found.retain(|name| is_name(name) && seen.insert(name.clone()));
        let same: Vec<String> = found.iter().filter(|name| crate::version::normalise(name) == self.package).cloned().collect();
        let mut modules = if same.is_empty() { found } else { same };
        modules.truncate(MODULES_MAX);
        modules
    }
}

/// Modules of a package that are tried.
const MODULES_MAX: usize = 8;

/// A file as it was when it was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileState {
    /// Below the tree.
    pub path: String,
    pub bytes: u64,
    pub modified_ns: i64,
}

#[derive(Serialize, Deserialize)]
struct Description {
    package: String,
    version: String,
    files: Vec<FileState>,
}

/// Whether a file is what it was.
pub(crate) fn is_intact(path: &Path, expected: &FileState) -> bool {
    state(path, String::new()).is_ok_and(|found| (found.bytes, found.modified_ns) == (expected.bytes, expected.modified_ns))
}

fn state(path: &Path, name: String) -> io::Result<FileState> {
    let metadata = fs::symlink_metadata(path)?;
    let modified_ns = metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
    Ok(FileState { path: name, bytes: metadata.len(), modified_ns })
}

/// The folder of all layers.
pub(crate) fn folder(cache: &Path) -> PathBuf {
    cache.join("store")
}

/// What of an interpreter decides which files a package has.
pub(crate) fn tag(interpreter: &Interpreter) -> String {
    format!("{STORE_VERSION} cpython-{} {}-{}", interpreter.minor(), std::env::consts::ARCH, std::env::consts::OS)
}

/// A layer that is there.
pub(crate) fn open(store: &Path, key: &str) -> io::Result<Layer> {
    let place = store.join(key);
    let description: Description = serde_json::from_slice(&fs::read(place.join(DESCRIPTION))?)?;
    if description.files.iter().any(|file| !Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_)))) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Description { package, version, files } = description;
    Ok(Layer { package, version, key: key.to_owned(), tree: place.join("tree"), files })
}

/// The packages of a lock, in its order, with the keys of their layers.
pub(crate) fn keys<'a>(lock: &'a Lock, interpreter: &Interpreter) -> Vec<(Pin<'a>, String)> {
    let tag = tag(interpreter);
    lock.pins().into_iter().map(|pin| (pin.key(&tag), pin)).map(|(key, pin)| (pin, key)).collect()
}

/// The layers of a lock that are there, in its order.
pub(crate) fn known(store: &Path, lock: &Lock, interpreter: &Interpreter) -> Vec<Layer> {
    keys(lock, interpreter).iter().filter_map(|(_, key)| open(store, key).ok()).collect()
}

/// The layers of a lock, in its order; what is not there is fetched into `staging`, a folder of the caller's.
pub(crate) fn ensure(tools: &Tools<'_>, staging: &Path, lock: &Lock, interpreter: &Interpreter) -> Result<Vec<Layer>, Error> {
    let pins = keys(lock, interpreter);
    let missing: Vec<&(Pin<'_>, String)> = pins.iter().filter(|(_, key)| open(tools.store, key).is_err()).collect();
    if !missing.is_empty() {
        Fetch { tools, staging, lock, interpreter }.all(&missing)?;
    }
    let mut layers = Vec::with_capacity(pins.len());
    for (pin, key) in &pins {
        match open(tools.store, key) {
            Ok(layer) => layers.push(layer),
            // Its marker does not hold here.
            Err(_) if pin.is_conditional => {}
            Err(error) => return Err(Error::io("open", tools.store.join(key))(error)),
        }
    }
    Ok(layers)
}

/// Takes a damaged layer out of the store, so that [`ensure`] fetches it again.
pub(crate) fn discard(store: &Path, key: &str) -> Result<(), Error> {
    let place = store.join(key);
    let aside = tempfile::Builder::new().prefix("damaged-").tempdir_in(store).map_err(Error::io("create", store))?;
    match fs::rename(&place, aside.path().join("layer")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", place)(error)),
        _ => Ok(()),
    }
}

/// Packages on their way from uv into the store.
struct Fetch<'a> {
    tools: &'a Tools<'a>,
    staging: &'a Path,
    lock: &'a Lock,
    interpreter: &'a Interpreter,
}

/// A package that is to become a layer: where it is unpacked, and which files are its own.
struct Unpacked<'a> {
    pin: &'a Pin<'a>,
    key: &'a str,
    site: PathBuf,
    files: Vec<String>,
}

impl Fetch<'_> {
    fn all(&self, missing: &[&(Pin<'_>, String)]) -> Result<(), Error> {
        self.tools.watch.progress(&format!("fetching {}", counted(missing.iter().map(|(pin, _)| pin))));
        let site = self.staging.join("unpacked");
        let mut packages = Vec::new();
        if let Some(built) = self.unpack(&site, missing)? {
            let (sources, wheels): (Vec<_>, Vec<_>) = missing.iter().partition(|(pin, _)| built.contains(&pin.name));
            self.unpack(&site, &wheels)?;
            packages.extend(self.sorted_out(&site, &wheels, Self::unpack_wheels)?);
            let place = self.staging.join("built");
            self.build(&place, &sources)?;
            packages.extend(self.sorted_out(&place.join("site"), &sources, Self::build_alone)?);
        } else {
            packages.extend(self.sorted_out(&site, missing, Self::unpack_wheels)?);
        }
        let layers = self.copy(&packages)?;
        for (package, layer) in packages.iter().zip(&layers) {
            publish(self.tools, package, layer)?;
        }
        Ok(())
    }

    /// Installs packages into an empty environment at `site`, offline if all is in uv's cache. Gives the names of those that have
    /// no wheel, if there are some; then nothing was installed.
    fn unpack(&self, site: &Path, pins: &[&(Pin<'_>, String)]) -> Result<Option<HashSet<String>>, Error> {
        let tools = self.tools;
        let arguments = self.prepare(site, pins)?;
        let run = |more: &[&str], offline: bool| {
            let arguments = arguments.iter().map(String::as_str).chain(["--no-build"]).chain(more.iter().copied());
            uv::run(uv::command(tools.uv, tools.folder, arguments.chain(offline.then_some("--offline"))), "", tools.watch)
        };
        let mut output = run(&[], true)?;
        if !output.status.success() && !tools.offline {
            output = run(&[], false)?;
        }
        if output.status.success() {
            return Ok(None);
        }
        if !confined::needs_build(&output) {
            return Err(Error::install(self.lock.listing(""), uv::message_of(&output), tools.folder));
        }
        let mut built = HashSet::new();
        for wanted in pins {
            self.prepare(site, &[wanted])?;
            if confined::needs_build(&run(&["--dry-run"], tools.offline)?) {
                built.insert(wanted.0.name.clone());
            }
        }
        Ok(Some(built))
    }

    fn unpack_wheels(&self, place: &Path, pins: &[&(Pin<'_>, String)]) -> Result<PathBuf, Error> {
        self.unpack(place, pins).map(|_| place.to_owned())
    }

    fn build_alone(&self, place: &Path, pins: &[&(Pin<'_>, String)]) -> Result<PathBuf, Error> {
        self.build(place, pins).map(|()| place.join("site"))
    }

    /// Builds packages into an empty environment at `place/site`, where what they execute can do no harm.
    fn build(&self, place: &Path, pins: &[&(Pin<'_>, String)]) -> Result<(), Error> {
        let site = place.join("site");
        let arguments = self.prepare(&site, pins)?;
        let names: Vec<String> = pins.iter().map(|(pin, _)| format!("{}=={}", pin.name, pin.version)).collect();
        let names = names.join(", ");
        open_folders(&site)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = confined::run(self.tools, place, &arguments, &site.join("bin/python"), &names)?;
        if !output.status.success() {
            return Err(confined::failure(&names, &output));
        }
        confined::check_links(&site, &names)
    }

    /// An empty environment at `site`, and the arguments with which uv installs packages there.
    fn prepare(&self, site: &Path, pins: &[&(Pin<'_>, String)]) -> Result<Vec<String>, Error> {
        // One may be left of an attempt before.
        tree::remove_if_there(site)?;
        tree::skeleton(site, self.interpreter)?;
        let text: String = pins.iter().map(|(pin, _)| pin.text).collect();
        let file = site.join("wanted.txt");
        fs::write(&file, text).map_err(Error::io("write", &file))?;
        let (python, file) = (site.join("bin/python"), file.to_string_lossy().into_owned());
        let python = python.to_string_lossy().into_owned();
        let words = ["pip", "install", "--no-deps", "--require-hashes", "--link-mode", "hardlink", "--no-compile-bytecode"];
        let named = ["--python".to_owned(), python, "--requirement".to_owned(), file];
        Ok(words.into_iter().map(str::to_owned).chain(named).collect())
    }

    /// Whose the files in `site` are. A package of which another overwrote some is unpacked once more, alone.
    fn sorted_out<'p>(
        &self,
        site: &Path,
        missing: &[&'p (Pin<'p>, String)],
        alone: fn(&Self, &Path, &[&(Pin<'_>, String)]) -> Result<PathBuf, Error>,
    ) -> Result<Vec<Unpacked<'p>>, Error> {
        let mut claimed = claims(site, self.interpreter).map_err(Error::io("read", site))?;
        let mut owners: HashMap<String, u32> = HashMap::new();
        for path in claimed.values().flatten() {
            *owners.entry(path.clone()).or_default() += 1;
        }
        let mut packages = Vec::with_capacity(missing.len());
        for wanted in missing {
            let (pin, key) = wanted;
            let Some(files) = claimed.remove(&pin.name) else {
                if pin.is_conditional {
                    continue;
                }
                return Err(Error::Install {
                    packages: format!("{}=={}", pin.name, pin.version),
                    uv: "uv installed nothing".to_owned(),
                });
            };
            let package = if files.iter().any(|path| owners[path] > 1) {
                let site = alone(self, &self.staging.join(format!("alone-{key}")), &[wanted])?;
                let mut claimed = claims(&site, self.interpreter).map_err(Error::io("read", &site))?;
                Unpacked { pin, key, files: claimed.remove(&pin.name).unwrap_or_default(), site }
            } else {
                Unpacked { pin, key, files, site: site.to_owned() }
            };
            packages.push(package);
        }
        Ok(packages)
    }

    /// The files of each package as a layer of its own beside the store, with its description.
    fn copy(&self, packages: &[Unpacked<'_>]) -> Result<Vec<PathBuf>, Error> {
        let mut layers = Vec::with_capacity(packages.len());
        let mut files: Vec<(usize, PathBuf, PathBuf, &str)> = Vec::new();
        for (index, package) in packages.iter().enumerate() {
            let layer = self.staging.join(format!("layer-{}", package.key));
            let tree = layer.join("tree");
            let folders: HashSet<PathBuf> =
                package.files.iter().filter_map(|path| tree.join(path).parent().map(Path::to_owned)).collect();
            for folder in folders {
                fs::create_dir_all(&folder).map_err(Error::io("create", folder))?;
            }
            files.extend(package.files.iter().map(|path| (index, package.site.join(path), tree.join(path), path.as_str())));
            layers.push(layer);
        }
        let states: Vec<Mutex<Vec<FileState>>> = packages.iter().map(|_| Mutex::default()).collect();
        parallel::each(&files, |(index, from, to, path)| {
            let state = take(from, to, path).map_err(Error::io("write", to))?;
            states[*index].lock().unwrap_or_else(PoisonError::into_inner).push(state);
            Ok(())
        })?;
        for ((package, layer), states) in packages.iter().zip(&layers).zip(states) {
            let mut files = states.into_inner().unwrap_or_else(PoisonError::into_inner);
            files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            let Pin { name, version, .. } = package.pin;
            let description = Description { package: name.clone(), version: (*version).to_owned(), files };
            let file = layer.join(DESCRIPTION);
            let text = serde_json::to_vec(&description).map_err(|error| Error::io("write", &file)(error.into()))?;
            fs::write(&file, text).map_err(Error::io("write", &file))?;
        }
        Ok(layers)
    }
}

/// Lets the folders that are made in this one lie apart on the disk, with all that will be in them. ext4 without a journal does not take
/// an inode again for minutes after it was freed, and looks at each of these before it finds one: thousands of files where thousands
/// were removed cost ten times as much as elsewhere. A file system that does not know the flag needs none.
pub(crate) fn spread(folder: &Path) {
    let flag = || -> io::Result<()> {
        let folder = fs::File::open(folder)?;
        let flags = rustix::fs::ioctl_getflags(&folder)?;
        Ok(rustix::fs::ioctl_setflags(&folder, flags | rustix::fs::IFlags::TOPDIR)?)
    };
    let _ = flag();
}

/// Makes one file of a layer, read-only: moved there if nobody else has it, else copied (by reference where the file system can)
/// with its time, which byte code is tied to.
fn take(from: &Path, to: &Path, path: &str) -> io::Result<FileState> {
    let metadata = fs::symlink_metadata(from)?;
    let mode = 0o444 | (metadata.permissions().mode() & 0o111);
    // What another user built is copied, too: the store's files are ours.
    if metadata.is_file() && (metadata.nlink() > 1 || metadata.uid() != rustix::process::geteuid().as_raw()) {
        let mut copy = fs::File::options().write(true).create_new(true).mode(mode).open(to)?;
        io::copy(&mut fs::File::open(from)?, &mut copy)?;
        copy.set_modified(metadata.modified()?)?;
    } else {
        if metadata.is_file() {
            fs::set_permissions(from, fs::Permissions::from_mode(mode))?;
        }
        fs::rename(from, to)?;
    }
    state(to, path.to_owned())
}

fn counted<'a>(pins: impl Iterator<Item = &'a Pin<'a>>) -> String {
    let names: Vec<String> = pins.map(|pin| format!("{} {}", pin.name, pin.version)).collect();
    if names.len() <= 6 { names.join(", ") } else { format!("{} and {} more", names[..5].join(", "), names.len() - 5) }
}

/// Lets another user write into an empty environment.
fn open_folders(site: &Path) -> Result<(), Error> {
    let mut folders = vec![site.to_owned()];
    while let Some(folder) = folders.pop() {
        let open = || {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
            let below =
                fs::read_dir(&folder)?.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            Ok(below.map(|entry| entry.path()).collect::<Vec<_>>())
        };
        folders.extend(open().map_err(Error::io("open", &folder))?);
    }
    Ok(())
}

/// The files of every package in an environment, by normalised name, relative to it.
fn claims(site: &Path, interpreter: &Interpreter) -> io::Result<BTreeMap<String, Vec<String>>> {
    let packages = tree::site_packages(interpreter);
    let mut claimed = BTreeMap::new();
    for entry in fs::read_dir(site.join(&packages))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_suffix(".dist-info") else { continue };
        let package = crate::version::normalise(stem.rsplit_once('-').map_or(stem, |(package, _)| package));
        let record = fs::read_to_string(site.join(&packages).join(&name).join("RECORD"))?;
        let mut files: Vec<String> = record.lines().filter_map(|line| relative(&packages, record_path(line)?)).collect();
        files.retain(|path| site.join(path).symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()));
        let mut seen = HashSet::new();
        files.retain(|path| seen.insert(path.clone()));
        claimed.insert(package, files);
    }
    Ok(claimed)
}

/// The path of a line of a `RECORD` file, which is CSV.
fn record_path(line: &str) -> Option<String> {
    match line.strip_prefix('"') {
        None => line.split(',').next().filter(|path| !path.is_empty()).map(str::to_owned),
        Some(rest) => {
            let mut path = String::new();
            let mut characters = rest.chars().peekable();
            while let Some(c) = characters.next() {
                match (c, characters.peek()) {
                    ('"', Some('"')) => path.push(characters.next()?),
                    ('"', _) => return Some(path),
                    _ => path.push(c),
                }
            }
            None
        }
    }
}

/// `../../../bin/x`, seen from site-packages, as `bin/x`; nothing that leads out of the environment.
fn relative(packages: &Path, path: String) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in packages.join(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?.to_owned()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// Moves a finished layer into the store.
fn publish(tools: &Tools<'_>, package: &Unpacked<'_>, layer: &Path) -> Result<(), Error> {
    let place = tools.store.join(package.key);
    match fs::rename(layer, &place) {
        // Another process was faster; the rest is removed with the staging folder.
        Err(_) if open(tools.store, package.key).is_ok() => Ok(()),
        Err(first) => {
            // What is there is no layer.
            discard(tools.store, package.key)?;
            fs::rename(layer, &place).map_err(|_| Error::io("create", &place)(first))
        }
        Ok(()) => Ok(()),
    }
}

/// A layer of files that are there.
#[cfg(test)]
pub(crate) fn layer_of(package: &str, tree: &Path, paths: impl Iterator<Item = String>) -> io::Result<Layer> {
    let files = paths.map(|path| state(&tree.join(&path), path)).collect::<io::Result<_>>()?;
    let (package, version) = (package.to_owned(), "1.0".to_owned());
    Ok(Layer { key: package.clone(), package, version, tree: tree.to_owned(), files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let path = |line: &str| record_path(line);
        assert_eq!(path("a/b.py,sha256=x,12").as_deref(), Some("a/b.py"));
        assert_eq!(path("\"a, \"\"b\"\".py\",sha256=x,12").as_deref(), Some("a, \"b\".py"));
        assert_eq!((path(""), path("\"a")), (None, None));
    }

    #[test]
    fn paths_stay_in_the_environment() {
        let packages = Path::new("lib/python3.11/site-packages");
        let check = |path: &str| relative(packages, path.to_owned());
        assert_eq!(check("a/b.py").as_deref(), Some("lib/python3.11/site-packages/a/b.py"));
        assert_eq!(check("../../../bin/x").as_deref(), Some("bin/x"));
        assert_eq!(check("./a/../c.py").as_deref(), Some("lib/python3.11/site-packages/c.py"));
        assert_eq!((check("../../../../x"), check("/etc/passwd"), check("../../..")), (None, None, None));
    }
    #[test]
    fn the_modules_that_show_that_a_package_imports() {
        let folder = tempfile::tempdir().unwrap();
        let modules = |package: &str, top_level: &str, files: &[&str]| {
            let tree = folder.path().join(package);
            let site = tree.join("lib/python3.11/site-packages");
            let all = files.iter().copied().chain(["x-1.0.dist-info/top_level.txt"]);
            let paths: Vec<String> = all.map(|file| format!("lib/python3.11/site-packages/{file}")).collect();
            for path in &paths {
                fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
                fs::write(tree.join(path), "").unwrap();
            }
            fs::write(site.join("x-1.0.dist-info/top_level.txt"), top_level).unwrap();
            layer_of(package, &tree, paths.into_iter()).unwrap().modules()
        };
        assert_eq!(modules("scikit-learn", "sklearn\n", &["sklearn/__init__.py", "sklearn/base.py"]), ["sklearn"]);
        assert_eq!(modules("my-own", "", &["other/__init__.py", "My_Own/__init__.py"]), ["My_Own"]);
        assert_eq!(modules("pyyaml", "_yaml\nyaml", &["yaml/__init__.py", "_yaml/__init__.py"]), ["yaml"]);
        assert_eq!(modules("six", "", &["six.py", "fast.cpython-311-x86_64-linux-gnu.so", "data/x.py"]), ["six"]);
        assert_eq!(modules("tools", "", &["fast.cpython-311-x86_64-linux-gnu.so", "a-b.py", "a.b/__init__.py"]), ["fast"]);
        assert_eq!(modules("stubs", "", &["stubs.pyi"]), [String::new(); 0]);
    }
}
