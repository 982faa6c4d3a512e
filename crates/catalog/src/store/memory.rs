//! A store in memory: for tests, and the plainest reading of what [`Store`] means.

use super::{Store, StoreError};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A map behind a lock.
#[derive(Debug, Default)]
pub struct MemoryStore {
    values: Mutex<BTreeMap<String, Vec<u8>>>,
    /// When each value was written or touched.
    stamps: Mutex<BTreeMap<String, i64>>,
    /// Held while something is swapped, touched, or collected.
    stopped: Mutex<()>,
}

impl MemoryStore {
    fn values(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, BTreeMap<String, i64>> {
        self.stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every value so much older.
    #[cfg(test)]
    pub(crate) fn age(&self, millis: i64) {
        self.written().values_mut().for_each(|stamp| *stamp -= millis);
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
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
        let _turn = self.turn();
        let mut stamps = self.written();
        let mut values = self.values();
        if values.contains_key(key) || new.is_some() {
            stamps.insert(key.to_owned(), chrono::Utc::now().timestamp_millis());
        }
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

    fn touch(&self, key: &str) -> Result<bool, StoreError> {
        let _turn = self.turn();
        let mut stamps = self.written();
        let there = self.values().contains_key(key);
        if there {
            stamps.insert(key.to_owned(), chrono::Utc::now().timestamp_millis());
        }
        Ok(there)
    }

    fn exclusively(&self, work: &mut dyn FnMut()) -> Result<bool, StoreError> {
        let _turn = self.turn();
        work();
        Ok(true)
    }

    fn stamps(&self, folder: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let names = self.list(folder)?;
        let stamps = self.written();
        Ok(names.into_iter().map(|name| (name.clone(), stamps.get(&format!("{folder}/{name}")).copied().unwrap_or(0))).collect())
    }

    fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.values().remove(key);
        Ok(())
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}
