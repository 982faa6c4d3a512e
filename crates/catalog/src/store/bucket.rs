//! A store in an object store (S3, GCS, Azure and what speaks like them), through conditional puts.
//!
//! ```text
//! create:  put if no such key
//! swap:    put if the key's e-tag is still that of the expected value; the e-tag comes from the last read
//! delete:  a swap to a tombstone, since object stores have no conditional delete; it reads as "no such key"
//! ```
//!
//! What may happen to a call: it fails before or after it was done, its answer is lost, it comes twice, it comes late.
//! A read is just tried again. So is `create`, because equal keys have equal values. A `swap` without an answer is
//! reported as `unknown`, and who knows what it was about finds out (see `Refs::swap`); put again, it either finds its
//! expected value and succeeds once, or has succeeded before. The wrapped store must not itself repeat conditional
//! puts: a repeated one that had succeeded looks like a lost race.

use super::{Store, StoreError};
use crate::limits::{
    BUCKET_CALL_SECONDS_MAX, BUCKET_CALLS_AT_ONCE_MAX, BUCKET_PAUSE_MILLIS, BUCKET_PAUSE_MILLIS_MAX, BUCKET_READ_ATTEMPTS_MAX,
    KNOWN_VERSIONS_MAX,
};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::time;

/// How long a commit that a ref led to may be named without looking again. Shorter than any grace time of a collection.
const SEEN_LATELY: Duration = Duration::from_secs(60);

/// A pin of nothing, by which a collection learns the store's time.
const CLOCK: &str = "clock";

/// A ref as it was last read or written.
#[derive(Clone)]
struct Seen {
    bytes: Vec<u8>,
    version: UpdateVersion,
    at: Instant,
}

/// What stands where a ref was deleted.
const TOMBSTONE: &[u8] = b"\0deleted\n";

/// A prefix of an object store. Methods block, and must not be called from async code.
pub struct BucketStore {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
    /// For messages.
    name: Option<String>,
    runtime: Runtime,
    /// Values as last read or written, with their versions, so that a swap needs no read of its own.
    known: Mutex<HashMap<String, Seen>>,
}

type Outcome<T> = Result<T, object_store::Error>;

