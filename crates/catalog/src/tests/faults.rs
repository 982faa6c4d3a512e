//! A storage that fails, once, at any one of its operations.
//!
//! Fault model: an operation of the store reports failure, either without having done anything or, for a swap, after
//! having done it (the folder could not be synced). Whatever it hits, the catalog opens again, every acknowledged
//! commit is there, every branch's history and tree can be read to the end, and the next commit works.

use super::*;
use crate::StoreError;
use std::io::{Error as IoError, ErrorKind};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

#[derive(Clone, Copy, PartialEq, Debug)]
enum When {
    Before,
    After,
}

/// Counts operations and lets one of them fail. Also holds every ref write to the durability rule.
struct Failing {
    inner: Arc<dyn Store>,
    left: AtomicUsize,
    when: When,
}

impl Failing {
    fn step<T>(&self, what: &str, act: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let fails = self.left.fetch_sub(1, Ordering::SeqCst) == 1;
        let failure =
            || StoreError { verb: "write", place: what.into(), source: IoError::from(ErrorKind::StorageFull), unknown: false };
        match (fails, self.when) {
            (false, _) => act(),
            (true, When::Before) => Err(failure()),
            (true, When::After) => act().and_then(|_| Err(failure())),
        }
    }
}

impl Store for Failing {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.step(key, || self.inner.read(key))
    }
    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.step(key, || self.inner.create(key, bytes))
    }
    fn swap(&self, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
        if let Some(new) = new {
            all_there(self.inner.as_ref(), new);
        }
        self.step(key, || self.inner.swap(key, old, new))
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.step(folder, || self.inner.list(folder))
    }
    fn location(&self) -> String {
        self.inner.location()
    }
}

/// Everything a ref with this content leads to is in the store: commits, trees, namespaces.
fn all_there(store: &dyn Store, content: &[u8]) {
    let mut todo = hashes(content);
    while let Some(hash) = todo.pop() {
        let bytes =
            store.read(&format!("objects/{}/{hash}", &hash[..2])).unwrap().expect("an object is written before a ref names it");
        todo.extend(hashes(&bytes));
    }
}

fn hashes(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    text.split('"').filter(|part| part.parse::<CommitHash>().is_ok()).map(str::to_owned).collect()
}

/// Opens, and does a bit of everything. Acknowledged commits go to `done` at once.
fn work(store: Arc<dyn Store>, done: &Mutex<Vec<CommitHash>>) -> Result<(), Error> {
    let catalog = Catalog::with(store, Arc::new(Ticking::default()))?;
    let main = branch("main");
    let note = |hash: CommitHash| done.lock().unwrap().push(hash);
    let start = catalog.resolve(&RefSpec::Name(main.clone()))?.hash;
    note(catalog.commit(&main, &start, &changes("a=1 raw.b=1"), &info(""), None)?);
    let here = catalog.resolve(&RefSpec::Name(main.clone()))?.hash;
    catalog.create_branch(&branch("dev"), &here)?;
    let on_dev = catalog.commit(&branch("dev"), &here, &changes("a=2"), &info(""), None)?;
    note(catalog.commit(&main, &here, &changes("raw.b=2"), &info(""), None)?);
    note(catalog.merge(&on_dev, &main, &info(""), FastForward::Allowed)?.hash);
    catalog.rename_branch(&branch("dev"), &branch("old"))?;
    catalog.delete_branch(&branch("old"))?;
    Ok(())
}

fn survives(store: Arc<dyn Store>, done: &[CommitHash]) {
    let catalog = on(store);
    for found in catalog.branches().unwrap() {
        let log: Vec<CommitHash> = catalog.log(&found.hash).map(|entry| entry.unwrap().hash).collect();
        log.iter().for_each(|hash| drop(catalog.tree(hash).unwrap()));
        if found.name == "main" {
            assert!(done.iter().all(|hash| log.contains(hash)));
        }
    }
    commit(&catalog, "main", "next=1").unwrap();
}

