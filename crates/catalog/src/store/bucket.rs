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
use crate::limits::{BUCKET_CALL_SECONDS_MAX, BUCKET_CALLS_AT_ONCE_MAX, BUCKET_READ_ATTEMPTS_MAX, KNOWN_VERSIONS_MAX};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload, UpdateVersion};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// What stands where a ref was deleted.
const TOMBSTONE: &[u8] = b"\0deleted\n";

/// A prefix of an object store. Methods block, and must not be called from async code.
pub struct BucketStore {
    inner: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: Runtime,
    /// Values as last read or written, with their versions, so that a swap needs no read of its own.
    known: Mutex<HashMap<String, (Vec<u8>, UpdateVersion)>>,
}

type Outcome<T> = Result<T, object_store::Error>;

impl BucketStore {
    /// Everything below `prefix` (may be empty) of `inner`, which must support [`PutMode::Create`] and
    /// [`PutMode::Update`], and must not repeat puts by itself.
    pub fn new(inner: Arc<dyn ObjectStore>, prefix: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("bucket").enable_all().build()?;
        Ok(Self { inner, prefix: prefix.trim_matches('/').to_owned(), runtime, known: Mutex::default() })
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
            _ => io::ErrorKind::Other,
        };
        self.failed(verb, key, io::Error::new(kind, error), unknown)
    }

    fn learn(&self, key: &str, value: Option<(Vec<u8>, UpdateVersion)>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_VERSIONS_MAX {
            known.clear();
        }
        match value {
            Some(value) => known.insert(key.to_owned(), value),
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
        if let Some((bytes, version)) = known
            && bytes == expected
        {
            return Ok(Some(version));
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

fn last_part(path: &Path) -> Option<String> {
    path.filename().map(str::to_owned)
}

/// A call that takes too long has no answer.
async fn timed<T>(call: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let limit = Duration::from_secs(BUCKET_CALL_SECONDS_MAX);
    tokio::time::timeout(limit, call)
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
                Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => attempt += 1,
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
                Err(error) if is_unknown(&error) && attempt < BUCKET_READ_ATTEMPTS_MAX => attempt += 1,
                listed => return listed.map_err(|error| self.told("list", folder, error)),
            }
        }
    }

    fn location(&self) -> String {
        format!("{}/{}", self.inner, self.prefix)
    }
}
