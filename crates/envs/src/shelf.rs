//! The environments that are there: listed, kept from being removed while they are used, and removed when they take too much.
//!
//! `envs/<hash>.used` is locked shared by whoever uses an environment, and its time of change is when that was last;
//! `envs/<hash>.lock` is locked exclusively by who builds it. Who removes it locks both. `store/lock` is locked shared while layers
//! are fetched or linked, and exclusively while layers are removed. None of these files is ever removed, so nobody locks a
//! file that is gone.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::build::{self, Described};
use crate::{Error, Options, store, tree};

/// Bytes of packages that are kept, unless the options say otherwise.
pub const BYTES_MAX_DEFAULT: u64 = 20 << 30;

/// Keeps an environment from being removed for as long as any copy of it lives.
#[derive(Debug, Clone)]
pub struct Lease(#[allow(dead_code, reason = "the open file holds the lock")] Arc<File>);

/// Who holds an environment makes no difference to what it is.
impl PartialEq for Lease {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Lease {}

/// An environment in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Hash of lock and interpreter.
    pub hash: String,
    /// The folder.
    pub folder: PathBuf,
    /// `3.11.7`
    pub version: String,
    /// The interpreter it was made with.
    pub interpreter: PathBuf,
    /// What was asked for, as requirements.
    pub requirements: Vec<String>,
    /// Every package, its version and its bytes.
    pub packages: Vec<(String, String, u64)>,
    /// Paths that two packages hold: path, package whose file is there, the other package.
    pub clashes: Vec<(String, String, String)>,
    /// Bytes of its packages; environments with the same package share them.
    pub bytes: u64,
    /// When it was last asked for.
    pub last_used: Option<SystemTime>,
    /// Whether a run uses it now.
    pub in_use: bool,
    /// The lock it was made from.
    pub lock: String,
}

/// What [`collect`] did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Hashes of environments that were removed, the longest unused first.
    pub environments: Vec<String>,
    /// Packages that no environment uses any more: name and version.
    pub packages: Vec<(String, String)>,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Bytes of packages that are left.
    pub left_bytes: u64,
    /// Environments that would have gone but are in use.
    pub in_use: usize,
    /// Something is being made now, so packages were left alone.
    pub busy: bool,
}

pub(crate) fn lock_file(folder: &Path, hash: &str) -> PathBuf {
    folder.join(format!("{hash}.lock"))
}

fn used_file(folder: &Path, hash: &str) -> PathBuf {
    folder.join(format!("{hash}.used"))
}

pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Marks an environment as used from now on; fails while it is being removed.
pub(crate) fn lease(folder: &Path, hash: &str) -> io::Result<Lease> {
    let file = open_lock(&used_file(folder, hash))?;
    match file.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    // Only the order of removal depends on it.
    let _ = file.set_modified(SystemTime::now());
    Ok(Lease(Arc::new(file)))
}

