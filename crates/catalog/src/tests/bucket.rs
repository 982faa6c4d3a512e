//! An object store that fails, loses answers, repeats and delays, at any one of its calls.
//!
//! Fault model: a call (a) fails and was not done, (b) is done and its answer is lost, (c) is done twice, (d) gets no
//! answer and is done later, just before another call. Whichever call it hits, the work of a client goes on as if
//! nothing had been, and leaves the same lake: no commit is lost, half done or done twice. If every call fails, the
//! client is told so, and nothing that was acknowledged is lost.

use super::*;
use crate::BucketStore;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as CallError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    Before,
    Lost,
    Twice,
    Late,
}

type Put = (Path, PutPayload, PutOptions);

/// Does something wrong at the `at`-th call, and at the `also`-th.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    calls: AtomicUsize,
    at: std::ops::Range<usize>,
    fault: Fault,
    late: Mutex<Option<(usize, Put)>>,
}

impl Faulty {
    fn new(inner: Arc<dyn ObjectStore>, at: std::ops::Range<usize>, fault: Fault) -> Self {
        Self { inner, calls: AtomicUsize::new(0), at, fault, late: Mutex::default() }
    }

    /// Whether this call is the one. A late put is done here, three calls after its own.
    async fn is_hit(&self) -> bool {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let due = {
            let mut late = self.late.lock().unwrap();
            if late.as_ref().is_some_and(|(from, _)| call >= from + 3) { late.take() } else { None }
        };
        if let Some((_, (path, payload, options))) = due {
            let _ = self.inner.put_opts(&path, payload, options).await;
        }
        self.at.contains(&call)
    }

