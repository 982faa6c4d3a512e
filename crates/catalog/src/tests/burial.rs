//! Collections in an object store: a collector comes before each single call of a writer, and takes away the files of all tables
//! that it was not told to leave. Whatever a writer names in the end, its files are there.

use super::*;
use crate::{BucketStore, Sweep};
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as CallError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

type Outcome<T> = Result<T, CallError>;

/// Objects with times that can be changed, and what was deleted.
#[derive(Debug, Default)]
struct World {
    objects: InMemory,
    times: Mutex<BTreeMap<Path, chrono::DateTime<chrono::Utc>>>,
    /// Tables whose files are gone.
    deleted: Mutex<BTreeSet<String>>,
    /// Tables that were there from the beginning: those made later are young.
    old: Mutex<BTreeSet<String>>,
}

/// One client's way to it. Before its calls in `at`, a collector works.
#[derive(Debug)]
struct Way {
    world: Arc<World>,
    calls: AtomicUsize,
    at: std::ops::Range<usize>,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "world")
    }
}

impl Way {
    fn to(world: &Arc<World>, at: std::ops::Range<usize>) -> Catalog {
        let way = Self { world: Arc::clone(world), calls: AtomicUsize::new(0), at };
        on(Arc::new(BucketStore::new(Arc::new(way), "lake").unwrap()))
    }

    /// What comes before a call. On a thread of its own, as everything here blocks.
    fn before(&self) {
        if self.at.contains(&self.calls.fetch_add(1, Ordering::SeqCst)) {
            let world = Arc::clone(&self.world);
            std::thread::spawn(move || world.collect()).join().unwrap();
        }
    }
}

impl World {
    fn collect(self: Arc<Self>) {
        let (found, live) = Way::to(&self, 0..0).collect_and_list(HOUR, Sweep::Remove).unwrap();
        assert_eq!(found.removed, 0);
        let old = self.old.lock().unwrap().clone();
        let gone: Vec<String> =
            old.into_iter().filter(|one| !live.tables.contains(one) && !live.doubtful.contains(one)).collect();
        self.deleted.lock().unwrap().extend(gone);
    }

    fn age(&self) {
        self.times.lock().unwrap().values_mut().for_each(|time| *time -= 2 * HOUR);
    }