/// Held while layers are fetched and linked.
pub(crate) fn hold_store(store: &Path) -> io::Result<File> {
    let file = open_lock(&store.join("lock"))?;
    file.lock_shared()?;
    Ok(file)
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = folder.read_dir().map_err(Error::io("read", folder))?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Every finished environment, the one used last first.
pub(crate) fn list(folder: &Path, store: &Path) -> Result<Vec<Listed>, Error> {
    let mut listed: Vec<Listed> =
        names(folder)?.into_iter().filter(|name| is_hash(name)).filter_map(|hash| entry(folder, store, hash)).collect();
    listed.sort_by(|a, b| (b.last_used, &a.hash).cmp(&(a.last_used, &b.hash)));
    Ok(listed)
}

fn entry(folder: &Path, store: &Path, hash: String) -> Option<Listed> {
    let place = folder.join(&hash);
    let Described { environment, description } = build::open(&place, store).ok()?;
    let used = used_file(folder, &hash);
    let in_use = open_lock(&used).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
    let last_used = fs::metadata(&used).and_then(|metadata| metadata.modified()).ok();
    let sizes: HashMap<String, u64> = description
        .layers
        .iter()
        .filter_map(|key| store::open(store, key).ok())
        .map(|layer| (layer.package.clone(), layer.bytes()))
        .collect();
    let packages = environment.packages.into_iter().map(|(name, version)| {
        let bytes = sizes.get(&name).copied().unwrap_or_default();
        (name, version, bytes)
    });
    Some(Listed {
        version: environment.version,
        interpreter: description.interpreter,
        requirements: description.requirements,
        packages: packages.collect(),
        clashes: description.clashes,
        bytes: sizes.values().sum(),
        last_used,
        in_use,
        lock: fs::read_to_string(place.join("forebay.lock")).unwrap_or_default(),
        folder: place,
        hash,
    })
}

/// Removes what interrupted builders left; then the environments that were not used for longest, until their packages take no
/// more than `bytes_max`; and the packages that nothing uses. What a run uses stays.
pub(crate) fn collect(folder: &Path, store: &Path, bytes_max: u64, dry_run: bool) -> Result<Collected, Error> {
    let mut done = Collected::default();
    if !dry_run {
        remove_leftovers(folder)?;
    }
    let guard = open_lock(&store.join("lock")).map_err(Error::io("open", store))?;
    done.busy = guard.try_lock().is_err();
    let mut layers: HashMap<String, store::Layer> = HashMap::new();
    for key in names(store)?.into_iter().filter(|name| is_hash(name)) {
        match store::open(store, &key) {
            Ok(layer) => drop(layers.insert(key, layer)),
            Err(_) if dry_run || done.busy => {}
            Err(_) => store::discard(store, &key)?,
        }
    }
    if !dry_run && !done.busy {
        for name in names(store)?.iter().filter(|name| name.starts_with("damaged-")) {
            fs::remove_dir_all(store.join(name)).map_err(Error::io("remove", store.join(name)))?;
        }
    }
    done.left_bytes = layers.values().map(store::Layer::bytes).sum();
    let mut uses: HashMap<String, HashSet<String>> = HashMap::new();
    let mut listed = list(folder, store)?;
    for one in &listed {
        let keys = build::open(&one.folder, store).map(|described| described.description.layers).unwrap_or_default();
        uses.insert(one.hash.clone(), keys.into_iter().collect());
    }
    let mut drop_unused = |uses: &HashMap<String, HashSet<String>>, done: &mut Collected| -> Result<(), Error> {
        if done.busy {
            return Ok(());
        }
        let unused: Vec<String> = layers.keys().filter(|key| !uses.values().any(|used| used.contains(*key))).cloned().collect();
        for key in unused {
            if done.left_bytes <= bytes_max {
                return Ok(());
            }
            let Some(layer) = layers.remove(&key) else { continue };
            if !dry_run {
                store::discard(store, &key)?;
            }
            done.left_bytes -= layer.bytes();
            done.freed_bytes += layer.bytes();
            done.packages.push((layer.package, layer.version));
        }
        Ok(())
    };
    drop_unused(&uses, &mut done)?;
    while done.left_bytes > bytes_max {
        let Some(oldest) = listed.pop() else { break };
        if oldest.in_use || !(dry_run || remove(folder, &oldest.hash)?) {
            done.in_use += 1;
            continue;
        }
        uses.remove(&oldest.hash);
        done.environments.push(oldest.hash);
        drop_unused(&uses, &mut done)?;
    }
    if !dry_run {
        remove_memos(folder)?;
    }
    Ok(done)
}

/// Removes an environment unless somebody uses it. Whether it was removed.
fn remove(folder: &Path, hash: &str) -> Result<bool, Error> {
    let locks = [lock_file(folder, hash), used_file(folder, hash)];
    let mut held = Vec::new();
    for path in locks {
        let file = open_lock(&path).map_err(Error::io("open", path))?;
        if file.try_lock().is_err() {
            return Ok(false);
        }
        held.push(file);
    }
    let (place, aside) = (folder.join(hash), folder.join(format!("{hash}.building-removed")));
    // First out of the way, with one rename: nobody opens half an environment.
    fs::rename(&place, &aside).map_err(Error::io("remove", &place))?;
    fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside))?;
    Ok(true)
}

/// Folders of builders that are gone: their lock is free.
fn remove_leftovers(folder: &Path) -> Result<(), Error> {
    let unfinished = |name: &str| is_hash(name) && !build::is_finished(&folder.join(name));
    for name in names(folder)? {
        let hash = match name.split_once(".building-") {
            Some((hash, _)) => hash,
            None if unfinished(&name) => &name,
            None => continue,
        };
        let file = open_lock(&lock_file(folder, hash)).map_err(Error::io("open", folder))?;
        // It may have been finished before the lock was free.
        if file.try_lock().is_ok() && (hash != name || unfinished(&name)) {
            tree::remove_if_there(&folder.join(&name))?;
        }
    }
    Ok(())
}

/// Memos that name an environment which is not there.
fn remove_memos(folder: &Path) -> Result<(), Error> {
    let requests = folder.join("requests");
    for name in names(&requests)? {
        let path = requests.join(&name);
        let target = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<crate::Memo>(&bytes).ok());
        if target.is_none_or(|memo| !folder.join(memo.environment).is_dir()) {
            // One that stays only makes a run look twice.
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

/// The cap of the options, `FOREBAY_ENVIRONMENTS_MAX`, or the default.
pub(crate) fn bytes_max(options: &Options) -> u64 {
    let variable = || std::env::var("FOREBAY_ENVIRONMENTS_MAX").ok().and_then(|text| parse_bytes(&text));
    options.bytes_max.or_else(variable).unwrap_or(BYTES_MAX_DEFAULT)
}

/// Bytes of `20G`, `512MiB` or `1000`: powers of 1024.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * f64::from(2_u32).powi(scale);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked to be within 0 and 2^60
    (0.0..=2_f64.powi(60)).contains(&bytes).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let sizes = ["0", "1000", "1k", "1.5 GiB", "20G", "2TB"].map(parse_bytes);
        assert_eq!(sizes, [Some(0), Some(1000), Some(1024), Some(3 << 29), Some(20 << 30), Some(2 << 40)]);
        assert_eq!([parse_bytes(""), parse_bytes("G"), parse_bytes("-1"), parse_bytes("1X"), parse_bytes("9999999T")], [None; 5]);
    }
}
