//! Garbage collection: what goes, what stays, and that nothing live goes whatever others do meanwhile.

use super::*;
use crate::{Collected, LocalStore, StoreError, Sweep};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// All that refs lead to can be read, by a handle that remembers nothing.
fn is_whole(store: &Arc<dyn Store>) {
    let fresh = on(Arc::clone(store));
    for found in fresh.branches().unwrap().into_iter().chain(fresh.tags().unwrap()) {
        for entry in fresh.log(&found.hash) {
            fresh.tree(&entry.unwrap().hash).unwrap();
        }
    }
}

fn objects(store: &dyn Store) -> usize {
    store.list("objects").unwrap().iter().map(|folder| store.list(&format!("objects/{folder}")).unwrap().len()).sum()
}

#[test]
fn what_nothing_leads_to_goes() {
    let folder = tempfile::tempdir().unwrap();
    let local: Arc<dyn Store> = Arc::new(LocalStore::open(folder.path(), "format").unwrap());
    for store in [Arc::new(MemoryStore::default()) as Arc<dyn Store>, local] {
        let catalog = on(Arc::clone(&store));
        let start = commit(&catalog, "main", "a=1 x.b=1").unwrap();
        catalog.create_branch(&branch("dev"), &start).unwrap();
        catalog.create_branch(&branch("kept"), &start).unwrap();
        let lost = commit(&catalog, "dev", "a=2").unwrap();
        let tagged = commit(&catalog, "kept", "x.b=2").unwrap();
        catalog.create_tag(&branch("v1"), &tagged).unwrap();
        catalog.delete_branch(&branch("kept")).unwrap();
        assert_eq!(catalog.collect(Duration::ZERO, Sweep::Dry).unwrap().removed, 0);
        catalog.delete_branch(&branch("dev")).unwrap();
        let before = objects(store.as_ref());
        let expected = Collected { removed: 3, kept: before - 3 }; // a commit, a tree, a namespace
        assert_eq!(catalog.collect(HOUR, Sweep::Remove).unwrap(), Collected { removed: 0, kept: before });
        assert_eq!(catalog.collect(Duration::ZERO, Sweep::Dry).unwrap(), expected);
        assert_eq!(objects(store.as_ref()), before);
        assert_eq!(catalog.collect(Duration::ZERO, Sweep::Remove).unwrap(), expected);
        assert_eq!(objects(store.as_ref()), before - 3);
        is_whole(&store);
        assert_eq!(code(catalog.create_branch(&branch("again"), &lost)), "CAT0001");
        assert_eq!(code(catalog.merge(&lost, &branch("main"), &info(""), FastForward::Allowed)), "CAT0001");
        assert_eq!(show(&catalog, "v1"), "x/ a=1 x.b=2");
        commit(&catalog, "main", "a=2").unwrap();
        assert_eq!(show(&catalog, "main"), "x/ a=2 x.b=1", "what was collected can be made again");
    }
}

#[test]
fn a_store_without_collection_says_so() {
    let store = Collecting { inner: Arc::default(), calls: AtomicUsize::new(0), at: 0..0, busy: AtomicBool::new(false) };
    assert_eq!(code(on(Arc::new(store)).collect(Duration::ZERO, Sweep::Remove)), "CAT0026");
}

#[test]
fn a_damaged_lake_is_left_alone() {
    let store = Arc::new(MemoryStore::default());
    let catalog = on(Arc::clone(&store) as Arc<dyn Store>);
    let first = commit(&catalog, "main", "a=1").unwrap();
    commit(&catalog, "main", "a=2").unwrap();
    store.remove(&format!("objects/{}/{first}", &first.as_str()[..2])).unwrap();
    let before = objects(store.as_ref());
    let fresh = on(Arc::clone(&store) as Arc<dyn Store>);
    assert_eq!(code(fresh.collect(Duration::ZERO, Sweep::Remove)), "CAT0010");
    assert_eq!(objects(store.as_ref()), before);
}

