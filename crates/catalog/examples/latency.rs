//! How long the catalog's operations take, in process: `bench/catalog.py` starts this and reads its lines.
//!
//! ```text
//! latency <folder | slow:<ms> | s3://bucket/prefix> <tables> <branches> <writers> <rounds>
//! ```
//!
//! A folder is a local lake, made anew; `slow:20` is an object store in memory that takes 20 ms for each call; a bucket is
//! reached as the variables `AWS_…` say. Each writer does all operations on branches and a table of its own, so many times.
//! One JSON object per operation.

use async_trait::async_trait;
use forebay_catalog::{BucketStore, Catalog, Changes, CommitInfo, FastForward, SystemClock, TableEntry};
use forebay_types::{BranchName, CommitHash, TableName};
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An object store that is far away.
#[derive(Debug)]
struct Slow {
    inner: object_store::memory::InMemory,
    call: Duration,
}

impl Slow {
    /// The way there and back.
    async fn travel(&self) {
        let _ = tokio::time::timeout(self.call, std::future::pending::<()>()).await;
    }
}

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slow")
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult, Error> {
        self.travel().await;
        self.inner.put_opts(path, payload, options).await
    }
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult, Error> {
        self.travel().await;
        self.inner.get_opts(path, options).await
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult, Error> {
        self.travel().await;
        self.inner.list_with_delimiter(prefix).await
    }
    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>, Error> {
        self.inner.put_multipart_opts(path, options).await
    }
    fn delete_stream(&self, paths: BoxStream<'static, Result<Path, Error>>) -> BoxStream<'static, Result<Path, Error>> {
        self.inner.delete_stream(paths)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta, Error>> {
        self.inner.list(prefix)
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<(), Error> {
        self.inner.copy_opts(from, to, options).await
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn open(place: &str) -> Result<Catalog, Failure> {
    if let Some(rest) = place.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').ok_or("a bucket and a prefix")?;
        let retry = object_store::RetryConfig { max_retries: 0, ..object_store::RetryConfig::default() };
        let builder = object_store::aws::AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
        let store = builder.with_allow_http(true).build()?;
        return Ok(Catalog::with(Arc::new(BucketStore::new(Arc::new(store), prefix)?), Arc::new(SystemClock))?);
    }
    let Some(ms) = place.strip_prefix("slow:") else { return Ok(Catalog::open(std::path::Path::new(place))?) };
    let slow = Slow { inner: object_store::memory::InMemory::new(), call: Duration::from_millis(ms.parse()?) };
    Ok(Catalog::with(Arc::new(BucketStore::new(Arc::new(slow), "lake")?), Arc::new(SystemClock))?)
}

fn put(name: &str, value: usize) -> Result<Changes, Failure> {
    let table = TableName::parse(name, "default")?;
    let location = format!("file:///lake/tables/default/{name}-00000000-0000-0000-0000-{value:012}/metadata/v1.metadata.json");
    Ok(Changes { put: [(table, TableEntry::new(location))].into(), ..Changes::default() })
}

/// Times of one writer, by operation.
type Times = BTreeMap<&'static str, Vec<Duration>>;

struct Stopwatch(Times);

impl Stopwatch {
    fn of<T>(&mut self, name: &'static str, work: impl FnOnce() -> Result<T, forebay_catalog::Error>) -> Result<T, Failure> {
        let start = Instant::now();
        let made = work()?;
        self.0.entry(name).or_default().push(start.elapsed());
        Ok(made)
    }
}

/// Every operation once per round, one kind after the other: what a commit of 10,000 tables leaves the disk to do would count for the
/// next branch. `main` is left as it was.
fn write(catalog: &Catalog, writer: usize, rounds: usize, main: &CommitHash) -> Result<Times, Failure> {
    let mut watch = Stopwatch(Times::new());
    let info = CommitInfo { author_name: "bench".into(), message: "bench".into(), ..CommitInfo::default() };
    let branches = |round| -> Result<[BranchName; 2], Failure> {
        Ok([format!("w{writer}.ours.{round}").parse()?, format!("w{writer}.theirs.{round}").parse()?])
    };
    let spec = "main".parse()?;
    for round in 0..rounds {
        let [ours, theirs] = branches(round)?;
        watch.of("create", || catalog.resolve(&spec).and_then(|found| catalog.create_branch(&ours, &found.hash)))?;
        catalog.create_branch(&theirs, main)?;
    }
    for round in 0..rounds {
        let [ours, theirs] = branches(round)?;
        let [a, b] = [put(&format!("w{writer}_a"), round)?, put(&format!("w{writer}_b"), round)?];
        let left = watch.of("commit", || catalog.commit(&ours, main, &a, &info, None))?;
        let right = catalog.commit(&theirs, main, &b, &info, None)?;
        watch.of("diff", || catalog.differences(&left, &right))?;
        watch.of("merge", || catalog.merge(&right, &ours, &info, FastForward::Allowed))?;
    }
    for round in 0..rounds {
        let [ours, theirs] = branches(round)?;
        watch.of("delete", || catalog.delete_branch(&ours))?;
        catalog.delete_branch(&theirs)?;
    }
    Ok(watch.0)
}

fn milliseconds(times: &[Duration], share: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few rounds")]
    let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
    times[index].as_secs_f64() * 1e3
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [place, numbers @ ..] = arguments.as_slice() else { return Err("see the head of the source".into()) };
    let numbers: Vec<usize> = numbers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let [tables, branches, writers, rounds] = numbers[..] else { return Err("see the head of the source".into()) };
    let catalog = open(place)?;
    let info = CommitInfo::default();
    let mut all = Changes::default();
    for n in 0..tables {
        all.put.extend(put(&format!("t{n}"), n)?.put);
    }
    let main: BranchName = "main".parse()?;
    let head = catalog.commit(&main, &catalog.resolve(&"main".parse()?)?.hash, &all, &info, None)?;
    for n in 0..branches {
        catalog.create_branch(&format!("b{n}").parse()?, &head)?;
    }
    let times = Mutex::new(Times::new());
    std::thread::scope(|scope| {
        let start = |writer| {
            let (catalog, head, times) = (&catalog, &head, &times);
            scope.spawn(move || -> Result<(), Failure> {
                let mine = write(catalog, writer, rounds, head)?;
                let mut all = times.lock().map_err(|_| "a writer panicked")?;
                mine.into_iter().for_each(|(name, mut times)| all.entry(name).or_default().append(&mut times));
                Ok(())
            })
        };
        let threads: Vec<_> = (0..writers).map(start).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a writer panicked")?)
    })?;
    for (name, mut times) in times.into_inner()? {
        times.sort_unstable();
        let (p50, p95) = (milliseconds(&times, 0.5), milliseconds(&times, 0.95));
        let line = serde_json::json!({ "op": name, "n": times.len(), "p50_ms": p50, "p95_ms": p95 });
        std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes())?;
    }
    Ok(())
}