#[test]
fn no_failing_operation_loses_a_commit() {
    for when in [When::Before, When::After] {
        for failing in 1.. {
            let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let store = Arc::new(Failing { inner: Arc::clone(&inner), left: AtomicUsize::new(failing), when });
            let done = Mutex::default();
            let outcome = work(Arc::clone(&store) as Arc<dyn Store>, &done);
            survives(inner, &done.into_inner().unwrap());
            match outcome {
                // The failure never came up: all operations were tried.
                Ok(()) if (1..=failing).contains(&store.left.load(Ordering::SeqCst)) => break,
                // A lookup for "did you mean" may fail unnoticed.
                Ok(()) => {}
                Err(error) => assert_eq!(error.report().code.to_string(), "CAT0013", "{when:?} {failing}: {error}"),
            }
        }
    }
}

/// Moves `main` by a commit of another writer right before each swap of it, so often.
struct Overtaken {
    inner: Arc<dyn Store>,
    left: AtomicUsize,
}

impl Store for Overtaken {
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read(key)
    }
    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.inner.create(key, bytes)
    }
    fn swap(&self, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
        let more = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if more && key == "refs/branches/main" {
            let other = on(Arc::clone(&self.inner));
            commit(&other, "main", &format!("other=n{}", self.left.load(Ordering::SeqCst))).unwrap();
        }
        self.inner.swap(key, old, new)
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.inner.list(folder)
    }
    fn location(&self) -> String {
        self.inner.location()
    }
}

fn overtaken(times: usize) -> Catalog {
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
    drop(on(Arc::clone(&inner)));
    on(Arc::new(Overtaken { inner, left: AtomicUsize::new(times) }))
}

#[test]
fn an_overtaken_writer_is_replayed() {
    let catalog = overtaken(20);
    let seen = head(&catalog, "main");
    catalog.commit(&branch("main"), &seen, &changes("a=1"), &info(""), None).unwrap();
    assert_eq!(show(&catalog, "main"), "a=1 other=n0");
    assert_eq!(catalog.log(&head(&catalog, "main")).count(), 22);

    let catalog = overtaken(1);
    let seen = head(&catalog, "main");
    assert_eq!(code(catalog.commit(&branch("main"), &seen, &changes("other=1"), &info(""), None)), "CAT0004");
}

#[test]
fn an_overtaken_merge_becomes_three_way() {
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let plain = on(Arc::clone(&inner));
    plain.create_branch(&branch("dev"), &head(&plain, "main")).unwrap();
    let tip = commit(&plain, "dev", "a=1").unwrap();
    let catalog = on(Arc::new(Overtaken { inner, left: AtomicUsize::new(3) }));
    assert_eq!(catalog.merge(&tip, &branch("main"), &info(""), FastForward::Allowed).unwrap().kind, crate::MergeKind::ThreeWay);
    assert_eq!(show(&catalog, "main"), "a=1 other=n0");
}

#[test]
fn endless_overtaking_ends_in_an_error() {
    let catalog = overtaken(usize::MAX);
    let seen = head(&catalog, "main");
    assert_eq!(code(catalog.commit(&branch("main"), &seen, &changes("a=1"), &info(""), None)), "CAT0016");
}

#[test]
fn a_branch_written_to_while_it_is_renamed_keeps_the_commit() {
    struct CommitsBeforeDelete(Arc<dyn Store>, AtomicUsize);
    impl Store for CommitsBeforeDelete {
        fn read(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
            self.0.read(key)
        }
        fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, StoreError> {
            self.0.create(key, bytes)
        }
        fn swap(&self, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, StoreError> {
            if new.is_none() && self.1.fetch_add(1, Ordering::SeqCst) < 2 {
                commit(&on(Arc::clone(&self.0)), "dev", &format!("late=n{}", self.1.load(Ordering::SeqCst))).unwrap();
            }
            self.0.swap(key, old, new)
        }
        fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
            self.0.list(folder)
        }
        fn location(&self) -> String {
            self.0.location()
        }
    }
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let plain = on(Arc::clone(&inner));
    plain.create_branch(&branch("dev"), &head(&plain, "main")).unwrap();
    let catalog = on(Arc::new(CommitsBeforeDelete(inner, AtomicUsize::new(0))));
    catalog.rename_branch(&branch("dev"), &branch("new")).unwrap();
    assert_eq!(show(&catalog, "new"), "late=n2");
    assert_eq!(catalog.branches().unwrap().len(), 2);
}
