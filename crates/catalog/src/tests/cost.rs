//! What a new branch costs, counted in calls of the store and in bytes: the same in a lake of 10 and of 10,000 tables.

use super::*;
use crate::StoreError;
use std::sync::Mutex;

/// Counts what is done to a store.
#[derive(Default)]
struct Counting {
    inner: MemoryStore,
    done: Mutex<Cost>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Cost {
    /// What was called, in order, with the first part of the key.
    calls: Vec<String>,
    read_bytes: usize,
    written_bytes: usize,
}

impl Counting {
    fn note(&self, call: &str, key: &str, read: usize, written: usize) {
        let mut done = self.done.lock().unwrap();
        done.calls.push(format!("{call} {}", key.split('/').next().unwrap()));
        done.read_bytes += read;
        done.written_bytes += written;
    }

    /// What was done since it was last asked.
    fn taken(&self) -> Cost {
        std::mem::take(&mut *self.done.lock().unwrap())
    }
}

impl Store for Counting {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.inner.read(key)?;
        self.note("read", key, found.as_ref().map_or(0, Vec::len), 0);
        Ok(found)
    }
    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.note("create", key, 0, bytes.len());
        self.inner.create(key, bytes)
    }
    fn swap(&self, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
        self.note("swap", key, 0, new.map_or(0, <[u8]>::len));
        self.inner.swap(key, old, new)
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.note("list", folder, 0, 0);
        self.inner.list(folder)
    }
    fn touch(&self, key: &str) -> Result<bool, StoreError> {
        self.note("touch", key, 0, 0);
        self.inner.touch(key)
    }
    fn location(&self) -> String {
        self.inner.location()
    }
}

/// A lake of so many tables, and what is done to its store.
fn lake(tables: usize) -> (Arc<Counting>, Catalog) {
    let store = Arc::new(Counting::default());
    let catalog = on(Arc::clone(&store) as _);
    let words: Vec<String> = (0..tables).map(|table| format!("t{table}={table}")).collect();
    let made = changes(&words.join(" "));
    catalog.commit(&branch("main"), &head(&catalog, "main"), &made, &info("Make tables"), None).unwrap();
    (store, catalog)
}

/// A service resolves `main`, then creates a branch there. The first time in a new process, after a commit, and again.
fn creates(tables: usize) -> Vec<Cost> {
    let (store, _) = lake(tables);
    let catalog = on(Arc::clone(&store) as _);
    let mut costs = Vec::new();
    let mut create = |name: &str| {
        store.taken();
        let at = head(&catalog, "main");
        catalog.create_branch(&branch(name), &at).unwrap();
        costs.push(store.taken());
    };
    create("first");
    commit(&catalog, "main", "t1=new").unwrap();
    create("after");
    create("again");
    costs
}

#[test]
fn a_new_branch_costs_the_same_in_a_large_lake() {
    let [few, many] = [creates(10), creates(10_000)];
    assert_eq!(few, many);
    // The ref, the commit where it is not known yet, its mark as young, whether a tag has the name, and the one write.
    assert_eq!(few[0].calls, ["read refs", "read objects", "touch objects", "read refs", "swap refs"]);
    assert_eq!(few[1].calls, few[0].calls);
    assert_eq!(few[2].calls, ["read refs", "touch objects", "read refs", "swap refs"]);
    assert!(few.iter().all(|cost| cost.read_bytes < 1000 && cost.written_bytes < 200), "{few:?}");
}