/// Collects before the `at`-th call of a writer, or before each, as another process would.
struct Collecting {
    inner: Arc<MemoryStore>,
    calls: AtomicUsize,
    at: std::ops::Range<usize>,
    /// Collecting is a writer's call neither.
    busy: AtomicBool,
}

impl Collecting {
    fn call(&self) {
        if self.busy.load(Ordering::SeqCst) || !self.at.contains(&self.calls.fetch_add(1, Ordering::SeqCst)) {
            return;
        }
        self.busy.store(true, Ordering::SeqCst);
        on(Arc::clone(&self.inner) as Arc<dyn Store>).collect(HOUR, Sweep::Remove).unwrap();
        self.busy.store(false, Ordering::SeqCst);
    }
}

impl Store for Collecting {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.call();
        self.inner.read(key)
    }
    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.call();
        self.inner.create(key, bytes)
    }
    fn swap(&self, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
        self.call();
        self.inner.swap(key, old, new)
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.call();
        self.inner.list(folder)
    }
    fn touch(&self, key: &str) -> Result<bool, StoreError> {
        self.call();
        self.inner.touch(key)
    }
    fn location(&self) -> String {
        self.inner.location()
    }
}

/// A lake in which everything is old, and some of it hangs on nothing: the commits `lost` and `fork`.
fn aged() -> (Arc<MemoryStore>, [CommitHash; 2]) {
    let store = Arc::new(MemoryStore::default());
    let catalog = on(Arc::clone(&store) as Arc<dyn Store>);
    let start = commit(&catalog, "main", "a=1 x.b=1").unwrap();
    for name in ["one", "two"] {
        catalog.create_branch(&branch(name), &start).unwrap();
    }
    let lost = commit(&catalog, "one", "a=2").unwrap();
    let fork = commit(&catalog, "two", "x.b=2").unwrap();
    commit(&catalog, "main", "c=1").unwrap();
    catalog.delete_branch(&branch("one")).unwrap();
    catalog.delete_branch(&branch("two")).unwrap();
    store.age(2 * 3_600_000);
    (store, [lost, fork])
}

#[test]
fn nothing_a_writer_is_about_to_name_goes() {
    // The second writer makes the very trees and namespaces that hang on nothing; the others take up lost commits.
    let works: [fn(&Catalog, &[CommitHash; 2]) -> Result<(), Error>; 4] = [
        |catalog, [lost, _]| catalog.create_branch(&branch("again"), lost).map(drop),
        |catalog, _| {
            commit(catalog, "main", "-c")?;
            commit(catalog, "main", "a=2")?;
            commit(catalog, "main", "a=1 x.b=2").map(drop)
        },
        |catalog, [_, fork]| catalog.merge(fork, &branch("main"), &info(""), FastForward::Allowed).map(drop),
        |catalog, [lost, fork]| {
            catalog.create_tag(&branch("v1"), lost)?;
            catalog.revert_tables(&branch("main"), &[table("x.b")].into(), fork, crate::Replace::Allowed, &info(""))?;
            catalog.revert_commit(&branch("main"), &head(catalog, "main"), &info("")).map(drop)
        },
    ];
    for (number, work) in works.iter().enumerate() {
        for at in 0..=60 {
            let (inner, commits) = aged();
            let range = if at == 60 { 0..usize::MAX } else { at..at + 1 };
            let collecting =
                Collecting { inner: Arc::clone(&inner), calls: AtomicUsize::new(0), at: range, busy: AtomicBool::new(false) };
            let catalog = on(Arc::new(collecting));
            if let Err(error) = work(&catalog, &commits) {
                let code = error.report().code.to_string();
                assert!(["CAT0001", "CAT0010"].contains(&code.as_str()), "work {number}, {at}: {}", error.report());
            }
            is_whole(&(inner as Arc<dyn Store>));
        }
    }
}