    /// Every table of every ref has its files.
    fn is_whole(self: &Arc<Self>) {
        let catalog = Way::to(self, 0..0);
        let deleted = self.deleted.lock().unwrap();
        for found in catalog.branches().unwrap().into_iter().chain(catalog.tags().unwrap()) {
            for (table, entry) in catalog.tree(&found.hash).unwrap().tables {
                assert!(!deleted.contains(&entry.metadata_location), "{table} of {} lost its files", found.name);
            }
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Way {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Outcome<PutResult> {
        self.before();
        let put = self.world.objects.put_opts(path, payload, options).await?;
        self.world.times.lock().unwrap().insert(path.clone(), chrono::Utc::now());
        Ok(put)
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Outcome<GetResult> {
        self.before();
        self.world.objects.get_opts(path, options).await
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Outcome<ListResult> {
        self.before();
        self.world.objects.list_with_delimiter(prefix).await
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Outcome<ObjectMeta>> {
        self.before();
        let times = self.world.times.lock().unwrap().clone();
        let timed = move |meta: Outcome<ObjectMeta>| meta.map(|meta| ObjectMeta { last_modified: times[&meta.location], ..meta });
        self.world.objects.list(prefix).map(timed).boxed()
    }
    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Outcome<Box<dyn MultipartUpload>> {
        unreachable!("objects of the catalog are put in one piece")
    }
    fn delete_stream(&self, _: BoxStream<'static, Outcome<Path>>) -> BoxStream<'static, Outcome<Path>> {
        unreachable!("nothing is deleted")
    }
    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Outcome<()> {
        unreachable!("nothing is copied")
    }
}

/// A lake in which everything is old. The commits `lost` and `fork` hang on nothing, `held` on a branch.
fn aged() -> (Arc<World>, [CommitHash; 3]) {
    let world = Arc::new(World::default());
    let catalog = Way::to(&world, 0..0);
    let start = commit(&catalog, "main", "a=1 x.b=1").unwrap();
    let made = [("one", "a=lost"), ("two", "x.b=fork"), ("three", "a=held")].map(|(name, edits)| {
        catalog.create_branch(&branch(name), &start).unwrap();
        commit(&catalog, name, edits).unwrap()
    });
    commit(&catalog, "main", "c=1").unwrap();
    catalog.delete_branch(&branch("one")).unwrap();
    catalog.delete_branch(&branch("two")).unwrap();
    world.age();
    *world.old.lock().unwrap() = ["1", "lost", "fork", "held"].map(str::to_owned).into();
    (world, made)
}

#[test]
fn what_is_lost_goes_and_cannot_be_named_again() {
    let (world, [lost, fork, held]) = aged();
    Arc::clone(&world).collect();
    assert_eq!(*world.deleted.lock().unwrap(), ["lost", "fork"].map(str::to_owned).into());
    let catalog = Way::to(&world, 0..0);
    assert_eq!(code(catalog.create_branch(&branch("again"), &lost)), "CAT0001");
    assert_eq!(code(catalog.merge(&fork, &branch("main"), &info(""), FastForward::Allowed)), "CAT0001");
    let tables = [table("x.b")].into();
    assert_eq!(code(catalog.revert_tables(&branch("main"), &tables, &fork, crate::Replace::Allowed, &info(""))), "CAT0001");
    catalog.create_branch(&branch("again"), &held).unwrap();
    // Asking for it has not brought it back.
    let (_, live) = catalog.collect_and_list(HOUR, Sweep::Remove).unwrap();
    assert!(!live.tables.contains("lost") && !live.tables.contains("fork") && live.tables.contains("held"), "{live:?}");
    // Whoever looks only takes nothing away.
    let (world, [lost, ..]) = aged();
    let catalog = Way::to(&world, 0..0);
    let (_, live) = catalog.collect_and_list(HOUR, Sweep::Dry).unwrap();
    assert_eq!(live.tables, ["1", "held"].map(str::to_owned).into());
    catalog.create_branch(&branch("again"), &lost).unwrap();
}

#[test]
fn nothing_a_writer_is_about_to_name_goes() {
    let works: [fn(&Catalog, &Arc<World>, &[CommitHash; 3]) -> Result<(), Error>; 5] = [
        |catalog, _, [lost, ..]| catalog.create_branch(&branch("again"), lost).map(drop),
        |catalog, _, [_, fork, _]| catalog.merge(fork, &branch("main"), &info(""), FastForward::Allowed).map(drop),
        |catalog, _, [lost, fork, _]| {
            catalog.create_tag(&branch("v1"), lost)?;
            let tables = [table("x.b")].into();
            catalog.revert_tables(&branch("main"), &tables, fork, crate::Replace::Allowed, &info("")).map(drop)
        },
        // Found by a branch that another deletes meanwhile.
        |catalog, world, _| {
            let found = catalog.resolve(&"three".parse().unwrap())?;
            Way::to(world, 0..0).delete_branch(&branch("three"))?;
            catalog.create_branch(&branch("again"), &found.hash).map(drop)
        },
        |catalog, _, _| {
            catalog.rename_branch(&branch("three"), &branch("four"))?;
            catalog.rename_branch(&branch("four"), &branch("five"))?;
            commit(catalog, "five", "c=2").map(drop)
        },
    ];
    for (number, work) in works.iter().enumerate() {
        for at in 0..=60 {
            let (world, commits) = aged();
            let catalog = Way::to(&world, if at == 60 { 0..usize::MAX } else { at..at + 1 });
            if let Err(error) = work(&catalog, &world, &commits) {
                assert!(number < 3 && error.report().code.0 == "CAT0001", "work {number}, {at}: {}", error.report());
            }
            world.is_whole();
            Arc::clone(&world).collect();
            world.is_whole();
        }
    }
}
