//! What the catalog needs of storage: four operations, any implementation of which passes the conformance suite.
//!
//! Keys are `/`-separated paths made by the catalog from checked names (`objects/ab/…`, `refs/branches/main`).
//! An object store implements [`Store::create`] and [`Store::swap`] with conditional puts ([`BucketStore`]).

mod bucket;
#[cfg(test)]
pub(crate) mod conformance;
mod local;
mod memory;

pub use bucket::BucketStore;
pub use local::LocalStore;
pub use memory::MemoryStore;

/// Blocking storage of small values, shared by threads and, unless in memory, by processes.
///
/// Guarantees every implementation gives: a reader sees a whole value or none; what `create` or `swap` reported
/// survives a crash of process and machine; of several `swap`s expecting the same value at most one succeeds.
pub trait Store: Send + Sync + 'static {
    /// The value at `key`, or `None`.
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// The values at several keys, in their order. Where a call takes long, they are read at the same time.
    fn read_all(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        keys.iter().map(|key| self.read(key)).collect()
    }

    /// Writes `bytes` unless the key exists; says whether it did. Either way the key is durable afterwards, and young.
    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError>;

    /// Replaces the value `expected` (`None`: no such key) by `new` (`None`: delete it); says whether it did.
    fn swap(&self, key: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError>;

    /// Sorted names directly below `folder`; a folder nothing was written to is empty. Hidden names are left out.
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError>;

    /// Makes the value at a key young, and says whether it is there. Stores without collection keep everything.
    fn touch(&self, _key: &str) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Does `work` while nobody swaps, touches or finds a key that exists in `create`; of `work` itself only reads and
    /// [`Store::remove`] are allowed. `false`: this store cannot, and nothing was done.
    fn exclusively(&self, _work: &mut dyn FnMut()) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Names directly below `folder` and when they were written or touched, in milliseconds since 1970.
    fn stamps(&self, _folder: &str) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(Vec::new())
    }

    /// The same for everything below `folder`, whatever folders it is in: the last part of each name.
    fn stamps_below(&self, folder: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let mut found = Vec::new();
        for inner in self.list(folder)? {
            found.extend(self.stamps(&format!("{folder}/{inner}"))?);
        }
        Ok(found)
    }

    /// The time by the clock that stamps are taken from, in milliseconds since 1970.
    fn now_millis(&self) -> Result<i64, StoreError> {
        Ok(chrono::Utc::now().timestamp_millis())
    }

    /// Whether objects stay here for ever and lost commits are buried instead; then [`Store::touch`] says whether one is.
    fn buries(&self) -> bool {
        false
    }

    /// A ref leaves this object, which whoever saw the ref may name for a while.
    fn left(&self, _key: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Deletes a value; only while [`Store::exclusively`] works.
    fn remove(&self, _key: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Finds out whether the store compares before it swaps, as some object stores do not. `key` has a value, and keeps it.
    fn verify(&self, _key: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits before something is tried again that another writer, or a store in trouble, was in the way of. Returns at once where
    /// trying costs next to nothing.
    fn contended(&self, _attempt: u32) {}

    /// Where the store is, for messages.
    fn location(&self) -> String;
}

/// Storage failed: what was tried, and where.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} `{place}`")]
pub struct StoreError {
    /// `read`, `write`, `list`, …
    pub verb: &'static str,
    /// Full path or key.
    pub place: String,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
    /// The answer was lost: it may have been done, or be done later, or not at all.
    pub unknown: bool,
}

impl StoreError {
    /// There is no room left: disk, quota or file size limit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind;
        matches!(self.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
    }

    /// The store ignores conditions of writes, so nothing can be swapped safely.
    #[must_use]
    pub fn is_unconditional(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::Unsupported
    }

    /// It is an object store that could not be reached, or did not let us in.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.place.contains("://")
    }

    /// What lies there was not written by a catalog (a folder, a pipe, a name that is not text).
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::InvalidData
    }
}
