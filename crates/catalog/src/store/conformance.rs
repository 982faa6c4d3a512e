//! What every [`Store`] must do. An implementation is one that passes this suite.

use super::{LocalStore, MemoryStore, Store};
use std::sync::Arc;

fn check(store: &Arc<dyn Store>) {
    values_come_back_whole(store.as_ref());
    create_never_replaces(store.as_ref());
    swap_compares(store.as_ref());
    lists_are_sorted_and_shallow(store.as_ref());
    one_of_many_swaps_wins(store);
    one_of_many_creators_wins(store);
    counting_loses_nothing(store);
}

fn values_come_back_whole(store: &dyn Store) {
    assert_eq!(store.read("a/none").unwrap(), None);
    for (key, length) in [("a/empty", 0), ("a/one", 1), ("a/long", 3_000_000)] {
        let value: Vec<u8> = (0..length).map(|i: u32| i.to_le_bytes()[1]).collect();
        assert!(store.create(key, &value).unwrap());
        assert_eq!(store.read(key).unwrap().as_deref(), Some(value.as_slice()));
    }
}

fn create_never_replaces(store: &dyn Store) {
    assert!(store.create("b/x", b"first").unwrap());
    assert!(!store.create("b/x", b"second").unwrap());
    assert_eq!(store.read("b/x").unwrap().unwrap(), b"first");
}

fn swap_compares(store: &dyn Store) {
    assert!(!store.swap("c/größe", Some(b"1"), Some(b"2")).unwrap());
    assert!(!store.swap("c/größe", Some(b"1"), None).unwrap());
    assert!(store.swap("c/größe", None, None).unwrap(), "nothing is what was expected");
    assert!(store.swap("c/größe", None, Some(b"1")).unwrap());
    assert!(!store.swap("c/größe", None, Some(b"2")).unwrap());
    assert!(store.swap("c/größe", Some(b"1"), Some(b"2")).unwrap());
    assert!(!store.swap("c/größe", Some(b"1"), None).unwrap());
    assert_eq!(store.read("c/größe").unwrap().unwrap(), b"2");
    assert!(store.swap("c/größe", Some(b"2"), None).unwrap());
    assert_eq!(store.read("c/größe").unwrap(), None);
}

fn lists_are_sorted_and_shallow(store: &dyn Store) {
    for key in ["d/b", "d/a", "d/sub/c", "d.x"] {
        store.create(key, b"").unwrap();
    }
    assert_eq!(store.list("d").unwrap(), ["a", "b", "sub"]);
    assert_eq!(store.list("d/sub").unwrap(), ["c"]);
    assert!(store.list("nothing/here").unwrap().is_empty());
    // What was deleted is not listed.
    assert!(store.swap("d/a", Some(b""), None).unwrap());
    assert_eq!(store.list("d").unwrap(), ["b", "sub"]);
    let keys = ["d/b", "d/a", "d/none", "d/sub/c"].map(str::to_owned);
    assert_eq!(store.read_all(&keys).unwrap(), [Some(vec![]), None, None, Some(vec![])]);
}

const WRITERS: u8 = 8;

fn winners(store: &Arc<dyn Store>, act: impl Fn(&dyn Store, &[u8]) -> bool + Sync) -> Vec<u8> {
    let act = &act;
    std::thread::scope(|scope| {
        let spawn = |writer: u8| scope.spawn(move || act(store.as_ref(), &[writer]).then_some(writer));
        let threads: Vec<_> = (0..WRITERS).map(spawn).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    })
}

fn one_of_many_swaps_wins(store: &Arc<dyn Store>) {
    store.create("e/x", b"start").unwrap();
    let winners = winners(store, |store, value| store.swap("e/x", Some(b"start"), Some(value)).unwrap());
    assert_eq!(winners.len(), 1);
    assert_eq!(store.read("e/x").unwrap().unwrap(), winners);
}

fn one_of_many_creators_wins(store: &Arc<dyn Store>) {
    let winners = winners(store, |store, value| store.create("f/x", value).unwrap());
    assert_eq!(winners.len(), 1);
    assert_eq!(store.read("f/x").unwrap().unwrap(), winners);
}

fn counting_loses_nothing(store: &Arc<dyn Store>) {
    const EACH: u32 = 20;
    store.create("g/n", &0_u32.to_le_bytes()).unwrap();
    let increment = |store: &dyn Store, _: &[u8]| {
        for _ in 0..EACH {
            loop {
                let old = store.read("g/n").unwrap().unwrap();
                let new = u32::from_le_bytes(old.clone().try_into().unwrap()) + 1;
                if store.swap("g/n", Some(&old), Some(&new.to_le_bytes())).unwrap() {
                    break;
                }
            }
        }
        true
    };
    winners(store, increment);
    assert_eq!(store.read("g/n").unwrap().unwrap(), (EACH * u32::from(WRITERS)).to_le_bytes());
}

#[test]
fn memory_conforms() {
    check(&(Arc::new(MemoryStore::default()) as Arc<dyn Store>));
}

#[test]
fn bucket_conforms() {
    let inner = Arc::new(object_store::memory::InMemory::new());
    check(&(Arc::new(super::BucketStore::new(inner, "some/lake").unwrap()) as Arc<dyn Store>));
}

#[test]
fn local_conforms() {
    let folder = tempfile::tempdir().unwrap();
    check(&(Arc::new(LocalStore::open(&folder.path().join("deep/er"), "format").unwrap()) as Arc<dyn Store>));
}

#[test]
fn two_local_stores_in_one_folder_conform() {
    // Two handles share nothing in memory, as two processes would.
    struct Alternating(Vec<LocalStore>, std::sync::atomic::AtomicUsize);
    impl Alternating {
        fn next(&self) -> &LocalStore {
            &self.0[self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.0.len()]
        }
    }
    impl Store for Alternating {
        fn read(&self, key: &str) -> Result<Option<Vec<u8>>, super::StoreError> {
            self.next().read(key)
        }
        fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, super::StoreError> {
            self.next().create(key, bytes)
        }
        fn swap(&self, key: &str, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<bool, super::StoreError> {
            self.next().swap(key, old, new)
        }
        fn list(&self, folder: &str) -> Result<Vec<String>, super::StoreError> {
            self.next().list(folder)
        }
        fn location(&self) -> String {
            self.next().location()
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let open = || LocalStore::open(folder.path(), "format").unwrap();
    let first = open();
    first.create("format", b"").unwrap();
    check(&(Arc::new(Alternating(vec![first, open()], Default::default())) as Arc<dyn Store>));
    let leftovers = std::fs::read_dir(folder.path().join("tmp")).unwrap().count();
    assert_eq!(leftovers, 0);
}
