//! A store in memory: for tests, and the plainest reading of what [`Store`] means.

use super::{Store, StoreError};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A map behind a lock.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryStore {
    fn values(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values().get(key).cloned())
    }

    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.swap(key, None, Some(bytes))
    }

    fn swap(&self, key: &str, expected: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
        let mut values = self.values();
        if values.get(key).map(Vec::as_slice) != expected {
            return Ok(false);
        }
        match new {
            Some(bytes) => values.insert(key.to_owned(), bytes.to_vec()),
            None => values.remove(key),
        };
        Ok(true)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let values = self.values();
        let below = values.keys().filter_map(|key| key.strip_prefix(folder)?.strip_prefix('/'));
        let mut names: Vec<String> = below.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}