    fn failure() -> CallError {
        CallError::Generic { store: "faulty", source: "the connection broke".into() }
    }
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faulty:/")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult, CallError> {
        if !self.is_hit().await {
            return self.inner.put_opts(path, payload, options).await;
        }
        match self.fault {
            Fault::Before => {}
            Fault::Lost => drop(self.inner.put_opts(path, payload, options).await),
            Fault::Twice => {
                let first = self.inner.put_opts(path, payload.clone(), options.clone()).await;
                let _ = self.inner.put_opts(path, payload, options).await;
                return first;
            }
            Fault::Late => {
                let call = self.calls.load(Ordering::SeqCst);
                *self.late.lock().unwrap() = Some((call, (path.clone(), payload, options)));
            }
        }
        Err(Self::failure())
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult, CallError> {
        let hit = self.is_hit().await && self.fault != Fault::Twice;
        if hit { Err(Self::failure()) } else { self.inner.get_opts(path, options).await }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult, CallError> {
        let hit = self.is_hit().await && self.fault != Fault::Twice;
        if hit { Err(Self::failure()) } else { self.inner.list_with_delimiter(prefix).await }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>, CallError> {
        unreachable!("objects of the catalog are put in one piece")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path, CallError>>) -> BoxStream<'static, Result<Path, CallError>> {
        unreachable!("nothing is deleted without a condition")
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta, CallError>> {
        unreachable!("only collections look at everything")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<(), CallError> {
        unreachable!("nothing is copied")
    }
}

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(object_store::memory::InMemory::new())
}

fn lake(inner: Arc<dyn ObjectStore>) -> Result<Catalog, Error> {
    let store = BucketStore::new(inner, "warehouse/catalog").unwrap();
    Catalog::with(Arc::new(store), Arc::new(Ticking::default()))
}

/// A bit of everything. Acknowledged commits go to `done` at once.
fn work(inner: Arc<dyn ObjectStore>, done: &Mutex<Vec<CommitHash>>) -> Result<(), Error> {
    let catalog = lake(inner)?;
    let (main, dev) = (branch("main"), branch("dev"));
    let note = |hash: CommitHash| {
        done.lock().unwrap().push(hash.clone());
        hash
    };
    let start = catalog.resolve(&RefSpec::Name(main.clone()))?.hash;
    let first = note(catalog.commit(&main, &start, &changes("a=1 raw.b=1"), &info("1"), None)?);
    catalog.create_branch(&dev, &first)?;
    let on_dev = catalog.commit(&dev, &first, &changes("a=2"), &info("2"), None)?;
    note(catalog.commit(&main, &start, &changes("raw.c=2"), &info("3"), None)?);
    note(catalog.merge(&on_dev, &main, &info("4"), FastForward::Allowed)?.hash);
    note(catalog.revert_commit(&main, &on_dev, &info("5"))?);
    catalog.protect_branch(&dev, true)?;
    catalog.protect_branch(&dev, false)?;
    catalog.create_tag(&branch("v1"), &on_dev)?;
    catalog.rename_branch(&dev, &branch("old"))?;
    catalog.delete_branch(&branch("old"))?;
    assert_eq!(catalog.branches()?.len(), 1);
    Ok(())
}

/// The lake as another client finds it.
fn found(inner: Arc<dyn ObjectStore>, done: &[CommitHash]) -> (Vec<String>, String) {
    let catalog = lake(inner).unwrap();
    let log: Vec<_> = catalog.log(&head(&catalog, "main")).map(Result::unwrap).collect();
    for hash in done {
        assert!(log.iter().any(|commit| commit.hash == *hash), "an acknowledged commit is lost");
    }
    for commit in &log {
        catalog.tree(&commit.hash).unwrap();
    }
    let refs = catalog.branches().unwrap().into_iter().chain(catalog.tags().unwrap()).map(|found| found.name);
    let messages = log.into_iter().map(|commit| commit.message);
    let text = show(&catalog, "main");
    self::commit(&catalog, "main", "next=1").unwrap();
    (refs.chain(messages).collect(), text)
}

#[test]
fn no_single_fault_is_noticed() {
    let plain = memory();
    let done = Mutex::default();
    work(Arc::clone(&plain), &done).unwrap();
    let expected = found(plain, &done.into_inner().unwrap());
    assert_eq!(expected.0, ["main", "v1", "5", "4", "3", "2", "1", "Create the lake"]);
    for fault in [Fault::Before, Fault::Lost, Fault::Twice, Fault::Late] {
        for at in 0.. {
            let inner = memory();
            let faulty = Arc::new(Faulty::new(Arc::clone(&inner), at..at + 1, fault));
            let done = Mutex::default();
            let outcome = work(Arc::clone(&faulty) as Arc<dyn ObjectStore>, &done);
            outcome.unwrap_or_else(|error| panic!("{fault:?} at {at}: {}", error.report()));
            assert_eq!(found(inner, &done.into_inner().unwrap()), expected, "{fault:?} at {at}");
            if faulty.calls.load(Ordering::SeqCst) <= at {
                assert!(at > 30, "{at} calls");
                break;
            }
        }
    }
}

#[test]
fn a_store_that_went_away_is_told_and_loses_nothing() {
    for fault in [Fault::Before, Fault::Lost] {
        for at in 0.. {
            let inner = memory();
            let faulty = Arc::new(Faulty::new(Arc::clone(&inner), at..usize::MAX, fault));
            let done = Mutex::default();
            let outcome = work(Arc::clone(&faulty) as Arc<dyn ObjectStore>, &done);
            found(inner, &done.into_inner().unwrap());
            match outcome {
                Ok(()) => break,
                Err(error) => {
                    let code = error.report().code.to_string();
                    assert!(["CAT0012", "CAT0025"].contains(&code.as_str()), "{fault:?} {at}: {code}");
                }
            }
        }
    }
}

/// A commit whose answer was lost, and upon which another writer built before it could look.
#[test]
fn a_lost_commit_is_found_below_another_writers() {
    for at in 0..60 {
        let inner = memory();
        let plain = lake(Arc::clone(&inner)).unwrap();
        commit(&plain, "main", "a=1").unwrap();
        let faulty = Arc::new(Faulty::new(Arc::clone(&inner), at..at + 2, Fault::Lost));
        let Ok(catalog) = lake(Arc::clone(&faulty) as Arc<dyn ObjectStore>) else { continue };
        let Ok(seen) = catalog.resolve(&"main".parse().unwrap()) else { continue };
        let made = catalog.commit(&branch("main"), &seen.hash, &changes("b=1"), &info("ours"), None).unwrap();
        commit(&plain, "main", "c=1").unwrap();
        let log: Vec<_> = plain.log(&head(&plain, "main")).map(Result::unwrap).collect();
        assert_eq!(log.iter().filter(|entry| entry.message == "ours").count(), 1);
        assert!(log.iter().any(|entry| entry.hash == made));
    }
}

#[test]
fn deleted_names_can_be_used_again() {
    let catalog = lake(memory()).unwrap();
    for _ in 0..3 {
        catalog.create_branch(&branch("dev"), &head(&catalog, "main")).unwrap();
        assert_eq!(code(catalog.create_branch(&branch("dev"), &head(&catalog, "main"))), "CAT0003");
        commit(&catalog, "dev", &format!("a=n{}", catalog.log(&head(&catalog, "dev")).count())).unwrap();
        catalog.delete_branch(&branch("dev")).unwrap();
        assert_eq!(code(catalog.resolve(&"dev".parse().unwrap())), "CAT0001");
        assert_eq!(catalog.branches().unwrap().len(), 1);
    }
}

#[test]
fn writers_in_one_bucket_lose_nothing() {
    const WRITERS: usize = 4;
    const COMMITS: usize = 8;
    let inner = memory();
    let open = || lake(Arc::clone(&inner)).unwrap();
    open();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let catalog = open();
            scope.spawn(move || {
                let seen = head(&catalog, "main");
                for n in 0..COMMITS {
                    let text = format!("w{writer}_{n}=1");
                    catalog.commit(&branch("main"), &seen, &changes(&text), &info(&text), None).unwrap();
                }
            });
        }
    });
    let catalog = open();
    assert_eq!(catalog.tree(&head(&catalog, "main")).unwrap().tables.len(), WRITERS * COMMITS);
    assert_eq!(catalog.log(&head(&catalog, "main")).count(), 1 + WRITERS * COMMITS);
}