impl BucketStore {
    /// Everything below `prefix` (may be empty) of `inner`, which must support [`PutMode::Create`] and
    /// [`PutMode::Update`], and must not repeat puts by itself.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("bucket").enable_all().build()?;
        let prefix = prefix.trim_matches('/').to_owned();
        Ok(Self { inner, prefix, name: None, runtime, known: Mutex::default() })
    }

    /// The same, called so in messages: `s3://bucket/prefix`.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let whole = if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        Path::parse(&whole).map_err(|error| self.failed("use", key, io::Error::new(io::ErrorKind::InvalidInput, error), false))
    }

    fn failed(&self, verb: &'static str, key: &str, source: io::Error, unknown: bool) -> StoreError {
        StoreError { verb, place: format!("{}/{key}", self.location()), source, unknown }
    }

    fn told(&self, verb: &'static str, key: &str, error: object_store::Error) -> StoreError {
        let unknown = is_unknown(&error);
        let kind = match &error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                io::ErrorKind::PermissionDenied
            }
            object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
            object_store::Error::Generic { .. } => io::ErrorKind::NotConnected,
            _ => io::ErrorKind::Other,
        };
        self.failed(verb, key, io::Error::new(kind, without_queries(&error.to_string())), unknown)
    }

    fn learn(&self, key: &str, value: Option<(Vec<u8>, UpdateVersion)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_VERSIONS_MAX {
            known.clear();
        }
        match value {
            Some((bytes, version)) => known.insert(key.to_owned(), Seen { bytes, version, at: Instant::now() }),
            None => known.remove(key),
        };
    }

    /// The value and version at a key, tombstones too. Objects never change, so only refs are remembered.
    async fn fetch(&self, key: &str, path: &Path) -> Outcome<Option<(Vec<u8>, UpdateVersion)>> {
        let mut attempt = 1;
        loop {
            let found = timed(async {
                let got = self.inner.get_opts(path, GetOptions::default()).await?;
                let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                Ok((got.bytes().await?.to_vec(), version))
            })
            .await;
            let value = match found {
                Ok(value) => Some(value),
                Err(object_store::Error::NotFound { .. }) => None,
                Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => {
                    time::sleep(pause(attempt)).await;
                    attempt += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !key.starts_with("objects/") {
                self.learn(key, value.clone());
            }
            return Ok(value);
        }
    }

    async fn put(&self, path: &Path, bytes: &[u8], mode: PutMode) -> Outcome<UpdateVersion> {
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = timed(self.inner.put_opts(path, PutPayload::from(bytes.to_vec()), options)).await?;
        Ok(UpdateVersion { e_tag: put.e_tag, version: put.version })
    }

    /// The version of the expected value; `None`: something else is there.
    async fn version_of(&self, key: &str, path: &Path, expected: &[u8]) -> Outcome<Option<UpdateVersion>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        if let Some(seen) = known.filter(|seen| seen.bytes == expected) {
            return Ok(Some(seen.version));
        }
        Ok(self.fetch(key, path).await?.filter(|(bytes, _)| bytes == expected).map(|(_, version)| version))
    }

    /// Puts `new` where `expected` is (`None`: nothing, or a tombstone).
    async fn exchange(&self, key: &str, path: &Path, expected: Option<&[u8]>, new: &[u8]) -> Outcome<bool> {
        let first = match expected {
            Some(expected) => match self.version_of(key, path, expected).await? {
                Some(version) => self.put(path, new, PutMode::Update(version)).await,
                None => return Ok(false),
            },
            None => self.put(path, new, PutMode::Create).await,
        };
        let done = match first {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) if expected.is_none() => {
                match self.fetch(key, path).await? {
                    Some((bytes, version)) if bytes == TOMBSTONE => self.put(path, new, PutMode::Update(version)).await,
                    _ => return Ok(false),
                }
            }
            other => other,
        };
        match done {
            Ok(version) => {
                self.learn(key, Some((new.to_vec(), version)));
                Ok(true)
            }
            Err(error) => {
                self.learn(key, None);
                match error {
                    object_store::Error::Precondition { .. }
                    | object_store::Error::AlreadyExists { .. }
                    | object_store::Error::NotFound { .. } => Ok(false),
                    other => Err(other),
                }
            }
        }
    }

    /// Writes that a store must refuse, of the value that is there: whichever it lets pass changes nothing.
    async fn refuses_writes(&self, key: &str, path: &Path) -> Outcome<bool> {
        let Some((bytes, _)) = self.fetch(key, path).await? else { return Ok(true) };
        // An e-tag and a generation that nothing has.
        let nobodys = UpdateVersion { e_tag: Some("\"00000000000000000000000000000000\"".into()), version: Some("1".into()) };
        for mode in [PutMode::Create, PutMode::Update(nobodys)] {
            let mut attempt = 1;
            loop {
                match self.put(path, &bytes, mode.clone()).await {
                    Ok(_) => return Ok(false),
                    Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => {
                        time::sleep(pause(attempt)).await;
                        attempt += 1;
                    }
                    Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                        return Ok(false);
                    }
                    // Also those who may only read: they will not get as far as a swap.
                    Err(error) if is_unknown(&error) => return Err(error),
                    Err(_) => break,
                }
            }
        }
        Ok(true)
    }

    /// Every object below a path, with its time and size.
    async fn all_below(&self, path: &Path) -> Outcome<Vec<(Path, i64, u64)>> {
        let mut attempt = 1;
        loop {
            let listed: Outcome<Vec<ObjectMeta>> = self.inner.list(Some(path)).try_collect().await;
            match listed {
                Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => {
                    time::sleep(pause(attempt)).await;
                    attempt += 1;
                }
                listed => {
                    let facts = |meta: ObjectMeta| (meta.location, meta.last_modified.timestamp_millis(), meta.size);
                    return Ok(listed?.into_iter().map(facts).collect());
                }
            }
        }
    }

    /// Whether a ref led to this commit a moment ago, as this process saw it.
    fn saw_lately(&self, commit: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |bytes: &[u8]| bytes.windows(commit.len().max(1)).any(|part| part == commit.as_bytes());
        known.values().any(|seen| seen.at.elapsed() < SEEN_LATELY && holds(&seen.bytes))
    }

    async fn names(&self, path: &Path) -> Outcome<Vec<String>> {
        let listed = timed(self.inner.list_with_delimiter(Some(path))).await?;
        let mut names: BTreeSet<String> = listed.common_prefixes.iter().filter_map(last_part).collect();
        for object in listed.objects {
            // A value of a tombstone's size is looked at; none of the catalog's own is so small.
            if object.size == TOMBSTONE.len() as u64 {
                let found = self.fetch("objects/", &object.location).await?;
                if found.is_none_or(|(bytes, _)| bytes == TOMBSTONE) {
                    continue;
                }
            }
            names.extend(last_part(&object.location));
        }
        Ok(names.into_iter().filter(|name| !name.starts_with('.')).collect())
    }
}

/// A time to wait after so many attempts, of random length so that those who met do not meet again.
fn pause(attempt: u32) -> Duration {
    let limit = BUCKET_PAUSE_MILLIS.saturating_mul(1 << attempt.min(16)).min(BUCKET_PAUSE_MILLIS_MAX);
    let random = RandomState::new().hash_one(attempt);
    Duration::from_millis(limit / 4 + random % (limit - limit / 4))
}

