//! Walks over the graph of commits: the log, where two histories meet, and steps back from a ref.
//!
//! Every commit knows its generation, which is greater than its parents'. Visiting commits by falling generation
//! therefore visits each after all of its descendants, which makes these walks simple and exact.

use crate::error::{Error, Result};
use crate::object::Commit;
use crate::objects::Objects;
use crate::refs::Forward;
use chrono::DateTime;
use forebay_types::CommitHash;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

/// Commits from newest to oldest, each before its parents. Cost: one small read per commit.
pub struct Log {
    objects: Arc<Objects>,
    queue: BinaryHeap<Next>,
    seen: HashSet<CommitHash>,
    /// An error to yield before ending.
    failed: Option<Error>,
}

impl Log {
    pub(crate) fn new(objects: Arc<Objects>, from: &CommitHash) -> Self {
        let mut log = Self { objects, queue: BinaryHeap::new(), seen: HashSet::new(), failed: None };
        log.push(from, None);
        log
    }

    fn push(&mut self, hash: &CommitHash, child: Option<&Commit>) {
        match read(&self.objects, hash, child) {
            Ok(commit) if self.seen.insert(hash.clone()) => self.queue.push(Next(commit)),
            Ok(_) => {}
            Err(error) => self.failed = Some(error),
        }
    }
}

impl Iterator for Log {
    type Item = Result<Commit>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.queue.clear();
            return Some(Err(error));
        }
        let Next(commit) = self.queue.pop()?;
        for parent in &commit.parents {
            self.push(parent, Some(&commit));
        }
        Some(Ok(Commit::clone(&commit)))
    }
}

/// How two histories relate.
pub(crate) struct Meeting {
    /// The best common ancestors: common to both, and not an ancestor of another common one. Sorted.
    pub(crate) bases: Vec<CommitHash>,
    /// A commit of a failed run that is in the source's history only.
    pub(crate) tainted: Option<Arc<Commit>>,
    /// Commits that are in one of the two histories only, newest first.
    pub(crate) apart: Vec<Arc<Commit>>,
}

const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const COMMON: u8 = SOURCE | TARGET;
/// Ancestor of a common ancestor.
const STALE: u8 = 4;

/// Finds where the histories of `source` and `target` meet.
pub(crate) fn meeting(objects: &Objects, source: &CommitHash, target: &CommitHash) -> Result<Meeting> {
    let mut marks: HashMap<CommitHash, u8> = HashMap::new();
    let mut queue = BinaryHeap::new();
    let mut fresh = 0_usize; // queued commits that are not stale
    for (hash, mark) in [(source, SOURCE), (target, TARGET)] {
        if marks.insert(hash.clone(), marks.get(hash).copied().unwrap_or(0) | mark).is_none() {
            queue.push(Next(read(objects, hash, None)?));
            fresh += 1;
        }
    }
    let mut found = Meeting { bases: Vec::new(), tainted: None, apart: Vec::new() };
    while fresh > 0 {
        let Some(Next(commit)) = queue.pop() else { break };
        let mark = marks[&commit.hash];
        fresh -= usize::from(mark & STALE == 0);
        if mark & STALE == 0 && mark == COMMON {
            found.bases.push(commit.hash.clone());
        }
        if mark == SOURCE || mark == TARGET {
            found.apart.push(Arc::clone(&commit));
        }
        if mark == SOURCE && commit.tainted.is_some() && found.tainted.is_none() {
            found.tainted = Some(Arc::clone(&commit));
        }
        let inherited = if mark & COMMON == COMMON { mark | STALE } else { mark };
        for parent in &commit.parents {
            let older = read(objects, parent, Some(&commit))?;
            let before = marks.get(parent).copied();
            let after = before.unwrap_or(0) | inherited;
            marks.insert(parent.clone(), after);
            if before.is_none() {
                queue.push(Next(older));
                fresh += usize::from(after & STALE == 0);
            } else if before.is_some_and(|before| before & STALE == 0) && after & STALE != 0 {
                fresh -= 1;
            }
        }
    }
    found.bases.sort_unstable();
    Ok(found)
}

/// Whether `ancestor` is `of` or in its history.
pub(crate) fn contains(objects: &Objects, of: &CommitHash, ancestor: &CommitHash) -> Result<bool> {
    let oldest = objects.commit(ancestor)?.generation;
    let mut seen = HashSet::from([of.clone()]);
    let mut queue = BinaryHeap::from([Next(objects.commit(of)?)]);
    while let Some(Next(commit)) = queue.pop() {
        if commit.hash == *ancestor {
            return Ok(true);
        }
        for parent in &commit.parents {
            if seen.insert(parent.clone()) {
                let older = read(objects, parent, Some(&commit))?;
                if older.generation >= oldest {
                    queue.push(Next(older));
                }
            }
        }
    }
    Ok(false)
}

/// So many first parents back; `Err` holds how many there are.
pub(crate) fn back(objects: &Objects, from: &CommitHash, steps: u32) -> Result<std::result::Result<CommitHash, u32>> {
    let mut commit = objects.commit(from)?;
    for step in 0..steps {
        let Some(parent) = commit.parents.first() else { return Ok(Err(step)) };
        commit = read(objects, parent, Some(&commit))?;
    }
    Ok(Ok(commit.hash.clone()))
}

/// The newest commit that is not younger than `millis`, going back along first parents. A fast-forward among
/// `forwards` counts with the time it happened, not with the times of the commits it brought. `None`: all are younger.
pub(crate) fn at_time(objects: &Objects, from: &CommitHash, millis: i64, forwards: &[Forward]) -> Result<Option<CommitHash>> {
    let mut commit = objects.commit(from)?;
    loop {
        // The branch came here by a jump: before that it was where the jump began.
        let jump = forwards.iter().rev().find(|forward| forward.to == commit.hash && forward.at > millis);
        if let Some(jump) = jump {
            commit = read(objects, &jump.from, Some(&commit))?;
            continue;
        }
        if self::millis(&commit.authored_at).is_some_and(|time| time <= millis) {
            return Ok(Some(commit.hash.clone()));
        }
        let Some(parent) = commit.parents.first() else { return Ok(None) };
        commit = read(objects, parent, Some(&commit))?;
    }
}

/// Milliseconds since 1970 of an RFC 3339 time.
pub(crate) fn millis(rfc3339: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(rfc3339).ok()?.timestamp_millis())
}

/// Reads a commit and checks that it is older than the child we came from: no history is a circle.
fn read(objects: &Objects, hash: &CommitHash, child: Option<&Commit>) -> Result<Arc<Commit>> {
    let commit = objects.commit(hash)?;
    if child.is_some_and(|child| child.generation <= commit.generation) {
        let key = format!("objects/{}/{hash}", &hash.as_str()[..2]);
        return Err(Error::Corrupt { key, why: "its generation is not below that of its child".to_owned() });
    }
    Ok(commit)
}

/// A commit to visit. The greatest is visited first: highest generation, then latest, then by name.
struct Next(Arc<Commit>);

impl Next {
    fn rank(&self) -> (u64, &str, &CommitHash) {
        (self.0.generation, &self.0.authored_at, &self.0.hash)
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}
impl Eq for Next {}
impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}