/// A store that writes whatever the condition.
#[derive(Debug)]
struct Careless(Arc<dyn ObjectStore>, Vec<&'static str>);

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "careless")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult, CallError> {
        let ignored = match &options.mode {
            object_store::PutMode::Create => self.1.contains(&"create"),
            object_store::PutMode::Update(_) => self.1.contains(&"update"),
            object_store::PutMode::Overwrite => false,
        };
        if ignored {
            options.mode = object_store::PutMode::Overwrite;
        }
        self.0.put_opts(path, payload, options).await
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult, CallError> {
        self.0.get_opts(path, options).await
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult, CallError> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>, CallError> {
        unreachable!("objects of the catalog are put in one piece")
    }
    fn delete_stream(&self, _: BoxStream<'static, Result<Path, CallError>>) -> BoxStream<'static, Result<Path, CallError>> {
        unreachable!("nothing is deleted")
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta, CallError>> {
        self.0.list(prefix)
    }
    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<(), CallError> {
        unreachable!("nothing is copied")
    }
}

#[test]
fn a_store_that_does_not_compare_is_refused() {
    for ignored in [vec!["create"], vec!["update"], vec!["create", "update"]] {
        let inner = memory();
        assert_eq!(code(lake(Arc::new(Careless(Arc::clone(&inner), ignored.clone())))), "CAT0027", "{ignored:?}");
        drop(lake(Arc::clone(&inner)).unwrap());
        assert_eq!(code(lake(Arc::new(Careless(inner, ignored)))), "CAT0027", "also where a lake is");
    }
    lake(Arc::new(Careless(memory(), vec![]))).unwrap();
}