/// Addresses in a text without what follows a `?`, where some stores carry signatures.
fn without_queries(text: &str) -> String {
    let words = text.split(' ').map(|word| if word.contains("://") { word.split('?').next().unwrap_or(word) } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// The last part of a name and its time; tombstones are not there.
fn stamp((path, millis, bytes): (Path, i64, u64)) -> Option<(String, i64)> {
    if bytes == TOMBSTONE.len() as u64 { None } else { Some((last_part(&path)?, millis)) }
}

fn last_part(path: &Path) -> Option<String> {
    path.filename().map(str::to_owned)
}

/// A call that takes too long has no answer.
async fn timed<T>(call: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let limit = Duration::from_secs(BUCKET_CALL_SECONDS_MAX);
    time::timeout(limit, call)
        .await
        .unwrap_or_else(|late| Err(object_store::Error::Generic { store: "bucket", source: Box::new(late) }))
}

/// Whether the call may have been done all the same.
fn is_unknown(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. } | object_store::Error::JoinError { .. })
}

impl Store for BucketStore {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(key)?;
        let found = self.runtime.block_on(self.fetch(key, &path)).map_err(|error| self.told("read", key, error))?;
        Ok(found.map(|(bytes, _)| bytes).filter(|bytes| bytes != TOMBSTONE))
    }

    fn read_all(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let read = |key: &String| {
            let key = key.clone();
            async move {
                let path = self.path(&key)?;
                let found = self.fetch(&key, &path).await.map_err(|error| self.told("read", &key, error))?;
                Ok(found.map(|(bytes, _)| bytes).filter(|bytes| bytes != TOMBSTONE))
            }
        };
        let calls: Vec<_> = keys.iter().map(read).collect();
        self.runtime.block_on(futures::stream::iter(calls).buffered(BUCKET_CALLS_AT_ONCE_MAX).try_collect())
    }

    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        let path = self.path(key)?;
        let mut attempt = 1;
        loop {
            match self.runtime.block_on(self.exchange(key, &path, None, bytes)) {
                Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => {
                    self.contended(attempt);
                    attempt += 1;
                }
                done => return done.map_err(|error| self.told("write", key, error)),
            }
        }
    }

    fn swap(&self, key: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
        let path = self.path(key)?;
        if expected.is_none() && new.is_none() {
            return Ok(self.read(key)?.is_none());
        }
        let exchange = self.exchange(key, &path, expected, new.unwrap_or(TOMBSTONE));
        self.runtime.block_on(exchange).map_err(|error| self.told("write", key, error))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(folder)?;
        let mut attempt = 1;
        loop {
            match self.runtime.block_on(self.names(&path)) {
                Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => {
                    self.contended(attempt);
                    attempt += 1;
                }
                listed => return listed.map_err(|error| self.told("list", folder, error)),
            }
        }
    }

    fn touch(&self, key: &str) -> Result<bool, StoreError> {
        let name = key.rsplit('/').next().unwrap_or(key);
        if self.saw_lately(name) {
            return Ok(true);
        }
        self.left(key)?;
        Ok(self.read(&format!("dead/{name}"))?.is_none())
    }

    fn left(&self, key: &str) -> Result<(), StoreError> {
        let pin = format!("pins/{}", key.rsplit('/').next().unwrap_or(key));
        let path = self.path(&pin)?;
        // Different each time, so that one pin cannot be taken for another.
        let value = format!("{:016x}{:016x}\n", RandomState::new().hash_one(0), RandomState::new().hash_one(1));
        let put = || self.runtime.block_on(self.put(&path, value.as_bytes(), PutMode::Overwrite));
        let mut attempt = 1;
        loop {
            match put() {
                Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => {
                    self.contended(attempt);
                    attempt += 1;
                }
                done => return done.map(drop).map_err(|error| self.told("write", &pin, error)),
            }
        }
    }

    fn buries(&self) -> bool {
        true
    }

    fn stamps(&self, folder: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let path = self.path(folder)?;
        let listed = self.runtime.block_on(self.all_below(&path)).map_err(|error| self.told("list", folder, error))?;
        Ok(listed
            .into_iter()
            .filter(|(place, ..)| place.prefix_match(&path).is_some_and(|rest| rest.count() == 1))
            .filter_map(stamp)
            .collect())
    }

    fn stamps_below(&self, folder: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let path = self.path(folder)?;
        let listed = self.runtime.block_on(self.all_below(&path)).map_err(|error| self.told("list", folder, error))?;
        Ok(listed.into_iter().filter_map(stamp).collect())
    }

    fn now_millis(&self) -> Result<i64, StoreError> {
        self.left(CLOCK)?;
        let stamps = self.stamps("pins")?;
        let now = stamps.into_iter().find(|(name, _)| name == CLOCK).map(|(_, stamp)| stamp);
        now.ok_or_else(|| {
            self.failed("read", "pins", io::Error::new(io::ErrorKind::NotFound, "what was just written is not there"), false)
        })
    }

    fn verify(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match self.runtime.block_on(self.refuses_writes(key, &path)) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let why = "it writes although the condition of the write does not hold";
                Err(self.failed("swap", key, io::Error::new(io::ErrorKind::Unsupported, why), false))
            }
            Err(error) => Err(self.told("write", key, error)),
        }
    }

    fn contended(&self, attempt: u32) {
        self.runtime.block_on(async { time::sleep(pause(attempt)).await });
    }

    fn location(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("{}/{}", self.inner, self.prefix))
    }
}
